package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Several clients act on a few domains at the same time, and look. What each
// response says is a fact that has to hold at some moment between the request
// and the response: porcupine looks for an order of all facts about a domain in
// which they do. An answer that is older than its request, a change that was
// done twice, or one that was done and denied has no such order.
func TestProveLinearizable(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket())
	p := &parallel{t: t, g: g, clients: 6, domains: 2, calls: 60, seed: proveSeed(t)}
	for range long(4, 120) {
		p.round()
	}
	t.Attr("case", fmt.Sprintf("%d clients at once on %d domains: changes, details and lists", p.clients, p.domains))
	t.Attr("promised", "every answer was true at a moment between its request and its response")
	t.Attr("measured", fmt.Sprintf("%d calls, %d facts in %d histories: each has such an order", p.sent, p.facts, p.histories))
}

// parallel runs rounds of calls, each on domains of its own.
type parallel struct {
	t                       *testing.T
	g                       *gateway
	clients, domains, calls int
	seed                    uint64
	// up tells whether the daemon is there, when connections to it are cut and
	// outcomes may be unknown; else nil.
	up func() bool

	n                             int // of the round
	sent, facts, histories, opens int
}

// round does not count when the daemon went away: what was said then is no proof.
func (p *parallel) round() {
	p.t.Helper()
	p.n++
	begin := time.Now()
	all := make([]*actor, p.clients)
	var wg sync.WaitGroup
	for i := range all {
		c := &actor{p: p, id: i, rand: rand.New(rand.NewPCG(p.seed, uint64(p.n<<8+i))), begin: begin, says: make([]history, p.domains)}
		all[i] = c
		wg.Go(func() {
			for n := 0; n < p.calls && c.err == nil; n++ {
				c.err = c.call()
			}
		})
	}
	wg.Wait()
	for _, c := range all {
		if errors.Is(c.err, errDown) {
			return
		}
		if c.err != nil {
			p.t.Fatal(c.err)
		}
		p.sent += c.sent
		p.opens += c.opens
	}
	for i := range p.domains {
		var h history
		for _, c := range all {
			h.ops = append(h.ops, c.says[i].ops...)
			p.facts += c.says[i].facts
		}
		h.check(p.t)
		p.histories++
		p.g.try("DELETE", "/libvirt/domains/by-uuid/"+p.uuid(i)+"?options=destroy", "")
	}
}

var errDown = errors.New("the daemon is not there")

func (p *parallel) prefix() string           { return fmt.Sprintf("l%d-", p.n) }
func (p *parallel) uuid(i int) string        { return fmt.Sprintf("00000000-0000-4000-8000-%06x%06x", p.n, i) }
func (p *parallel) name(i, which int) string { return fmt.Sprintf("%s%d%c", p.prefix(), i, 'a'+which) }
