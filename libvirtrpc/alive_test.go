package libvirtrpc_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// The time of a change can be changed while calls are made.
func TestSetChangeTimeout(t *testing.T) {
	answer := make(chan struct{})
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		if a, ok := r.Args.(libvirt.DomainSuspendArgs); ok && a.Dom.UUID == libvirt.UUID(vm1) {
			<-answer
		}
		r.Reply(nil)
	})
	defer close(answer)
	c := start(t, d, nil)
	c.SetChangeTimeout(200 * time.Millisecond)
	began := time.Now()
	wantKind(t, c.Suspend(t.Context(), vm1), libvirtrpc.NoAnswer)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// The pool is alive with a daemon and without one, and not when nobody runs it.
func TestAlive(t *testing.T) {
	d := rpctest.NewDaemon(func(r *rpctest.Request) { r.Reply(nil) })
	t.Cleanup(d.Close)
	for what, dial := range map[string]func(context.Context) (net.Conn, error){
		"with a daemon":    d.Dial,
		"without a daemon": func(context.Context) (net.Conn, error) { return nil, errors.New("no daemon") },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			c, err := libvirtrpc.New(libvirtrpc.Options{Dial: dial, URI: "test:///default", Connections: 1, PingInterval: -1})
			if err != nil {
				t.Fatal(err)
			}
			const patience = 3 * time.Second // the longest pause between two attempts is 1 s
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { c.Run(ctx) })
			for end := time.Now().Add(patience + time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
				if err := c.Alive(patience); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			wg.Wait()
			until(t, "it is not alive", func() bool { return c.Alive(100*time.Millisecond) != nil })
		})
	}
}
