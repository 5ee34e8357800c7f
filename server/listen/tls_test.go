package listen

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"virtgate/server/listen/certtest"
)

// warnings counts what is logged at the level of a warning.
type warnings struct {
	slog.Handler
	n *atomic.Int64
}

func newWarnings() warnings { return warnings{slog.DiscardHandler, new(atomic.Int64)} }

func (w warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

func (w warnings) Handle(context.Context, slog.Record) error { w.n.Add(1); return nil }

// greeter is a TLS server that tells every client which peer it has.
type greeter struct {
	addr  string
	tls   *TLS
	peers chan Peer
	warn  *atomic.Int64
}

func greet(t *testing.T, files TLSFiles) *greeter {
	t.Helper()
	w := newWarnings()
	tl, err := NewTLS(files, slog.New(w))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &greeter{l.Addr().String(), tl, make(chan Peer, 1), w.n}
	l = tl.Listener(l)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				for {
					if _, err := c.Read(make([]byte, 1)); err != nil {
						return
					}
					g.peers <- PeerOf(c)
					io.WriteString(c, "!")
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return g
}

// dial makes a connection and exchanges a byte, after which the server knows
// its peer.
func (g *greeter) dial(c *tls.Config) (*tls.Conn, Peer, error) {
	raw, err := net.DialTimeout("tcp", g.addr, 10*time.Second)
	if err != nil {
		return nil, Peer{}, err
	}
	c.ServerName = "localhost"
	conn := tls.Client(raw, c)
	p, err := g.ask(conn)
	if err != nil {
		raw.Close()
	}
	return conn, p, err
}

func (g *greeter) ask(c net.Conn) (Peer, error) {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, "?"); err != nil {
		return Peer{}, err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return Peer{}, err
	}
	return <-g.peers, nil
}

func TestTLSVersionsAndCiphers(t *testing.T) {
	ca := certtest.NewCA(t)
	cert, key := ca.Server(t, t.TempDir())
	for _, c := range []struct {
		name     string
		min      uint16 // of the server
		low, top uint16 // of the client
		suites   []uint16
		want     uint16 // 0: refused
	}{
		{"both new", tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS13, nil, tls.VersionTLS13},
		{"old client", tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS12, nil, tls.VersionTLS12},
		{"old client, strict server", tls.VersionTLS13, tls.VersionTLS12, tls.VersionTLS12, nil, 0},
		{"ancient client", tls.VersionTLS12, tls.VersionTLS10, tls.VersionTLS11, nil, 0},
		{"CBC", tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}, 0},
		{"no forward secrecy", tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}, 0},
		{"ChaCha", tls.VersionTLS12, tls.VersionTLS12, tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256}, tls.VersionTLS12},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := greet(t, TLSFiles{Cert: cert, Key: key, Min: c.min})
			conn, p, err := g.dial(&tls.Config{RootCAs: ca.Pool(), MinVersion: c.low, MaxVersion: c.top, CipherSuites: c.suites})
			if (err == nil) != (c.want != 0) {
				t.Fatalf("got %v", err)
			}
			if err == nil {
				if v := conn.ConnectionState().Version; v != c.want || p.Certificate != nil {
					t.Errorf("version %x, %+v", v, p)
				}
				conn.Close()
			}
		})
	}
}

// age makes files look as if they had been there for long.
func age(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		when := time.Now().Add(-time.Hour)
		if err := os.Chtimes(p, when, when); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTLSFilesAreFollowed(t *testing.T) {
	dir := t.TempDir()
	before, after := certtest.NewCA(t), certtest.NewCA(t)
	cert, key := before.Server(t, dir)
	age(t, cert, key)
	g := greet(t, TLSFiles{Cert: cert, Key: key, Min: tls.VersionTLS12})
	served := func(what string, by *certtest.CA) {
		t.Helper()
		for range 2 {
			conn, _, err := g.dial(&tls.Config{RootCAs: by.Pool()})
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			conn.Close()
		}
	}
	served("at first", before)
	same := g.tls.now.Load()
	served("unchanged", before)
	if g.tls.now.Load() != same {
		t.Error("unchanged files were read again")
	}

	broken := map[string]func(){
		"a certificate that does not fit the key": func() {
			other := filepath.Join(t.TempDir())
			c, _ := after.Server(t, other)
			data, _ := os.ReadFile(c)
			certtest.Replace(t, cert, data)
		},
		"no certificate at all": func() { certtest.Replace(t, cert, []byte("nonsense\n")) },
		"no file":               func() { os.Remove(cert) },
	}
	for what, change := range broken {
		g.warn.Store(0)
		change()
		served(what, before)
		if n := g.warn.Load(); n != 1 {
			t.Errorf("%s: warned %d times", what, n)
		}
	}
	after.Server(t, dir)
	age(t, cert, key)
	g.warn.Store(0)
	served("renewed", after)
	if n := g.warn.Load(); n != 0 {
		t.Errorf("warned %d times of an ordinary change", n)
	}
}

func TestTLSPrepare(t *testing.T) {
	one, two := certtest.NewCA(t), certtest.NewCA(t)
	cert, key := one.Server(t, t.TempDir())
	g := greet(t, TLSFiles{Cert: cert, Key: key, Min: tls.VersionTLS12})
	if _, err := g.tls.Prepare(TLSFiles{Cert: cert, Key: filepath.Join(t.TempDir(), "none"), Min: tls.VersionTLS12}); err == nil {
		t.Error("a key that is not there was taken")
	}
	cert, key = two.Server(t, t.TempDir())
	use, err := g.tls.Prepare(TLSFiles{Cert: cert, Key: key, Min: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	if conn, _, err := g.dial(&tls.Config{RootCAs: one.Pool()}); err != nil {
		t.Fatalf("prepared is not used: %v", err)
	} else {
		conn.Close()
	}
	use()
	conn, _, err := g.dial(&tls.Config{RootCAs: two.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if _, _, err := g.dial(&tls.Config{RootCAs: two.Pool(), MaxVersion: tls.VersionTLS12}); err == nil {
		t.Error("the new minimum does not hold")
	}
}

func TestNewTLSRefuses(t *testing.T) {
	dir := t.TempDir()
	cert, key := certtest.NewCA(t).Server(t, dir)
	empty := filepath.Join(dir, "empty")
	certtest.Replace(t, empty, nil)
	for _, files := range []TLSFiles{
		{Cert: filepath.Join(dir, "none"), Key: key}, {Cert: cert, Key: filepath.Join(dir, "none")},
		{Cert: cert, Key: cert}, {Cert: cert, Key: key, ClientCA: empty}, {Cert: cert, Key: key, ClientCA: filepath.Join(dir, "none")},
	} {
		_, err := NewTLS(files, slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%+v: %v", files, err)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	ca, stranger := certtest.NewCA(t), certtest.NewCA(t)
	cert, key := ca.Server(t, dir)
	clients := filepath.Join(dir, "clients.pem")
	certtest.Replace(t, clients, ca.PEM)
	g := greet(t, TLSFiles{Cert: cert, Key: key, ClientCA: clients, Min: tls.VersionTLS12})
	with := func(c ...tls.Certificate) *tls.Config { return &tls.Config{RootCAs: ca.Pool(), Certificates: c} }

	conn, p, err := g.dial(with())
	if err != nil || p.Certificate != nil {
		t.Fatalf("without a certificate: %+v, %v", p, err)
	}
	conn.Close()
	conn, p, err = g.dial(with(ca.Client(t, "smith")))
	if err != nil || p.CertificateErr != nil || p.Certificate.Subject.CommonName != "smith" {
		t.Fatalf("with one: %+v, %v", p, err)
	}
	for name, c := range map[string]tls.Certificate{
		"expired":       ca.Client(t, "smith", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"for servers":   ca.Client(t, "smith", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		"not yet valid": ca.Client(t, "smith", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
	} {
		if _, p, err := g.dial(with(c)); err == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	// A client of crypto/tls does not show a certificate that the server's list
	// of CAs has no place for; others do.
	c := stranger.Client(t, "smith")
	insist := with()
	insist.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c, nil }
	if _, p, err := g.dial(insist); err == nil {
		t.Errorf("of a stranger: %+v", p)
	}

	// The connection that was made with a good certificate outlives its CA, and
	// is not believed any more.
	if p, err := g.ask(conn); err != nil || p.CertificateErr != nil {
		t.Fatalf("%+v, %v", p, err)
	}
	certtest.Replace(t, clients, stranger.PEM)
	if p, err := g.ask(conn); err != nil || p.Certificate == nil || p.CertificateErr == nil {
		t.Errorf("after its CA is gone: %+v, %v", p, err)
	}
	certtest.Replace(t, clients, append(append([]byte(nil), stranger.PEM...), ca.PEM...))
	if p, err := g.ask(conn); err != nil || p.CertificateErr != nil {
		t.Errorf("after its CA is back: %+v, %v", p, err)
	}
	use, err := g.tls.Prepare(TLSFiles{Cert: cert, Key: key, Min: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	use()
	if p, err := g.ask(conn); err != nil || p.Certificate != nil || p.CertificateErr != nil {
		t.Errorf("after certificates are not asked for any more: %+v, %v", p, err)
	}
	conn.Close()
}

// A certificate that ends while its connection lives is not good any more.
func TestClientCertificateExpires(t *testing.T) {
	dir := t.TempDir()
	ca := certtest.NewCA(t)
	cert, key := ca.Server(t, dir)
	clients := filepath.Join(dir, "clients.pem")
	certtest.Replace(t, clients, ca.PEM)
	g := greet(t, TLSFiles{Cert: cert, Key: key, ClientCA: clients, Min: tls.VersionTLS12})
	end := time.Now().Add(3 * time.Second)
	conn, p, err := g.dial(&tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{
		ca.Client(t, "smith", func(c *x509.Certificate) { c.NotAfter = end }),
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for p.CertificateErr == nil {
		if time.Now().After(end.Add(10 * time.Second)) {
			t.Fatal("an expired certificate is good")
		}
		time.Sleep(50 * time.Millisecond) // the pause between two looks
		if p, err = g.ask(conn); err != nil {
			t.Fatal(err)
		}
	}
	var invalid x509.CertificateInvalidError
	if time.Now().Before(end.Truncate(time.Second)) || !errors.As(p.CertificateErr, &invalid) || invalid.Reason != x509.Expired {
		t.Errorf("%v", p.CertificateErr)
	}
}
