package tracing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// uploader sends spans as OTLP over HTTP. OpenTelemetry's own (otlptracehttp)
// would make this program 7 MiB larger: it comes with gRPC.
type uploader struct {
	url    string
	header http.Header
	http   http.Client
	log    *slog.Logger
	last   string // the last error; uploads come one after the other
}

func (*uploader) Start(context.Context) error { return nil }
func (*uploader) Stop(context.Context) error  { return nil }

// UploadTraces sends spans once: those that are not taken are lost. The same
// error over and over is said once.
func (u *uploader) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	err := u.send(ctx, spans)
	text := ""
	if err != nil {
		if text = err.Error(); text != u.last {
			u.log.Warn("cannot send traces", "error", err)
		}
	}
	u.last = text
	return nil
}

func (u *uploader) send(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	// The same bytes as an ExportTraceServiceRequest, whose package has gRPC.
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for k, v := range u.header {
		req.Header[k] = v
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	res, err := u.http.Do(req)
	if err != nil {
		return err // names the URL without a password
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s", redacted(u.url), res.Status)
	}
	return nil
}

// parseHeaders reads OTEL_EXPORTER_OTLP_HEADERS: name=value, joined by commas,
// values percent-encoded.
func parseHeaders(list string) http.Header {
	h := http.Header{}
	for pair := range strings.SplitSeq(list, ",") {
		name, value, ok := strings.Cut(pair, "=")
		if v, err := url.PathUnescape(strings.TrimSpace(value)); ok && err == nil {
			h.Set(strings.TrimSpace(name), v)
		}
	}
	return h
}

func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "(not a URL)"
	}
	return u.Redacted()
}
