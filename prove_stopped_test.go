package main

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// libvirtd is stopped under mixed load for longer than any deadline, as by an
// overloaded host or a debugger, and goes on.
func TestProveDaemonStopped(t *testing.T) {
	const requestTimeout, callTimeout = 3 * time.Second, time.Second
	// A request, the handshake of a new connection (5 s), and in the long form
	// also a connection that is given up for its silence (20 s).
	length := time.Duration(long(6, 25)) * time.Second
	d := startDaemon(t)
	w := startWitness(t, d)
	g := startGateway(t, "test", w.path, "libvirtd.path=default", "libvirtd.call_timeout="+callTimeout.String(), "http_server.request_timeout="+requestTimeout.String())
	eventually(t, "ready", 20*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
	l := &load{t: t, g: g, driver: "test", seed: proveSeed(t), limit: requestTimeout + slack}
	var again time.Duration
	silences, answers := 0, 0
	l.run(func() {
		l.wait(l.after(200))
		d.signal(syscall.SIGSTOP)
		began := time.Now()
		eventually(t, "readyz 503", requestTimeout, func() bool { return g.do(t, "GET", "/readyz", "").status == 503 })
		l.deaf.Store(true)
		before := l.asked.Load()
		for time.Since(began) < length {
			if a := g.do(t, "GET", "/readyz", ""); a.status != 503 || a.header.Get("Retry-After") == "" || a.took > callTimeout+slack {
				t.Errorf("readyz with libvirtd stopped: %d %v after %s", a.status, a.header, a.took)
			}
			if a := g.do(t, "GET", "/livez", ""); a.status != 200 || a.took > slack {
				t.Errorf("livez with libvirtd stopped: %d after %s", a.status, a.took)
			}
			silences++
		}
		answers = int(l.asked.Load() - before)
		l.deaf.Store(false)
		d.signal(syscall.SIGCONT)
		on := time.Now()
		eventually(t, "service again", 20*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
		again = time.Since(on)
		l.wait(l.after(200))
	})
	stopped := fmt.Sprintf("libvirtd stopped for %s under mixed load, then going on", length)
	row(t, "requests", stopped, fmt.Sprintf("every request ends with 503 or 504 within request_timeout (%s); /readyz is 503, /livez 200", requestTimeout), func(t *testing.T) string {
		return fmt.Sprintf("%d requests while it was stopped, the slowest %s; %d changes of unknown outcome, of which %d had been done; readyz and livez asked %d times",
			answers, short(l.slowest), l.unknown.Load(), l.wasDone.Load(), silences)
	})
	l.once(stopped, w)
	row(t, "again", stopped, "serves again by itself", func(t *testing.T) string { return "after " + short(again) })
}
