package libvirtrpc

import (
	"context"
	"time"
)

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

// place is a free place for a call, on the connection that has the most of
// them; free tells whether there is one for calls that are not gated. p.mu is
// held.
func (p *pool) place(gated bool) (best *conn, free bool) {
	for _, c := range p.conns {
		if !c.usable() {
			continue
		}
		free = true
		if (!gated || c.gated < gatedPerConn) && (best == nil || c.inFlight < best.inFlight) {
			best = c
		}
	}
	return best, free
}

func (c *conn) take(gated bool) {
	c.inFlight++
	if gated {
		c.gated++
	}
}

// waiter is a call that waits for its place.
type waiter struct {
	turn  chan *conn
	gated bool
}

// serve gives the free places to who waits longest. p.mu is held.
func (p *pool) serve() {
	for e := p.waiting.Front(); e != nil; {
		w, here := e.Value.(*waiter), e
		c, free := p.place(w.gated)
		if !free {
			return
		}
		e = e.Next()
		if c != nil {
			p.waiting.Remove(here)
			c.take(w.gated)
			w.turn <- c
		}
	}
}

// acquire waits for a place for one call, which holds a place of the gate if
// gated is set. Its errors are Unavailable (no connection within OutageWait),
// Busy (the queue is full) and NoAnswer (the end of ctx); with each of them
// nothing was sent.
func (p *pool) acquire(ctx context.Context, gated bool) (*conn, error) {
	p.mu.Lock()
	if p.waiting.Len() == 0 {
		if c, _ := p.place(gated); c != nil {
			c.take(gated)
			p.mu.Unlock()
			return c, nil
		}
	}
	if p.waiting.Len() >= p.opts.Queue {
		p.mu.Unlock()
		return nil, &Error{Kind: Busy, Message: "the queue of libvirt calls is full"}
	}
	turn := make(chan *conn, 1)
	e := p.waiting.PushBack(&waiter{turn, gated})
	p.serve() // who waits before may want what is not to be had
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
				p.release(c, false, gated)
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
	p.serve()
	p.mu.Unlock()
}
