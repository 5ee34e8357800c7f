package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Limits of connections, in the order in which a slow client meets them.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	// lingerTimeout is how long the rest of a request is taken after the last
	// response of a connection, so that its sender gets to read that.
	lingerTimeout = time.Second
	maxHeader     = 32 << 10 // bytes
	// drainTimeout is how long a shutdown waits for requests that are under way.
	drainTimeout = 20 * time.Second
)

// Serve answers on the listener until ctx ends, then lets the requests that are
// under way finish, for a bounded time.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       s.opts.RequestTimeout,
		// A response is written at once; its reader has a while to take it.
		WriteTimeout:   2 * s.opts.RequestTimeout,
		IdleTimeout:    idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// It would be answered without the envelope.
		DisableGeneralOptionsHandler: true,
	}
	conns := newClients(plainErrors{l, s.log}, affordable())
	srv.ConnState = conns.changed
	stopped := make(chan error, 1)
	go func() { stopped <- srv.Serve(conns) }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := srv.Shutdown(drain)
	if err != nil {
		srv.Close()
	}
	if serr := <-stopped; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}
