package wire

import (
	"errors"
	"io"
	"testing"
)

// A call counts as answered when its reply is read: a connection that ends
// meanwhile still hands out the reply, to its last byte, before it says so.
func TestReplyComesBeforeTheEnd(t *testing.T) {
	var conn *Conn
	conn, p := pair(t, Options{Check: func(Header, []byte) error {
		conn.die(errors.New("gone"))
		return nil
	}})
	request(t, conn, p, lookup, 1)
	want := frame(TypeReply, StatusOK, lookup, 1, "the whole of it")
	p.sendLater(want)
	var got []byte
	for b := make([]byte, 7); len(got) < len(want.AppendTo(nil)); {
		n, err := conn.Read(b)
		if err != nil {
			t.Fatalf("%d calls in flight, and after %d bytes of the reply: %v", conn.InFlight(), len(got), err)
		}
		got = append(got, b[:n]...)
	}
	if n, err := conn.Read(make([]byte, 7)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("after the reply: %d bytes, %v, want why the connection ended", n, err)
	}
	if n := conn.InFlight(); n != 0 {
		t.Errorf("%d calls in flight", n)
	}
}
