package server

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/openapi"
)

// param is one query parameter, bound to where its value goes. A request type
// lists its own, as with package flag; that they are read, that all others are
// refused and how they are described follows from the list.
type param struct {
	name, about string
	schema      func() *openapi.Schema
	set         func(string) error // not called when the parameter is not there
}

// query are the query parameters as they came.
type query url.Values

func parseQuery(raw string) (query, error) {
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, envelope.New(envelope.BadURL, "the query string cannot be decoded")
	}
	return query(v), nil
}

// read sets the parameters. One that is not in the list is an error, because a
// misspelt filter must never widen a result.
func (q query) read(params []param) error {
	unknown := ""
	for name := range q {
		if !slices.ContainsFunc(params, func(p param) bool { return p.name == name }) && (unknown == "" || name < unknown) {
			unknown = name
		}
	}
	if _, ok := q[unknown]; ok {
		return envelope.New(envelope.BadFlag, printable(unknown)+"; this request knows "+paramNames(params))
	}
	for _, p := range params {
		v, ok := q[p.name]
		if !ok {
			continue
		}
		var err error
		switch {
		case len(v) > 1:
			err = errors.New("given twice; join the values with a comma")
		case v[0] == "":
			err = errors.New("has no value")
		case !utf8.ValidString(v[0]):
			err = errors.New("is not UTF-8")
		case slices.Contains(split(v[0]), ""):
			// An empty word is in every name: "search=a," would find everything.
			err = errors.New("has an empty value")
		case strings.Count(v[0], ",") >= maxValues:
			err = fmt.Errorf("at most %d values", maxValues)
		default:
			err = p.set(v[0])
		}
		if err != nil {
			return badParam(p.name, err.Error())
		}
	}
	return nil
}

// maxValues bounds a filter: every object of a list is held against each value.
const maxValues = 256

func badParam(name, why string) error {
	return envelope.New(envelope.BadFlag, printable(name)+": "+why)
}

func paramNames(params []param) string {
	if len(params) == 0 {
		return "no parameters"
	}
	var names []string
	for _, p := range params {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// printable is text from a client, short and quoted, for an error message.
func printable(s string) string {
	if r := []rune(s); len(r) > 64 {
		s = string(r[:64]) + "…"
	}
	return strconv.Quote(s)
}

// split is a comma-joined value.
func split(v string) []string {
	out := strings.Split(v, ",")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

// words is a comma-joined list of any text.
func words(name, about string, to *[]string) param {
	return param{name, about, func() *openapi.Schema { return openapi.List(openapi.Text()).Between(1, -1) }, func(v string) error {
		*to = split(v)
		return nil
	}}
}

var booleans = map[string]bool{"true": true, "1": true, "yes": true, "false": false, "0": false, "no": false}

func parseBool(v string) (bool, error) {
	b, ok := booleans[strings.ToLower(v)]
	if !ok {
		return false, errors.New("want true or false")
	}
	return b, nil
}

// boolean is a yes-or-no option, false when it is not there.
func boolean(name, about string, to *bool) param {
	return param{name, about, openapi.Truth, func(v string) (err error) {
		*to, err = parseBool(v)
		return err
	}}
}

// tri is a yes-or-no filter. Both answers, joined by a comma, are any.
func tri(name, about string, to *libvirtrpc.Tri) param {
	return param{name, about, openapi.Truth, func(v string) error {
		var yes, no bool
		for _, w := range split(v) {
			b, err := parseBool(w)
			if err != nil {
				return err
			}
			yes, no = yes || b, no || !b
		}
		switch {
		case yes && no:
			*to = libvirtrpc.Any
		case yes:
			*to = libvirtrpc.Yes
		default:
			*to = libvirtrpc.No
		}
		return nil
	}}
}

// number is a number from 1 to most.
func number(name, about string, to *int, most int) param {
	return param{name, about, func() *openapi.Schema { return openapi.Number(32, 1).UpTo(int64(most)) }, func(v string) error {
		n, err := strconv.ParseUint(v, 10, 31) // no sign
		if err != nil || n < 1 || int(n) > most {
			return fmt.Errorf("want a number from 1 to %d", most)
		}
		*to = int(n)
		return nil
	}}
}

// choice is one of the words, in any case; the first one is meant when the
// parameter is not there.
func choice(name, about string, words []string, set func(string)) param {
	schema := func() *openapi.Schema {
		s := openapi.OneWord(words...)
		s.Default = words[0]
		return s
	}
	return param{name, about, schema, func(v string) error {
		v = strings.ToLower(v)
		if !slices.Contains(words, v) {
			return errors.New("want one of " + strings.Join(words, ", "))
		}
		set(v)
		return nil
	}}
}

// option is one word that a client may say, what it means to people, and what
// it means to us.
type option[V any] struct {
	word, about string
	value       V
}

// options are a comma-joined list of the words known, in any case; set is
// called with each.
func options[V any](name, about string, known []option[V], set func(option[V])) param {
	schema := func() *openapi.Schema {
		return openapi.List(openapi.OneWord(optionWords(known)...)).Between(1, -1).About(optionTable(known))
	}
	return param{name, about, schema, func(v string) error {
		for _, w := range split(v) {
			o, ok := findOption(known, strings.ToLower(w))
			if !ok {
				return errors.New("no option " + printable(w) + "; there are " + strings.Join(optionWords(known), ", "))
			}
			set(o)
		}
		return nil
	}}
}

func findOption[V any](known []option[V], word string) (option[V], bool) {
	i := slices.IndexFunc(known, func(o option[V]) bool { return o.word == word })
	if i < 0 {
		return option[V]{}, false
	}
	return known[i], true
}

func optionWords[V any](known []option[V]) []string {
	var out []string
	for _, o := range known {
		out = append(out, o.word)
	}
	return out
}

// optionTable is the words and their meaning as a Markdown list.
func optionTable[V any](known []option[V]) string {
	var b strings.Builder
	for _, o := range known {
		fmt.Fprintf(&b, "\n- `%s`: %s", o.word, o.about)
	}
	return b.String()
}
