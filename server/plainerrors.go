package server

import (
	"bytes"
	"net"
	"strconv"

	"virtgate/envelope"
)

// plainErrors puts the envelope around what net/http answers by itself, in
// plain text, to what is not HTTP: there is no handler for a request that could
// not be read.
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
}

// These are the first bytes of net/http's own answers (badRequestError,
// statusError in net/http/server.go). None of our responses is plain text.
var plainHeader = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

func (c *plainErrorConn) Write(p []byte) (int, error) {
	if i := bytes.Index(p[:min(len(p), 256)], plainHeader); i > 0 && bytes.HasPrefix(p, []byte("HTTP/1.1 ")) {
		e := envelope.New(envelope.BadRequest, "this is not an HTTP request that can be read")
		if s := string(p[9:12]); s == "431" || s == "413" {
			e = envelope.New(envelope.BadRequest, "the headers are too large")
		}
		body := envelope.Failed(e).AppendJSON(nil)
		out := append([]byte(nil), p[:i]...)
		out = append(out, "\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\nContent-Length: "...)
		out = strconv.AppendInt(out, int64(len(body)), 10)
		out = append(append(out, "\r\n\r\n"...), body...)
		if _, err := c.Conn.Write(out); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return c.Conn.Write(p)
}
