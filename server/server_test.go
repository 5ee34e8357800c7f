package server

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
)

// open is a server that lets everybody in and has no libvirt; routes are the
// ones given.
func open(t testing.TB, routes ...route) *Server {
	t.Helper()
	a, err := auth.New(auth.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Auth: a, Log: slog.New(slog.DiscardHandler), BodyLimit: 1000, RequestTimeout: 5 * time.Second})
	for _, rt := range routes {
		s.echo.Add(rt.method, rt.path, s.serve(rt))
	}
	return s
}

// getRoute is a route for readers.
func getRoute(path string, h handler) route { return methodRoute("GET", path, h) }

func methodRoute(method, path string, h handler) route {
	return route{method: method, path: path, permissions: []string{"domains:read"}, endpoint: endpoint{handle: h}}
}

func body(t testing.TB, s http.Handler, method, path string, header ...string) (*httptest.ResponseRecorder, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host = "localhost:8081"
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w, w.Body.String()
}

func TestPanic(t *testing.T) {
	s := open(t, getRoute("/libvirt/panic", func(context.Context, *request) *envelope.Response { panic("secret") }))
	w, b := body(t, s, "GET", "/libvirt/panic", "X-Packet-ID", "7")
	if want := `{"results":[],"success":false,"errors":[{"code":999,"message":"Internal error"}],"messages":[]}`; w.Code != 500 || strings.TrimSpace(b) != want || w.Header().Get("X-Packet-ID") != "7" {
		t.Errorf("%d %s", w.Code, b)
	}
}

// Every method that a path does not take is 405, those that Echo knows of too.
func TestMethods(t *testing.T) {
	s := open(t)
	for path, allow := range map[string]string{
		"/libvirt/domains": "GET, HEAD, POST", "/libvirt/domains/by-name/x": "GET, HEAD, PATCH, DELETE", "/livez": "GET, HEAD",
	} {
		for _, method := range []string{"OPTIONS", "PUT", "TRACE", "FOO"} {
			w, b := body(t, s, method, path)
			got := strings.Split(w.Header().Get("Allow"), ", ")
			slices.Sort(got)
			want := strings.Split(allow, ", ")
			slices.Sort(want)
			if w.Code != 405 || !slices.Equal(got, want) || !strings.Contains(b, `"code":14`) {
				t.Errorf("%s %s: %d, Allow %v, %s", method, path, w.Code, got, b)
			}
		}
	}
}

// Every response tells browsers the same, whatever it answers.
func TestSafeHeaders(t *testing.T) {
	s := open(t)
	for _, path := range []string{"/livez", "/nothing", "/libvirt/domains?colour=1", "/libvirt/nothing"} {
		w, _ := body(t, s, "GET", path)
		for name, want := range map[string]string{
			"Cache-Control":                "no-store",
			"X-Content-Type-Options":       "nosniff",
			"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "no-referrer",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		if w.Header().Get("Server") != "" {
			t.Errorf("%s: Server", path)
		}
	}
	// No page of another origin may send keys, or read.
	w, _ := body(t, s, "OPTIONS", "/libvirt/domains", "Origin", "http://other.example", "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "x-auth-key")
	for name := range w.Header() {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("a preflight gets %s", name)
		}
	}
	if w.Code != 405 {
		t.Errorf("a preflight: %d", w.Code)
	}
}

// Who guesses is slowed down, and nobody else is.
func TestTooManyFailures(t *testing.T) {
	a, err := auth.New(auth.Config{Required: true, Key: "right"})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Auth: a, Log: slog.New(slog.DiscardHandler), BodyLimit: 1000, RequestTimeout: 5 * time.Second})
	for i := range 31 {
		w, b := body(t, s, "GET", "/libvirt/domains", "X-Auth-Key", "wrong")
		if i < 30 && w.Code != 401 || i == 30 && (w.Code != 429 || w.Header().Get("Retry-After") == "" || !strings.Contains(b, `"code":13`)) {
			t.Fatalf("failure %d: %d %s", i+1, w.Code, b)
		}
	}
	r := httptest.NewRequest("GET", "/libvirt/nothing", nil)
	r.RemoteAddr = "192.0.2.99:1"
	r.Header.Set("X-Auth-Key", "right")
	r.Header.Set("X-Auth-Username", "root")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 404 {
		t.Errorf("another address: %d", w.Code)
	}
}

func TestGzip(t *testing.T) {
	for _, c := range []struct {
		size         int
		accept, want string
	}{{100, "gzip", ""}, {5000, "gzip", "gzip"}, {5000, "br, gzip;q=0.5", "gzip"}, {5000, "gzip;q=0", ""}, {5000, "br, GZIP ; q=0.000, *", ""}, {5000, "", ""}} {
		size, want := c.size, c.want
		s := open(t, getRoute("/libvirt/big", func(context.Context, *request) *envelope.Response {
			return &envelope.Response{Results: []json.RawMessage{envelope.Raw(strings.Repeat("x", size))}}
		}))
		w, b := body(t, s, "GET", "/libvirt/big", "Accept-Encoding", c.accept)
		if got := w.Header().Get("Content-Encoding"); got != want {
			t.Errorf("%d bytes, accepted %q: Content-Encoding %q, want %q", size, c.accept, got, want)
		}
		if want == "gzip" {
			z, err := gzip.NewReader(strings.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(z)
			if err != nil || !json.Valid(plain) || w.Header().Get("Content-Length") == "" && len(plain) < size {
				t.Errorf("%v %d", err, len(plain))
			}
		}
	}
}

func TestAcceptsGzip(t *testing.T) {
	for accept, want := range map[string]bool{
		"": false, "gzip": true, "GZIP": true, "br, gzip": true, "br,gzip;q=0.1": true, "*": true, "br": false,
		"gzip;q=0": false, "gzip; q=0.000": false, "gzip;q=0, *": false, "*;q=0, gzip": true, "*;q=0": false, "gzip;q=x": false, "identity": false,
	} {
		if got := acceptsGzip(http.Header{"Accept-Encoding": {accept}}); got != want {
			t.Errorf("%q: %v", accept, got)
		}
	}
}

// HEAD has the headers of GET, compressed or not.
func TestHeadIsGetWithoutBody(t *testing.T) {
	big := func(context.Context, *request) *envelope.Response {
		return &envelope.Response{Results: []json.RawMessage{envelope.Raw(strings.Repeat("x", 5000))}}
	}
	s := open(t, getRoute("/libvirt/big", big), methodRoute("HEAD", "/libvirt/big", big))
	for _, accept := range []string{"gzip", "identity"} {
		get, b := body(t, s, "GET", "/libvirt/big", "Accept-Encoding", accept)
		head, none := body(t, s, "HEAD", "/libvirt/big", "Accept-Encoding", accept)
		if none != "" {
			t.Errorf("%s: HEAD has a body", accept)
		}
		if n := get.Header().Get("Content-Length"); n != strconv.Itoa(len(b)) {
			t.Errorf("%s: Content-Length %s of %d bytes", accept, n, len(b))
		}
		for _, h := range []*httptest.ResponseRecorder{get, head} {
			h.Header().Del("X-Request-ID")
		}
		if diff := cmp.Diff(get.Header(), head.Header()); diff != "" {
			t.Errorf("%s: headers (-GET +HEAD):\n%s", accept, diff)
		}
	}
}

// What net/http answers by itself has the envelope too.
func TestNotHTTP(t *testing.T) {
	s := open(t)
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
	defer wg.Wait()
	defer cancel()
	for request, status := range map[string]int{
		"nonsense\r\n\r\n": 400,
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n": 431,
		"GET / HTTP/1.1\r\n\r\n": 400, // no Host
		"POST /livez HTTP/1.1\r\nHost: a\r\nExpect: more\r\nContent-Length: 1\r\n\r\n": 417,
		"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":                   400,
		"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n":                  200,
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		go io.WriteString(c, request)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%.40q: %v", request, err)
		}
		b, _ := io.ReadAll(res.Body)
		var e struct{ Results, Errors, Messages []any }
		if err := json.Unmarshal(b, &e); err != nil || e.Results == nil || res.StatusCode != status || res.Header.Get("X-Request-ID") == "" {
			t.Errorf("%.40q: %d %s", request, res.StatusCode, b)
		}
		c.Close()
	}
}

// A shutdown lets requests under way finish.
func TestShutdownWaits(t *testing.T) {
	began, goOn := make(chan struct{}), make(chan struct{})
	s := open(t, getRoute("/libvirt/slow", func(context.Context, *request) *envelope.Response {
		close(began)
		<-goOn
		return &envelope.Response{}
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, l) }()
	answered := make(chan int, 1)
	go func() {
		res, err := http.Get("http://" + l.Addr().String() + "/libvirt/slow")
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		res.Body.Close()
		answered <- res.StatusCode
	}()
	<-began
	cancel()
	select {
	case <-served:
		t.Error("it did not wait")
	case <-time.After(50 * time.Millisecond): // long enough to be wrong
	}
	close(goOn)
	if status := <-answered; status != 200 {
		t.Errorf("the request under way got %d", status)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestParseKiB(t *testing.T) {
	for in, want := range map[string]uint64{
		`1024`: 1024, `0`: 0, `18446744073709551615`: 1<<64 - 1, `"512"`: 512, `"2GiB"`: 2 << 20, `"2 gib"`: 2 << 20, `"1MB"`: 977, `"1b"`: 1, `"1TiB"`: 1 << 30,
	} {
		if got, err := parseKiB(json.RawMessage(in)); err != nil || got != want {
			t.Errorf("%s: %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{`-1`, `1.5`, `1e3`, `18446744073709551616`, `""`, `"GiB"`, `"-1GiB"`, `"1.5GiB"`, `"1 parsec"`, `"99999999999999999999"`, `"18446744073709551615TiB"`, `true`, `null`, `[]`} {
		if got, err := parseKiB(json.RawMessage(in)); err == nil {
			t.Errorf("%s is %d", in, got)
		}
	}
}

func TestCheckJSON(t *testing.T) {
	for _, good := range []string{`1`, `"a"`, `[]`, `{}`, ` {"a":{"a":1},"b":[{"a":1},{"a":2}]} `, `{"a":null,"b":true}`} {
		if err := checkJSON([]byte(good)); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		``: "empty", ` `: "empty", `{`: "ends early", `[1`: "ends early", `[1,]`: "invalid character", `{"a":1,"a":2}`: `duplicate key "a" at offset`,
		`{"a":1,"A":2}`: "duplicate key", `1 2`: "after the end", "\"\xff\"": "UTF-8 at offset 1", `{"a" 1}`: "invalid character",
		strings.Repeat("[", 17) + strings.Repeat("]", 17): "deeper than 16", `{"x":{"a":1,"b":{},"a":3}}`: "duplicate",
	} {
		err := checkJSON([]byte(bad))
		var e *envelope.Error
		if !errors.As(err, &e) || e.Code != envelope.Syntax || !strings.Contains(e.Message, want) {
			t.Errorf("%s: %v, want %q", bad, err, want)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "ü 1", strings.Repeat("x", 253), "a/b"} {
		if err := checkName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", strings.Repeat("x", 254), "a\nb", "\x7f", "\xff", "\ufffd", "\ufffe", "a\uffff"} {
		if checkName(bad) == nil {
			t.Errorf("%q is a name", bad)
		}
	}
}

// What is only read has no code of its own for what libvirt says, but its status.
func TestRefusedReads(t *testing.T) {
	for kind, want := range map[libvirtrpc.Kind]string{
		libvirtrpc.Failed: "999 502", libvirtrpc.Denied: "999 403", libvirtrpc.Invalid: "999 400", libvirtrpc.TimedOut: "999 504",
		libvirtrpc.NotFound: "42 404", libvirtrpc.Unsupported: "17 501", libvirtrpc.Lost: "10 503", libvirtrpc.NoAnswer: "12 504", libvirtrpc.Busy: "16 503",
	} {
		e := failed(&libvirtrpc.Error{Kind: kind, Code: 7, Message: "no"}).Errors[0]
		if got := fmt.Sprint(e.Code, " ", e.HTTPStatus()); got != want || e.Libvirt != "no" || e.LibvirtCode != 7 {
			t.Errorf("kind %v: %s %q, want %s", kind, got, e.Libvirt, want)
		}
	}
	if e := failed(errors.New("a defect")).Errors[0]; e.Code != envelope.Internal || e.HTTPStatus() != 500 || e.Libvirt != "" {
		t.Errorf("%+v", e)
	}
}

func TestPages(t *testing.T) {
	for raw, want := range map[string]struct {
		names string
		info  envelope.Page
	}{
		"":                          {`"a""b""c"`, envelope.Page{Page: 1, PerPage: 3, Count: 3, TotalCount: 3, TotalPages: 1}},
		"per_page=2":                {`"a""b"`, envelope.Page{Page: 1, PerPage: 2, Count: 2, TotalCount: 3, TotalPages: 2}},
		"per_page=2&page=2":         {`"c"`, envelope.Page{Page: 2, PerPage: 2, Count: 1, TotalCount: 3, TotalPages: 2}},
		"per_page=2&page=3":         {``, envelope.Page{Page: 3, PerPage: 2, Count: 0, TotalCount: 3, TotalPages: 2}},
		"page=1":                    {`"a""b""c"`, envelope.Page{Page: 1, PerPage: 100, Count: 3, TotalCount: 3, TotalPages: 1}},
		"order=ram":                 {`"c""a""b"`, envelope.Page{Page: 1, PerPage: 3, Count: 3, TotalCount: 3, TotalPages: 1}},
		"order=ram&direction=desc":  {`"a""b""c"`, envelope.Page{Page: 1, PerPage: 3, Count: 3, TotalCount: 3, TotalPages: 1}},
		"order=name&direction=desc": {`"c""b""a"`, envelope.Page{Page: 1, PerPage: 3, Count: 3, TotalCount: 3, TotalPages: 1}},
	} {
		q, _ := parseQuery(raw)
		var l listing[domain]
		if err := q.read(l.params(&domains)); err != nil {
			t.Fatal(err)
		}
		res := l.respond([]*domain{{Name: "b", MemoryKiB: 2}, {Name: "c", MemoryKiB: 1}, {Name: "a", MemoryKiB: 2}})
		var names strings.Builder
		for _, r := range res.Results {
			var d struct{ Name json.RawMessage }
			if err := json.Unmarshal(r, &d); err != nil {
				t.Fatal(err)
			}
			names.Write(d.Name)
		}
		if diff := cmp.Diff(want.info, *res.Info); diff != "" || names.String() != want.names {
			t.Errorf("%q: %s %s", raw, names.String(), diff)
		}
	}
}
