package libvirtrpc_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// Two calls past their deadline, and the connection is replaced. It is kept for
// a while, for what its calls may still say, and never for good.
func TestProveAbandonedCalls(t *testing.T) {
	const replacedWithin = 100 * time.Millisecond
	for _, c := range []struct {
		name   string
		late   time.Duration // after the deadline, 0 for never
		closed time.Duration // after the deadline, at the latest
	}{
		{"answered late", 10 * time.Second, 11 * time.Second},
		{"never answered", 0, 2*time.Minute + 2*time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Attr("case", "two calls of one connection past their deadline, "+c.name)
			t.Attr("promised", fmt.Sprintf("another connection within %s, the old one closed within %s, late answers are for nobody", replacedWithin, c.closed))
			var replaced, closed time.Duration
			synctest.Test(t, func(t *testing.T) {
				var n atomic.Int32
				late := make(chan struct{})
				d := rpctest.NewDaemon(func(r *rpctest.Request) {
					if n.Add(1) <= 2 {
						<-late
					}
					r.Raw(r.Frame(goodAnswer(r)).AppendTo(nil))
				})
				client := start(t, d, func(o *libvirtrpc.Options) { o.CallTimeout = callTimeout })
				until(t, "a connection", func() bool { open, _, _ := client.Load(); return open == 1 })
				began := time.Now()
				var wg sync.WaitGroup
				for i := range 2 {
					wg.Go(func() {
						_, err := client.Lookup(t.Context(), libvirtrpc.ByName(fmt.Sprint(i)))
						wantKind(t, err, libvirtrpc.NoAnswer)
						if took := time.Since(began); took != callTimeout {
							t.Errorf("the end after %s, want %s", took, callTimeout)
						}
					})
				}
				wg.Wait()
				until(t, "another connection", func() bool { return d.Dials() == 2 })
				replaced = time.Since(began) - callTimeout
				var b bystanders
				b.start(t, client, 4, callTimeout/4)
				if c.late > 0 {
					time.Sleep(c.late - replaced)
					close(late)
				} else {
					defer close(late)
				}
				for d.Open() == 2 && time.Since(began) < time.Hour {
					time.Sleep(10 * time.Millisecond)
				}
				closed = time.Since(began) - callTimeout
				b.end()
				if replaced > replacedWithin+10*time.Millisecond || closed > c.closed {
					t.Errorf("replaced after %s, closed after %s", replaced, closed)
				}
				if n := d.Dials(); n != 2 {
					t.Errorf("%d connections were opened", n)
				}
			})
			if !t.Failed() {
				t.Attr("measured", fmt.Sprintf("replaced after %s, closed after %s", replaced.Round(time.Millisecond), closed.Round(time.Millisecond)))
			}
		})
	}
}

// A connection is not replaced for calls that were late, only for calls that
// are: libvirtd is slow now and then.
func TestProveLateAnswers(t *testing.T) {
	t.Attr("case", "ten calls one after the other, each answered after its deadline")
	t.Attr("promised", "each ends at its deadline; the connection is kept")
	const calls = 10
	synctest.Test(t, func(t *testing.T) {
		d := rpctest.NewDaemon(func(r *rpctest.Request) {
			time.Sleep(callTimeout * 5 / 4)
			r.Raw(r.Frame(goodAnswer(r)).AppendTo(nil))
		})
		client := start(t, d, func(o *libvirtrpc.Options) { o.CallTimeout = callTimeout })
		until(t, "a connection", func() bool { open, _, _ := client.Load(); return open == 1 })
		for i := range calls {
			began := time.Now()
			_, err := client.Lookup(t.Context(), libvirtrpc.ByName(fmt.Sprint(i)))
			wantKind(t, err, libvirtrpc.NoAnswer)
			if took := time.Since(began); took != callTimeout {
				t.Errorf("the end after %s, want %s", took, callTimeout)
			}
			time.Sleep(callTimeout / 2)
		}
		if _, flying, _ := client.Load(); flying != 0 || d.Dials() != 1 {
			t.Errorf("%d calls in flight, %d connections were opened", flying, d.Dials())
		}
	})
	if !t.Failed() {
		t.Attr("measured", fmt.Sprintf("%d calls on 1 connection, each ended after %s", calls, callTimeout))
	}
}
