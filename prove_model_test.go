package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// rapidDefaults sets rapid's flags, but for those of the command line.
func rapidDefaults(t *testing.T, values map[string]string) {
	flag.Visit(func(f *flag.Flag) { delete(values, f.Name) })
	for name, v := range values {
		before := flag.Lookup(name).Value.String()
		if err := flag.Set(name, v); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { flag.Set(name, before) })
	}
}

// Random sequences of calls against the model: each response, and after each
// one the whole list and the details of every domain. A failure is shrunk to the
// shortest sequence that rapid finds, and says how to run it again.
func TestProveModel(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket())
	rapidDefaults(t, map[string]string{"rapid.checks": fmt.Sprint(long(20, 300)), "rapid.steps": "20"})
	runs, calls, looks := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		m := &sequence{g: g, world: world{}, ids: map[string]int{}, prefix: fmt.Sprintf("m%d-", runs)}
		defer func() {
			calls += m.calls
			looks += m.looks
			for uuid := range m.world {
				g.try("DELETE", "/libvirt/domains/by-uuid/"+uuid+"?options=destroy", "")
			}
		}()
		for len(m.world) == 0 {
			m.create(t)
		}
		t.Repeat(map[string]func(*rapid.T){
			"create": m.create, "delete": m.remove, "details": m.details,
			"list": m.list, "and list": m.list, // so that they come more often
			"patch": m.patch, "patch too": m.patch, "and patch": m.patch,
			"": m.check,
		})
	})
	t.Attr("case", "random sequences of API calls, compared with a model after each call")
	t.Attr("promised", "every status, code, message and field is what the contract says")
	t.Attr("measured", fmt.Sprintf("%d sequences, %d calls, %d looks at the whole: no difference", runs, calls, looks))
}

// sequence is one sequence of calls: what there should be, and the names and
// ids by which to ask for it.
type sequence struct {
	g            *gateway
	world        world
	ids          map[string]int // by UUID, as the last list had them
	prefix       string         // of every name
	calls, looks int
}

func (m *sequence) call(t *rapid.T, method, path, body string) *answer {
	t.Helper()
	m.calls++
	a, err := m.g.try(method, path, body)
	if err != nil {
		t.Fatalf("%s %s %s: %v", method, path, body, err)
	}
	t.Logf("%s %s %s\n-> %d %s", method, path, body, a.status, a.raw)
	return a
}

func decode[T any](t *rapid.T, raw json.RawMessage) (v T) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	return v
}

func equal[T any](t *rapid.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

func drawn[T any](t *rapid.T, label string, of ...T) T {
	return rapid.SampledFrom(of).Draw(t, label)
}

func chance(t *rapid.T, label string, percent int) bool {
	return rapid.IntRange(0, 99).Draw(t, label) >= 100-percent
}

// name is one of few, so that they meet: with what paths and JSON have to escape.
func (m *sequence) name(t *rapid.T) string {
	return m.prefix + drawn(t, "name", "a", "b \"ü\"", "c%2F&?")
}

// ref is a path to a domain, and its UUID; "" when there is none.
func (m *sequence) ref(t *rapid.T) (path, uuid string) {
	name := m.prefix + "none"
	if names := m.world.listed(nil); len(names) > 0 && !chance(t, "missing", 10) {
		name = drawn(t, "domain", names...)
		uuid = m.world.named(name)
	}
	switch drawn(t, "by", "name", "uuid", "name", "uuid", "id") {
	case "uuid":
		text := uuid
		if text == "" {
			text = "00000000-0000-4000-8000-00000000dead"
		}
		if chance(t, "spelt otherwise", 30) {
			text = strings.ToUpper(strings.ReplaceAll(text, "-", ""))
		}
		return "/libvirt/domains/by-uuid/" + text, uuid
	case "id":
		if id, ok := m.ids[uuid]; ok && id >= 0 {
			return fmt.Sprintf("/libvirt/domains/by-id/%d", id), uuid
		}
		return "/libvirt/domains/by-id/999999", ""
	}
	return "/libvirt/domains/by-name/" + url.PathEscape(name), uuid
}

func (m *sequence) details(t *rapid.T) {
	path, uuid := m.ref(t)
	a := m.call(t, "GET", path, "")
	if uuid != "" {
		m.shows(t, a, uuid)
		return
	}
	want := wanted{}
	want.add(0, 42, 404)
	want.check(t, a)
}

// shows checks that the response is the details of the domain.
func (m *sequence) shows(t *rapid.T, a *answer, uuid string) {
	t.Helper()
	if a.status != 200 || len(a.Results) != 1 {
		t.Fatalf("details of %s: %d %s", uuid, a.status, a.raw)
	}
	got := decode[seen](t, a.Results[0])
	equal(t, "details", m.world[uuid].look(uuid, got.ID), got)
}

// list lists with random filters.
func (m *sequence) list(t *rapid.T) {
	q := url.Values{"search": {strings.ToUpper(m.prefix)}}
	fits := func(vm) bool { return true }
	filter := func(name, value string, test func(vm) bool) {
		q.Set(name, value)
		before := fits
		fits = func(d vm) bool { return before(d) && test(d) }
	}
	if chance(t, "by state", 50) {
		of := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"running", "paused", "shutoff", "other", "Crashed"}), 1, 3, rapid.ID).Draw(t, "state")
		filter("state", strings.Join(of, ","), func(d vm) bool { return slices.Contains(of, strings.ToLower(d.status())) })
	}
	for _, f := range []struct {
		name string
		has  func(vm) bool
	}{
		{"active", func(d vm) bool { return d.active }},
		{"persistent", func(d vm) bool { return d.persistent }},
		{"autostart", func(d vm) bool { return d.autostart }},
		{"managed_save", func(vm) bool { return false }},
		{"has_snapshot", func(vm) bool { return false }},
	} {
		if chance(t, f.name, 15) {
			value := drawn(t, "value", true, false)
			filter(f.name, fmt.Sprint(value), func(d vm) bool { return f.has(d) == value })
		}
	}
	if chance(t, "by name", 30) {
		name := m.name(t)
		filter("name", name, func(d vm) bool { return d.name == name })
	}
	if chance(t, "by ending", 20) {
		filter("name.endswith", "a,?", func(d vm) bool { return strings.HasSuffix(d.name, "a") || strings.HasSuffix(d.name, "?") })
	}
	want := m.world.listed(fits)
	if chance(t, "descending", 30) {
		q.Set("direction", "desc")
		slices.Reverse(want)
	}
	total, pages, perPage := len(want), 1, len(want)
	if chance(t, "paged", 30) {
		page := rapid.IntRange(1, 3).Draw(t, "page")
		perPage = rapid.IntRange(1, 2).Draw(t, "per_page")
		q.Set("page", fmt.Sprint(page))
		q.Set("per_page", fmt.Sprint(perPage))
		pages = max(1, (total+perPage-1)/perPage)
		from := min((page-1)*perPage, total)
		want = want[from:min(from+perPage, total)]
	}
	a := m.call(t, "GET", "/libvirt/domains?"+q.Encode(), "")
	got := []string{}
	for _, r := range a.Results {
		got = append(got, decode[seen](t, r).Name)
	}
	equal(t, "names", append([]string{}, want...), got)
	if i := a.Info; i == nil || i.Count != len(want) || i.TotalCount != total || i.TotalPages != pages || i.PerPage != perPage {
		t.Fatalf("want count %d, total_count %d, total_pages %d, per_page %d", len(want), total, pages, perPage)
	}
}

// check compares the whole list, and the details of every domain.
func (m *sequence) check(t *rapid.T) {
	m.looks++
	a, err := m.g.try("GET", "/libvirt/domains?search="+m.prefix, "")
	if err != nil || a.status != 200 {
		t.Fatalf("list: %v %+v", err, a)
	}
	names := m.world.listed(nil)
	equal(t, "domains listed", len(names), len(a.Results))
	for i, r := range a.Results {
		got := decode[seen](t, r)
		uuid := m.world.named(names[i])
		equal(t, "in the list", m.world[uuid].look(uuid, got.ID), got)
		m.ids[uuid] = got.ID
		if a, err = m.g.try("GET", "/libvirt/domains/by-uuid/"+uuid, ""); err != nil {
			t.Fatal(err)
		}
		m.shows(t, a, uuid)
	}
}
