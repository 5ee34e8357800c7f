package xdr

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
)

type dialer struct{ net.Conn }

func (d dialer) Dial() (net.Conn, error) { return d.Conn, nil }

// TestTableAgainstGoLibvirt calls every procedure of the table by go-libvirt's
// own method: number, arguments and reply must be what the table says.
func TestTableAgainstGoLibvirt(t *testing.T) {
	type call struct {
		number  uint32
		payload []byte
	}
	calls := make(chan call, 8)
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		defer far.Close()
		for {
			head := make([]byte, 28)
			if _, err := io.ReadFull(far, head); err != nil {
				return
			}
			c := call{binary.BigEndian.Uint32(head[12:]), make([]byte, binary.BigEndian.Uint32(head)-28)}
			if _, err := io.ReadFull(far, c.payload); err != nil {
				return
			}
			calls <- c
			var reply []byte
			if p, _ := Procedure(Program, c.number); p.Ret != nil {
				v := Sample(p.Ret)
				if p.Name == "AuthList" {
					v = libvirt.AuthListRet{Types: []libvirt.AuthType{0}}
				}
				reply, _ = Encode(v)
			}
			binary.BigEndian.PutUint32(head, uint32(28+len(reply)))
			binary.BigEndian.PutUint32(head[16:], 1)
			if _, err := far.Write(append(head, reply...)); err != nil {
				return
			}
		}
	}()
	l := libvirt.NewWithDialer(dialer{near})
	if err := l.ConnectToURI("test:///default"); err != nil {
		t.Fatal(err)
	}
	<-calls // AuthList
	open := <-calls
	got, err := Decode(reflect.TypeFor[ConnectOpenArgs](), open.payload)
	if err != nil {
		t.Fatal(err)
	}
	want := ConnectOpenArgs{Present: 0x01000000, Name: "test:///default"}
	if diff := cmp.Diff(want, got); diff != "" || open.number != 1 {
		t.Fatalf("ConnectOpen, procedure %d: %s", open.number, diff)
	}

	for _, p := range Procedures() {
		if p.Name == "DomainEventCallbackLifecycle" {
			continue // its reply would be routed as an event
		}
		m := reflect.ValueOf(l).MethodByName(p.Name)
		if !m.IsValid() {
			t.Errorf("%s: go-libvirt has no such method", p.Name)
			continue
		}
		var in []reflect.Value
		for i := range m.Type().NumIn() {
			in = append(in, reflect.ValueOf(Sample(m.Type().In(i))))
		}
		out := m.Call(in)
		if err, _ := out[len(out)-1].Interface().(error); err != nil {
			t.Errorf("%s: %v", p.Name, err)
			return
		}
		c := <-calls
		if c.number != p.Number {
			t.Errorf("%s has number %d in the table, go-libvirt sends %d", p.Name, p.Number, c.number)
			continue
		}
		if err := Check(p.Args, c.payload); err != nil {
			t.Errorf("%s: arguments as go-libvirt sends them: %v", p.Name, err)
		}
		results := 0
		if p.Ret != nil {
			results = p.Ret.NumField()
		}
		if len(out)-1 != results {
			t.Errorf("%s: go-libvirt returns %d values, the table %d", p.Name, len(out)-1, results)
			continue
		}
		if p.Ret == nil || p.Name == "AuthList" {
			continue
		}
		ret := reflect.ValueOf(Sample(p.Ret))
		for i := range results {
			if diff := cmp.Diff(ret.Field(i).Interface(), out[i].Interface()); diff != "" {
				t.Errorf("%s: what go-libvirt decoded differs:\n%s", p.Name, diff)
			}
		}
	}
}

func TestTableIsInOrder(t *testing.T) {
	for i, p := range procedures {
		if i > 0 && p.Number <= procedures[i-1].Number {
			t.Errorf("%s comes after %s", p.Name, procedures[i-1].Name)
		}
		if got, ok := Named(p.Name); !ok || got != p {
			t.Errorf("Named(%q) = %v, %v", p.Name, got, ok)
		}
	}
	if _, ok := Procedure(0x6b656570, 1); ok {
		t.Error("keepalive's procedure 1 is not ConnectOpen")
	}
}

func TestRoundTrip(t *testing.T) {
	types := []reflect.Type{ErrorType}
	for _, p := range procedures {
		for _, typ := range []reflect.Type{p.Args, p.Ret} {
			if typ != nil {
				types = append(types, typ)
			}
		}
	}
	for _, typ := range types {
		for _, v := range []any{Sample(typ), reflect.Zero(typ).Interface()} {
			b, err := Encode(v)
			if strings.Contains(typ.Name(), "Stats") && err != nil {
				t.Errorf("%v: %v", typ, err)
			}
			got, err := Decode(typ, b)
			if err != nil {
				t.Errorf("%v: %v", typ, err)
				continue
			}
			if diff := cmp.Diff(v, got); diff != "" {
				t.Errorf("%v: %s", typ, diff)
			}
			for n := range b {
				if err := Check(typ, b[:n]); !errors.Is(err, ErrMalformed) {
					t.Errorf("%v cut to %d of %d bytes: %v", typ, n, len(b), err)
				}
			}
			if err := Check(typ, append(b, 0)); !errors.Is(err, ErrMalformed) {
				t.Errorf("%v with a byte over: %v", typ, err)
			}
		}
	}
}

func u32(ns ...uint32) (b []byte) {
	for _, n := range ns {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func TestCheckRefuses(t *testing.T) {
	list := reflect.TypeFor[libvirt.ConnectListAllDomainsRet]()
	stats := reflect.TypeFor[libvirt.ConnectGetAllDomainStatsRet]()
	record := append(u32(1, 1), 'a', 0, 0, 0)
	record = append(record, make([]byte, 20)...)
	for _, tt := range []struct {
		name    string
		typ     reflect.Type
		payload []byte
		want    error
	}{
		{"empty", list, nil, errShort},
		{"count of 2^31-1", list, u32(math.MaxInt32, 0, 0), errCount},
		{"count of 2^32-1", list, u32(math.MaxUint32, 0, 0), errCount},
		{"one domain too many for the rest", list, append(u32(2), make([]byte, 24+4)...), errCount},
		{"length of 2^32-1", reflect.TypeFor[libvirt.ConnectGetTypeRet](), u32(math.MaxUint32, 0), errCount},
		{"length without padding", reflect.TypeFor[libvirt.ConnectGetTypeRet](), append(u32(5), "abcde"...), errCount},
		{"optional of two", reflect.TypeFor[libvirt.ConnectDomainEventCallbackRegisterAnyArgs](), append(u32(0, 2), make([]byte, 48)...), errOptional},
		{"state of 256 in 8 bits", reflect.TypeFor[libvirt.DomainGetInfoRet](), append(u32(256), make([]byte, 28)...), errRange},
		{"2^16 VCPUs in 16 bits", reflect.TypeFor[libvirt.DomainGetInfoRet](), append(append(u32(1), make([]byte, 16)...), u32(1<<16, 0, 0)...), errRange},
		{"128 in 8 bits with a sign", reflect.TypeFor[struct{ N int8 }](), u32(128), errRange},
		{"-129 in 8 bits with a sign", reflect.TypeFor[struct{ N int8 }](), u32(0xffffff7f), errRange},
		{"trailing", reflect.TypeFor[libvirt.DomainGetStateRet](), u32(1, 2, 3), errTrailing},
		{"empty expected", nil, u32(0), errTrailing},
		{"parameter of type 0", stats, append(record, u32(1, 0, 0, 0)...), errParam},
		{"parameter of type 8", stats, append(record, u32(1, 0, 8, 0)...), errParam},
		{"parameter cut", stats, append(record, u32(1, 0, 4, 0)...), errShort},
		{"parameter string too long", stats, append(record, u32(1, 0, 7, 9, 0)...), errCount},
		{"parameters too many", stats, append(record, u32(2, 0, 1, 0)...), errCount},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := Check(tt.typ, tt.payload); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if _, err := Decode(tt.typ, tt.payload); err == nil {
				t.Error("Decode takes it")
			}
		})
	}
}

func TestParams(t *testing.T) {
	want := libvirt.ConnectGetAllDomainStatsRet{RetStats: []libvirt.DomainStatsRecord{{
		Dom: libvirt.Domain{Name: "a", UUID: libvirt.UUID{1, 2}, ID: -1},
		Params: []libvirt.TypedParam{
			{Field: "i", Value: *libvirt.NewTypedParamValueInt(-1)},
			{Field: "u", Value: *libvirt.NewTypedParamValueUint(1)},
			{Field: "l", Value: *libvirt.NewTypedParamValueLlong(-2)},
			{Field: "ul", Value: *libvirt.NewTypedParamValueUllong(2)},
			{Field: "d", Value: *libvirt.NewTypedParamValueDouble(0.25)},
			{Field: "b", Value: libvirt.TypedParamValue{D: 6, I: int32(1)}},
			{Field: "s", Value: *libvirt.NewTypedParamValueString("text")},
		},
	}}}
	b, err := Encode(&want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(reflect.TypeOf(want), b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want.RetStats[0].Params[0].Value.I = "not an int"
	if _, err := Encode(want); err == nil {
		t.Error("a text passes for an int")
	}
}

func TestCheckError(t *testing.T) {
	b, err := Encode(Error{Code: 42, Message: libvirt.OptString{"no domain"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckError(b); err != nil {
		t.Error(err)
	}
	b, _ = Encode(Error{Code: 42})
	if err := CheckError(b); !errors.Is(err, errMessage) {
		t.Errorf("an error without a message: %v", err)
	}
}

func TestNoLayout(t *testing.T) {
	for _, v := range []any{
		struct{ M map[string]int }{},
		struct{ E []struct{} }{},
		struct{ hidden int32 }{},
	} {
		if err := Check(reflect.TypeOf(v), nil); err == nil || errors.Is(err, ErrMalformed) {
			t.Errorf("%T: %v", v, err)
		}
		if _, err := Encode(v); err == nil {
			t.Errorf("%T is encoded", v)
		}
	}
	if _, err := Encode((*libvirt.Domain)(nil)); err == nil {
		t.Error("a nil pointer is encoded")
	}
	for _, n := range []uint32{127, 0xffffff80} {
		if err := Check(reflect.TypeFor[struct{ N int8 }](), u32(n)); err != nil {
			t.Errorf("%d in 8 bits with a sign: %v", int32(n), err)
		}
	}
}

func domains(n int) []byte {
	var r libvirt.ConnectListAllDomainsRet
	for i := range n {
		r.Domains = append(r.Domains, libvirt.Domain{Name: strings.Repeat("d", 5+i%10), ID: -1})
	}
	r.Ret = uint32(n)
	b, err := Encode(r)
	if err != nil {
		panic(err)
	}
	return b
}

func TestCheckAllocatesNothing(t *testing.T) {
	typ := reflect.TypeFor[libvirt.ConnectListAllDomainsRet]()
	b := domains(100)
	if err := Check(typ, b); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = Check(typ, b) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCheckList1000(b *testing.B) {
	typ := reflect.TypeFor[libvirt.ConnectListAllDomainsRet]()
	payload := domains(1000)
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(typ, payload); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzDecode holds the decoder to Check's promise: nothing it passes makes it
// panic, and what was decoded encodes to something that decodes alike.
func FuzzDecode(f *testing.F) {
	f.Add(uint32(273), false, domains(2))
	f.Add(uint32(273), false, u32(math.MaxInt32, 0))
	f.Add(uint32(344), false, u32(0))
	f.Add(uint32(1), true, u32(0x01000000, 0, 0))
	f.Fuzz(func(t *testing.T, number uint32, args bool, payload []byte) {
		p, ok := Procedure(Program, number)
		if !ok {
			p = Proc{Args: ErrorType, Ret: ErrorType}
		}
		typ := p.Ret
		if args {
			typ = p.Args
		}
		_ = CheckError(payload)
		v, err := Decode(typ, payload)
		if err != nil || v == nil {
			return
		}
		again, err := Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) != len(payload) {
			t.Fatalf("%d bytes became %d", len(payload), len(again))
		}
		if err := Check(typ, again); err != nil {
			t.Fatal(err)
		}
	})
}
