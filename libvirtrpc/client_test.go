package libvirtrpc_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// start runs a client on a scripted daemon until the test ends.
func start(t testing.TB, d *rpctest.Daemon, change func(*libvirtrpc.Options), before ...func(*libvirtrpc.Client)) *libvirtrpc.Client {
	t.Helper()
	o := libvirtrpc.Options{Dial: d.Dial, URI: "test:///default", Connections: 1, PingInterval: -1, OutageWait: 10 * time.Second}
	if change != nil {
		change(&o)
	}
	c, err := libvirtrpc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range before {
		f(c)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		until(t, "all connections closed", func() bool { return d.Open() == 0 })
		d.Close()
	})
	return c
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 10 s: " + what)
		}
	}
}

func wantKind(t testing.TB, err error, kind libvirtrpc.Kind) *libvirtrpc.Error {
	t.Helper()
	var e *libvirtrpc.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got %v (%v), want kind %v", err, libvirtrpc.KindOf(err), kind)
	}
	return e
}

var (
	vm1 = libvirtrpc.UUID{1}
	vm2 = libvirtrpc.UUID{2}
)

// No connection ever has more than four calls, and all of them are answered.
func TestFourCallsOnAConnection(t *testing.T) {
	release := make(chan struct{})
	var mu sync.Mutex
	now, most := map[any]int{}, 0
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		mu.Lock()
		now[r.Conn]++
		most = max(most, now[r.Conn])
		mu.Unlock()
		<-release
		mu.Lock()
		now[r.Conn]--
		mu.Unlock()
		r.Reply(libvirt.ConnectGetLibVersionRet{LibVer: 9000000})
	})
	c := start(t, d, func(o *libvirtrpc.Options) { o.Connections = 2 })
	until(t, "two connections", func() bool { open, _, _ := c.Load(); return open == 2 })
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			if err := c.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "8 calls under way and 32 waiting", func() bool {
		_, flying, waiting := c.Load()
		mu.Lock()
		defer mu.Unlock()
		have := 0
		for _, n := range now {
			have += n
		}
		return flying == 8 && waiting == 32 && have == 8
	})
	close(release)
	wg.Wait()
	if most != 4 {
		t.Errorf("up to %d calls on one connection, want 4", most)
	}
	until(t, "all places are given back", func() bool {
		_, flying, waiting := c.Load()
		return flying == 0 && waiting == 0
	})
}

// A connection that was replaced is kept while a call to a hung QEMU waits on
// it: closing it would give back the gate's place and not the daemon's worker.
func TestReplacedConnectionKeepsTheGate(t *testing.T) {
	answer := make(chan struct{})
	conns := make(chan any, 4)
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		conns <- r.Conn
		<-answer
		if r.Proc == "DomainSuspend" {
			r.Reply(nil)
			return
		}
		r.Reply(libvirt.ConnectGetLibVersionRet{})
	})
	c := start(t, d, func(o *libvirtrpc.Options) {
		o.CallTimeout, o.ChangeTimeout = 100*time.Millisecond, 100*time.Millisecond
	}, func(c *libvirtrpc.Client) { c.Linger(time.Millisecond) })
	var wg sync.WaitGroup
	for _, vm := range []libvirtrpc.UUID{vm1, vm2} {
		wg.Go(func() { wantKind(t, c.Suspend(t.Context(), vm), libvirtrpc.NoAnswer) })
	}
	wg.Wait()
	until(t, "another connection", func() bool { return d.Dials() == 2 })
	hung := <-conns
	<-conns
	// Its time is over before that of the next one, whose calls have no place.
	for range 2 {
		wg.Go(func() { wantKind(t, c.Ready(t.Context()), libvirtrpc.NoAnswer) })
	}
	wg.Wait()
	other := <-conns
	until(t, "the end of the connection whose calls hold nothing", func() bool { return !d.IsOpen(other) })
	if !d.IsOpen(hung) {
		t.Error("the connection of the hung calls was closed")
	}
	close(answer)
	until(t, "the end of the connection when its calls are answered", func() bool { return !d.IsOpen(hung) })
}

// Who does not fit into the queue hears so at once.
func TestQueueIsBounded(t *testing.T) {
	release := make(chan struct{})
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		<-release
		r.Reply(libvirt.ConnectGetLibVersionRet{})
	})
	c := start(t, d, func(o *libvirtrpc.Options) { o.Queue = 3 })
	until(t, "a connection", func() bool { open, _, _ := c.Load(); return open == 1 })
	var wg sync.WaitGroup
	for range 7 {
		wg.Go(func() {
			if err := c.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "a full queue", func() bool { _, _, waiting := c.Load(); return waiting == 3 })
	wantKind(t, c.Ready(t.Context()), libvirtrpc.Busy)
	close(release)
	wg.Wait()
}

// A connection that ends under a read: it is made again. Under a change: never.
func TestOnlyReadsAreRepeated(t *testing.T) {
	d := rpctest.NewDaemon(func(r *rpctest.Request) { r.Hangup() })
	c := start(t, d, nil)
	wantKind(t, c.Ready(t.Context()), libvirtrpc.Lost)
	if n := d.Calls("ConnectGetLibVersion"); n != 2 {
		t.Errorf("a read was sent %d times, want 2", n)
	}
	if e := wantKind(t, c.Reset(t.Context(), vm1), libvirtrpc.Lost); !e.OutcomeUnknown {
		t.Errorf("the outcome is not said to be unknown: %v", e)
	}
	if n := d.Calls("DomainReset"); n != 1 {
		t.Errorf("a change was sent %d times", n)
	}
}

// A caller that goes away is let go at once.
func TestCancel(t *testing.T) {
	got, release := make(chan struct{}), make(chan struct{})
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		close(got)
		<-release
	})
	c := start(t, d, nil)
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Ready(ctx) }()
	<-got
	cancel()
	select {
	case err := <-ended:
		wantKind(t, err, libvirtrpc.NoAnswer)
	case <-time.After(5 * time.Second):
		t.Fatal("still waiting")
	}
}

// A domain whose monitor does not answer is left alone, the others are not; it
// is asked again when it has answered.
func TestHungMonitor(t *testing.T) {
	answer := make(chan struct{})
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		if a, ok := r.Args.(libvirt.DomainSuspendArgs); ok && a.Dom.UUID == libvirt.UUID(vm1) {
			<-answer
		}
		r.Reply(nil)
	})
	c := start(t, d, func(o *libvirtrpc.Options) { o.ChangeTimeout = 300 * time.Millisecond })
	if e := wantKind(t, c.Suspend(t.Context(), vm1), libvirtrpc.NoAnswer); !e.OutcomeUnknown {
		t.Error("the outcome is not said to be unknown")
	}
	began := time.Now()
	for range 5 {
		if e := wantKind(t, c.Resume(t.Context(), vm1), libvirtrpc.NoAnswer); e.OutcomeUnknown {
			t.Error("it was sent to a hung domain")
		}
		if err := c.Suspend(t.Context(), vm2); err != nil {
			t.Error(err)
		}
	}
	if n := d.Calls("DomainResume"); n != 0 || time.Since(began) > 5*time.Second {
		t.Errorf("%d calls to the hung domain, in %s", n, time.Since(began))
	}
	close(answer)
	until(t, "the domain is asked again", func() bool { return c.Resume(t.Context(), vm1) == nil })
}

// Equal lists share their calls, and nobody is answered from before he asked.
func TestRoundsAreShared(t *testing.T) {
	var version atomic.Int32
	begun, goOn := make(chan int32, 64), make(chan struct{})
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		v := version.Load()
		begun <- v
		<-goOn
		r.Reply(libvirt.ConnectListAllDomainsRet{Domains: []libvirt.Domain{{Name: "vm", ID: v}}, Ret: 1})
	})
	c := start(t, d, nil)
	list := func() int32 {
		ds, err := c.ListDomains(t.Context(), libvirtrpc.ListQuery{})
		if err != nil || len(ds) != 1 {
			t.Errorf("%v %v", ds, err)
			return -1
		}
		return ds[0].ID
	}
	var wg sync.WaitGroup
	wg.Go(func() { list() })
	<-begun
	// A round is under way. What happens now, the next ones have to see.
	version.Store(7)
	for range 31 {
		wg.Go(func() {
			if got := list(); got != 7 {
				t.Errorf("answered with state %d, from before the request", got)
			}
		})
	}
	until(t, "all of them ask", func() bool { return c.Asking() == 32 })
	close(goOn)
	wg.Wait()
	if n := d.Calls("ConnectListAllDomains"); n != 2 {
		t.Errorf("%d calls for 32 lists, want 2", n)
	}
}

// What cannot be dialled is said with what to do.
func TestDialerSaysWhatToDo(t *testing.T) {
	dial, uri, err := libvirtrpc.Dialer("qemu:///system", "/nonexistent/sock")
	if err != nil || uri != "qemu:///system" {
		t.Fatal(uri, err)
	}
	if _, err := dial(t.Context()); err == nil || !strings.Contains(err.Error(), "/nonexistent/sock: no such file") {
		t.Errorf("%v", err)
	}
	for bad, want := range map[string]string{
		"":                   "no driver",
		"qemu+pigeon://h/":   "pigeon",
		"qemu+unix://h/":     "host",
		"qemu+ssh:///system": "needs a host",
		"qemu:///%zz":        "libvirt URI",
	} {
		if _, _, err := libvirtrpc.Dialer(bad, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
	}
}

func TestParseUUID(t *testing.T) {
	const want = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	for _, s := range []string{want, strings.ToUpper(want), strings.ReplaceAll(want, "-", "")} {
		if u, err := libvirtrpc.ParseUUID(s); err != nil || u.String() != want {
			t.Errorf("%s: %s, %v", s, u, err)
		}
	}
	for _, s := range []string{"", "14", want + "0", want[:35], "6695eb01f-6a4-8304-79aa-97f2502e193f", strings.Replace(want, "6", "g", 1)} {
		if u, err := libvirtrpc.ParseUUID(s); err == nil {
			t.Errorf("%q is %s", s, u)
		}
	}
}
