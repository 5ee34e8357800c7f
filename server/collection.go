package server

import (
	"cmp"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/openapi"
)

// collection is what lists and details of one kind of object have in common: it
// declares how an object is named in a path and which fields it has, and
// selecting, ordering, paging, encoding and the description follow.
type collection[T any] struct {
	name, about string // in paths: domains
	object      string // what one of them is called in the description: Domain
	keys        []key
	fields      []field[T]
	// tie orders objects that are equal by the field asked for.
	tie func(a, b *T) int
}

// key is one way to name an object in a path.
type key struct {
	by, about string
	suffix    string // of the operations' names in the description
	schema    *openapi.Schema
	parse     func(string) (libvirtrpc.Ref, error)
}

// field is one key of the objects of a collection.
type field[T any] struct {
	name, about string // with the unit, where there is one
	schema      *openapi.Schema
	costs       libvirtrpc.Fields           // what libvirt has to be asked for it
	detail      bool                        // only in the details of one object
	ordered     bool                        // lists can be ordered by it
	put         func(b []byte, v *T) []byte // appends the value as JSON
	order       func(a, b *T) int
}

// textField is a field whose value get gets; so are the others.
func textField[T any](name, about string, costs libvirtrpc.Fields, get func(*T) string) field[T] {
	return field[T]{
		name: name, about: about, costs: costs, schema: openapi.Text(),
		put:   func(b []byte, v *T) []byte { return envelope.AppendString(b, get(v)) },
		order: func(a, b *T) int { return strings.Compare(get(a), get(b)) },
	}
}

func truthField[T any](name, about string, costs libvirtrpc.Fields, get func(*T) bool) field[T] {
	return field[T]{
		name: name, about: about, costs: costs, schema: openapi.Truth(),
		put: func(b []byte, v *T) []byte { return strconv.AppendBool(b, get(v)) },
	}
}

func numberField[T any](name, about string, costs libvirtrpc.Fields, get func(*T) uint64) field[T] {
	return field[T]{
		name: name, about: about, costs: costs, schema: openapi.Number(64, 0),
		put:   func(b []byte, v *T) []byte { return strconv.AppendUint(b, get(v), 10) },
		order: func(a, b *T) int { return cmp.Compare(get(a), get(b)) },
	}
}

func (f field[T]) inDetails() field[T] {
	f.detail = true
	return f
}

// of says which values there are.
func (f field[T]) of(words []string) field[T] {
	f.schema = openapi.OneWord(words...)
	return f
}

func (f field[T]) orderable() field[T] {
	f.ordered = true
	return f
}

// schema is one of the objects. No key is certain to be there: clients choose.
func (c *collection[T]) schema() *openapi.Schema {
	s := openapi.Object(nil).Named(c.object, "Without the parameter fields every key is there.")
	for _, f := range c.fields {
		own := *f.schema
		own.Description = f.about
		if f.detail {
			own.Description += "; in details only"
		}
		s.Properties.Set(f.name, &own)
	}
	return s
}

// createdSchema is an object that was just made: created, and all keys of a list
// or, when it cannot be read back, those that name it.
func (c *collection[T]) createdSchema() *openapi.Schema {
	s := openapi.Object(nil, "name", "uuid", "created").Named("Created"+c.object, "What was created. When it cannot be read back, name and uuid only.")
	for _, p := range c.schema().Properties {
		if slices.Contains(c.names(false), p.Key) {
			s.Properties.Set(p.Key, p.Value)
		}
	}
	s.Properties.Set("created", &openapi.Schema{Type: "boolean", Const: true})
	return s
}

// selection is which fields a request wants, in the collection's order.
type selection[T any] []*field[T]

// selected are the fields of the names; all of them for nil.
func (c *collection[T]) selected(names []string, detail bool) (selection[T], error) {
	var sel selection[T]
	for i := range c.fields {
		f := &c.fields[i]
		if (detail || !f.detail) && (names == nil || slices.Contains(names, f.name)) {
			sel = append(sel, f)
		}
	}
	for _, n := range names {
		if !slices.ContainsFunc(sel, func(f *field[T]) bool { return f.name == n }) {
			return nil, errors.New("no key " + printable(n) + "; there are " + strings.Join(c.names(detail), ", "))
		}
	}
	return sel, nil
}

// all are the fields of a list.
func (c *collection[T]) all() selection[T] {
	sel, _ := c.selected(nil, false)
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

// choose is the parameter "fields". Without it, all are wanted.
func (c *collection[T]) choose(to *selection[T], detail bool) param {
	*to, _ = c.selected(nil, detail)
	schema := func() *openapi.Schema { return openapi.List(openapi.OneWord(c.names(detail)...)).Between(1, -1) }
	return param{"fields", "the keys wanted; only the libvirt calls that these need are made. Default: all", schema, func(v string) (err error) {
		*to, err = c.selected(split(v), detail)
		return err
	}}
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
	page, perPage int // 0: not said
	tie           func(a, b *T) int
}

const (
	maxPerPage     = 1000
	defaultPerPage = 100 // of who says only which page
)

// params are fields, order, direction, page and per_page.
func (l *listing[T]) params(c *collection[T]) []param {
	l.tie = c.tie
	var names []string
	for i := range c.fields {
		if c.fields[i].ordered {
			names = append(names, c.fields[i].name)
		}
	}
	order := func(name string) {
		l.order = &c.fields[slices.IndexFunc(c.fields, func(f field[T]) bool { return f.name == name })]
	}
	order(names[0])
	return []param{
		c.choose(&l.selection, false),
		choice("order", "the key to order by", names, order),
		choice("direction", "of the order", []string{"asc", "desc"}, func(w string) { l.descending = w == "desc" }),
		number("page", "which page, from 1. Without page and per_page everything is one page", &l.page, math.MaxInt32),
		number("per_page", "how many on a page; 100 when only page is said", &l.perPage, maxPerPage),
	}
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
	info := &envelope.Page{Page: max(l.page, 1), PerPage: l.perPage, TotalCount: len(vs), TotalPages: 1}
	if l.page > 0 && l.perPage == 0 {
		info.PerPage = defaultPerPage
	}
	if info.PerPage == 0 {
		info.PerPage = len(vs)
	} else {
		info.TotalPages = max(1, (len(vs)+info.PerPage-1)/info.PerPage)
		from := len(vs)
		if info.Page <= info.TotalPages {
			from = (info.Page - 1) * info.PerPage
		}
		vs = vs[from:min(from+info.PerPage, len(vs))]
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
