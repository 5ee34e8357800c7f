package main

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bounded is a load of which every request ends within its time, with success or
// one of the codes.
func bounded(t *testing.T, g *gateway, limit time.Duration, rounds int, other string, codes ...int) string {
	var good, bad atomic.Int64
	var mu sync.Mutex
	var slowest time.Duration
	var wg sync.WaitGroup
	for _, r := range [][3]string{
		{"GET", "/libvirt/domains"},
		{"GET", "/libvirt/domains/by-name/" + other},
		{"GET", "/libvirt/domains/by-name/" + other + "/xml_desc"},
		{"PATCH", "/libvirt/domains/by-name/" + other, `{"power_mgt":"reset"}`},
		{"PATCH", "/libvirt/domains/by-name/" + other, `{"autostart":true}`},
	} {
		wg.Go(func() {
			for range rounds {
				a, err := g.try(r[0], r[1], r[2])
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				slowest = max(slowest, a.took)
				mu.Unlock()
				switch {
				case a.took > limit:
					t.Errorf("%v took %s", r, a.took)
				case a.status == 200:
					good.Add(1)
				case slices.Contains(codes, a.code()) && (a.status == 503 || a.status == 504):
					bad.Add(1)
					if again := a.header.Get("Retry-After") != ""; again != (a.status == 503 && !isUnknown(a)) {
						t.Errorf("%v: %d, Retry-After %t: %s", r, a.status, again, a.raw)
					}
				default:
					t.Errorf("%v: %d %s", r, a.status, a.raw)
				}
			}
		})
	}
	wg.Wait()
	return fmt.Sprintf("%d requests served, %d refused, the slowest ended after %s", good.Load(), bad.Load(), short(slowest))
}

// hold takes places for clients of the daemon.
func hold(t *testing.T, d *daemon, n int) (release func(n int)) {
	var held []net.Conn
	for range n {
		c, err := net.Dial("unix", d.socket())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	release = func(n int) {
		for _, c := range held[:n] {
			c.Close()
		}
		held = held[n:]
	}
	t.Cleanup(func() { release(len(held)) })
	return release
}

// Others hold the places for clients that libvirtd has.
func TestProveMaxClients(t *testing.T) {
	const requestTimeout = 4 * time.Second
	d := startDaemonWith(t, "max_clients=6\nmax_anonymous_clients=6\n")
	eventually(t, "libvirtd", 20*time.Second, func() bool { return socketAnswers(d.socket()) })
	release := hold(t, d, 6)
	g := startGateway(t, "test", d.socket(), "libvirtd.path=default", "libvirtd.call_timeout=2s", "http_server.request_timeout="+requestTimeout.String())
	row(t, "none", "max_clients of libvirtd reached, not one connection to be had", "503 in time, /livez 200, served by itself when there is a place", func(t *testing.T) string {
		said := bounded(t, g, requestTimeout+slack, 2, "test", 10)
		if a := g.do(t, "GET", "/readyz", ""); a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("readyz: %d %v", a.status, a.header)
		}
		if a := g.do(t, "GET", "/livez", ""); a.status != 200 {
			t.Errorf("livez: %d", a.status)
		}
		release(2)
		began := time.Now()
		eventually(t, "service", 20*time.Second, func() bool { return g.do(t, "GET", "/libvirt/domains", "").status == 200 })
		return fmt.Sprintf("%s; served %s after there were two", said, short(time.Since(began)))
	})
	row(t, "some", "max_clients of libvirtd reached, two connections of four to be had", "served as ever, and on four when there are places", func(t *testing.T) string {
		eventually(t, "two connections", 20*time.Second, func() bool { return g.sockets(t) >= 2 })
		said := bounded(t, g, requestTimeout+slack, long(20, 200), "test")
		release(4)
		began := time.Now()
		eventually(t, "four connections", 30*time.Second, func() bool { return g.sockets(t) == 4 })
		return fmt.Sprintf("%s; four connections %s after there were places", said, short(time.Since(began)))
	})
}

// Guests that hang, on a libvirtd that can do only two things at once.
func TestProveSmallLimits(t *testing.T) {
	const requestTimeout = 3 * time.Second
	d := startQEMU(t, "")
	h := newHung(t, d.socket(), 3, 1)
	cases := []struct{ name, what, settings, connections string }{
		{"workers", "max_workers=2 of libvirtd reached by two hung guests", "min_workers=1\nmax_workers=2\n", "4"},
		{"requests", "max_client_requests=2 of libvirtd reached by two hung guests on one connection", "max_client_requests=2\n", "1"},
	}
	for _, c := range cases[:long(1, 2)] {
		d.kill()
		d.configure(c.settings)
		d.start()
		eventually(t, "libvirtd", 30*time.Second, func() bool { return socketAnswers(d.socket()) })
		g := startGateway(t, "qemu", d.socket(), "libvirtd.connections="+c.connections, "libvirtd.call_timeout=1s", "http_server.request_timeout="+requestTimeout.String())
		h.g = g
		eventually(t, "ready", 20*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
		row(t, c.name, c.what, fmt.Sprintf("every request ends within request_timeout (%s) and says why; served again by itself", requestTimeout), func(t *testing.T) string {
			goOn := h.stop(t, 2)
			var wg sync.WaitGroup
			for i := range 2 {
				wg.Go(func() {
					if a := h.ask(t, i, reset); a.status != 504 || a.took > requestTimeout+slack {
						t.Errorf("reset of a hung guest: %d after %s: %s", a.status, a.took, a.raw)
					}
				})
			}
			said := bounded(t, g, requestTimeout+slack, long(2, 6), h.names[2], 10, 12)
			wg.Wait()
			goOn()
			began := time.Now()
			for i := range 3 {
				eventually(t, "the guest answers again", 40*time.Second, func() bool { return h.ask(t, i, reset).status == 200 })
			}
			eventually(t, "details", 40*time.Second, func() bool { return g.do(t, "GET", "/libvirt/domains/by-name/"+h.names[2], "").status == 200 })
			return fmt.Sprintf("%s; all well %s after the guests went on", said, short(time.Since(began)))
		})
	}
}
