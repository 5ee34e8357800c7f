package libvirtrpc_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// dice are for goroutines that share them.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) roll(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// Every fault of the tables at random, on several connections at once, with the
// good answers out of order.
func TestProveNoWrongAnswer(t *testing.T) {
	t.Attr("case", "answers of libvirtd: every fault at random, in handshakes too, under load on 4 connections")
	t.Attr("promised", "never somebody else's answer, never a change sent twice; when the faults end, so do the errors")
	calls := int64(6_000)
	if longForm {
		calls = 400_000
	}
	faults := slices.Concat(harmless, deadly, mute)
	for n := range 20 {
		faults = append(faults, cutPayload(n), cutFrame(n))
	}
	var asked, failed, spoiled int64
	synctest.Test(t, func(t *testing.T) {
		var chance = dice{r: rand.New(rand.NewPCG(1, 2))}
		var well atomic.Bool
		var bad, twice atomic.Int64
		var sent sync.Map // definitions by name
		answer := func(r *rpctest.Request, good []byte, one int) {
			if !well.Load() && chance.roll(one) == 0 {
				bad.Add(1)
				faults[chance.roll(len(faults))].send(r, r.Frame(good))
				return
			}
			r.Raw(r.Frame(good).AppendTo(nil))
		}
		d := rpctest.NewDaemon(func(r *rpctest.Request) {
			if a, ok := r.Args.(libvirt.DomainDefineXMLFlagsArgs); ok {
				if _, again := sent.LoadOrStore(a.XML, true); again {
					twice.Add(1)
				}
			}
			time.Sleep(time.Duration(chance.roll(3000)) * time.Microsecond)
			answer(r, goodAnswer(r), 20)
		})
		d.Handshake = func(r *rpctest.Request, good []byte) { answer(r, good, 20) }
		c := start(t, d, func(o *libvirtrpc.Options) {
			o.Connections, o.CallTimeout, o.ChangeTimeout, o.ConnectTimeout = 4, callTimeout, callTimeout, callTimeout
		})
		allowed := []libvirtrpc.Kind{libvirtrpc.Lost, libvirtrpc.NoAnswer, libvirtrpc.Unavailable}
		var b bystanders
		b.start(t, c, 24, time.Millisecond, allowed...)
		var changes atomic.Int64
		for i := range 8 {
			b.wg.Go(func() {
				for k := 0; !b.stop.Load(); k++ {
					name := fmt.Sprintf("definition %d of %d", k, i)
					got, err := c.Define(t.Context(), name, false)
					changes.Add(1)
					switch {
					case err != nil && slices.Contains(allowed, libvirtrpc.KindOf(err)):
						b.errors.Add(1)
					case err != nil || !right(got, name):
						t.Errorf("%s: %+v, %v", name, got, err)
						return
					}
				}
			})
		}
		for b.asked.Load()+changes.Load() < calls && !t.Failed() {
			time.Sleep(callTimeout / 10)
		}
		b.end()
		asked, failed, spoiled = b.asked.Load()+changes.Load(), b.errors.Load(), bad.Load()
		// What is stuck is found by who asks; then all is well.
		well.Store(true)
		var few, strict bystanders
		few.start(t, c, 16, callTimeout/10, allowed...)
		time.Sleep(2 * callTimeout)
		few.end()
		strict.start(t, c, 16, callTimeout/100)
		time.Sleep(callTimeout / 4)
		strict.end()
		if n := twice.Load(); n != 0 {
			t.Errorf("%d changes were sent twice", n)
		}
	})
	if !t.Failed() {
		t.Attr("measured", fmt.Sprintf("%d calls, %d faults: %d calls answered right, %d with a clear error, none wrong", asked, spoiled, asked-failed, failed))
	}
}
