package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/audit"
	"virtgate/server/openapi"
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
	// remove is the request that the reference prints under DELETE: a PATCH
	// without a body, with options.
	remove deleteDomainReq
}

func (r *patchDomainReq) params() []param { return r.remove.params() }

func (r *patchDomainReq) decode(in *request) (err error) {
	if r.ref, err = in.ref(); err != nil {
		return err
	}
	body, err := in.body()
	if err != nil {
		return err
	}
	if r.remove.given && len(body) == 0 {
		return r.remove.decode(in)
	}
	if r.remove.given {
		return badParam("options", "they go without a body, and delete the domain")
	}
	list, array, err := items(body, maxActions)
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
	if r.remove.given {
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
	if r.remove.given {
		r.remove.record(e)
	}
	for _, a := range r.actions {
		e.Actions = append(e.Actions, a.message.Action)
	}
}

func (r *patchDomainReq) body() openapi.Media {
	index := openapi.Number(32, 0)
	depends := openapi.Either(index, openapi.List(index)).Named("Depends", "Places, from 0, of earlier actions that must have succeeded.")
	var kinds []*openapi.Schema
	for _, k := range actions {
		kinds = append(kinds, openapi.Object(openapi.Map[*openapi.Schema]{
			{Key: k.name, Value: k.schema()},
			{Key: "depends", Value: depends},
		}, k.name).Named(openapi.TypeName(k.name)+"Action", k.about))
	}
	one := openapi.Either(kinds...).Named("Action", "One thing to do to a domain.")
	return openapi.Media{
		Schema:  openapi.Either(one, openapi.List(one).Between(1, maxActions)).Named("Actions", "One action or several."),
		Example: json.RawMessage(`[{"memory":"1GiB"},{"power_mgt":{"request":"start","type":["paused"]},"depends":0}]`),
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
		i := slices.IndexFunc(actions, func(k actionKind) bool { return k.name == name })
		if i < 0 {
			return a, envelope.New(envelope.UnknownAction, printable(name)+"; there are "+actionNames())
		}
		k := &actions[i]
		depends := a.depends
		var err error
		if a, err = k.read(value); err != nil {
			return a, err
		}
		a.depends, a.permission = depends, k.permission
		if a.message.Action == "" {
			a.message.Action, a.code = k.name, k.failed
		}
	}
	return a, nil
}

func decodeDepends(raw json.RawMessage, index int) ([]int, error) {
	var list []*int // nil: null
	if err := json.Unmarshal(raw, &list); err != nil || list == nil {
		list = make([]*int, 1)
		if json.Unmarshal(raw, &list[0]) != nil {
			list[0] = nil
		}
	}
	var out []int
	for _, d := range list {
		switch {
		case d == nil:
			return nil, envelope.New(envelope.BadAction, "depends is an index or an array of indices")
		case *d < 0 || *d >= index:
			return nil, envelope.New(envelope.BadAction, fmt.Sprintf("depends on %d, which is not an earlier action", *d))
		}
		out = append(out, *d)
	}
	return out, nil
}

// actionKind is one key of a PATCH.
type actionKind struct {
	name, about string
	permission  string
	// failed is the code when libvirt refuses for its own reasons; others are
	// those of a bad value, or when the state of things is the reason.
	failed envelope.Code
	others []envelope.Code
	schema func() *openapi.Schema // of the value
	read   func(json.RawMessage) (action, error)
}

var actions = []actionKind{
	{name: "power_mgt", about: "What to do with its power.", permission: "domains:power",
		others: powerCodes(), schema: powerSchema, read: decodePower},
	{name: "name", about: "A new name. The domain has to be off.", permission: "domains:update",
		failed: envelope.RenameFailed, others: []envelope.Code{envelope.BadIdentifier, envelope.Exists},
		schema: nameSchema, read: decodeRename},
	{name: "memory", about: "Memory of the running domain, or of the definition when it is off.", permission: "domains:update",
		failed: envelope.MemoryFailed, schema: kib(0).Schema, read: memoryAction("Memory set", (*libvirtrpc.Client).SetMemory)},
	{name: "max_memory", about: "Memory that it can be given. The domain has to be off.", permission: "domains:update",
		failed: envelope.MaxMemoryFailed, schema: kib(0).Schema, read: memoryAction("Maximum memory set", (*libvirtrpc.Client).SetMaxMemory)},
	{name: "autostart", about: "Whether it starts with its host.", permission: "domains:update",
		failed: envelope.AutostartFailed, schema: openapi.Truth, read: decodeAutostart},
}

func actionNames() string {
	var out []string
	for _, k := range actions {
		out = append(out, k.name)
	}
	return strings.Join(out, ", ")
}

// actionCodes are the codes that actions fail with.
func actionCodes() []envelope.Code {
	out := []envelope.Code{envelope.BadPatch, envelope.BadAction, envelope.UnknownAction, envelope.Skipped}
	for _, k := range actions {
		if k.failed != 0 {
			out = append(out, k.failed)
		}
		out = append(out, k.others...)
	}
	return out
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
		message: envelope.Done{Text: "Domain renamed"},
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
			return c.Rename(ctx, u, *name)
		},
		conflict: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) (envelope.Code, bool) {
			other, err := c.Lookup(ctx, libvirtrpc.ByName(*name))
			return envelope.Exists, err == nil && other.UUID != u
		},
	}, nil
}

func memoryAction(done string, set func(*libvirtrpc.Client, context.Context, libvirtrpc.UUID, uint64) error) func(json.RawMessage) (action, error) {
	return func(raw json.RawMessage) (action, error) {
		var amount kib
		if err := amount.UnmarshalJSON(raw); err != nil {
			return action{}, envelope.New(envelope.BadAction, err.Error())
		}
		return action{
			message: envelope.Done{Text: done},
			do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
				return set(c, ctx, u, uint64(amount))
			},
		}, nil
	}
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
		message: envelope.Done{Text: text},
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
			return c.SetAutostart(ctx, u, *on)
		},
	}, nil
}

// patchDomain runs the actions in their order. Later ones run even when an
// earlier one failed, unless they depend on it.
func (s *Server) patchDomain(ctx context.Context, r patchDomainReq) (*envelope.Response, error) {
	if r.remove.given {
		return s.deleteDomain(ctx, r.remove)
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
