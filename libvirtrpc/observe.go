package libvirtrpc

import (
	"context"
	"errors"
	"time"
)

// Call is one libvirt call that is over, for who watches them. A read that was
// repeated on another connection is two.
type Call struct {
	Procedure string    // libvirt's name: DomainSuspend
	Domain    UUID      // whom it was about; zero: no domain, or not one alone
	Start     time.Time // when it was asked for
	Sent      time.Time // when its turn came; zero: it was never sent
	End       time.Time // when its answer came, or when it was given up
	// Outcome is "ok", "canceled" when who asked went away, or the name of the
	// error's Kind.
	Outcome string
}

func (w *Call) end(ctx context.Context, err error) {
	w.End = time.Now()
	switch {
	case err == nil:
		w.Outcome = "ok"
	case KindOf(err) == NoAnswer && errors.Is(ctx.Err(), context.Canceled):
		w.Outcome = "canceled"
	default:
		w.Outcome = KindOf(err).String()
	}
}

// PoolState is how the client and its connections are at one moment.
type PoolState struct {
	Wanted, Open int // connections
	Opened       int // connections since the start
	InFlight     int // calls on open connections, abandoned ones included
	Waiting      int // calls that wait for a place
	Queue        int // how many may
	// Abandoned calls are past their deadline and not answered; AbandonedEver
	// counts them since the start.
	Abandoned, AbandonedEver int
	// GateCalls is how many calls wait for QEMU monitors, GateLimit how many may.
	GateCalls, GateLimit int
	// Circuits is how many domains are left alone because their QEMU does not
	// answer.
	Circuits int
}

// State is how things are now. It makes no call.
func (c *Client) State() PoolState {
	s := c.pool.state()
	s.GateCalls, s.GateLimit, s.Circuits = c.gate.state()
	return s
}

func (p *pool) state() PoolState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := PoolState{
		Wanted: p.opts.Connections, Open: len(p.conns), Opened: p.opened,
		Waiting: p.waiting.Len(), Queue: p.opts.Queue,
		Abandoned: p.abandonedNow, AbandonedEver: p.abandonedEver,
	}
	for _, c := range p.conns {
		s.InFlight += c.inFlight
	}
	return s
}

func (g *gate) state() (calls, limit, circuits int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, d := range g.domains {
		d.reset()
		if d.isTripped() {
			circuits++
		}
	}
	return len(g.daemon), cap(g.daemon), circuits
}
