package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/openapi"
)

// power is one request of power_mgt.
type power struct {
	name, text string // the text is what is said on success
	code       envelope.Code
	flags      []option[uint32]
	do         func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error
	conflict   conflict
}

// conflict is how the domain's state explains a refusal.
type conflict struct {
	codes []envelope.Code // all that find returns
	// find is the code of the refusal; false when the state is not the reason.
	find func(active bool, s libvirtrpc.State) (envelope.Code, bool)
}

// needsActive is the conflict of requests that only make sense for an active
// domain; idle is the code when it is not.
func needsActive(idle envelope.Code) conflict {
	return conflict{[]envelope.Code{idle, envelope.NotRunning}, func(active bool, s libvirtrpc.State) (envelope.Code, bool) {
		if !active {
			return idle, true
		}
		return envelope.NotRunning, s != libvirtrpc.Running && s != libvirtrpc.Blocked
	}}
}

var shutdownFlags = []option[uint32]{
	{"acpi_power_btn", "press the ACPI power button", uint32(libvirtrpc.ShutdownACPI)},
	{"guest_agent", "ask the guest agent", uint32(libvirtrpc.ShutdownAgent)},
	{"initctl", "through initctl, in a container", uint32(libvirtrpc.ShutdownInitctl)},
	{"paravirt", "the hypervisor's own way", uint32(libvirtrpc.ShutdownParavirt)},
	{"signal", "send a signal to init, in a container", uint32(libvirtrpc.ShutdownSignal)},
}

// autodestroy is known so that it can be refused with its reason.
const autodestroy = "autodestroy"

const graceful = 1

var powers = []power{
	{
		name: "destroy", text: "Domain destroyed", code: envelope.DestroyFailed,
		flags: []option[uint32]{{"graceful", "fail rather than kill a hypervisor that does not end", graceful}},
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Destroy(ctx, u, flags&graceful != 0)
		},
		conflict: conflict{[]envelope.Code{envelope.NotActive}, func(active bool, _ libvirtrpc.State) (envelope.Code, bool) {
			return envelope.NotActive, !active
		}},
	},
	{
		name: "reboot", text: "Domain is being rebooted", code: envelope.RebootFailed, flags: shutdownFlags,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Reboot(ctx, u, libvirtrpc.ShutdownFlags(flags))
		},
		conflict: needsActive(envelope.NotActive),
	},
	{
		name: "reset", text: "Domain was reset", code: envelope.ResetFailed,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, _ uint32) error {
			return c.Reset(ctx, u)
		},
		conflict: needsActive(envelope.NotActive),
	},
	{
		name: "resume", text: "Domain resumed", code: envelope.ResumeFailed,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, _ uint32) error {
			return c.Resume(ctx, u)
		},
		conflict: conflict{[]envelope.Code{envelope.NotSuspended}, func(_ bool, s libvirtrpc.State) (envelope.Code, bool) {
			return envelope.NotSuspended, s != libvirtrpc.Paused
		}},
	},
	{
		name: "shutdown", text: "Domain is being shutdown", code: envelope.ShutdownFailed, flags: shutdownFlags,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Shutdown(ctx, u, libvirtrpc.ShutdownFlags(flags))
		},
		conflict: needsActive(envelope.NotRunning),
	},
	{
		name: "start", text: "Domain started", code: envelope.StartFailed,
		flags: []option[uint32]{
			{"bypass_cache", "read a managed save image past the host's cache", uint32(libvirtrpc.StartBypassCache)},
			{"force_boot", "boot, and discard a managed save image", uint32(libvirtrpc.StartForceBoot)},
			{"paused", "paused", uint32(libvirtrpc.StartPaused)},
			{"validate", "check the definition against libvirt's schema", uint32(libvirtrpc.StartValidate)},
		},
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Start(ctx, u, libvirtrpc.StartFlags(flags))
		},
		conflict: conflict{[]envelope.Code{envelope.AlreadyActive}, func(active bool, _ libvirtrpc.State) (envelope.Code, bool) {
			return envelope.AlreadyActive, active
		}},
	},
	{
		name: "suspend", text: "Domain suspended", code: envelope.SuspendFailed,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, _ uint32) error {
			return c.Suspend(ctx, u)
		},
		conflict: needsActive(envelope.NotActive),
	},
}

func powerNames() []string {
	var out []string
	for _, p := range powers {
		out = append(out, p.name)
	}
	return out
}

// powerCodes are the codes that power_mgt fails with.
func powerCodes() []envelope.Code {
	out := []envelope.Code{envelope.BadPowerValue, envelope.BadPowerFlag}
	for _, p := range powers {
		out = append(append(out, p.code), p.conflict.codes...)
	}
	return out
}

// decodePower reads the value of power_mgt: the name of a request, or
// {"request": name, "type": flag or [flags]}.
func decodePower(raw json.RawMessage) (action, error) {
	var value struct {
		Request *string         `json:"request"`
		Type    json.RawMessage `json:"type"`
	}
	bad := func(why string) (action, error) {
		return action{}, envelope.New(envelope.BadPowerValue, why)
	}
	switch raw[0] {
	case '"':
		value.Request = new(string)
		if err := json.Unmarshal(raw, value.Request); err != nil {
			return bad("")
		}
	case '{':
		if err := strict(raw, &value); err != nil {
			return bad(err.Error())
		}
	}
	if value.Request == nil {
		return bad(`want a request, or {"request": a request, "type": flags}`)
	}
	name := strings.ToLower(*value.Request)
	i := slices.IndexFunc(powers, func(p power) bool { return p.name == name })
	if i < 0 {
		return bad("no request " + printable(*value.Request) + "; there are " + strings.Join(powerNames(), ", "))
	}
	p := &powers[i]
	words, err := flagWords(value.Type)
	if err != nil {
		return action{}, err
	}
	a := action{
		message: envelope.Done{Action: name, Text: p.text},
		code:    p.code,
		conflict: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) (envelope.Code, bool) {
			state, _, err := c.GetState(ctx, u)
			if err != nil {
				return 0, false
			}
			active := state != libvirtrpc.Shutoff && state != libvirtrpc.Crashed && state != libvirtrpc.NoState
			return p.conflict.find(active, state)
		},
	}
	var flags uint32
	var ignored []string
	for _, w := range words {
		flag, mine := findOption(p.flags, w)
		switch {
		case w == autodestroy && p.name == "start":
			return action{}, envelope.New(envelope.BadPowerFlag,
				"autodestroy is refused: it ties the domain to a connection of this server, which is replaced whenever it has to be")
		case mine:
			flags |= flag.value
		case knownFlag(w):
			ignored = append(ignored, w)
		default:
			return action{}, envelope.New(envelope.BadPowerFlag, "no flag "+printable(w)+" for "+name+"; "+p.known())
		}
	}
	if ignored != nil {
		a.note = fmt.Sprintf("ignored for %s: %s", name, strings.Join(ignored, ", "))
	}
	a.do = func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) error {
		return p.do(ctx, c, u, flags)
	}
	return a, nil
}

func (p *power) known() string {
	if len(p.flags) == 0 {
		return "it has none"
	}
	return "there are " + strings.Join(optionWords(p.flags), ", ")
}

// knownFlag tells whether the flag belongs to any request.
func knownFlag(word string) bool {
	return word == autodestroy || slices.Contains(powerFlags(), word)
}

// powerFlags are the flags of all requests.
func powerFlags() []string {
	var out []string
	for _, p := range powers {
		for _, f := range p.flags {
			if !slices.Contains(out, f.word) {
				out = append(out, f.word)
			}
		}
	}
	slices.Sort(out)
	return out
}

// flagWords are the flags of a power request in lower case: a string, possibly
// comma-joined, or an array of such.
func flagWords(raw json.RawMessage) ([]string, error) {
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var list []*string // nil: null
	if raw[0] == '"' {
		list = make([]*string, 1)
		if err := json.Unmarshal(raw, &list[0]); err != nil {
			return nil, envelope.New(envelope.BadPowerFlag, "")
		}
	} else if err := json.Unmarshal(raw, &list); err != nil || slices.Contains(list, nil) {
		return nil, envelope.New(envelope.BadPowerFlag, "type is a flag or an array of flags")
	}
	var out []string
	for _, joined := range list {
		for _, w := range strings.FieldsFunc(*joined, func(r rune) bool { return r == ',' || r == '|' }) {
			if w = strings.ToLower(strings.TrimSpace(w)); w != "" && !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	return out, nil
}

// powerSchema is what decodePower reads, in the spelling that the lists above
// have; any letter case and comma-joined flags are taken as well.
func powerSchema() *openapi.Schema {
	flag := openapi.OneWord(powerFlags()...).Named("PowerFlag", "A flag that belongs to another request is ignored, and a message says so. In any letter case.")
	for _, p := range powers {
		if len(p.flags) > 0 {
			flag.Description += "\n\nOf `" + p.name + "`:\n" + optionTable(p.flags)
		}
	}
	request := openapi.OneWord(powerNames()...).Named("PowerRequest", "In any letter case.")
	with := openapi.Object(openapi.Map[*openapi.Schema]{
		{Key: "request", Value: request},
		{Key: "type", Value: openapi.Either(flag, openapi.List(flag)).Named("PowerFlags", "One flag or several.")},
	}, "request").Named("PowerRequestWithFlags", "A request with flags.")
	return openapi.Either(request, with).Named("Power", "What to do with its power.")
}
