package libvirtrpc

import (
	"context"
	"sync"
	"sync/atomic"
)

// rounds lets equal requests share their libvirt calls without ever giving an
// answer from before a request arrived: who comes while a round is under way
// waits for the next one, which all who came meanwhile share. With join he shares
// the one under way instead.
type rounds[K comparable, V any] struct {
	join bool

	mu sync.Mutex
	m  map[K]*lane[V]

	waiting atomic.Int32 // who waits for a round; for tests
}

type lane[V any] struct {
	now  *round[V]
	next *round[V] // not begun yet, nil when nobody waits
}

type round[V any] struct {
	done chan struct{}
	v    V
	err  error
}

// get returns the result of a round that begins after the call of get; with join
// also of one under way. start runs fn on a goroutine that somebody owns.
func (r *rounds[K, V]) get(ctx context.Context, key K, start func(func()), fn func() (V, error)) (V, error) {
	r.mu.Lock()
	if r.m == nil {
		r.m = map[K]*lane[V]{}
	}
	l, running := r.m[key]
	if !running {
		l = &lane[V]{}
		r.m[key] = l
	}
	mine := l.next
	switch {
	case r.join && l.now != nil:
		mine = l.now
	case mine == nil:
		mine = &round[V]{done: make(chan struct{})}
		l.next = mine
	}
	r.mu.Unlock()
	r.waiting.Add(1)
	defer r.waiting.Add(-1)
	if !running {
		start(func() { r.run(key, l, fn) })
	}
	select {
	case <-mine.done:
		return mine.v, mine.err
	case <-ctx.Done():
		var zero V
		return zero, &Error{Kind: NoAnswer, Message: "no answer before the deadline"}
	}
}

// run does rounds until nobody waits.
func (r *rounds[K, V]) run(key K, l *lane[V], fn func() (V, error)) {
	for {
		r.mu.Lock()
		now := l.next
		l.now, l.next = now, nil
		if now == nil {
			delete(r.m, key)
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		now.v, now.err = fn()
		r.mu.Lock()
		l.now = nil // who comes now is too late for it
		r.mu.Unlock()
		close(now.done)
	}
}
