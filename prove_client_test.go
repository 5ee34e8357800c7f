package main

import (
	"bufio"
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
	dir := fmt.Sprintf("/proc/%d/", g.pid)
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

const (
	known    = "Host: a\r\nX-Auth-Key: " + liveKey + "\r\nX-Auth-Username: " + liveUser + "\r\n"
	knownGet = "GET /libvirt/domains?fields=name HTTP/1.1\r\n" + known
)

// assault is one thing that clients do to a server, over and over.
type assault struct {
	what, promised string
	clients, pause int // how many at once; milliseconds between two rounds of each
	// once is one round: it has a connection that is closed after it.
	once func(c *net.TCPConn, until <-chan struct{}) error
}

// status reads one response and demands the status.
func status(c net.Conn, want int) error {
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return fmt.Errorf("want %d: %w", want, err)
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		body, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%d, want %d: %.300s", res.StatusCode, want, body)
	}
	return nil
}

// drip sends bytes one at a time until the server ends the connection.
func drip(c *net.TCPConn, head string, until <-chan struct{}) error {
	io.WriteString(c, head)
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, c)
		close(ended)
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	defer func() {
		c.Close()
		<-ended
	}()
	for {
		select {
		case <-until:
			return nil
		case <-ended:
			return nil
		case <-tick.C:
			c.Write([]byte("a"))
		}
	}
}

// answered sends all and demands the status.
func answered(all string, want int) func(*net.TCPConn, <-chan struct{}) error {
	return func(c *net.TCPConn, _ <-chan struct{}) error {
		sent := make(chan struct{})
		go func() { // the answer may come before the end of what is sent
			io.WriteString(c, all)
			close(sent)
		}()
		err := status(c, want)
		c.Close()
		<-sent
		return err
	}
}

func (g *gateway) assaults() []assault {
	over := strings.Repeat("a", 1<<20+1)
	deep := strings.Repeat("[", 1<<19)
	bomb := `"<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><domain><name>&b;</name></domain>"`
	post := func(body string) string {
		return fmt.Sprintf("POST /libvirt/domains HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", known, len(body), body)
	}
	return []assault{
		{what: "headers one byte at a time", promised: "ended at a deadline", clients: scale(100, 500), pause: 100,
			once: func(c *net.TCPConn, until <-chan struct{}) error {
				return drip(c, "GET /livez HTTP/1.1\r\nHost: a\r\nA: ", until)
			}},
		{what: "bodies one byte at a time", promised: "ended at a deadline", clients: scale(100, 500), pause: 100,
			once: func(c *net.TCPConn, until <-chan struct{}) error {
				return drip(c, "POST /libvirt/domains HTTP/1.1\r\n"+known+"Content-Length: 100000\r\n\r\n", until)
			}},
		{what: "bodies one byte at a time, from strangers", promised: "answered at once and ended", clients: scale(50, 200), pause: 100,
			once: func(c *net.TCPConn, until <-chan struct{}) error {
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
				if err := status(c, 400); err != nil {
					return err
				}
				return drip(c, "", until)
			}},
		{what: "requests without end, and no answer is read", promised: "ended at a deadline", clients: scale(4, 20), pause: 100,
			once: func(c *net.TCPConn, until <-chan struct{}) error {
				c.SetReadBuffer(4096)
				c.SetWriteDeadline(time.Now().Add(time.Minute))
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					select {
					case <-until:
						c.Close()
					case <-stop:
					}
				}()
				for i := 0; i < 100_000; i++ {
					if _, err := io.WriteString(c, knownGet+"\r\n"); err != nil {
						return nil // the server ended it, or the time is over
					}
				}
				return nil
			}},
		{what: "half-closed connections", promised: "one answer in the envelope each", clients: 4, pause: 10,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
				c.CloseWrite()
				return status(c, 200)
			}},
		{what: "half-closed connections, each with a change", promised: "the change is made, and answered", clients: 4, pause: 10,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, "PATCH /libvirt/domains/by-name/test HTTP/1.1\r\n"+known+"Content-Length: 18\r\n\r\n{\"autostart\":true}")
				c.CloseWrite()
				return status(c, 200)
			}},
		{what: "connections reset within a request", promised: "nothing stays behind", clients: 8, pause: 5,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, "POST /libvirt/domains HTTP/1.1\r\n"+known+"Content-Length: 1000\r\n\r\n[")
				return c.SetLinger(0)
			}},
		{what: "connections reset before the answer", promised: "nothing stays behind", clients: 8, pause: 5,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, strings.Repeat(knownGet+"\r\n", 4))
				return c.SetLinger(0)
			}},
		{what: "bodies over the limit, announced", promised: "413 at once", clients: 4, pause: 20, once: answered(post(over), 413)},
		{what: "bodies over the limit, in chunks", promised: "413", clients: 4, pause: 20,
			once: answered(fmt.Sprintf("POST /libvirt/domains HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", known, len(over), over), 413)},
		{what: "headers of 1 MiB", promised: "431", clients: 4, pause: 20,
			once: answered("GET /livez HTTP/1.1\r\nHost: a\r\nA: "+over+"\r\n\r\n", 431)},
		{what: "100,000 headers", promised: "431", clients: 4, pause: 20,
			once: answered("GET /livez HTTP/1.1\r\nHost: a\r\n"+strings.Repeat("A: b\r\n", 100_000)+"\r\n", 431)},
		{what: "JSON nested 500,000 deep", promised: "400, code 0", clients: 2, pause: 50, once: answered(post(deep), 400)},
		{what: "XML with entities", promised: "400, code 105", clients: 4, pause: 20, once: answered(post(bomb), 400)},
		{what: "questions for readiness, by strangers", promised: "all of them cost one call at a time", clients: scale(50, 200), pause: 5,
			once: answered("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", 200)},
	}
}

// Clients that are slow, broken or hostile get what they deserve, leave nothing
// behind, and those beside them are served.
func TestProveClients(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket(), "http_server.request_timeout=3s", "libvirtd.call_timeout=2s", "libvirtd.connections=2")
	eventually(t, "ready", 10*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
	t.Run("deadlines", g.proveDeadlines)
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
	alone := g.during(t, time.Duration(scale(400, 2000))*time.Millisecond, func(until <-chan struct{}) { <-until })
	var mu sync.Mutex
	rounds := 0
	beside := g.during(t, time.Duration(scale(800, 5000))*time.Millisecond, func(until <-chan struct{}) {
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
		t.Attr("measured", fmt.Sprintf("%d times; p99 of the others %s, without %s (%.1f ×)", rounds, p99(beside).Round(10*time.Microsecond), p99(alone).Round(10*time.Microsecond),
			float64(p99(beside))/float64(p99(alone))))
	}
}

// proveDeadlines waits for the ends of connections whose clients do not go on.
func (g *gateway) proveDeadlines(t *testing.T) {
	for _, c := range []struct {
		what, send string
		answer     string // status/code; "" for none
		// The end comes between these, 0 for at once.
		least, most time.Duration
	}{
		{"half of the headers", "GET /livez HTTP/1.1\r\nHost: a\r\n", "", 9 * time.Second, 20 * time.Second},
		{"nothing at all", "", "", 9 * time.Second, 20 * time.Second},
		{"half of a body, known", "POST /libvirt/domains HTTP/1.1\r\n" + known + "Content-Length: 10\r\n\r\n1", "400/3", 2 * time.Second, 10 * time.Second},
		{"half of a chunk, known", "POST /libvirt/domains HTTP/1.1\r\n" + known + "Transfer-Encoding: chunked\r\n\r\n9\r\n1", "400/3", 2 * time.Second, 10 * time.Second},
		{"half of a body that nobody reads, known", knownGet + "Content-Length: 10\r\n\r\n1", "200/-1", 2 * time.Second, 10 * time.Second},
		{"half of a body, unknown", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1", "400/2", 0, 8 * time.Second},
		{"a body over the limit that does not come", "POST /libvirt/domains HTTP/1.1\r\n" + known + "Content-Length: 2000000\r\n\r\n1", "413/15", 0, 8 * time.Second},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			conn, err := g.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			began := time.Now()
			io.WriteString(conn, c.send)
			conn.SetReadDeadline(began.Add(40 * time.Second))
			all, err := io.ReadAll(conn) // to the end of the connection
			took := time.Since(began)
			if nerr, ok := err.(net.Error); ok && nerr.Timeout() || took < c.least || took > c.most {
				t.Errorf("ended after %s, want %s to %s", took, c.least, c.most)
			}
			got := ""
			if len(all) > 0 {
				res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(string(all))), nil)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				a := answer{status: res.StatusCode, header: res.Header, raw: string(body)}
				if err := a.check("GET"); err != nil {
					t.Error(err)
				}
				got = fmt.Sprintf("%d/%d", a.status, a.code())
			}
			if got != c.answer {
				t.Errorf("answered with %q, want %q", got, c.answer)
			}
			if !t.Failed() {
				t.Attr("case", "a client that sends "+c.what+", and then nothing")
				t.Attr("promised", fmt.Sprintf("the connection ends within %s", c.most))
				t.Attr("measured", fmt.Sprintf("%s, answer %q", took.Round(10*time.Millisecond), got))
			}
		})
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
		t.Attr("measured", fmt.Sprintf("%d descriptors at most, %d MiB (before: %d MiB); p99 of the others %s, without %s (%.1f ×)", most, now>>10, memory>>10,
			p99(beside).Round(10*time.Microsecond), p99(alone).Round(10*time.Microsecond), float64(p99(beside))/float64(p99(alone))))
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
		if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(g.pid), fmt.Sprintf("--nofile=%d:", n)).CombinedOutput(); err != nil {
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
	if err := os.Chtimes(filepath.Join(g.dir, "group"), time.Time{}, time.Now()); err != nil {
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
