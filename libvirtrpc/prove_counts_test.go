package libvirtrpc_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/libvirtrpc/xdr"
)

// question is a method of Client that calls a procedure, for each that is ever
// called.
type question struct {
	change bool
	ask    func(context.Context, *libvirtrpc.Client) error
	part   bool // of an answer that goes without it: the call's error is nobody's
}

func noResult[T any](_ T, err error) error { return err }

var questions = func() map[string]question {
	type (
		ctx = context.Context
		cl  = *libvirtrpc.Client
	)
	read := func(ask func(ctx, cl) error) question { return question{ask: ask} }
	change := func(ask func(ctx, cl) error) question { return question{change: true, ask: ask} }
	lookup := func(r libvirtrpc.Ref) question {
		return read(func(x ctx, c cl) error { return noResult(c.Lookup(x, r)) })
	}
	get := func(f libvirtrpc.Fields) question {
		return read(func(x ctx, c cl) error { return noResult(c.GetDomain(x, libvirtrpc.ByUUID(vm1), f)) })
	}
	ready := read(func(x ctx, c cl) error { return c.Ready(x) })
	version := read(func(x ctx, c cl) error { return noResult(c.Version(x)) })
	list := read(func(x ctx, c cl) error {
		return noResult(c.ListDomains(x, libvirtrpc.ListQuery{Fields: libvirtrpc.FieldInfo}))
	})
	stats := read(func(x ctx, c cl) error { return noResult(c.Stats(x, time.Second)) })
	pool := stats
	pool.part = true
	return map[string]question{
		"ConnectListAllStoragePools": stats, "StoragePoolGetInfo": pool,

		// Opening a connection makes these; whoever asks next waits for it.
		"AuthList": ready, "ConnectOpen": ready, "ConnectDomainEventCallbackRegisterAny": ready,

		"ConnectGetLibVersion":      ready,
		"ConnectGetType":            version,
		"ConnectGetVersion":         version,
		"ConnectGetCapabilities":    read(func(x ctx, c cl) error { return noResult(c.Host(x)) }),
		"ConnectListAllDomains":     list,
		"ConnectGetAllDomainStats":  list,
		"DomainLookupByName":        lookup(libvirtrpc.ByName("vm")),
		"DomainLookupByUUID":        lookup(libvirtrpc.ByUUID(vm1)),
		"DomainLookupByID":          lookup(libvirtrpc.ByID(1)),
		"DomainGetInfo":             get(libvirtrpc.FieldInfo),
		"DomainGetState":            get(libvirtrpc.FieldState),
		"DomainGetOsType":           get(libvirtrpc.FieldOSType),
		"DomainIsPersistent":        get(libvirtrpc.FieldPersistent),
		"DomainGetAutostart":        get(libvirtrpc.FieldAutostart),
		"DomainHasManagedSaveImage": get(libvirtrpc.FieldManagedSave),
		"DomainSnapshotNum":         get(libvirtrpc.FieldHasSnapshot),
		"DomainGetMetadata":         get(libvirtrpc.FieldText),
		"DomainGetXMLDesc":          read(func(x ctx, c cl) error { return noResult(c.DomainXML(x, vm1, 0)) }),
		"DomainListAllCheckpoints":  read(func(x ctx, c cl) error { return noResult(c.Leftovers(x, vm1)) }),

		"DomainCreateWithFlags": change(func(x ctx, c cl) error { return c.Start(x, vm1, 0) }),
		"DomainShutdownFlags":   change(func(x ctx, c cl) error { return c.Shutdown(x, vm1, 0) }),
		"DomainReboot":          change(func(x ctx, c cl) error { return c.Reboot(x, vm1, 0) }),
		"DomainReset":           change(func(x ctx, c cl) error { return c.Reset(x, vm1) }),
		"DomainSuspend":         change(func(x ctx, c cl) error { return c.Suspend(x, vm1) }),
		"DomainResume":          change(func(x ctx, c cl) error { return c.Resume(x, vm1) }),
		"DomainDestroyFlags":    change(func(x ctx, c cl) error { return c.Destroy(x, vm1, false) }),
		"DomainRename":          change(func(x ctx, c cl) error { return c.Rename(x, vm1, "vm") }),
		"DomainSetMemoryFlags":  change(func(x ctx, c cl) error { return c.SetMemory(x, vm1, 1) }),
		"DomainSetAutostart":    change(func(x ctx, c cl) error { return c.SetAutostart(x, vm1, true) }),
		"DomainDefineXMLFlags":  change(func(x ctx, c cl) error { return noResult(c.Define(x, "<domain/>", false)) }),
		"DomainCreateXML":       change(func(x ctx, c cl) error { return noResult(c.CreateTransient(x, "<domain/>", 0)) }),
		"DomainUndefineFlags":   change(func(x ctx, c cl) error { return c.Undefine(x, vm1, 0) }),
	}
}()

// sampleReply is a good answer to a procedure, with something in every place.
func sampleReply(proc xdr.Proc) any {
	switch proc.Name {
	case "AuthList":
		return libvirt.AuthListRet{Types: make([]libvirt.AuthType, 1)}
	case "ConnectGetCapabilities":
		return libvirt.ConnectGetCapabilitiesRet{Capabilities: "<capabilities/>"}
	case "DomainGetXMLDesc":
		return libvirt.DomainGetXMLDescRet{XML: "<domain/>"}
	case "ConnectListAllDomains": // so many that their stats are asked for
		var ds []libvirt.Domain
		for i := range byte(9) {
			ds = append(ds, libvirt.Domain{Name: "vm", UUID: libvirt.UUID{i}, ID: -1})
		}
		return libvirt.ConnectListAllDomainsRet{Domains: ds, Ret: 9}
	}
	if proc.Ret == nil {
		return nil
	}
	return xdr.Sample(proc.Ret)
}

func encoded(p xdr.Proc) []byte {
	b, err := xdr.Encode(sampleReply(p))
	if err != nil {
		panic(err)
	}
	return b
}

// counts are the offsets of all counts of arrays and lengths of strings in the
// encoding of v, which begins at the offset given; end is where it ends.
func counts(v reflect.Value, from int) (at []int, end int) {
	part := func(p reflect.Value) {
		inner, e := counts(p, end)
		at, end = append(at, inner...), e
	}
	end = from
	switch v.Kind() {
	case reflect.Invalid: // an empty answer
	case reflect.Interface: // the value of a parameter
		part(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			part(v.Field(i))
		}
	case reflect.String:
		return []int{from}, from + 4 + (v.Len()+3)&^3
	case reflect.Slice:
		at, end = []int{from}, from+4
		for i := range v.Len() {
			part(v.Index(i))
		}
	case reflect.Array: // only of bytes
		end += (v.Len() + 3) &^ 3
	case reflect.Int64, reflect.Uint64, reflect.Float64:
		end += 8
	default:
		end += 4
	}
	return at, end
}

// with is the payload with another word in one place.
func with(payload []byte, at int, word uint32) []byte {
	b := slices.Clone(payload)
	binary.BigEndian.PutUint32(b[at:], word)
	return b
}

// result is what came of a question whose answer was spoiled.
type result struct {
	err       error
	calls     int // of the procedure
	dials     int
	allocated uint64 // bytes
}

// askSpoiled asks a question of a daemon that answers the procedure with the
// payload given the first times, and checks that the next question is answered.
func askSpoiled(t *testing.T, proc xdr.Proc, payload []byte, times int64) (res result) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		answer := func(r *rpctest.Request, good []byte) {
			if r.Proc == proc.Name && calls.Add(1) <= times {
				good = payload
			}
			r.Raw(r.Frame(good).AppendTo(nil))
		}
		d := rpctest.NewDaemon(func(r *rpctest.Request) {
			called, _ := xdr.Named(r.Proc)
			answer(r, encoded(called))
		})
		d.Handshake = answer
		c := start(t, d, nil)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		res.err = questions[proc.Name].ask(t.Context(), c)
		runtime.ReadMemStats(&after)
		res.allocated = after.TotalAlloc - before.TotalAlloc
		res.calls = int(calls.Load())
		if err := c.Ready(t.Context()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		res.dials = d.Dials()
	})
	return res
}

// procedures are all that are called, in their order.
func procedures(t *testing.T) (ps []xdr.Proc) {
	for name := range libvirtrpc.LibraryCalls(t) {
		if _, ok := questions[name]; !ok {
			t.Errorf("no question here leads to %s", name)
		}
	}
	for _, p := range xdr.Procedures() {
		if _, ok := questions[p.Name]; ok {
			ps = append(ps, p)
		}
	}
	return ps
}

// values are what a proof tries in every place: the first one in its short form.
func values(short uint32, long ...uint32) []uint32 {
	if !longForm {
		return []uint32{short}
	}
	return append(long, short)
}

// An array that is said to have 2^31 elements, or a string of that length,
// would be allocated by the library, or not: nothing could recover that.
func TestProveCounts(t *testing.T) {
	t.Attr("case", "answers of libvirtd: an absurd count or length at every place of every procedure's answer")
	t.Attr("promised", "nothing of the sort is allocated; the connection ends, reads get the right answer from the next one, changes are sent once")
	places, most := 0, uint64(0)
	ps := procedures(t)
	for _, p := range ps {
		good := encoded(p)
		at, end := counts(reflect.ValueOf(sampleReply(p)), 0)
		if end != len(good) {
			t.Fatalf("%s: %d bytes are %d", p.Name, len(good), end)
		}
		for _, offset := range at {
			places++
			for _, v := range values(math.MaxInt32, math.MaxUint32, 1<<31, 1<<20, binary.BigEndian.Uint32(good[offset:])+4) {
				res := askSpoiled(t, p, with(good, offset, v), 1)
				most = max(most, res.allocated)
				wantEnded(t, fmt.Sprintf("%s, %#x at %d", p.Name, v, offset), p, res)
			}
		}
		wantEnded(t, p.Name+", a word too many", p, askSpoiled(t, p, append(good, 0, 0, 0, 0), 1))
	}
	if places < 20 {
		t.Errorf("only %d places: this proof looks at the wrong thing", places)
	}
	if !t.Failed() {
		t.Attr("measured", fmt.Sprintf("%d places in the answers of %d procedures; at most %d KiB allocated, the next connection included", places, len(ps), most>>10))
	}
}

// wantEnded checks that a spoiled answer ended its connection and misled nobody.
func wantEnded(t *testing.T, what string, p xdr.Proc, res result) {
	t.Helper()
	var e *libvirtrpc.Error
	switch change := questions[p.Name].change; {
	case change && (!errors.As(res.err, &e) || e.Kind != libvirtrpc.Lost || !e.OutcomeUnknown || res.calls != 1):
		t.Errorf("%s: %d calls, %v", what, res.calls, res.err)
	case !change && (res.err != nil || res.calls < 2):
		t.Errorf("%s: %d calls, %v", what, res.calls, res.err)
	case res.dials != 2:
		t.Errorf("%s: %d connections", what, res.dials)
	case res.allocated > 8<<20:
		t.Errorf("%s: %d bytes allocated", what, res.allocated)
	}
}

// What passes the check on the way in, the library can decode: an answer is
// either one, or the end of its connection.
func TestProveNumbers(t *testing.T) {
	t.Attr("case", "answers of libvirtd: absurd numbers at every other place of every procedure's answer")
	t.Attr("promised", "an answer, or the end of the connection; never a panic, never a connection that is called lost and is not")
	words, ended := 0, 0
	for _, p := range procedures(t) {
		good := encoded(p)
		at, _ := counts(reflect.ValueOf(sampleReply(p)), 0)
		for offset := 0; offset < len(good); offset += 4 {
			if slices.Contains(at, offset) {
				continue
			}
			words++
			for _, v := range values(math.MaxUint32, math.MaxInt32, 1<<31, 256, 0) {
				res := askSpoiled(t, p, with(good, offset, v), 2)
				dials := 1
				switch {
				case questions[p.Name].part && res.err == nil && res.dials == 3:
					dials = 3
				case libvirtrpc.KindOf(res.err) == libvirtrpc.Lost && questions[p.Name].change:
					dials = 2
				case libvirtrpc.KindOf(res.err) == libvirtrpc.Lost:
					dials = 3
				}
				if res.dials != dials || res.allocated > 8<<20 {
					t.Errorf("%s, %#x at %d: %d connections, %d bytes allocated, %v", p.Name, v, offset, res.dials, res.allocated, res.err)
				}
				if dials > 1 {
					ended++
				}
			}
		}
	}
	if !t.Failed() {
		t.Attr("measured", fmt.Sprintf("%d places; %d answers refused with the connection", words, ended))
	}
}
