package libvirtrpc_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// watched collects what Options.Observe is told.
type watched struct {
	mu    sync.Mutex
	calls []libvirtrpc.Call
}

func (w *watched) observe(_ context.Context, c libvirtrpc.Call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, c)
}

// take is what was seen since the last take.
func (w *watched) take() []libvirtrpc.Call {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

// Who watches hears of every call once, with how it ended and whether it was
// sent at all.
func TestObserve(t *testing.T) {
	hang := make(chan struct{})
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		switch r.Proc {
		case "DomainGetState":
			r.Error(int32(libvirt.ErrNoDomain), "no such domain")
		case "DomainSuspend":
			<-hang
			r.Reply(nil)
		case "DomainReset":
			r.Hangup()
		default:
			r.Reply(libvirt.ConnectGetLibVersionRet{LibVer: 9000000})
		}
	})
	var w watched
	c := start(t, d, func(o *libvirtrpc.Options) { o.Observe, o.ChangeTimeout = w.observe, 300*time.Millisecond })
	defer close(hang)
	ctx := t.Context()
	canceled, cancel := context.WithCancel(ctx)
	for _, s := range []struct {
		name    string
		do      func() error
		want    []string // outcomes
		domain  libvirtrpc.UUID
		notSent bool
	}{
		{"ConnectGetLibVersion", func() error { return c.Ready(ctx) }, []string{"ok"}, libvirtrpc.UUID{}, false},
		{"DomainGetState", func() error { _, _, err := c.GetState(ctx, vm1); return err }, []string{"not_found"}, vm1, false},
		{"DomainSuspend", func() error { return c.Suspend(ctx, vm1) }, []string{"no_answer"}, vm1, false},
		{"DomainResume", func() error { return c.Resume(ctx, vm1) }, []string{"no_answer"}, vm1, true},
		{"DomainSuspend", func() error { time.AfterFunc(50*time.Millisecond, cancel); return c.Suspend(canceled, vm2) }, []string{"canceled"}, vm2, false},
		{"DomainReset", func() error { return c.Reset(ctx, libvirtrpc.UUID{3}) }, []string{"lost"}, libvirtrpc.UUID{3}, false},
	} {
		w.take()
		err := s.do()
		got := w.take()
		if len(got) != len(s.want) {
			t.Errorf("%s (%v): %d calls seen, want %d", s.name, err, len(got), len(s.want))
			continue
		}
		for i, call := range got {
			if call.Procedure != s.name || call.Outcome != s.want[i] || call.Domain != s.domain || call.Sent.IsZero() != s.notSent ||
				call.End.Before(call.Start) || !s.notSent && (call.Sent.Before(call.Start) || call.End.Before(call.Sent)) {
				t.Errorf("%s: seen as %+v, want %s", s.name, call, s.want[i])
			}
		}
	}
}

// The state says what is open, waits and is given up.
func TestState(t *testing.T) {
	hang := make(chan struct{})
	d := rpctest.NewDaemon(func(r *rpctest.Request) { <-hang; r.Reply(nil) })
	c := start(t, d, func(o *libvirtrpc.Options) { o.ChangeTimeout, o.Queue = 100*time.Millisecond, 7 })
	until(t, "a connection", func() bool { return c.State().Open == 1 })
	wantKind(t, c.Suspend(t.Context(), vm1), libvirtrpc.NoAnswer)
	s := c.State()
	if want := (libvirtrpc.PoolState{
		Wanted: 1, Open: 1, Opened: 1, InFlight: 1, Queue: 7, Abandoned: 1, AbandonedEver: 1, GateCalls: 1, GateLimit: 10, Circuits: 1,
	}); s != want {
		t.Errorf("with a hung domain: %+v\nwant %+v", s, want)
	}
	close(hang)
	until(t, "all is well", func() bool { s = c.State(); return s.InFlight == 0 && s.Circuits == 0 })
	if want := (libvirtrpc.PoolState{Wanted: 1, Open: 1, Opened: 1, Queue: 7, AbandonedEver: 1, GateLimit: 10}); s != want {
		t.Errorf("after the answer: %+v\nwant %+v", s, want)
	}
}
