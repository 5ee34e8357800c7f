package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// peer is the daemon's end of a connection under test.
type peer struct {
	t testing.TB
	net.Conn
	sending *sync.WaitGroup
}

// pair is a Conn and what it is connected to. Pings come only from ticks.
func pair(t testing.TB, o Options) (*Conn, peer) {
	t.Helper()
	a, b := net.Pipe()
	if o.PingInterval == 0 && o.tick == nil {
		o.PingInterval = -1
	}
	c := New(a, o)
	p := peer{t, b, new(sync.WaitGroup)}
	t.Cleanup(func() { b.Close(); c.Close(); p.sending.Wait() })
	return c, p
}

func (p peer) send(fs ...Frame) {
	p.t.Helper()
	for _, f := range fs {
		if _, err := p.Write(f.AppendTo(nil)); err != nil {
			p.t.Error(err)
		}
	}
}

// sendLater is send for a test that reads meanwhile. What the test leaves
// unread is not sent.
func (p peer) sendLater(fs ...Frame) {
	p.sending.Go(func() {
		for _, f := range fs {
			if _, err := p.Write(f.AppendTo(nil)); errors.Is(err, io.ErrClosedPipe) {
				return
			} else if err != nil {
				p.t.Error(err)
			}
		}
	})
}

func (p peer) receive() Frame {
	p.t.Helper()
	f, err := next(p)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

func next(r io.Reader) (Frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Frame{}, err
	}
	b := make([]byte, binary.BigEndian.Uint32(head[:]))
	copy(b, head[:])
	if _, err := io.ReadFull(r, b[4:]); err != nil {
		return Frame{}, err
	}
	return ParseFrame(b)
}

func frame(kind, status uint32, procedure uint32, serial int32, payload string) Frame {
	return Frame{Header: Header{Program: remoteProgram, Version: 1, Procedure: procedure, Type: kind, Serial: serial, Status: status}, Payload: []byte(payload)}
}

const (
	lookup   = 23
	download = 209
)

// request makes the Conn send a call and the peer take it.
func request(t testing.TB, c *Conn, p peer, procedure uint32, serial int32) {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(frame(TypeCall, StatusOK, procedure, serial, "").AppendTo(nil))
		sent <- err
	}()
	p.receive()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// dead waits for the end of the connection.
func dead(t testing.TB, c *Conn, want string) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the connection lives")
	}
	if err := c.Err(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("ended with %v, want %q", err, want)
	}
}

// What the daemon sends that no library should see ends the connection, with
// a reason.
func TestIncomingRefused(t *testing.T) {
	length := func(n uint32) []byte {
		b := frame(TypeReply, StatusOK, lookup, 1, "").AppendTo(nil)
		binary.BigEndian.PutUint32(b, n)
		return b
	}
	reply := func(status uint32, payload ...byte) []byte {
		return frame(TypeReply, status, lookup, 1, string(payload)).AppendTo(nil)
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  string
	}{
		"length 0":              {length(0), "length of 0"},
		"length 27":             {length(27), "length of 27"},
		"length 32 MiB + 5":     {length(MaxFrame + 1), "not allowed"},
		"length 4 GiB":          {length(0xffffffff), "not allowed"},
		"other procedure":       {frame(TypeReply, StatusOK, lookup+1, 1, "").AppendTo(nil), "procedure 24"},
		"other version":         {Frame{Header: Header{remoteProgram, 2, lookup, TypeReply, 1, 0}}.AppendTo(nil), "version 2"},
		"status 7":              {reply(7), "status 7"},
		"a call":                {frame(TypeCall, StatusOK, lookup, 1, "").AppendTo(nil), "type 0"},
		"descriptors":           {frame(5, StatusOK, lookup, 1, "").AppendTo(nil), "type 5"},
		"error without payload": {reply(StatusError), "cut short"},
		"error, message cut":    {reply(StatusError, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 'a'), "cut short"},
		"error, huge message":   {reply(StatusError, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0), "longer than"},
		"error, bad flag":       {reply(StatusError, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0), "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, p := pair(t, Options{})
			request(t, conn, p, lookup, 1)
			go io.Copy(io.Discard, conn)
			go p.Write(c.bytes)
			dead(t, conn, c.want)
		})
	}
}

// A frame cut after any byte ends the connection and reaches nobody.
func TestCutFrame(t *testing.T) {
	whole := frame(TypeReply, StatusOK, lookup, 1, "12345678").AppendTo(nil)
	for n := range len(whole) {
		conn, p := pair(t, Options{})
		request(t, conn, p, lookup, 1)
		go func() {
			p.Write(whole[:n])
			p.Close()
		}()
		got, err := io.ReadAll(conn)
		if err == nil || len(got) > 0 {
			t.Errorf("cut after %d bytes: read %d bytes, %v", n, len(got), err)
		}
	}
}

// Frames come out as they went in, whatever the pieces.
func TestWriteInPieces(t *testing.T) {
	var want []byte
	for i, size := range []int{0, 4, 100, 70_000, 0} {
		want = frame(TypeCall, StatusOK, lookup, int32(i+1), strings.Repeat("x", size)).AppendTo(want)
	}
	for _, piece := range []int{1, 3, 27, 28, 29, 4096, len(want)} {
		var tapped []byte
		conn, p := pair(t, Options{Tap: func(_ Direction, b []byte) { tapped = append(tapped, b...) }})
		go func() {
			for rest := want; len(rest) > 0; {
				n := min(piece, len(rest))
				if _, err := conn.Write(rest[:n]); err != nil {
					t.Error(err)
				}
				rest = rest[n:]
			}
		}()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(p, got); err != nil || !bytes.Equal(got, want) {
			t.Errorf("pieces of %d: other bytes, %v", piece, err)
		}
		conn.Close()
		if !bytes.Equal(tapped, want) {
			t.Errorf("pieces of %d: the tap saw other bytes", piece)
		}
	}
}

func TestWriteRefused(t *testing.T) {
	for _, n := range []uint32{0, 27, MaxFrame + 1} {
		conn, _ := pair(t, Options{})
		b := make([]byte, HeaderLen)
		binary.BigEndian.PutUint32(b, n)
		if _, err := conn.Write(b); err == nil {
			t.Errorf("a frame of length %d was taken", n)
		}
	}
	conn, p := pair(t, Options{})
	request(t, conn, p, lookup, 1)
	if _, err := conn.Write(frame(TypeCall, StatusOK, lookup, 1, "").AppendTo(nil)); err == nil {
		t.Error("a serial was taken twice")
	}
}

// Answers that nobody waits for are dropped; the others go on.
func TestStrayReplies(t *testing.T) {
	conn, p := pair(t, Options{})
	request(t, conn, p, lookup, 1)
	right := frame(TypeReply, StatusOK, lookup, 1, "good")
	p.sendLater(frame(TypeReply, StatusOK, lookup, 99, "nobody's"), right, right, frame(TypeStream, StatusContinue, lookup, 1, "no stream"))
	got, err := next(conn)
	if err != nil || string(got.Payload) != "good" {
		t.Fatalf("%q, %v", got.Payload, err)
	}
	if n := conn.InFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
	request(t, conn, p, lookup, 2)
	p.sendLater(frame(TypeReply, StatusOK, lookup, 2, "next"))
	if got, err := next(conn); err != nil || got.Serial != 2 {
		t.Errorf("after the stray ones: %v, %v", got.Header, err)
	}
}

func errorPayload(code uint32, message string, present bool) string {
	b := binary.BigEndian.AppendUint32(nil, code)
	b = append(b, 0, 0, 0, 10)
	if present {
		b = append(b, 0, 0, 0, 1)
		b = binary.BigEndian.AppendUint32(b, uint32(len(message)))
		b = append(b, message...)
		b = append(b, make([]byte, -len(message)&3)...)
	} else {
		b = append(b, 0, 0, 0, 0)
	}
	return string(append(b, 0, 0, 0, 2)) // level
}

// What go-libvirt makes of an error that went through the Conn.
func TestErrorsThroughTheLibrary(t *testing.T) {
	for _, c := range []struct {
		code    uint32
		message string
		present bool
		want    libvirt.Error
	}{
		{42, "no domain", true, libvirt.Error{Code: 42, Message: "no domain"}},
		{0, "it failed", true, libvirt.Error{Code: 1, Message: "it failed"}},
		{55, "", false, libvirt.Error{Code: 55}},
		{42, "no domain with matching name 'unknown procedure'", true, libvirt.Error{Code: 42, Message: "no domain with matching name 'unknown procedure'"}},
	} {
		conn, p := pair(t, Options{})
		lv := libvirt.NewWithDialer(dialer{conn})
		go func() {
			for {
				f, err := next(p)
				if err != nil {
					return
				}
				status, payload := uint32(StatusOK), ""
				switch f.Procedure {
				case 66: // AuthList
					payload = "\x00\x00\x00\x01\x00\x00\x00\x00"
				case lookup:
					status, payload = StatusError, errorPayload(c.code, c.message, c.present)
				}
				p.send(frame(TypeReply, status, f.Procedure, f.Serial, payload))
			}
		}()
		if err := lv.ConnectToURI("test:///default"); err != nil {
			t.Fatal(err)
		}
		_, err := lv.DomainLookupByName("x")
		var got libvirt.Error
		if !errors.As(err, &got) || got.Code != c.want.Code || Message(got.Message) != c.want.Message {
			t.Errorf("%d %q: %#v", c.code, c.message, err)
		}
	}
}

type dialer struct{ c net.Conn }

func (d dialer) Dial() (net.Conn, error) { return d.c, nil }

// Signs of life, both ways.
func TestKeepalive(t *testing.T) {
	tick := make(chan time.Time)
	conn, p := pair(t, Options{PingInterval: time.Hour, PingMisses: 3, tick: tick})
	read := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	p.send(keepalive(KeepalivePing))
	if f := p.receive(); f.Program != KeepaliveProgram || f.Procedure != KeepalivePong {
		t.Fatalf("a PING is answered with %v", f.Header)
	}
	for range 5 { // answered pings keep it alive
		tick <- time.Time{}
		if f := p.receive(); f.Procedure != KeepalivePing {
			t.Fatalf("got %v, want a PING", f.Header)
		}
		p.send(keepalive(KeepalivePong))
		p.send(keepalive(KeepalivePong)) // the first one is read when the second one is taken
	}
	go io.Copy(io.Discard, p) // a daemon that takes everything and says nothing
	// Three are enough, and a few more when the last PONG is noticed late.
	for range 20 {
		select {
		case tick <- time.Time{}:
		case <-conn.Done():
		}
	}
	dead(t, conn, "pings missed")
	if err := <-read; err == nil {
		t.Error("Read did not end")
	}
}

// With as many calls in flight as the daemon runs at once, silence is normal.
func TestBusyDaemonIsNotDead(t *testing.T) {
	tick := make(chan time.Time)
	conn, p := pair(t, Options{PingInterval: time.Hour, PingMisses: 2, BusyCalls: 2, tick: tick})
	request(t, conn, p, lookup, 1)
	request(t, conn, p, lookup, 2)
	go io.Copy(io.Discard, conn)
	go io.Copy(io.Discard, p)
	for range 10 {
		select {
		case tick <- time.Time{}:
		case <-conn.Done():
			t.Fatalf("given up: %v", conn.Err())
		}
	}
}

// Close ends reads and writes that are under way, and the Conn's goroutines.
func TestCloseEndsEverything(t *testing.T) {
	conn, _ := pair(t, Options{PingInterval: time.Hour})
	ended := make(chan error, 2)
	go func() { _, err := conn.Read(make([]byte, 1)); ended <- err }()
	go func() { // the peer never reads
		_, err := conn.Write(frame(TypeCall, StatusOK, lookup, 1, "").AppendTo(nil))
		ended <- err
	}()
	closed := make(chan struct{})
	go func() { conn.Close(); close(closed) }()
	for range 2 {
		select {
		case err := <-ended:
			if err == nil {
				t.Error("it ended without an error")
			}
		case <-time.After(5 * time.Second):
			t.Fatal("Close left somebody behind")
		}
	}
	select {
	case <-closed:
	case <-time.After(5 * time.Second):
		t.Fatal("Close hangs")
	}
	if !errors.Is(conn.Err(), net.ErrClosed) {
		t.Errorf("Err %v", conn.Err())
	}
}

// Events go to the hook, replies do not; a refused reply ends the connection.
func TestHooks(t *testing.T) {
	events := make(chan Frame, 1)
	conn, p := pair(t, Options{
		Message: func(f Frame) { events <- f },
		Check: func(h Header, b []byte) error {
			if string(b) == "bad!" {
				return errors.New("bad")
			}
			return nil
		},
	})
	request(t, conn, p, lookup, 1)
	request(t, conn, p, lookup, 2)
	p.sendLater(frame(TypeMessage, StatusOK, 318, 1, "event"), frame(TypeReply, StatusOK, lookup, 1, "good"), frame(TypeReply, StatusOK, lookup, 2, "bad!"))
	if f, err := next(conn); err != nil || string(f.Payload) != "good" {
		t.Fatalf("%q %v", f.Payload, err)
	}
	if f := <-events; string(f.Payload) != "event" {
		t.Errorf("event %q", f.Payload)
	}
	if _, err := next(conn); err == nil {
		t.Error("the refused reply was let through")
	}
	dead(t, conn, "reply refused: bad")
}
