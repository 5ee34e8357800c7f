package server

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"virtgate/auth"
)

// levels counts log lines at the level of the access log.
type levels struct {
	slog.Handler
	n *atomic.Int64
}

func (l levels) Enabled(_ context.Context, at slog.Level) bool { return at >= slog.LevelInfo }

func (l levels) Handle(context.Context, slog.Record) error { l.n.Add(1); return nil }

func TestAlive(t *testing.T) {
	a, err := auth.New(auth.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var lines atomic.Int64
	s := New(Options{Auth: a, Log: slog.New(levels{slog.DiscardHandler, &lines}), BodyLimit: 1000, RequestTimeout: 5 * time.Second})
	for range 2 {
		if err := s.Alive(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := lines.Load(); n != 0 {
		t.Errorf("%d lines in the log of what the server asks itself", n)
	}
	var broken atomic.Bool
	stuck := make(chan struct{})
	s.echo.Pre(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if broken.Load() {
				return errors.New("broken")
			}
			<-stuck
			return next(c)
		}
	})
	broken.Store(true)
	if err := s.Alive(t.Context()); err == nil {
		t.Error("broken, and alive")
	}
	broken.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Alive(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stuck: %v", err)
	}
	later, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Alive(later); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("still stuck, and asked once more: %v", err)
	}
	close(stuck)
	for deadline := time.Now().Add(10 * time.Second); s.Alive(t.Context()) != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not alive again")
		}
	}
}
