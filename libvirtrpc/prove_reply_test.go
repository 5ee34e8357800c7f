package libvirtrpc_test

import (
	"context"
	"crypto/md5"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// The daemons of these proofs answer a question for a name with the UUID that
// belongs to it: who gets the answer to somebody else's question notices.
func uuidOf(name string) libvirtrpc.UUID { return md5.Sum([]byte(name)) }

// goodAnswer is the payload that answers a lookup by name and a definition,
// whose XML is the name here.
func goodAnswer(r *rpctest.Request) []byte {
	var name string
	switch a := r.Args.(type) {
	case libvirt.DomainLookupByNameArgs:
		name = a.Name
	case libvirt.DomainDefineXMLFlagsArgs:
		name = a.XML
	default:
		panic("nobody asks for " + r.Proc)
	}
	payload, err := xdr.Encode(libvirt.DomainLookupByNameRet{Dom: libvirt.Domain{Name: name, UUID: libvirt.UUID(uuidOf(name)), ID: 7}})
	if err != nil {
		panic(err)
	}
	return payload
}

// right tells whether the answer is the one to the question.
func right(d libvirtrpc.Domain, name string) bool {
	return d.Name == name && d.UUID == uuidOf(name) && d.ID == 7
}

// bystanders ask one question after the other until they are told to stop, and
// count what came of them.
type bystanders struct {
	wg     sync.WaitGroup
	stop   atomic.Bool
	asked  atomic.Int64
	errors atomic.Int64 // of a kind that is allowed
}

func (b *bystanders) start(t testing.TB, c *libvirtrpc.Client, n int, pause time.Duration, allowed ...libvirtrpc.Kind) {
	t.Cleanup(b.end)
	for i := range n {
		b.wg.Go(func() {
			for k := 0; !b.stop.Load(); k++ {
				name := fmt.Sprintf("bystander %d, question %d", i, k)
				d, err := c.Lookup(context.Background(), libvirtrpc.ByName(name))
				b.asked.Add(1)
				switch {
				case err != nil && slices.Contains(allowed, libvirtrpc.KindOf(err)):
					b.errors.Add(1)
				case err != nil || !right(d, name):
					t.Errorf("%s: %+v, %v", name, d, err)
					return
				}
				time.Sleep(pause)
			}
		})
	}
}

func (b *bystanders) end() {
	b.stop.Store(true)
	b.wg.Wait()
}

// outcome is what the caller of a call with a fault gets.
type outcome int

const (
	answered    outcome = iota // the right answer, on the same connection
	ended                      // the connection ends: a read is repeated, a change is not
	notAnswered                // the deadline
)

// spoil makes one call among others, whose answer is spoiled once, and checks
// what becomes of all of them. It returns how many others there were.
func spoil(t *testing.T, f fault, change bool, want outcome) (others int64) {
	synctest.Test(t, func(t *testing.T) {
		var spoiled atomic.Bool
		const victim = "victim"
		d := rpctest.NewDaemon(func(r *rpctest.Request) {
			good := r.Frame(goodAnswer(r))
			about, _ := r.Args.(libvirt.DomainLookupByNameArgs)
			if (about.Name == victim || r.Proc == "DomainDefineXMLFlags") && spoiled.CompareAndSwap(false, true) {
				f.send(r, good)
				return
			}
			r.Raw(good.AppendTo(nil))
		})
		c := start(t, d, func(o *libvirtrpc.Options) { o.CallTimeout, o.ChangeTimeout = callTimeout, callTimeout })
		until(t, "a connection", func() bool { open, _, _ := c.Load(); return open == 1 })
		var allowed []libvirtrpc.Kind
		if f.swallows {
			allowed = append(allowed, libvirtrpc.NoAnswer)
		}
		var b bystanders
		b.start(t, c, 4, callTimeout/50, allowed...)
		time.Sleep(callTimeout / 20)

		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		ask, proc := func() (libvirtrpc.Domain, error) { return c.Lookup(t.Context(), libvirtrpc.ByName(victim)) }, "DomainLookupByName"
		if change {
			ask, proc = func() (libvirtrpc.Domain, error) { return c.Define(t.Context(), victim, false) }, "DomainDefineXMLFlags"
		}
		got, err := ask()
		took := time.Since(began)
		runtime.ReadMemStats(&after)

		switch {
		case want == answered, want == ended && !change:
			if err != nil || !right(got, victim) {
				t.Errorf("got %+v, %v", got, err)
			}
		case want == ended:
			if e := wantKind(t, err, libvirtrpc.Lost); !e.OutcomeUnknown {
				t.Errorf("the outcome is not said to be unknown: %v", e)
			}
		case want == notAnswered:
			if e := wantKind(t, err, libvirtrpc.NoAnswer); e.OutcomeUnknown != change || took != callTimeout {
				t.Errorf("after %s: outcome unknown %v, %v", took, e.OutcomeUnknown, e)
			}
		}
		if n := d.Calls(proc); change && n != 1 {
			t.Errorf("a change was sent %d times", n)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 {
			t.Errorf("%d bytes were allocated", n)
		}
		// All goes on: on the same connection, or on one more.
		time.Sleep(callTimeout / 5)
		if want == notAnswered {
			time.Sleep(callTimeout / 5) // the late answer comes
		}
		b.end()
		dials := 1
		if want == ended || f.swallows {
			dials = 2
		}
		if n := d.Dials(); n != dials {
			t.Errorf("%d connections were opened, want %d", n, dials)
		}
		if got, err := c.Lookup(t.Context(), libvirtrpc.ByName("after")); err != nil || !right(got, "after") {
			t.Errorf("afterwards: %+v, %v", got, err)
		}
		others = b.asked.Load()
	})
	return others
}

// row runs faults that all end alike, each on a read and on a change, and is
// one row of the table of proofs.
func row(t *testing.T, name, promised string, want outcome, faults []fault) {
	t.Run(name, func(t *testing.T) {
		t.Attr("case", "answers of libvirtd: "+name)
		t.Attr("promised", promised)
		var others int64
		for _, f := range faults {
			for _, change := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, change %v", f.name, change), func(t *testing.T) { others += spoil(t, f, change, want) })
			}
		}
		if !t.Failed() {
			t.Attr("measured", fmt.Sprintf("%d faults, each on a read and on a change; %d other calls meanwhile, none with a wrong answer", len(faults), others))
		}
	})
}

func TestProveReplies(t *testing.T) {
	row(t, "doubled, late, in pieces, among frames that nobody asked for",
		"the right answer, on the same connection", answered, harmless)
	row(t, "with a wrong length, program, version, procedure, type, status or layout",
		"the connection ends; reads get the right answer from the next one, changes are sent once and their outcome is said to be unknown", ended, deadly)
	good := goodAnswer(&rpctest.Request{Args: libvirt.DomainLookupByNameArgs{Name: "victim"}})
	var cut []fault
	for n := range good {
		cut = append(cut, cutPayload(n))
	}
	for n := range wire.HeaderLen + len(good) {
		cut = append(cut, cutFrame(n))
	}
	row(t, "cut after every byte",
		"the connection ends; reads get the right answer from the next one, changes are sent once and their outcome is said to be unknown", ended, cut)
	row(t, "missing, to somebody else, or too late",
		"the call ends exactly at its deadline, a late answer is for nobody, other calls go on", notAnswered, mute)
}
