package libvirtrpc_test

import (
	"context"
	"net"
	"testing"
	"time"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// readHook calls before when its n-th Read begins.
type readHook struct {
	net.Conn
	n      int
	before func()
}

func (h *readHook) Read(p []byte) (int, error) {
	if h.n--; h.n == 0 {
		h.before()
	}
	return h.Conn.Read(p)
}

// Time is up at the moment when the handshake succeeds: the library's reader
// must not hear of the end before ConnectToURI has returned. What goes wrong
// otherwise only the race detector sees.
func TestHandshakeEndsInTime(t *testing.T) {
	for range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		d := rpctest.NewDaemon(func(r *rpctest.Request) {})
		c, err := libvirtrpc.New(libvirtrpc.Options{
			URI: "test:///default", Connections: 1, PingInterval: -1,
			Dial: func(ctx context.Context) (net.Conn, error) {
				raw, err := d.Dial(ctx)
				// The third read begins when the answer to the second call, the
				// last of the handshake, was given to who waits for it.
				return &readHook{raw, 3, cancel}, err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the client does not end")
		}
		d.Close()
	}
}

// A call whose time is up sooner than OutageWait hears as well that there is no
// connection, not that there is no place on it.
func TestShortDeadlineInAnOutage(t *testing.T) {
	d := rpctest.NewDaemon(func(r *rpctest.Request) {})
	d.Down()
	c := start(t, d, func(o *libvirtrpc.Options) { o.CallTimeout = 100 * time.Millisecond })
	wantKind(t, c.Ready(t.Context()), libvirtrpc.Unavailable)
}
