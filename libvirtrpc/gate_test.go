package libvirtrpc_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"

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
		if r.Proc == "ConnectGetLibVersion" {
			r.Reply(libvirt.ConnectGetLibVersionRet{LibVer: 9000000})
			return
		}
		r.Reply(nil)
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
