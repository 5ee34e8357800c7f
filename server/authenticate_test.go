package server

import (
	"context"
	"net/http/httptest"
	"testing"

	"virtgate/envelope"
)

// Where no key is needed, a page that the host's user looks at can neither
// change anything nor read, by whatever name it calls this server.
func TestBrowserIsNotLedHere(t *testing.T) {
	hit := func(context.Context, *request) *envelope.Response { return &envelope.Response{} }
	s := open(t, methodRoute("GET", "/libvirt/thing", hit), methodRoute("POST", "/libvirt/thing", hit))
	for _, c := range []struct {
		method, host string
		header       []string
		want         int
	}{
		{"GET", "127.0.0.1:8081", nil, 200},
		{"GET", "[::1]:8081", nil, 200},
		{"GET", "LOCALHOST", nil, 200},
		{"GET", "", nil, 200}, // HTTP/1.0
		{"POST", "127.0.0.1:8081", nil, 200},
		{"POST", "localhost:8081", []string{"Origin", "http://localhost:8081", "Sec-Fetch-Site", "same-origin"}, 200},
		{"GET", "rebound.example:8081", nil, 403},
		{"GET", "localhost.rebound.example", nil, 403},
		{"GET", "127.0.0.1.rebound.example", nil, 403},
		{"POST", "rebound.example:8081", []string{"Origin", "http://rebound.example:8081"}, 403},
		{"POST", "127.0.0.1:8081", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"POST", "127.0.0.1:8081", []string{"Origin", "http://other.example"}, 403},
		{"POST", "127.0.0.1:8081", []string{"Origin", "null"}, 403},
	} {
		r := httptest.NewRequest(c.method, "/libvirt/thing", nil)
		r.Host = c.host
		for i := 0; i < len(c.header); i += 2 {
			r.Header.Set(c.header[i], c.header[i+1])
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code != c.want {
			t.Errorf("%s to %q, %q: %d, want %d: %s", c.method, c.host, c.header, w.Code, c.want, w.Body)
		}
	}
	// A key says who it is, whatever the name.
	s, _ = onDaemon(t, nil)
	if w := ask(s, "GET", "http://rebound.example/libvirt/version", "", "Origin", "http://other.example"); w.Code != 200 {
		t.Errorf("with a key: %d %s", w.Code, w.Body)
	}
}
