package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// hung are guests on one virtgate, some of which are going to be stopped: their
// QEMU then answers nothing, as with storage that is gone.
type hung struct {
	t     *testing.T
	g     *gateway
	names []string
	used  int // how many of the last ones are in use
}

const hungTimeout = 3 * time.Second // of a request

// newHung starts the guests. The virtgate that does has no short deadlines: the
// first definition of a daemon waits until it has looked at each QEMU.
func newHung(t *testing.T, socket string, guests, used int) *hung {
	h := &hung{t: t, used: used}
	patient := startGateway(t, "qemu", socket)
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, name := range h.names {
			wg.Go(func() { patient.try("DELETE", "/libvirt/domains/by-name/"+name+"?options=destroy", "") })
		}
		wg.Wait()
	})
	for i := range guests {
		name := fmt.Sprintf("hung-%d-%d", i, rand.Uint64())
		xml := `<domain type='qemu'><name>` + name + `</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os></domain>`
		if a := patient.do(t, "POST", "/libvirt/domains?start=true&paused=true", jsonString(xml)); a.status != 201 {
			t.Fatalf("create: %s", a.raw)
		}
		h.names = append(h.names, name)
	}
	return h
}

// others is a load that wants nothing of the guests that are going to hang, but
// for their details: lists and details, and power changes of the last guests.
func (h *hung) others(t *testing.T) (reads, changes time.Duration) {
	header := http.Header{"X-Auth-Key": {liveKey}, "X-Auth-Username": {liveUser}}
	one := func(i int) string { return h.g.url + "/libvirt/domains/by-name/" + h.names[i] }
	p99 := func(clients, n int, fill func(i int, to *vegeta.Target)) time.Duration {
		var next atomic.Int64
		return attack(t, h.g, func(to *vegeta.Target) error {
			to.Header = header
			fill(int(next.Add(1)-1), to)
			return nil
		}, clients, n, nil).Latencies.P99
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		reads = p99(4, long(120, 1000), func(i int, to *vegeta.Target) {
			to.Method, to.URL = "GET", h.g.url+"/libvirt/domains"
			if i%2 == 0 {
				to.URL = one(i / 2 % len(h.names))
			}
		})
	})
	wg.Go(func() {
		changes = p99(1, long(24, 120), func(i int, to *vegeta.Target) {
			to.Method, to.URL = "PATCH", one(len(h.names)-1-i/2%h.used)
			to.Body = fmt.Appendf(nil, `{"power_mgt":%q}`, []string{"resume", "suspend"}[i%2])
		})
	})
	wg.Wait()
	return reads, changes
}

// ask wants something that only the guest's QEMU can do.
func (h *hung) ask(t *testing.T, guest int, body string) *answer {
	a, err := h.g.try("PATCH", "/libvirt/domains/by-name/"+h.names[guest], body)
	if err != nil {
		t.Error(err)
		return &answer{}
	}
	return a
}

const reset = `{"power_mgt":"reset"}`

// row stops the processes of the first n guests, asks all of them, and proves
// that it hurts nobody else.
func (h *hung) row(n int) {
	what := fmt.Sprintf("%d of %d guests hung: their QEMU does not answer", n, len(h.names))
	promised := fmt.Sprintf("lists, details and power changes of the guests in use as without; of the hung ones 504 within request_timeout (%s), then at once; all well by itself when they go on", hungTimeout)
	row(h.t, fmt.Sprint(n), what, promised, func(t *testing.T) string {
		reads, changes := h.others(t)
		goOn := h.stop(t, n)
		var wg sync.WaitGroup
		for i := range n {
			for range 2 {
				wg.Go(func() {
					if a := h.ask(t, i, reset); a.status != 504 || a.code() != 12 || a.took > hungTimeout+slack {
						t.Errorf("reset of a hung guest: %d after %s: %s", a.status, a.took, a.raw)
					}
				})
			}
		}
		waitReads, waitChanges := h.others(t)
		wg.Wait()
		var atOnce time.Duration
		for i := range n {
			for _, body := range []string{reset, `{"autostart":true}`} {
				a := h.ask(t, i, body)
				if a.status != 504 || a.took > slack/2 {
					t.Errorf("%s of a guest that is known to hang: %d after %s: %s", body, a.status, a.took, a.raw)
				}
				atOnce = max(atOnce, a.took)
			}
		}
		knownReads, knownChanges := h.others(t)
		began := time.Now()
		goOn()
		for i := range n {
			eventually(t, "the guest answers again", 40*time.Second, func() bool { return h.ask(t, i, reset).status == 200 })
		}
		all := time.Since(began)
		// The load without is measured as often as the one with.
		afterReads, afterChanges := h.others(t)
		reads, changes = max(reads, afterReads), max(changes, afterChanges)
		against := func(with, without time.Duration) string {
			return fmt.Sprintf("%s, without %s (%.1f times)", short(with), short(without), float64(with)/float64(without))
		}
		return fmt.Sprintf("p99 of lists and details %s, of power changes %s; of known hung guests after %s at most; all well %s after they went on",
			against(max(waitReads, knownReads), reads), against(max(waitChanges, knownChanges), changes), short(atOnce), short(all))
	})
}

// stop stops the processes of the first n guests.
func (h *hung) stop(t *testing.T, n int) (goOn func()) {
	var pids []int
	goOn = func() {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(goOn) // before they are deleted
	for _, name := range h.names[:n] {
		pid := qemuPID(t, name)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return goOn
}

// Guests whose QEMU does not answer delay nothing but what is asked of them.
func TestProveHungGuests(t *testing.T) {
	socket := liveSocket(t, envQEMU)
	h := newHung(t, socket, long(3, 24), long(2, 4))
	h.g = startGateway(t, "qemu", socket, "libvirtd.call_timeout=2s", "http_server.request_timeout="+hungTimeout.String())
	h.row(1)
	if long(0, 1) == 0 {
		return
	}
	h.row(20) // as many as libvirtd has workers
	row(t, "delete", "DELETE with options=destroy of a guest that is known to hang", "it is gone; libvirt gives its QEMU some seconds", func(t *testing.T) string {
		h.stop(t, 1)
		if a := h.ask(t, 0, reset); a.status != 504 {
			t.Errorf("reset of a hung guest: %d %s", a.status, a.raw)
		}
		one, began := "/libvirt/domains/by-name/"+h.names[0], time.Now()
		eventually(t, "the guest is deleted", time.Minute, func() bool {
			h.g.do(t, "DELETE", one+"?options=destroy", "")
			return h.g.do(t, "GET", one, "").status == 404
		})
		return "after " + short(time.Since(began))
	})
}
