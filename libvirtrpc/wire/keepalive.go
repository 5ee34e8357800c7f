package wire

import (
	"fmt"
	"time"
)

// control is what the Conn itself has to send. Read must never wait for the
// socket to take something: libvirtd stops reading while it has enough to do
// for a connection, until its replies are read.
type control struct {
	ping, pong bool // one of each is enough, however many are due
	frames     []Frame
}

func (c *Conn) queueFrame(f Frame) { // c.mu is held
	c.control.frames = append(c.control.frames, f)
	c.wake()
}

func (c *Conn) queuePong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control.pong = true
	c.wake()
}

func (c *Conn) queuePing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.control.ping = true
	c.wake()
}

func (c *Conn) wake() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// writeControl sends what is in control until the connection is over.
func (c *Conn) writeControl() {
	var buf []byte
	for {
		select {
		case <-c.done:
			return
		case <-c.kick:
		}
		c.mu.Lock()
		due := c.control
		c.control = control{}
		c.mu.Unlock()
		if due.pong {
			due.frames = append(due.frames, keepalive(KeepalivePong))
		}
		if due.ping {
			due.frames = append(due.frames, keepalive(KeepalivePing))
		}
		for _, f := range due.frames {
			buf = f.AppendTo(buf[:0])
			if c.send(buf) != nil {
				return
			}
		}
	}
}

func keepalive(procedure uint32) Frame {
	return Frame{Header: Header{
		Program:   KeepaliveProgram,
		Version:   KeepaliveVersion,
		Procedure: procedure,
		Type:      TypeMessage,
	}}
}

// watch sends a PING at every tick and ends the connection when the daemon
// stays silent. libvirtd answers without keepalive having been negotiated.
//
// It does not send itself: a socket that takes nothing more is one of the
// things to notice.
func (c *Conn) watch() {
	tick := c.opts.tick
	if tick == nil {
		t := time.NewTicker(c.opts.PingInterval)
		defer t.Stop()
		tick = t.C
	}
	asked, misses := false, 0
	for {
		select {
		case <-c.done:
			return
		case <-tick:
		}
		switch {
		case c.heard.Swap(false), !c.waiting.Load(), c.busy():
			// The daemon lives, or it is the library that does not read, or
			// silence is what this daemon does now.
			misses = 0
		case asked:
			misses++
		}
		if misses >= c.opts.PingMisses {
			c.die(fmt.Errorf("the daemon does not answer: %d pings missed", misses))
			return
		}
		c.queuePing()
		asked = true
	}
}

// busy tells whether the daemon may have so much to do for this connection
// that it does not read PINGs. Data sent on a stream is never acknowledged, and
// what the daemon cannot get rid of counts as much as a call: an upload to a
// slow disk silences it too.
func (c *Conn) busy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.calls)+c.unacked >= c.opts.BusyCalls
}
