package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"unicode"
	"unicode/utf8"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/domainxml"
	"virtgate/server/audit"
	"virtgate/server/openapi"
)

// request is what a decoder sees of an HTTP request.
type request struct {
	caller auth.Caller
	key    *key   // how the path names an object, in paths that do
	id     string // the identifier, decoded
	http   *http.Request
	entry  *audit.Entry // its line in the audit log, nil without one
	audit  *audit.Log
}

// ref is the object that the path names.
func (r *request) ref() (libvirtrpc.Ref, error) {
	ref, err := r.key.parse(r.id)
	if err != nil {
		return ref, envelope.New(envelope.BadIdentifier, err.Error())
	}
	return ref, nil
}

// maxName is the most characters that a domain's name has, by the reference.
const maxName = 253

func nameSchema() *openapi.Schema {
	return &openapi.Schema{Type: "string", MinLength: 1, MaxLength: maxName, Examples: []any{"debian-vm"}}
}

// checkName refuses names that cannot be a domain's. libvirt checks the rest.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is not empty")
	case utf8.RuneCountInString(name) > maxName:
		return fmt.Errorf("a name has at most %d characters", maxName)
	case !utf8.ValidString(name):
		return errors.New("a name is UTF-8")
	case strings.ContainsFunc(name, func(c rune) bool { return c < 0x20 || c == 0x7f }):
		return errors.New("a name has no control characters")
	case strings.ContainsRune(name, utf8.RuneError): // it stands for what was no character
		return errors.New("a name has no replacement characters (U+FFFD)")
	case !domainxml.Text(name):
		return errors.New("a name has only characters that XML can hold")
	}
	return nil
}

// body reads the request's body whole. Its size is bounded where the request
// came in.
func (r *request) body() ([]byte, error) {
	if e := r.http.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, envelope.New(envelope.BadRequest, "a body with Content-Encoding is not accepted")
	}
	b, err := io.ReadAll(r.http.Body)
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge(over.Limit)
	case err != nil:
		return nil, envelope.New(envelope.BadRequest, "the body ended early")
	}
	return b, nil
}

func tooLarge(limit int64) error {
	return envelope.New(envelope.BodyTooLarge, fmt.Sprintf("at most %d bytes", limit))
}

// maxDepth is how deep a body may nest; the deepest that means something has 4.
const maxDepth = 16

// items is a JSON body as the list of its items: the elements of an array, or
// the one value that it is. Behind the first one over most the list ends. The
// whole text is checked: syntax, UTF-8, depth, duplicate keys, trailing data.
func items(body []byte, most int) (list []json.RawMessage, array bool, err error) {
	if err := checkJSON(body); err != nil {
		return nil, false, err
	}
	body = bytes.TrimSpace(body)
	if body[0] != '[' {
		return []json.RawMessage{body}, false, nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	_, err = dec.Token()
	for err == nil && dec.More() && len(list) <= most {
		var item json.RawMessage
		err = dec.Decode(&item)
		list = append(list, item)
	}
	if err != nil {
		return nil, false, envelope.New(envelope.Syntax, err.Error())
	}
	return list, true, nil
}

func checkJSON(body []byte) error {
	syntax := func(offset int64, why string) error {
		return envelope.New(envelope.Syntax, fmt.Sprintf("%s at offset %d", why, offset))
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return syntax(0, "the body is empty")
	}
	for i := 0; i < len(body); {
		r, n := utf8.DecodeRune(body[i:])
		if r == utf8.RuneError && n == 1 {
			return syntax(int64(i), "not UTF-8")
		}
		i += n
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	type level struct {
		keys map[string]bool // nil in an array
		key  bool            // the next token is a key
	}
	var stack []level
	for {
		tok, err := dec.Token()
		if err != nil {
			var se *json.SyntaxError
			if errors.As(err, &se) {
				return syntax(se.Offset, strings.TrimPrefix(se.Error(), "json: "))
			}
			return syntax(int64(len(body)), "the text ends early")
		}
		top := len(stack) - 1
		switch t := tok.(type) {
		case json.Delim:
			switch t {
			case '{', '[':
				if len(stack) >= maxDepth {
					return syntax(dec.InputOffset(), fmt.Sprintf("nested deeper than %d", maxDepth))
				}
				l := level{}
				if t == '{' {
					l = level{keys: map[string]bool{}, key: true}
				}
				stack = append(stack, l)
				continue
			default:
				stack = stack[:top]
			}
		case string:
			if top >= 0 && stack[top].key {
				// Go's decoder does not tell keys apart by case, so neither
				// may two keys of one object.
				if stack[top].keys[folded(t)] {
					return syntax(dec.InputOffset(), "duplicate key "+printable(t))
				}
				stack[top].keys[folded(t)] = true
				stack[top].key = false
				continue
			}
		}
		// A value ended.
		top = len(stack) - 1
		if top < 0 {
			break
		}
		stack[top].key = stack[top].keys != nil
	}
	if _, err := dec.Token(); err != io.EOF {
		return syntax(dec.InputOffset(), "data after the end of the value")
	}
	return nil
}

// folded is a key as Go's decoder compares it: by Unicode's simple folding, for
// which "ſ" (U+017F) is an "s".
func folded(key string) string {
	return strings.Map(func(r rune) rune {
		for {
			next := unicode.SimpleFold(r)
			if next <= r {
				return next
			}
			r = next
		}
	}, key)
}

// strict decodes one JSON object into v; an unknown field or a wrong type is an
// error that names it.
func strict(raw json.RawMessage, v any) error {
	if err := exactKeys(raw, reflect.TypeOf(v).Elem()); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	var te *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &te):
		return fmt.Errorf("field %q: want %s, not %s", te.Field, jsonType(te.Type.Kind().String()), te.Value)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// exactKeys refuses keys that differ from a field of t in their case: Go's
// decoder takes them for the field. Values of other kinds are the decoder's.
func exactKeys(raw json.RawMessage, t reflect.Type) error {
	switch t.Kind() {
	case reflect.Slice:
		var list []json.RawMessage
		if t.Elem().Kind() != reflect.Struct || json.Unmarshal(raw, &list) != nil {
			return nil
		}
		for _, item := range list {
			if err := exactKeys(item, t.Elem()); err != nil {
				return err
			}
		}
	case reflect.Struct:
		var object map[string]json.RawMessage
		if json.Unmarshal(raw, &object) != nil {
			return nil
		}
		for i := range t.NumField() {
			f := t.Field(i)
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			for k, value := range object {
				if k != key && strings.EqualFold(k, key) {
					return fmt.Errorf("unknown field %q; it is written %q", k, key)
				}
				if k == key {
					if err := exactKeys(value, f.Type); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func jsonType(kind string) string {
	switch {
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return "a whole number in range"
	case kind == "slice":
		return "an array"
	case kind == "struct", kind == "map":
		return "an object"
	case kind == "bool":
		return "true or false"
	}
	return "a " + kind
}
