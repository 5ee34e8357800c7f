package listen

import (
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// Inherited returns the sockets that a service manager has opened and handed
// over (LISTEN_FDS), none when it did not. Its variables are removed from the
// environment.
func Inherited() ([]net.Listener, error) {
	var out []net.Listener
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		f.Close() // the listener has a duplicate
		if err == nil {
			if u, ok := l.(*net.UnixListener); ok {
				err = peersKnown()
				l = &unixListener{UnixListener: u} // the file is the manager's
			}
		}
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, fmt.Errorf("cannot listen on the inherited socket %s: %w", f.Name(), err)
		}
		out = append(out, l)
	}
	return out, nil
}
