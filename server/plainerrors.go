package server

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"strconv"

	"virtgate/envelope"
)

// plainErrors puts the envelope around what net/http answers by itself, in
// plain text or without a body: there is no handler for a request that could
// not be read.
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

// These are the first bytes of net/http's own answers (badRequestError,
// statusError, sendExpectationFailed in net/http/server.go). None of our
// responses is plain text or has the status 417.
var (
	statusLine        = []byte("HTTP/1.1 ")
	plainHeader       = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")
	expectationFailed = []byte("HTTP/1.1 417 Expectation Failed")
)

func (c *plainErrorConn) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(p, statusLine) {
		return c.Conn.Write(p)
	}
	end := bytes.Index(p[:min(len(p), 256)], plainHeader)
	if bytes.HasPrefix(p, expectationFailed) {
		end = len(expectationFailed)
	}
	if end < 0 {
		return c.Conn.Write(p)
	}
	status, _ := strconv.Atoi(string(p[9:12]))
	why := "this is not an HTTP request that can be read"
	switch status {
	case http.StatusRequestHeaderFieldsTooLarge, http.StatusRequestEntityTooLarge:
		why = "the headers are too large"
	case http.StatusExpectationFailed:
		why = "the only Expect that is known is 100-continue"
	}
	id := newRequestID()
	c.log.Info("request not read", "request_id", id, "remote", hostOf(c.RemoteAddr().String()), "status", status)
	body := envelope.Failed(envelope.New(envelope.BadRequest, why)).AppendJSON(nil)
	out := append([]byte(nil), p[:end]...)
	out = append(out, "\r\nX-Request-ID: "+id+"\r\nContent-Type: application/json; charset=utf-8\r\nConnection: close\r\nContent-Length: "...)
	out = strconv.AppendInt(out, int64(len(body)), 10)
	out = append(append(out, "\r\n\r\n"...), body...)
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
