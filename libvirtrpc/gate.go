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
	// everyoneCalls is how many of these may be calls that ask every QEMU.
	everyoneCalls = monitorCalls / 2
	// storageCalls is how many calls may wait for storage pools.
	storageCalls = 4
	// breakFor is how long a domain is left alone whose call was lost with its
	// connection: the daemon's job lock gives up after 30 s (QEMU_JOB_WAIT_TIME).
	breakFor = 30 * time.Second
	// blameAfter is how long a call of everyone has to be unanswered before a
	// domain's circuit is broken for it. A guest's first seconds can take that
	// long where it is emulated.
	blameAfter = 2 * time.Second
)

// gate bounds the calls that may hang. Those that wait for QEMU's monitor: one
// for each domain, monitorCalls for the daemon. A domain that did not answer in
// time is circuit-broken: further calls fail at once, until the late answer
// arrives.
type gate struct {
	daemon, everyone, storage chan struct{}

	mu      sync.Mutex
	domains map[UUID]*gateDomain
	late    map[*gatePass]bool // calls of everyone that are past their deadline

	blameAfter time.Duration // blameAfter, but in tests
}

type gateDomain struct {
	turn    chan struct{} // holds one token
	users   int           // who holds or waits for the token
	tripped chan struct{} // closed while broken
	until   time.Time     // broken at least until then
}

func newGate() *gate {
	return &gate{
		daemon:   make(chan struct{}, monitorCalls),
		everyone: make(chan struct{}, everyoneCalls),
		storage:  make(chan struct{}, storageCalls),
		domains:  map[UUID]*gateDomain{},
		late:     map[*gatePass]bool{},

		blameAfter: blameAfter,
	}
}

// gatePass is the permission for one call. A nil pass is good for a call that
// needs none.
type gatePass struct {
	g     *gate
	slots []chan struct{} // that hold a token of it
	id    UUID
	d     *gateDomain // nil: the call is not of one domain
	left  bool
	began time.Time // of a call of everyone
}

var errTripped = &Error{Kind: NoAnswer, Message: "an earlier call to this domain's QEMU is not answered yet; nothing was sent"}

func (g *gate) enter(ctx context.Context, id UUID) (*gatePass, error) {
	g.mu.Lock()
	d := g.use(id)
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
		return &gatePass{g: g, id: id, d: d, slots: []chan struct{}{d.turn, g.daemon}}, nil
	case <-ctx.Done():
		<-d.turn
		g.drop(id, d)
		return nil, &Error{Kind: NoAnswer, Message: "too many calls wait for QEMU on this host; nothing was sent"}
	}
}

// use finds or makes the domain and counts one more user. g.mu is held.
func (g *gate) use(id UUID) *gateDomain {
	d := g.domains[id]
	if d == nil {
		d = &gateDomain{turn: make(chan struct{}, 1), tripped: make(chan struct{})}
		g.domains[id] = d
	}
	d.reset()
	d.users++
	return d
}

// enterEveryone is for a call that asks every QEMU that is free
// (virConnectGetAllDomainStats). It hangs on the first one that does not answer,
// and then holds that domain's job in libvirt, so that the next such call passes
// over it: each hung domain costs one place.
func (g *gate) enterEveryone(ctx context.Context) (*gatePass, error) {
	select {
	case g.everyone <- struct{}{}:
	default:
		return nil, &Error{Kind: Busy, Message: "too many calls to all of this host's QEMUs are not answered yet; nothing was sent"}
	}
	select {
	case g.daemon <- struct{}{}:
		return &gatePass{g: g, slots: []chan struct{}{g.everyone, g.daemon}, began: time.Now()}, nil
	case <-ctx.Done():
		<-g.everyone
		return nil, &Error{Kind: NoAnswer, Message: "too many calls wait for QEMU on this host; nothing was sent"}
	}
}

// enterStorage is for a call that waits while a storage pool is busy.
func (g *gate) enterStorage(ctx context.Context) (*gatePass, error) {
	select {
	case g.storage <- struct{}{}:
		return &gatePass{g: g, slots: []chan struct{}{g.storage}}, nil
	case <-ctx.Done():
		return nil, &Error{Kind: NoAnswer, Message: "too many calls wait for this host's storage pools; nothing was sent"}
	}
}

// blame hears which domains a call of everyone passed over. When there are as
// many unknown ones among them as such calls hang, each call hangs on one of
// them, and their circuits are broken until these calls are answered.
func (g *gate) blame(passedOver []UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var suspects []UUID
	for _, id := range passedOver {
		if d := g.domains[id]; d == nil || !d.isTripped() {
			suspects = append(suspects, id)
		}
	}
	var hanging []*gatePass
	for p := range g.late {
		if p.d == nil && time.Since(p.began) >= g.blameAfter {
			hanging = append(hanging, p)
		}
	}
	if len(suspects) != len(hanging) {
		return
	}
	for i, p := range hanging {
		p.id, p.d = suspects[i], g.use(suspects[i])
		p.d.trip()
	}
}

// reset closes the circuit again when its time has come. g.mu is held.
func (d *gateDomain) reset() {
	if d.isTripped() && !d.until.IsZero() && time.Now().After(d.until) {
		d.tripped = make(chan struct{})
		d.until = time.Time{}
	}
}

// trip breaks the circuit until the answer. g.mu is held.
func (d *gateDomain) trip() {
	if !d.isTripped() {
		close(d.tripped)
	}
	d.until = time.Time{}
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
	switch {
	case p.d != nil:
		p.d.trip()
	case !p.began.IsZero():
		p.g.late[p] = true
	}
}

// leave says that the call ended, with libvirt's answer or without one.
func (p *gatePass) leave(answered bool) {
	if p == nil {
		return
	}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	p.left = true
	delete(p.g.late, p)
	for _, s := range p.slots {
		<-s
	}
	if p.d == nil {
		return
	}
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
