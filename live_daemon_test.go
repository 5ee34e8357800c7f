package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// daemon is a libvirtd that belongs to one test.
type daemon struct {
	t    testing.TB
	dir  string
	args []string
	// space is the process that keeps the mount namespace of a daemon with the
	// QEMU driver, 0 for one with the test driver.
	space int
	cmd   *exec.Cmd
	out   bytes.Buffer
}

// startDaemon starts one with the test driver.
func startDaemon(t testing.TB) *daemon {
	t.Helper()
	return startDaemonWith(t, "")
}

// startDaemonWith is startDaemon with more lines of configuration, and arguments.
func startDaemonWith(t testing.TB, settings string, args ...string) *daemon {
	t.Helper()
	liveSocket(t, envTest) // where that is set, libvirtd is installed
	d := newDaemon(t, settings, args...)
	d.start()
	return d
}

// startQEMU starts a daemon with the QEMU driver, in a mount namespace of its
// own, with more lines of configuration. Its domains are still there when it
// has been killed and started again, the running ones included.
func startQEMU(t testing.TB, settings string) *daemon {
	t.Helper()
	liveSocket(t, envQEMU) // where that is set, we are root and the driver is installed
	d := newDaemon(t, settings)
	// The process that keeps the namespace ends with its input, at the latest
	// when the test does. Its first byte of output says that all is mounted.
	space := exec.Command("scripts/private-qemu", d.dir, "cat")
	space.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	said, err := os.Create(filepath.Join(d.dir, "space"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	space.Stderr = said
	in, err := space.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := space.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := space.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.killSpace(space.Process.Pid)
		in.Close()
		space.Wait()
	})
	in.Write([]byte("\n"))
	if _, err := out.Read(make([]byte, 1)); err != nil {
		b, _ := os.ReadFile(said.Name())
		t.Fatalf("no mount namespace for QEMU: %v\n%s", err, b)
	}
	d.space = space.Process.Pid
	d.start()
	eventually(t, "libvirtd with QEMU", 30*time.Second, func() bool { return socketAnswers(d.socket()) })
	return d
}

func newDaemon(t testing.TB, settings string, args ...string) *daemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "vg") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: dir, args: args}
	t.Cleanup(func() {
		d.kill()
		os.RemoveAll(dir)
	})
	d.configure(settings)
	return d
}

// configure sets what the daemon does from its next start on.
func (d *daemon) configure(settings string) {
	d.t.Helper()
	conf := fmt.Sprintf("unix_sock_dir=%q\nauth_unix_rw=\"none\"\nauth_unix_ro=\"none\"\nlog_outputs=\"3:stderr\"\n%s", d.dir, settings)
	if err := os.WriteFile(filepath.Join(d.dir, "libvirtd.conf"), []byte(conf), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

const nobody = 65534 // Debian's user and group of that name

func (d *daemon) socket() string { return filepath.Join(d.dir, "libvirt-sock") }

func (d *daemon) start() {
	d.t.Helper()
	d.out.Reset()
	args := append([]string{"libvirtd", "--config", filepath.Join(d.dir, "libvirtd.conf"), "--pid-file", filepath.Join(d.dir, "pid")}, d.args...)
	if d.space != 0 {
		args = append([]string{"nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", d.space)}, args...) // becomes libvirtd
	}
	d.cmd = exec.Command(args[0], args[1:]...)
	if d.space == 0 {
		d.cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+d.dir, "XDG_CACHE_HOME="+d.dir, "XDG_CONFIG_HOME="+d.dir, "HOME="+d.dir)
	}
	if d.space == 0 && os.Geteuid() == 0 {
		// The daemon of a user who is not root keeps its state in the user's
		// directories, and there may be many.
		d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if err := os.Chown(d.dir, nobody, nobody); err != nil {
			d.t.Fatal(err)
		}
	}
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

// killSpace ends what outlives its daemon, guests and virtlogd: it is what is
// left in the mount namespace of the process.
func (d *daemon) killSpace(holder int) {
	d.kill()
	space, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", holder))
	own, _ := os.Readlink("/proc/self/ns/mnt")
	if err != nil || space == own {
		return
	}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/mnt")
	for _, l := range links {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(l))))
		if to, _ := os.Readlink(l); to == space && pid != holder {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// socketAnswers tells whether a daemon serves, which it does a while after it
// listens.
func socketAnswers(path string) bool {
	c, err := net.Dial("unix", path)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	proc, _ := xdr.Named("AuthList")
	call := wire.Frame{Header: wire.Header{Program: xdr.Program, Version: xdr.Version, Procedure: proc.Number, Serial: 1}}
	if _, err := c.Write(call.AppendTo(nil)); err != nil {
		return false
	}
	_, err = io.ReadFull(c, make([]byte, wire.HeaderLen))
	return err == nil
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
