package server

import (
	"context"
	"encoding/json"

	"virtgate/envelope"
)

type versionReq struct{ noParams }

func (versionReq) decode(*request) error { return nil }

// version is the result of the request of that name.
type version struct {
	Version           string `json:"version" about:"of this server"`
	Libvirt           string `json:"libvirt" about:"of the libvirt daemon"`
	Hypervisor        string `json:"hypervisor" about:"libvirt's name of the hypervisor: QEMU, TEST …"`
	HypervisorVersion string `json:"hypervisor_version"`
}

func (s *Server) version(ctx context.Context, _ versionReq) (*envelope.Response, error) {
	v, err := s.libvirt.Version(ctx)
	if err != nil {
		return nil, err
	}
	return &envelope.Response{Results: []json.RawMessage{
		envelope.Raw(version{s.opts.Version, v.Libvirt, v.Hypervisor, v.HypervisorVersion}),
	}}, nil
}
