package main

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// A fact is one thing that a response says of one domain: what was so at some
// moment between the request and the response (a look), or what was done.
type fact struct {
	text string
	then func(vm) []vm // what the domain may be then; nothing: it does not hold
	look bool          // it changes nothing
	open bool          // it may come true at any time later
}

func was(text string, holds func(vm) bool) fact {
	return fact{text: "was " + text, look: true, then: func(d vm) []vm {
		if holds(d) {
			return []vm{d}
		}
		return nil
	}}
}

var (
	isThere  = was("there", func(d vm) bool { return d.name != "" })
	isActive = was("active", func(d vm) bool { return d.active })
)

// did is an act that was done.
func did(a act) fact {
	return fact{text: "did " + a.what, then: func(d vm) []vm {
		if next, ok := d.after(a); ok {
			return []vm{next}
		}
		return nil
	}}
}

// maybe is an act that was done or not.
func maybe(a act) fact {
	return fact{text: "maybe did " + a.what, then: func(d vm) []vm {
		if next, ok := d.after(a); ok {
			return []vm{d, next}
		}
		return []vm{d}
	}}
}

// unknown is an act that is done sometime, or never.
func unknown(a act) fact {
	f := maybe(a)
	f.open = true
	return f
}

func (f fact) holds(d vm) bool { return len(f.then(d)) > 0 }

// history is what all responses say of one domain, for porcupine. Each act is an
// operation, to be placed anywhere between its request and its response. The
// looks of a response are two, which take no time: from the first one on they
// are waited for, at the second one all must have been so. Looks as operations
// of their own would make many orders that differ in nothing.
type history struct {
	ops   []porcupine.Operation
	facts int
}

// reading is the looks of one response.
type reading struct {
	client int
	text   string
	looks  []fact
}

// event is an operation's input: an act, or the begin or end of a reading.
type event struct {
	*reading
	act  *fact
	ends bool
}

func (h *history) add(client int, from, to time.Duration, text string, facts []fact) {
	h.facts += len(facts)
	r := &reading{client: client, text: text}
	op := func(e event, call, ret time.Duration) {
		h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: e, Call: int64(call), Return: int64(ret)})
	}
	for _, f := range facts {
		r.text += "; " + f.text
		switch {
		case f.look:
			r.looks = append(r.looks, f)
		case f.open:
			op(event{reading: r, act: &f}, from, math.MaxInt64)
		default:
			op(event{reading: r, act: &f}, from, to)
		}
	}
	if r.looks != nil {
		op(event{reading: r}, from, from)
		op(event{reading: r, ends: true}, to, to)
	}
}

const mostClients = 8

// view is the domain at one place in an order, and the readings under way: each
// client has one at most.
type view struct {
	vm
	reading [mostClients]*reading
	missing [mostClients]uint8 // the looks that were not so yet, a bit each
}

func (v view) step(e event) []view {
	switch {
	case e.act != nil:
		var out []view
		for _, next := range e.act.then(v.vm) {
			n := v
			n.vm = next
			n.settle()
			out = append(out, n)
		}
		return out
	case e.ends:
		if v.missing[e.client] != 0 {
			return nil
		}
		v.reading[e.client] = nil
	default:
		v.reading[e.client], v.missing[e.client] = e.reading, 1<<len(e.looks)-1
		v.settle()
	}
	return []view{v}
}

// settle finds what is so now.
func (v *view) settle() {
	for c, r := range v.reading {
		for i := 0; r != nil && i < len(r.looks); i++ {
			if bit := uint8(1) << i; v.missing[c]&bit != 0 && r.looks[i].holds(v.vm) {
				v.missing[c] &^= bit
			}
		}
	}
}

// check looks for an order of all facts, and shows where there is none.
func (h *history) check(t *testing.T) {
	t.Helper()
	model := (&porcupine.NondeterministicModel{
		Init: func() []any { return []any{view{}} },
		Step: func(state, in, _ any) (next []any) {
			for _, v := range state.(view).step(in.(event)) {
				next = append(next, v)
			}
			return next
		},
	}).ToModel()
	result, info := porcupine.CheckOperationsVerbose(model, h.ops, time.Minute)
	if result == porcupine.Ok {
		return
	}
	var longest []porcupine.Operation
	for _, l := range info.PartialLinearizationsOperations()[0] {
		if len(l) > len(longest) {
			longest = l
		}
	}
	// The whole of it, for who runs the test with -artifacts.
	var all strings.Builder
	slices.SortStableFunc(h.ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, op := range h.ops {
		all.WriteString(describe(op))
	}
	if err := os.WriteFile(filepath.Join(t.ArtifactDir(), "history"), []byte(all.String()), 0o644); err != nil {
		t.Error(err)
	}
	const shown = 12
	var b strings.Builder
	state := model.Init()
	placed := map[event]bool{}
	domain := func() {
		for _, v := range state.([]any) {
			fmt.Fprintf(&b, "\t%+v\n", v.(view).vm)
		}
	}
	for n, op := range longest {
		if n == max(0, len(longest)-shown) {
			domain()
		}
		if n >= len(longest)-shown {
			b.WriteString(describe(op))
		}
		placed[op.Input.(event)] = true
		_, state = model.Step(state, op.Input, nil)
	}
	domain()
	b.WriteString("and then none of\n")
	left := slices.DeleteFunc(h.ops, func(op porcupine.Operation) bool { return placed[op.Input.(event)] })
	slices.SortFunc(left, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	for _, op := range left[:min(shown, len(left))] {
		b.WriteString(describe(op))
	}
	t.Fatalf("%s: no order of the facts; the longest ends with\n%s", result, b.String())
}

// describe is an operation in a line, with its times in microseconds.
func describe(op porcupine.Operation) string {
	e, what := op.Input.(event), "begin of "
	if e.ends {
		what = "end of "
	}
	if e.act != nil {
		what = e.act.text + " of "
	}
	return fmt.Sprintf("%9d–%9d client %d: %s%s\n", op.Call/1000, min(op.Return/1000, 999999999), op.ClientId, what, e.text)
}
