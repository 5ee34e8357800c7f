package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"virtgate/auth"
	"virtgate/server/listen"
)

// Limits of connections, in the order in which a slow client meets them.
const (
	headerTimeout = 10 * time.Second // TLS handshake included
	idleTimeout   = 2 * time.Minute
	// lingerTimeout is how long the rest of a request is taken after the last
	// response of a connection, so that its sender gets to read that.
	lingerTimeout = time.Second
	maxHeader     = 32 << 10 // bytes
	// drainTimeout is how long a shutdown waits for requests that are under way.
	drainTimeout = 20 * time.Second
)

// http2 are the limits that HTTP/2 has besides. A request has the same time in
// both, and so has an idle connection.
var http2 = http.HTTP2Config{
	MaxConcurrentStreams: 100,
	// A client that vanished is found out before its connection is idle.
	SendPingTimeout:  30 * time.Second,
	PingTimeout:      15 * time.Second,
	WriteByteTimeout: 30 * time.Second,
}

// Serve answers on the listeners until ctx ends or one of them fails, then lets
// the requests that are under way finish, for a bounded time.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	var servers []*http.Server
	stopped := make(chan error, len(listeners))
	for _, l := range listeners {
		srv := s.httpServer(l)
		servers = append(servers, srv)
		// A flood on one leaves the others their share.
		conns := newClients(plainErrors{l, s.log}, max(1, affordable()/len(listeners)))
		srv.ConnState = conns.changed
		go func() { stopped <- srv.Serve(conns) }()
	}
	var errs []error
	running := len(servers)
	select {
	case err := <-stopped:
		errs = append(errs, err)
		running--
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	var wg sync.WaitGroup
	shut := make([]error, len(servers))
	for i, srv := range servers {
		wg.Go(func() {
			if shut[i] = srv.Shutdown(drain); shut[i] != nil {
				srv.Close()
			}
		})
	}
	wg.Wait()
	for range running {
		if err := <-stopped; !errors.Is(err, http.ErrServerClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, shut...)...)
}

// httpServer is what answers on a listener.
func (s *Server) httpServer(l net.Listener) *http.Server {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.headerTimeout,
		// Each request brings its own deadlines along, see observe.
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		HTTP2:          &http2,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext:    withConn,
		Protocols:      new(http.Protocols),
		// It would be answered without the envelope.
		DisableGeneralOptionsHandler: true,
	}
	srv.Protocols.SetHTTP1(true)
	// net/http does not see that these connections are TLS (see plainErrors);
	// to it, their HTTP/2 is unencrypted.
	srv.Protocols.SetUnencryptedHTTP2(listen.IsTLS(l))
	return srv
}

// setDeadlines bounds what the connection does for a request that has so much
// time. Who has no connection has no deadlines.
func setDeadlines(w http.ResponseWriter, start time.Time, limit time.Duration) {
	conn := http.NewResponseController(w)
	// net/http cancels a request whose connection cannot be read any more; the
	// request's own deadline, which says why it ends, is to come first.
	_ = conn.SetReadDeadline(start.Add(limit + 100*time.Millisecond))
	// A response is written at once; its reader has a while to take it.
	_ = conn.SetWriteDeadline(start.Add(2 * limit))
}

type connKey struct{}

// withConn lets a request know its connection.
func withConn(ctx context.Context, c net.Conn) context.Context {
	if p, ok := c.(*plainErrorConn); ok {
		c = p.Conn
	}
	return context.WithValue(ctx, connKey{}, c)
}

// peer is who is at the other end of the request's connection.
func peer(r *http.Request) listen.Peer {
	c, _ := r.Context().Value(connKey{}).(net.Conn)
	return listen.PeerOf(c)
}

// presented is all that a request presents, and what shows without that.
func presented(r *http.Request, p listen.Peer) auth.Credentials {
	c := auth.Credentials{
		Key:        r.Header.Values("X-Auth-Key"),
		Username:   r.Header.Values("X-Auth-Username"),
		ServiceKey: serviceKeys(r),
		UID:        p.UID,
		Addr:       remoteAddr(r.RemoteAddr),
	}
	if p.Certificate != nil {
		name := ""
		if p.CertificateErr == nil {
			name = p.Certificate.Subject.CommonName
		}
		c.Certificate = &name
	}
	return c
}

// remoteAddr is where a request comes from, without a port; unix sockets have
// no addresses.
func remoteAddr(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "unix"
	}
	return host
}
