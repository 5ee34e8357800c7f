package server

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"syscall"
)

// maxClients is how many connections may be open at the same time: each costs
// up to 100 KiB while its headers come in. libvirtd itself takes 5000 clients.
const maxClients = 2048

// clients is a listener that bounds the connections which are open at the same
// time. A new one that would be too many takes the place of the one that has
// been without a request the longest, whoever that is; when all have a request
// under way, it waits. So connections that do nothing cost nobody else anything,
// and there are always descriptors left for libvirt and for files.
type clients struct {
	net.Listener
	most int

	mu     sync.Mutex
	open   map[net.Conn]*list.Element // its place in idle, nil during a request
	idle   list.List                  // of net.Conn, the longest without a request first
	room   chan struct{}              // holds a token when there may be room
	once   sync.Once
	closed chan struct{}
}

func newClients(l net.Listener, most int) *clients {
	return &clients{Listener: l, most: most, open: map[net.Conn]*list.Element{}, room: make(chan struct{}, 1), closed: make(chan struct{})}
}

// affordable is how many connections the process has descriptors for, when it
// keeps half of them for everything else.
func affordable() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return maxClients
	}
	return int(max(1, min(maxClients, uint64(r.Cur)/2)))
}

func (l *clients) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for !l.admit(c) {
		select {
		case <-l.room:
		case <-l.closed:
			c.Close()
			return nil, net.ErrClosed
		}
	}
	return c, nil
}

func (l *clients) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// admit takes the connection in; false when there is no room.
func (l *clients) admit(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.most {
		longest := l.idle.Front()
		if longest == nil {
			return false
		}
		old := l.idle.Remove(longest).(net.Conn)
		delete(l.open, old)
		old.Close()
	}
	l.open[c] = l.idle.PushBack(c)
	return true
}

// changed hears from net/http what a connection is doing. One whose headers are
// still coming in counts as being without a request.
func (l *clients) changed(c net.Conn, s http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	place, ok := l.open[c]
	if !ok || s == http.StateNew {
		return // it made room for another one, or has its place already
	}
	if place != nil {
		l.idle.Remove(place)
	}
	switch s {
	case http.StateActive:
		l.open[c] = nil
		return
	case http.StateIdle:
		l.open[c] = l.idle.PushBack(c)
	default:
		delete(l.open, c)
	}
	select {
	case l.room <- struct{}{}:
	default:
	}
}
