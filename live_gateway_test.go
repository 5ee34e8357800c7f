package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The credentials of every gateway that a test starts.
const (
	liveKey  = "a key for tests"
	liveUser = "smith"
	readKey  = "a service key for tests"
)

// gateway is a running virtgate.
type gateway struct {
	t    testing.TB
	url  string
	dir  string     // of its files, config.ini among them
	cmd  *exec.Cmd  // nil: it runs within the test
	pid  int        // 0 likewise
	end  func()     // asks it to end, as a service manager does
	kill func()     // ends it, if that can be
	done chan error // how it ended
	http *http.Client
	once sync.Once // ended

	mu  sync.Mutex
	log bytes.Buffer
}

// startGateway starts the binary on a daemon's socket. settings are lines of
// the configuration, each "section.key=value".
func startGateway(t testing.TB, driver, socket string, settings ...string) *gateway {
	t.Helper()
	g := newGateway(t, driver, socket, settings...)
	g.start()
	return g
}

// newGateway is startGateway without the start.
func newGateway(t testing.TB, driver, socket string, settings ...string) *gateway {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, dir: t.TempDir()}
	g.cmd = exec.Command(bin, "--config", g.configure(driver, socket, settings...))
	g.cmd.Dir = g.dir
	return g
}

func (g *gateway) start() {
	g.t.Helper()
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.pid = g.cmd.Process.Pid
	g.end = func() { g.cmd.Process.Signal(syscall.SIGTERM) }
	g.kill = func() { g.cmd.Process.Kill() }
	g.listen(stderr, g.cmd.Wait)
}

// startInside is startGateway without a process of its own: the same program
// runs within the test.
func startInside(t testing.TB, driver, socket string, settings ...string) *gateway {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g := &gateway{t: t, dir: t.TempDir(), end: cancel, kill: func() {}}
	// The program sets the number of threads: it stays as it is.
	config := g.configure(driver, socket, append(settings, fmt.Sprintf("http_server.threads=%d", runtime.GOMAXPROCS(0)))...)
	stderr, log := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--config", config}, nil, strings.NewReader(""), io.Discard, log)
		log.Close()
	}()
	g.listen(stderr, func() error { return <-ended })
	return g
}

// write writes one of the gateway's files.
func (g *gateway) write(name, text string) string {
	g.t.Helper()
	path := filepath.Join(g.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	return path
}

// configure writes the configuration.
func (g *gateway) configure(driver, socket string, settings ...string) string {
	g.t.Helper()
	passwd := g.write("passwd", liveUser+":x:4711:4711::/:/bin/sh\n")
	group := g.write("group", "libvirt:x:1:"+liveUser+"\nkvm:x:2:"+liveUser+"\n")
	sections := map[string][]string{
		"libvirtd":         {"driver=" + driver, "socket=" + socket},
		"http_server":      {"auth-key=" + liveKey, "port=0"},
		"auth":             {"group_file=" + group, "passwd_file=" + passwd},
		"service_key.read": {"key=" + readKey, "allow=domains:read"},
		"wrapperd":         {"format=json"},
	}
	for _, s := range settings {
		name, _, _ := strings.Cut(s, "=")
		i := strings.LastIndexByte(name, '.')
		sections[s[:i]] = append(sections[s[:i]], s[i+1:])
	}
	var ini strings.Builder
	for _, s := range sorted(sections) {
		fmt.Fprintf(&ini, "[%s]\n%s\n", s, strings.Join(sections[s], "\n"))
	}
	return g.write("config.ini", ini.String())
}

// listen waits until the program, whose log is stderr, says where it listens.
func (g *gateway) listen(stderr io.Reader, wait func() error) {
	g.t.Helper()
	g.done = make(chan error, 1)
	g.http = &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true},
		Timeout:   2 * time.Minute,
	}
	address := make(chan string, 1)
	go g.readLog(stderr, address, wait)
	g.t.Cleanup(g.stop)
	select {
	case a, ok := <-address:
		if !ok {
			g.t.Fatalf("virtgate ended at its start:\n%s", g.logged())
		}
		g.url = "http://" + a
	case <-time.After(20 * time.Second):
		g.t.Fatal("virtgate did not start to listen")
	}
}

// readLog keeps the log and finds the address in it; then it waits for the
// program's end.
func (g *gateway) readLog(r io.Reader, address chan<- string, wait func() error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	found := false
	for in.Scan() {
		g.mu.Lock()
		g.log.Write(append(in.Bytes(), '\n'))
		g.mu.Unlock()
		var line struct{ Address string }
		if !found && json.Unmarshal(in.Bytes(), &line) == nil && line.Address != "" {
			address <- line.Address
			found = true
		}
	}
	if !found {
		close(address)
	}
	g.done <- wait()
}

func (g *gateway) logged() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

// stop ends the program and demands a clean end.
func (g *gateway) stop() { g.once.Do(g.stopOnce) }

func (g *gateway) stopOnce() {
	g.http.CloseIdleConnections()
	g.end()
	select {
	case err := <-g.done:
		if err != nil {
			g.t.Errorf("virtgate ended with %v:\n%s", err, tail(g.logged(), 40000))
		}
	case <-time.After(40 * time.Second):
		g.t.Errorf("virtgate did not end within 40 s")
		if g.kill(); g.pid != 0 {
			<-g.done
		}
	}
	if strings.Contains(g.logged(), liveKey) || strings.Contains(g.logged(), readKey) {
		g.t.Error("a key is in the log")
	}
}
