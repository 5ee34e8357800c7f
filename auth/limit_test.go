package auth

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestSlowDown(t *testing.T) {
	a := newAuth(t, nil)
	wrong := Credentials{Key: []string{"guess"}, Username: []string{"smith"}, Addr: "192.0.2.1:1000"}
	right := Credentials{Key: []string{mainKey}, Username: []string{"smith"}, Addr: "192.0.2.1:2000"}

	// All kinds of failure count, one a second, with successes in between.
	kinds := []struct {
		c    Credentials
		want Reason
	}{
		{wrong, BadKey},
		{Credentials{Addr: wrong.Addr}, BadKey},
		{Credentials{ServiceKey: []string{"x"}, Addr: wrong.Addr}, BadServiceKey},
		{Credentials{Key: right.Key, Addr: wrong.Addr}, MissingUser},
		{Credentials{Key: right.Key, Username: []string{"ghost"}, Addr: wrong.Addr}, NotMember},
	}
	for i := range 30 {
		now := t0.Add(time.Duration(i) * time.Second)
		if _, err := a.Authenticate(right, now); err != nil {
			t.Fatalf("success %d: %v", i, err)
		}
		k := kinds[i%len(kinds)]
		if _, err := a.Authenticate(k.c, now); reason(t, err) != k.want {
			t.Fatalf("failure %d: %v, want %v", i+1, err, k.want)
		}
	}

	blocked := func(c Credentials, at time.Duration, want time.Duration) {
		t.Helper()
		_, err := a.Authenticate(c, t0.Add(at))
		var e *Error
		if !errors.As(err, &e) || e.Reason != TooMany || e.RetryAfter != want {
			t.Fatalf("after %s: got %v, want TooMany for %s", at, err, want)
		}
	}
	// The 31st, right or wrong: no difference to be seen.
	blocked(wrong, 30*time.Second, 30*time.Second)
	blocked(right, 30*time.Second, 30*time.Second)
	blocked(wrong, 30*time.Second+time.Millisecond, 30*time.Second)
	blocked(right, 59999*time.Millisecond, time.Second)
	// Someone else is not concerned.
	other := right
	other.Addr = "192.0.2.2:1"
	if _, err := a.Authenticate(other, t0.Add(31*time.Second)); err != nil {
		t.Fatal(err)
	}
	// The first failure is a minute old: one more is looked at, then none until
	// the second is.
	if _, err := a.Authenticate(right, t0.Add(60*time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Authenticate(wrong, t0.Add(60*time.Second)); reason(t, err) != BadKey {
		t.Fatal(err)
	}
	blocked(right, 60*time.Second, time.Second)
	// Refused requests did not prolong it.
	if _, err := a.Authenticate(right, t0.Add(3*time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n := len(a.failures.byKey); n != 0 {
		t.Errorf("%d addresses remembered after all is well", n)
	}
}

// TestNeverMoreThanLimit guesses without pause: however the minute is cut, no
// more than the limit of guesses is answered within one.
func TestNeverMoreThanLimit(t *testing.T) {
	f := newFailures(5, 10)
	addr := bucket{addr: netip.MustParseAddr("192.0.2.1")}
	var answered []time.Time
	for i := range 3000 {
		now := t0.Add(time.Duration(i) * 100 * time.Millisecond)
		if f.note(addr, now, true) == 0 {
			answered = append(answered, now)
		}
	}
	if len(answered) != 25 { // five minutes
		t.Errorf("%d answered, want 25", len(answered))
	}
	for i := range answered[:len(answered)-5] {
		if d := answered[i+5].Sub(answered[i]); d < time.Minute {
			t.Errorf("six answers within %s", d)
		}
	}
}

func TestRetryAfterIsEnough(t *testing.T) {
	f := newFailures(3, 10)
	addr := bucket{addr: netip.MustParseAddr("192.0.2.1")}
	for i := range 3 {
		f.note(addr, t0.Add(time.Duration(i)*777*time.Millisecond), true)
	}
	now := t0.Add(12345678 * time.Microsecond)
	wait := f.note(addr, now, false)
	if wait%time.Second != 0 || wait <= 0 || wait > time.Minute {
		t.Fatalf("wait is %s", wait)
	}
	if w := f.note(addr, now.Add(wait), false); w != 0 {
		t.Errorf("still blocked for %s after waiting", w)
	}
}

func TestClockGoesBack(t *testing.T) {
	f := newFailures(1, 10)
	addr := bucket{addr: netip.MustParseAddr("192.0.2.1")}
	f.note(addr, t0, true)
	if w := f.note(addr, t0.Add(-time.Hour), true); w != time.Minute {
		t.Errorf("wait is %s, want a minute at most", w)
	}
}

func TestBucketOf(t *testing.T) {
	same := [][]string{
		{"192.0.2.1", "192.0.2.1:80", "::ffff:192.0.2.1", "[::ffff:192.0.2.1]:80"},
		{"2001:db8:1:2::1", "[2001:db8:1:2:ffff::9]:443", "2001:db8:1:2::"},
		{"127.0.0.1:1", "127.9.9.9", "::1", "[::1]:5", "::ffff:127.0.0.1"},
		{"fe80::1%eth0", "[fe80::2%eth1]:5"},
		{"", "@", "/run/socket", "999.1.1.1", "192.0.2.1:99999"},
		{"192.0.2.2"},
		{"2001:db8:1:3::1"},
	}
	seen := map[bucket]string{}
	for _, group := range same {
		want := bucketOf(Credentials{Addr: group[0]})
		for _, s := range group {
			if got := bucketOf(Credentials{Addr: s}); got != want {
				t.Errorf("%q is %v, want %v as %q", s, got, want, group[0])
			}
		}
		if other, dup := seen[want]; dup {
			t.Errorf("%q and %q share %v", group[0], other, want)
		}
		seen[want] = group[0]
	}
}

func TestMemoryIsBounded(t *testing.T) {
	f := newFailures(3, 100)
	guesser := bucket{addr: netip.MustParseAddr("192.0.2.1")}
	for range 3 {
		f.note(guesser, t0, true)
	}
	if f.note(guesser, t0, true) == 0 {
		t.Fatal("not blocked")
	}
	// Two failures each from many addresses do not push the blocked one out.
	for i := range 5000 {
		addr := bucket{addr: netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/256, i%256))}
		now := t0.Add(time.Duration(i) * time.Millisecond)
		f.note(addr, now, true)
		f.note(addr, now, true)
		if len(f.byKey) > 100 {
			t.Fatalf("%d addresses remembered", len(f.byKey))
		}
	}
	if f.note(guesser, t0.Add(6*time.Second), true) == 0 {
		t.Error("a flood from elsewhere unblocked the guesser")
	}
	// What is over goes first: after a minute the next flood finds room.
	f.evict(2 * time.Minute)
	if len(f.byKey) != 0 {
		t.Errorf("%d addresses remembered after their minute", len(f.byKey))
	}
}

func TestEvictOldestFirst(t *testing.T) {
	f := newFailures(30, 10)
	addr := func(i int) bucket { return bucket{addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})} }
	for i := range 11 {
		f.note(addr(i), t0.Add(time.Duration(i)*time.Second), true)
	}
	if len(f.byKey) != 10 || f.byKey[addr(0)] != nil || f.byKey[addr(1)] == nil || f.byKey[addr(10)] == nil {
		t.Errorf("remembered: %v", f.byKey)
	}
}
