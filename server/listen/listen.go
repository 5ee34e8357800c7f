// Package listen is where requests come in: TCP addresses, unix sockets and
// those that systemd has opened, with or without TLS; and what can be known of
// who is at the other end. It knows nothing of HTTP.
package listen

import (
	"crypto/x509"
	"net"
)

// Peer is what can be known of who is at the other end of a connection without
// asking: it needs no word of his.
type Peer struct {
	// UID and PID are of the process that connected to a unix socket. UID is
	// nil on other sockets.
	UID *uint32
	PID int32
	// Certificate is the client's, which TLS has verified; nil when there is
	// none. When CertificateErr is not nil it is not good any more.
	Certificate    *x509.Certificate
	CertificateErr error
}

// PeerOf returns who is at the other end of a connection that a listener of
// this package has accepted. With TLS the handshake has to be over.
func PeerOf(c net.Conn) Peer {
	switch c := c.(type) {
	case *tlsConn:
		leaf, err := c.certificate()
		return Peer{Certificate: leaf, CertificateErr: err}
	case *unixConn:
		return Peer{UID: &c.uid, PID: c.pid}
	}
	return Peer{}
}
