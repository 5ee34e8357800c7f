package auth

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	defaultFailures = 30
	maxFailures     = 1000
	// maxAddresses bounds the memory: 2.4 MB of times with the default limit,
	// 80 MB with the highest one.
	maxAddresses = 10_000
	window       = time.Minute
)

// failures counts failures by address over the last minute, exactly: a fixed
// window would let twice the limit through around its edge.
//
// At most max addresses are remembered. When there are more, those whose
// failures are over a minute old go first, and then a tenth of the table: those
// with the fewest failures, the oldest first. So to be forgotten while blocked,
// a guesser has to block nine tenths of the table from other addresses, which
// takes some 270,000 failures within the minute and wins 30 more.
type failures struct {
	limit, max int

	mu    sync.Mutex
	start time.Time // of the first request; times are kept as distances to it
	byKey map[bucket]*record
}

// bucket is whose failures are counted together.
type bucket struct {
	addr netip.Addr
	// local: it is a user of this machine, on a unix socket, and has no addr.
	local bool
	uid   uint32
}

// record holds the times of an address's failures, oldest first, at most limit.
type record struct{ times []time.Duration }

func newFailures(limit, max int) *failures {
	return &failures{limit: limit, max: max, byKey: map[bucket]*record{}}
}

// note returns how long b has to wait if it is blocked. If it is not, and
// the request failed, it counts the failure.
func (f *failures) note(b bucket, at time.Time, failed bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.start.IsZero() {
		f.start = at
	}
	now := at.Sub(f.start)

	r := f.byKey[b]
	if r != nil {
		r.forget(now)
		if len(r.times) >= f.limit {
			wait := r.times[len(r.times)-f.limit] + window - now
			// Whole seconds, rounded up: earlier, it would be refused again.
			wait = (wait + time.Second - 1).Truncate(time.Second)
			return min(max(wait, time.Second), window)
		}
	}
	if !failed {
		if r != nil && len(r.times) == 0 {
			delete(f.byKey, b)
		}
		return 0
	}
	if r == nil {
		if len(f.byKey) >= f.max {
			f.evict(now)
		}
		r = &record{}
		f.byKey[b] = r
	}
	r.times = append(r.times, now)
	return 0
}

// forget drops what is a minute old.
func (r *record) forget(now time.Duration) {
	n := 0
	for n < len(r.times) && now-r.times[n] >= window {
		n++
	}
	if n > 0 {
		r.times = r.times[:copy(r.times, r.times[n:])]
	}
}

// evict makes room: a tenth of the table at once, so that its cost is shared by
// the many insertions until the next time.
func (f *failures) evict(now time.Duration) {
	type candidate struct {
		whose bucket
		count int
		last  time.Duration
	}
	all := make([]candidate, 0, len(f.byKey))
	for whose, r := range f.byKey {
		r.forget(now)
		if len(r.times) == 0 {
			delete(f.byKey, whose)
			continue
		}
		all = append(all, candidate{whose, len(r.times), r.times[len(r.times)-1]})
	}
	room := max(f.max/10, 1)
	surplus := len(all) - (f.max - room)
	if surplus <= 0 {
		return
	}
	slices.SortFunc(all, func(a, b candidate) int {
		if a.count != b.count {
			return a.count - b.count
		}
		if a.last != b.last {
			if a.last < b.last {
				return -1
			}
			return 1
		}
		if c := a.whose.addr.Compare(b.whose.addr); c != 0 {
			return c
		}
		return cmp.Compare(a.whose.uid, b.whose.uid)
	})
	for _, c := range all[:surplus] {
		delete(f.byKey, c.whose)
	}
}

// bucketOf returns under what a caller's failures are counted: the uid at the
// other end of a unix socket, or else the address.
func bucketOf(c Credentials) bucket {
	if c.UID != nil {
		return bucket{local: true, uid: *c.UID}
	}
	return bucket{addr: prefixOf(c.Addr)}
}

// prefixOf returns the address by which callers are told apart: the IPv4
// address, the IPv6 /64 (one host has a whole one to choose from), one for all
// of loopback, and the zero Addr for what is not an address.
func prefixOf(s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}
		}
		addr = ap.Addr()
	}
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() {
		return netip.IPv6Loopback()
	}
	if addr.Is6() {
		p, _ := addr.Prefix(64) // 64 is never too long for IPv6
		return p.Addr()
	}
	return addr
}
