package server

import (
	"net"
	"net/http"
	"testing"
	"time"
)

// pipeListener hands out one end of pipes, whose other ends are the clients.
type pipeListener struct{ conns chan net.Conn }

func (l *pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l *pipeListener) Close() error   { close(l.conns); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// Who has been without a request the longest makes room; who has one under way
// never does; and when all have one, the new one waits.
func TestClientsMakeRoom(t *testing.T) {
	under := &pipeListener{conns: make(chan net.Conn, 10)}
	l := newClients(under, 3)
	knock := func() (client net.Conn) {
		client, server := net.Pipe()
		under.conns <- server
		return client
	}
	gone := func(c net.Conn) bool {
		c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		nerr, ok := err.(net.Error)
		return !ok || !nerr.Timeout()
	}
	accept := func() net.Conn {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		l.changed(c, http.StateNew)
		return c
	}
	a, b, c := knock(), knock(), knock()
	sa, sb, sc := accept(), accept(), accept()
	l.changed(sa, http.StateActive)
	l.changed(sa, http.StateIdle) // the one that was heard of last
	l.changed(sb, http.StateActive)
	d := knock()
	sd := accept()
	if gone(a) || gone(b) || !gone(c) || gone(d) {
		t.Fatal("the third one should have made room, and nobody else")
	}
	l.changed(sc, http.StateClosed) // net/http hears of it later
	l.changed(sd, http.StateActive)
	knock()
	se := accept()
	if !gone(a) || gone(b) || gone(d) {
		t.Fatal("the first one should have made room")
	}
	l.changed(se, http.StateActive)

	// All three have a request now.
	knock()
	accepted := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	select {
	case <-accepted:
		t.Fatal("a fourth one was let in")
	case <-time.After(20 * time.Millisecond): // long enough to be wrong
	}
	l.changed(sb, http.StateClosed)
	if <-accepted == nil {
		t.Fatal("it was not let in when there was room")
	}

	// Nor does one that waits outlive the listener.
	for len(l.open) < 3 {
		knock()
		l.changed(accept(), http.StateActive)
	}
	for c := range l.open {
		l.changed(c, http.StateActive)
	}
	knock()
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	l.Close()
	if err := <-ended; err == nil {
		t.Error("accepted after the end")
	}
}
