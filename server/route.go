package server

import (
	"context"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/server/openapi"
)

// route is one row of the table: what can be asked, the permission that it
// takes, and what it means. A caller needs at least one of the permissions to be
// heard at all; where the request itself decides (PATCH may switch a domain off
// or rename it), its decoded form says which of them, see needer.
type route struct {
	method, path string
	key          *key // how the path names an object, in paths that do
	permissions  []string
	operation
	endpoint
}

// operation is what a route means to its clients, besides what its request type
// says of itself.
type operation struct {
	id, summary string
	about       string // more, in Markdown
	result      *openapi.Schema
	results     count
	mediaType   string // of a result that is sent without the envelope
	// errors are the codes that it can fail with, besides those that any request
	// of its kind can: see codes.
	errors []envelope.Code
}

// count is how many results a success has.
type count int

const (
	none    count = iota
	maybe         // none or one
	one           // exactly one
	many          // any number, and result_info
	created       // one for each that was asked for, with 201
)

// endpoint is a request type, and what is done with its requests.
type endpoint struct {
	params  []param
	body    *openapi.Media // nil: none is taken
	libvirt bool           // libvirt is asked
	handle  handler
	write   echo.HandlerFunc // instead of handle: what answers without an envelope
}

// handler answers a request that is authenticated and whose caller has one of
// the route's permissions.
type handler func(context.Context, *request) *envelope.Response

// Route is a row of the route table, for who describes or checks the API.
type Route struct {
	Method, Path string
	Permissions  []string // a caller needs one of them to be heard, if there are any
}

// Routes are all routes. GET routes answer HEAD as well.
func (s *Server) Routes() []Route {
	var out []Route
	for _, rt := range s.table {
		permissions := slices.DeleteFunc(slices.Clone(rt.permissions), func(p string) bool { return p == anyCaller })
		out = append(out, Route{rt.method, rt.path, permissions})
	}
	return out
}

// decoder is a request type that can read itself, strictly, from what the
// client sent: its query parameters, and then the rest. Nothing has reached
// libvirt when it refuses.
type decoder interface {
	params() []param
	decode(*request) error
}

// noParams is a part of request types that take no query parameters.
type noParams struct{}

func (noParams) params() []param { return nil }

// carrier is a request type that takes a body.
type carrier interface {
	body() openapi.Media
}

// needer is a request type whose content decides which permissions it takes,
// all of them.
type needer interface {
	needs() []string
}

// adapt is the one way from a function over Go types to an endpoint.
func adapt[Req any, P interface {
	*Req
	decoder
}](do func(context.Context, Req) (*envelope.Response, error)) endpoint {
	e := endpoint{params: P(new(Req)).params(), libvirt: true}
	if c, ok := any(new(Req)).(carrier); ok {
		body := c.body()
		e.body = &body
	}
	e.handle = func(ctx context.Context, r *request) *envelope.Response {
		var req Req
		query, err := parseQuery(r.http.URL.RawQuery)
		if err == nil {
			err = query.read(P(&req).params())
		}
		if err != nil {
			return failed(err)
		}
		if err := P(&req).decode(r); err != nil {
			return failed(err)
		}
		r.record(&req)
		if n, ok := any(&req).(needer); ok {
			for _, p := range n.needs() {
				if !r.caller.Allowed(p) {
					return failed(envelope.New(envelope.NotPermitted, "it lacks "+p))
				}
			}
		}
		if err := r.begin(); err != nil {
			return failed(err)
		}
		res, err := do(ctx, req)
		if err != nil {
			return failed(err)
		}
		return res
	}
	return e
}

// public tells whether anybody may ask. Of what is guarded nobody may ask for
// what declares no permission.
func (rt *route) public() bool { return !guarded(rt.path) }

// anyCaller stands in the place of a permission where none is needed, but to be
// let in.
const anyCaller = "any caller"

// permitted tells whether the caller has one of the route's permissions.
func (rt *route) permitted(c auth.Caller) bool {
	return slices.ContainsFunc(rt.permissions, func(p string) bool { return p == anyCaller || c.Allowed(p) })
}

// offline is an endpoint that does not ask libvirt.
func (e endpoint) offline() endpoint {
	e.libvirt = false
	return e
}

// unknownPath says which part of a path means nothing.
func (s *Server) unknownPath(path string) *envelope.Error {
	if !underBase(path) {
		return envelope.New(envelope.BadURL, "everything is under "+base+"/")
	}
	parts := strings.Split(strings.Trim(strings.TrimPrefix(path, base), "/"), "/")
	collections := s.below()
	if !slices.Contains(collections, parts[0]) {
		return envelope.New(envelope.BadSubsystem, "there are "+strings.Join(collections, ", "))
	}
	keys := s.below(parts[0])
	switch {
	case len(keys) == 0 || len(parts) == 1:
		return envelope.New(envelope.BadParameter, "")
	case !slices.Contains(keys, parts[1]):
		return envelope.New(envelope.BadSearchKey, "there are "+strings.Join(keys, ", "))
	case len(parts) == 2 || parts[2] == "":
		return envelope.New(envelope.BadIdentifier, "it is missing")
	}
	return envelope.New(envelope.BadParameter, "there is "+strings.Join(s.below(parts[0], parts[1], ":identifier"), ", "))
}

// below are the parts that can follow these parts of a path, in the table's
// order.
func (s *Server) below(parts ...string) []string {
	var out []string
	prefix := strings.Join(append([]string{base}, parts...), "/") + "/"
	for _, rt := range s.table {
		rest, ok := strings.CutPrefix(rt.path, prefix)
		next, _, _ := strings.Cut(rest, "/")
		if ok && !slices.Contains(out, next) {
			out = append(out, next)
		}
	}
	return out
}
