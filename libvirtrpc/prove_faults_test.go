package libvirtrpc_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"reflect"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc/rpctest"
	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// fault is a way to answer a call wrongly: what a daemon sends in place of the
// good answer.
type fault struct {
	name string
	send func(r *rpctest.Request, good wire.Frame)
	// swallows: other answers on the connection are lost with it.
	swallows bool
}

// longForm is the form of the proofs that takes minutes.
var longForm = os.Getenv("VIRTGATE_PROVE") == "long"

// callTimeout is the deadline of every call in these proofs, in fake time.
const callTimeout = 2 * time.Second

// changed is a fault that sends the good answer with something changed in it.
func changed(name string, change func(*wire.Frame)) fault {
	return fault{name: name, send: func(r *rpctest.Request, good wire.Frame) {
		change(&good)
		r.Raw(good.AppendTo(nil))
	}}
}

// before is a fault that sends something and then the good answer.
func before(name string, others func(good wire.Frame) []wire.Frame) fault {
	return fault{name: name, send: func(r *rpctest.Request, good wire.Frame) {
		for _, f := range others(good) {
			r.Raw(f.AppendTo(nil))
		}
		r.Raw(good.AppendTo(nil))
	}}
}

// announced is a fault that lies about the length of the frame.
func announced(name string, length func(good uint32) uint32) fault {
	return fault{name: name, send: func(r *rpctest.Request, good wire.Frame) {
		b := good.AppendTo(nil)
		binary.BigEndian.PutUint32(b, length(binary.BigEndian.Uint32(b)))
		r.Raw(b)
	}}
}

func like(good wire.Frame, change func(*wire.Frame)) wire.Frame {
	good.Payload = append([]byte(nil), good.Payload...)
	change(&good)
	return good
}

func repeated(n int, f wire.Frame) []wire.Frame {
	out := make([]wire.Frame, n)
	for i := range out {
		out[i] = f
	}
	return out
}

func keepalive(procedure uint32) wire.Frame {
	return wire.Frame{Header: wire.Header{Program: wire.KeepaliveProgram, Version: wire.KeepaliveVersion, Procedure: procedure, Type: wire.TypeMessage}}
}

// badEvents are lifecycle events of the call's serial: cut after every byte,
// with absurd lengths, and of procedures and programs that nobody knows.
func badEvents(good wire.Frame) []wire.Frame {
	event, err := xdr.Encode(xdr.Sample(reflect.TypeFor[libvirt.DomainEventCallbackLifecycleMsg]()))
	if err != nil {
		panic(err)
	}
	head := good.Header
	head.Procedure, head.Type = 318, wire.TypeMessage
	var out []wire.Frame
	for n := range event {
		out = append(out, wire.Frame{Header: head, Payload: event[:n]})
	}
	for _, length := range []uint32{math.MaxUint32, math.MaxInt32, 1 << 31, uint32(len(event))} {
		f := like(wire.Frame{Header: head, Payload: event}, func(f *wire.Frame) { binary.BigEndian.PutUint32(f.Payload[4:], length) })
		out = append(out, f)
	}
	for _, procedure := range []uint32{0, 23, 107, 319, 373, math.MaxUint32} {
		f := wire.Frame{Header: head, Payload: event}
		f.Procedure = procedure
		out = append(out, f)
		f.Program++
		f.Status = 9
		out = append(out, f)
	}
	return out
}

// harmless faults do not keep the right answer from its caller.
var harmless = []fault{
	before("after answers to serials nobody used", func(good wire.Frame) []wire.Frame {
		return []wire.Frame{
			like(good, func(f *wire.Frame) { f.Serial += 1_000_000 }),
			like(good, func(f *wire.Frame) { f.Serial = 0 }),
			like(good, func(f *wire.Frame) { f.Serial = -f.Serial }),
			like(good, func(f *wire.Frame) { f.Serial = math.MinInt32 }),
		}
	}),
	before("twice", func(good wire.Frame) []wire.Frame { return repeated(1, good) }),
	before("a hundred times", func(good wire.Frame) []wire.Frame { return repeated(99, good) }),
	before("after STREAM data of its serial", func(good wire.Frame) []wire.Frame {
		return []wire.Frame{
			like(good, func(f *wire.Frame) { f.Type, f.Status = wire.TypeStream, wire.StatusContinue }),
			like(good, func(f *wire.Frame) { f.Type = wire.TypeStream }),
			like(good, func(f *wire.Frame) { f.Type, f.Status = wire.TypeStream, wire.StatusError }),
		}
	}),
	before("after malformed events of its serial", badEvents),
	before("after a thousand PINGs", func(wire.Frame) []wire.Frame { return repeated(1000, keepalive(wire.KeepalivePing)) }),
	before("after PONGs nobody asked for", func(wire.Frame) []wire.Frame { return repeated(3, keepalive(wire.KeepalivePong)) }),
	{name: "byte by byte", send: func(r *rpctest.Request, good wire.Frame) {
		r.Pieces(good.AppendTo(nil), 1)
	}},
	{name: "late, after the answers to later calls", send: func(r *rpctest.Request, good wire.Frame) {
		time.Sleep(callTimeout / 2)
		r.Raw(good.AppendTo(nil))
	}},
}

// deadly faults end the connection.
var deadly = func() []fault {
	fs := []fault{
		announced("a length of 0", func(uint32) uint32 { return 0 }),
		announced("a length of 4", func(uint32) uint32 { return 4 }),
		announced("a length of 27", func(uint32) uint32 { return wire.HeaderLen - 1 }),
		announced("a length of 32 MiB + 5", func(uint32) uint32 { return wire.MaxFrame + 1 }),
		announced("a length of 2 GiB", func(uint32) uint32 { return 1 << 31 }),
		announced("a length of 4 GiB - 1", func(uint32) uint32 { return math.MaxUint32 }),
		announced("4 bytes fewer announced", func(n uint32) uint32 { return n - 4 }),
		announced("4 bytes more announced", func(n uint32) uint32 { return n + 4 }),
		changed("other program", func(f *wire.Frame) { f.Program++ }),
		changed("other version", func(f *wire.Frame) { f.Version++ }),
		changed("other procedure", func(f *wire.Frame) { f.Procedure++ }),
		changed("unknown procedure", func(f *wire.Frame) { f.Procedure = 9999 }),
		changed("4 bytes too many", func(f *wire.Frame) { f.Payload = append(f.Payload, 0, 0, 0, 0) }),
		changed("an error without payload", func(f *wire.Frame) { f.Status, f.Payload = wire.StatusError, nil }),
		changed("an error of another layout", func(f *wire.Frame) {
			f.Status, f.Payload = wire.StatusError, []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 2}
		}),
		changed("an error with a mark of 2", func(f *wire.Frame) {
			f.Status, f.Payload = wire.StatusError, []byte{0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2}
		}),
	}
	for _, kind := range []uint32{wire.TypeCall, 4, 5, 6, 99, math.MaxUint32} {
		fs = append(fs, changed(fmt.Sprintf("type %d", kind), func(f *wire.Frame) { f.Type = kind }))
	}
	for _, status := range []uint32{wire.StatusContinue, 3, math.MaxUint32} {
		fs = append(fs, changed(fmt.Sprintf("status %d", status), func(f *wire.Frame) { f.Status = status }))
	}
	return fs
}()

// cutPayload is a whole frame whose payload ends after n bytes, cutFrame one
// that the end of the connection cuts after n bytes.
func cutPayload(n int) fault {
	return changed(fmt.Sprintf("payload of %d bytes", n), func(f *wire.Frame) { f.Payload = f.Payload[:min(n, len(f.Payload))] })
}

func cutFrame(n int) fault {
	return fault{name: fmt.Sprintf("the end after %d bytes", n), send: func(r *rpctest.Request, good wire.Frame) {
		r.Raw(good.AppendTo(nil)[:n])
		r.Hangup()
	}}
}

// mute faults leave the call without an answer until its deadline.
var mute = []fault{
	{name: "nothing", send: func(*rpctest.Request, wire.Frame) {}},
	{name: "nothing any more", swallows: true, send: func(r *rpctest.Request, _ wire.Frame) { r.Hang() }},
	{name: "half a frame", swallows: true, send: func(r *rpctest.Request, good wire.Frame) {
		b := good.AppendTo(nil)
		r.Raw(b[:len(b)/2])
		r.Hang()
	}},
	{name: "the beginning of 32 MiB", swallows: true, send: announced("", func(uint32) uint32 { return wire.MaxFrame }).send},
	changed("an answer to another serial", func(f *wire.Frame) { f.Serial += 1_000_000 }),
	changed("STREAM instead of REPLY", func(f *wire.Frame) { f.Type = wire.TypeStream }),
	changed("an event instead of a reply", func(f *wire.Frame) { f.Type = wire.TypeMessage }),
	{name: "the answer after the deadline", send: func(r *rpctest.Request, good wire.Frame) {
		time.Sleep(callTimeout * 5 / 4)
		r.Raw(good.AppendTo(nil))
	}},
}
