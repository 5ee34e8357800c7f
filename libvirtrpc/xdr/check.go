package xdr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// kind is how a value lies on the wire.
type kind uint8

const (
	fixed    kind = iota // size bytes, whatever they say
	narrow               // a number of 4 bytes that has to fit fewer bits
	opaque               // a length, that many bytes, padding to 4: strings too
	array                // a count, that many elements
	optional             // an array of at most one
	param                // TypedParamValue: a discriminant, then the value it announces
)

// op is a compiled type. A struct is a run of ops in which neighbours of fixed
// size are one, so that a domain is two steps: its name, then UUID and id.
type op struct {
	kind kind
	size int  // fixed: bytes
	bits int  // narrow: of the number, negative for a signed one
	ops  []op // array, optional: the element
	elem int  // array, optional: bytes an element takes at least
	min  int  // bytes the value takes at least
}

// plan is what compiling a type gave.
type plan struct {
	ops []op
	err error
}

var plans sync.Map // reflect.Type to plan

func planOf(t reflect.Type) plan {
	if p, ok := plans.Load(t); ok {
		return p.(plan)
	}
	var p plan
	p.ops, p.err = compile(nil, t)
	plans.Store(t, p)
	return p
}

var valueType = reflect.TypeFor[libvirt.TypedParamValue]()

// compile appends the ops of t, joining runs of fixed size.
func compile(ops []op, t reflect.Type) ([]op, error) {
	if t == valueType {
		return append(ops, op{kind: param, min: 8}), nil
	}
	switch t.Kind() {
	case reflect.Int32, reflect.Uint32:
		return addFixed(ops, 4), nil
	case reflect.Uint8, reflect.Uint16: // nothing on the wire is narrower than 4 bytes
		return append(ops, op{kind: narrow, bits: t.Bits(), min: 4}), nil
	case reflect.Int8, reflect.Int16:
		return append(ops, op{kind: narrow, bits: -t.Bits(), min: 4}), nil
	case reflect.Int64, reflect.Uint64, reflect.Float64:
		return addFixed(ops, 8), nil
	case reflect.String:
		return append(ops, op{kind: opaque, min: 4}), nil
	case reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return addFixed(ops, padded(t.Len())), nil
		}
		var err error
		for range t.Len() {
			if ops, err = compile(ops, t.Elem()); err != nil {
				return nil, err
			}
		}
		return ops, nil
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return append(ops, op{kind: opaque, min: 4}), nil
		}
		elem, err := compile(nil, t.Elem())
		if err != nil {
			return nil, err
		}
		least := minimum(elem)
		if least == 0 {
			// A count of elements that take no room could not be checked.
			return nil, fmt.Errorf("xdr: elements of %v are empty", t)
		}
		k := array
		if isOptional(t) {
			k = optional
		}
		return append(ops, op{kind: k, ops: elem, elem: least, min: 4}), nil
	case reflect.Struct:
		var err error
		for f := range t.Fields() {
			if !f.IsExported() {
				return nil, fmt.Errorf("xdr: field %v.%s is not exported", t, f.Name)
			}
			if ops, err = compile(ops, f.Type); err != nil {
				return nil, err
			}
		}
		return ops, nil
	}
	return nil, fmt.Errorf("xdr: no layout for %v", t)
}

func addFixed(ops []op, size int) []op {
	if n := len(ops); n > 0 && ops[n-1].kind == fixed {
		ops[n-1].size += size
		ops[n-1].min += size
		return ops
	}
	return append(ops, op{kind: fixed, size: size, min: size})
}

func minimum(ops []op) (n int) {
	for _, o := range ops {
		n += o.min
	}
	return n
}

// isOptional says whether t is one of go-libvirt's OptX types: an XDR optional,
// which looks like an array of none or one.
func isOptional(t reflect.Type) bool {
	return t.Kind() == reflect.Slice && strings.HasPrefix(t.Name(), "Opt")
}

// padded is n rounded up to what XDR aligns to.
func padded(n int) int { return (n + 3) &^ 3 }

// ErrMalformed is what every error of Check is: the payload is not of the type.
var ErrMalformed = errors.New("malformed payload")

var (
	errShort    = fmt.Errorf("%w: it ends too early", ErrMalformed)
	errCount    = fmt.Errorf("%w: a count or length goes beyond its end", ErrMalformed)
	errOptional = fmt.Errorf("%w: an optional value has more than one", ErrMalformed)
	errTrailing = fmt.Errorf("%w: bytes follow its end", ErrMalformed)
	errRange    = fmt.Errorf("%w: a number does not fit its field", ErrMalformed)
	errParam    = fmt.Errorf("%w: a typed parameter has an unknown type", ErrMalformed)
	errMessage  = fmt.Errorf("%w: an error without a message", ErrMalformed)
)

// Check says whether the payload can be decoded as t without reading past its
// end and without leaving bytes over; t nil is the empty payload. It allocates
// nothing, whatever counts the payload claims, and looks at values only as far as
// a decoder has to: text need not be UTF-8, nor padding zero. The error is an
// ErrMalformed, or says that t has no layout.
func Check(t reflect.Type, payload []byte) error {
	if t == nil {
		if len(payload) != 0 {
			return errTrailing
		}
		return nil
	}
	p := planOf(t)
	if p.err != nil {
		return p.err
	}
	rest, err := walk(p.ops, payload)
	if err != nil {
		return err
	}
	if len(rest) != 0 {
		return errTrailing
	}
	return nil
}

// CheckError is Check for the payload of an ERROR reply. It also demands the
// message: go-libvirt reads it as if it were always there, and would take what
// follows for a length.
func CheckError(payload []byte) error {
	if err := Check(ErrorType, payload); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(payload[8:]) == 0 {
		return errMessage
	}
	return nil
}

// walk steps over one value and returns what follows it.
func walk(ops []op, b []byte) ([]byte, error) {
	for i := range ops {
		o := &ops[i]
		if len(b) < o.min {
			return nil, errShort
		}
		switch o.kind {
		case fixed:
			b = b[o.size:]
		case narrow:
			n := binary.BigEndian.Uint32(b)
			if o.bits > 0 && n>>o.bits != 0 || o.bits < 0 && int32(n)>>(-o.bits-1) != int32(n)>>31 {
				return nil, errRange
			}
			b = b[4:]
		case opaque:
			var err error
			if b, err = skipOpaque(b); err != nil {
				return nil, err
			}
		case array, optional:
			n := binary.BigEndian.Uint32(b)
			b = b[4:]
			if o.kind == optional && n > 1 {
				return nil, errOptional
			}
			// In 64 bits, for int has 32 on some of the targets.
			if uint64(n)*uint64(o.elem) > uint64(len(b)) {
				return nil, errCount
			}
			for ; n > 0; n-- {
				var err error
				if b, err = walk(o.ops, b); err != nil {
					return nil, err
				}
			}
		case param:
			d := binary.BigEndian.Uint32(b)
			b = b[4:]
			switch d {
			case 1, 2, 6: // int, uint, boolean
				b = b[4:]
			case 3, 4, 5: // llong, ullong, double
				if len(b) < 8 {
					return nil, errShort
				}
				b = b[8:]
			case 7: // string
				var err error
				if b, err = skipOpaque(b); err != nil {
					return nil, err
				}
			default:
				return nil, errParam
			}
		}
	}
	return b, nil
}

// skipOpaque steps over a length and its bytes; 4 bytes must be there.
func skipOpaque(b []byte) ([]byte, error) {
	n := (uint64(binary.BigEndian.Uint32(b)) + 3) &^ 3
	b = b[4:]
	if n > uint64(len(b)) {
		return nil, errCount
	}
	return b[n:], nil
}
