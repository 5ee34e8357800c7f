package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtgate/server/listen/certtest"
)

// The tests here drive the built binary, and need no libvirtd: who is let in
// gets 503 because there is none.
const (
	noDaemon = "/nonexistent/libvirt-sock"
	letIn    = 503
)

// bare are headers for try that take the usual ones away.
var bare = []string{"X-Auth-Key", "", "X-Auth-Username", ""}

// over makes the gateway's client speak through transport. The gateway is
// stopped without it.
func (g *gateway) over(change func(*http.Transport)) *http.Client {
	tr := &http.Transport{DisableCompression: true, ForceAttemptHTTP2: true}
	change(tr)
	g.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// overUnix speaks through a unix socket.
func (g *gateway) overUnix(path string) *http.Client {
	return g.over(func(tr *http.Transport) {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	})
}

// overTLS speaks TLS and shows the certificates given.
func (g *gateway) overTLS(roots *x509.CertPool, certs ...tls.Certificate) *http.Client {
	return g.over(func(tr *http.Transport) { tr.TLSClientConfig = &tls.Config{RootCAs: roots, Certificates: certs} })
}

// status is that of a list, asked through client.
func (g *gateway) status(client *http.Client, header ...string) int {
	g.t.Helper()
	old := g.http
	g.http = client
	defer func() { g.http = old }()
	return g.do(g.t, "GET", "/libvirt/domains", "", header...).status
}

func TestBinaryTLS(t *testing.T) {
	dir := t.TempDir()
	ca, other := certtest.NewCA(t), certtest.NewCA(t)
	cert, key := ca.Server(t, dir)
	clients := filepath.Join(dir, "clients.pem")
	certtest.Replace(t, clients, ca.PEM)
	g := startGateway(t, "test", noDaemon, "http_server.tls_cert="+cert, "http_server.tls_key="+key, "http_server.tls_client_ca="+clients)
	g.url = strings.Replace(g.url, "http:", "https:", 1)
	smith := ca.Client(t, liveUser)
	for _, c := range []struct {
		what   string
		client *http.Client
		header []string
		want   int
	}{
		{"key", g.overTLS(ca.Pool()), nil, letIn},
		{"nothing", g.overTLS(ca.Pool()), bare, 401},
		{"certificate", g.overTLS(ca.Pool(), smith), bare, letIn},
		{"certificate and another name", g.overTLS(ca.Pool(), smith), []string{"X-Auth-Key", "", "X-Auth-Username", "root"}, 403},
		{"certificate of a stranger", g.overTLS(ca.Pool(), ca.Client(t, "ghost")), bare, 403},
	} {
		if got := g.status(c.client, c.header...); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	// A renewed certificate is there with the next connection.
	other.Server(t, dir)
	if got := g.status(g.overTLS(other.Pool())); got != letIn {
		t.Errorf("renewed: %d", got)
	}
	if _, err := g.overTLS(ca.Pool()).Get(g.url + "/livez"); err == nil {
		t.Error("the old certificate is still in use")
	}
}

func TestBinarySocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "vg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	peers := filepath.Join(dir, "passwd")
	me := fmt.Sprintf("%s:x:%d:7::/:/bin/sh\n", liveUser, os.Getuid())
	if err := os.WriteFile(peers, []byte(me), 0o600); err != nil {
		t.Fatal(err)
	}
	g := startGateway(t, "test", noDaemon, "http_server.address=none", "http_server.socket="+path, "http_server.socket_mode=0600",
		"auth.passwd_file="+peers)
	g.url = "http://virtgate"
	client := g.overUnix(path)
	for _, c := range []struct {
		what   string
		header []string
		want   int
	}{
		{"nothing", bare, letIn},
		{"a key", nil, letIn},
		{"a wrong key", []string{"X-Auth-Key", "wrong"}, 401},
		{"another's name", []string{"X-Auth-Key", "", "X-Auth-Username", "root"}, 403},
	} {
		if got := g.status(client, c.header...); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.WriteFile(peers, []byte("root:x:77:0::/:/bin/sh\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := g.status(client, bare...); got != 403 {
		t.Errorf("a uid without a name: %d", got)
	}
	g.stop()
	if _, err := os.Lstat(path); err == nil {
		t.Error("the socket is still there")
	}
}
