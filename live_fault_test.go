package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// daemon is a libvirtd with the test driver that belongs to one test.
type daemon struct {
	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
	out  bytes.Buffer
}

func startDaemon(t testing.TB) *daemon {
	t.Helper()
	return startDaemonWith(t, "")
}

// startDaemonWith is startDaemon with more lines of configuration, and arguments.
func startDaemonWith(t testing.TB, settings string, args ...string) *daemon {
	t.Helper()
	liveSocket(t, envTest)             // where that is set, libvirtd is installed
	dir, err := os.MkdirTemp("", "vg") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: dir, args: args}
	conf := fmt.Sprintf("unix_sock_dir=%q\nauth_unix_rw=\"none\"\nauth_unix_ro=\"none\"\nlog_outputs=\"3:stderr\"\n%s", dir, settings)
	if err := os.WriteFile(filepath.Join(dir, "libvirtd.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	d.start()
	t.Cleanup(func() {
		d.kill()
		os.RemoveAll(dir)
	})
	return d
}

const nobody = 65534 // Debian's user and group of that name

func (d *daemon) socket() string { return filepath.Join(d.dir, "libvirt-sock") }

func (d *daemon) start() {
	d.t.Helper()
	d.out.Reset()
	d.cmd = exec.Command("libvirtd", append(d.args, "--config", filepath.Join(d.dir, "libvirtd.conf"), "--pid-file", filepath.Join(d.dir, "pid"))...)
	if os.Geteuid() == 0 {
		// The daemon of a user who is not root keeps its state in the user's
		// directories, and there may be many.
		d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if err := os.Chown(d.dir, nobody, nobody); err != nil {
			d.t.Fatal(err)
		}
	}
	d.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+d.dir, "XDG_CACHE_HOME="+d.dir, "XDG_CONFIG_HOME="+d.dir, "HOME="+d.dir)
	d.cmd.Stderr = &d.out
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) signal(s syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// kill ends the daemon as a crash would.
func (d *daemon) kill() {
	if d.cmd == nil {
		return
	}
	d.cmd.Process.Signal(syscall.SIGCONT)
	d.cmd.Process.Kill()
	d.cmd.Wait()
	d.cmd = nil
}

// A stopped libvirtd: every request ends within its deadline, readiness says
// so, and all is well by itself when it goes on.
func TestLiveDaemonStopped(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket(), "libvirtd.call_timeout=1s", "http_server.request_timeout=3s")
	eventually(t, "ready", 10*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })
	d.signal(syscall.SIGSTOP)

	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			method, path, body := "GET", "/libvirt/domains", ""
			switch i % 3 {
			case 1:
				path = "/libvirt/domains/by-name/test"
			case 2:
				method, path, body = "PATCH", "/libvirt/domains/by-name/test", `{"autostart":true}`
			}
			a, err := g.try(method, path, body)
			if err != nil {
				t.Error(err)
				return
			}
			if a.status != 504 && a.status != 503 {
				t.Errorf("%s %s with libvirtd stopped: %d %s", method, path, a.status, a.raw)
			}
			if a.took > 5*time.Second {
				t.Errorf("%s %s took %s", method, path, a.took)
			}
		})
	}
	wg.Wait()
	if a := g.do(t, "GET", "/readyz", ""); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("readyz with libvirtd stopped: %d, %v", a.status, a.header)
	}
	if a := g.do(t, "GET", "/livez", ""); a.status != 200 {
		t.Errorf("livez with libvirtd stopped: %d", a.status)
	}
	d.signal(syscall.SIGCONT)
	eventually(t, "an answer after SIGCONT", 15*time.Second, func() bool {
		return g.do(t, "GET", "/libvirt/domains", "").status == 200
	})
}

// libvirtd killed and started again under load: no request hangs, and service
// is back within 2 s of the daemon.
func TestLiveDaemonKilled(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket())
	eventually(t, "ready", 10*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 200 })

	var stop atomic.Bool
	var wg sync.WaitGroup
	var unknown atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			for n := 0; !stop.Load() && n < 100_000; n++ {
				method, path, body := "GET", "/libvirt/domains", ""
				switch (i + n) % 4 {
				case 1:
					path = "/libvirt/domains/by-name/test"
				case 2:
					method, path, body = "PATCH", "/libvirt/domains/by-name/test", `{"autostart":true}`
				case 3:
					method, path, body = "POST", "/libvirt/domains", fmt.Sprintf(`{"name":"k%d-%d","os":"Linux"}`, i, n)
				}
				a, err := g.try(method, path, body)
				switch {
				case err != nil:
					t.Error(err)
					return
				case a.took > 15*time.Second:
					t.Errorf("%s %s took %s", method, path, a.took)
				case a.status == 503 && strings.Contains(a.raw, "outcome is unknown"):
					unknown.Add(1)
					if method == "GET" || a.header.Get("Retry-After") != "" {
						t.Errorf("%s %s: %s", method, path, a.raw)
					}
				case a.status != 200 && a.status != 201 && a.status != 503:
					t.Errorf("%s %s: %d %s", method, path, a.status, a.raw)
				}
			}
		})
	}
	for range 3 {
		d.kill()
		eventually(t, "readyz 503", 10*time.Second, func() bool { return g.do(t, "GET", "/readyz", "").status == 503 })
		d.start()
		eventually(t, "the socket", 10*time.Second, func() bool { return socketAnswers(d.socket()) })
		up := time.Now()
		eventually(t, "service again", 2*time.Second, func() bool { return g.do(t, "GET", "/libvirt/domains", "").status == 200 })
		t.Logf("served again %s after the daemon's socket answered", time.Since(up).Round(time.Millisecond))
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d changes with unknown outcome", unknown.Load())
}

// Without libvirtd the server starts, says what is wrong, and serves the first
// request after the daemon is there.
func TestLiveDaemonLater(t *testing.T) {
	d := startDaemon(t)
	d.kill()
	g := startGateway(t, "test", d.socket())
	if a := g.do(t, "GET", "/libvirt/domains", ""); a.status != 503 || a.code() != 10 || a.header.Get("Retry-After") == "" {
		t.Errorf("without libvirtd: %d %s", a.status, a.raw)
	}
	d.start()
	eventually(t, "the socket", 10*time.Second, func() bool { return socketAnswers(d.socket()) })
	if a := g.do(t, "GET", "/libvirt/domains", ""); a.status != 200 {
		t.Errorf("the first request after libvirtd came: %d %s", a.status, a.raw)
	}
}
