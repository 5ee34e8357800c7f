package rpctest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// handshake are the calls that open a connection. They are not a part of
// conversations: every connection makes them.
var handshake = map[string][]byte{
	"AuthList":                              {0, 0, 0, 1, 0, 0, 0, 0}, // one way, none
	"ConnectOpen":                           nil,
	"ConnectClose":                          nil,
	"ConnectDomainEventCallbackRegisterAny": {0, 0, 0, 0}, // callback 0
}

// Replayer is a daemon that knows one conversation: it demands exactly its
// calls, in order and with their whole payloads. Conversations may go over
// several connections, one after the other; a client must therefore make one
// call at a time.
type Replayer struct {
	mu      sync.Mutex
	rest    []Message
	refuse  bool
	problem error
	wg      sync.WaitGroup
	conns   []net.Conn
}

// NewReplayer makes a Replayer of a conversation's text.
func NewReplayer(text string) (*Replayer, error) {
	ms, err := Parse(text)
	return &Replayer{rest: ms}, err
}

// Dial opens a connection to the daemon.
func (r *Replayer) Dial(context.Context) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse {
		return nil, &net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}
	}
	client, daemon := net.Pipe()
	r.conns = append(r.conns, daemon)
	r.wg.Go(func() {
		defer daemon.Close()
		r.serve(daemon)
	})
	return client, nil
}

// Continue adds what follows in the conversation.
func (r *Replayer) Continue(text string) error {
	ms, err := Parse(text)
	r.mu.Lock()
	r.rest = append(r.rest, ms...)
	r.mu.Unlock()
	return err
}

// Finished says what was wrong so far: the first call that is not the
// conversation's, or calls that were not made.
func (r *Replayer) Finished() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.problem != nil {
		return r.problem
	}
	if len(r.rest) > 0 {
		return fmt.Errorf("left over, not called:\n%s", Format(r.rest))
	}
	return nil
}

// Close ends the connections and waits for them.
func (r *Replayer) Close() {
	r.mu.Lock()
	r.refuse = true
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Replayer) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		f, err := ReadFrame(in)
		if err != nil {
			return
		}
		answers, end := r.answer(f)
		for _, a := range answers {
			if _, err := c.Write(a.AppendTo(nil)); err != nil {
				return
			}
		}
		if end {
			return
		}
	}
}

// answer is what the daemon says to a frame, and whether it then closes the
// connection.
func (r *Replayer) answer(f wire.Frame) (answers []wire.Frame, end bool) {
	if f.Program == wire.KeepaliveProgram {
		f.Procedure = wire.KeepalivePong
		return []wire.Frame{f}, false
	}
	proc, ok := xdr.Procedure(f.Program, f.Procedure)
	if !ok {
		return nil, r.fail(fmt.Errorf("a call of procedure %d, which nobody knows", f.Procedure))
	}
	reply := func(status uint32, payload []byte) {
		h := f.Header
		h.Type, h.Status = wire.TypeReply, status
		answers = append(answers, wire.Frame{Header: h, Payload: payload})
	}
	if payload, ok := handshake[proc.Name]; ok {
		reply(wire.StatusOK, payload)
		return answers, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	got := Message{Kind: Call, Proc: proc.Name, Payload: f.Payload}
	if len(r.rest) == 0 {
		return nil, r.failLocked(fmt.Errorf("a call after the end of the conversation:\n%s", Format([]Message{got})))
	}
	if want := r.rest[0]; want.Kind != Call || want.Proc != got.Proc || !bytes.Equal(want.Payload, got.Payload) {
		return nil, r.failLocked(fmt.Errorf("got the call\n%swant\n%s", Format([]Message{got}), Format([]Message{want})))
	}
	for r.rest = r.rest[1:]; len(r.rest) > 0 && r.rest[0].Kind != Call; r.rest = r.rest[1:] {
		switch m := r.rest[0]; m.Kind {
		case Reply:
			reply(wire.StatusOK, m.Payload)
		case Error:
			reply(wire.StatusError, m.Payload)
		case Refuse:
			r.refuse, end = true, true
		case Close:
			end = true
		}
	}
	return answers, end
}

func (r *Replayer) fail(err error) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failLocked(err)
}

// failLocked keeps the first problem and closes the connection.
func (r *Replayer) failLocked(err error) bool {
	if r.problem == nil {
		r.problem = err
	}
	r.refuse = true
	return true
}

// ReadFrame reads one frame.
func ReadFrame(in *bufio.Reader) (wire.Frame, error) {
	head, err := in.Peek(4)
	if err != nil {
		return wire.Frame{}, err
	}
	n := binary.BigEndian.Uint32(head)
	if n < wire.HeaderLen || n > wire.MaxFrame {
		return wire.Frame{}, errors.New("a frame of a length that is not allowed")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(in, b); err != nil {
		return wire.Frame{}, err
	}
	return wire.ParseFrame(b)
}
