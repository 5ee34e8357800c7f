package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"virtgate/audit"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
)

// action is one thing to do to a domain, decoded and checked.
type action struct {
	message envelope.Done // what is said when it succeeded
	note    string        // what is said besides
	code    envelope.Code // what is said when libvirt refused for its own reasons
	// permission is what the caller needs for it.
	permission string
	// depends are the places of earlier actions that must have succeeded.
	depends []int
	do      func(context.Context, *libvirtrpc.Client, libvirtrpc.UUID) error
	// conflict looks for the reason of a refusal in the state of things; false
	// when it is not there. Nil: there is nothing to look for.
	conflict func(context.Context, *libvirtrpc.Client, libvirtrpc.UUID) (envelope.Code, bool)
}

type patchDomainReq struct {
	ref     libvirtrpc.Ref
	actions []action
	array   bool
	// remove is set for the request that the reference prints under DELETE: a
	// PATCH without a body, with options.
	remove *deleteDomainReq
}

func (r *patchDomainReq) decode(in *request) (err error) {
	if r.ref, err = in.domain(); err != nil {
		return err
	}
	body, err := in.body()
	if err != nil {
		return err
	}
	if _, ok := in.query.values["options"]; ok && len(body) == 0 {
		r.remove = new(deleteDomainReq)
		return r.remove.decode(in)
	}
	list, array, err := items(body)
	if err != nil {
		return err
	}
	r.array = array
	if len(list) == 0 {
		return envelope.New(envelope.BadPatch, "the array is empty")
	}
	if len(list) > maxActions {
		return envelope.New(envelope.BadPatch, fmt.Sprintf("at most %d actions", maxActions))
	}
	for i, raw := range list {
		a, err := decodeAction(raw, i)
		if err != nil {
			var e *envelope.Error
			if errors.As(err, &e) && array {
				return e.At(i)
			}
			return err
		}
		r.actions = append(r.actions, a)
	}
	return nil
}

// maxActions bounds one PATCH; the whole has one request's time.
const maxActions = 64

func (r *patchDomainReq) needs() []string {
	if r.remove != nil {
		return []string{"domains:delete"}
	}
	var out []string
	for _, a := range r.actions {
		if !slices.Contains(out, a.permission) {
			out = append(out, a.permission)
		}
	}
	return out
}

func (r *patchDomainReq) record(e *audit.Entry) {
	if r.remove != nil {
		r.remove.record(e)
	}
	for _, a := range r.actions {
		e.Actions = append(e.Actions, a.message.Action)
	}
}

// decodeAction reads {"<action>": value} or {"<action>": value, "depends": …}.
func decodeAction(raw json.RawMessage, index int) (action, error) {
	var a action
	if len(raw) == 0 || raw[0] != '{' {
		return a, envelope.New(envelope.BadPatch, "")
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(raw, &object); err != nil {
		return a, envelope.New(envelope.Syntax, err.Error())
	}
	depends, ok := object["depends"]
	delete(object, "depends")
	if ok {
		var err error
		if a.depends, err = decodeDepends(depends, index); err != nil {
			return a, err
		}
	}
	if len(object) != 1 {
		return a, envelope.New(envelope.BadAction, fmt.Sprintf("an object has exactly one action, this one has %d", len(object)))
	}
	for name, value := range object {
		read, ok := actions[name]
		if !ok {
			return a, envelope.New(envelope.UnknownAction, printable(name)+"; there are "+strings.Join(actionNames, ", "))
		}
		depends := a.depends
		var err error
		if a, err = read(value); err != nil {
			return a, err
		}
		a.depends = depends
	}
	return a, nil
}

func decodeDepends(raw json.RawMessage, index int) ([]int, error) {
	var list []int
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		var one *int
		if json.Unmarshal(raw, &one) != nil || one == nil {
			return nil, envelope.New(envelope.BadAction, "depends is an index or an array of indices")
		}
		list = []int{*one}
	}
	for _, d := range list {
		if d < 0 || d >= index {
			return nil, envelope.New(envelope.BadAction, fmt.Sprintf("depends on %d, which is not an earlier action", d))
		}
	}
	return list, nil
}

var actionNames = []string{"power_mgt", "name", "memory", "max_memory", "autostart"}

// actions are the keys of a PATCH, each with what reads its value.
var actions = map[string]func(json.RawMessage) (action, error){
	"power_mgt":  decodePower,
	"name":       decodeRename,
	"memory":     decodeMemory,
	"max_memory": decodeMaxMemory,
	"autostart":  decodeAutostart,
}

func decodeRename(raw json.RawMessage) (action, error) {
	var name *string
	if json.Unmarshal(raw, &name) != nil || name == nil {
		return action{}, envelope.New(envelope.BadAction, "name is a string")
	}
	if err := checkName(*name); err != nil {
		return action{}, envelope.New(envelope.BadIdentifier, err.Error())
	}
	return action{
		message:    envelope.Done{Action: "name", Text: "Domain renamed"},
		code:       envelope.RenameFailed,
		permission: "domains:update",
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
			return c.Rename(ctx, u, *name)
		},
		conflict: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) (envelope.Code, bool) {
			other, err := c.Lookup(ctx, libvirtrpc.ByName(*name))
			return envelope.Exists, err == nil && other.UUID != u
		},
	}, nil
}

func decodeMemory(raw json.RawMessage) (action, error) {
	kib, err := decodeKiB(raw)
	return action{
		message:    envelope.Done{Action: "memory", Text: "Memory set"},
		code:       envelope.MemoryFailed,
		permission: "domains:update",
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
			return c.SetMemory(ctx, u, kib)
		},
	}, err
}

func decodeMaxMemory(raw json.RawMessage) (action, error) {
	kib, err := decodeKiB(raw)
	return action{
		message:    envelope.Done{Action: "max_memory", Text: "Maximum memory set"},
		code:       envelope.MaxMemoryFailed,
		permission: "domains:update",
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
			return c.SetMaxMemory(ctx, u, kib)
		},
	}, err
}

func decodeKiB(raw json.RawMessage) (uint64, error) {
	kib, err := parseKiB(raw)
	if err == nil && kib == 0 {
		err = errors.New("memory is more than nothing")
	}
	if err != nil {
		return 0, envelope.New(envelope.BadAction, err.Error())
	}
	return kib, nil
}

func decodeAutostart(raw json.RawMessage) (action, error) {
	var on *bool
	if json.Unmarshal(raw, &on) != nil || on == nil {
		return action{}, envelope.New(envelope.BadAction, "autostart is true or false")
	}
	text := "Autostart disabled"
	if *on {
		text = "Autostart enabled"
	}
	return action{
		message:    envelope.Done{Action: "autostart", Text: text},
		code:       envelope.AutostartFailed,
		permission: "domains:update",
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
			return c.SetAutostart(ctx, u, *on)
		},
	}, nil
}

// patchDomain runs the actions in their order. Later ones run even when an
// earlier one failed, unless they depend on it.
func (s *Server) patchDomain(ctx context.Context, r patchDomainReq) (*envelope.Response, error) {
	if r.remove != nil {
		return s.deleteDomain(ctx, *r.remove)
	}
	ctx, cancel := s.finish(ctx)
	defer cancel()
	found, err := s.libvirt.Lookup(ctx, r.ref)
	if err != nil {
		return nil, err
	}
	recordObject(ctx, 0, found.Name, found.UUID)
	res := &envelope.Response{}
	succeeded := make([]bool, len(r.actions))
	for i, a := range r.actions {
		var e *envelope.Error
		if slices.ContainsFunc(a.depends, func(d int) bool { return !succeeded[d] }) {
			e = envelope.New(envelope.Skipped, "")
		} else if err := a.do(ctx, s.libvirt, found.UUID); err != nil {
			e = s.actionError(ctx, a, found.UUID, err)
		}
		if e != nil {
			if r.array {
				e = e.At(i)
			}
			res.Errors = append(res.Errors, e)
			continue
		}
		succeeded[i] = true
		res.Messages = append(res.Messages, a.message)
		if a.note != "" {
			res.Messages = append(res.Messages, a.note)
		}
	}
	return res, nil
}

// actionError is the error of an action that libvirt refused. The test driver
// and QEMU give the same mistake different codes, so whether the domain's state
// is the reason is found by looking.
func (s *Server) actionError(ctx context.Context, a action, u libvirtrpc.UUID, err error) *envelope.Error {
	e := libvirtError(err, a.code)
	switch libvirtrpc.KindOf(err) {
	case libvirtrpc.Failed, libvirtrpc.Conflict, libvirtrpc.Invalid:
	default:
		return e
	}
	if a.conflict == nil {
		return e
	}
	code, ok := a.conflict(ctx, s.libvirt, u)
	if !ok {
		return e
	}
	because := envelope.New(code, "")
	because.Libvirt, because.LibvirtCode = e.Libvirt, e.LibvirtCode
	return because
}
