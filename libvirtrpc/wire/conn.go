package wire

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	readBuffer = 32 << 10 // bytes; frames up to this size are not copied
	keepBuffer = 64 << 10 // bytes of the buffer for writes that are kept between frames

	defaultPingInterval = 5 * time.Second
	defaultPingMisses   = 3
	defaultBusyCalls    = 5 // max_client_requests of libvirtd.conf
)

// Options are the settings of a Conn. The zero value is usable.
type Options struct {
	// MaxFrame is the longest frame in bytes, length word included, that is
	// taken from either side. Default (and sensible maximum): MaxFrame.
	MaxFrame uint32
	// PingInterval is the time between two PINGs. 0 is 5 s, negative none.
	PingInterval time.Duration
	// PingMisses is how many PINGs in a row go unanswered before the
	// connection is given up. Default 3.
	PingMisses int
	// BusyCalls is with how many calls in flight a daemon stops reading from a
	// connection, PINGs included, so that its silence means nothing. Default 5,
	// as max_client_requests of libvirtd.
	BusyCalls int
	// Tap sees every whole frame just before it is sent and just after it
	// arrived, whatever becomes of it, one at a time; a call always comes before
	// its reply. It must not keep or change the slice, nor call the Conn.
	Tap func(Direction, []byte)
	// Message takes the events. If set, they do not reach the library. It owns
	// the payload, which is not checked in any way. It is called by Read and
	// must not block. If nil, events go to the library unchecked.
	Message func(Frame)
	// Check validates the payload of a reply with StatusOK before the library
	// decodes it. Its error ends the connection. It must not keep the slice.
	Check func(Header, []byte) error

	tick <-chan time.Time // in tests instead of a ticker
}

// Conn is a net.Conn that carries libvirt's frames. One goroutine may Read
// while others Write; frames from different writers must not be mixed by the
// writers.
//
// It has two goroutines of its own, which end when the connection does.
type Conn struct {
	raw  net.Conn
	opts Options

	done chan struct{} // closed when the connection is over, err is set then
	kick chan struct{} // there is something in control
	wg   sync.WaitGroup

	// Reading. rmu guards these.
	rmu     sync.Mutex
	br      *bufio.Reader
	out     []byte   // what is left of the frame on its way to the library
	pending [][]byte // frames that come after out
	heard   atomic.Bool
	waiting atomic.Bool // Read waits for the daemon, not the daemon for Read

	// Writing. amu guards part; wmu is held while one frame is written, so that
	// frames of our own go between the library's.
	amu  sync.Mutex
	part []byte // the beginning of a frame that the library is writing
	wmu  sync.Mutex

	tapMu sync.Mutex

	mu      sync.Mutex
	err     error
	calls   map[int32]call
	streams map[int32]*stream
	held    int // bytes of all streams' held frames
	unacked int // data frames sent on streams that are open
	control control
}

// call is a call without reply yet.
type call struct{ program, version, procedure uint32 }

func callOf(h Header) call { return call{h.Program, h.Version, h.Procedure} }

func (c call) String() string {
	return fmt.Sprintf("procedure %d of program %#x version %d", c.procedure, c.program, c.version)
}

// New puts a Conn on top of a connection to a libvirt daemon, which it owns
// from now on. Nobody else may read or write raw.
func New(raw net.Conn, o Options) *Conn {
	if o.MaxFrame == 0 {
		o.MaxFrame = MaxFrame
	}
	if o.PingInterval == 0 {
		o.PingInterval = defaultPingInterval
	}
	if o.PingMisses == 0 {
		o.PingMisses = defaultPingMisses
	}
	if o.BusyCalls == 0 {
		o.BusyCalls = defaultBusyCalls
	}
	c := &Conn{
		raw:     raw,
		opts:    o,
		done:    make(chan struct{}),
		kick:    make(chan struct{}, 1),
		calls:   make(map[int32]call),
		streams: make(map[int32]*stream),
	}
	c.br = bufio.NewReaderSize(rawReader{c}, readBuffer)
	c.wg.Go(c.writeControl)
	if o.PingInterval > 0 {
		c.wg.Go(c.watch)
	}
	return c
}

// Done is closed when the connection is over, whatever ended it.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says what ended the connection: nil while it is alive, net.ErrClosed if
// Close did.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// InFlight is the number of calls that were written and not answered.
func (c *Conn) InFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)
}

// Close ends the connection at once, and with it every Read and Write, and
// waits for the Conn's goroutines. It may be called more than once; its error
// is always nil.
func (c *Conn) Close() error {
	c.die(net.ErrClosed)
	c.wg.Wait()
	return nil
}

// die ends the connection. The first reason stays.
func (c *Conn) die(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	close(c.done)
	c.mu.Unlock()
	c.raw.Close()
}

func (c *Conn) LocalAddr() net.Addr  { return c.raw.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }

// The deadlines do nothing. The library spins on a read deadline that has
// passed, since that is a temporary error to it, and its buffered writer never
// recovers from a write deadline, which may also have cut a frame in two. What
// ends a call is Close.

// SetDeadline does nothing and returns nil.
func (c *Conn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing and returns nil.
func (c *Conn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing and returns nil.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }

// Write takes any piece of a sequence of frames. A frame is sent when its last
// byte is there. After an error, which is also Err, the connection is over.
func (c *Conn) Write(p []byte) (int, error) {
	c.amu.Lock()
	defer c.amu.Unlock()
	if err := c.Err(); err != nil {
		return 0, err
	}
	for rest := p; len(rest) > 0; {
		var frame []byte
		var err error
		if frame, rest, err = c.cut(rest); err != nil {
			c.die(err)
			return 0, c.Err()
		}
		if frame == nil {
			break
		}
		h := parseHeader(frame)
		if err := c.register(h); err != nil {
			c.die(err)
			return 0, c.Err()
		}
		if err := c.send(frame); err != nil {
			return 0, err
		}
		// An upload sends one big frame after the other; anything else that
		// big is rare, and the memory better given back.
		if c.part = c.part[:0]; cap(c.part) > keepBuffer && h.Type != TypeStream {
			c.part = nil
		}
	}
	return len(p), nil
}

// cut takes the next whole frame from c.part and p, and returns it with the
// rest of p. If there is none yet, all of p is in c.part. c.amu is held.
func (c *Conn) cut(p []byte) (frame, rest []byte, err error) {
	if len(c.part) == 0 && len(p) >= HeaderLen {
		n, err := c.frameLen(p)
		if err != nil {
			return nil, nil, err
		}
		if n <= len(p) {
			return p[:n], p[n:], nil
		}
	}
	if need := HeaderLen - len(c.part); need > 0 {
		need = min(need, len(p))
		c.part, p = append(c.part, p[:need]...), p[need:]
		if len(c.part) < HeaderLen {
			return nil, nil, nil
		}
	}
	n, err := c.frameLen(c.part)
	if err != nil {
		return nil, nil, err
	}
	need := min(n-len(c.part), len(p))
	c.part = slices.Grow(c.part, n-len(c.part))
	c.part, p = append(c.part, p[:need]...), p[need:]
	if len(c.part) < n {
		return nil, nil, nil
	}
	return c.part, p, nil
}

// frameLen is the length of the frame that begins with b, if that is allowed.
func (c *Conn) frameLen(b []byte) (int, error) {
	n := binary.BigEndian.Uint32(b)
	if n < HeaderLen || n > c.opts.MaxFrame {
		return 0, fmt.Errorf("frame length of %d bytes is not allowed", n)
	}
	return int(n), nil
}

// register notes what is about to be sent, so that its answer is expected.
func (c *Conn) register(h Header) error {
	switch h.Type {
	case TypeCall:
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, taken := c.calls[h.Serial]; taken || c.streams[h.Serial] != nil {
			return fmt.Errorf("serial %d is used twice", h.Serial)
		}
		c.calls[h.Serial] = callOf(h)
		if opensStream(h) {
			c.streams[h.Serial] = &stream{call: callOf(h)}
		}
	case TypeStream:
		c.streamSent(h)
	}
	return nil
}

// send writes one whole frame to the socket.
func (c *Conn) send(frame []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if err := c.Err(); err != nil {
		return err
	}
	// Before the write: afterwards the answer could be seen first.
	c.tap(ToDaemon, frame)
	if _, err := c.raw.Write(frame); err != nil {
		c.die(fmt.Errorf("cannot write to the daemon: %w", err))
		return c.Err()
	}
	return nil
}

func (c *Conn) tap(d Direction, frame []byte) {
	if c.opts.Tap == nil {
		return
	}
	c.tapMu.Lock()
	defer c.tapMu.Unlock()
	c.opts.Tap(d, frame)
}
