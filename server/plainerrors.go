package server

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"strconv"

	"virtgate/envelope"
)

// plainErrors puts the envelope around what net/http answers by itself, in
// plain text, to what is not HTTP: there is no handler for a request that could
// not be read. With TLS this works because net/http is given connections that
// it does not know as TLS.
type plainErrors struct{ net.Listener }

func (l plainErrors) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &plainErrorConn{Conn: c}, nil
}

type plainErrorConn struct {
	net.Conn
	plain bool // the client was told that this is TLS
}

// Read tells a client that speaks plain HTTP to a TLS listener so.
func (c *plainErrorConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	var notTLS tls.RecordHeaderError
	if err != nil && !c.plain && errors.As(err, &notTLS) && notTLS.Conn != nil && isHTTP(notTLS.RecordHeader) {
		c.plain = true
		notTLS.Conn.Write(plainError([]byte("HTTP/1.1 400 Bad Request"), "this port takes https only"))
	}
	return n, err
}

// isHTTP tells whether the first bytes of what was not TLS begin a request.
func isHTTP(b [5]byte) bool {
	switch string(b[:]) {
	case "GET /", "HEAD ", "POST ", "PATCH", "DELET", "PUT /", "OPTIO":
		return true
	}
	return false
}

// These are the first bytes of net/http's own answers (badRequestError,
// statusError in net/http/server.go). None of our responses is plain text.
var plainHeader = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

func (c *plainErrorConn) Write(p []byte) (int, error) {
	if i := bytes.Index(p[:min(len(p), 256)], plainHeader); i > 0 && bytes.HasPrefix(p, []byte("HTTP/1.1 ")) {
		why := "this is not an HTTP request that can be read"
		if s := string(p[9:12]); s == "431" || s == "413" {
			why = "the headers are too large"
		}
		if _, err := c.Conn.Write(plainError(p[:i], why)); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// plainError is a whole response whose first line is given.
func plainError(status []byte, why string) []byte {
	body := envelope.Failed(envelope.New(envelope.BadRequest, why)).AppendJSON(nil)
	out := append([]byte(nil), status...)
	for _, h := range safeHeaders {
		out = append(append(append(append(out, "\r\n"...), h[0]...), ": "...), h[1]...)
	}
	out = append(out, "\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	return append(append(out, "\r\n\r\n"...), body...)
}
