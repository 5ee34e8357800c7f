package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A request's span and those of its libvirt calls reach the collector, at the
// latest when the program ends.
func TestLiveTraces(t *testing.T) {
	var mu sync.Mutex
	var spans []*tracepb.Span
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var data tracepb.TracesData
		if err := proto.Unmarshal(b, &data); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range data.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				spans = append(spans, ss.Spans...)
			}
		}
	}))
	defer collector.Close()
	g := startGateway(t, "test", liveSocket(t, envTest), "trace.endpoint="+collector.URL)
	began := time.Now()
	g.do(t, "GET", "/libvirt/domains/by-name/test", "", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	g.stop()
	g.done <- nil // for the stop at the test's end
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the end took %s", took)
	}
	mu.Lock()
	defer mu.Unlock()
	var request *tracepb.Span
	for _, s := range spans {
		if s.Name == "GET /libvirt/domains/by-name/:identifier" {
			request = s
		}
	}
	if request == nil {
		t.Fatalf("no span of the request in %v", spans)
	}
	calls := map[string]bool{}
	for _, s := range spans {
		if string(s.ParentSpanId) == string(request.SpanId) && string(s.TraceId) == "\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c" {
			calls[s.Name] = true
		}
	}
	for _, name := range []string{"DomainLookupByName", "DomainGetInfo"} {
		if !calls[name] {
			t.Errorf("no span of %s below the request's: %v", name, calls)
		}
	}
}
