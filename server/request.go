package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"virtgate/audit"
	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
)

// request is what a decoder sees of an HTTP request.
type request struct {
	caller auth.Caller
	by     string // by-name, by-uuid or by-id, in paths that have it
	id     string // the identifier, decoded
	query  *query
	http   *http.Request
	entry  *audit.Entry // its line in the audit log, nil without one
	audit  *audit.Log
}

// query reads query parameters and remembers which were read: one that nobody
// read is an error, because a misspelt filter must never widen a result.
type query struct {
	values url.Values
	read   []string
	err    error // the first mistake
}

func parseQuery(raw string) (*query, error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, envelope.New(envelope.BadURL, "the query string cannot be decoded")
	}
	return &query{values: v}, nil
}

func (q *query) fail(name, why string) {
	if q.err == nil {
		q.err = envelope.New(envelope.BadFlag, fmt.Sprintf("%s: %s", printable(name), why))
	}
}

// text is the value of a parameter, and whether it is there.
func (q *query) text(name string) (string, bool) {
	q.read = append(q.read, name)
	v, ok := q.values[name]
	switch {
	case !ok:
		return "", false
	case len(v) > 1:
		q.fail(name, "given twice; join the values with a comma")
	case v[0] == "":
		q.fail(name, "has no value")
	case !utf8.ValidString(v[0]):
		q.fail(name, "is not UTF-8")
	}
	return v[0], true
}

// list is the comma-joined values of a parameter, nil when it is not there.
func (q *query) list(name string) []string {
	v, ok := q.text(name)
	if !ok {
		return nil
	}
	out := strings.Split(v, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

var booleans = map[string]bool{"true": true, "1": true, "yes": true, "false": false, "0": false, "no": false}

// tri is a yes-or-no filter. Both answers, joined by a comma, are any.
func (q *query) tri(name string) libvirtrpc.Tri {
	var yes, no bool
	for _, v := range q.list(name) {
		b, ok := booleans[strings.ToLower(v)]
		if !ok {
			q.fail(name, "want true or false")
		}
		yes, no = yes || b, no || !b
	}
	switch {
	case yes == no:
		return libvirtrpc.Any
	case yes:
		return libvirtrpc.Yes
	}
	return libvirtrpc.No
}

// bool is a yes-or-no option, false when it is not there.
func (q *query) bool(name string) bool {
	v, ok := q.text(name)
	if !ok {
		return false
	}
	b, known := booleans[strings.ToLower(v)]
	if !known {
		q.fail(name, "want true or false")
	}
	return b
}

// number is a number from 1 to most, or def when it is not there.
func (q *query) number(name string, def, most int) int {
	v, ok := q.text(name)
	if !ok {
		return def
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > most {
		q.fail(name, fmt.Sprintf("want a number from 1 to %d", most))
		return def
	}
	return n
}

// choice is one of the words given, in any case, or the first one when the
// parameter is not there.
func (q *query) choice(name string, words ...string) string {
	v, ok := q.text(name)
	if !ok {
		return words[0]
	}
	v = strings.ToLower(v)
	if !slices.Contains(words, v) {
		q.fail(name, "want one of "+strings.Join(words, ", "))
		return words[0]
	}
	return v
}

// unknown is the first mistake: a bad value, or a parameter that nobody read.
func (q *query) unknown() error {
	names := make([]string, 0, len(q.values))
	for name := range q.values {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if !slices.Contains(q.read, name) {
			return envelope.New(envelope.BadFlag, printable(name)+"; this request knows "+strings.Join(q.known(), ", "))
		}
	}
	return q.err
}

func (q *query) known() []string {
	if len(q.read) == 0 {
		return []string{"no parameters"}
	}
	return slices.Compact(slices.Sorted(slices.Values(q.read)))
}

// printable is text from a client, short and quoted, for an error message.
func printable(s string) string {
	if r := []rune(s); len(r) > 64 {
		s = string(r[:64]) + "…"
	}
	return strconv.Quote(s)
}

// domain is the domain that the path names.
func (r *request) domain() (libvirtrpc.Ref, error) {
	switch r.by {
	case "by-uuid":
		u, err := libvirtrpc.ParseUUID(r.id)
		if err != nil {
			return libvirtrpc.Ref{}, envelope.New(envelope.BadIdentifier, err.Error())
		}
		return libvirtrpc.ByUUID(u), nil
	case "by-id":
		n, err := strconv.ParseInt(r.id, 10, 32)
		if err != nil || n < 0 {
			return libvirtrpc.Ref{}, envelope.New(envelope.BadIdentifier, "the id of an active domain is a number from 0")
		}
		return libvirtrpc.ByID(int32(n)), nil
	}
	if err := checkName(r.id); err != nil {
		return libvirtrpc.Ref{}, envelope.New(envelope.BadIdentifier, err.Error())
	}
	return libvirtrpc.ByName(r.id), nil
}

// maxName is the most bytes that a domain's name has, by the reference.
const maxName = 253

// checkName refuses names that cannot be a domain's. libvirt checks the rest.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a name is not empty")
	case len(name) > maxName:
		return fmt.Errorf("a name has at most %d bytes", maxName)
	case !utf8.ValidString(name):
		return errors.New("a name is UTF-8")
	case strings.ContainsFunc(name, func(c rune) bool { return c < 0x20 || c == 0x7f }):
		return errors.New("a name has no control characters")
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
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, envelope.New(envelope.BodyTooLarge, fmt.Sprintf("at most %d bytes", tooLarge.Limit))
	case err != nil:
		return nil, envelope.New(envelope.BadRequest, "the body ended early")
	}
	return b, nil
}

// maxDepth is how deep a body may nest; the deepest that means something has 4.
const maxDepth = 16

// items is a JSON body as the list of its items: the elements of an array, or
// the one value that it is. The whole text is checked: syntax, UTF-8, depth,
// duplicate keys, trailing data.
func items(body []byte) (list []json.RawMessage, array bool, err error) {
	if err := checkJSON(body); err != nil {
		return nil, false, err
	}
	body = bytes.TrimSpace(body)
	if body[0] != '[' {
		return []json.RawMessage{body}, false, nil
	}
	if err := json.Unmarshal(body, &list); err != nil {
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
				folded := strings.ToLower(t)
				if stack[top].keys[folded] {
					return syntax(dec.InputOffset(), "duplicate key "+printable(t))
				}
				stack[top].keys[folded] = true
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

// strict decodes one JSON object into v; an unknown field or a wrong type is an
// error that names it.
func strict(raw json.RawMessage, v any) error {
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
