package libvirtrpc

import (
	"context"
	"sync"
	"time"
)

const (
	// monitorCalls is how many calls may wait for QEMU monitors at once on one
	// daemon: half of libvirtd's 20 workers (max_workers), so that hung guests
	// leave workers for everything else.
	monitorCalls = 10
	// breakFor is how long a domain is left alone whose call was lost with its
	// connection: the daemon's job lock gives up after 30 s (QEMU_JOB_WAIT_TIME).
	breakFor = 30 * time.Second
)

// gate bounds the calls that wait for QEMU's monitor: one for each domain,
// monitorCalls for the daemon. A domain that did not answer in time is
// circuit-broken: further calls fail at once, until the late answer arrives.
type gate struct {
	daemon chan struct{}

	mu      sync.Mutex
	domains map[UUID]*gateDomain
}

type gateDomain struct {
	turn    chan struct{} // holds one token
	users   int           // who holds or waits for the token
	tripped chan struct{} // closed while broken
	until   time.Time     // broken at least until then
}

func newGate() *gate {
	return &gate{daemon: make(chan struct{}, monitorCalls), domains: map[UUID]*gateDomain{}}
}

// gatePass is the permission for one call. A nil pass is good for a call that
// needs none.
type gatePass struct {
	g    *gate
	id   UUID
	d    *gateDomain
	left bool
}

var errTripped = &Error{Kind: NoAnswer, Message: "an earlier call to this domain's QEMU is not answered yet; nothing was sent"}

func (g *gate) enter(ctx context.Context, id UUID) (*gatePass, error) {
	g.mu.Lock()
	d := g.domains[id]
	if d == nil {
		d = &gateDomain{turn: make(chan struct{}, 1), tripped: make(chan struct{})}
		g.domains[id] = d
	}
	d.reset()
	d.users++
	tripped := d.tripped
	g.mu.Unlock()

	select {
	case <-tripped:
		g.drop(id, d)
		return nil, errTripped
	default:
	}
	select {
	case d.turn <- struct{}{}:
	case <-tripped:
		g.drop(id, d)
		return nil, errTripped
	case <-ctx.Done():
		g.drop(id, d)
		return nil, &Error{Kind: NoAnswer, Message: "another call to this domain's QEMU did not end before the deadline; nothing was sent"}
	}
	select {
	case g.daemon <- struct{}{}:
		return &gatePass{g: g, id: id, d: d}, nil
	case <-ctx.Done():
		<-d.turn
		g.drop(id, d)
		return nil, &Error{Kind: NoAnswer, Message: "too many calls wait for QEMU on this host; nothing was sent"}
	}
}

// reset closes the circuit again when its time has come. g.mu is held.
func (d *gateDomain) reset() {
	if d.isTripped() && !d.until.IsZero() && time.Now().After(d.until) {
		d.tripped = make(chan struct{})
		d.until = time.Time{}
	}
}

func (d *gateDomain) isTripped() bool {
	select {
	case <-d.tripped:
		return true
	default:
		return false
	}
}

func (g *gate) drop(id UUID, d *gateDomain) {
	g.mu.Lock()
	defer g.mu.Unlock()
	d.users--
	g.forget(id, d)
}

// forget removes what says nothing any more, and domains whose time of being
// left alone is over. g.mu is held.
func (g *gate) forget(id UUID, d *gateDomain) {
	d.reset()
	if d.users == 0 && !d.isTripped() {
		delete(g.domains, id)
	}
	for id, d := range g.domains {
		if d.users == 0 {
			if d.reset(); !d.isTripped() {
				delete(g.domains, id)
			}
		}
	}
}

// broken says that the call is past its deadline.
func (p *gatePass) broken() {
	if p == nil {
		return
	}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	if p.left { // the answer came at the same moment
		return
	}
	if !p.d.isTripped() {
		close(p.d.tripped)
	}
	p.d.until = time.Time{} // until the answer
}

// leave says that the call ended, with libvirt's answer or without one.
func (p *gatePass) leave(answered bool) {
	if p == nil {
		return
	}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	p.left = true
	<-p.g.daemon
	<-p.d.turn
	if p.d.isTripped() {
		if answered {
			p.d.tripped = make(chan struct{})
		} else {
			p.d.until = time.Now().Add(breakFor)
		}
	}
	p.d.users--
	p.g.forget(p.id, p.d)
}
