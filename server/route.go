package server

import (
	"context"
	"slices"

	"github.com/labstack/echo/v4"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/openapi"
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
	// errors are the codes that it can fail with, besides those that any request
	// of its kind can: see declaredCodes.
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
	Permissions  []string // a caller needs one of them to be heard
}

// Routes are all routes. GET routes answer HEAD as well.
func (s *Server) Routes() []Route {
	var out []Route
	for _, rt := range s.table {
		out = append(out, Route{rt.method, rt.path, rt.permissions})
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
		if n, ok := any(&req).(needer); ok {
			for _, p := range n.needs() {
				if !r.caller.Allowed(p) {
					return failed(envelope.New(envelope.NotPermitted, "it lacks "+p))
				}
			}
		}
		res, err := do(ctx, req)
		if err != nil {
			return failed(err)
		}
		return res
	}
	return e
}

// public tells whether anybody may ask. Under base nobody may ask for what
// declares no permission.
func (rt *route) public() bool { return !underBase(rt.path) && len(rt.permissions) == 0 }

// permitted tells whether the caller has one of the route's permissions.
func (rt *route) permitted(c auth.Caller) bool {
	return slices.ContainsFunc(rt.permissions, c.Allowed)
}
