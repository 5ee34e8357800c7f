package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtgate/server/listen/certtest"
)

// inherit hands listeners over as systemd does: the number of the process has
// to be in its environment, which a shell can put there.
func (g *gateway) inherit(t *testing.T, listeners ...interface{ File() (*os.File, error) }) {
	t.Helper()
	g.cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, append([]string{g.cmd.Path}, g.cmd.Args[1:]...)...)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Path = sh
	g.cmd.Env = append(os.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(listeners)))
	for _, l := range listeners {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		g.cmd.ExtraFiles = append(g.cmd.ExtraFiles, f)
	}
}

// Sockets that systemd has opened are used instead of what is configured, TCP
// with TLS, and what waits in their queues is answered.
func TestBinaryInherits(t *testing.T) {
	dir, err := os.MkdirTemp("", "vg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	unix.SetUnlinkOnClose(false)
	defer unix.Close()
	var tcp [2]*net.TCPListener
	for i := range tcp {
		if tcp[i], err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}); err != nil {
			t.Fatal(err)
		}
		defer tcp[i].Close()
	}
	peers := filepath.Join(dir, "passwd")
	if err := os.WriteFile(peers, fmt.Appendf(nil, "%s:x:%d:7::/:/bin/sh\n", liveUser, os.Getuid()), 0o600); err != nil {
		t.Fatal(err)
	}
	ca := certtest.NewCA(t)
	cert, key := ca.Server(t, dir)
	g := newGateway(t, "test", noDaemon, "http_server.port=1", "http_server.socket=/nonexistent/s", "auth.passwd_file="+peers,
		"http_server.tls_cert="+cert, "http_server.tls_key="+key)
	g.inherit(t, tcp[0], unix, tcp[1])
	early, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	fmt.Fprint(early, "GET /livez HTTP/1.0\r\n\r\n")
	g.start()
	early.SetDeadline(time.Now().Add(20 * time.Second))
	if line, err := bufio.NewReader(early).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
		t.Errorf("who came before the server: %q, %v", line, err)
	}
	for _, l := range tcp {
		g.url = "https://" + l.Addr().String()
		if got := g.status(g.overTLS(ca.Pool())); got != letIn {
			t.Errorf("%s: %d", g.url, got)
		}
	}
	g.url = "http://virtgate"
	if got := g.status(g.overUnix(path), bare...); got != letIn {
		t.Errorf("the unix socket: %d", got)
	}
	g.stop()
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the service manager's socket: %v", err)
	}
}

// manager hears what is told to the service manager.
type manager struct {
	t    *testing.T
	path string
	conn *net.UnixConn
}

func newManager(t *testing.T) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "vg")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		os.RemoveAll(dir)
	})
	return &manager{t, path, conn}
}

// start starts a gateway that tells the manager.
func (m *manager) start(g *gateway, env ...string) {
	m.t.Helper()
	g.cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+m.path), env...)
	g.start()
	if got := m.next(false); got["READY"] != "1" || !strings.Contains(got["STATUS"], strings.TrimPrefix(g.url, "http://")) {
		m.t.Fatalf("started: %v", got)
	}
}

// next is the next message, as its fields. Signs of life are left out unless
// they are what is waited for.
func (m *manager) next(watchdog bool) map[string]string {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, 4096)
	for {
		n, err := m.conn.Read(b)
		if err != nil {
			m.t.Fatalf("nothing is told: %v", err)
		}
		fields := map[string]string{}
		for line := range strings.SplitSeq(string(b[:n]), "\n") {
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				m.t.Errorf("%q", b[:n])
			}
			fields[k] = v
		}
		if watchdog == (fields["WATCHDOG"] != "") {
			return fields
		}
	}
}

// What the service manager is told, from the start to the end.
func TestBinaryNotifies(t *testing.T) {
	m := newManager(t)
	g := newGateway(t, "test", noDaemon)
	m.start(g, "WATCHDOG_USEC=600000")
	for range 3 { // without a libvirtd the server is alive all the same
		m.next(true)
	}
	g.cmd.Process.Signal(syscall.SIGHUP)
	got := m.next(false)
	if usec, err := strconv.ParseUint(got["MONOTONIC_USEC"], 10, 64); got["RELOADING"] != "1" || err != nil || usec == 0 {
		t.Errorf("reloading: %v", got)
	}
	if got := m.next(false); got["READY"] != "1" || strings.Contains(got["STATUS"], "refused") {
		t.Errorf("reloaded: %v", got)
	}
	g.write("config.ini", "nonsense")
	if m.hup(g) {
		t.Error("a bad file was taken")
	}
	g.stop()
	if got := m.next(false); got["STOPPING"] != "1" {
		t.Errorf("stopping: %v", got)
	}
}

// Who is not alive is not said to be, and is again when it is.
func TestWatchdog(t *testing.T) {
	m := newManager(t)
	t.Setenv("NOTIFY_SOCKET", m.path)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	asked := make(chan struct{})
	answer := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	n := &notifier{log: slog.New(slog.DiscardHandler)}
	go func() {
		done <- n.watch(ctx, func(context.Context) error { asked <- struct{}{}; return <-answer })
	}()
	for range 3 {
		<-asked
		answer <- errors.New("not alive")
	}
	<-asked // the answer before this one has been dealt with
	m.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	if k, err := m.conn.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes were told of who is not alive", k)
	}
	answer <- nil
	m.next(true)
	cancel()
	for {
		select {
		case <-asked:
			answer <- nil
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			return
		}
	}
}

// hup makes the gateway read its configuration again, waits for the end of that,
// and tells whether the configuration was taken.
func (m *manager) hup(g *gateway) bool {
	m.t.Helper()
	g.cmd.Process.Signal(syscall.SIGHUP)
	if got := m.next(false); got["RELOADING"] != "1" {
		m.t.Fatalf("reloading: %v", got)
	}
	got := m.next(false)
	if got["READY"] != "1" {
		m.t.Fatalf("reloaded: %v", got)
	}
	return !strings.Contains(got["STATUS"], "refused")
}

// Everything that a reload changes, a reload changes; what is wrong in the new
// configuration changes nothing at all.
func TestBinaryReload(t *testing.T) {
	dir := t.TempDir()
	ca, next := certtest.NewCA(t), certtest.NewCA(t)
	cert, key := ca.Server(t, dir)
	base := []string{"http_server.tls_cert=" + cert, "http_server.tls_key=" + key}
	m := newManager(t)
	g := newGateway(t, "test", noDaemon, base...)
	m.start(g)
	g.url = strings.Replace(g.url, "http:", "https:", 1)
	with := func(settings ...string) bool {
		t.Helper()
		g.configure("test", noDaemon, append(base, settings...)...)
		return m.hup(g)
	}
	old := g.overTLS(ca.Pool())
	own := []string{"X-Auth-Key", "smith's own"}
	if got := g.status(old, own...); got != 401 {
		t.Errorf("a key before it is there: %d", got)
	}

	// Keys, groups, body limit.
	if !with("user.smith.key=smith's own", "http_server.body_limit=1024") {
		t.Fatal("refused")
	}
	if got := g.status(old, own...); got != letIn {
		t.Errorf("a new key: %d", got)
	}
	g.http = old
	if a := g.do(t, "POST", "/libvirt/domains", `"`+strings.Repeat("x", 2000)+`"`); a.status != 413 {
		t.Errorf("a body over the new limit: %d", a.status)
	}
	if !with("auth.groups=nosuch") {
		t.Fatal("refused")
	}
	if got := g.status(old); got != 403 {
		t.Errorf("who is not in the new group: %d", got)
	}

	// What is wrong changes nothing, also what would have been right in it.
	if !with("user.smith.key=smith's own") {
		t.Fatal("refused")
	}
	for what, bad := range map[string][]string{
		"an unknown key":         {"http_server.colour=red"},
		"the same key twice":     {"user.jones.key=" + readKey},
		"a file that is missing": {"http_server.tls_key=/nonexistent/key"},
		"a certificate and key that do not fit": {"http_server.tls_key=" + func() string {
			_, k := next.Server(t, t.TempDir())
			return k
		}()},
		"an audit log that cannot be opened": {"audit.file=/nonexistent/audit"},
	} {
		if with(append(bad, "user.eve.key=eve's own")...) {
			t.Errorf("%s: taken", what)
		}
		if got := g.status(old, own...); got != letIn {
			t.Errorf("%s: the old key: %d", what, got)
		}
		if got := g.status(old, "X-Auth-Key", "eve's own", "X-Auth-Username", "eve"); got != 401 {
			t.Errorf("%s: the new key: %d", what, got)
		}
	}

	if g.write("config.ini", "[wrapperd]\nformat=json\n"); m.hup(g) {
		t.Error("a configuration in which nobody may call was taken")
	}
	if got := g.status(old, own...); got != letIn {
		t.Errorf("the old key: %d", got)
	}

	// TLS files of another name, client certificates, and the audit log.
	cert, key = next.Server(t, t.TempDir())
	record := filepath.Join(dir, "audit")
	base = []string{"http_server.tls_cert=" + cert, "http_server.tls_key=" + key, "audit.file=" + record}
	clients := filepath.Join(dir, "clients.pem")
	certtest.Replace(t, clients, ca.PEM)
	if !with("http_server.tls_client_ca=" + clients) {
		t.Fatal("refused")
	}
	if got := g.status(g.overTLS(next.Pool(), ca.Client(t, liveUser)), bare...); got != letIn {
		t.Errorf("a client certificate: %d", got)
	}
	if got := g.status(g.overTLS(next.Pool()), "X-Auth-Key", "wrong"); got != 401 {
		t.Errorf("a wrong key: %d", got)
	}
	if b, err := os.ReadFile(record); err != nil || strings.Count(string(b), "\n") != 1 {
		t.Errorf("the audit log: %s, %v", b, err)
	}
	// logrotate moves the file away.
	if err := os.Rename(record, record+".1"); err != nil {
		t.Fatal(err)
	}
	if !with("http_server.tls_client_ca="+clients, "http_server.port=1") { // a port is for the next start
		t.Fatal("refused")
	}
	if got := g.status(g.overTLS(next.Pool()), "X-Auth-Key", "wrong"); got != 401 {
		t.Errorf("a wrong key: %d", got)
	}
	if b, err := os.ReadFile(record); err != nil || strings.Count(string(b), "\n") != 1 {
		t.Errorf("the audit log after it was moved: %s, %v", b, err)
	}
}

// The level of the log follows, in both directions.
func TestBinaryReloadLogLevel(t *testing.T) {
	m := newManager(t)
	g := newGateway(t, "test", noDaemon)
	m.start(g)
	var ids []string
	for _, quiet := range []string{"false", "true", "false"} {
		g.configure("test", noDaemon, "wrapperd.quiet="+quiet)
		if !m.hup(g) {
			t.Fatal("refused")
		}
		ids = append(ids, g.do(t, "GET", "/livez", "").header.Get("X-Request-Id"))
	}
	g.stop() // then the log is whole
	for i, id := range ids {
		if got := strings.Contains(g.logged(), id); got != (i != 1) {
			t.Errorf("request %d is in the log: %v", i+1, got)
		}
	}
}

// A guesser does not get a new start with every reload.
func TestBinaryReloadRemembersGuesses(t *testing.T) {
	m := newManager(t)
	g := newGateway(t, "test", noDaemon)
	m.start(g)
	for range 30 {
		if got := g.status(g.http, "X-Auth-Key", "guess"); got != 401 {
			t.Fatalf("%d", got)
		}
	}
	if !m.hup(g) {
		t.Fatal("refused")
	}
	if got := g.status(g.http, "X-Auth-Key", "guess"); got != 429 {
		t.Errorf("after a reload: %d", got)
	}
}

// What a reload does not change is named.
func TestFixed(t *testing.T) {
	a, b := defaultConfig(), defaultConfig()
	if got := a.fixed(&b); got != nil {
		t.Errorf("nothing has changed: %v", got)
	}
	b.HTTP.Port, b.HTTP.Key, b.Libvirtd.Driver, b.Log.Debug, b.HTTP.TLS.Cert, b.Auth.Groups = 1, "k", "test", true, "/c", []string{"x"}
	if got := fmt.Sprint(a.fixed(&b)); got != "[[libvirtd] driver [http_server] port [http_server] tls_cert]" {
		t.Errorf("got %v", got)
	}
}
