package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	known    = "Host: a\r\nX-Auth-Key: " + liveKey + "\r\nX-Auth-Username: " + liveUser + "\r\n"
	knownGet = "GET /libvirt/domains?fields=name HTTP/1.1\r\n" + known
	// knownBig has an answer that fills what the kernel holds for who does not
	// read after a few.
	knownBig = "GET /libvirt/domains/by-name/big/xml_desc HTTP/1.1\r\n" + known + "\r\n"
)

// assault is one thing that clients do to a server, over and over.
type assault struct {
	what, promised string
	clients, pause int // how many at once; milliseconds between two rounds of each
	// once is one round: it has a connection that is closed after it.
	once func(c *net.TCPConn, until <-chan struct{}) error
}

// status reads one response and demands the status.
func status(c net.Conn, want int) error {
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return fmt.Errorf("want %d: %w", want, err)
	}
	defer res.Body.Close()
	if res.StatusCode != want {
		body, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%d, want %d: %.300s", res.StatusCode, want, body)
	}
	return nil
}

// drip sends bytes one at a time until the server ends the connection.
func drip(c *net.TCPConn, head string, until <-chan struct{}) error {
	io.WriteString(c, head)
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, c)
		close(ended)
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	defer func() {
		c.Close()
		<-ended
	}()
	for {
		select {
		case <-until:
			return nil
		case <-ended:
			return nil
		case <-tick.C:
			c.Write([]byte("a"))
		}
	}
}

// answered sends all and demands the status.
func answered(all string, want int) func(*net.TCPConn, <-chan struct{}) error {
	return func(c *net.TCPConn, _ <-chan struct{}) error {
		sent := make(chan struct{})
		go func() { // the answer may come before the end of what is sent
			io.WriteString(c, all)
			close(sent)
		}()
		err := status(c, want)
		c.Close()
		<-sent
		return err
	}
}

func (g *gateway) assaults() []assault {
	over := strings.Repeat("a", 1<<20+1)
	deep := strings.Repeat("[", 1<<19)
	bomb := `"<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;'>]><domain><name>&b;</name></domain>"`
	post := func(body string) string {
		return fmt.Sprintf("POST /libvirt/domains HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s", known, len(body), body)
	}
	return []assault{
		{what: "headers one byte at a time", promised: "ended at a deadline", clients: scale(100, 500), pause: 100,
			once: func(c *net.TCPConn, until <-chan struct{}) error {
				return drip(c, "GET /livez HTTP/1.1\r\nHost: a\r\nA: ", until)
			}},
		{what: "bodies one byte at a time", promised: "ended at a deadline", clients: scale(100, 500), pause: 100,
			once: func(c *net.TCPConn, until <-chan struct{}) error {
				return drip(c, "POST /libvirt/domains HTTP/1.1\r\n"+known+"Content-Length: 100000\r\n\r\n", until)
			}},
		{what: "bodies one byte at a time, from strangers", promised: "answered at once and ended", clients: scale(50, 200), pause: 100,
			once: func(c *net.TCPConn, until <-chan struct{}) error {
				io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
				if err := status(c, 400); err != nil {
					return err
				}
				return drip(c, "", until)
			}},
		{what: "half-closed connections", promised: "one answer in the envelope each", clients: 4, pause: 10,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
				c.CloseWrite()
				return status(c, 200)
			}},
		{what: "half-closed connections, each with a change", promised: "the change is made, and answered", clients: 4, pause: 10,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, "PATCH /libvirt/domains/by-name/test HTTP/1.1\r\n"+known+"Content-Length: 18\r\n\r\n{\"autostart\":true}")
				c.CloseWrite()
				return status(c, 200)
			}},
		{what: "connections reset within a request", promised: "nothing stays behind", clients: 8, pause: 5,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, "POST /libvirt/domains HTTP/1.1\r\n"+known+"Content-Length: 1000\r\n\r\n[")
				return c.SetLinger(0)
			}},
		{what: "connections reset before the answer", promised: "nothing stays behind", clients: 8, pause: 5,
			once: func(c *net.TCPConn, _ <-chan struct{}) error {
				io.WriteString(c, strings.Repeat(knownGet+"\r\n", 4))
				return c.SetLinger(0)
			}},
		{what: "bodies over the limit, announced", promised: "413 at once", clients: 4, pause: 20, once: answered(post(over), 413)},
		{what: "bodies over the limit, in chunks", promised: "413", clients: 4, pause: 20,
			once: answered(fmt.Sprintf("POST /libvirt/domains HTTP/1.1\r\n%sTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", known, len(over), over), 413)},
		{what: "headers of 1 MiB", promised: "431", clients: 4, pause: 20,
			once: answered("GET /livez HTTP/1.1\r\nHost: a\r\nA: "+over+"\r\n\r\n", 431)},
		{what: "100,000 headers", promised: "431", clients: 4, pause: 20,
			once: answered("GET /livez HTTP/1.1\r\nHost: a\r\n"+strings.Repeat("A: b\r\n", 100_000)+"\r\n", 431)},
		{what: "JSON nested 500,000 deep", promised: "400, code 0", clients: 2, pause: 50, once: answered(post(deep), 400)},
		{what: "XML with entities", promised: "400, code 105", clients: 4, pause: 20, once: answered(post(bomb), 400)},
		{what: "questions for readiness, by strangers", promised: "all of them cost one call at a time", clients: scale(50, 200), pause: 5,
			once: answered("GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", 200)},
	}
}
