package server

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/audit"
)

type deleteDomainReq struct {
	ref     libvirtrpc.Ref
	given   bool // there were options
	flags   libvirtrpc.UndefineFlags
	destroy bool
}

// destroyFirst is the option that is no flag of libvirt's.
const destroyFirst = "destroy"

var deleteOptions = []option[libvirtrpc.UndefineFlags]{
	{"checkpoints_metadata", "also what libvirt knows of its checkpoints", libvirtrpc.UndefineCheckpointsMetadata},
	{destroyFirst, "stop it first, if it is active", 0},
	{"keep_nvram", "but not its NVRAM file", libvirtrpc.UndefineKeepNVRAM},
	{"keep_tpm", "but not the state of its TPM", libvirtrpc.UndefineKeepTPM},
	{"managed_save", "also its managed save image", libvirtrpc.UndefineManagedSave},
	{"nvram", "also its NVRAM file", libvirtrpc.UndefineNVRAM},
	{"snapshots_metadata", "also what libvirt knows of its snapshots", libvirtrpc.UndefineSnapshotsMetadata},
	{"tpm", "also the state of its TPM", libvirtrpc.UndefineTPM},
}

func (r *deleteDomainReq) params() []param {
	return []param{options("options", "what to do besides removing the definition", deleteOptions, func(o option[libvirtrpc.UndefineFlags]) {
		r.given = true
		r.flags |= o.value
		r.destroy = r.destroy || o.word == destroyFirst
	})}
}

func (r *deleteDomainReq) decode(in *request) (err error) {
	for _, pair := range [][2]libvirtrpc.UndefineFlags{
		{libvirtrpc.UndefineNVRAM, libvirtrpc.UndefineKeepNVRAM},
		{libvirtrpc.UndefineTPM, libvirtrpc.UndefineKeepTPM},
	} {
		if r.flags&pair[0] != 0 && r.flags&pair[1] != 0 {
			return badParam("options", "both to keep and to remove the same thing")
		}
	}
	if r.ref, err = in.ref(); err != nil {
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
	if !d.Active() {
		d.Persistent = true // what was off is defined, whatever it became since
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
		if e := s.stop(ctx, d.UUID); e != nil {
			return nil, e
		}
	}
	res := &envelope.Response{Results: []json.RawMessage{envelope.Raw(deleted{true, d.UUID.String(), d.Name})}}
	if d.Persistent {
		if err := s.libvirt.Undefine(ctx, d.UUID, r.flags); err != nil {
			e := s.deleteError(ctx, d.UUID, r, err)
			if d.Active() {
				e.Message += "; the domain was stopped"
			}
			return nil, e
		}
		// One that was started meanwhile lost its definition and lives on.
		now, err := s.libvirt.Lookup(ctx, libvirtrpc.ByUUID(d.UUID))
		switch {
		case err == nil && now.Active():
			e := envelope.New(envelope.AlreadyActive, "")
			if r.destroy {
				e = s.stop(ctx, d.UUID)
			}
			if e != nil {
				e.Message += "; it was started meanwhile and runs on, without a definition"
				return nil, e
			}
		case err != nil && libvirtrpc.KindOf(err) != libvirtrpc.NotFound:
			res.Messages = append(res.Messages, "whether it was started meanwhile could not be found out")
		}
	}
	return res, nil
}

// deleted is the result of a removal.
type deleted struct {
	Deleted bool   `json:"deleted" about:"true"`
	UUID    string `json:"uuid" about:"of what was removed"`
	Name    string `json:"name" about:"of what was removed"`
}

// stop destroys a domain. One that stopped by itself meanwhile is what was
// wanted.
func (s *Server) stop(ctx context.Context, u libvirtrpc.UUID) *envelope.Error {
	err := s.libvirt.Destroy(ctx, u, false)
	if err == nil {
		return nil
	}
	var lv *libvirtrpc.Error
	if errors.As(err, &lv) && lv.OutcomeUnknown { // it may yet come, and hit what is started then
		return libvirtError(err, envelope.DestroyFailed)
	}
	now, lerr := s.libvirt.Lookup(ctx, libvirtrpc.ByUUID(u))
	if libvirtrpc.KindOf(lerr) == libvirtrpc.NotFound || lerr == nil && !now.Active() {
		return nil
	}
	return libvirtError(err, envelope.DestroyFailed)
}

// deleteError names the option that libvirt refused for want of.
func (s *Server) deleteError(ctx context.Context, u libvirtrpc.UUID, r deleteDomainReq, err error) *envelope.Error {
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
