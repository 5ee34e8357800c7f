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
	waiting list.List     // of chan *conn, first come first served
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
	for range callsPerConn {
		p.serve(c)
	}
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

// usable tells whether the connection takes one more call. p.mu is held.
func (c *conn) usable() bool {
	if c.retired || c.inFlight >= callsPerConn || c.abandoned >= maxAbandoned {
		return false
	}
	select {
	case <-c.wire.Done():
		return false
	default:
		return true
	}
}

// serve gives a free place on c to who waits longest. p.mu is held.
func (p *pool) serve(c *conn) {
	if !c.usable() {
		return
	}
	if e := p.waiting.Front(); e != nil {
		p.waiting.Remove(e)
		c.inFlight++
		e.Value.(chan *conn) <- c
	}
}

// acquire waits for a place for one call. Its errors are Unavailable (no
// connection within ConnectTimeout), Busy (the queue is full) and NoAnswer (the
// end of ctx); with each of them nothing was sent.
func (p *pool) acquire(ctx context.Context) (*conn, error) {
	p.mu.Lock()
	var best *conn
	if p.waiting.Len() == 0 {
		for _, c := range p.conns {
			if c.usable() && (best == nil || c.inFlight < best.inFlight) {
				best = c
			}
		}
	}
	if best != nil {
		best.inFlight++
		p.mu.Unlock()
		return best, nil
	}
	if p.waiting.Len() >= p.opts.Queue {
		p.mu.Unlock()
		return nil, &Error{Kind: Busy, Message: "the queue of libvirt calls is full"}
	}
	turn := make(chan *conn, 1)
	e := p.waiting.PushBack(turn)
	p.mu.Unlock()

	give := func() *conn {
		p.mu.Lock()
		defer p.mu.Unlock()
		select {
		case c := <-turn: // it came at the same moment
			return c
		default:
			p.waiting.Remove(e)
			return nil
		}
	}
	// gone is the error while there is no connection at all.
	gone := func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.conns) > 0 {
			return nil
		}
		msg := "no connection to the libvirt daemon"
		if p.lastErr != nil {
			msg = p.lastErr.Error()
		}
		return &Error{Kind: Unavailable, Message: msg}
	}
	outage := time.NewTimer(p.opts.OutageWait)
	defer outage.Stop()
	for {
		select {
		case c := <-turn:
			return c, nil
		case <-outage.C:
			err := gone()
			if err == nil { // busy, not gone: look again later
				outage.Reset(p.opts.OutageWait)
				continue
			}
			if c := give(); c != nil {
				return c, nil
			}
			return nil, err
		case <-ctx.Done():
			if c := give(); c != nil {
				p.release(c, false, false)
			}
			if err := gone(); err != nil {
				return nil, err
			}
			return nil, &Error{Kind: NoAnswer, Message: "no free place for a libvirt call before the deadline; nothing was sent"}
		}
	}
}

// abandon marks one call of c as past its deadline. Its place stays taken.
func (p *pool) abandon(c *conn) {
	p.mu.Lock()
	c.abandoned++
	p.abandonedNow++
	p.abandonedEver++
	p.mu.Unlock()
}

// gated marks one call of c as one that holds a place of the gate.
func (p *pool) gated(c *conn) {
	p.mu.Lock()
	c.gated++
	p.mu.Unlock()
}

// release gives back the place of a call that ended.
func (p *pool) release(c *conn, abandoned, gated bool) {
	p.mu.Lock()
	c.inFlight--
	if gated {
		c.gated--
	}
	if abandoned {
		c.abandoned--
		p.abandonedNow--
	}
	p.serve(c)
	p.mu.Unlock()
}
