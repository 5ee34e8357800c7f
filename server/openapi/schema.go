package openapi

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Schema is a JSON Schema (draft 2020-12, which OpenAPI 3.1 uses). A schema
// with a Name is written once, among the components, and referred to by it.
type Schema struct {
	Name string  `json:"-"`
	of   *Schema // see Meaning

	Ref         string `json:"$ref,omitempty"`
	Type        string `json:"type,omitempty"`
	Format      string `json:"format,omitempty"`
	Description string `json:"description,omitempty"`
	Const       any    `json:"const,omitempty"`
	Enum        []any  `json:"enum,omitempty"`
	Default     any    `json:"default,omitempty"`
	Examples    []any  `json:"examples,omitempty"`

	Pattern   string `json:"pattern,omitempty"`
	MinLength int    `json:"minLength,omitempty"`
	MaxLength int    `json:"maxLength,omitempty"`
	Minimum   *int64 `json:"minimum,omitempty"`
	Maximum   *int64 `json:"maximum,omitempty"`

	PrefixItems []*Schema `json:"prefixItems,omitempty"`
	Items       *Schema   `json:"items,omitempty"`
	MinItems    int       `json:"minItems,omitempty"`
	MaxItems    *int      `json:"maxItems,omitempty"`

	Properties           Map[*Schema] `json:"properties,omitempty"`
	Required             []string     `json:"required,omitempty"`
	AdditionalProperties any          `json:"additionalProperties,omitempty"` // false, or a *Schema
	MinProperties        int          `json:"minProperties,omitempty"`
	MaxProperties        int          `json:"maxProperties,omitempty"`

	OneOf []*Schema `json:"oneOf,omitempty"`
}

// Text is any text.
func Text() *Schema { return &Schema{Type: "string"} }

// Truth is true or false.
func Truth() *Schema { return &Schema{Type: "boolean"} }

// Number is a whole number of so many bits, from least on.
func Number(bits int, least int64) *Schema {
	return &Schema{Type: "integer", Format: "int" + strconv.Itoa(bits), Minimum: &least}
}

// UpTo adds a bound to a number.
func (s *Schema) UpTo(most int64) *Schema {
	s.Maximum = &most
	return s
}

// OneWord is one of the words.
func OneWord(words ...string) *Schema {
	s := Text()
	for _, w := range words {
		s.Enum = append(s.Enum, w)
	}
	return s
}

// List is an array of as many items as there are.
func List(items *Schema) *Schema { return &Schema{Type: "array", Items: items} }

// Between bounds the items of an array; most below 0 is no bound.
func (s *Schema) Between(least, most int) *Schema {
	s.MinItems = least
	if most >= 0 {
		s.MaxItems = &most
	}
	return s
}

// Object is an object with these keys and no others.
func Object(properties Map[*Schema], required ...string) *Schema {
	return &Schema{Type: "object", Properties: properties, Required: required, AdditionalProperties: false}
}

// Either is exactly one of the schemas.
func Either(schemas ...*Schema) *Schema { return &Schema{OneOf: schemas} }

// Named gives the schema a name and says what it is.
func (s *Schema) Named(name, about string) *Schema {
	s.Name, s.Description = name, about
	return s
}

// About says what the value means.
func (s *Schema) About(text string) *Schema {
	s.Description = text
	return s
}

// Meaning is the schema used in a place where it means what the text says, while
// the component, if it is one, keeps its own description.
func (s *Schema) Meaning(text string) *Schema {
	if s.Name == "" || text == "" {
		return s.About(text)
	}
	return &Schema{of: s, Description: text}
}

// Describer is a type whose JSON does not follow from its fields.
type Describer interface{ Schema() *Schema }

// Of is the schema of T as encoding/json reads and writes it. A struct has a
// component of its type's name. Beside json, the tags of a field are about (its
// meaning), enum (comma-joined words), default, minimum and maximum; one with
// omitempty may be left out.
func Of[T any]() *Schema { return of(reflect.TypeFor[T]()) }

func of(t reflect.Type) *Schema {
	if d, ok := reflect.Zero(t).Interface().(Describer); ok {
		return d.Schema()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return of(t.Elem())
	case reflect.String:
		return Text()
	case reflect.Bool:
		return Truth()
	case reflect.Int, reflect.Int64:
		return &Schema{Type: "integer", Format: "int64"}
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		return Number(64, 0)
	case reflect.Slice:
		return List(of(t.Elem()))
	case reflect.Struct:
		return object(t)
	}
	panic(fmt.Sprintf("openapi: no schema for %s", t))
}

func object(t reflect.Type) *Schema {
	s := Object(nil)
	s.Name = TypeName(t.Name())
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		v := of(f.Type)
		words := v
		if v.Items != nil {
			words = v.Items
		}
		for w := range strings.SplitSeq(f.Tag.Get("enum"), ",") {
			if w != "" {
				words.Enum = append(words.Enum, w)
			}
		}
		if d := f.Tag.Get("default"); d != "" {
			v.Default = d
		}
		for tag, bound := range map[string]**int64{"minimum": &v.Minimum, "maximum": &v.Maximum} {
			if n, err := strconv.ParseInt(f.Tag.Get(tag), 10, 64); err == nil {
				*bound = &n
			}
		}
		s.Properties.Set(name, v.Meaning(f.Tag.Get("about")))
		if options != "omitempty" {
			s.Required = append(s.Required, name)
		}
	}
	return s
}

// TypeName is the name of a component for something that has a name of another
// form: max_memory becomes MaxMemory.
func TypeName(name string) string {
	var out string
	for part := range strings.SplitSeq(name, "_") {
		out += strings.ToUpper(part[:1]) + part[1:]
	}
	return out
}
