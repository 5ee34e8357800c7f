package xdr

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"

	"github.com/digitalocean/go-libvirt"
)

// Decode reads the payload as a value of type t; t nil is the empty payload and
// gives nil. It runs Check first, so no count it believes goes beyond the
// payload. Padding is not looked at, so a caller that needs the same bytes again
// compares Encode's.
func Decode(t reflect.Type, payload []byte) (any, error) {
	if err := Check(t, payload); err != nil {
		return nil, err
	}
	if t == nil {
		return nil, nil
	}
	v := reflect.New(t).Elem()
	d := decoder{payload}
	d.value(v)
	return v.Interface(), nil
}

// decoder reads what Check has passed.
type decoder struct{ b []byte }

func (d *decoder) uint32() uint32 {
	n := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return n
}

func (d *decoder) uint64() uint64 {
	n := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return n
}

func (d *decoder) opaque(n int) []byte {
	b := d.b[:n:n]
	d.b = d.b[padded(n):]
	return b
}

func (d *decoder) string() string { return string(d.opaque(int(d.uint32()))) }

func (d *decoder) value(v reflect.Value) {
	if v.Type() == valueType {
		v.Set(reflect.ValueOf(d.param()))
		return
	}
	switch v.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32:
		v.SetInt(int64(int32(d.uint32())))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		v.SetUint(uint64(d.uint32()))
	case reflect.Int64:
		v.SetInt(int64(d.uint64()))
	case reflect.Uint64:
		v.SetUint(d.uint64())
	case reflect.Float64:
		v.SetFloat(math.Float64frombits(d.uint64()))
	case reflect.String:
		v.SetString(d.string())
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			reflect.Copy(v, reflect.ValueOf(d.opaque(v.Len())))
			return
		}
		d.elements(v)
	case reflect.Slice:
		n := int(d.uint32())
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(append([]byte(nil), d.opaque(n)...))
			return
		}
		if n == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		d.elements(v)
	case reflect.Struct:
		for i := range v.NumField() {
			d.value(v.Field(i))
		}
	}
}

func (d *decoder) elements(v reflect.Value) {
	for i := range v.Len() {
		d.value(v.Index(i))
	}
}

func (d *decoder) param() libvirt.TypedParamValue {
	p := libvirt.TypedParamValue{D: d.uint32()}
	switch p.D {
	case 1, 6:
		p.I = int32(d.uint32())
	case 2:
		p.I = d.uint32()
	case 3:
		p.I = int64(d.uint64())
	case 4:
		p.I = d.uint64()
	case 5:
		p.I = math.Float64frombits(d.uint64())
	case 7:
		p.I = d.string()
	}
	return p
}

// Encode is the payload that says v, a struct or a pointer to one; nil is the
// empty payload. It fails on types without a layout, on an optional with more
// than one value, and on a TypedParamValue whose value is not what its
// discriminant announces.
func Encode(v any) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	rv := reflect.Indirect(reflect.ValueOf(v))
	if !rv.IsValid() {
		return nil, fmt.Errorf("xdr: cannot encode a nil %T", v)
	}
	if p := planOf(rv.Type()); p.err != nil {
		return nil, p.err
	}
	return appendValue(nil, rv)
}

func appendValue(b []byte, v reflect.Value) ([]byte, error) {
	if v.Type() == valueType {
		return appendParam(b, v.Interface().(libvirt.TypedParamValue))
	}
	switch v.Kind() {
	case reflect.Int8, reflect.Int16, reflect.Int32:
		return binary.BigEndian.AppendUint32(b, uint32(v.Int())), nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return binary.BigEndian.AppendUint32(b, uint32(v.Uint())), nil
	case reflect.Int64:
		return binary.BigEndian.AppendUint64(b, uint64(v.Int())), nil
	case reflect.Uint64:
		return binary.BigEndian.AppendUint64(b, v.Uint()), nil
	case reflect.Float64:
		return binary.BigEndian.AppendUint64(b, math.Float64bits(v.Float())), nil
	case reflect.String:
		return appendString(b, v.String())
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			for i := range v.Len() {
				b = append(b, byte(v.Index(i).Uint()))
			}
			return appendPadding(b, v.Len()), nil
		}
		return appendElements(b, v)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return appendString(b, string(v.Bytes()))
		}
		if isOptional(v.Type()) && v.Len() > 1 {
			return nil, errOptional
		}
		if uint64(v.Len()) > math.MaxUint32 {
			return nil, fmt.Errorf("xdr: %d elements are too many", v.Len())
		}
		return appendElements(binary.BigEndian.AppendUint32(b, uint32(v.Len())), v)
	case reflect.Struct:
		var err error
		for i := range v.NumField() {
			if b, err = appendValue(b, v.Field(i)); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return nil, fmt.Errorf("xdr: no layout for %v", v.Type())
}

func appendElements(b []byte, v reflect.Value) ([]byte, error) {
	var err error
	for i := range v.Len() {
		if b, err = appendValue(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func appendString(b []byte, s string) ([]byte, error) {
	if uint64(len(s)) > math.MaxUint32 {
		return nil, fmt.Errorf("xdr: a string of %d bytes is too long", len(s))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	b = append(b, s...)
	return appendPadding(b, len(s)), nil
}

// appendPadding fills up what follows n bytes to a multiple of 4.
func appendPadding(b []byte, n int) []byte {
	return append(b, make([]byte, padded(n)-n)...)
}

func appendParam(b []byte, p libvirt.TypedParamValue) ([]byte, error) {
	b = binary.BigEndian.AppendUint32(b, p.D)
	switch v := p.I.(type) {
	case int32:
		if p.D == 1 || p.D == 6 {
			return binary.BigEndian.AppendUint32(b, uint32(v)), nil
		}
	case uint32:
		if p.D == 2 {
			return binary.BigEndian.AppendUint32(b, v), nil
		}
	case int64:
		if p.D == 3 {
			return binary.BigEndian.AppendUint64(b, uint64(v)), nil
		}
	case uint64:
		if p.D == 4 {
			return binary.BigEndian.AppendUint64(b, v), nil
		}
	case float64:
		if p.D == 5 {
			return binary.BigEndian.AppendUint64(b, math.Float64bits(v)), nil
		}
	case string:
		if p.D == 7 {
			return appendString(b, v)
		}
	}
	return nil, fmt.Errorf("xdr: a typed parameter of type %d cannot hold %T", p.D, p.I)
}
