package libvirtrpc

import (
	"context"
	"errors"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// op says what a call is, for its error, its deadline and its limits.
type op struct {
	name string // libvirt's name of the procedure
	// change: it alters something. It is sent once and never again, and has the
	// whole time of the request; a read has CallTimeout and a second try.
	change bool
	domain UUID // whom it is about; zero: no domain, or not one alone
	// monitor: it waits for the domain's QEMU monitor. lock: it waits for the
	// domain's lock, and so for the monitor as long as another call does.
	monitor, lock bool
	// enter is how any other call that may hang gets its place of the gate.
	enter func(*gate, context.Context) (*gatePass, error)
}

type countKey struct{}

// CountCalls returns a context that counts the libvirt calls made under it.
func CountCalls(ctx context.Context) (context.Context, *atomic.Int64) {
	n := new(atomic.Int64)
	return context.WithValue(ctx, countKey{}, n), n
}

func counted(ctx context.Context) {
	if n, ok := ctx.Value(countKey{}).(*atomic.Int64); ok {
		n.Add(1)
	}
}

// call makes one libvirt call and ends with ctx at the latest.
func call[T any](ctx context.Context, c *Client, o op, fn func(*libvirt.Libvirt) (T, error)) (T, error) {
	var v, zero T // v may be written after an error, when nobody reads it
	err := do(ctx, c, o, func(lv *libvirt.Libvirt) (err error) {
		v, err = fn(lv)
		return err
	})
	if err != nil {
		return zero, err
	}
	return v, nil
}

// do is call for what returns nothing but an error.
func do(ctx context.Context, c *Client, o op, fn func(*libvirt.Libvirt) error) error {
	limit := c.opts.CallTimeout
	if o.change {
		limit = c.changeLimit()
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	err := attempt(ctx, c, o, fn)
	if KindOf(err) == Lost && !o.change && ctx.Err() == nil {
		err = attempt(ctx, c, o, fn)
	}
	return err
}

// attempt makes the call once.
func attempt(ctx context.Context, c *Client, o op, fn func(*libvirt.Libvirt) error) error {
	if c.opts.Observe == nil {
		return send(ctx, c, o, fn, nil)
	}
	w := Call{Procedure: o.name, Domain: o.domain, Start: time.Now()}
	err := send(ctx, c, o, fn, &w.Sent)
	w.end(ctx, err)
	c.opts.Observe(ctx, w)
	return err
}

// send waits for the call's turn, sets sent, if somebody wants to know, and waits
// for the answer.
func send(ctx context.Context, c *Client, o op, fn func(*libvirt.Libvirt) error, sent *time.Time) error {
	var pass *gatePass
	var err error
	switch {
	case o.monitor || o.lock:
		pass, err = c.gate.enter(ctx, o.domain)
	case o.enter != nil:
		pass, err = o.enter(c.gate, ctx)
	}
	if err != nil {
		return err
	}
	cn, err := c.pool.acquire(ctx, pass != nil)
	if err != nil {
		pass.unused()
		return err
	}
	counted(ctx)
	if sent != nil {
		*sent = time.Now()
	}

	answered := make(chan error, 1)
	// state: 0 waited for, 1 abandoned, 2 ended. Whoever comes first decides
	// what the place on the connection is given back as.
	var state atomic.Int32
	c.calls.Add(1)
	go func() { // owned by Client.Run: it ends with the answer or the connection
		defer c.calls.Done()
		err := fn(cn.lv)
		answered <- err
		late := !state.CompareAndSwap(0, 2)
		c.pool.release(cn, late, pass != nil)
		pass.leave(err, o.monitor && o.change)
	}()
	abandon := func() {
		if state.CompareAndSwap(0, 1) {
			c.pool.abandon(cn)
			pass.broken()
		}
	}

	select {
	case err := <-answered:
		return finish(err, o)
	case <-ctx.Done():
	}
	select {
	case err := <-answered: // at the same moment
		return finish(err, o)
	default:
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		// The caller went away, libvirt is not late: the connection is charged
		// only if the answer is still missing when it would have been late.
		deadline, _ := ctx.Deadline()
		time.AfterFunc(time.Until(deadline), abandon)
	} else {
		abandon()
	}
	return noAnswer(ctx, o.name, o.change)
}

// finish turns what the library returned into the method's error.
func finish(err error, o op) error {
	if err == nil {
		return nil
	}
	e := libvirtError(err)
	if e.Kind == Lost && o.change {
		if errors.Is(err, syscall.EINVAL) {
			// go-libvirt found the connection dead before it wrote anything.
			return &Error{Kind: Unavailable, Message: "connection to the libvirt daemon lost; nothing was sent"}
		}
		e.OutcomeUnknown = true
		e.Message = "connection to the libvirt daemon lost during " + o.name + "; it was sent once and its outcome is unknown"
	}
	return e
}
