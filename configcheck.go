package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"virtgate/auth"
)

// check is what only the whole can show.
func (c *config) check() error {
	if c.HTTP.RequestTimeout < c.Libvirtd.CallTimeout {
		return fmt.Errorf("[http_server] request_timeout = %q: it is shorter than [libvirtd] call_timeout, %s", c.HTTP.RequestTimeout, c.Libvirtd.CallTimeout)
	}
	if c.Libvirtd.Hostname == "" {
		switch c.Libvirtd.Transport {
		case "", "unix":
		default:
			return fmt.Errorf("[libvirtd] transport = %q: it needs hostname", c.Libvirtd.Transport)
		}
	}
	for _, s := range c.ServiceKeys {
		if s.Key == "" || len(s.Allow) == 0 {
			return fmt.Errorf("[%s%s] needs both key and allow", servicePrefix, s.Name)
		}
	}
	for _, u := range c.Users {
		if u.Key == "" && u.NextKey == "" && len(u.Allow) == 0 {
			return fmt.Errorf("[%s%s] needs key, next_key or allow", userPrefix, u.Name)
		}
	}
	if c.Audit.Required && c.Audit.File == "" {
		return errors.New("[audit] required needs file")
	}
	if t := c.HTTP.TLS; (t.Cert == "") != (t.Key == "") {
		return errors.New("[http_server] tls_cert and tls_key go together")
	} else if t.Cert == "" && t.ClientCA != "" {
		return errors.New("[http_server] tls_client_ca needs tls_cert and tls_key")
	}
	return nil
}

// checkExposed refuses what must not be reachable from other machines.
func (c *config) checkExposed(host string) error {
	if loopback(host) {
		return nil
	}
	if !c.HTTP.KeyRequired {
		return fmt.Errorf("[http_server] auth-key-required = \"no\": refused on %s, which other machines can reach; listen on 127.0.0.1, or require a key", printHost(host))
	}
	if auth.IsSampleKey(c.HTTP.Key) {
		return fmt.Errorf("[http_server] auth-key: it is a sample key that everybody knows, refused on %s; make another one", printHost(host))
	}
	for _, s := range c.ServiceKeys {
		if auth.IsSampleKey(s.Key) {
			return fmt.Errorf("[%s%s] key: it is a sample key that everybody knows, refused on %s; make another one", servicePrefix, s.Name, printHost(host))
		}
	}
	for _, u := range c.Users {
		if auth.IsSampleKey(u.Key) || auth.IsSampleKey(u.NextKey) {
			return fmt.Errorf("[%s%s] key: it is a sample key that everybody knows, refused on %s; make another one", userPrefix, u.Name, printHost(host))
		}
	}
	return nil
}

func printHost(host string) string {
	if host == "" {
		return "all addresses"
	}
	return host
}

// loopback tells whether only this machine can reach the host.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// noKey tells whether nobody could call; unix, that there is a unix socket.
func (c *config) noKey(unix bool) bool {
	own := slices.ContainsFunc(c.Users, func(u auth.User) bool { return u.Key != "" || u.NextKey != "" })
	return c.HTTP.KeyRequired && c.HTTP.Key == "" && len(c.ServiceKeys) == 0 && !own &&
		c.HTTP.TLS.ClientCA == "" && !(unix && c.HTTP.SocketPeer)
}

// noAddress is the [http_server] address without which only the socket is
// listened on.
const noAddress = "none"

// listen is the TCP address to listen on, "" for none.
func (c *config) listen() string {
	if c.HTTP.Address == noAddress {
		return ""
	}
	return net.JoinHostPort(strings.Trim(c.HTTP.Address, "[]"), strconv.Itoa(c.HTTP.Port))
}
