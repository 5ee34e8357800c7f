package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"virtgate/envelope"
	"virtgate/server/openapi"
)

// The description of the API in OpenAPI 3.1. It is made of the route table and
// what the rows refer to; what is said here holds for all of them.

// Description is the description, encoded.
type Description struct{ JSON, YAML []byte }

// Description is what is served as openapi.json and openapi.yaml.
func (s *Server) Description() (d Description, err error) {
	doc := s.describe()
	if d.JSON, err = doc.JSON(); err == nil {
		d.YAML, err = doc.YAML()
	}
	return d, err
}

type noRequest struct{ noParams }

func (noRequest) decode(*request) error { return nil }

func (s *Server) descriptionJSON(context.Context, noRequest) (*envelope.Response, error) {
	d, err := s.description()
	return envelope.Document("application/json; charset=utf-8", d.JSON), err
}

func (s *Server) descriptionYAML(context.Context, noRequest) (*envelope.Response, error) {
	d, err := s.description()
	return envelope.Document("application/yaml; charset=utf-8", d.YAML), err
}

func (s *Server) describe() *openapi.Document {
	d := &openapi.Document{
		OpenAPI: "3.1.1",
		Info: openapi.Info{
			Title: "virtgate", Summary: "libvirt over HTTP", Description: aboutAll(),
			Contact: map[string]string{"name": "virtgate"},
			License: openapi.License{Name: "Apache License 2.0", Identifier: "Apache-2.0"},
			Version: s.opts.Version,
		},
		Servers: []openapi.Server{{URL: "/", Description: "the server that gave you this"}},
		Tags:    chapters(),
		// The first two together, or one of the others.
		Security: []openapi.Credentials{{keyScheme: {}, usernameScheme: {}}, {serviceKeyScheme: {}}, {certificateScheme: {}}},
		Components: openapi.Components{
			SecuritySchemes: openapi.Map[openapi.SecurityScheme]{
				{Key: keyScheme, Value: openapi.SecurityScheme{Type: "apiKey", In: "header", Name: "X-Auth-Key", Description: "The key of the configuration, or the user's own, together with a username. Users may do everything, unless the configuration says less."}},
				{Key: usernameScheme, Value: openapi.SecurityScheme{Type: "apiKey", In: "header", Name: "X-Auth-Username", Description: "A user who is a member of the groups of the configuration."}},
				{Key: serviceKeyScheme, Value: openapi.SecurityScheme{Type: "apiKey", In: "header", Name: "X-Auth-User-Service-Key", Description: "A named key with permissions of its own, instead of the two."}},
				{Key: certificateScheme, Value: openapi.SecurityScheme{Type: "mutualTLS", Description: "A client certificate whose common name is a user, where the server asks for one. On its unix socket, a user is who he is, and needs nothing."}},
			},
			Parameters: openapi.Map[*openapi.Parameter]{
				{Key: packetIDHeader, Value: &openapi.Parameter{Name: packetIDHeader, In: "header", Description: "an id of yours; it comes back on the response", Schema: packetSchema()}},
			},
			Headers: openapi.Map[*openapi.Header]{
				{Key: requestIDHeader, Value: &openapi.Header{Description: "the server's own id of the request; it is in the log too", Required: true, Schema: openapi.Text()}},
				{Key: packetIDHeader, Value: &openapi.Header{Description: "what came with the request", Schema: packetSchema()}},
				{Key: retryAfterHeader, Value: &openapi.Header{Description: "seconds after which trying again makes sense; there when it is safe", Schema: openapi.Number(32, 1)}},
			},
		},
	}
	for i := range s.table {
		rt := &s.table[i]
		path := strings.ReplaceAll(rt.path, ":identifier", "{identifier}")
		p := d.Paths.Get(path)
		if p == nil {
			p = &openapi.Path{Parameters: []openapi.Parameter{{Ref: "#/components/parameters/" + packetIDHeader}}}
			if rt.key != nil {
				p.Parameters = append(p.Parameters, openapi.Parameter{
					Name: "identifier", In: "path", Required: true, Description: rt.key.about, Schema: rt.key.schema})
			}
			d.Paths.Set(path, p)
		}
		op := rt.describe(&d.Components)
		switch rt.method {
		case http.MethodGet:
			p.Get = op
		case http.MethodPost:
			p.Post = op
		case http.MethodPatch:
			p.Patch = op
		case http.MethodDelete:
			p.Delete = op
		}
	}
	return d
}

// chapters are the collections, and last what belongs to none.
func chapters() []openapi.Tag {
	return []openapi.Tag{
		{Name: domains.name, Description: domains.about},
		{Name: "server", Description: "The server itself."},
	}
}

// The names in the description that several places have.
const (
	packetIDHeader   = "X-Packet-ID"
	requestIDHeader  = "X-Request-ID"
	retryAfterHeader = "Retry-After"
	keyScheme        = "key"
	usernameScheme   = "username"
	serviceKeyScheme = "serviceKey"

	certificateScheme = "certificate"
)

func packetSchema() *openapi.Schema {
	return &openapi.Schema{Type: "string", Pattern: "^[ -~]*$", MaxLength: maxPacketID}
}

// describe is a route as an operation.
func (rt *route) describe(c *openapi.Components) *openapi.Operation {
	op := &openapi.Operation{
		Tags: []string{rt.chapter()}, OperationID: rt.id, Summary: rt.summary, Description: rt.about,
	}
	if rt.public() {
		op.Security = []openapi.Credentials{}
	} else if !slices.Contains(rt.permissions, anyCaller) {
		op.Permissions = rt.permissions
	}
	if rt.key != nil {
		op.OperationID += rt.key.suffix
	}
	if may := rt.aboutPermissions(); may != "" {
		op.Description = strings.TrimSpace(op.Description + "\n\n" + may)
	}
	for _, p := range rt.params {
		schema := p.schema()
		out := openapi.Parameter{Name: p.name, In: "query", Description: strings.TrimSpace(p.about + "\n" + schema.Description), Schema: c.Use(schema)}
		out.Schema.Description = ""
		if schema.Type == "array" {
			out.Style, out.Explode = "form", new(bool) // comma-joined
		}
		op.Parameters = append(op.Parameters, out)
	}
	if rt.body != nil {
		op.RequestBody = &openapi.Body{
			// With options a PATCH has none.
			Required: len(rt.params) == 0 || rt.method != http.MethodPatch,
			Content:  openapi.Map[openapi.Media]{{Key: "application/json", Value: openapi.Media{Schema: c.Use(rt.body.Schema), Example: rt.body.Example}}},
		}
	}
	status, text := "200", "success"
	if rt.results == created {
		status, text = "201", "created"
	}
	success := &openapi.Response{Description: text, Headers: responseHeaders()}
	if rt.mediaType != "" {
		success.Content.Set(rt.mediaType, openapi.Media{Schema: &openapi.Schema{Type: "object"}})
	} else {
		success.Content.Set("application/json", openapi.Media{Schema: c.Use(rt.successSchema())})
	}
	op.Responses.Set(status, success)
	rt.describeErrors(op, c)
	return op
}

// chapter is where the route belongs: to a collection, by its path.
func (rt *route) chapter() string {
	all := chapters()
	first, _, _ := strings.Cut(strings.TrimPrefix(rt.path, base+"/"), "/")
	for _, c := range all {
		if c.Name == first {
			return first
		}
	}
	return all[len(all)-1].Name
}

func responseHeaders(more ...string) openapi.Map[*openapi.Header] {
	var out openapi.Map[*openapi.Header]
	for _, name := range append([]string{requestIDHeader, packetIDHeader}, more...) {
		out.Set(name, &openapi.Header{Ref: "#/components/headers/" + name})
	}
	return out
}

func (rt *route) aboutPermissions() string {
	switch {
	case rt.public():
		return "For anybody."
	case slices.Contains(rt.permissions, anyCaller):
		return "For every caller who is let in."
	case len(rt.permissions) == 1:
		return "Takes the permission `" + rt.permissions[0] + "`."
	}
	return "Takes one of the permissions `" + strings.Join(rt.permissions, "`, `") + "`, by what is asked for."
}

// unroutedCodes are those of paths and methods that are in no route.
var unroutedCodes = []envelope.Code{envelope.BadURL, envelope.BadSubsystem, envelope.BadParameter, envelope.MethodNotAllowed, envelope.BadSearchKey}

// aboutAll is what holds for the whole API.
func aboutAll() string {
	var b strings.Builder
	b.WriteString("Every response under " + base + "/ but this description is an object with results, success, errors and messages, and result_info on lists. " +
		"A change is sent to libvirt once: when its answer is lost, the error says that the outcome is unknown. " +
		"GET answers HEAD as well. Bodies are JSON whatever their Content-Type says; unknown fields and unknown parameters are errors, and nothing is done.\n\n" +
		"Paths and methods that are not here are answered with these codes, and `Allow` names the methods that there are:\n")
	for _, code := range unroutedCodes {
		fmt.Fprintf(&b, "\n- %d (%d): %s", code, code.Status(), code.Message())
	}
	return b.String()
}
