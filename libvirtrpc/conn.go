package libvirtrpc

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// conn is one connection to the daemon: opened once, used until it dies or has
// too many abandoned calls, never reconnected (a go-libvirt object that
// reconnects under load races, LIBVIRT.md).
type conn struct {
	lv   *libvirt.Libvirt
	wire *wire.Conn

	// Guarded by pool.mu.
	inFlight  int // calls sent and not answered, abandoned ones included
	abandoned int // of these, the ones past their deadline
	gated     int // and the ones that hold a place of the gate
	retired   bool
}

// library is the connection as go-libvirt sees it. It holds back the news that
// the connection died between the last answer of the handshake and the return
// of ConnectToURI: the library writes a field there that its reader reads
// without a lock.
type library struct {
	*wire.Conn
	once   sync.Once
	opened chan struct{} // closed when ConnectToURI has returned
}

func (l *library) open() { l.once.Do(func() { close(l.opened) }) }

func (l *library) Dial() (net.Conn, error) { return l, nil }

func (l *library) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	if err != nil && l.Conn.InFlight() == 0 {
		<-l.opened
	}
	return n, err
}

func (l *library) Close() error {
	l.open()
	return l.Conn.Close()
}

// open dials the daemon, does the handshake and subscribes to the lifecycle
// events of all domains. It ends with ctx.
func (p *pool) open(ctx context.Context) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.opts.ConnectTimeout)
	defer cancel()
	raw, err := p.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	w := wire.New(raw, wire.Options{
		PingInterval: p.opts.PingInterval,
		BusyCalls:    busyCalls,
		Tap:          p.opts.Tap,
		Message:      p.onMessage,
		Check:        checkReply,
	})
	lib := &library{Conn: w, opened: make(chan struct{})}
	c := &conn{lv: libvirt.NewWithDialer(lib), wire: w}

	// None of the library's calls takes a context: closing the connection is
	// what ends them. The library's reader hears of it as of any other death.
	stop := context.AfterFunc(ctx, func() { w.Close() })
	defer stop()
	err = c.lv.ConnectToURI(libvirt.ConnectURI(p.opts.URI))
	lib.open()
	if err != nil {
		lib.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer to the handshake within %v", p.opts.ConnectTimeout)
		}
		return nil, fmt.Errorf("cannot open %s: %w", p.opts.URI, err)
	}
	if _, err := c.lv.ConnectDomainEventCallbackRegisterAny(int32(libvirt.DomainEventIDLifecycle), nil); err != nil {
		if died(err) {
			lib.Close()
			return nil, fmt.Errorf("cannot subscribe to events: %w", err)
		}
		// A driver without events: the connection serves, nothing is cached.
		p.noEvents.Store(true)
	}
	return c, nil
}

// checkReply refuses a reply whose array counts and string lengths do not fit
// in it: the library allocates what they claim.
func checkReply(h wire.Header, payload []byte) error {
	proc, ok := xdr.Procedure(h.Program, h.Procedure)
	if !ok {
		return fmt.Errorf("reply to procedure %d of program %#x, which is never called", h.Procedure, h.Program)
	}
	if err := xdr.Check(proc.Ret, payload); err != nil {
		return fmt.Errorf("reply to %s: %w", proc.Name, err)
	}
	return nil
}
