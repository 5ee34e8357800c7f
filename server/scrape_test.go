package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"virtgate/auth"
	"virtgate/libvirtrpc"
)

// Whatever paths and methods clients make up, the series are those of the route
// table; and a scrape succeeds without libvirt.
func TestScrape(t *testing.T) {
	client, err := libvirtrpc.New(libvirtrpc.Options{URI: "test:///default",
		Dial: func(context.Context) (net.Conn, error) { return nil, errors.New("nobody is there") }})
	if err != nil {
		t.Fatal(err)
	}
	a, err := auth.New(auth.Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Libvirt: client, Auth: a, Log: slog.New(slog.DiscardHandler), BodyLimit: 1000, RequestTimeout: 5 * time.Second})
	for i := range 50 {
		body(t, s, fmt.Sprintf("M%d", i), fmt.Sprintf("/libvirt/x%d", i))
		body(t, s, "GET", fmt.Sprintf("/libvirt/domains/by-name/x/y%d", i))
		body(t, s, "GET", fmt.Sprintf("/x%d", i))
		body(t, s, "GET", fmt.Sprintf("/libvirt/domains/by-name/x%d?colour=red", i))
		body(t, s, fmt.Sprintf("M%d", i), "/libvirt/domains")
	}
	w, text := body(t, s, "GET", "/metrics", "X-Prometheus-Scrape-Timeout-Seconds", "0.2")
	if w.Code != 200 || !regexp.MustCompile(`(?m)^libvirt_up 0$`).MatchString(text) {
		t.Errorf("%d %s", w.Code, text)
	}
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^http_server_request_duration_seconds_count\{(.*)\} (\d+)$`).FindAllStringSubmatch(text, -1) {
		got[m[1]] = m[2]
	}
	want := map[string]string{
		`http_request_method="_OTHER",http_response_status_code="404",http_route=""`:                                  "50",
		`http_request_method="_OTHER",http_response_status_code="405",http_route=""`:                                  "50",
		`http_request_method="GET",http_response_status_code="404",http_route=""`:                                     "50",
		`http_request_method="GET",http_response_status_code="400",http_route=""`:                                     "50",
		`http_request_method="GET",http_response_status_code="400",http_route="/libvirt/domains/by-name/:identifier"`: "50",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// lines keeps the attributes of what is logged.
type lines struct {
	slog.Handler
	mu  sync.Mutex
	all []map[string]string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	attrs := map[string]string{}
	r.Attrs(func(a slog.Attr) bool { attrs[a.Key] = a.Value.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, attrs)
	return nil
}

// The access log has the trace that a request belongs to, when there is one.
func TestTraceIDIsLogged(t *testing.T) {
	s := open(t)
	l := &lines{}
	s.log = slog.New(l)
	body(t, s, "GET", "/livez", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	body(t, s, "GET", "/livez")
	if id := l.all[0]["trace_id"]; id != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace_id is %q", id)
	}
	if id, ok := l.all[1]["trace_id"]; ok {
		t.Errorf("without a trace trace_id is %q", id)
	}
}
