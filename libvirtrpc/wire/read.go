package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// rawReader reads from the socket and notes signs of life.
type rawReader struct{ c *Conn }

func (r rawReader) Read(p []byte) (int, error) {
	r.c.waiting.Store(true)
	n, err := r.c.raw.Read(p)
	if n > 0 {
		r.c.heard.Store(true)
	}
	r.c.waiting.Store(false)
	return n, err
}

// Read gives the library what it may see of the daemon's frames. An error is
// final, is also Err, and is never a *net.OpError, whose Temporary method would
// make the library try again for ever. It comes after everything that was taken
// for an answer: a call is in flight as long as its reply has not been read.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if len(p) == 0 {
		return 0, c.Err()
	}
	for len(c.out) == 0 {
		if len(c.pending) > 0 {
			c.out, c.pending = c.pending[0], c.pending[1:]
			continue
		}
		if err := c.Err(); err != nil {
			return 0, err
		}
		frame, err := c.readFrame()
		if err == nil {
			c.tap(FromDaemon, frame)
			c.out, err = c.incoming(frame)
		}
		if err != nil {
			c.die(err)
			return 0, c.Err()
		}
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// readFrame reads one frame. It is valid until the next one is read.
func (c *Conn) readFrame() ([]byte, error) {
	head, err := c.br.Peek(4)
	if err != nil {
		return nil, readError(err, len(head))
	}
	n, err := c.frameLen(head)
	if err != nil {
		return nil, err
	}
	if n <= c.br.Size() {
		frame, err := c.br.Peek(n)
		if err != nil {
			return nil, readError(err, len(frame))
		}
		c.br.Discard(n) // leaves the bytes in place
		return frame, nil
	}
	// Memory grows with what has arrived, not with what was announced.
	frame := make([]byte, c.br.Size())
	for have := 0; ; {
		k, err := io.ReadFull(c.br, frame[have:])
		have += k
		if err != nil {
			return nil, readError(err, have)
		}
		if have == n {
			return frame, nil
		}
		frame = append(frame, make([]byte, min(n-have, have))...)
	}
}

// readError says what a failure to read means when have bytes of the frame are
// there.
func readError(err error, have int) error {
	switch {
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("cannot read from the daemon: %w", err)
	case have == 0:
		return fmt.Errorf("the daemon closed the connection: %w", io.EOF)
	default:
		return fmt.Errorf("the daemon closed the connection within a frame: %w", io.ErrUnexpectedEOF)
	}
}

// incoming decides what becomes of a frame from the daemon: it returns what the
// library sees of it, if anything, or why the connection cannot go on.
func (c *Conn) incoming(frame []byte) ([]byte, error) {
	h := parseHeader(frame)
	if h.Program == KeepaliveProgram {
		if h.Procedure == KeepalivePing {
			c.queuePong()
		}
		return nil, nil // of a PONG it is enough that it came
	}
	switch h.Type {
	case TypeReply:
		return c.reply(h, frame)
	case TypeStream:
		return c.streamFrame(h, frame)
	case TypeMessage:
		if c.opts.Message != nil {
			c.opts.Message(Frame{Header: h, Payload: append([]byte(nil), frame[HeaderLen:]...)})
			return nil, nil
		}
		// The library takes an event that it does not know for the reply to
		// the call of the same serial, and libvirtd numbers its events 1.
		// No call has serial 0.
		binary.BigEndian.PutUint32(frame[20:], 0)
		return frame, nil
	default:
		// A daemon calls nobody, sends descriptors only when asked to, and
		// holes only in sparse streams. The library ignores the type and would
		// take each for a reply; dropping one could leave a call unanswered or
		// a file with a piece missing. The same goes for types to come.
		return nil, fmt.Errorf("frame of type %d from the daemon (%v)", h.Type, callOf(h))
	}
}

// reply lets through one reply for each call.
func (c *Conn) reply(h Header, frame []byte) ([]byte, error) {
	c.mu.Lock()
	want, ok := c.calls[h.Serial]
	c.mu.Unlock()
	if !ok {
		// Nobody waits for it. The library, if given a second reply, waits for
		// a reader of it, with the lock on all its calls held.
		return nil, nil
	}
	if got := callOf(h); got != want {
		return nil, fmt.Errorf("reply to a call of %v says it is of %v", want, got)
	}
	switch h.Status {
	case StatusOK:
		if c.opts.Check != nil {
			if err := c.opts.Check(h, frame[HeaderLen:]); err != nil {
				return nil, fmt.Errorf("reply refused: %w", err)
			}
		}
	case StatusError:
		var err error
		if frame, err = fixErrorFrame(h, frame); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("reply with status %d", h.Status)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, h.Serial)
	if st := c.streams[h.Serial]; st != nil {
		return frame, c.streamReplied(h, st)
	}
	return frame, nil
}

// fixErrorFrame is fixError for a whole frame.
func fixErrorFrame(h Header, frame []byte) ([]byte, error) {
	p, err := fixError(frame[HeaderLen:])
	if err != nil {
		return nil, fmt.Errorf("error of %v: %w", callOf(h), err)
	}
	if len(p) > 0 && &p[0] == &frame[HeaderLen] {
		return frame, nil
	}
	return Frame{Header: h, Payload: p}.AppendTo(nil), nil
}
