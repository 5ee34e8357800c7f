package libvirtrpc_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// noLeak checks at the end of the test that as many goroutines run as now.
func noLeak(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
			}
		}
	})
}

// listen makes the daemon's socket, without the file of an earlier one.
func listen(t *testing.T, path string) net.Listener {
	t.Helper()
	os.Remove(path)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// deaf listens with room for one connection, which is taken: a libvirtd that
// was stopped for so long that its queue is full.
func deaf(t *testing.T, path string) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		t.Cleanup(func() { syscall.Close(fd) })
		err = syscall.Bind(fd, &syscall.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = syscall.Listen(fd, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c, err := net.Dial("unix", path)
		if err != nil {
			return
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue has no end")
}

// Real sockets, on which no daemon answers: calls end, and the first one after
// the daemon has come is served.
func TestProveSocket(t *testing.T) {
	// A call waits longer than the longest pause between two attempts.
	const outage, attempt = 2 * time.Second, 500 * time.Millisecond
	t.Attr("case", "libvirtd's socket: gone, left behind, no socket, its queue full, nobody accepts, silent, closing at once")
	t.Attr("promised", fmt.Sprintf("a call ends after %s and nothing was sent; the first one after the daemon has come is served", outage))
	cases := []struct {
		name    string
		prepare func(t *testing.T, path string)
	}{
		{"gone", func(*testing.T, string) {}},
		{"left behind by a dead daemon", func(t *testing.T, path string) {
			l := listen(t, path).(*net.UnixListener)
			l.SetUnlinkOnClose(false)
			l.Close()
		}},
		{"no socket but a file", func(t *testing.T, path string) {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"its queue full", deaf},
		{"nobody accepts", func(t *testing.T, path string) { listen(t, path) }},
		{"silent", func(t *testing.T, path string) {
			serve(t, path, func(d *rpctest.Daemon) { d.Handshake = func(*rpctest.Request, []byte) {} })
		}},
		{"closing at once", func(t *testing.T, path string) { serve(t, path, (*rpctest.Daemon).Down) }},
	}
	var mu sync.Mutex
	var ends, served time.Duration // the longest of each
	noLeak(t)
	var wg sync.WaitGroup
	for _, c := range cases {
		wg.Go(func() {
			t.Run(c.name, func(t *testing.T) {
				dir, err := os.MkdirTemp("", "vg") // short: a socket's path has 108 bytes
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { os.RemoveAll(dir) })
				path := filepath.Join(dir, "sock")
				c.prepare(t, path)
				dial, _, err := libvirtrpc.Dialer("test:///default", path)
				if err != nil {
					t.Fatal(err)
				}
				client := start(t, rpctest.NewDaemon(nil), func(o *libvirtrpc.Options) {
					o.Dial, o.OutageWait, o.ConnectTimeout, o.Connections = dial, outage, attempt, 4
				})
				began := time.Now()
				if e := wantKind(t, client.Reset(t.Context(), vm1), libvirtrpc.Unavailable); e.OutcomeUnknown {
					t.Error("nothing was sent, and the outcome is said to be unknown")
				}
				end := time.Since(began)
				if end < outage || end > outage+5*time.Second {
					t.Errorf("the end after %s", end)
				}
				serve(t, path, func(*rpctest.Daemon) {})
				began = time.Now()
				if err := client.Ready(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				ends, served = max(ends, end), max(served, time.Since(began))
			})
		})
	}
	wg.Wait()
	if !t.Failed() {
		t.Attr("measured", fmt.Sprintf("%d cases: the end after %d ms at most, served %d ms after the daemon came at most", len(cases), ends.Milliseconds(), served.Milliseconds()))
	}
}

// serve is a daemon on a unix socket, until the end of the test.
func serve(t *testing.T, path string, change func(*rpctest.Daemon)) {
	t.Helper()
	d := rpctest.NewDaemon(version)
	change(d)
	l := listen(t, path)
	d.Serve(l)
	t.Cleanup(func() { l.Close(); d.Close() })
}
