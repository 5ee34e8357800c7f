package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// Dialer understands a libvirt URI, driver[+transport]://[user@][host][:port]/[path][?extras],
// and returns how to open its socket and the URI that the daemon behind it is
// asked for. The transports are unix, the default without a host, tls, the
// default with one, tcp and ssh. socketPath, when not empty, is the unix socket
// to use, here or on the other side of ssh.
func Dialer(uri, socketPath string) (dial func(context.Context) (net.Conn, error), remote string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, "", fmt.Errorf("bad libvirt URI: %w", errors.Unwrap(err))
	}
	driver, transport, _ := strings.Cut(u.Scheme, "+")
	if driver == "" {
		return nil, "", fmt.Errorf("bad libvirt URI %q: no driver, want for example qemu:///system", u.Redacted())
	}
	if transport == "" && u.Host != "" {
		transport = "tls"
	}
	remote = string(libvirt.RemoteURI(u))
	if socketPath == "" {
		socketPath = u.Query().Get("socket")
	}
	var d func(context.Context) (net.Conn, error)
	switch transport {
	case "", "unix":
		if u.Host != "" {
			return nil, "", fmt.Errorf("bad libvirt URI %q: a host needs the transport tcp, tls or ssh", u.Redacted())
		}
		paths := []string{socketPath}
		if socketPath == "" {
			paths = unixSockets(driver, session(u))
		}
		return func(ctx context.Context) (net.Conn, error) { return dialUnix(ctx, paths) }, remote, nil
	case "tcp":
		d = dialTCP(hostPort(u, "16509"))
	case "tls":
		d = dialTLS(hostPort(u, "16514"), u.Query())
	case "ssh", "libssh", "libssh2":
		paths := []string{socketPath}
		if socketPath == "" {
			if session(u) {
				return nil, "", fmt.Errorf("bad libvirt URI %q: where a user's own daemon listens on another machine is not known: name it with socket=", u.Redacted())
			}
			paths = socketsIn("/run/libvirt", driver)
		}
		d = dialSSH(hostPort(u, "22"), u.User.Username(), paths, u.Query())
	default:
		return nil, "", fmt.Errorf("unknown transport %q in the libvirt URI: want unix, tcp, tls or ssh", transport)
	}
	if u.Hostname() == "" {
		return nil, "", fmt.Errorf("bad libvirt URI %q: the transport %s needs a host", u.Redacted(), transport)
	}
	return func(ctx context.Context) (net.Conn, error) {
		c, err := d(ctx)
		if err != nil {
			return nil, fmt.Errorf("cannot reach libvirt at %s: %w", u.Redacted(), err)
		}
		return c, nil
	}, remote, nil
}

// session tells whether the URI is of a user's own daemon.
func session(u *url.URL) bool { return strings.Trim(u.Path, "/") == "session" }

// unixSockets lists where a driver's daemon may listen on this machine.
func unixSockets(driver string, session bool) []string {
	dir := "/run/libvirt"
	switch {
	case session && os.Getenv("XDG_RUNTIME_DIR") != "":
		dir = filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "libvirt")
	case session: // virGetUserRuntimeDirectory: without XDG_RUNTIME_DIR it is the cache
		dir = filepath.Join(os.Getenv("HOME"), ".cache/libvirt")
	case runtime.GOOS != "linux":
		dir = "/var/run/libvirt"
	}
	return socketsIn(dir, driver)
}

// socketsIn are the sockets in a daemon's directory: of the daemon for
// everything first, then of the driver's own one.
func socketsIn(dir, driver string) []string {
	return []string{filepath.Join(dir, "libvirt-sock"), filepath.Join(dir, "virt"+driver+"d-sock")}
}

// dialUnix opens the first socket that answers. Its error names every socket
// that was tried and says what to do.
func dialUnix(ctx context.Context, paths []string) (net.Conn, error) {
	var d net.Dialer
	d.Timeout = 5 * time.Second
	var advice []string
	tried := map[string][]string{} // by advice
	var cause error
	for _, p := range paths {
		c, err := d.DialContext(ctx, "unix", p)
		if err == nil {
			return c, nil
		}
		if cause == nil || errors.Is(cause, os.ErrNotExist) {
			cause = err
		}
		a := socketAdvice(err)
		if tried[a] == nil {
			advice = append(advice, a)
		}
		tried[a] = append(tried[a], p)
	}
	for i, a := range advice {
		advice[i] = strings.Join(tried[a], ", ") + ": " + a
	}
	return nil, &socketError{"cannot open the libvirt socket: " + strings.Join(advice, "; "), cause}
}

type socketError struct {
	text  string
	cause error
}

func (e *socketError) Error() string { return e.text }
func (e *socketError) Unwrap() error { return e.cause }

func socketAdvice(err error) string {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "no such file (is libvirtd or the driver's daemon installed and started? another place is set with socket= in [libvirtd])"
	case errors.Is(err, os.ErrPermission):
		return "permission denied (run as root or as a member of the group libvirt, or see unix_sock_group in libvirtd.conf)"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nobody listens (the daemon is not running: start libvirtd or its socket unit)"
	case errors.Is(err, syscall.ENOTSOCK), errors.Is(err, syscall.EPROTOTYPE):
		return "not a stream socket (wrong path in socket= of [libvirtd])"
	}
	return err.Error()
}
