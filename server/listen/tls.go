package listen

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"virtgate/auth/reread"
)

// TLSFiles says what a TLS listener uses. All files are PEM.
type TLSFiles struct {
	Cert string // the server's certificate, then those that link it to its CA
	Key  string
	// ClientCA holds the certificates of who may sign clients' certificates.
	// Empty: clients are not asked for any.
	ClientCA string
	Min      uint16 // tls.VersionTLS12 or tls.VersionTLS13
}

// maxPEM bounds what is read of each file, in bytes.
const maxPEM = 1 << 20

// ciphers are those of TLS 1.2 with forward secrecy and authenticated
// encryption. The ones of TLS 1.3 cannot be chosen, and all of them are good.
var ciphers = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// TLS is the certificates of TLS listeners, as their files are now: each
// handshake looks whether they have changed. What cannot be used is not: the
// certificates from before stay, and the log says so once.
type TLS struct {
	log *slog.Logger
	now atomic.Pointer[material]
	mu  sync.Mutex // held to make the next material
}

// material is what one state of the files gives. It does not change.
type material struct {
	files            TLSFiles
	cert, key, given reread.File // given is the ClientCA file
	config           *tls.Config
	said             string // what was warned about
}

// NewTLS reads the files.
func NewTLS(files TLSFiles, log *slog.Logger) (*TLS, error) {
	t := &TLS{log: log}
	use, err := t.Prepare(files)
	if err != nil {
		return nil, err
	}
	use()
	return t, nil
}

// Prepare reads other files, which are used from the call of use on.
func (t *TLS) Prepare(files TLSFiles) (use func(), err error) {
	m, err := load(files)
	if err != nil {
		return nil, err
	}
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.use(m)
	}, nil
}

func (t *TLS) use(m *material) {
	if leaf := m.config.Certificates[0].Leaf; time.Now().After(leaf.NotAfter) {
		t.log.Warn("the TLS certificate has expired", "file", m.files.Cert, "expired", leaf.NotAfter)
	}
	t.now.Store(m)
}

func (m *material) fresh() bool {
	return m.cert.Fresh() && m.key.Fresh() && (m.files.ClientCA == "" || m.given.Fresh())
}

// current looks at the files (one stat each) and returns what they say now.
func (t *TLS) current() *material {
	if m := t.now.Load(); m.fresh() {
		return m
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	// Another handshake may have read them while this one waited.
	m := t.now.Load()
	if m.fresh() {
		return m
	}
	next, err := load(m.files)
	if err != nil {
		next.config, next.said = m.config, err.Error()
		if next.said != m.said {
			t.log.Warn("cannot use the changed TLS files: the certificates from before stay in use", "error", err)
		}
		t.now.Store(next)
		return next
	}
	t.use(next)
	return next
}

// load reads the files. The state of the files is there also with an error.
func load(files TLSFiles) (*material, error) {
	m := &material{files: files, cert: reread.Read(files.Cert, maxPEM), key: reread.Read(files.Key, maxPEM)}
	// Parsed, or of no use: keys need not lie about in memory.
	defer func() { m.cert.Data, m.key.Data, m.given.Data = nil, nil, nil }()
	if files.ClientCA != "" {
		m.given = reread.Read(files.ClientCA, maxPEM)
	}
	if err := errors.Join(m.cert.Err, m.key.Err, m.given.Err); err != nil {
		return m, fmt.Errorf("cannot read TLS files: %w", err)
	}
	pair, err := tls.X509KeyPair(m.cert.Data, m.key.Data)
	if err != nil {
		return m, fmt.Errorf("cannot use the certificate %s with the key %s: %w", files.Cert, files.Key, err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{pair},
		MinVersion:   files.Min,
		CipherSuites: ciphers,
		NextProtos:   []string{"h2", "http/1.1"},
		// A resumed session would bring a client certificate along that was
		// verified by an older ClientCA.
		SessionTicketsDisabled: true,
	}
	if files.ClientCA != "" {
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(m.given.Data) {
			return m, fmt.Errorf("%s holds no certificate", files.ClientCA)
		}
		config.ClientAuth = tls.VerifyClientCertIfGiven
	}
	m.config = config
	return m, nil
}

// Listener does TLS on each connection that l accepts.
func (t *TLS) Listener(l net.Listener) net.Listener {
	return &tlsListener{Listener: l, tls: t, config: &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current().config, nil },
	}}
}

type tlsListener struct {
	net.Listener
	tls    *TLS
	config *tls.Config
}

// IsTLS tells whether l does TLS.
func IsTLS(l net.Listener) bool {
	_, ok := l.(*tlsListener)
	return ok
}

func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	secure := tls.Server(c, l.config)
	return &tlsConn{Conn: secure, secure: secure, tls: l.tls}, nil
}

// tlsConn is a TLS connection that net/http does not know as one. It does the
// handshake with the first Read, which net/http gives the time of the headers,
// and it can be wrapped.
type tlsConn struct {
	net.Conn // secure
	secure   *tls.Conn
	tls      *TLS

	mu    sync.Mutex
	by    *x509.CertPool // who vouched for the client's certificate
	until time.Time      // how long that is good
}

func (c *tlsConn) Read(p []byte) (int, error) {
	n, err := c.secure.Read(p)
	if err != nil && err != io.EOF && !c.secure.ConnectionState().HandshakeComplete {
		c.tls.log.Debug("TLS handshake failed", "remote", c.secure.RemoteAddr(), "error", err)
	}
	return n, err
}

// CloseWrite says that nothing more comes from here.
func (c *tlsConn) CloseWrite() error { return c.secure.CloseWrite() }

// certificate is the client's, nil when there is none or clients are not asked
// for one any more. A connection can be older than the ClientCA file, and than
// the validity of the certificate: each is looked at again.
func (c *tlsConn) certificate() (*x509.Certificate, error) {
	chain := c.secure.ConnectionState().PeerCertificates
	if len(chain) == 0 {
		return nil, nil
	}
	pool := c.tls.current().config.ClientCAs
	if pool == nil {
		return nil, nil
	}
	leaf, now := chain[0], time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == pool && now.Before(c.until) {
		return leaf, nil
	}
	o := x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	for _, ca := range chain[1:] {
		o.Intermediates.AddCert(ca)
	}
	chains, err := leaf.Verify(o)
	if err != nil {
		return leaf, err
	}
	c.by, c.until = pool, leaf.NotAfter
	for _, cert := range chains[0] {
		if cert.NotAfter.Before(c.until) {
			c.until = cert.NotAfter
		}
	}
	return leaf, nil
}
