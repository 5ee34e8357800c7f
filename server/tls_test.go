package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/server/listen"
	"virtgate/server/listen/certtest"
)

// secure is a server that listens with TLS.
type secure struct {
	ca   *certtest.CA
	addr string
	stop func() // waits for the end
}

// serveTLS starts s and stops it with the test.
func serveTLS(t *testing.T, s *Server) *secure {
	t.Helper()
	dir := t.TempDir()
	ca := certtest.NewCA(t)
	cert, key := ca.Server(t, dir)
	clients := filepath.Join(dir, "clients.pem")
	certtest.Replace(t, clients, ca.PEM)
	tl, err := listen.NewTLS(listen.TLSFiles{Cert: cert, Key: key, ClientCA: clients, Min: tls.VersionTLS12}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(ctx, tl.Listener(l)); err != nil {
			t.Error(err)
		}
	})
	x := &secure{ca: ca, addr: l.Addr().String(), stop: sync.OnceFunc(func() { cancel(); wg.Wait() })}
	t.Cleanup(x.stop)
	return x
}

// client speaks HTTP/2 or HTTP/1.1, and shows the certificates given.
func (x *secure) client(t *testing.T, h2 bool, certs ...tls.Certificate) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: x.ca.Pool(), Certificates: certs},
		Protocols:       new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!h2)
	tr.Protocols.SetHTTP2(h2)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// dial makes a TLS connection that speaks proto.
func (x *secure) dial(t *testing.T, proto string) *tls.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", x.addr, &tls.Config{RootCAs: x.ca.Pool(), NextProtos: []string{proto}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// Both protocols give the same answers, and ask for the same.
func TestTLSProtocols(t *testing.T) {
	group, passwd := filepath.Join(t.TempDir(), "group"), filepath.Join(t.TempDir(), "passwd")
	for path, text := range map[string]string{group: "libvirt:x:1:smith\nkvm:x:2:smith\n", passwd: "smith:x:1000:1::/:/bin/sh\neve:x:1001:3::/:/bin/sh\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := auth.New(auth.Config{Required: true, Key: "right", GroupFile: group, PasswdFile: passwd, Certificates: true})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Auth: a, Log: slog.New(slog.DiscardHandler), BodyLimit: 1000, RequestTimeout: 5 * time.Second})
	whoami := func(_ context.Context, r *request) *envelope.Response {
		return &envelope.Response{Results: []json.RawMessage{envelope.Raw(r.caller.User + " by " + string(r.caller.Proof))}}
	}
	for _, method := range []string{"GET", "POST"} {
		s.echo.Add(method, "/libvirt/whoami", s.serve(methodRoute(method, "/libvirt/whoami", whoami)))
	}
	x := serveTLS(t, s)
	smith, eve, nobody := x.ca.Client(t, "smith"), x.ca.Client(t, "eve"), x.ca.Client(t, "")
	for _, h2 := range []bool{true, false} {
		for _, c := range []struct {
			what    string
			client  *http.Client
			headers map[string]string
			status  int
			want    string // in the body
		}{
			{"certificate", x.client(t, h2, smith), nil, 200, "smith by certificate"},
			{"POST by certificate", x.client(t, h2, smith), nil, 200, "smith by certificate"},
			{"POST by certificate from an own page", x.client(t, h2, smith), map[string]string{"Sec-Fetch-Site": "same-origin", "Origin": "https://proxied.example"}, 200, "smith by certificate"},
			{"POST by certificate for another page", x.client(t, h2, smith), map[string]string{"Sec-Fetch-Site": "cross-site"}, 403, `"code":11`},
			{"POST by certificate for a page of another origin", x.client(t, h2, smith), map[string]string{"Origin": "https://other.example"}, 403, `"code":11`},
			{"POST by key, which no page can have sent", x.client(t, h2), map[string]string{"X-Auth-Key": "right", "X-Auth-Username": "smith", "Origin": "https://other.example"}, 200, "smith by key"},
			{"certificate and its name", x.client(t, h2, smith), map[string]string{"X-Auth-Username": "smith"}, 200, "smith by certificate"},
			{"certificate and another name", x.client(t, h2, smith), map[string]string{"X-Auth-Username": "root"}, 403, `"code":8`},
			{"certificate and wrong key", x.client(t, h2, smith), map[string]string{"X-Auth-Key": "wrong"}, 401, `"code":1`},
			{"of a non-member", x.client(t, h2, eve), nil, 403, `"code":8`},
			{"of nobody", x.client(t, h2, nobody), nil, 403, `"code":8`},
			{"nothing", x.client(t, h2), nil, 401, `"code":1`},
			{"key", x.client(t, h2), map[string]string{"X-Auth-Key": "right", "X-Auth-Username": "smith"}, 200, "smith by key"},
		} {
			method := "GET"
			if strings.HasPrefix(c.what, "POST") {
				method = "POST"
			}
			req, _ := http.NewRequest(method, "https://"+x.addr+"/libvirt/whoami", nil)
			req.Header.Set("X-Packet-ID", "77")
			for k, v := range c.headers {
				req.Header.Set(k, v)
			}
			res, err := c.client.Do(req)
			if err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != c.status || !strings.Contains(string(b), c.want) || (res.ProtoMajor == 2) != h2 {
				t.Errorf("%s, HTTP/%d: %d %s, want %d %s", c.what, res.ProtoMajor, res.StatusCode, b, c.status, c.want)
			}
			if res.Header.Get("X-Packet-ID") != "77" || res.Header.Get("X-Request-ID") == "" || res.Header.Get("Server") != "" || res.Header.Get("Strict-Transport-Security") != "" {
				t.Errorf("%s: %v", c.what, res.Header)
			}
		}
	}
}

// What is not a request gets the envelope, with TLS too, and so does one that
// should have come with TLS.
func TestNotHTTPS(t *testing.T) {
	x := serveTLS(t, open(t))
	answer := func(c net.Conn, request string) (*http.Response, string) {
		t.Helper()
		go io.WriteString(c, request)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%.40q: %v", request, err)
		}
		b, _ := io.ReadAll(res.Body)
		var e struct{ Results, Errors, Messages []any }
		if err := json.Unmarshal(b, &e); err != nil || e.Results == nil || len(e.Errors) != 1 {
			t.Errorf("%.40q: %s", request, b)
		}
		if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%.40q: %v", request, res.Header)
		}
		return res, string(b)
	}
	for request, status := range map[string]int{
		"nonsense nonsense\r\n\r\n": 400,
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n": 431,
	} {
		if res, _ := answer(x.dial(t, "http/1.1"), request); res.StatusCode != status {
			t.Errorf("%.40q: %d", request, res.StatusCode)
		}
	}
	for _, request := range []string{"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", "DELETE /libvirt/domains/by-name/x HTTP/1.1\r\nHost: a\r\n\r\n"} {
		c, err := net.Dial("tcp", x.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if res, b := answer(c, request); res.StatusCode != 400 || !strings.Contains(b, "https") {
			t.Errorf("%.40q: %d %s", request, res.StatusCode, b)
		}
	}
}

// A connection that gets no further than a part of its handshake is closed.
func TestHandshakeEnds(t *testing.T) {
	s := open(t)
	s.headerTimeout = 200 * time.Millisecond
	x := serveTLS(t, s)
	c, err := net.Dial("tcp", x.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte{22, 3, 1}) // the beginning of a ClientHello
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after 20 s: %v", err)
	}
}

// The limits that HTTP/2 brings along are said to the client.
func TestHTTP2Limits(t *testing.T) {
	x := serveTLS(t, open(t))
	c := x.dial(t, "h2")
	io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	head := make([]byte, 9)
	if _, err := io.ReadFull(c, head); err != nil {
		t.Fatal(err)
	}
	if head[3] != 4 { // SETTINGS
		t.Fatalf("the first frame has type %d", head[3])
	}
	payload := make([]byte, int(head[1])<<8|int(head[2]))
	if _, err := io.ReadFull(c, payload); err != nil {
		t.Fatal(err)
	}
	got := map[uint16]uint32{}
	for ; len(payload) >= 6; payload = payload[6:] {
		got[binary.BigEndian.Uint16(payload)] = binary.BigEndian.Uint32(payload[2:])
	}
	const maxStreams, maxHeaderList = 3, 6
	if got[maxStreams] != 100 || got[maxHeaderList] == 0 || got[maxHeaderList] > 2*maxHeader {
		t.Errorf("settings %v", got)
	}
}

// A request has its time in HTTP/2 too, and a body its limit.
func TestHTTP2Bounds(t *testing.T) {
	read := func(_ context.Context, r *request) *envelope.Response {
		if _, err := r.body(); err != nil {
			return failed(err)
		}
		return &envelope.Response{}
	}
	s := open(t,
		methodRoute("POST", "/libvirt/read", read),
		getRoute("/libvirt/wait", func(ctx context.Context, _ *request) *envelope.Response {
			<-ctx.Done()
			return failed(envelope.New(envelope.Timeout, ""))
		}))
	s.Use(Settings{s.opts.Auth, 1000, time.Second})
	x := serveTLS(t, s)
	client := x.client(t, true)
	status := func(method, path string, body io.Reader) int {
		t.Helper()
		req, _ := http.NewRequest(method, "https://"+x.addr+path, body)
		res, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := status("GET", "/libvirt/wait", nil); got != 504 {
		t.Errorf("a request without end: %d", got)
	}
	if got := status("POST", "/libvirt/read", strings.NewReader(strings.Repeat("x", 2000))); got != 413 {
		t.Errorf("a body over the limit: %d", got)
	}
	r, w := io.Pipe()
	defer w.Close()
	if got := status("POST", "/libvirt/read", r); got != 400 {
		t.Errorf("a body without end: %d", got)
	}
}

// A shutdown lets requests under way finish, and idle connections go.
func TestHTTP2Shutdown(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	x := serveTLS(t, open(t, getRoute("/libvirt/slow", func(context.Context, *request) *envelope.Response {
		close(began)
		<-goOn
		return &envelope.Response{}
	})))
	idle := x.client(t, true)
	res, err := idle.Get("https://" + x.addr + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	answered := make(chan int, 1)
	go func() {
		res, err := x.client(t, true).Get("https://" + x.addr + "/libvirt/slow")
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		res.Body.Close()
		answered <- res.StatusCode
	}()
	<-began
	stopped := make(chan struct{})
	go func() { x.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("it did not wait")
	case <-time.After(50 * time.Millisecond): // long enough to be wrong
	}
	close(goOn)
	if got := <-answered; got != 200 {
		t.Errorf("the request under way got %d", got)
	}
	<-stopped
}

// net/http tells what a connection of HTTP/2 is doing, under the name by which
// it was accepted: who bounds connections goes by that.
func TestHTTP2ConnStates(t *testing.T) {
	s := open(t)
	dir := t.TempDir()
	ca := certtest.NewCA(t)
	cert, key := ca.Server(t, dir)
	tl, err := listen.NewTLS(listen.TLSFiles{Cert: cert, Key: key, Min: tls.VersionTLS12}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := tl.Listener(tcp)
	srv := s.httpServer(l)
	type change struct {
		conn  net.Conn
		state http.ConnState
	}
	changes := make(chan change, 100)
	srv.ConnState = func(c net.Conn, state http.ConnState) { changes <- change{c, state} }
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(plainErrors{l, s.log}) })
	defer wg.Wait()
	defer srv.Close()
	x := &secure{ca: ca, addr: tcp.Addr().String()}
	client := x.client(t, true)
	res, err := client.Get("https://" + x.addr + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	client.CloseIdleConnections()
	var conn net.Conn
	seen := map[http.ConnState]bool{}
	for !seen[http.StateClosed] {
		select {
		case c := <-changes:
			if seen[c.state] = true; conn != nil && c.conn != conn {
				t.Fatal("another connection")
			}
			conn = c.conn
		case <-time.After(20 * time.Second):
			t.Fatalf("not closed: %v", seen)
		}
	}
	if _, ok := conn.(*plainErrorConn); !ok || !seen[http.StateActive] || !seen[http.StateIdle] {
		t.Errorf("%T: %v", conn, seen)
	}
}
