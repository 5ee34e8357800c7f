package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// The changes that a sequence of TestProveModel is made of.

// item is a domain to be made.
type item struct {
	vm
	uuid    string // "" leaves it to libvirt
	text    string
	bad     bool // not a description: nothing is done
	refused bool // by libvirt
}

func (m *sequence) item(t *rapid.T, start, transient bool) item {
	it := item{vm: vm{name: m.name(t), persistent: !transient, active: transient || start, ram: 32 << 10, ramMax: 32 << 10}}
	if chance(t, "with uuid", 40) {
		it.uuid = fmt.Sprintf("00000000-0000-4000-8000-%012x", rapid.IntRange(1, 2).Draw(t, "uuid"))
	}
	switch drawn(t, "form", "xml", "object", "xml", "object", "xml", "object", "refused", "bad") {
	case "object":
		o := map[string]any{"name": it.name, "os": drawn(t, "os", "Linux", "Other"), "memory": "32MiB"}
		if it.uuid != "" {
			o["uuid"] = strings.ToUpper(it.uuid)
		}
		if chance(t, "default memory", 30) {
			delete(o, "memory")
			it.ram, it.ramMax = 1<<20, 1<<20
		}
		it.text = mustJSON(o)
	case "bad":
		it.bad, it.text = true, mustJSON("<domain><name>x</name>")
	case "refused":
		it.refused, it.text = true, domainXML(it.name, it.uuid, "")
	default:
		it.text = domainXML(it.name, it.uuid, "<memory unit='MiB'>32</memory>")
	}
	if it.active && it.persistent {
		it.nextRAM = it.ram
	}
	return it
}

func domainXML(name, uuid, more string) string {
	if uuid != "" {
		uuid = "<uuid>" + uuid + "</uuid>"
	}
	name = strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(name)
	return mustJSON("<domain type='test'><name>" + name + "</name>" + uuid + more + "<os><type>hvm</type></os></domain>")
}

// failure is what is compared of an error.
type failure struct {
	Code  int
	Index *int // nil: the request was no array
}

func failures(a *answer) []failure {
	out := []failure{}
	for _, e := range a.Errors {
		out = append(out, failure{e.Code, e.Index})
	}
	return out
}

// wanted are the failures expected of a request; its status is the first one's.
type wanted struct {
	array  bool
	list   []failure
	status int
}

func (w *wanted) add(i, code, status int) {
	f := failure{Code: code}
	if w.array {
		f.Index = &i
	}
	if w.list = append(w.list, f); len(w.list) == 1 {
		w.status = status
	}
}

// body are the parts as they are sent: an array, or the only one.
func (w *wanted) body(parts []string) string {
	if !w.array {
		return parts[0]
	}
	return "[" + strings.Join(parts, ",") + "]"
}

func (w *wanted) check(t *rapid.T, a *answer) {
	t.Helper()
	equal(t, "errors", append([]failure{}, w.list...), failures(a))
	equal(t, "status", w.status, a.status)
}

// create is one domain or several, in one of the ways to make them.
func (m *sequence) create(t *rapid.T) {
	q := url.Values{}
	for _, p := range []string{"start", "transient", "paused", "validate"} {
		if chance(t, p, 25) {
			q.Set(p, "true")
		}
	}
	start, transient, paused := q.Has("start"), q.Has("transient"), q.Has("paused")
	want := wanted{array: chance(t, "array", 30), status: 201}
	n := 1
	if want.array {
		n = rapid.IntRange(1, 3).Draw(t, "items")
	}
	var items []item
	var texts []string
	for range n {
		it := m.item(t, start, transient)
		items, texts = append(items, it), append(texts, it.text)
	}
	a := m.call(t, "POST", "/libvirt/domains?"+q.Encode(), want.body(texts))
	if paused && !start && !transient || start && transient {
		want.array = false
		want.add(0, 102, 400)
		want.check(t, a)
		return
	}
	if i := slices.IndexFunc(items, func(it item) bool { return it.bad }); i >= 0 {
		want.add(i, 105, 400)
		want.check(t, a)
		return
	}
	results := a.Results
	for i, it := range items {
		_, taken := m.world[it.uuid]
		switch {
		case taken || m.world.named(it.name) != "":
			want.add(i, 106, 409)
			continue
		case it.refused, transient && paused: // the test driver starts nothing paused
			want.add(i, 105, 400)
			continue
		case start && paused:
			want.add(i, 202, 400)
			continue
		}
		if len(results) == 0 {
			t.Fatalf("no result for item %d", i)
		}
		s := decode[struct {
			seen
			Created bool
		}](t, results[0])
		results = results[1:]
		if it.uuid == "" {
			it.uuid = s.UUID
		}
		equal(t, "the domain created", it.look(it.uuid, s.ID), s.seen)
		equal(t, "created", true, s.Created)
		m.world.put(it.uuid, it.vm)
	}
	want.check(t, a)
	equal(t, "results left over", 0, len(results))
}

// patch is one action or several, some of them mistaken: then none is done.
func (m *sequence) patch(t *rapid.T) {
	path, uuid := m.ref(t)
	want := wanted{array: chance(t, "array", 50), status: 200}
	n := 1
	if want.array {
		n = rapid.IntRange(1, 5).Draw(t, "actions")
	}
	var texts []string
	var acts []act
	var notes []string // what is said besides
	depends := make([][]int, n)
	for i := range n {
		a, text, note, mistake := m.action(t)
		if i > 0 && chance(t, "depends", 40) {
			on := rapid.SliceOfN(rapid.IntRange(0, i), 1, 2).Draw(t, "on")
			if depends[i] = on; len(on) == 1 && chance(t, "as a number", 50) {
				text += fmt.Sprintf(`,"depends":%d`, on[0])
			} else {
				text += `,"depends":` + mustJSON(on)
			}
			if slices.Contains(on, i) { // itself: not an earlier one
				mistake = 122
			}
		}
		if mistake != 0 && want.list == nil {
			want.add(i, mistake, 400)
		}
		texts, acts, notes = append(texts, "{"+text+"}"), append(acts, a), append(notes, note)
	}
	a := m.call(t, "PATCH", path, want.body(texts))
	said := []string{}
	switch {
	case want.list != nil:
	case uuid == "":
		want.array = false
		want.add(0, 42, 404)
	default:
		failed := make([]bool, n)
		for i, act := range acts {
			code, status := 299, 424
			if !slices.ContainsFunc(depends[i], func(d int) bool { return failed[d] }) {
				code, status = m.world.do(uuid, act)
			}
			if failed[i] = code != 0; failed[i] {
				want.add(i, code, status)
				continue
			}
			said = append(said, fmt.Sprintf(`{"%s":"%s"}`, act.what, act.said()))
			if notes[i] != "" {
				said = append(said, mustJSON(notes[i]))
			}
		}
	}
	want.check(t, a)
	equal(t, "messages", said, rawStrings(a.Messages))
}

// action is one action, its text without the braces, what its success says
// besides, and the code of its mistake.
func (m *sequence) action(t *rapid.T) (a act, text, note string, code int) {
	switch a.what = drawn(t, "action", "power_mgt", "power_mgt", "power_mgt", "name", "memory", "max_memory", "autostart"); a.what {
	case "name":
		a.to = m.name(t)
		if chance(t, "no name", 5) {
			a.to, code = "", 103
		}
		return a, `"name":` + mustJSON(a.to), "", code
	case "memory", "max_memory":
		mib := rapid.Uint64Range(0, 4).Draw(t, "of 16 MiB") * 16
		if a.kib = mib << 10; mib == 0 {
			code = 122
		}
		return a, fmt.Sprintf(`"%s":%s`, a.what, drawn(t, "spelt", fmt.Sprint(a.kib), fmt.Sprintf(`"%dMiB"`, mib), fmt.Sprintf(`"%d KiB"`, a.kib))), "", code
	case "autostart":
		a.on = drawn(t, "on", true, false)
		return a, fmt.Sprintf(`"autostart":%v`, a.on), "", 0
	}
	a.what = drawn(t, "request", "start", "start", "shutdown", "destroy", "reboot", "reset", "suspend", "suspend", "resume", "resume")
	word := drawn(t, "flag", "", "", "", "ACPI_POWER_BTN", "paused", "graceful", "autodestroy", "nonsense")
	if word == "" || word == "autodestroy" && a.what != "start" {
		return a, fmt.Sprintf(`"power_mgt":"%s"`, a.what), "", 0
	}
	own := map[string][]string{"start": {"paused"}, "shutdown": {"acpi_power_btn"}, "reboot": {"acpi_power_btn"}, "destroy": {"graceful"}}
	switch flag := strings.ToLower(word); {
	case word == "nonsense", word == "autodestroy":
		code = 301
	case slices.Contains(own[a.what], flag):
		a.flag = a.what == "start" || a.what == "shutdown"
	default:
		note = "ignored for " + a.what + ": " + flag
	}
	return a, fmt.Sprintf(`"power_mgt":{"request":"%s","type":%s}`, a.what, drawn(t, "as", mustJSON(word), mustJSON([]string{word}))), note, code
}

// remove is a DELETE, or the PATCH that the reference prints under it.
func (m *sequence) remove(t *rapid.T) {
	path, uuid := m.ref(t)
	var options []string
	for _, o := range []string{"destroy", "managed_save", "snapshots_metadata"} {
		if chance(t, o, 40) {
			options = append(options, o)
		}
	}
	if options != nil {
		path += "?options=" + strings.Join(options, ",")
	}
	method := "DELETE"
	if options != nil && chance(t, "as the reference prints it", 20) {
		method = "PATCH"
	}
	a := m.call(t, method, path, "")
	want, results := wanted{status: 200}, []string{}
	switch d := m.world[uuid]; {
	case uuid == "":
		want.add(0, 42, 404)
	case d.active && !slices.Contains(options, "destroy"):
		want.add(0, 201, 409)
	default:
		results = append(results, fmt.Sprintf(`{"deleted":true,"uuid":"%s","name":%s}`, uuid, mustJSON(d.name)))
		delete(m.world, uuid)
	}
	want.check(t, a)
	equal(t, "results", results, rawStrings(a.Results))
}

func mustJSON(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String())
}

func rawStrings(raw []json.RawMessage) []string {
	out := []string{}
	for _, r := range raw {
		out = append(out, string(r))
	}
	return out
}
