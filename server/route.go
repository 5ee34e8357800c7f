package server

import (
	"context"
	"net/http"

	"virtgate/auth"
	"virtgate/envelope"
)

// route is one row of the table: what can be asked, and the permission that it
// takes. A caller needs at least one of the permissions to be heard at all;
// where the request itself decides (PATCH may switch a domain off or rename
// it), its decoded form says which of them, see needer.
type route struct {
	method, path string
	permissions  []string
	handle       handler
}

// handler answers a request that is authenticated and whose caller has one of
// the route's permissions.
type handler func(context.Context, *request) *envelope.Response

// routes is the whole API. GET answers HEAD as well.
func (s *Server) routes() []route {
	var out []route
	add := func(method, path string, h handler, permissions ...string) {
		out = append(out, route{method, "/libvirt" + path, permissions, h})
	}
	add(http.MethodGet, "/version", adapt(s.version), "domains:read")
	add(http.MethodGet, "/domains", adapt(s.listDomains), "domains:read")
	add(http.MethodPost, "/domains", adapt(s.createDomains), "domains:create")
	// One row for each way to name a domain: the router then knows them, and
	// anything else in their place is 101.
	for _, by := range []string{"by-name", "by-uuid", "by-id"} {
		one := "/domains/" + by + "/:identifier"
		add(http.MethodGet, one, adapt(s.getDomain), "domains:read")
		add(http.MethodPatch, one, adapt(s.patchDomain), "domains:power", "domains:update", "domains:delete")
		add(http.MethodDelete, one, adapt(s.deleteDomain), "domains:delete")
		add(http.MethodGet, one+"/xml_desc", adapt(s.domainXML), "domains:read", "domains:secure")
	}
	return out
}

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
// client sent. Nothing has reached libvirt when it refuses.
type decoder interface {
	decode(*request) error
}

// needer is a request type whose content decides which permissions it takes,
// all of them.
type needer interface {
	needs() []string
}

// adapt is the one way from a function over Go types to a handler.
func adapt[Req any, P interface {
	*Req
	decoder
}](do func(context.Context, Req) (*envelope.Response, error)) handler {
	return func(ctx context.Context, r *request) *envelope.Response {
		var req Req
		if err := P(&req).decode(r); err != nil {
			return failed(err)
		}
		if err := r.query.unknown(); err != nil {
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
}

// permitted tells whether the caller has one of the route's permissions.
func (rt *route) permitted(c auth.Caller) bool {
	for _, p := range rt.permissions {
		if c.Allowed(p) {
			return true
		}
	}
	return false
}
