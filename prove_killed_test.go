package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"
)

// killing is a load during which its libvirtd is killed again and again.
type killing struct {
	*load
	d      *daemon
	w      *witness
	rand   *rand.Rand
	kills  int
	served []time.Duration // from the daemon's first answer to virtgate's
}

const killTimeout = 10 * time.Second // of a request

// startKilling starts everything but the load.
func startKilling(t *testing.T, driver string, d *daemon, w *witness, start func(testing.TB, string, string, ...string) *gateway) *killing {
	seed := proveSeed(t)
	g := start(t, driver, w.path, "libvirtd.path="+map[string]string{"test": "default", "qemu": "system"}[driver],
		"http_server.request_timeout="+killTimeout.String())
	return &killing{d: d, w: w, rand: rand.New(rand.NewPCG(seed, 99)),
		load: &load{t: t, g: g, driver: driver, seed: seed, limit: killTimeout + slack, forgets: driver == "test"}}
}

func (k *killing) settled() bool { return k.w.connections() == 4 }

// kill kills the daemon at a random moment, leaves it away for a random time,
// and waits until virtgate serves again.
func (k *killing) kill() {
	k.t.Helper()
	k.kills++
	k.wait(k.after(50 + k.rand.IntN(100)))
	if m := moment(k.rand.IntN(4)); m == never {
		k.d.kill()
	} else {
		k.wait(k.w.strikeAt(m, k.d.kill))
	}
	k.w.down()
	// Back when some clients wait, or when all have heard that it is away.
	if n := k.rand.IntN(3); k.rand.IntN(6) > 0 {
		k.wait(k.after(n))
	} else {
		k.wait(k.after(workers + n))
	}
	k.d.start()
	eventually(k.t, "libvirtd", 20*time.Second, func() bool { return socketAnswers(k.d.socket()) })
	k.w.up()
	up := time.Now()
	// A list may wait: libvirtd holds a domain's lock while it ends one that was
	// half started.
	eventually(k.t, "service again", 10*time.Second, func() bool { return k.g.do(k.t, "GET", "/readyz", "").status == 200 })
	k.served = append(k.served, time.Since(up))
}

// rows are what holds whatever the driver.
func (k *killing) rows() (killed string) {
	killed = fmt.Sprintf("libvirtd (%s driver) killed %d times under mixed load", k.driver, k.kills)
	row(k.t, "requests", killed, fmt.Sprintf("every request ends within request_timeout (%s); a change of unknown outcome is 503 or 504, says so and has no Retry-After", killTimeout), func(t *testing.T) string {
		return fmt.Sprintf("%d requests, the slowest %s; %d changes, %d refused by libvirt, %d of unknown outcome, of which %d had been done",
			k.asked.Load(), short(k.slowest), k.changes.Load(), k.refused.Load(), k.unknown.Load(), k.wasDone.Load())
	})
	k.once(killed, k.w)
	row(k.t, "served", killed, "libvirt is reached again within 2 s of libvirtd's own first answer", func(t *testing.T) string {
		most := percentile(k.served, 100)
		if most > 2*time.Second+slack {
			t.Errorf("after %s", most)
		}
		return fmt.Sprintf("after %s (median), %s (the longest)", short(percentile(k.served, 50)), short(most))
	})
	return killed
}

// libvirtd is killed under mixed load. What was answered is compared with what
// libvirtd was told, and with what it has on disk at the end.
func TestProveDaemonKilled(t *testing.T) {
	kills := long(3, 49)
	d := startQEMU(t, "")
	k := startKilling(t, "qemu", d, startWitness(t, d), startGateway)
	// The first definition of all waits until libvirtd has looked at each QEMU.
	k.open().define()
	k.run(k.kill)
	// No sockets but those to libvirt.
	settled := func() bool { return k.g.sockets(t) == 4 }
	eventually(t, "four sockets", 20*time.Second, settled)
	memory, _ := k.g.rss(t)
	fds := k.g.fds(t)
	k.run(func() {
		for range kills {
			k.kill()
		}
	})
	killed := k.rows()
	row(t, "kept", killed, "what was answered with success is in libvirtd's own files, and nothing else", func(t *testing.T) string {
		defined, autostarted := d.onDisk()
		for _, a := range k.accounts {
			is := func(c *condition) bool {
				return c != nil && defined[a.uuid] == c.defined && autostarted[a.uuid] == c.autostart
			}
			if !is(&a.now) && !is(a.late) {
				t.Errorf("%s: on disk %t, autostart %t; by the answers %+v:\n%s", a.name, defined[a.uuid], autostarted[a.uuid], a.now, a.history.String())
			}
		}
		return fmt.Sprintf("%d domains were made, the %d that must be there are there, with their autostart", len(k.accounts), len(defined))
	})
	row(t, "leaks", killed, "memory and descriptors at the end as at the start", func(t *testing.T) string {
		eventually(t, "four sockets", 20*time.Second, settled)
		end, _ := k.g.rss(t)
		if n := k.g.fds(t); n > fds {
			t.Errorf("%d descriptors, before %d", n, fds)
		}
		if end > memory+32<<10 && !raceEnabled { // the detector's own memory grows
			t.Errorf("%s resident, before %s", mib(end), mib(memory))
		}
		return fmt.Sprintf("%d descriptors, before %d; %s resident, before %s", k.g.fds(t), fds, mib(end), mib(memory))
	})
}

// onDisk is which domains, by UUID, libvirtd has the definitions of, and which
// of them start with their host.
func (d *daemon) onDisk() (defined, autostarted map[string]bool) {
	d.t.Helper()
	defined, autostarted = map[string]bool{}, map[string]bool{}
	dir := fmt.Sprintf("/proc/%d/root/etc/libvirt/qemu", d.space)
	files, err := filepath.Glob(dir + "/*.xml")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			d.t.Fatal(err)
		}
		uuid := uuidElement.FindStringSubmatch(string(b))[1]
		defined[uuid] = true
		_, err = os.Lstat(filepath.Join(dir, "autostart", filepath.Base(f)))
		autostarted[uuid] = err == nil
	}
	return defined, autostarted
}

// The same within the test's process: whatever is started to serve ends.
func TestProveDaemonKilledInside(t *testing.T) {
	kills := long(2, 15)
	d := startDaemon(t)
	eventually(t, "libvirtd", 20*time.Second, func() bool { return socketAnswers(d.socket()) })
	w := startWitness(t, d)
	// Who listens for signals once has a goroutine for good.
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	signal.Stop(c)
	ended := steadyGoroutines(t)
	t.Run("serving", func(t *testing.T) {
		k := startKilling(t, "test", d, w, startInside)
		eventually(t, "four connections", 20*time.Second, k.settled)
		idle := steadyGoroutines(t)
		k.run(func() {
			for range kills {
				k.kill()
			}
		})
		eventually(t, "four connections", 20*time.Second, k.settled)
		end := steadyGoroutines(t) // a row is one more
		if end > idle {
			t.Errorf("%d goroutines, before %d:\n%s", end, idle, goroutines())
		}
		row(t, "goroutines", k.rows(), "goroutines at the end as at the start", func(t *testing.T) string {
			return fmt.Sprintf("%d, before %d", end, idle)
		})
	})
	if n := steadyGoroutines(t); n > ended {
		t.Errorf("%d goroutines after virtgate ended, before it began %d:\n%s", n, ended, goroutines())
	}
}

func goroutines() string {
	var b strings.Builder
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	return b.String()
}

// steadyGoroutines is how many there are when nothing has changed for a while.
func steadyGoroutines(t *testing.T) (n int) {
	t.Helper()
	var since time.Time
	eventually(t, "as many goroutines as a moment ago", 20*time.Second, func() bool {
		if now := runtime.NumGoroutine(); now != n {
			n, since = now, time.Now()
		}
		return time.Since(since) > 700*time.Millisecond
	})
	return n
}
