// Package openapi is what an OpenAPI 3.1 description is made of, as far as this
// program says anything in one, and how it is written.
package openapi

import (
	"bytes"
	"encoding/json"
	"reflect"
)

// Document is a whole description.
type Document struct {
	OpenAPI    string        `json:"openapi"`
	Info       Info          `json:"info"`
	Servers    []Server      `json:"servers"`
	Tags       []Tag         `json:"tags"`
	Paths      Map[*Path]    `json:"paths"`
	Components Components    `json:"components"`
	Security   []Credentials `json:"security"`
}

// Info is about the program.
type Info struct {
	Title       string            `json:"title"`
	Summary     string            `json:"summary,omitempty"`
	Description string            `json:"description"`
	Contact     map[string]string `json:"contact,omitempty"`
	License     License           `json:"license"`
	Version     string            `json:"version"`
}

// License is the program's.
type License struct {
	Name       string `json:"name"`
	Identifier string `json:"identifier"`
}

// Server is where the paths begin.
type Server struct {
	URL         string `json:"url"`
	Description string `json:"description"`
}

// Tag is a chapter of the reference.
type Tag struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

// Path is what can be done at one path.
type Path struct {
	Parameters []Parameter `json:"parameters,omitempty"` // of all its operations
	Get        *Operation  `json:"get,omitempty"`
	Post       *Operation  `json:"post,omitempty"`
	Patch      *Operation  `json:"patch,omitempty"`
	Delete     *Operation  `json:"delete,omitempty"`
}

// Operation is one method of a path.
type Operation struct {
	Tags        []string       `json:"tags"`
	Summary     string         `json:"summary"`
	Description string         `json:"description,omitempty"`
	OperationID string         `json:"operationId"`
	Parameters  []Parameter    `json:"parameters,omitempty"`
	RequestBody *Body          `json:"requestBody,omitempty"`
	Responses   Map[*Response] `json:"responses"`
	Security    []Credentials  `json:"security,omitzero"` // nil: the document's
	// Permissions are those of which a caller needs one. OpenAPI 3.1 would have
	// them as roles in Security, but linters take these for scopes of OAuth.
	Permissions []string `json:"x-permissions,omitempty"`
}

// Credentials are security schemes that are good together, with no roles.
type Credentials map[string][0]string

// Parameter is one value in the path, the query or the headers.
type Parameter struct {
	Ref         string  `json:"$ref,omitempty"`
	Name        string  `json:"name,omitempty"`
	In          string  `json:"in,omitempty"`
	Description string  `json:"description,omitempty"`
	Required    bool    `json:"required,omitempty"`
	Style       string  `json:"style,omitempty"`
	Explode     *bool   `json:"explode,omitempty"`
	Schema      *Schema `json:"schema,omitempty"`
}

// Body is what a request carries.
type Body struct {
	Description string     `json:"description,omitempty"`
	Content     Map[Media] `json:"content"`
	Required    bool       `json:"required,omitempty"`
}

// Response is what comes back with one status.
type Response struct {
	Description string       `json:"description"`
	Headers     Map[*Header] `json:"headers,omitempty"`
	Content     Map[Media]   `json:"content,omitempty"`
}

// Header is a header of a response.
type Header struct {
	Ref         string  `json:"$ref,omitempty"`
	Description string  `json:"description,omitempty"`
	Required    bool    `json:"required,omitempty"`
	Schema      *Schema `json:"schema,omitempty"`
}

// Media is content of one media type.
type Media struct {
	Schema  *Schema `json:"schema"`
	Example any     `json:"example,omitempty"`
}

// Components are what is referred to.
type Components struct {
	Schemas         Map[*Schema]        `json:"schemas"`
	Parameters      Map[*Parameter]     `json:"parameters,omitempty"`
	Headers         Map[*Header]        `json:"headers,omitempty"`
	SecuritySchemes Map[SecurityScheme] `json:"securitySchemes"`

	named map[string]*Schema // what Schemas was made of
}

// SecurityScheme is a kind of credential. Name and In are of one that is a header.
type SecurityScheme struct {
	Type        string `json:"type"`
	Name        string `json:"name,omitempty"`
	In          string `json:"in,omitempty"`
	Description string `json:"description"`
}

// Use is what stands for the schema where it is used: itself, or a reference to
// the component that it is from now on, when it has a name. So it is with the
// schemas in it.
func (c *Components) Use(s *Schema) *Schema {
	if s == nil {
		return nil
	}
	if s.of != nil {
		use := c.Use(s.of)
		use.Description = s.Description
		return use
	}
	ref := &Schema{Ref: "#/components/schemas/" + s.Name}
	if known, ok := c.named[s.Name]; ok {
		if !reflect.DeepEqual(known, s) {
			panic("openapi: there are two schemas named " + s.Name)
		}
		return ref
	}
	own := *s
	if s.Name != "" {
		if c.named == nil {
			c.named = map[string]*Schema{}
		}
		c.named[s.Name] = s
		c.Schemas.Set(s.Name, &own) // before what is in it, so that the order is a reader's
	}
	own.Items = c.Use(s.Items)
	own.PrefixItems, own.OneOf = c.useAll(s.PrefixItems), c.useAll(s.OneOf)
	own.Properties = nil
	for _, p := range s.Properties {
		own.Properties.Set(p.Key, c.Use(p.Value))
	}
	if v, ok := s.AdditionalProperties.(*Schema); ok {
		own.AdditionalProperties = c.Use(v)
	}
	if s.Name != "" {
		return ref
	}
	return &own
}

func (c *Components) useAll(list []*Schema) []*Schema {
	var out []*Schema
	for _, s := range list {
		out = append(out, c.Use(s))
	}
	return out
}

// Map is a JSON object whose keys keep their order, for people who read it.
type Map[V any] []Member[V]

// Member is one key of a Map.
type Member[V any] struct {
	Key   string
	Value V
}

// Set adds a key, or gives it another value.
func (m *Map[V]) Set(key string, v V) {
	for i := range *m {
		if (*m)[i].Key == key {
			(*m)[i].Value = v
			return
		}
	}
	*m = append(*m, Member[V]{key, v})
}

// Get is the value of a key, the zero value when there is none.
func (m Map[V]) Get(key string) V {
	for i := range m {
		if m[i].Key == key {
			return m[i].Value
		}
	}
	var none V
	return none
}

// MarshalJSON writes the keys in their order.
func (m Map[V]) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i := range m {
		if i > 0 {
			b = append(b, ',')
		}
		for j, v := range []any{m[i].Key, m[i].Value} {
			var buf bytes.Buffer
			enc := json.NewEncoder(&buf)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				return nil, err
			}
			b = append(b, bytes.TrimSpace(buf.Bytes())...)
			if j == 0 {
				b = append(b, ':')
			}
		}
	}
	return append(b, '}'), nil
}
