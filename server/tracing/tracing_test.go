package tracing

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"virtgate/libvirtrpc"
)

// collector is an OTLP receiver.
type collector struct {
	*httptest.Server
	mu     sync.Mutex
	spans  []*tracepb.Span
	about  map[string]string // of the resource
	header http.Header
}

func newCollector(t *testing.T) *collector {
	c := &collector{about: map[string]string{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var data tracepb.TracesData
		if err == nil {
			err = proto.Unmarshal(body, &data)
		}
		if err != nil || r.Method != "POST" || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s %s: %v", r.Method, r.URL, r.Header, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.header = r.Header
		for _, rs := range data.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				c.about[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// text is the span as the tests compare it.
func text(s *tracepb.Span, t0 time.Time) string {
	var attrs []string
	for _, a := range s.Attributes {
		v := a.Value.String()
		v = v[strings.Index(v, ":")+1:]
		attrs = append(attrs, a.Key+"="+strings.Trim(v, `"`))
	}
	slices.Sort(attrs)
	return fmt.Sprintf("%s %s %s [%s]", s.Name, strings.TrimPrefix(s.Kind.String(), "SPAN_KIND_"), strings.TrimPrefix(s.Status.GetCode().String(), "STATUS_CODE_"), strings.Join(attrs, " "))
}

func newTracer(t *testing.T, url string, h http.Header) *Tracer {
	t.Helper()
	tr, err := New(Options{URL: url, Headers: h, Version: "1.2.3", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestSpans(t *testing.T) {
	c := newCollector(t)
	url, header := Endpoint(c.URL+"/", []string{"OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20x,bad"})
	tr := newTracer(t, url, header)
	r := httptest.NewRequest("GET", "/libvirt/domains/by-name/a%ffb", nil)
	r.Header.Set("Traceparent", parent)
	r.Header.Set("User-Agent", "\xff"+strings.Repeat("x", 5000))
	ctx, req := tr.Request(r, "GET", "192.0.2.1")
	if id := req.TraceID(); id != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace id %q", id)
	}
	t0 := time.Now()
	tr.Call(ctx, libvirtrpc.Call{Procedure: "DomainSuspend", Domain: libvirtrpc.UUID{0xab}, Outcome: "no_answer",
		Start: t0, Sent: t0.Add(250 * time.Millisecond), End: t0.Add(time.Second)})
	tr.Call(ctx, libvirtrpc.Call{Procedure: "ConnectListAllDomains", Outcome: "busy", Start: t0, End: t0.Add(500 * time.Millisecond)})
	tr.Call(t.Context(), libvirtrpc.Call{Procedure: "OfNobody", Outcome: "ok", Start: t0, Sent: t0, End: t0})
	req.End("/libvirt/domains/by-name/:identifier", 504)

	// Who says that its trace is not recorded is taken at his word.
	r.Header.Set("Traceparent", strings.TrimSuffix(parent, "1")+"0")
	ctx, req = tr.Request(r, "GET", "192.0.2.1")
	tr.Call(ctx, libvirtrpc.Call{Procedure: "NotSampled", Outcome: "ok", Start: t0, Sent: t0, End: t0})
	req.End("", 200)

	r = httptest.NewRequest("GET", "https://virtgate.test/nothing", nil)
	_, req = tr.Request(r, "_OTHER", "192.0.2.1")
	req.End("", 404)
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	got := map[string]*tracepb.Span{}
	var texts []string
	for _, s := range c.spans {
		got[s.Name] = s
		texts = append(texts, text(s, t0))
	}
	slices.Sort(texts)
	ua := "\uFFFD" + strings.Repeat("x", maxAttribute-1)
	want := []string{
		"ConnectListAllDomains CLIENT ERROR [libvirt.call.outcome=busy libvirt.call.sent=false libvirt.call.wait=0.5 rpc.method=ConnectListAllDomains rpc.system=libvirt]",
		"DomainSuspend CLIENT ERROR [libvirt.call.outcome=no_answer libvirt.call.sent=true libvirt.call.wait=0.25 libvirt.domain.uuid=ab000000-0000-0000-0000-000000000000 rpc.method=DomainSuspend rpc.system=libvirt]",
		"GET /libvirt/domains/by-name/:identifier SERVER ERROR [client.address=192.0.2.1 error.type=504 http.request.method=GET http.response.status_code=504 http.route=/libvirt/domains/by-name/:identifier network.protocol.version=1.1 url.path=/libvirt/domains/by-name/a\uFFFDb url.scheme=http user_agent.original=" + ua + "]",
		"_OTHER SERVER UNSET [client.address=192.0.2.1 http.request.method=_OTHER http.response.status_code=404 network.protocol.version=1.1 url.path=/nothing url.scheme=https user_agent.original=]",
	}
	if diff := cmp.Diff(want, texts); diff != "" {
		t.Fatalf("(-want +got):\n%s", diff)
	}
	server, call := got["GET /libvirt/domains/by-name/:identifier"], got["DomainSuspend"]
	if fmt.Sprintf("%x-%x", server.TraceId, server.ParentSpanId) != parent[3:52] {
		t.Errorf("the request's span is %x below %x", server.TraceId, server.ParentSpanId)
	}
	if string(call.ParentSpanId) != string(server.SpanId) || string(call.TraceId) != string(server.TraceId) || call.EndTimeUnixNano-call.StartTimeUnixNano != 1e9 {
		t.Errorf("the call's span: %v", call)
	}
	if c.about["service.name"] != "virtgate" || c.about["service.version"] != "1.2.3" || c.header.Get("Authorization") != "Bearer x" {
		t.Errorf("resource %v, header %v", c.about, c.header)
	}
}

// Without traces a request still knows which trace it belongs to.
func TestOff(t *testing.T) {
	var tr *Tracer
	r := httptest.NewRequest("GET", "/", nil)
	for header, id := range map[string]string{"": "", parent: "0af7651916cd43dd8448eb211c80319c", "nonsense": ""} {
		r.Header.Set("Traceparent", header)
		_, req := tr.Request(r, "GET", "")
		if got := req.TraceID(); got != id {
			t.Errorf("%q: trace id %q", header, got)
		}
		req.End("/", 200)
	}
	if err := tr.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A collector that is silent holds up neither requests nor the program's end.
func TestSilentCollector(t *testing.T) {
	goOn := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-goOn }))
	defer silent.Close()
	defer close(goOn)
	tr := newTracer(t, silent.URL, nil)
	began := time.Now()
	for range 5000 { // more than the queue holds
		_, req := tr.Request(httptest.NewRequest("GET", "/", nil), "GET", "")
		req.End("/", 200)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	tr.Shutdown(ctx)
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestEndpoint(t *testing.T) {
	for _, c := range []struct {
		configured string
		env        []string
		want       string
	}{
		{"", nil, ""},
		{"", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://a:4318/"}, "http://a:4318/v1/traces"},
		{"", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://b/x"}, "http://b/x"},
		{"http://c", []string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://b/x"}, "http://c/v1/traces"},
	} {
		if got, _ := Endpoint(c.configured, c.env); got != c.want {
			t.Errorf("%q %v: %q, want %q", c.configured, c.env, got, c.want)
		}
	}
	for _, bad := range []string{"", "a:4318", "grpc://a:4317", "http:///v1/traces", "http://user:secret@/x"} {
		if _, err := New(Options{URL: bad, Log: slog.New(slog.DiscardHandler)}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What is off costs nothing.
func TestOffAllocatesNothing(t *testing.T) {
	var tr *Tracer
	r := httptest.NewRequest("GET", "/", nil)
	if n := testing.AllocsPerRun(100, func() {
		_, req := tr.Request(r, "GET", "")
		req.TraceID()
		req.End("/", 200)
	}); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

func BenchmarkRequest(b *testing.B) {
	nowhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	defer nowhere.Close()
	on, err := New(Options{URL: nowhere.URL, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer on.Shutdown(context.Background())
	r := httptest.NewRequest("GET", "/libvirt/domains", nil)
	for name, tr := range map[string]*Tracer{"off": nil, "on": on} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ctx, req := tr.Request(r, "GET", "192.0.2.1")
				if tr != nil {
					tr.Call(ctx, libvirtrpc.Call{Procedure: "ConnectListAllDomains", Outcome: "ok"})
				}
				req.End("/libvirt/domains", 200)
			}
		})
	}
}
