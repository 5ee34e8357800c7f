package rpctest

import (
	"bufio"
	"context"
	"net"
	"reflect"
	"slices"
	"sync"
	"syscall"

	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// Daemon is a scripted daemon, for what a real one will not do on request. It
// opens connections by itself; every other call goes to its handler, on a
// goroutine of its own, so that answers may come late, in any order or never.
type Daemon struct {
	// Handshake, if set, answers the calls that open a connection, in their
	// order; good is the payload that a real daemon would send. It is set
	// before the first connection.
	Handshake func(r *Request, good []byte)

	handle func(*Request)

	mu    sync.Mutex
	down  bool
	dials int
	conns map[*daemonConn]bool
	calls map[string]int
	wg    sync.WaitGroup
}

type daemonConn struct {
	net.Conn
	write sync.Mutex
	hung  bool // guarded by write
}

// Request is one call that the daemon got.
type Request struct {
	Proc string
	Args any // the struct of go-libvirt, nil without arguments
	// Conn is equal for calls of one connection.
	Conn any

	frame wire.Frame
	conn  *daemonConn
}

// NewDaemon makes a daemon whose calls are answered by handle.
func NewDaemon(handle func(*Request)) *Daemon {
	return &Daemon{handle: handle, conns: map[*daemonConn]bool{}, calls: map[string]int{}}
}

// Dial opens a connection to the daemon.
func (d *Daemon) Dial(context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	if !d.take(server) {
		return nil, &net.OpError{Op: "dial", Net: "unix", Err: syscall.ECONNREFUSED}
	}
	return client, nil
}

// Serve takes connections from a listener until that is closed.
func (d *Daemon) Serve(l net.Listener) {
	d.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if !d.take(c) {
				c.Close()
			}
		}
	})
}

// take serves a connection, unless the daemon is down.
func (d *Daemon) take(conn net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return false
	}
	d.dials++
	c := &daemonConn{Conn: conn}
	d.conns[c] = true
	d.wg.Go(func() { d.serve(c) })
	return true
}

// Down kills all connections and refuses new ones; Up takes them again.
func (d *Daemon) Down() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = true
	for c := range d.conns {
		c.Close()
	}
}

// Up ends Down.
func (d *Daemon) Up() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = false
}

// Close is Down for good, and waits for the daemon's goroutines. Handlers have
// to end by themselves, and listeners to be closed.
func (d *Daemon) Close() {
	d.Down()
	d.wg.Wait()
}

// Calls is how often a procedure was called, on all connections.
func (d *Daemon) Calls(proc string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[proc]
}

// Dials is how many connections were opened.
func (d *Daemon) Dials() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dials
}

// Open is how many connections neither side has closed.
func (d *Daemon) Open() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.conns)
}

// IsOpen tells whether a connection, a Request's Conn, is open.
func (d *Daemon) IsOpen(conn any) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conns[conn.(*daemonConn)]
}

func (d *Daemon) serve(c *daemonConn) {
	defer func() {
		c.Close()
		d.mu.Lock()
		delete(d.conns, c)
		d.mu.Unlock()
	}()
	in := bufio.NewReader(c)
	for {
		f, err := ReadFrame(in)
		if err != nil {
			return
		}
		r := &Request{frame: f, conn: c, Conn: c}
		if f.Program == wire.KeepaliveProgram {
			f.Procedure = wire.KeepalivePong
			r.Raw(f.AppendTo(nil))
			continue
		}
		proc, _ := xdr.Procedure(f.Program, f.Procedure)
		r.Proc = proc.Name
		if payload, ok := handshake[r.Proc]; ok {
			if d.Handshake != nil {
				d.Handshake(r, payload)
			} else {
				r.answer(wire.StatusOK, payload)
			}
			continue
		}
		if proc.Args != nil {
			v, err := xdr.Decode(proc.Args, f.Payload)
			if err != nil {
				return
			}
			r.Args = reflect.Indirect(reflect.ValueOf(v)).Interface()
		}
		d.mu.Lock()
		d.calls[r.Proc]++
		d.mu.Unlock()
		d.wg.Go(func() { d.handle(r) })
	}
}

// Reply answers with a struct of go-libvirt, or nil.
func (r *Request) Reply(ret any) {
	payload, err := xdr.Encode(ret)
	if err != nil {
		panic(err)
	}
	r.answer(wire.StatusOK, payload)
}

// Error answers with an error of libvirt.
func (r *Request) Error(code int32, message string) {
	payload, err := xdr.Encode(xdr.Error{Code: code, Domain: 10, Message: []string{message}, Level: 2})
	if err != nil {
		panic(err)
	}
	r.answer(wire.StatusError, payload)
}

func (r *Request) answer(status uint32, payload []byte) {
	h := r.frame.Header
	h.Type, h.Status = wire.TypeReply, status
	r.Raw(wire.Frame{Header: h, Payload: payload}.AppendTo(nil))
}

// Frame is the header of a good answer, to be spoiled and sent with Raw.
func (r *Request) Frame(payload []byte) wire.Frame {
	h := r.frame.Header
	h.Type, h.Status = wire.TypeReply, wire.StatusOK
	return wire.Frame{Header: h, Payload: payload}
}

// Raw sends bytes as they are.
func (r *Request) Raw(b []byte) { r.Pieces(b, max(1, len(b))) }

// Pieces sends bytes as they are, at most n of them at once.
func (r *Request) Pieces(b []byte, n int) {
	r.conn.write.Lock()
	defer r.conn.write.Unlock()
	for piece := range slices.Chunk(b, n) {
		if r.conn.hung {
			return
		}
		if _, err := r.conn.Write(piece); err != nil {
			return
		}
	}
}

// Hang keeps the connection open and sends nothing more on it, as a daemon that
// was stopped.
func (r *Request) Hang() {
	r.conn.write.Lock()
	defer r.conn.write.Unlock()
	r.conn.hung = true
}

// Hangup closes the connection.
func (r *Request) Hangup() { r.conn.Close() }
