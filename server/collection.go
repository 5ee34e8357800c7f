package server

import (
	"cmp"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"sync"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
)

// field is one key of the objects of a collection.
type field[T any] struct {
	name   string
	costs  libvirtrpc.Fields           // what libvirt has to be asked for it
	detail bool                        // only in the details of one object
	put    func(b []byte, v *T) []byte // appends the value as JSON
	order  func(a, b *T) int           // nil: lists are not ordered by it
}

// collection is what lists and details of one kind of object have in common:
// it declares its fields, and selecting, ordering, paging and encoding follow.
type collection[T any] struct {
	fields []field[T]
	// tie orders objects that are equal by the field asked for.
	tie func(a, b *T) int
}

// selection is which fields a request wants, in the collection's order.
type selection[T any] []*field[T]

// selected reads the parameter "fields". Without it, all are wanted.
func (c *collection[T]) selected(q *query, detail bool) selection[T] {
	names := q.list("fields")
	var sel selection[T]
	for i := range c.fields {
		f := &c.fields[i]
		if (detail || !f.detail) && (names == nil || slices.Contains(names, f.name)) {
			sel = append(sel, f)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(sel, func(f *field[T]) bool { return f.name == n }) {
			q.fail("fields", "no key "+printable(n)+"; there are "+strings.Join(c.names(detail), ", "))
		}
	}
	return sel
}

func (c *collection[T]) names(detail bool) []string {
	var out []string
	for _, f := range c.fields {
		if detail || !f.detail {
			out = append(out, f.name)
		}
	}
	return out
}

func (s selection[T]) costs() libvirtrpc.Fields {
	var costs libvirtrpc.Fields
	for _, f := range s {
		costs |= f.costs
	}
	return costs
}

// appendJSON appends one object with the fields selected.
func (s selection[T]) appendJSON(b []byte, v *T) []byte {
	b = append(b, '{')
	for i, f := range s {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, f.name...)
		b = append(b, '"', ':')
		b = f.put(b, v)
	}
	return append(b, '}')
}

// encode is the objects as JSON, all in one buffer.
func (s selection[T]) encode(vs []*T) []json.RawMessage {
	out := make([]json.RawMessage, len(vs))
	buf := make([]byte, 0, 24*len(s)*len(vs)) // about what a domain takes
	for i, v := range vs {
		from := len(buf)
		buf = s.appendJSON(buf, v)
		out[i] = buf[from:len(buf):len(buf)]
	}
	return out
}

// listing is how a list is wanted: which fields, in which order, which page.
type listing[T any] struct {
	selection[T]
	order         *field[T]
	descending    bool
	page, perPage int // perPage 0: everything on one page
	tie           func(a, b *T) int
}

const maxPerPage = 1000

// listing reads fields, order, direction, page and per_page.
func (c *collection[T]) listing(q *query) listing[T] {
	l := listing[T]{selection: c.selected(q, false), tie: c.tie}
	var names []string
	for i := range c.fields {
		if c.fields[i].order != nil {
			names = append(names, c.fields[i].name)
		}
	}
	name := q.choice("order", names...)
	for i := range c.fields {
		if c.fields[i].name == name {
			l.order = &c.fields[i]
		}
	}
	l.descending = q.choice("direction", "asc", "desc") == "desc"
	l.perPage = q.number("per_page", 0, maxPerPage)
	l.page = q.number("page", 1, math.MaxInt32)
	if _, paged := q.values["page"]; paged && l.perPage == 0 {
		l.perPage = 100
	}
	return l
}

func (l *listing[T]) costs() libvirtrpc.Fields { return l.selection.costs() | l.order.costs }

// respond orders the objects, cuts out the page and encodes it.
func (l *listing[T]) respond(vs []*T) *envelope.Response {
	order := func(a, b *T) int {
		n := l.order.order(a, b)
		if l.descending {
			n = -n
		}
		return cmp.Or(n, l.tie(a, b))
	}
	if !slices.IsSortedFunc(vs, order) {
		slices.SortStableFunc(vs, order)
	}
	info := &envelope.Page{Page: l.page, PerPage: l.perPage, TotalCount: len(vs), TotalPages: 1}
	if l.perPage == 0 {
		info.PerPage = len(vs)
	} else {
		info.TotalPages = max(1, (len(vs)+l.perPage-1)/l.perPage)
		from := len(vs)
		if l.page <= info.TotalPages {
			from = (l.page - 1) * l.perPage
		}
		vs = vs[from:min(from+l.perPage, len(vs))]
	}
	info.Count = len(vs)
	return &envelope.Response{Results: l.encode(vs), Info: info}
}

// shared lets requests that were answered by one round of libvirt calls share
// the response too: many clients that poll one list cost one encoding.
type shared[T any] struct {
	mu    sync.Mutex
	of    *T // the first of the round's objects, which names the round
	query string
	res   *envelope.Response
}

// get is the response that make makes of all, for the query.
func (s *shared[T]) get(all []T, query string, make func() *envelope.Response) *envelope.Response {
	if len(all) == 0 {
		return make()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of != &all[0] || s.query != query {
		res := make()
		res.Encode()
		s.of, s.query, s.res = &all[0], query, res
	}
	return s.res
}

// nameFilter is search and the name filters, which every collection has.
type nameFilter struct {
	tests []func(name string) bool
	any   bool
	find  []string // lower-case; in name or identifier
}

func readNameFilter(q *query) nameFilter {
	var f nameFilter
	for _, w := range q.list("search") {
		f.find = append(f.find, strings.ToLower(w))
	}
	for _, t := range []struct {
		name string
		test func(name, with string) bool
	}{
		{"name", func(name, with string) bool { return name == with }},
		{"name.contains", strings.Contains},
		{"name.startswith", strings.HasPrefix},
		{"name.endswith", strings.HasSuffix},
	} {
		if words := q.list(t.name); words != nil {
			f.tests = append(f.tests, func(name string) bool {
				return slices.ContainsFunc(words, func(w string) bool { return t.test(name, w) })
			})
		}
	}
	f.any = q.choice("match", "all", "any") == "any"
	return f
}

// fits tells whether an object of that name and identifier passes.
func (f *nameFilter) fits(name, id string) bool {
	if f.find != nil {
		lower := strings.ToLower(name)
		if !slices.ContainsFunc(f.find, func(w string) bool { return strings.Contains(lower, w) || strings.Contains(id, w) }) {
			return false
		}
	}
	if len(f.tests) == 0 {
		return true
	}
	if f.any {
		return slices.ContainsFunc(f.tests, func(t func(string) bool) bool { return t(name) })
	}
	return !slices.ContainsFunc(f.tests, func(t func(string) bool) bool { return !t(name) })
}

func (f *nameFilter) empty() bool { return f.find == nil && len(f.tests) == 0 }
