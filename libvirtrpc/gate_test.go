package libvirtrpc_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/libvirtrpc/wire"
)

// hungDaemon is a daemon whose guests do not answer a reset, but for those that
// are well, until all do.
func hungDaemon(well ...libvirtrpc.UUID) (d *rpctest.Daemon, goOn func()) {
	answer := make(chan struct{})
	d = rpctest.NewDaemon(func(r *rpctest.Request) {
		if a, ok := r.Args.(libvirt.DomainResetArgs); ok {
			hung := true
			for _, u := range well {
				hung = hung && a.Dom.UUID != libvirt.UUID(u)
			}
			if hung {
				<-answer
			}
		}
		switch r.Proc {
		case "ConnectGetLibVersion":
			r.Reply(libvirt.ConnectGetLibVersionRet{LibVer: 9000000})
		case "DomainHasManagedSaveImage":
			r.Reply(libvirt.DomainHasManagedSaveImageRet{Result: 1})
		case "DomainSnapshotNum":
			r.Reply(libvirt.DomainSnapshotNumRet{})
		case "DomainListAllCheckpoints":
			r.Error(int32(libvirt.ErrNoSupport), "not here")
		default:
			r.Reply(nil)
		}
	})
	return d, sync.OnceFunc(func() { close(answer) })
}

func guest(n int) libvirtrpc.UUID { return libvirtrpc.UUID{0xff, byte(n)} }

// hang asks the guests from and to-1 for what they do not answer, all at once.
func hang(t *testing.T, c *libvirtrpc.Client, from, to int) {
	var wg sync.WaitGroup
	for n := from; n < to; n++ {
		wg.Go(func() { wantKind(t, c.Reset(t.Context(), guest(n)), libvirtrpc.NoAnswer) })
	}
	wg.Wait()
}

// Twenty hung guests, as many as libvirtd has workers: ten are asked, the others
// hear at once that it makes no sense; who was in use is served as before, and
// so is what needs no guest.
func TestManyHungGuests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, goOn := hungDaemon(vm1, vm2)
		c := start(t, d, func(o *libvirtrpc.Options) { o.Connections = 4 })
		defer goOn()
		if err := c.Reset(t.Context(), vm1); err != nil {
			t.Fatal(err)
		}
		hang(t, c, 0, 20)
		if n := d.Calls("DomainReset") - 1; n != 10 {
			t.Errorf("%d calls to hung guests, want 10", n)
		}
		began := time.Now()
		for n := range 20 {
			if e := wantKind(t, c.Reset(t.Context(), guest(n)), libvirtrpc.NoAnswer); e.OutcomeUnknown {
				t.Errorf("guest %d was asked again", n)
			}
		}
		// Nothing is known of this one.
		wantKind(t, c.Reset(t.Context(), vm2), libvirtrpc.NoAnswer)
		if took := time.Since(began); took != 0 {
			t.Errorf("known after %s", took)
		}
		if err := c.Ready(t.Context()); err != nil {
			t.Error(err)
		}
		for range 10 {
			if err := c.Reset(t.Context(), vm1); err != nil {
				t.Error(err)
			}
			time.Sleep(30 * time.Second) // it is in use
		}
		goOn()
		for n := range 20 {
			until(t, "the guest is asked again", func() bool { return c.Reset(t.Context(), guest(n)) == nil })
		}
	})
}

// However long guests hang, those that have been asked keep their places:
// libvirtd's workers wait for them as long.
func TestGuestsThatHangForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, goOn := hungDaemon()
		c := start(t, d, func(o *libvirtrpc.Options) { o.Connections = 4 })
		defer goOn()
		hang(t, c, 0, 10)
		for range 20 {
			time.Sleep(time.Minute)
			hang(t, c, 0, 20)
		}
		if n := d.Calls("DomainReset"); n != 10 {
			t.Errorf("%d calls to hung guests, want 10", n)
		}
	})
}

// With few connections hung guests leave places too.
func TestHungGuestsOnOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, goOn := hungDaemon()
		c := start(t, d, nil)
		defer goOn()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() { wantKind(t, c.Reset(ctx, guest(n)), libvirtrpc.NoAnswer) })
		}
		synctest.Wait()
		began := time.Now()
		if err := c.Ready(t.Context()); err != nil || time.Since(began) != 0 {
			t.Errorf("beside hung guests: %v after %s", err, time.Since(began))
		}
		cancel()
		wg.Wait()
	})
}

// Whatever waits for the lock of a hung guest is not sent either; what ends the
// guest is, and then the rest.
func TestLockOfAHungGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, goOn := hungDaemon()
		c := start(t, d, nil)
		defer goOn()
		hang(t, c, 1, 2)
		u, ctx := guest(1), t.Context()
		changes := map[string]func() error{
			"DomainSetAutostart":   func() error { return c.SetAutostart(ctx, u, true) },
			"DomainRename":         func() error { return c.Rename(ctx, u, "b") },
			"DomainSetMemoryFlags": func() error { return c.SetMaxMemory(ctx, u, 1024) },
			"DomainUndefineFlags":  func() error { return c.Undefine(ctx, u, 0) },
			"DomainGetXMLDesc":     func() error { _, err := c.DomainXML(ctx, u, 0); return err },
		}
		for proc, change := range changes {
			if e := wantKind(t, change(), libvirtrpc.NoAnswer); e.OutcomeUnknown || d.Calls(proc) != 0 {
				t.Errorf("%s was sent to a hung guest: %v", proc, e)
			}
		}
		// What a deletion looks at before it stops the guest, as far as can be.
		if l, err := c.Leftovers(ctx, u); err != nil || !l.ManagedSave {
			t.Errorf("leftovers: %+v, %v", l, err)
		}
		if err := c.Destroy(ctx, u, false); err != nil {
			t.Fatal(err)
		}
		goOn() // libvirt answers what waited for a QEMU that is gone
		if err := c.Undefine(ctx, u, 0); err != nil {
			t.Errorf("after the guest was destroyed: %v", err)
		}
	})
}

// noPing is a connection to a daemon that reads no PINGs.
type noPing struct{ net.Conn }

func (c noPing) Write(p []byte) (int, error) {
	if f, err := wire.ParseFrame(p); err == nil && f.Program == wire.KeepaliveProgram {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// A daemon that runs two calls of one connection at once is silent while both
// wait for hung guests: that is no death.
func TestSilenceOfABusyDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, goOn := hungDaemon()
		c := start(t, d, func(o *libvirtrpc.Options) {
			o.PingInterval = 0 // the default
			o.Dial = func(ctx context.Context) (net.Conn, error) {
				c, err := d.Dial(ctx)
				return noPing{c}, err
			}
		})
		defer goOn()
		hang(t, c, 0, 2)
	})
}
