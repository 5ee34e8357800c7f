package libvirtrpc

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// monitorCalls is how many calls may wait for QEMU monitors at once on one
	// daemon: half of libvirtd's 20 workers (max_workers), so that hung guests
	// leave workers for everything else.
	monitorCalls = 10
	// wellCalls is how many more may, of domains whose QEMU has answered within
	// wellFor: hung guests do not take the places of those that are in use.
	wellCalls = 4
	wellFor   = time.Minute
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

// gate bounds the calls that may hang. Those that wait for QEMU's monitor, or for
// a lock that is held while another one does: one for each domain, monitorCalls
// for the daemon. A domain that did not answer in time is circuit-broken: further
// calls fail at once, until the late answer arrives. So do calls to domains of
// which nothing is known while every place is taken by a late one.
type gate struct {
	daemon, well, everyone, storage chan struct{} // hold a token for each call

	mu      sync.Mutex
	domains map[UUID]*gateDomain
	swept   time.Time          // when all domains were looked at
	late    map[*gatePass]bool // calls of everyone that are past their deadline
	jam     int                // calls past their deadline that hold a token of daemon
	jammed  chan struct{}      // closed while these are all

	blameAfter time.Duration // blameAfter, but in tests
}

type gateDomain struct {
	turn     chan struct{} // holds one token
	users    int           // who holds or waits for the token
	tripped  chan struct{} // closed while broken
	until    time.Time     // broken at least until then
	answered time.Time     // when its QEMU last did
}

func newGate() *gate {
	return &gate{
		daemon:   make(chan struct{}, monitorCalls),
		well:     make(chan struct{}, wellCalls),
		everyone: make(chan struct{}, everyoneCalls),
		storage:  make(chan struct{}, storageCalls),
		domains:  map[UUID]*gateDomain{},
		late:     map[*gatePass]bool{},
		jammed:   make(chan struct{}),

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
	jams  bool      // it counts in g.jam
	began time.Time // of a call of everyone
}

var (
	errTripped = &Error{Kind: NoAnswer, Message: "an earlier call to this domain's QEMU is not answered yet; nothing was sent"}
	errJammed  = &Error{Kind: NoAnswer, Message: "too many of this host's QEMUs do not answer; nothing was sent"}
	errFull    = &Error{Kind: NoAnswer, Message: "too many calls wait for QEMU on this host; nothing was sent"}
)

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
	g.mu.Lock()
	well, jammed := g.well, g.jammed
	if time.Since(d.answered) > wellFor {
		well = nil
	} else {
		jammed = nil
	}
	g.mu.Unlock()
	var err error
	select {
	case g.daemon <- struct{}{}:
		return &gatePass{g: g, id: id, d: d, slots: []chan struct{}{d.turn, g.daemon}}, nil
	case well <- struct{}{}:
		return &gatePass{g: g, id: id, d: d, slots: []chan struct{}{d.turn, well}}, nil
	case <-jammed:
		err = errJammed
	case <-ctx.Done():
		err = errFull
	}
	<-d.turn
	g.drop(id, d)
	return nil, err
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
		return nil, errFull
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

// forget removes what says nothing any more: domains of whom nobody wants
// anything, that are not left alone and have not answered lately. g.mu is held.
func (g *gate) forget(id UUID, d *gateDomain) {
	stale := func(d *gateDomain) bool {
		d.reset()
		return d.users == 0 && !d.isTripped() && time.Since(d.answered) > wellFor
	}
	if stale(d) {
		delete(g.domains, id)
	}
	if time.Since(g.swept) < time.Second {
		return
	}
	g.swept = time.Now()
	for id, d := range g.domains {
		if stale(d) {
			delete(g.domains, id)
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
		p.d.answered = time.Time{}
	case !p.began.IsZero():
		p.g.late[p] = true
	}
	if p.jams = slices.Contains(p.slots, p.g.daemon); p.jams {
		if p.g.jam++; p.g.jam == monitorCalls {
			close(p.g.jammed)
		}
	}
}

// unused gives the place back: nothing was sent.
func (p *gatePass) unused() {
	if p == nil {
		return
	}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	p.giveBack()
}

// leave says how the call ended, which had QEMU do something if asked is set.
func (p *gatePass) leave(err error, asked bool) {
	if p == nil {
		return
	}
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	p.left = true
	delete(p.g.late, p)
	if p.jams {
		if p.g.jam == monitorCalls {
			p.g.jammed = make(chan struct{})
		}
		p.g.jam--
	}
	if p.d != nil {
		lost := died(err)
		switch {
		case !p.d.isTripped():
		case lost:
			p.d.until = time.Now().Add(breakFor)
		default:
			p.d.tripped = make(chan struct{})
		}
		// Libvirt's own timeout is its answer, not QEMU's.
		if asked && (err == nil || !lost && libvirtError(err).Kind != TimedOut) {
			p.d.answered = time.Now()
		}
	}
	p.giveBack()
}

// giveBack is the end of unused and leave. g.mu is held.
func (p *gatePass) giveBack() {
	for _, s := range p.slots {
		<-s
	}
	if p.d != nil {
		p.d.users--
		p.g.forget(p.id, p.d)
	}
}

// gone says that the domain has no QEMU any more: what that did not answer does
// not speak against another call.
func (g *gate) gone(id UUID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.domains[id]; d != nil && d.isTripped() {
		d.tripped, d.until = make(chan struct{}), time.Time{}
	}
}
