package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"virtgate/audit"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
)

type deleteDomainReq struct {
	ref     libvirtrpc.Ref
	flags   libvirtrpc.UndefineFlags
	destroy bool
}

var deleteOptions = map[string]libvirtrpc.UndefineFlags{
	"managed_save":         libvirtrpc.UndefineManagedSave,
	"snapshots_metadata":   libvirtrpc.UndefineSnapshotsMetadata,
	"checkpoints_metadata": libvirtrpc.UndefineCheckpointsMetadata,
	"nvram":                libvirtrpc.UndefineNVRAM,
	"keep_nvram":           libvirtrpc.UndefineKeepNVRAM,
	"tpm":                  libvirtrpc.UndefineTPM,
	"keep_tpm":             libvirtrpc.UndefineKeepTPM,
	"destroy":              0,
}

func (r *deleteDomainReq) decode(in *request) (err error) {
	for _, o := range in.query.list("options") {
		flag, ok := deleteOptions[strings.ToLower(o)]
		if !ok {
			in.query.fail("options", "no option "+printable(o)+"; there are "+names(deleteOptions))
		}
		r.flags |= flag
		r.destroy = r.destroy || strings.EqualFold(o, "destroy")
	}
	for _, pair := range [][2]libvirtrpc.UndefineFlags{
		{libvirtrpc.UndefineNVRAM, libvirtrpc.UndefineKeepNVRAM},
		{libvirtrpc.UndefineTPM, libvirtrpc.UndefineKeepTPM},
	} {
		if r.flags&pair[0] != 0 && r.flags&pair[1] != 0 {
			in.query.fail("options", "both to keep and to remove the same thing")
		}
	}
	if r.ref, err = in.domain(); err != nil {
		return err
	}
	body, err := in.body()
	if err == nil && len(body) > 0 {
		err = envelope.New(envelope.BadRequest, "DELETE takes options in the query, not a body")
	}
	return err
}

func (r *deleteDomainReq) record(e *audit.Entry) {
	e.Actions = []string{"delete"}
	if r.destroy {
		e.Actions = []string{"destroy", "delete"}
	}
}

// deleteDomain removes a definition. An active domain is stopped first, but
// only when the request says so.
func (s *Server) deleteDomain(ctx context.Context, r deleteDomainReq) (*envelope.Response, error) {
	ctx, cancel := s.finish(ctx)
	defer cancel()
	d, err := s.libvirt.GetDomain(ctx, r.ref, libvirtrpc.FieldPersistent)
	if err != nil {
		return nil, err
	}
	recordObject(ctx, 0, d.Name, d.UUID)
	if d.Active() && !r.destroy {
		e := envelope.New(envelope.AlreadyActive, "")
		e.Message += "; options=destroy stops it first"
		return nil, e
	}
	if d.Active() && d.Persistent {
		// Nothing is stopped for a removal that is going to be refused.
		want, err := s.missingOptions(ctx, d.UUID, r)
		if err != nil {
			return nil, err
		}
		if want != "" {
			return nil, needsOptions(envelope.New(envelope.DeleteFailed, ""), want)
		}
	}
	if d.Active() {
		if err := s.libvirt.Destroy(ctx, d.UUID, false); err != nil {
			// It may have stopped by itself meanwhile, which is what was wanted.
			now, lerr := s.libvirt.Lookup(ctx, libvirtrpc.ByUUID(d.UUID))
			gone := libvirtrpc.KindOf(lerr) == libvirtrpc.NotFound
			if !gone && (lerr != nil || now.Active()) {
				return nil, libvirtError(err, envelope.DestroyFailed)
			}
		}
	}
	if d.Persistent {
		if err := s.libvirt.Undefine(ctx, d.UUID, r.flags); err != nil {
			return nil, s.deleteError(ctx, d.UUID, r, err)
		}
	}
	return &envelope.Response{Results: []json.RawMessage{envelope.Raw(struct {
		Deleted bool   `json:"deleted"`
		UUID    string `json:"uuid"`
		Name    string `json:"name"`
	}{true, d.UUID.String(), d.Name})}}, nil
}

// deleteError names the option that libvirt refused for want of.
func (s *Server) deleteError(ctx context.Context, u libvirtrpc.UUID, r deleteDomainReq, err error) error {
	e := libvirtError(err, envelope.DeleteFailed)
	switch libvirtrpc.KindOf(err) {
	case libvirtrpc.Failed, libvirtrpc.Conflict, libvirtrpc.Invalid:
	default:
		return e
	}
	if want, err := s.missingOptions(ctx, u, r); err == nil && want != "" {
		return needsOptions(e, want)
	}
	return e
}

func needsOptions(e *envelope.Error, want string) *envelope.Error {
	e.Message += ": it needs options=" + want
	e.Status = http.StatusConflict
	return e
}

// missingOptions are the options that libvirt wants for what the domain has
// beside its definition, found by looking; "" when all are given.
func (s *Server) missingOptions(ctx context.Context, u libvirtrpc.UUID, r deleteDomainReq) (string, error) {
	has, err := s.libvirt.Leftovers(ctx, u)
	if err != nil {
		return "", err
	}
	var want []string
	need := func(there bool, given libvirtrpc.UndefineFlags, option string) {
		if there && r.flags&given == 0 {
			want = append(want, option)
		}
	}
	need(has.ManagedSave, libvirtrpc.UndefineManagedSave, "managed_save")
	need(has.Snapshots, libvirtrpc.UndefineSnapshotsMetadata, "snapshots_metadata")
	need(has.Checkpoints, libvirtrpc.UndefineCheckpointsMetadata, "checkpoints_metadata")
	need(has.NVRAM, libvirtrpc.UndefineNVRAM|libvirtrpc.UndefineKeepNVRAM, "nvram or keep_nvram")
	return strings.Join(want, ", "), nil
}
