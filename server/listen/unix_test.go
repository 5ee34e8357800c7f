//go:build linux

package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// short is a directory whose path leaves room for a socket's.
func short(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestUnix(t *testing.T) {
	path := filepath.Join(short(t), "s")
	gid := os.Getgid()
	if os.Geteuid() == 0 {
		gid = 4711
	}
	l, err := Unix(path, 0o620, gid)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o620 || info.Sys().(*syscall.Stat_t).Gid != uint32(gid) {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if l.Addr().String() != path || IsTLS(l) {
		t.Errorf("listens on %s", l.Addr())
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if p := PeerOf(s); p.UID == nil || *p.UID != uint32(os.Getuid()) || p.PID != int32(os.Getpid()) || p.Certificate != nil {
		t.Errorf("%+v", p)
	}
	if _, err := Unix(path, 0o600, -1); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a second one: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

// The uid is that of who connected, not the server's.
func TestPeerIsTheOtherEnd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can connect as somebody else")
	}
	dir := short(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := Unix(path, 0o666, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// The test's own file may be where nobody else can read it.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "test")
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Dir = dir
	cmd.Env = []string{"LISTEN_TEST_CONNECT=" + path}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4711, Gid: 4712}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p := PeerOf(c); *p.UID != 4711 || p.PID != int32(cmd.Process.Pid) {
		t.Errorf("uid %d, pid %d", *p.UID, p.PID)
	}
}

// What is in the socket's place is replaced only when it is a dead socket.
func TestStaleSockets(t *testing.T) {
	path := filepath.Join(short(t), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	l, err := Unix(path, 0o600, -1)
	if err != nil {
		t.Fatalf("a dead socket: %v", err)
	}
	l.Close()

	for what, put := range map[string]func() error{
		"file":      func() error { return os.WriteFile(path, []byte("x"), 0o600) },
		"directory": func() error { return os.Mkdir(path, 0o700) },
		"link":      func() error { return os.Symlink("elsewhere", path) },
		"fifo":      func() error { return syscall.Mkfifo(path, 0o600) },
	} {
		if err := put(); err != nil {
			t.Fatal(err)
		}
		if _, err := Unix(path, 0o600, -1); err == nil {
			t.Errorf("a %s was replaced", what)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("a %s: %v", what, err)
		}
		os.Remove(path)
	}
	if _, err := Unix(filepath.Join(path, "none"), 0o600, -1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such directory: %v", err)
	}
	if _, err := Unix("/"+strings.Repeat("x", 200), 0o600, -1); err == nil || !strings.Contains(err.Error(), "103 bytes") {
		t.Errorf("a long path: %v", err)
	}
}

// Who has taken the socket's place meanwhile keeps it.
func TestOnlyOwnSocketIsRemoved(t *testing.T) {
	path := filepath.Join(short(t), "s")
	old, err := Unix(path, 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	next, err := Unix(path, 0o600, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	old.Close()
	if c, err := net.Dial("unix", path); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
}

// TestMain is also the other programs that the tests here start.
func TestMain(m *testing.M) {
	if path := os.Getenv("LISTEN_TEST_CONNECT"); path != "" {
		c, err := net.Dial("unix", path)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		c.Read(make([]byte, 1)) // until the other end closes
		os.Exit(0)
	}
	if os.Getenv("LISTEN_TEST_INHERIT") != "" {
		os.Setenv("LISTEN_PID", fmt.Sprint(os.Getpid()))
		inheritor()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inheritor prints what it inherits, and answers one connection on each.
func inheritor() {
	ls, err := Inherited()
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	again, _ := Inherited()
	for _, l := range ls {
		c, err := l.Accept()
		if err != nil {
			fmt.Println("error:", err)
			return
		}
		uid := -1
		if p := PeerOf(c); p.UID != nil {
			uid = int(*p.UID)
		}
		fmt.Println(l.Addr().Network(), l.Addr(), uid, len(again))
		c.Close()
		l.Close()
	}
}

func TestInherited(t *testing.T) {
	if ls, err := Inherited(); len(ls) != 0 || err != nil {
		t.Fatalf("nothing to inherit: %v, %v", ls, err)
	}
	tcp, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(short(t), "s")
	unix, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	unix.SetUnlinkOnClose(false)
	defer unix.Close()
	run := func(files ...*os.File) string {
		t.Helper()
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "LISTEN_TEST_INHERIT=1", fmt.Sprintf("LISTEN_FDS=%d", len(files)))
		cmd.ExtraFiles = files
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	f1, _ := tcp.File()
	f2, _ := unix.File()
	defer f1.Close()
	defer f2.Close()
	for _, l := range []net.Listener{tcp, unix} { // they wait in the queue
		c, err := net.Dial(l.Addr().Network(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if got, want := run(f1, f2), fmt.Sprintf("tcp %s -1 0\nunix %s %d 0\n", tcp.Addr(), path, os.Getuid()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the service manager's file: %v", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if got := run(r); !strings.HasPrefix(got, "error: cannot listen on the inherited socket") {
		t.Errorf("a pipe: %s", got)
	}
}
