package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"strconv"

	"virtgate/auth"
	"virtgate/server/listen"
)

// places are where requests are to come in.
type places struct {
	inherited []net.Listener // opened by the service manager; then there are no others
	address   string         // of TCP, "" for none
	socket    string         // "" for none
	hosts     []string       // those of TCP, for checkExposed
	unix      bool           // there is a unix socket
}

// places says where to listen. flag is --listen.
func (c *config) places(flag string, inherited []net.Listener) (places, error) {
	p := places{inherited: inherited, address: c.listen(), socket: c.HTTP.Socket}
	if flag != "" {
		p.address = flag
	}
	if len(inherited) > 0 {
		if flag != "" {
			return p, fmt.Errorf("cannot listen on %q: the service manager has opened other sockets already", flag)
		}
		p.address, p.socket = "", ""
		for _, l := range inherited {
			if tcp, ok := l.Addr().(*net.TCPAddr); ok {
				p.hosts = append(p.hosts, tcp.IP.String())
			} else {
				p.unix = true
			}
		}
		return p, nil
	}
	p.unix = p.socket != ""
	if p.address != "" {
		host, _, err := net.SplitHostPort(p.address)
		if err != nil {
			return p, fmt.Errorf("cannot listen on %q: want address:port", p.address)
		}
		p.hosts = []string{host}
	} else if !p.unix {
		return p, errors.New("[http_server] address = \"none\": there is no socket to listen on instead")
	}
	return p, nil
}

// onlyHere moves TCP to loopback, for who has no key. What was there is
// returned when it was another address.
func (p *places) onlyHere() (moved string, err error) {
	for _, host := range p.hosts {
		switch {
		case loopback(host):
		case p.inherited != nil:
			return "", fmt.Errorf("no key is configured: refused on %s, which other machines can reach and the service manager has opened", printHost(host))
		default:
			moved = printHost(host)
			_, port, _ := net.SplitHostPort(p.address)
			p.hosts = []string{"127.0.0.1"}
			p.address = net.JoinHostPort(p.hosts[0], port)
		}
	}
	return moved, nil
}

func (p *places) String() string {
	switch {
	case p.address == "":
		return p.socket
	case p.socket == "":
		return p.address
	}
	return p.address + ", " + p.socket
}

// open opens the places, TCP with TLS if c says so.
func (p *places) open(c *config, log *slog.Logger) (all []net.Listener, t *listen.TLS, err error) {
	defer func() {
		if err != nil {
			for _, l := range all {
				l.Close()
			}
		}
	}()
	if c.HTTP.TLS.Cert != "" {
		if t, err = listen.NewTLS(c.HTTP.TLS, log); err != nil {
			return nil, nil, err
		}
	}
	all = p.inherited
	if p.address != "" {
		l, err := net.Listen("tcp", p.address)
		if err != nil {
			return all, nil, fmt.Errorf("cannot listen: %w", err)
		}
		all = append(all, l)
	}
	for i, l := range all {
		if _, tcp := l.Addr().(*net.TCPAddr); tcp && t != nil {
			all[i] = t.Listener(l)
		}
	}
	if p.socket != "" {
		gid, err := groupID(c.HTTP.SocketGroup)
		if err != nil {
			return all, nil, err
		}
		l, err := listen.Unix(p.socket, c.HTTP.SocketMode, gid)
		if err != nil {
			return all, nil, err
		}
		all = append(all, l)
	}
	return all, t, nil
}

// groupID is the gid of a group, -1 for none.
func groupID(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("[http_server] socket_group = %q: %w", name, err)
	}
	return strconv.Atoi(g.Gid)
}

// auth is the part of the configuration that says who is let in; unix, that
// there is a unix socket.
func (c *config) auth(unix bool, log *slog.Logger) auth.Config {
	return auth.Config{
		Required:     c.HTTP.KeyRequired,
		Key:          c.HTTP.Key,
		Groups:       c.Auth.Groups,
		GroupFile:    c.Auth.GroupFile,
		PasswdFile:   c.Auth.PasswdFile,
		ServiceKeys:  c.ServiceKeys,
		Users:        c.Users,
		Certificates: c.HTTP.TLS.ClientCA != "",
		Peers:        unix && c.HTTP.SocketPeer,
		Warn:         func(msg string, err error) { log.Warn(msg, "error", err) },
	}
}
