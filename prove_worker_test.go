package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load is many clients of one virtgate, and the account of what they were
// answered.
type load struct {
	t      *testing.T
	g      *gateway
	driver string
	seed   uint64
	limit  time.Duration // within which every request ends
	// forgets: the daemon has lost its domains when it is started again.
	forgets bool

	stopped atomic.Bool
	deaf    atomic.Bool // libvirtd cannot answer now
	asked   atomic.Int64
	changes atomic.Int64 // requests that change something
	unknown atomic.Int64 // of these, the ones whose outcome was not known
	wasDone atomic.Int64 // of these, the ones that had been done
	refused atomic.Int64 // changes that libvirt refused
	serial  atomic.Int64

	mu       sync.Mutex
	accounts []*account // of every domain there ever was
	powered  []*account // of those that are started and stopped
	slowest  time.Duration
	at       int64 // when that many were asked
	reached  chan struct{}
}

const workers = 7

// run has the clients at work while fn runs.
func (l *load) run(fn func()) {
	if l.powered == nil {
		l.powered = []*account{l.open(), l.open()}
	}
	l.stopped.Store(false)
	var wg sync.WaitGroup
	for i, worker := range [workers]func(*rand.Rand){
		l.read, l.read, l.define, l.define, l.define,
		func(r *rand.Rand) { l.power(r, l.powered[0]) },
		func(r *rand.Rand) { l.power(r, l.powered[1]) },
	} {
		r := rand.New(rand.NewPCG(l.seed, uint64(i)))
		wg.Go(func() { worker(r) })
	}
	fn()
	l.stopped.Store(true)
	wg.Wait()
	l.g.http.CloseIdleConnections()
}

// after is closed when n more requests have been begun.
func (l *load) after(n int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at, l.reached = l.asked.Load()+int64(n), make(chan struct{})
	return l.reached
}

// wait waits for what the load is going to bring about.
func (l *load) wait(until <-chan struct{}) {
	l.t.Helper()
	select {
	case <-until:
	case <-time.After(time.Minute):
		l.t.Fatal("the load has come to rest")
	}
}

// ask sends a request and holds what is true of every answer. Nil: there is
// none, and the test has failed.
func (l *load) ask(method, path, body string) *answer {
	n, deaf := l.asked.Add(1), l.deaf.Load()
	l.mu.Lock()
	if l.reached != nil && n >= l.at {
		close(l.reached)
		l.reached = nil
	}
	l.mu.Unlock()
	a, err := l.g.try(method, path, body)
	if err != nil {
		l.t.Errorf("%s %s: %v", method, path, err)
		l.stopped.Store(true)
		return nil
	}
	l.mu.Lock()
	l.slowest = max(l.slowest, a.took)
	l.mu.Unlock()
	if a.took > l.limit {
		l.t.Errorf("%s %s took %s", method, path, a.took)
	}
	lost := a.status == 503 || a.status == 504
	if !lost && (deaf && l.deaf.Load() || a.status >= 500 && a.Errors[0].LibvirtCode == 0) {
		l.t.Errorf("%s %s: %d %s", method, path, a.status, a.raw)
	}
	if isUnknown(a) && (!lost || method == "GET" || a.header.Get("Retry-After") != "") {
		l.t.Errorf("%s %s, its outcome unknown: %d %v %s", method, path, a.status, a.header, a.raw)
	}
	return a
}

func isUnknown(a *answer) bool { return strings.Contains(a.raw, "outcome is unknown") }

// read asks for what changes nothing.
func (l *load) read(r *rand.Rand) {
	for !l.stopped.Load() {
		path := "/libvirt/domains"
		switch r.IntN(4) {
		case 0:
			path += "?state=running,paused&fields=name,status"
		case 1:
			path += "/by-uuid/" + l.powered[0].uuid
		case 2:
			path += fmt.Sprintf("/by-name/%s/xml_desc", l.powered[1].name)
		}
		if a := l.ask("GET", path, ""); a != nil && a.status != 200 && a.status != 404 && a.status != 503 && a.status != 504 {
			l.t.Errorf("GET %s: %d %s", path, a.status, a.raw)
		}
	}
}

// define has domains come, be changed and, most of them, go.
func (l *load) define(r *rand.Rand) {
	for !l.stopped.Load() {
		d := l.open()
		d.define()
		for range r.IntN(4) {
			d.autostart(r.IntN(2) == 0)
		}
		d.check()
		if r.IntN(4) > 0 {
			d.undefine()
		}
	}
}

// power has a domain started, suspended, resumed and stopped.
func (l *load) power(r *rand.Rand, d *account) {
	for !l.stopped.Load() {
		switch d.define(); {
		case d.now.status == "Shutoff":
			d.power("start", "C", "Running")
		case d.half, d.now.status == "Running" && r.IntN(6) == 0:
			d.power("destroy", "X", "Shutoff")
		case d.now.status == "Running":
			d.power("suspend", "S", "Paused")
		default:
			d.power("resume", "R", "Running")
		}
		d.check()
	}
}

// once compares what was answered with what libvirtd was told.
func (l *load) once(what string, w *witness) {
	row(l.t, "once", what, "libvirtd is told of each change at most once, and not at all when the answer says that nothing was sent", func(t *testing.T) string {
		calls := 0
		for _, a := range l.accounts {
			heard := w.heard(a.uuid)
			calls += len(heard) / 2
			if !regexp.MustCompile("^" + a.claims.String() + "$").MatchString(heard) {
				t.Errorf("%s: libvirtd was told %s, the answers say %s:\n%s", a.name, heard, a.claims.String(), a.history.String())
			}
		}
		return fmt.Sprintf("%d calls that change something, none twice, each of them accounted for by an answer", calls)
	})
}

// account is what one domain has gone through, by the answers to the only
// client that changes it.
type account struct {
	l          *load
	name, uuid string
	now        condition
	// late is what it may still become: the last change is of unknown outcome.
	late *condition
	// half started, with a start of unknown outcome: libvirtd may end it when it
	// likes.
	half bool
	// claims is what the answers say of the calls to libvirt: a regular
	// expression for what a witness has heard.
	claims  strings.Builder
	history strings.Builder // for who wants to know how it came to this
}

type condition struct {
	defined, autostart bool
	status             string
}

func (l *load) open() *account {
	n := l.serial.Add(1)
	a := &account{l: l, name: fmt.Sprintf("k%d", n), uuid: fmt.Sprintf("00000000-0000-4000-8000-%012x", n)}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.accounts = append(l.accounts, a)
	return a
}

func (d *account) path() string { return "/libvirt/domains/by-uuid/" + d.uuid }

func (d *account) define() {
	xml := fmt.Sprintf(`<domain type='%s'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>32</memory><os><type>hvm</type></os></domain>`,
		d.l.driver, d.name, d.uuid)
	if !d.now.defined {
		d.change("POST", "/libvirt/domains", jsonString(xml), "D", condition{defined: true, status: "Shutoff"})
	}
}

func (d *account) undefine() {
	if d.now.defined {
		d.change("DELETE", d.path(), "", "U", condition{})
	}
}

func (d *account) autostart(on bool) {
	if !d.now.defined {
		return
	}
	letter := "a"
	if on {
		letter = "A"
	}
	to := d.now
	to.autostart = on
	d.change("PATCH", d.path(), fmt.Sprintf(`{"autostart":%t}`, on), letter, to)
}

func (d *account) power(request, letter, status string) {
	if !d.now.defined {
		return
	}
	to := d.now
	to.status = status
	d.change("PATCH", d.path(), fmt.Sprintf(`{"power_mgt":%q}`, request), letter, to)
}

// change sends a request for which one call is made, and takes its answer into
// the account.
func (d *account) change(method, path, body, letter string, to condition) {
	if d.l.stopped.Load() {
		return
	}
	d.l.changes.Add(1)
	a := d.l.ask(method, path, body)
	if a == nil {
		return
	}
	fmt.Fprintf(&d.history, "%s %s %s: %d %s", method, path, body, a.status, a.raw)
	switch {
	case a.status < 300:
		d.claims.WriteString(letter + `\+`)
		d.now, d.late, d.half = to, nil, false
	case isUnknown(a):
		d.l.unknown.Add(1)
		d.claims.WriteString("(" + letter + `[-+?])?`)
		d.late, d.half = &to, d.half || letter == "C"
		if d.check(); d.now == to {
			d.l.wasDone.Add(1)
		}
		d.half = d.half && d.now.status == "Paused"
	case a.Errors[0].LibvirtCode != 0: // libvirt said no
		d.l.refused.Add(1)
		d.claims.WriteString("(" + letter + "-)?")
		d.check()
	case a.status == 503 || a.status == 504: // nothing was sent
	default:
		d.l.t.Errorf("%s %s %s: %d %s", method, path, body, a.status, a.raw)
	}
}

// check looks whether the domain is as the answers say.
func (d *account) check() {
	now := d.look()
	fmt.Fprintf(&d.history, "now %+v\n", now)
	was := d.now
	if d.half {
		was.status = now.status
	}
	if now != was && (d.late == nil || now != *d.late) && !d.l.forgets && !d.l.stopped.Load() {
		d.l.t.Errorf("%s is %+v, by the answers it is %+v:\n%s", d.name, now, was, d.history.String())
	}
	d.now = now
}

// look asks until there is an answer.
func (d *account) look() condition {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		a := d.l.ask("GET", d.path()+"?fields=status,autostart", "")
		switch {
		case a == nil:
			return d.now
		case a.status == 404:
			return condition{}
		case a.status == 200:
			var v struct {
				Status    string
				Autostart bool
			}
			if err := json.Unmarshal(a.Results[0], &v); err != nil {
				d.l.t.Error(err)
			}
			return condition{true, v.Autostart, v.Status}
		}
	}
	d.l.t.Errorf("no answer about %s within a minute", d.name)
	d.l.stopped.Store(true)
	return d.now
}
