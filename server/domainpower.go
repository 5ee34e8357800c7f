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
)

// power is one request of power_mgt.
type power struct {
	text  string // on success
	code  envelope.Code
	flags map[string]uint32
	do    func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error
	// conflict is the code of a refusal that the domain's state explains; false
	// when it does not.
	conflict func(active bool, s libvirtrpc.State) (envelope.Code, bool)
}

var shutdownFlags = map[string]uint32{
	"acpi_power_btn": uint32(libvirtrpc.ShutdownACPI),
	"guest_agent":    uint32(libvirtrpc.ShutdownAgent),
	"initctl":        uint32(libvirtrpc.ShutdownInitctl),
	"signal":         uint32(libvirtrpc.ShutdownSignal),
	"paravirt":       uint32(libvirtrpc.ShutdownParavirt),
}

// autodestroy is known so that it can be refused with its reason.
const autodestroy = "autodestroy"

const graceful = 1

// needsActive is the conflict of requests that only make sense for an active
// domain; idle is the code when it is not.
func needsActive(idle envelope.Code) func(bool, libvirtrpc.State) (envelope.Code, bool) {
	return func(active bool, s libvirtrpc.State) (envelope.Code, bool) {
		if !active {
			return idle, true
		}
		return envelope.NotRunning, s != libvirtrpc.Running && s != libvirtrpc.Blocked
	}
}

var powers = map[string]power{
	"start": {
		text: "Domain started", code: envelope.StartFailed,
		flags: map[string]uint32{
			"paused":       uint32(libvirtrpc.StartPaused),
			"bypass_cache": uint32(libvirtrpc.StartBypassCache),
			"force_boot":   uint32(libvirtrpc.StartForceBoot),
			"validate":     uint32(libvirtrpc.StartValidate),
			autodestroy:    0,
		},
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Start(ctx, u, libvirtrpc.StartFlags(flags))
		},
		conflict: func(active bool, _ libvirtrpc.State) (envelope.Code, bool) { return envelope.AlreadyActive, active },
	},
	"shutdown": {
		text: "Domain is being shutdown", code: envelope.ShutdownFailed, flags: shutdownFlags,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Shutdown(ctx, u, libvirtrpc.ShutdownFlags(flags))
		},
		conflict: needsActive(envelope.NotRunning),
	},
	"destroy": {
		text: "Domain destroyed", code: envelope.DestroyFailed,
		flags: map[string]uint32{"graceful": graceful},
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Destroy(ctx, u, flags&graceful != 0)
		},
		conflict: func(active bool, _ libvirtrpc.State) (envelope.Code, bool) { return envelope.NotActive, !active },
	},
	"reboot": {
		text: "Domain is being rebooted", code: envelope.RebootFailed, flags: shutdownFlags,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, flags uint32) error {
			return c.Reboot(ctx, u, libvirtrpc.ShutdownFlags(flags))
		},
		conflict: needsActive(envelope.NotActive),
	},
	"reset": {
		text: "Domain was reset", code: envelope.ResetFailed,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, _ uint32) error {
			return c.Reset(ctx, u)
		},
		conflict: needsActive(envelope.NotActive),
	},
	"suspend": {
		text: "Domain suspended", code: envelope.SuspendFailed,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, _ uint32) error {
			return c.Suspend(ctx, u)
		},
		conflict: needsActive(envelope.NotActive),
	},
	"resume": {
		text: "Domain resumed", code: envelope.ResumeFailed,
		do: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID, _ uint32) error {
			return c.Resume(ctx, u)
		},
		conflict: func(active bool, s libvirtrpc.State) (envelope.Code, bool) {
			return envelope.NotSuspended, s != libvirtrpc.Paused
		},
	},
}

func names[V any](m map[string]V) string {
	var out []string
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
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
	p, ok := powers[name]
	if !ok {
		return bad("no request " + printable(*value.Request) + "; there are " + names(powers))
	}
	words, err := flagWords(value.Type)
	if err != nil {
		return action{}, err
	}
	a := action{
		message:    envelope.Done{Action: name, Text: p.text},
		code:       p.code,
		permission: "domains:power",
		conflict: func(ctx context.Context, c *libvirtrpc.Client, u libvirtrpc.UUID) (envelope.Code, bool) {
			state, _, err := c.GetState(ctx, u)
			if err != nil {
				return 0, false
			}
			active := state != libvirtrpc.Shutoff && state != libvirtrpc.Crashed && state != libvirtrpc.NoState
			return p.conflict(active, state)
		},
	}
	var flags uint32
	var ignored []string
	for _, w := range words {
		bit, mine := p.flags[w]
		switch {
		case mine && w == autodestroy:
			return action{}, envelope.New(envelope.BadPowerFlag,
				"autodestroy is refused: it ties the domain to a connection of this server, which is replaced whenever it has to be")
		case mine:
			flags |= bit
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

func (p power) known() string {
	if len(p.flags) == 0 {
		return "it has none"
	}
	return "there are " + names(p.flags)
}

// knownFlag tells whether the flag belongs to any request.
func knownFlag(word string) bool {
	for _, p := range powers {
		if _, ok := p.flags[word]; ok {
			return true
		}
	}
	return false
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
