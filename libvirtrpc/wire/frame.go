// Package wire is the frame-aware connection between an RPC library and the
// socket of a libvirt daemon. The library reads and writes a Conn as if it were
// the socket; the Conn looks at every frame on its way:
//
//   - what could crash, stall or mislead the library never reaches it: frame
//     lengths, answers nobody asked for, stream data before its reply, errors
//     that the library would read as success;
//   - keepalive is done here, in both directions, and tells when the daemon has
//     gone silent;
//   - streams are ended as libvirt wants it, so that the daemon lets go of what
//     it holds for them;
//   - events can be taken off, and everything that crosses the socket can be
//     watched (Options.Tap), which is how conversations are recorded.
//
// The protocol is libvirt's src/rpc/virnetprotocol.x. The package knows frames,
// errors and streams, but no procedure's arguments.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// HeaderLen is the length in bytes of the smallest frame: the length word
	// and the six words of the header.
	HeaderLen = 28
	// MaxFrame is the longest frame in bytes that libvirt sends or takes:
	// VIR_NET_MESSAGE_MAX and the length word.
	MaxFrame = 32<<20 + 4
)

// Types of frames (virNetMessageType). Types 4 and 5 carry file descriptors and
// type 6 is a hole in a sparse stream; nothing here asks for these.
const (
	TypeCall    = 0 // from the client; keepalive frames are of TypeMessage
	TypeReply   = 1 // the answer to the call of the same serial
	TypeMessage = 2 // an event, or keepalive
	TypeStream  = 3 // data of the stream that the call of that serial opened
)

// Status of a frame (virNetMessageStatus).
const (
	StatusOK       = 0 // calls, events; replies with a result; the end of a stream
	StatusError    = 1 // the payload of a reply or stream frame is an error
	StatusContinue = 2 // stream data; without payload: the sender has no more
)

// The keepalive protocol (src/rpc/virkeepaliveprotocol.x).
const (
	KeepaliveProgram = 0x6b656570
	KeepaliveVersion = 1
	KeepalivePing    = 1
	KeepalivePong    = 2
)

// Header is the fixed part of a frame.
type Header struct {
	Program, Version, Procedure, Type uint32
	Serial                            int32
	Status                            uint32
}

// Frame is one message of the protocol.
type Frame struct {
	Header
	Payload []byte
}

// Direction tells which way a frame went.
type Direction int

const (
	ToDaemon Direction = iota
	FromDaemon
)

func (d Direction) String() string {
	if d == ToDaemon {
		return "to daemon"
	}
	return "from daemon"
}

// ParseFrame reads b as exactly one frame, length word included. The payload
// is a part of b.
func ParseFrame(b []byte) (Frame, error) {
	if len(b) < HeaderLen {
		return Frame{}, fmt.Errorf("frame of %d bytes is shorter than its header", len(b))
	}
	if n := binary.BigEndian.Uint32(b); uint64(n) != uint64(len(b)) {
		return Frame{}, fmt.Errorf("frame of %d bytes says it has %d", len(b), n)
	}
	if len(b) > MaxFrame {
		return Frame{}, errors.New("frame is longer than libvirt allows")
	}
	return Frame{Header: parseHeader(b), Payload: b[HeaderLen:len(b):len(b)]}, nil
}

// parseHeader reads the header of a frame of at least HeaderLen bytes.
func parseHeader(b []byte) Header {
	_ = b[HeaderLen-1]
	return Header{
		Program:   binary.BigEndian.Uint32(b[4:]),
		Version:   binary.BigEndian.Uint32(b[8:]),
		Procedure: binary.BigEndian.Uint32(b[12:]),
		Type:      binary.BigEndian.Uint32(b[16:]),
		Serial:    int32(binary.BigEndian.Uint32(b[20:])),
		Status:    binary.BigEndian.Uint32(b[24:]),
	}
}

// AppendTo appends the frame as it goes over the wire, length word included,
// and returns the extended slice.
func (f Frame) AppendTo(b []byte) []byte {
	for _, v := range [...]uint32{
		uint32(HeaderLen + len(f.Payload)),
		f.Program, f.Version, f.Procedure, f.Type, uint32(f.Serial), f.Status,
	} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return append(b, f.Payload...)
}
