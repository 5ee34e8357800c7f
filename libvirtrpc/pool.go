package libvirtrpc

import (
	"container/list"
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"virtgate/libvirtrpc/wire"
)

// The numbers are libvirtd's own limits with one to spare, see LIBVIRT.md.
const (
	// callsPerConn: libvirtd runs at most 5 calls of one connection at once
	// (max_client_requests); with 5 stuck nothing on it answers any more.
	callsPerConn = 4
	// gatedPerConn: of these, as many may hold a place of the gate: calls that
	// hang leave one on each connection.
	gatedPerConn = callsPerConn - 1
	// busyCalls: a daemon that runs only 2 calls of one connection at once
	// (max_client_requests=2) is silent while both hang. Taken for dead, its
	// connection would be closed, and its workers for free.
	busyCalls = 2
	// maxAbandoned: a connection with that many calls past their deadline takes
	// no more and is replaced.
	maxAbandoned = 2
	// lingerFor: how long a replaced connection waits for its late answers.
	lingerFor = 2 * time.Minute

	backoffFirst = 50 * time.Millisecond
	backoffMost  = 500 * time.Millisecond
)

// pool keeps Options.Connections connections open and hands out places for
// calls on them, in the order in which they were asked for.
type pool struct {
	opts     *Options
	event    func(wire.Frame)
	onChange func(first bool) // see Client.connectionsChanged
	noEvents atomic.Bool      // the driver has no events
	noStats  atomic.Bool      // nor stats
	linger   time.Duration    // lingerFor, but in tests
	began    time.Time
	beat     atomic.Int64 // when a place was last looked after, in ns since began

	knocking chan struct{} // held by whose turn it is

	mu      sync.Mutex
	conns   []*conn
	waiting list.List     // of *waiter, first come first served
	up      chan struct{} // closed while there is a connection, replaced when the last one goes
	lastErr error         // why the last attempt to open a connection failed

	// For who watches.
	opened, abandonedNow, abandonedEver int
}

func newPool(o *Options, event func(wire.Frame), onChange func(first bool)) *pool {
	return &pool{opts: o, event: event, onChange: onChange, linger: lingerFor, knocking: make(chan struct{}, 1), up: make(chan struct{}), began: time.Now()}
}

// lookedAfter says that one of the places has just had its turn.
func (p *pool) lookedAfter() { p.beat.Store(int64(time.Since(p.began))) }

// idle is how long none has.
func (p *pool) idle() time.Duration { return time.Since(p.began) - time.Duration(p.beat.Load()) }

func (p *pool) onMessage(f wire.Frame) { p.event(f) }

// Run keeps the connections open until ctx ends, then closes them.
func (p *pool) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for range p.opts.Connections {
		g.Go(func() error { p.keepOpen(ctx, g); return nil })
	}
	return g.Wait()
}

// keepOpen is the life of one place in the pool: open, wait for the end of the
// connection, open the next one.
func (p *pool) keepOpen(ctx context.Context, g *errgroup.Group) {
	delay := backoffFirst
	for {
		c := p.knock(ctx, &delay)
		if c == nil {
			return
		}
		opened := time.Now()
		p.add(c)
		retired := p.awaitEnd(ctx, c)
		p.remove(c)
		if retired {
			g.Go(func() error { p.awaitAnswers(ctx, c); return nil })
		} else {
			c.wire.Close()
			if ctx.Err() == nil {
				p.opts.Log.Warn("libvirt connection lost", "error", c.wire.Err())
			}
		}
		if time.Since(opened) > backoffMost {
			delay = backoffFirst
		}
	}
}

// knock opens a connection, and tries until it can or ctx ends.
func (p *pool) knock(ctx context.Context, delay *time.Duration) *conn {
	for {
		done := p.turn(ctx)
		if done == nil {
			return nil
		}
		p.lookedAfter()
		c, err := p.open(ctx)
		if err != nil && ctx.Err() == nil {
			p.failed(err)
			// Jitter, so that not all clients of a daemon come at the same moment.
			wait := time.NewTimer(*delay/2 + rand.N(*delay/2))
			select {
			case <-ctx.Done():
			case <-wait.C:
			}
			wait.Stop()
			*delay = min(2**delay, backoffMost)
		}
		done()
		if err == nil {
			return c
		}
	}
}

// turn waits until a connection may be opened; nil is the end of ctx. While there
// is none, one place after the other knocks: a daemon in trouble is spared all of
// them at once, and sshd shuts out who comes too often with an unknown key.
func (p *pool) turn(ctx context.Context) (done func()) {
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	select {
	case <-up:
		return func() {}
	default:
	}
	select {
	case <-up:
		return func() {}
	case p.knocking <- struct{}{}:
		return func() { <-p.knocking }
	case <-ctx.Done():
		return nil
	}
}

// awaitEnd waits until the connection is dead (false) or is to be replaced
// (true).
func (p *pool) awaitEnd(ctx context.Context, c *conn) (retired bool) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-c.wire.Done():
			return false
		case <-tick.C:
			p.lookedAfter()
			p.mu.Lock()
			full := c.abandoned >= maxAbandoned
			p.mu.Unlock()
			if full {
				return true
			}
		}
	}
}

// awaitAnswers keeps a replaced connection until its calls are answered: closing
// it would not free the daemon's workers, and their answers may still say how a
// change ended. Calls that hold a place of the gate are waited for without end:
// the gate has few of these places, and only the answer says that the daemon's
// worker is free again. Others have lingerFor.
func (p *pool) awaitAnswers(ctx context.Context, c *conn) {
	defer c.wire.Close()
	p.opts.Log.Warn("libvirt connection replaced: its calls are not answered", "abandoned", maxAbandoned)
	end := time.Now().Add(p.linger)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wire.Done():
			return
		case <-tick.C:
			p.mu.Lock()
			over := c.inFlight == 0 || c.gated == 0 && time.Now().After(end)
			p.mu.Unlock()
			if over {
				return
			}
		}
	}
}

func (p *pool) add(c *conn) {
	p.mu.Lock()
	first := len(p.conns) == 0
	p.conns = append(p.conns, c)
	p.opened++
	p.lastErr = nil
	if first {
		close(p.up)
	}
	p.serve()
	p.mu.Unlock()
	if first {
		p.opts.Log.Info("connected to libvirt", "uri", p.opts.URI)
	}
	p.onChange(first)
}

func (p *pool) remove(c *conn) {
	p.mu.Lock()
	c.retired = true
	for i, o := range p.conns {
		if o == c {
			p.conns = append(p.conns[:i], p.conns[i+1:]...)
			break
		}
	}
	if len(p.conns) == 0 {
		p.up = make(chan struct{})
	}
	p.mu.Unlock()
	p.onChange(false)
}

func (p *pool) failed(err error) {
	p.mu.Lock()
	// The same cause over and over is said once.
	news := p.lastErr == nil || p.lastErr.Error() != err.Error()
	p.lastErr = err
	p.mu.Unlock()
	level := slog.LevelDebug
	if news {
		level = slog.LevelWarn
	}
	p.opts.Log.Log(context.Background(), level, "no connection to libvirt", "error", err)
}
