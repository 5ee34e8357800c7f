package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
)

type probeKey struct{}

// accessLevel is the level of a request's line in the log. What the server asks
// itself is of interest only to who looks for a defect in it.
func accessLevel(ctx context.Context) slog.Level {
	if ctx.Value(probeKey{}) != nil {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Alive asks the server for /livez, as a client does but for the network. Its
// error says that no good answer came before the end of ctx.
func (s *Server) Alive(ctx context.Context) error {
	if !s.probing.CompareAndSwap(false, true) {
		return errors.New("the server has not answered itself since the last time")
	}
	req, err := http.NewRequestWithContext(context.WithValue(ctx, probeKey{}, true), http.MethodGet, "/livez", http.NoBody)
	if err != nil {
		return err
	}
	answered := make(chan int, 1)
	go func() { // it ends with the answer; without one the process has no future
		w := &probe{header: http.Header{}}
		s.ServeHTTP(w, req)
		s.probing.Store(false)
		answered <- w.status
	}()
	select {
	case status := <-answered:
		if status != http.StatusOK {
			return fmt.Errorf("the server answers itself with %d", status)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the server does not answer itself: %w", ctx.Err())
	}
}

// probe takes the status of a response.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }
func (p *probe) WriteHeader(status int)      { p.status = status }
