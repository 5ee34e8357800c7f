package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// scale is how much of an assault there is: little with the other tests, much
// in the long form.
func scale(short, long int) int {
	if os.Getenv("VIRTGATE_PROVE") == "long" {
		return long
	}
	return short
}

// light is a load that has nothing to do with the assaults: one client that
// keeps its connection and one that opens a new one for each request, 50 times
// a second each. It gives the times of their answers.
func (g *gateway) light(t *testing.T, until <-chan struct{}) []time.Duration {
	var mu sync.Mutex
	var times []time.Duration
	var wg sync.WaitGroup
	for _, fresh := range []bool{false, true} {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: fresh}, Timeout: 20 * time.Second}
		wg.Go(func() {
			defer client.CloseIdleConnections()
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-until:
					return
				case <-tick.C:
				}
				req, _ := http.NewRequest("GET", g.url+"/libvirt/domains/by-name/test?fields=name,status", nil)
				req.Header.Set("X-Auth-Key", liveKey)
				req.Header.Set("X-Auth-Username", liveUser)
				began := time.Now()
				res, err := client.Do(req)
				if err != nil {
					t.Errorf("a client that has nothing to do with it: %v", err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				took := time.Since(began)
				if err != nil || res.StatusCode != 200 || took > 5*time.Second {
					t.Errorf("a client that has nothing to do with it: %d, %v, after %s: %s", res.StatusCode, err, took, body)
				}
				mu.Lock()
				times = append(times, took)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(times)
	return times
}

// besides says what the assault cost the others.
func besides(beside, alone []time.Duration) string {
	with, without := p99(beside), p99(alone)
	return fmt.Sprintf("p99 of the others %s, without %s (%.1f ×)", with.Round(10*time.Microsecond), without.Round(10*time.Microsecond), float64(with)/float64(max(without, 1)))
}

// p99 is the time that 99 of 100 do not exceed.
func p99(sorted []time.Duration) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*99/100]
}

// ofProcess reads a number of /proc about the gateway: "VmRSS" and "VmHWM" in
// KiB, or "files", its open descriptors.
func (g *gateway) ofProcess(t testing.TB, what string) int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", g.cmd.Process.Pid)
	if what == "files" {
		files, err := os.ReadDir(dir + "fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), what+":")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dial opens a bare connection.
func (g *gateway) dial() (*net.TCPConn, error) {
	c, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// Clients that are slow, broken or hostile get what they deserve, leave nothing
// behind, and those beside them are served.
func TestProveClients(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket(), "http_server.request_timeout=3s", "libvirtd.call_timeout=2s", "libvirtd.connections=2")
	eventually(t, "ready", 10*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
	big := "<domain type='test'><name>big</name><description>" + strings.Repeat("a", 200<<10) + "</description><memory>1024</memory><os><type>hvm</type></os></domain>"
	if a := g.do(t, "POST", "/libvirt/domains", jsonString(big)); a.status != 201 {
		t.Fatal(a.raw)
	}
	t.Run("deadlines", g.proveDeadlines)
	t.Run("unread", g.proveUnread)
	for _, a := range g.assaults() {
		t.Run(a.what, func(t *testing.T) { g.proveAssault(t, a) })
	}
	t.Run("memory", func(t *testing.T) {
		t.Attr("case", "memory of the server after all of these")
		t.Attr("promised", "it does not grow with what was sent")
		t.Attr("measured", fmt.Sprintf("%d MiB, at most %d MiB", g.ofProcess(t, "VmRSS")>>10, g.ofProcess(t, "VmHWM")>>10))
	})
}

// during runs the light load beside fn, for that long.
func (g *gateway) during(t *testing.T, d time.Duration, fn func(until <-chan struct{})) []time.Duration {
	until := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { fn(until) })
	time.AfterFunc(d, func() { close(until) })
	times := g.light(t, until)
	wg.Wait()
	return times
}

func (g *gateway) proveAssault(t *testing.T, a assault) {
	g.http.CloseIdleConnections()
	files := g.ofProcess(t, "files")
	alone := g.during(t, time.Duration(scale(300, 2000))*time.Millisecond, func(until <-chan struct{}) { <-until })
	var mu sync.Mutex
	rounds := 0
	beside := g.during(t, time.Duration(scale(600, 5000))*time.Millisecond, func(until <-chan struct{}) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for range a.clients {
			wg.Go(func() {
				for {
					c, err := g.dial()
					if err == nil {
						err = a.once(c, until)
						c.Close()
					}
					mu.Lock()
					rounds++
					mu.Unlock()
					if err != nil {
						t.Error(err)
						return
					}
					select {
					case <-until:
						return
					case <-time.After(time.Duration(a.pause) * time.Millisecond): // the pace
					}
				}
			})
		}
	})
	// libvirt connections may come and go; clients' must not stay.
	eventually(t, "the descriptors are given back", 15*time.Second, func() bool { return g.ofProcess(t, "files") <= files })
	if !t.Failed() {
		t.Attr("case", fmt.Sprintf("%d clients at once: %s", a.clients, a.what))
		t.Attr("promised", a.promised+"; no descriptor stays, and other clients are served")
		t.Attr("measured", fmt.Sprintf("%d times; %s", rounds, besides(beside, alone)))
	}
}

// Connections that do nothing make room for others: however many come, there is
// a bound to what they cost, and everybody else is served.
func TestProveIdleClients(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket(), "libvirtd.connections=1")
	eventually(t, "ready", 10*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
	n := scale(2500, 10_000)
	var limit syscall.Rlimit // Go has raised the soft one at the start
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur < 1000 {
		t.Fatalf("%d descriptors are too few: %v", limit.Cur, err)
	}
	n = min(n, int(limit.Cur)-500)
	g.http.CloseIdleConnections()
	files, memory := g.ofProcess(t, "files"), g.ofProcess(t, "VmRSS")
	alone := g.during(t, time.Second, func(until <-chan struct{}) { <-until })
	var conns []net.Conn
	most := 0
	until := make(chan struct{})
	go func() {
		defer close(until)
		for i := range n {
			c, err := g.dial()
			if err != nil {
				t.Error(err)
				return
			}
			conns = append(conns, c)
			switch i % 3 { // one says nothing, one half a request, one has had its answer
			case 1:
				io.WriteString(c, "GET /livez HTTP/1.1\r\n")
			case 2:
				io.WriteString(c, knownGet+"\r\n")
			}
		}
		// The others go on until the server has seen all of these, and some more.
		for end := time.Now().Add(time.Duration(scale(1, 8)) * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			most = max(most, g.ofProcess(t, "files"))
		}
	}()
	beside := g.light(t, until)
	// server/clients.go; the rest are libvirt's and the others'.
	if most-files > 2048+50 {
		t.Errorf("%d descriptors for %d connections", most, n)
	}
	now := g.ofProcess(t, "VmRSS")
	for _, c := range conns {
		c.Close()
	}
	eventually(t, "the descriptors are given back", 15*time.Second, func() bool { return g.ofProcess(t, "files") <= files })
	if !t.Failed() {
		t.Attr("case", fmt.Sprintf("%d connections that do nothing, or no more than half a request", n))
		t.Attr("promised", "at most 2048 stay, the longest idle ones go first, and other clients are served")
		t.Attr("measured", fmt.Sprintf("%d descriptors at most, %d MiB (before: %d MiB); %s", most, now>>10, memory>>10, besides(beside, alone)))
	}
}

// A server whose process has no descriptors left still serves those who are
// there, and everybody when there are some again.
func TestProveNoDescriptors(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket(), "libvirtd.connections=1")
	eventually(t, "ready", 10*time.Second, func() bool { return g.do(t, "GET", "/libvirt/domains", "").status == 200 })
	limit := func(n int) {
		t.Helper()
		// The hard limit stays, so that it can be raised again.
		if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(g.cmd.Process.Pid), fmt.Sprintf("--nofile=%d:", n)).CombinedOutput(); err != nil {
			t.Fatalf("prlimit: %v %s", err, out)
		}
	}
	limit(g.ofProcess(t, "files") + 10)
	var conns []net.Conn
	for range 50 {
		c, err := g.dial()
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
		io.WriteString(c, "GET /libvirt/no HTTP/1.1\r\n"+known)
	}
	// The group file changes, and cannot be opened.
	if err := os.Chtimes(filepath.Join(g.cmd.Dir, "group"), time.Time{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	served := 0
	for range 20 { // on the connection that is there
		if a := g.do(t, "GET", "/libvirt/domains?fields=name", ""); a.status == 200 {
			served++
		}
	}
	for _, c := range conns {
		c.Close()
	}
	began := time.Now()
	g.http.CloseIdleConnections()
	eventually(t, "new clients are served", 15*time.Second, func() bool {
		a, err := g.try("GET", "/libvirt/domains?fields=name", "")
		return err == nil && a.status == 200
	})
	if served != 20 {
		t.Errorf("%d of 20 requests served meanwhile", served)
	}
	if !t.Failed() {
		t.Attr("case", "no descriptor left for 40 of 50 connections")
		t.Attr("promised", "who is connected is served, and everybody is when there are descriptors again")
		t.Attr("measured", fmt.Sprintf("20 of 20 requests meanwhile; new clients %s after", time.Since(began).Round(time.Millisecond)))
	}
}
