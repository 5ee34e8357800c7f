package libvirtrpc_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// However many ask whether the daemon answers, they have one place on the
// connections, and nobody is told of an answer from before he asked.
func TestAnswersIsShared(t *testing.T) {
	var down atomic.Bool
	begun, goOn := make(chan struct{}, 64), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		fails := down.Load()
		begun <- struct{}{}
		<-goOn
		if fails {
			r.Error(int32(libvirt.ErrOperationFailed), "down")
			return
		}
		r.Reply(libvirt.ConnectGetLibVersionRet{})
	})
	c := start(t, d, nil)
	defer release() // the daemon's end waits for its calls
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	wg.Go(func() { wantKind(t, c.Answers(ctx), libvirtrpc.NoAnswer) })
	<-begun
	down.Store(true)
	for range 100 {
		wg.Go(func() {
			if err := c.Answers(t.Context()); libvirtrpc.KindOf(err) != libvirtrpc.Failed || err == nil {
				t.Errorf("told of the answer from before, or of none: %v", err)
			}
		})
	}
	until(t, "all ask", func() bool { return c.AskingReady() == 101 })
	cancel() // one goes away; the others are answered
	until(t, "one went", func() bool { return c.AskingReady() == 100 })
	if _, flying, waiting := c.Load(); flying != 1 || waiting != 0 {
		t.Errorf("%d calls under way, %d waiting", flying, waiting)
	}
	release()
	wg.Wait()
	if n := d.Calls("ConnectGetLibVersion"); n != 2 {
		t.Errorf("%d calls for 101 askers", n)
	}
}

// failing is a connection that ends as one to a remote host does: with its
// addresses in the error.
type failing struct {
	net.Conn
	broken *atomic.Bool
}

func (f failing) Write(p []byte) (int, error) {
	if f.broken.Load() {
		f.Conn.Close()
		return 0, &net.OpError{Op: "write", Net: "unix", Addr: &net.UnixAddr{Net: "unix", Name: "/run/secret-sock"}, Err: errors.New("broken pipe")}
	}
	return f.Conn.Write(p)
}

// What a lost connection says names no socket and no host: it goes to clients.
func TestLostSaysNoAddress(t *testing.T) {
	d := rpctest.NewDaemon(func(r *rpctest.Request) { r.Reply(libvirt.ConnectGetLibVersionRet{}) })
	var broken atomic.Bool
	c := start(t, d, func(o *libvirtrpc.Options) {
		o.Connections = 2 // a read has a second try
		dial := o.Dial
		o.Dial = func(ctx context.Context) (net.Conn, error) {
			conn, err := dial(ctx)
			return failing{conn, &broken}, err
		}
	})
	until(t, "two connections", func() bool { open, _, _ := c.Load(); return open == 2 })
	broken.Store(true)
	if e := wantKind(t, c.Ready(t.Context()), libvirtrpc.Lost); strings.Contains(e.Message, "secret") {
		t.Error(e)
	}
}
