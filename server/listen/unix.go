package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// maxPath is the longest path of a unix socket that every system takes, in
// bytes: 104 with the zero at its end on some, 108 on Linux.
const maxPath = 103

// Unix listens on a unix socket and finds out who connects to it. group is a
// gid, -1 for that of the process. A file that is there already is replaced
// only if it is a socket on which nobody listens.
//
// The file is removed when the listener is closed, unless another one has taken
// its place.
func Unix(path string, mode fs.FileMode, group int) (net.Listener, error) {
	if err := peersKnown(); err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	l, err := bind(path, mode, group)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", path, err)
	}
	return l, nil
}

func bind(path string, mode fs.FileMode, group int) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path of a unix socket has at most %d bytes, this one has %d", maxPath, len(path))
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// Nobody can connect before group and mode are what they should be. The
	// mask is the whole process's, which opens nothing else at this time.
	mask := syscall.Umask(0o777)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(mask)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	own, err := os.Lstat(path)
	if err == nil && group >= 0 {
		err = os.Lchown(path, -1, group)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	if err != nil {
		l.Close()
		os.Remove(path)
		return nil, err
	}
	return &unixListener{UnixListener: l, path: path, own: own}, nil
}

// removeStale removes a socket that a server left behind which ended without
// cleaning up.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("something that is not a socket is there; it is left alone")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	// Any other answer, no permission among them, does not say that it is dead.
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return errors.New("somebody listens there already")
	}
	return os.Remove(path)
}

// unixListener finds out who connects.
type unixListener struct {
	*net.UnixListener
	path string      // "" when somebody else looks after the file
	own  fs.FileInfo // the file that was made
}

func (l *unixListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if uid, pid, err := peerOf(c); err == nil {
			return &unixConn{UnixConn: c, uid: uid, pid: pid}, nil
		}
		c.Close() // one whose end nobody knows is no reason to stop
	}
}

func (l *unixListener) Close() error {
	if l.path != "" {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.own) {
			os.Remove(l.path)
		}
	}
	return l.UnixListener.Close()
}

// unixConn is a connection whose other end is known.
type unixConn struct {
	*net.UnixConn
	uid uint32
	pid int32
}
