// Package server is everything that knows HTTP: the route table, the one way
// from Go functions to handlers, and what every request goes through before and
// after. It is the only importer of Echo.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/audit"
	"virtgate/server/metrics"
	"virtgate/server/tracing"
)

// Options are what a Server needs.
type Options struct {
	Libvirt *libvirtrpc.Client
	Auth    *auth.Authenticator
	Log     *slog.Logger
	Version string           // of this program
	Metrics *metrics.Metrics // default: of its own
	Traces  *tracing.Tracer  // nil: none
	Audit   *audit.Log       // nil: none

	BodyLimit      int64         // bytes of a request body
	RequestTimeout time.Duration // of a whole request
	Docs           bool          // there is a page for people
}

// Settings are what can change while a Server runs. They do not change
// themselves: a request keeps those that it came with.
type Settings struct {
	Auth           *auth.Authenticator
	BodyLimit      int64
	RequestTimeout time.Duration
}

// Server answers HTTP requests.
type Server struct {
	opts     Options
	settings atomic.Pointer[Settings]
	libvirt  *libvirtrpc.Client
	log      *slog.Logger
	echo     *echo.Echo
	table    []route
	// domainList is the newest list of domains as it was sent.
	domainList shared[domain]
	// creating is held by who creates a domain.
	creating turn
	// description is Description, made once: it never changes.
	description func() (Description, error)

	headerTimeout time.Duration // tests have less patience
	probing       atomic.Bool   // see Alive
}

// turn lets one in at a time.
type turn chan struct{}

func (t turn) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case t <- struct{}{}:
		return func() { <-t }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// New makes a Server.
func New(o Options) *Server {
	if o.Metrics == nil {
		o.Metrics = metrics.New(o.Version)
	}
	s := &Server{opts: o, libvirt: o.Libvirt, log: o.Log, echo: echo.New(), creating: make(turn, 1), headerTimeout: headerTimeout}
	s.Use(Settings{o.Auth, o.BodyLimit, o.RequestTimeout})
	s.table = s.routes()
	s.description = sync.OnceValues(s.Description)
	s.echo.HTTPErrorHandler = s.notRouted
	s.echo.Pre(s.observe, s.authenticate)
	allow := map[string][]string{} // by path
	add := func(method, path string, h echo.HandlerFunc) {
		s.echo.Add(method, path, h)
		allow[path] = append(allow[path], method)
		if method == http.MethodGet {
			s.echo.Add(http.MethodHead, path, h)
			allow[path] = append(allow[path], http.MethodHead)
		}
	}
	for _, rt := range s.table {
		add(rt.method, rt.path, s.serve(rt))
	}
	if o.Docs {
		addPage(add)
	}
	for path, methods := range allow {
		// Echo would answer OPTIONS by itself, without the envelope.
		s.echo.OPTIONS(path, func(c echo.Context) error {
			c.Set(echo.ContextKeyHeaderAllow, strings.Join(methods, ", "))
			return echo.ErrMethodNotAllowed
		})
	}
	return s
}

// Use makes requests that come from now on go by other settings.
func (s *Server) Use(now Settings) { s.settings.Store(&now) }

// ServeHTTP makes Server an http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// The keys under which a request's own things travel in Echo's context.
const (
	keyCaller = "caller"
	keyRoute  = "route"
	keyError  = "error"
	// keySettings are the Settings that the request came with.
	keySettings = "settings"
)

// observe is the outermost layer: it numbers the request, gives the packet id
// back, turns a panic into a response and writes the access log.
func (s *Server) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		start := time.Now()
		req, header := c.Request(), c.Response().Header()
		id := newRequestID()
		header.Set("X-Request-ID", id)
		for _, h := range standing {
			header.Set(h[0], h[1])
		}
		packet, packetOK := packetID(req.Header.Values("X-Packet-ID"))
		if packetOK && packet != "" {
			header.Set("X-Packet-ID", packet)
		}
		now := s.settings.Load()
		c.Set(keySettings, now)
		method := knownMethod(req.Method)
		ctx, span := s.opts.Traces.Request(req, method, remoteAddr(req.RemoteAddr))
		ctx, cancel := context.WithTimeout(ctx, now.RequestTimeout)
		defer cancel()
		ctx, calls := libvirtrpc.CountCalls(ctx)
		req = req.WithContext(ctx)
		req.Body = http.MaxBytesReader(c.Response(), req.Body, now.BodyLimit)
		entry, req := s.newEntry(req, start, id, packet)
		c.SetRequest(req)
		setDeadlines(c.Response(), start, now.RequestTimeout)

		defer func() {
			if p := recover(); p != nil {
				s.log.Error("panic", "request_id", id, "panic", p, "stack", string(debug.Stack()))
				if !c.Response().Committed {
					err = s.respond(c, failed(envelope.New(envelope.Internal, "")))
				}
			}
			took := time.Since(start)
			s.recordEnd(entry, c.Response().Status, took)
			caller, _ := c.Get(keyCaller).(auth.Caller)
			route, _ := c.Get(keyRoute).(string)
			attrs := []slog.Attr{
				slog.String("request_id", id),
				slog.String("packet_id", packet),
				slog.String("user", caller.User),
				slog.String("proof", string(caller.Proof)),
				slog.String("key", caller.KeyName),
				slog.String("remote", remoteAddr(req.RemoteAddr)),
				slog.String("method", req.Method[:min(len(req.Method), maxMethod)]),
				slog.String("route", route),
				slog.Int("status", c.Response().Status),
				slog.Duration("duration", took),
				slog.Int64("libvirt_calls", calls.Load()),
			}
			if e, ok := c.Get(keyError).(*envelope.Error); ok {
				attrs = append(attrs, slog.Int("code", int(e.Code)))
				if e.LibvirtCode != 0 {
					attrs = append(attrs, slog.Int("libvirt_code", e.LibvirtCode))
				}
			}
			if id := span.TraceID(); id != "" {
				attrs = append(attrs, slog.String("trace_id", id))
			}
			s.opts.Metrics.Request(method, route, c.Response().Status, took)
			span.End(route, c.Response().Status)
			s.log.LogAttrs(ctx, accessLevel(ctx), "request", attrs...)
		}()
		if !packetOK {
			c.Set(keyError, badPacketID)
		}
		if err := next(c); err != nil {
			s.notRouted(err, c)
		}
		return nil
	}
}

// standing are the headers that every response has. The last four are for
// browsers: an answer of ours is not to be guessed at, shown as a page, or read
// by pages from elsewhere. Strict-Transport-Security is not among them: it would
// bind every port of the host name.
var standing = [][2]string{
	{"Content-Type", "application/json; charset=utf-8"},
	{"Cache-Control", "no-store"},
	{"X-Content-Type-Options", "nosniff"},
	{"Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"},
	{"Cross-Origin-Resource-Policy", "same-origin"},
	{"Referrer-Policy", "no-referrer"},
}

// serve is the adapter between Echo and a route.
func (s *Server) serve(rt route) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Set(keyRoute, rt.path)
		now, _ := c.Get(keySettings).(*Settings)
		req := &request{key: rt.key, http: c.Request(), entry: entryOf(c.Request().Context()), audit: s.opts.Audit}
		req.caller, _ = c.Get(keyCaller).(auth.Caller)
		var err error
		req.id, err = pathParam(c, "identifier")
		recordRoute(req.entry, rt, req.id)
		if !rt.public() && !rt.permitted(req.caller) {
			return s.respond(c, envelope.Failed(envelope.New(envelope.NotPermitted, "it lacks "+strings.Join(rt.permissions, " or "))))
		}
		if c.Request().ContentLength > now.BodyLimit {
			return s.respond(c, failed(tooLarge(now.BodyLimit)))
		}
		if err != nil {
			return s.respond(c, failed(envelope.New(envelope.BadURL, "the path cannot be decoded")))
		}
		if rt.write != nil {
			q, err := parseQuery(c.Request().URL.RawQuery)
			if err == nil {
				err = q.read(rt.params)
			}
			if err != nil {
				return s.respond(c, failed(err))
			}
			return rt.write(c)
		}
		return s.respond(c, rt.handle(c.Request().Context(), req))
	}
}

// pathParam is a part of the path, decoded once: Echo routes by the raw path
// when the client escaped anything, and leaves its parts as they came then.
func pathParam(c echo.Context, name string) (string, error) {
	v := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return v, nil
	}
	return url.PathUnescape(v)
}

// gzipFrom is the length in bytes from which a response is compressed for who
// accepts that: what fits into one packet gains nothing.
const gzipFrom = 1400

// acceptsGzip reads Accept-Encoding (RFC 9110, section 12.5.3).
func acceptsGzip(h http.Header) bool {
	accepted := map[string]bool{}
	for _, v := range h.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(v, ",") {
			name, weight, _ := strings.Cut(coding, ";")
			_, q, weighted := strings.Cut(weight, "=")
			n, err := strconv.ParseFloat(strings.TrimSpace(q), 64)
			accepted[strings.ToLower(strings.TrimSpace(name))] = !weighted || err == nil && n > 0
		}
	}
	if yes, said := accepted["gzip"]; said {
		return yes
	}
	return accepted["*"]
}

// respond writes a response. Nothing but metrics and the files of the page writes
// another body.
func (s *Server) respond(c echo.Context, res *envelope.Response) error {
	if len(res.Errors) > 0 {
		c.Set(keyError, res.Errors[0])
		recordErrors(entryOf(c.Request().Context()), res.Errors)
	}
	w, header := c.Response(), c.Response().Header()
	if last(c, res) {
		header.Set("Connection", "close")
		// Nor does the rest of what the client may be sending keep it.
		_ = http.NewResponseController(w.Writer).SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	header.Set("Content-Type", res.MediaType())
	if after := res.RetryAfter(); after > 0 {
		header.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	body := res.Bytes()
	header.Set("Vary", "Accept-Encoding")
	if len(body) >= gzipFrom && acceptsGzip(c.Request().Header) {
		body = res.Gzip()
		header.Set("Content-Encoding", "gzip")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(res.Status())
	if c.Request().Method == http.MethodHead {
		return nil
	}
	_, err := w.Write(body)
	if err != nil { // the client went away; there is nobody to tell
		s.log.Debug("response not taken", "error", err)
	}
	return nil
}

// last tells whether the response is the last one on its connection.
func last(c echo.Context, res *envelope.Response) bool {
	r := c.Request()
	if _, known := c.Get(keyCaller).(auth.Caller); !known {
		return true // a stranger gets one answer
	}
	// net/http drops a Content-Length beside chunks, and Transfer-Encoding in
	// HTTP/1.0, without a word. A proxy before us may have read the request
	// otherwise, and what follows it is not to be taken for another one (RFC
	// 9112, 6.1 and 6.3).
	if len(r.TransferEncoding) > 0 || !r.ProtoAtLeast(1, 1) {
		return true
	}
	// The rest of a body that is too large is not waited for.
	return len(res.Errors) > 0 && res.Errors[0].Code == envelope.BodyTooLarge
}

// notRouted answers what no route does: the wrong method, an unknown
// collection, sub-resource or kind of identifier, or a path outside the API.
func (s *Server) notRouted(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	var he *echo.HTTPError
	var e *envelope.Error
	switch {
	case errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed:
		e = envelope.New(envelope.MethodNotAllowed, "")
		if allow, ok := c.Get(echo.ContextKeyHeaderAllow).(string); ok {
			allow = strings.Join(slices.DeleteFunc(strings.Split(allow, ", "), func(m string) bool { return m == http.MethodOptions }), ", ")
			c.Response().Header().Set("Allow", allow)
			e = envelope.New(envelope.MethodNotAllowed, "this path takes "+allow)
		}
	case errors.As(err, &he) && he.Code == http.StatusNotFound:
		e = s.unknownPath(c.Request().URL.EscapedPath())
	default:
		s.log.Error("unexpected", "error", err)
		e = envelope.New(envelope.Internal, "")
	}
	_ = s.respond(c, envelope.Failed(e))
}

// livez says that the process is there.
func (s *Server) livez(context.Context, *request) *envelope.Response { return &envelope.Response{} }

// readyz says whether libvirt answers now, and nothing else about the host.
func (s *Server) readyz(ctx context.Context, _ *request) *envelope.Response {
	if err := s.libvirt.Answers(ctx); err != nil {
		e := envelope.New(envelope.Unavailable, "")
		e.RetryAfter = retryAfter
		return envelope.Failed(e)
	}
	return &envelope.Response{}
}

// finish is the context of a request that changes things: once begun it goes on
// when its client goes away, for the time that a request has.
func (s *Server) finish(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(s.settings.Load().RequestTimeout)
	}
	return context.WithDeadline(context.WithoutCancel(ctx), deadline)
}
