package libvirtrpc

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// The dialers to other machines. Go-libvirt has the same ones, but its ssh
// dialer never closes the ssh connection under the channel it returns, and its
// TLS dialer waits for the daemon's first byte without a deadline: a pool of
// disposable connections would leak both. These end with their ctx.

func hostPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func dialTCP(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}
}

// dialTLS opens a connection with libvirt's certificates: those in pkipath=,
// else of the user, else of the host (libvirt.org/kbase/tlscerts.html). They are
// read anew for every connection. no_verify=1 believes any server.
func dialTLS(addr string, query url.Values) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conf, err := tlsConfig(query)
		if err != nil {
			return nil, err
		}
		d := tls.Dialer{Config: conf}
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		// The daemon's first byte says whether it likes our certificate
		// (virNetTLSContextCheckCertificate; 1 is yes).
		var verdict [1]byte
		if _, err = c.Read(verdict[:]); err == nil && verdict[0] != 1 {
			err = errors.New("refused")
		}
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("the libvirt daemon did not accept our client certificate: %w", err)
		}
		return c, nil
	}
}

func tlsConfig(query url.Values) (*tls.Config, error) {
	type place struct{ ca, cert, key string }
	places := []place{{"/etc/pki/CA", "/etc/pki/libvirt", "/etc/pki/libvirt/private"}}
	if me, err := user.Current(); err == nil && me.Uid != "0" {
		own := filepath.Join(me.HomeDir, ".pki/libvirt")
		places = append([]place{{own, own, own}}, places...)
	}
	if p := query.Get("pkipath"); p != "" {
		places = []place{{p, p, p}}
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	conf.InsecureSkipVerify = enabled(query, "no_verify")
	for _, p := range places {
		name := filepath.Join(p.ca, "cacert.pem")
		pem, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificate in it", name)
		}
		break
	}
	if conf.RootCAs == nil && !conf.InsecureSkipVerify {
		return nil, fmt.Errorf("no CA certificate: %s is missing (another directory is set with pkipath= in the URI)",
			filepath.Join(places[0].ca, "cacert.pem"))
	}
	for _, p := range places {
		cert, err := tls.LoadX509KeyPair(filepath.Join(p.cert, "clientcert.pem"), filepath.Join(p.key, "clientkey.pem"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a daemon may do without
		}
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{cert}
		break
	}
	return conf, nil
}

// enabled tells whether a yes-or-no parameter of a libvirt URI is set: any
// number but 0.
func enabled(query url.Values, name string) bool {
	v := query.Get(name)
	return v != "" && v != "0"
}

// dialSSH opens the first socket that answers on the other side of ssh. The host
// has to be in known_hosts= of the URI, or the user's or the system's file; the
// key is keyfile= of the URI, or the agent's, or the user's.
func dialSSH(addr, name string, sockets []string, query url.Values) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		me, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("cannot tell who runs this program: %w", err)
		}
		var d net.Dialer
		raw, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		stop := context.AfterFunc(ctx, func() { raw.Close() })
		defer stop()
		c, err := sshChannel(raw, addr, cmp.Or(name, me.Username), sockets, me.HomeDir, query)
		if err != nil {
			raw.Close()
			return nil, err
		}
		return c, nil
	}
}

func sshChannel(raw net.Conn, addr, name string, sockets []string, home string, query url.Values) (net.Conn, error) {
	hosts, err := knownHosts(home, query)
	if err != nil {
		return nil, err
	}
	signers, release, err := sshKeys(home, query)
	if err != nil {
		return nil, err
	}
	defer release()
	conn, channels, requests, err := ssh.NewClientConn(raw, addr, &ssh.ClientConfig{
		User:              name,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback:   hosts.HostKeyCallback(),
		HostKeyAlgorithms: hosts.HostKeyAlgorithms(addr),
	})
	if err != nil {
		if knownhosts.IsHostUnknown(err) {
			return nil, fmt.Errorf("%w (connect once with ssh, or name the file with known_hosts= in the URI)", err)
		}
		return nil, err
	}
	client := ssh.NewClient(conn, channels, requests)
	for _, socket := range sockets {
		var c net.Conn
		if c, err = client.Dial("unix", socket); err == nil {
			return &sshConn{c, client}, nil
		}
	}
	client.Close()
	return nil, fmt.Errorf("cannot open %s there: %w", strings.Join(sockets, " or "), err)
}

// sshConn is a channel that owns its ssh connection.
type sshConn struct {
	net.Conn
	client *ssh.Client
}

func (c *sshConn) Close() error { return c.client.Close() }

func knownHosts(home string, query url.Values) (*knownhosts.HostKeyDB, error) {
	files := []string{filepath.Join(home, ".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts"}
	if f := query.Get("known_hosts"); f != "" {
		files = []string{f}
	}
	var there []string
	for _, f := range files {
		if _, err := os.Stat(f); err == nil {
			there = append(there, f)
		}
	}
	if there == nil {
		return nil, fmt.Errorf("no known hosts: %s is missing (connect once with ssh, or name the file with known_hosts= in the URI)", files[0])
	}
	return knownhosts.NewDB(there...)
}

// sshKeys are the keys to offer. The agent, when there is one, has to stay
// connected until they were used: release ends that.
func sshKeys(home string, query url.Values) (signers []ssh.Signer, release func(), err error) {
	release = func() {}
	if f := query.Get("keyfile"); f != "" {
		s, err := sshKey(f)
		return []ssh.Signer{s}, release, err
	}
	if path := os.Getenv("SSH_AUTH_SOCK"); path != "" {
		if c, err := net.Dial("unix", path); err == nil {
			release = func() { c.Close() }
			signers, _ = agent.NewClient(c).Signers() // no agent is no mistake
		}
	}
	var bad error
	for _, f := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		s, err := sshKey(filepath.Join(home, ".ssh", f))
		if err == nil {
			signers = append(signers, s)
		} else if !errors.Is(err, fs.ErrNotExist) {
			bad = errors.Join(bad, err)
		}
	}
	if signers == nil {
		release()
		if bad == nil {
			bad = fmt.Errorf("none in %s and no agent", filepath.Join(home, ".ssh"))
		}
		return nil, func() {}, fmt.Errorf("no ssh key (name one with keyfile= in the URI): %w", bad)
	}
	return signers, release, nil
}

func sshKey(file string) (ssh.Signer, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	s, err := ssh.ParsePrivateKey(pem)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		err = errors.New("it has a passphrase: add it to the agent with ssh-add")
	}
	if err != nil {
		return nil, fmt.Errorf("ssh key %s: %w", file, err)
	}
	return s, nil
}
