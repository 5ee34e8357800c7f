package wire

import (
	"fmt"
	"slices"
	"testing"
)

// Data that comes before the reply is held back; the end is confirmed with
// FINISH; what the library sees is in order.
func TestProveStreamBeforeReply(t *testing.T) {
	t.Attr("case", "a stream whose data comes before the reply to the call that opens it")
	t.Attr("promised", "every byte, in order, behind the reply; libvirtd's end of the stream is confirmed")
	data := []string{"one", "two", "three"}
	for early := range len(data) + 1 {
		conn, p := pair(t, Options{})
		request(t, conn, p, download, 1)
		var frames []Frame
		for _, d := range data {
			frames = append(frames, frame(TypeStream, StatusContinue, download, 1, d))
		}
		frames = slices.Insert(frames, early, frame(TypeReply, StatusOK, download, 1, ""))
		go func() {
			p.send(frames...)
			p.send(frame(TypeStream, StatusContinue, download, 1, ""))
			if f, err := next(p); err != nil || f.Type != TypeStream || f.Status != StatusOK || f.Serial != 1 {
				t.Errorf("the end is answered with %v, %v, want FINISH", f.Header, err)
			}
			p.send(frame(TypeStream, StatusOK, download, 1, ""))
		}()
		var got []string
		for range len(data) + 2 {
			f, err := next(conn)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%d/%d %s", f.Type, f.Status, f.Payload))
		}
		if want := "[1/0  3/2 one 3/2 two 3/2 three 3/0 ]"; fmt.Sprint(got) != want {
			t.Errorf("%d before the reply: got %v, want %s", early, got, want)
		}
		if s := conn.Streams(); len(s) != 0 {
			t.Errorf("streams left: %v", s)
		}
	}
	if !t.Failed() {
		t.Attr("measured", fmt.Sprintf("the reply at each of %d places among %d data frames", len(data)+1, len(data)))
	}
}

func TestAbort(t *testing.T) {
	conn, p := pair(t, Options{})
	request(t, conn, p, download, 1)
	go p.send(frame(TypeReply, StatusOK, download, 1, ""))
	if _, err := next(conn); err != nil {
		t.Fatal(err)
	}
	if s := conn.Streams(); len(s) != 1 || s[0] != 1 {
		t.Fatalf("streams %v", s)
	}
	conn.Abort(1)
	if f := p.receive(); f.Type != TypeStream || f.Status != StatusError {
		t.Errorf("got %v, want ABORT", f.Header)
	}
}
