package libvirtrpc_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

const (
	connectTimeout = 5 * time.Second
	// knock is the longest pause before the second attempt to open a connection.
	knock = 50 * time.Millisecond
)

func version(r *rpctest.Request) { r.Reply(libvirt.ConnectGetLibVersionRet{LibVer: 9000000}) }

// handshakeFrames are the answers that open a connection, as they are sent.
func handshakeFrames(t *testing.T) (frames [][]byte) {
	var mu sync.Mutex
	var first any // only of the first connection, should there be another
	d := rpctest.NewDaemon(version)
	d.Handshake = func(r *rpctest.Request, good []byte) {
		mu.Lock()
		defer mu.Unlock()
		frame := r.Frame(good).AppendTo(nil)
		if first == nil {
			first = r.Conn
		}
		if r.Conn == first {
			frames = append(frames, frame)
		}
		r.Raw(frame)
	}
	c := start(t, d, nil)
	if err := c.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return frames
}

// open opens a first connection whose handshake is spoiled, and checks that a
// call gets its answer from the second one, within the time given. A call that
// does not wait that long (it may with within, it must with outage) hears exactly
// at its time that there is no connection.
func open(t *testing.T, spoil func(r *rpctest.Request, good []byte), within time.Duration, outage bool) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var first any
		d := rpctest.NewDaemon(version)
		d.Handshake = func(r *rpctest.Request, good []byte) {
			mu.Lock()
			if first == nil {
				first = r.Conn
			}
			mine := first == r.Conn
			mu.Unlock()
			if mine {
				spoil(r, good)
				return
			}
			r.Raw(r.Frame(good).AppendTo(nil))
		}
		const outageWait = 3 * time.Second
		c := start(t, d, func(o *libvirtrpc.Options) { o.ConnectTimeout, o.OutageWait = connectTimeout, outageWait })
		began := time.Now()
		err := c.Ready(t.Context())
		if err != nil || outage {
			wantKind(t, err, libvirtrpc.Unavailable)
			if took := time.Since(began); took != outageWait {
				t.Errorf("the end after %s, want %s", took, outageWait)
			}
			err = c.Ready(t.Context())
		}
		if took := time.Since(began); err != nil || took > within {
			t.Errorf("after %s: %v", took, err)
		}
		if n := d.Dials(); n > 2 {
			t.Errorf("%d connections were opened", n)
		}
	})
}

// handshakeRow is a row of the table of proofs: it opens connections whose
// handshake ends early, once after each byte.
func handshakeRow(t *testing.T, name, promised string, within time.Duration, outage bool, end func(*rpctest.Request)) {
	t.Run(name, func(t *testing.T) {
		t.Attr("case", "handshake with libvirtd: "+name)
		t.Attr("promised", promised)
		frames := handshakeFrames(t)
		total := 0
		for _, f := range frames {
			total += len(f)
		}
		for cut := range total {
			left := cut
			open(t, func(r *rpctest.Request, good []byte) {
				b := r.Frame(good).AppendTo(nil)
				if len(b) <= left {
					left -= len(b)
					r.Raw(b)
					return
				}
				r.Raw(b[:left])
				end(r)
			}, within, outage)
		}
		if !t.Failed() {
			t.Attr("measured", fmt.Sprintf("cut after each of %d bytes of %d answers, served each time", total, len(frames)))
		}
	})
}

func TestProveHandshake(t *testing.T) {
	handshakeRow(t, "closed after every byte", "another connection is opened at once, calls wait for it", knock, false, (*rpctest.Request).Hangup)
	handshakeRow(t, "silent after every byte", "the attempt ends at its deadline, calls say exactly at theirs that there is no connection, the next attempt serves", connectTimeout+knock, true, (*rpctest.Request).Hang)

	t.Run("spoiled", func(t *testing.T) {
		t.Attr("case", "handshake with libvirtd: every fault in each of its answers")
		t.Attr("promised", "no more than the deadline of the attempt is lost")
		n := 0
		for which := range handshakeFrames(t) {
			for _, fs := range [][]fault{harmless, deadly, mute} {
				for _, f := range fs {
					n++
					answered := 0
					t.Run(fmt.Sprintf("answer %d, %s", which, f.name), func(t *testing.T) {
						open(t, func(r *rpctest.Request, good []byte) {
							answered++
							if answered-1 == which {
								f.send(r, r.Frame(good))
							} else {
								r.Raw(r.Frame(good).AppendTo(nil))
							}
						}, connectTimeout+knock, false)
					})
				}
			}
		}
		if !t.Failed() {
			t.Attr("measured", fmt.Sprintf("%d handshakes, served each time", n))
		}
	})
}
