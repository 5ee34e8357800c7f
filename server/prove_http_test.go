package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"virtgate/auth"
)

// listen serves on a loopback address until the test ends.
func listening(t testing.TB, s *Server) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l.Addr().String()
}

// enveloped checks that a body is an envelope, and gives its first error's
// code, -1 without one.
func enveloped(body []byte) (code int, err error) {
	var e struct {
		Success *bool
		Errors  []struct{ Code int }
	}
	if err := json.Unmarshal(body, &e); err != nil || e.Success == nil {
		return 0, fmt.Errorf("no envelope: %.300q", body)
	}
	rest := body
	for _, key := range []string{`{"results":[`, `],"success":`, `,"errors":[`, `],"messages":[`} {
		_, after, ok := bytes.Cut(rest, []byte(key))
		if !ok {
			return 0, fmt.Errorf("no %s where it belongs: %.300q", key, body)
		}
		rest = after
	}
	if *e.Success != (len(e.Errors) == 0) {
		return 0, fmt.Errorf("success does not fit: %.300q", body)
	}
	if *e.Success {
		return -1, nil
	}
	return e.Errors[0].Code, nil
}

// answers reads n responses and gives their statuses and codes, "200/-1 400/3".
func answers(in *bufio.Reader, n int) (string, error) {
	var all []string
	for range n {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return strings.Join(all, " "), err
		}
		if res.StatusCode == 100 {
			all = append(all, "100")
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return "", err
		}
		code, err := enveloped(body)
		if err != nil {
			return "", err
		}
		for _, h := range []string{"X-Request-Id", "Cache-Control", "X-Content-Type-Options"} {
			if res.Header.Get(h) == "" {
				return "", fmt.Errorf("status %d: no %s", res.StatusCode, h)
			}
		}
		all = append(all, fmt.Sprintf("%d/%d", res.StatusCode, code))
	}
	return strings.Join(all, " "), nil
}

// Bytes that are no request, half a request, one that others read otherwise, or
// many: each gets its answers in their order, in the envelope, and nothing that
// follows a request of unclear length is taken for another one.
func TestProveRequestShapes(t *testing.T) {
	s, _ := onDaemon(t, func(o *Options, _ *auth.Config) { o.BodyLimit, o.RequestTimeout = 64<<10, 30*time.Second })
	addr := listening(t, s)
	settled := func(what string, ok func() bool) {
		for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("not within 15 s: %s (%d goroutines)", what, runtime.NumGoroutine())
				return
			}
		}
	}
	settled("the connections to libvirt", func() bool {
		open, _, _ := s.libvirt.Load()
		return open == 4
	})
	if conn, err := net.Dial("tcp", addr); err == nil { // it serves: all that it needs is running
		io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
		io.ReadAll(conn)
		conn.Close()
	}
	goroutines := runtime.NumGoroutine()
	const (
		who   = "Host: a\r\nX-Auth-Key: " + testKey + "\r\nX-Auth-Username: " + testUser + "\r\n"
		get   = "GET /libvirt/domains?fields=name HTTP/1.1\r\n" + who
		post  = "POST /libvirt/domains HTTP/1.1\r\n" + who
		patch = "PATCH /libvirt/domains/by-name/a HTTP/1.1\r\n" + who
		next  = get + "\r\n" // answered with 200/-1 if it is taken for a request
		wrong = "400/3"
	)
	long := func(n int) string { return strings.Repeat("a", n) }
	shapes := []struct {
		what, send string
		want       string // statuses and codes
		ended      bool   // by the server
		half       bool   // the client ends its half after sending
	}{
		{what: "one request", send: next, want: "200/-1"},
		{what: "five in one write", send: next + post + "Content-Length: 1\r\n\r\n1" + "GET /libvirt/no HTTP/1.1\r\n" + who + "\r\n" + patch + "Content-Length: 18\r\n\r\n{\"autostart\":true}" + next,
			want: "200/-1 400/3 404/5 404/42 200/-1"},
		{what: "a hundred in one write", send: strings.Repeat(next, 100), want: strings.TrimSpace(strings.Repeat("200/-1 ", 100))},
		{what: "the last says close", send: get + "Connection: close\r\n\r\n" + next, want: "200/-1", ended: true},

		{what: "nothing", send: "", half: true, ended: true},
		{what: "an empty line", send: "\r\n" + next, want: "400/3", ended: true},
		{what: "no HTTP", send: "\x16\x03\x01\x02\x00\x01\x00", half: true, want: wrong, ended: true},
		{what: "HTTP/0.9", send: "GET /libvirt/domains\r\n", want: wrong, ended: true},
		{what: "HTTP/1.0", send: "GET /libvirt/domains HTTP/1.0\r\nConnection: keep-alive\r\n" + who + "\r\n" + next, want: "200/-1", ended: true},
		{what: "HTTP/3.0", send: "GET /libvirt/domains HTTP/3.0\r\n" + who + "\r\n", want: "505/3", ended: true},
		{what: "the preface of HTTP/2", send: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want: "400/2", ended: true},
		{what: "an upgrade to HTTP/2", send: get + "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", want: "200/-1"},
		{what: "an upgrade to a web socket", send: get + "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n", want: "200/-1"},
		{what: "CONNECT", send: "CONNECT a:80 HTTP/1.1\r\n" + who + "\r\n", want: "400/2", ended: true},
		{what: "CONNECT to a path", send: "CONNECT /libvirt/domains HTTP/1.1\r\n" + who + "\r\n", want: "405/14"},
		{what: "OPTIONS *", send: "OPTIONS * HTTP/1.1\r\n" + who + "\r\n", want: "400/2", ended: true},
		{what: "TRACE", send: "TRACE /libvirt/domains HTTP/1.1\r\n" + who + "\r\n", want: "405/14"},
		{what: "an absolute target", send: "GET http://b/libvirt/domains HTTP/1.1\r\n" + who + "\r\n", want: "200/-1"},
		{what: "an absolute target without credentials", send: "GET http://b/libvirt/domains HTTP/1.1\r\nHost: a\r\n\r\n", want: "401/1", ended: true},
		{what: "no Host", send: "GET /livez HTTP/1.1\r\n\r\n", want: wrong, ended: true},
		{what: "two Hosts", send: get + "Host: b\r\n\r\n", want: wrong, ended: true},
		{what: "a Host with a path", send: "GET /livez HTTP/1.1\r\nHost: a/b\r\n\r\n", want: wrong, ended: true},

		{what: "two lengths", send: post + "Content-Length: 4\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + next, want: wrong, ended: true},
		{what: "a list of lengths", send: post + "Content-Length: 1, 1\r\n\r\n1" + next, want: wrong, ended: true},
		{what: "the same length twice", send: post + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n1" + next, want: "400/3 200/-1"},
		{what: "a length with a sign", send: post + "Content-Length: +1\r\n\r\n1" + next, want: wrong, ended: true},
		{what: "a negative length", send: post + "Content-Length: -1\r\n\r\n" + next, want: wrong, ended: true},
		{what: "a length of 2^64", send: post + "Content-Length: 18446744073709551616\r\n\r\n" + next, want: wrong, ended: true},
		{what: "a length and chunks", send: post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n" + next, want: "400/3", ended: true},
		{what: "chunks and a length", send: post + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n1\r\n1\r\n0\r\n\r\n" + next, want: "400/3", ended: true},
		{what: "chunked twice", send: post + "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + next, want: "501/3", ended: true},
		{what: "chunked on two lines", send: post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next, want: "501/3", ended: true},
		{what: "gzip, chunked", send: post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + next, want: "501/3", ended: true},
		{what: "chunked with a vertical tab", send: post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + next, want: wrong, ended: true},
		{what: "a space before the colon", send: post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + next, want: wrong, ended: true},
		{what: "chunks in HTTP/1.0", send: "POST /libvirt/domains HTTP/1.0\r\nConnection: keep-alive\r\n" + who + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + next, want: "400/0", ended: true},
		{what: "chunks that are none", send: post + "Transfer-Encoding: chunked\r\n\r\nzz\r\n1\r\n0\r\n\r\n" + next, want: wrong, ended: true},
		{what: "a chunk of 2^64", send: post + "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n1\r\n0\r\n\r\n" + next, want: wrong, ended: true},
		{what: "a folded header", send: "GET /libvirt/domains HTTP/1.1\r\nHost: a\r\nX-Auth-Key:\r\n " + testKey + "\r\nX-Auth-Username: " + testUser + "\r\n\r\n", want: "200/-1"},
		{what: "a folded wrong key", send: "GET /libvirt/domains HTTP/1.1\r\nHost: a\r\nX-Auth-Key: " + testKey + "\r\n more\r\nX-Auth-Username: " + testUser + "\r\n\r\n" + next, want: "401/1", ended: true},
		{what: "NUL in a header", send: get + "A: \x00\r\n\r\n" + next, want: wrong, ended: true},
		{what: "CR in a header", send: get + "A: a\rX-Auth-Key: b\r\n\r\n" + next, want: wrong, ended: true},

		{what: "a body cut short", send: post + "Content-Length: 9\r\n\r\n[1]", half: true, want: wrong, ended: true},
		{what: "a chunk cut short", send: post + "Transfer-Encoding: chunked\r\n\r\n9\r\n[1]", half: true, want: wrong, ended: true},
		{what: "headers cut short", send: get, half: true, want: wrong, ended: true},
		{what: "a body over the limit", send: post + "Content-Length: 65537\r\n\r\n" + long(64<<10+1) + next, want: "413/15", ended: true},
		{what: "one announced only", send: post + "Content-Length: 65537\r\n\r\n", want: "413/15", ended: true},
		{what: "an absurd one announced", send: post + "Content-Length: 9223372036854775807\r\n\r\n", want: "413/15", ended: true},
		{what: "chunks over the limit", send: post + "Transfer-Encoding: chunked\r\n\r\n10001\r\n" + long(64<<10+1) + "\r\n0\r\n\r\n" + next, want: "413/15", ended: true},
		{what: "a body at the limit", send: post + "Content-Length: 65536\r\n\r\n" + strings.Repeat(" ", 64<<10) + next, want: "400/0 200/-1"},
		{what: "a body of DELETE", send: "DELETE /libvirt/domains/by-name/a HTTP/1.1\r\n" + who + "Content-Length: 2\r\n\r\n{}" + next, want: "400/3 200/-1"},
		{what: "a body of GET", send: get + "Content-Length: 2\r\n\r\n{}" + next, want: "200/-1 200/-1"},
		{what: "a compressed body", send: post + "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}" + next, want: "400/3 200/-1"},
		{what: "a stranger's endless body", send: "POST /libvirt/domains HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n", want: "401/1", ended: true},

		{what: "100-continue", send: post + "Expect: 100-continue\r\nContent-Length: 1\r\n\r\n1" + next, want: "100 400/3 200/-1"},
		{what: "100-continue for a stranger", send: "POST /libvirt/domains HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n", want: "401/1", ended: true},
		{what: "100-continue over the limit", send: post + "Expect: 100-continue\r\nContent-Length: 65537\r\n\r\n", want: "413/15", ended: true},
		{what: "another expectation", send: post + "Expect: a pony\r\nContent-Length: 1\r\n\r\n1" + next, want: "417/3", ended: true},

		{what: "headers of 33 KiB", send: get + "A: " + long(33<<10) + "\r\n\r\n" + next, want: "200/-1 200/-1"}, // net/http gives 4 KiB of slack
		{what: "headers of 64 KiB", send: get + "A: " + long(64<<10) + "\r\n\r\n" + next, want: "431/3", ended: true},
		{what: "headers without end", send: get + strings.Repeat("A: b\r\n", 16<<10), want: "431/3", ended: true},
		{what: "a path of 64 KiB", send: "GET /libvirt/" + long(64<<10) + " HTTP/1.1\r\n" + who + "\r\n", want: "431/3", ended: true},
		{what: "a path of 30 KiB", send: "GET /libvirt/domains/by-name/" + long(30<<10) + " HTTP/1.1\r\n" + who + "\r\n", want: "400/103"},
		{what: "a method of 30 KiB", send: strings.Repeat("A", 30<<10) + " /libvirt/domains HTTP/1.1\r\n" + who + "\r\n", want: "405/14"},
		{what: "a method that is none", send: "GE(T /libvirt/domains HTTP/1.1\r\n" + who + "\r\n", want: wrong, ended: true},
	}
	t.Run("each", func(t *testing.T) {
		for _, c := range shapes {
			t.Run(c.what, func(t *testing.T) {
				t.Parallel()
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				sent := make(chan struct{})
				go func() { // some are answered before they are sent whole
					defer close(sent)
					io.WriteString(conn, c.send)
					if c.half {
						conn.(*net.TCPConn).CloseWrite()
					}
				}()
				conn.SetReadDeadline(time.Now().Add(15 * time.Second))
				in := bufio.NewReader(conn)
				if got, err := answers(in, len(strings.Fields(c.want))); err != nil || got != c.want {
					t.Errorf("got %s, %v; want %s", got, err, c.want)
				}
				if !c.ended { // another request has its answer, too
					io.WriteString(conn, get+"Connection: close\r\n\r\n")
					if got, err := answers(in, 1); err != nil || got != "200/-1" {
						t.Errorf("a request behind: %s, %v", got, err)
					}
				}
				// A reset is an end as well.
				var slow net.Error
				if b, err := in.ReadByte(); err == nil || errors.As(err, &slow) && slow.Timeout() {
					t.Errorf("the connection is still open: %q", b)
				}
				conn.Close()
				<-sent
			})
		}
	})
	settled(fmt.Sprintf("%d goroutines, as before", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines })
	if !t.Failed() {
		t.Attr("case", "requests cut short, ambiguous, pipelined, too large, or no HTTP")
		t.Attr("promised", "each gets its answers in their order, in the envelope; what follows an ambiguous one is no request; no goroutine stays")
		t.Attr("measured", fmt.Sprintf("all of %d shapes", len(shapes)))
	}
}
