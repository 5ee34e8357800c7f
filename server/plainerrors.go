package server

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"virtgate/envelope"
)

// plainErrors puts the envelope around what net/http answers by itself, in
// plain text or without a body: there is no handler for a request that could
// not be read, nor for one that expects what there is not. With TLS this works
// because net/http is given connections that it does not know as TLS.
type plainErrors struct {
	net.Listener
	log *slog.Logger
}

func (l plainErrors) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &plainErrorConn{Conn: c, log: l.log}, nil
}

type plainErrorConn struct {
	net.Conn
	log  *slog.Logger
	told bool // the client, that this is TLS
}

// Read tells a client that speaks plain HTTP to a TLS listener so.
func (c *plainErrorConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	var notTLS tls.RecordHeaderError
	if err != nil && !c.told && errors.As(err, &notTLS) && notTLS.Conn != nil && isHTTP(notTLS.RecordHeader) {
		c.told = true
		notTLS.Conn.Write(c.answer([]byte("HTTP/1.1 400 Bad Request"), "this port takes https only"))
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

// CloseWrite ends our half of the connection. net/http does so before it closes
// a connection on which the client is still sending, so that the client gets to
// see the response.
func (c *plainErrorConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// These are the first bytes of net/http's own answers (badRequestError,
// statusError in net/http/server.go). None of our responses is plain text, and
// none has the status of sendExpectationFailed there.
var (
	plainHeader = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")
	unexpected  = "417"
)

func (c *plainErrorConn) Write(p []byte) (int, error) {
	if len(p) < 12 || !bytes.HasPrefix(p, []byte("HTTP/1.")) {
		return c.Conn.Write(p)
	}
	status := string(p[9:12])
	if status != unexpected && !bytes.Contains(p[:min(len(p), 256)], plainHeader) {
		return c.Conn.Write(p)
	}
	why := "this is not an HTTP request that can be read"
	switch status {
	case "431", "413":
		why = "the headers are too large"
	case unexpected:
		why = "there is nothing to expect but 100-continue"
	}
	line, _, _ := bytes.Cut(p, []byte("\r\n"))
	if _, err := c.Conn.Write(c.answer(line, why)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// answer is a whole response to what is no request, and logs it. line is its
// first one.
func (c *plainErrorConn) answer(line []byte, why string) []byte {
	e := envelope.New(envelope.BadRequest, why)
	id := newRequestID()
	c.log.Info("request", "request_id", id, "remote", remoteAddr(c.RemoteAddr().String()), "status", string(line[9:12]), "code", int(e.Code))
	body := envelope.Failed(e).AppendJSON(nil)
	out := fmt.Appendf(nil, "%s\r\nX-Request-ID: %s\r\n", line, id)
	for _, h := range standing {
		out = fmt.Appendf(out, "%s: %s\r\n", h[0], h[1])
	}
	return fmt.Appendf(out, "Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}
