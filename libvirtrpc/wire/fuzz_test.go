package wire

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
)

func FuzzParseFrame(f *testing.F) {
	f.Add(frame(TypeReply, StatusOK, lookup, 1, "payload").AppendTo(nil))
	f.Add([]byte{0, 0, 0, 28})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := ParseFrame(b)
		if err == nil && !bytes.Equal(fr.AppendTo(nil), b) {
			t.Error("a frame does not come out as it went in")
		}
	})
}

// bytesConn reads what it was given and forgets what is written.
type bytesConn struct {
	net.Conn
	io.Reader
}

func (b *bytesConn) Read(p []byte) (int, error)  { return b.Reader.Read(p) }
func (b *bytesConn) Write(p []byte) (int, error) { return len(p), nil }
func (b *bytesConn) Close() error                { return nil }

// Whatever the daemon sends, the library gets whole frames of lengths that it
// survives, or the end.
func FuzzIncoming(f *testing.F) {
	seed := func(fs ...Frame) {
		var b []byte
		for _, fr := range fs {
			b = fr.AppendTo(b)
		}
		f.Add(b)
	}
	seed(frame(TypeReply, StatusOK, lookup, 1, "good"), keepalive(KeepalivePing))
	seed(frame(TypeStream, StatusContinue, download, 2, "early"), frame(TypeReply, StatusOK, download, 2, ""), frame(TypeStream, StatusContinue, download, 2, ""))
	seed(frame(TypeReply, StatusError, lookup, 1, errorPayload(0, "unknown procedure", true)))
	seed(frame(TypeMessage, StatusOK, 318, 1, "event"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := New(&bytesConn{Reader: bytes.NewReader(b)}, Options{PingInterval: -1})
		defer c.Close()
		c.Write(frame(TypeCall, StatusOK, lookup, 1, "").AppendTo(nil))
		c.Write(frame(TypeCall, StatusOK, download, 2, "").AppendTo(nil))
		got, err := io.ReadAll(c)
		if err == nil {
			t.Error("the end is not an error")
		}
		for len(got) > 0 {
			if len(got) < HeaderLen {
				t.Fatalf("%d bytes of a frame", len(got))
			}
			n := binary.BigEndian.Uint32(got)
			if n < HeaderLen || n > MaxFrame || int(n) > len(got) {
				t.Fatalf("a frame of length %d, %d bytes are there", n, len(got))
			}
			got = got[n:]
		}
	})
}

// What the library writes, in whatever pieces, is sent as it is, or the
// connection ends.
func FuzzOutgoing(f *testing.F) {
	f.Add(frame(TypeCall, StatusOK, lookup, 1, "payload").AppendTo(nil), uint16(3))
	f.Add(make([]byte, 40), uint16(28))
	f.Fuzz(func(t *testing.T, b []byte, piece uint16) {
		var sent []byte
		c := New(&bytesConn{Reader: bytes.NewReader(nil)}, Options{PingInterval: -1, Tap: func(d Direction, p []byte) { sent = append(sent, p...) }})
		written := 0
		for rest := b; len(rest) > 0; {
			n := min(int(piece)+1, len(rest))
			if _, err := c.Write(rest[:n]); err != nil {
				break
			}
			rest = rest[n:]
			written += n
		}
		c.Close()
		if !bytes.HasPrefix(b, sent) {
			t.Error("other bytes were sent")
		}
	})
}
