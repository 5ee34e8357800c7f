// Package server is everything that knows HTTP: the route table, the one way
// from Go functions to handlers, and what every request goes through before and
// after. It is the only importer of Echo.
package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"virtgate/audit"
	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
)

// Options are what a Server needs.
type Options struct {
	Libvirt *libvirtrpc.Client
	Auth    *auth.Authenticator
	Log     *slog.Logger
	Version string // of this program

	Audit *audit.Log // nil: none

	BodyLimit      int64         // bytes of a request body
	RequestTimeout time.Duration // of a whole request
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
	s := &Server{opts: o, libvirt: o.Libvirt, log: o.Log, echo: echo.New(), creating: make(turn, 1), headerTimeout: headerTimeout}
	s.Use(Settings{o.Auth, o.BodyLimit, o.RequestTimeout})
	s.table = s.routes()
	s.echo.HTTPErrorHandler = s.notRouted
	s.echo.Pre(s.observe, middleware.GzipWithConfig(middleware.GzipConfig{
		Level:     1,    // libvirt's XML shrinks to a tenth at any level
		MinLength: 1400, // what fits into one packet gains nothing
	}), s.authenticate)
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
	add(http.MethodGet, "/livez", s.livez)
	add(http.MethodGet, "/readyz", s.readyz)
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
		for _, h := range safeHeaders {
			header.Set(h[0], h[1])
		}
		packet, packetOK := packetID(req.Header.Values("X-Packet-ID"))
		if packetOK && packet != "" {
			header.Set("X-Packet-ID", packet)
		}
		now := s.settings.Load()
		c.Set(keySettings, now)
		ctx, cancel := context.WithTimeout(req.Context(), now.RequestTimeout)
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
				slog.String("remote", remoteAddr(req)),
				slog.String("method", req.Method),
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

var badPacketID = envelope.New(envelope.BadRequest, "X-Packet-ID is printable ASCII, once, at most 256 characters")

// packetID is the client's own number for the request, and whether it can be
// given back.
func packetID(values []string) (string, bool) {
	if len(values) == 0 {
		return "", true
	}
	v := values[0]
	if len(values) > 1 || len(v) > 256 {
		return "", false
	}
	for i := 0; i < len(v); i++ {
		if v[i] < 0x20 || v[i] > 0x7e {
			return "", false
		}
	}
	return v, true
}

func newRequestID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// base is the path under which everything takes authentication.
const base = "/libvirt"

func underBase(path string) bool { return path == base || strings.HasPrefix(path, base+"/") }

// authenticate runs before the router, so that who may not ask does not learn
// what there is.
func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if underBase(r.URL.Path) {
			p := peer(r)
			presented := credentials(r, p)
			now, _ := c.Get(keySettings).(*Settings)
			caller, err := now.Auth.Authenticate(presented, time.Now())
			recordCaller(entryOf(r.Context()), p, presented, caller, err)
			if err != nil {
				return s.respond(c, envelope.Failed(authError(err)))
			}
			c.Set(keyCaller, caller)
			// A page from elsewhere cannot send a key, but its browser shows
			// certificates by itself, and reaches what is open on this machine.
			if new(http.CrossOriginProtection).Check(r) != nil {
				return s.respond(c, envelope.Failed(envelope.New(envelope.NotPermitted, "a page of another origin sent it")))
			}
		}
		if e, ok := c.Get(keyError).(*envelope.Error); ok {
			return s.respond(c, envelope.Failed(e))
		}
		return next(c)
	}
}

// serve is the adapter between Echo and a route.
func (s *Server) serve(rt route) echo.HandlerFunc {
	by := ""
	if parts := strings.Split(rt.path, "/"); len(parts) > 3 {
		by = parts[3]
	}
	return func(c echo.Context) error {
		c.Set(keyRoute, rt.path)
		req := &request{by: by, http: c.Request(), entry: entryOf(c.Request().Context()), audit: s.opts.Audit}
		req.caller, _ = c.Get(keyCaller).(auth.Caller)
		var err error
		req.id, err = pathParam(c, "identifier")
		recordRoute(req.entry, rt, by, req.id)
		if !rt.permitted(req.caller) {
			return s.respond(c, envelope.Failed(envelope.New(envelope.NotPermitted, "it lacks "+rt.permissions[0])))
		}
		if err != nil {
			return s.respond(c, failed(envelope.New(envelope.BadURL, "the path cannot be decoded")))
		}
		if req.query, err = parseQuery(c.Request().URL.RawQuery); err != nil {
			return s.respond(c, failed(err))
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

// respond writes an envelope. Nothing else writes a body.
func (s *Server) respond(c echo.Context, res *envelope.Response) error {
	if len(res.Errors) > 0 {
		c.Set(keyError, res.Errors[0])
		recordErrors(entryOf(c.Request().Context()), res.Errors)
	}
	w, header := c.Response(), c.Response().Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	if after := res.RetryAfter(); after > 0 {
		header.Set("Retry-After", strconv.Itoa(int((after+time.Second-1)/time.Second)))
	}
	body := res.Bytes()
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
		e = unknownPath(c.Request().URL.EscapedPath())
	default:
		s.log.Error("unexpected", "error", err)
		e = envelope.New(envelope.Internal, "")
	}
	_ = s.respond(c, envelope.Failed(e))
}

// unknownPath says which part of a path means nothing.
func unknownPath(path string) *envelope.Error {
	if !underBase(path) {
		return envelope.New(envelope.BadURL, "everything is under "+base+"/")
	}
	parts := strings.Split(strings.Trim(strings.TrimPrefix(path, base), "/"), "/")
	switch {
	case parts[0] != "domains" && parts[0] != "version":
		return envelope.New(envelope.BadSubsystem, "there are domains, version")
	case parts[0] == "version" || len(parts) == 1:
		return envelope.New(envelope.BadParameter, "")
	case parts[1] != "by-name" && parts[1] != "by-uuid" && parts[1] != "by-id":
		return envelope.New(envelope.BadSearchKey, "there are by-name, by-uuid, by-id")
	case len(parts) == 2 || parts[2] == "":
		return envelope.New(envelope.BadIdentifier, "it is missing")
	}
	return envelope.New(envelope.BadParameter, "there is xml_desc")
}

// livez says that the process is there.
func (s *Server) livez(c echo.Context) error {
	c.Set(keyRoute, "/livez")
	return s.respond(c, &envelope.Response{})
}

// readyz says whether libvirt answers now, and nothing else about the host.
func (s *Server) readyz(c echo.Context) error {
	c.Set(keyRoute, "/readyz")
	if err := s.libvirt.Ready(c.Request().Context()); err != nil {
		e := envelope.New(envelope.Unavailable, "")
		e.RetryAfter = retryAfter
		return s.respond(c, envelope.Failed(e))
	}
	return s.respond(c, &envelope.Response{})
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
