// Package tracing is everything that knows OpenTelemetry: a span for each
// request and each libvirt call, sent to a collector. It is off without an
// endpoint, and costs a look at one header then.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"virtgate/libvirtrpc"
)

// Options say where traces go. What else there is to say comes from the
// environment, by OpenTelemetry's own names: OTEL_SERVICE_NAME,
// OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER with _ARG, OTEL_BSP_*.
type Options struct {
	// URL takes OTLP over HTTP (POST of protobuf), for example
	// http://127.0.0.1:4318/v1/traces.
	URL     string
	Headers http.Header // sent along
	Version string      // of this program
	Log     *slog.Logger
}

// Tracer makes spans. A nil one makes none.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New makes a Tracer and starts what sends its spans; Shutdown ends that.
func New(o Options) (*Tracer, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("cannot send traces to %q: want http://host:port", redacted(o.URL))
	}
	host, _ := os.Hostname()
	about, err := resource.New(context.Background(), resource.WithAttributes(
		attribute.String("service.name", "virtgate"), attribute.String("service.version", o.Version), attribute.String("host.name", host),
	), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("cannot say what the traces are of (OTEL_RESOURCE_ATTRIBUTES): %w", err)
	}
	exporter, err := otlptrace.New(context.Background(), &uploader{url: o.URL, header: o.Headers, log: o.Log, http: http.Client{Timeout: uploadTimeout}})
	if err != nil {
		return nil, err
	}
	// The library's own complaints, about its variables for example, would go to
	// standard error past the log.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { o.Log.Warn("OpenTelemetry", "error", err) }))
	limits := sdk.NewSpanLimits()
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = maxAttribute
	}
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(about), sdk.WithRawSpanLimits(limits))
	return &Tracer{provider: p, tracer: p.Tracer("virtgate", trace.WithInstrumentationVersion(o.Version))}, nil
}

// Shutdown sends what was not sent yet, until ctx ends.
func (t *Tracer) Shutdown(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Request begins the span of a request, below the one that its traceparent
// names. method is one that HTTP knows. The context is for what the request leads
// to.
func (t *Tracer) Request(r *http.Request, method, client string) (context.Context, *Request) {
	ctx := r.Context()
	if r.Header.Get("Traceparent") != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
	} else if t == nil {
		return ctx, nil
	}
	if t == nil {
		return ctx, &Request{sc: trace.SpanContextFromContext(ctx)}
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	// Names and attributes are those of OpenTelemetry's semantic conventions for
	// HTTP servers. The query is left out: it may hold names.
	ctx, span := t.tracer.Start(ctx, method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", method),
		attribute.String("url.scheme", scheme),
		attribute.String("url.path", utf8(r.URL.Path)),
		attribute.String("client.address", client),
		attribute.String("user_agent.original", utf8(r.UserAgent())),
		attribute.String("network.protocol.version", strings.TrimPrefix(r.Proto, "HTTP/")),
	))
	return ctx, &Request{sc: span.SpanContext(), span: span, method: method}
}

// utf8 is s as OTLP can carry it: one bad string would cost the whole batch.
func utf8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// Request is the span of one request; nil is that of none.
type Request struct {
	sc     trace.SpanContext
	span   trace.Span // nil when traces are off
	method string
}

// TraceID is the trace that the request belongs to, its own or its client's, or
// empty.
func (r *Request) TraceID() string {
	if r == nil || !r.sc.HasTraceID() {
		return ""
	}
	return r.sc.TraceID().String()
}

// End ends the span of a request that was answered.
func (r *Request) End(route string, status int) {
	if r == nil || r.span == nil {
		return
	}
	if route != "" {
		r.span.SetName(r.method + " " + route)
		r.span.SetAttributes(attribute.String("http.route", route))
	}
	r.span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= 500 {
		r.span.SetAttributes(attribute.String("error.type", fmt.Sprint(status)))
		r.span.SetStatus(codes.Error, "")
	}
	r.span.End()
}

// Call makes the span of a libvirt call that is over, below the request that
// led to it: it is libvirtrpc's Options.Observe.
func (t *Tracer) Call(ctx context.Context, c libvirtrpc.Call) {
	if !trace.SpanContextFromContext(ctx).IsSampled() {
		return
	}
	wait := c.End.Sub(c.Start)
	if !c.Sent.IsZero() {
		wait = c.Sent.Sub(c.Start)
	}
	attrs := []attribute.KeyValue{
		attribute.String("rpc.system", "libvirt"),
		attribute.String("rpc.method", c.Procedure),
		attribute.String("libvirt.call.outcome", c.Outcome),
		attribute.Float64("libvirt.call.wait", wait.Seconds()),
		attribute.Bool("libvirt.call.sent", !c.Sent.IsZero()),
	}
	if c.Domain != (libvirtrpc.UUID{}) {
		attrs = append(attrs, attribute.String("libvirt.domain.uuid", c.Domain.String()))
	}
	_, span := t.tracer.Start(ctx, c.Procedure, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(c.Start), trace.WithAttributes(attrs...))
	if c.Outcome != "ok" {
		span.SetStatus(codes.Error, c.Outcome)
	}
	span.End(trace.WithTimestamp(c.End))
}

// Endpoint finds where traces go and what is sent along: what the configuration
// says, a URL without a path, else what the environment says by OpenTelemetry's
// names. An empty URL means nowhere.
func Endpoint(configured string, env []string) (url string, header http.Header) {
	get := func(name string) string {
		for _, e := range env {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return v
			}
		}
		return ""
	}
	url = get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if base := get("OTEL_EXPORTER_OTLP_ENDPOINT"); url == "" && base != "" {
		url = strings.TrimSuffix(base, "/") + tracesPath
	}
	if configured != "" {
		url = strings.TrimSuffix(configured, "/") + tracesPath
	}
	list := get("OTEL_EXPORTER_OTLP_TRACES_HEADERS")
	if list == "" {
		list = get("OTEL_EXPORTER_OTLP_HEADERS")
	}
	return url, parseHeaders(list)
}

const (
	tracesPath    = "/v1/traces"
	uploadTimeout = 10 * time.Second
	maxAttribute  = 1024 // characters of what clients send
)
