// Package libvirtrpc is everything that knows libvirt: a pool of connections
// that speak its wire protocol, and one method of Client for each thing that
// can be asked. Every method takes a context and ends with it.
//
// It, and the packages below it, are the only importers of go-libvirt.
package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sync/errgroup"

	"virtgate/libvirtrpc/wire"
)

// Options are what a Client needs. The zero value of each field but Dial and
// URI means its default.
type Options struct {
	// Dial opens a connection to the daemon's socket; see Dialer.
	Dial func(context.Context) (net.Conn, error)
	// URI is what the daemon is asked to open, in libvirt's spelling without a
	// transport: qemu:///system.
	URI string

	Connections int // kept open; default 4
	Queue       int // calls that may wait for a place on them; default 2048
	// Pipeline is how many calls of one request run side by side; default 4
	// for each connection.
	Pipeline int

	CallTimeout    time.Duration // of one read; default 10 s
	ChangeTimeout  time.Duration // of one change; default 60 s
	ConnectTimeout time.Duration // of opening a connection; default 5 s
	// OutageWait is how long a call waits for a connection when there is none;
	// default 3 s, six times the longest pause between two attempts to open one.
	OutageWait time.Duration
	// PingInterval is the pause between two signs of life asked of the daemon;
	// default 5 s, negative for none.
	PingInterval time.Duration

	// Observe is told of every call when it is over, also of one that was given
	// up or never sent. It is called from many goroutines and must not wait.
	Observe func(context.Context, Call)
	// Tap sees every frame of every connection; recording uses it.
	Tap func(wire.Direction, []byte)
	Log *slog.Logger // default: nowhere
}

func (o *Options) setDefaults() {
	def(&o.Connections, 4)
	def(&o.Queue, 2048)
	def(&o.Pipeline, 4*o.Connections)
	def(&o.CallTimeout, 10*time.Second)
	def(&o.ChangeTimeout, 60*time.Second)
	def(&o.ConnectTimeout, 5*time.Second)
	def(&o.OutageWait, 3*time.Second)
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Client answers questions about one libvirt daemon. Its methods work while
// Run does.
type Client struct {
	opts    *Options
	pool    *pool
	gate    *gate
	osTypes definitions[string]
	lists   rounds[listKey, []Domain]
	host    hostCache
	// changeTimeout is Options.ChangeTimeout, or what it was changed to.
	changeTimeout atomic.Int64
	hosts         rounds[struct{}, *Host]
	ready         rounds[struct{}, struct{}]

	stats        rounds[time.Duration, *HostStats]
	descriptions definitions[description]
	storagePools atomic.Pointer[[]string] // the names last seen

	calls sync.WaitGroup // calls in flight, and rounds
}

// New makes a Client. Nothing is opened before Run.
func New(o Options) (*Client, error) {
	if o.Dial == nil || o.URI == "" {
		return nil, errors.New("a libvirt client needs Dial and URI")
	}
	o.setDefaults()
	c := &Client{opts: &o, gate: newGate()}
	c.SetChangeTimeout(o.ChangeTimeout)
	c.stats.join = true
	c.pool = newPool(&o, c.lifecycleEvent, c.connectionsChanged)
	return c, nil
}

// Run keeps the connections until ctx ends, and returns when every call has
// ended.
func (c *Client) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.pool.Run(ctx) })
	err := g.Wait()
	c.calls.Wait()
	return err
}

// connectionsChanged hears that a connection came or went; first is the first
// one after there was none.
func (c *Client) connectionsChanged(first bool) {
	c.osTypes.clear() // events may have been missed
	c.descriptions.clear()
	if first {
		c.host.clear() // the daemon may be another one
	}
}

// background runs fn on a goroutine that Run waits for.
func (c *Client) background(fn func()) {
	c.calls.Add(1)
	go func() {
		defer c.calls.Done()
		fn()
	}()
}

// Ready makes one small call, to see that the daemon answers now
// (virConnectGetLibVersion).
func (c *Client) Ready(ctx context.Context) error {
	_, err := call(ctx, c, op{name: "ConnectGetLibVersion"}, (*libvirt.Libvirt).ConnectGetLibVersion)
	return err
}

// Answers is Ready for any number of askers at once, who need not be known: they
// share calls as equal lists do, so that all of them together have one place on
// the connections.
func (c *Client) Answers(ctx context.Context) error {
	_, err := c.ready.get(ctx, struct{}{}, c.background, func() (struct{}, error) {
		return struct{}{}, c.Ready(context.WithoutCancel(ctx))
	})
	return err
}

// SetChangeTimeout sets the time of one change, for those that come from now on.
func (c *Client) SetChangeTimeout(d time.Duration) { c.changeTimeout.Store(int64(d)) }

func (c *Client) changeLimit() time.Duration { return time.Duration(c.changeTimeout.Load()) }

// Alive tells whether the pool is still looked after: whether its connections,
// or the attempts to open them, have had their turn within a time. It says
// nothing about the daemon.
func (c *Client) Alive(within time.Duration) error {
	c.State() // the pool's lock is to be had
	if idle := c.pool.idle(); idle > within {
		return fmt.Errorf("nobody has looked after the libvirt connections for %s", idle.Round(time.Second))
	}
	return nil
}

// Load is the state of the pool: open connections, calls in flight, calls
// waiting.
func (c *Client) Load() (open, inFlight, waiting int) {
	s := c.State()
	return s.Open, s.InFlight, s.Waiting
}
