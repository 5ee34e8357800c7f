package xdr

import (
	"reflect"

	"github.com/digitalocean/go-libvirt"
)

// Sample is a value of any layout with something in every place, for tests.
func Sample(t reflect.Type) any {
	v := reflect.New(t).Elem()
	sample(v)
	return v.Interface()
}

func sample(v reflect.Value) {
	if v.Type() == valueType {
		v.Set(reflect.ValueOf(*libvirt.NewTypedParamValueString("abc")))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString("somebody")
	case reflect.Struct:
		for i := range v.NumField() {
			sample(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		sample(v.Index(0))
	case reflect.Array:
		for i := range v.Len() {
			sample(v.Index(i))
		}
	case reflect.Float64:
		v.SetFloat(1.5)
	default:
		if v.CanInt() {
			v.SetInt(7)
		} else {
			v.SetUint(7)
		}
	}
}
