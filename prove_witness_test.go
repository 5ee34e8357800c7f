package main

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// witness stands between virtgate and a libvirtd. It writes down every call that
// changes something and how it was answered, and can strike at a moment that no
// clock would hit.
type witness struct {
	t      testing.TB
	daemon string // its socket
	path   string // the one for virtgate

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	changes  map[string][]*witnessed // by the domain's UUID
	when     moment
	strike   func()
	wg       sync.WaitGroup
}

// witnessed is one call that changes something. Its letter says which, its
// answer is + for done, - for refused, and ? as long as there is none.
type witnessed struct {
	what   string
	answer byte
}

var letters = map[string]string{
	"DomainDefineXMLFlags":  "D",
	"DomainUndefineFlags":   "U",
	"DomainSetAutostart":    "A",
	"DomainCreateWithFlags": "C",
	"DomainDestroyFlags":    "X",
	"DomainSuspend":         "S",
	"DomainResume":          "R",
}

// moment is a point in the life of a change.
type moment int

const (
	never      moment = iota
	onTheWay          // it has left virtgate and is not with libvirtd yet
	handedOver        // it has just been given to libvirtd
	unheard           // libvirtd has answered, and virtgate has not heard
)

func startWitness(t testing.TB, d *daemon) *witness {
	t.Helper()
	w := &witness{t: t, daemon: d.socket(), path: filepath.Join(d.dir, "witness"), conns: map[net.Conn]bool{}, changes: map[string][]*witnessed{}}
	w.up()
	t.Cleanup(func() {
		w.down()
		w.mu.Lock()
		for c := range w.conns {
			c.Close()
		}
		w.mu.Unlock()
		w.wg.Wait()
	})
	return w
}

// up listens, as a daemon that is there; down leaves the socket of one that died.
func (w *witness) up() {
	w.t.Helper()
	os.Remove(w.path)
	l, err := net.Listen("unix", w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	w.mu.Lock()
	w.listener = l
	w.mu.Unlock()
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.serve(c) })
		}
	})
}

func (w *witness) down() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener.Close()
}

// strikeAt calls fn when the next change is there, and lets that change and its
// connection end. The channel is closed when it has.
func (w *witness) strikeAt(m moment, fn func()) <-chan struct{} {
	struck := make(chan struct{})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.when, w.strike = m, func() {
		defer close(struck)
		fn()
	}
	return struck
}

// strikes tells whether this was the moment.
func (w *witness) strikes(m moment) bool {
	w.mu.Lock()
	fn := w.strike
	now := w.when == m
	if now {
		w.when = never
	}
	w.mu.Unlock()
	if now {
		fn()
	}
	return now
}

// track keeps the connection until its end, so that it can be ended.
func (w *witness) track(c net.Conn) (forget func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = true
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.conns, c)
		c.Close()
	}
}

// serve is one connection of virtgate.
func (w *witness) serve(client net.Conn) {
	defer w.track(client)()
	daemon, err := net.Dial("unix", w.daemon)
	if err != nil {
		return
	}
	defer w.track(daemon)()

	var mu sync.Mutex
	calls := map[int32]*witnessed{}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer client.Close()
		in := bufio.NewReader(daemon)
		for {
			f, err := rpctest.ReadFrame(in)
			if err != nil {
				return
			}
			mu.Lock()
			change := calls[f.Serial]
			mu.Unlock()
			if change != nil && f.Type == wire.TypeReply {
				w.mu.Lock()
				change.answer = '+'
				if f.Status != wire.StatusOK {
					change.answer = '-'
				}
				w.mu.Unlock()
				if w.strikes(unheard) {
					return
				}
			}
			if _, err := client.Write(f.AppendTo(nil)); err != nil {
				return
			}
		}
	})
	defer wg.Wait()
	defer daemon.Close()
	in := bufio.NewReader(client)
	for {
		f, err := rpctest.ReadFrame(in)
		if err != nil {
			return
		}
		change := w.note(f)
		if change != nil {
			mu.Lock()
			calls[f.Serial] = change
			mu.Unlock()
			if w.strikes(onTheWay) {
				return
			}
		}
		if _, err := daemon.Write(f.AppendTo(nil)); err != nil {
			return
		}
		if change != nil && w.strikes(handedOver) {
			return
		}
	}
}

// connections is how many virtgate has open.
func (w *witness) connections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.conns) / 2 // each goes on to libvirtd
}

var uuidElement = regexp.MustCompile(`<uuid>(.*)</uuid>`)

// note writes a call down that changes something.
func (w *witness) note(f wire.Frame) *witnessed {
	proc, _ := xdr.Procedure(f.Program, f.Procedure)
	letter := letters[proc.Name]
	if letter == "" || f.Type != wire.TypeCall {
		return nil
	}
	v, err := xdr.Decode(proc.Args, f.Payload)
	if err != nil {
		w.t.Errorf("%s: %v", proc.Name, err)
		return nil
	}
	args := reflect.ValueOf(v)
	var uuid string
	if letter == "D" {
		uuid = uuidElement.FindStringSubmatch(args.FieldByName("XML").String())[1]
	} else {
		id := args.FieldByName("Dom").FieldByName("UUID").Convert(reflect.TypeFor[libvirtrpc.UUID]())
		uuid = id.Interface().(libvirtrpc.UUID).String()
	}
	if on := args.FieldByName("Autostart"); on.IsValid() && on.Int() == 0 {
		letter = strings.ToLower(letter)
	}
	change := &witnessed{letter, '?'}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changes[uuid] = append(w.changes[uuid], change)
	return change
}

// heard is what was heard of a domain, oldest first: a letter and an answer for
// each change.
func (w *witness) heard(uuid string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, c := range w.changes[uuid] {
		b.WriteString(c.what)
		b.WriteByte(c.answer)
	}
	return b.String()
}
