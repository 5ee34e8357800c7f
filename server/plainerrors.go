package server

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"

	"virtgate/envelope"
)

// plainErrors puts the envelope around what net/http answers by itself, in
// plain text or without a body: there is no handler for a request that could
// not be read, nor for one that expects what there is not.
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
	log *slog.Logger
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
	e := envelope.New(envelope.BadRequest, "this is not an HTTP request that can be read")
	switch status {
	case "431", "413":
		e = envelope.New(envelope.BadRequest, "the headers are too large")
	case unexpected:
		e = envelope.New(envelope.BadRequest, "there is nothing to expect but 100-continue")
	}
	id := newRequestID()
	c.log.Info("request", "request_id", id, "remote", remoteAddr(c.RemoteAddr().String()), "status", status, "code", int(e.Code))
	line, _, _ := bytes.Cut(p, []byte("\r\n"))
	body := envelope.Failed(e).AppendJSON(nil)
	out := fmt.Appendf(nil, "%s\r\nX-Request-ID: %s\r\n", line, id)
	for _, h := range standing {
		out = fmt.Appendf(out, "%s: %s\r\n", h[0], h[1])
	}
	out = fmt.Appendf(out, "Connection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
