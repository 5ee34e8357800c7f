package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// deadlines are connections whose clients do not go on, with the end that each
// has to have.
var deadlines = []struct {
	what, send  string
	answer      string // status/code; "" for none
	least, most time.Duration
}{
	{"half of the headers", "GET /livez HTTP/1.1\r\nHost: a\r\n", "", 9 * time.Second, 20 * time.Second},
	{"nothing at all", "", "", 9 * time.Second, 20 * time.Second},
	{"half of a body, known", "POST /libvirt/domains HTTP/1.1\r\n" + known + "Content-Length: 10\r\n\r\n1", "400/3", 2 * time.Second, 10 * time.Second},
	{"half of a chunk, known", "POST /libvirt/domains HTTP/1.1\r\n" + known + "Transfer-Encoding: chunked\r\n\r\n9\r\n1", "400/3", 2 * time.Second, 10 * time.Second},
	{"half of a body that nobody reads, known", knownGet + "Content-Length: 10\r\n\r\n1", "200/-1", 2 * time.Second, 10 * time.Second},
	{"half of a body, unknown", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n1", "400/2", 0, 8 * time.Second},
	{"the head of a body over the limit", "POST /libvirt/domains HTTP/1.1\r\n" + known + "Content-Length: 2000000\r\n\r\n1", "413/15", 0, 8 * time.Second},
}

// proveDeadlines waits for the ends of all of these at the same time.
func (g *gateway) proveDeadlines(t *testing.T) {
	type end struct {
		all  string
		took time.Duration
		err  error
	}
	ends := make([]chan end, len(deadlines))
	for i, c := range deadlines {
		conn, err := g.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ends[i] = make(chan end, 1)
		go func() {
			began := time.Now()
			io.WriteString(conn, c.send)
			conn.SetReadDeadline(began.Add(30 * time.Second))
			all, err := io.ReadAll(conn) // to the end of the connection
			ends[i] <- end{string(all), time.Since(began), err}
		}()
	}
	for i, c := range deadlines {
		t.Run(c.what, func(t *testing.T) {
			e := <-ends[i]
			if nerr, ok := e.err.(net.Error); ok && nerr.Timeout() || e.took < c.least || e.took > c.most {
				t.Errorf("ended after %s, want %s to %s", e.took, c.least, c.most)
			}
			got := ""
			if e.all != "" {
				res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(e.all)), nil)
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
				t.Attr("measured", fmt.Sprintf("%s, answer %q", e.took.Round(10*time.Millisecond), got))
			}
		})
	}
}

// proveUnread sends requests and reads none of the answers. The server, which
// can write no more, gives the connections up; the clients need not hear of it,
// whose kernel takes nothing.
func (g *gateway) proveUnread(t *testing.T) {
	still := func(until <-chan struct{}) { <-until }
	alone := g.during(t, time.Second, still)
	many := strings.Repeat(knownBig, 100)
	conns := make([]*net.TCPConn, 8)
	var last time.Time
	for i := range conns {
		var err error
		if conns[i], err = g.dial(); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		for err == nil { // until no more is taken
			last = time.Now()
			conns[i].SetWriteDeadline(last.Add(200 * time.Millisecond))
			_, err = io.WriteString(conns[i], many)
		}
	}
	conn := conns[len(conns)-1]
	if !held(t, conn) {
		t.Error("the server gave the connection up at once")
	}
	beside := g.during(t, time.Second, still)
	eventually(t, "the server has given all of them up", 20*time.Second, func() bool {
		return !slices.ContainsFunc(conns, func(c *net.TCPConn) bool { return held(t, c) })
	})
	if !t.Failed() {
		t.Attr("case", fmt.Sprintf("%d clients that send requests and read no answer", len(conns)))
		t.Attr("promised", "the server gives the connections up after twice the time of a request, 6 s here, and other clients are served")
		t.Attr("measured", fmt.Sprintf("%s after the last bytes that were taken; %s", time.Since(last).Round(10*time.Millisecond), besides(beside, alone)))
	}
}

// held tells whether a process holds the other end of a loopback connection.
func held(t testing.TB, c *net.TCPConn) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	address := func(a net.Addr) string { return fmt.Sprintf("0100007F:%04X", a.(*net.TCPAddr).Port) }
	for line := range strings.Lines(string(table)) {
		// Number, local, remote, state, five more, and the inode: 0 when only
		// the kernel still has the socket.
		f := strings.Fields(line)
		if len(f) > 9 && f[1] == address(c.RemoteAddr()) && f[2] == address(c.LocalAddr()) {
			return f[9] != "0"
		}
	}
	return false
}
