//go:build linux

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/server/listen"
)

// On a unix socket the kernel's word is enough, and the host's name is no
// matter; but a proxy there may pass on what a page elsewhere made up.
func TestUnixPeers(t *testing.T) {
	group, passwd := filepath.Join(t.TempDir(), "group"), filepath.Join(t.TempDir(), "passwd")
	for path, text := range map[string]string{group: "libvirt:x:1:me\nkvm:x:2:me\n", passwd: fmt.Sprintf("me:x:%d:1::/:/bin/sh\n", os.Getuid())} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, required := range []bool{true, false} {
		a, err := auth.New(auth.Config{Required: required, Peers: true, GroupFile: group, PasswdFile: passwd})
		if err != nil {
			t.Fatal(err)
		}
		s := New(Options{Auth: a, Log: slog.New(slog.DiscardHandler), BodyLimit: 1000, RequestTimeout: 5 * time.Second})
		for _, method := range []string{"GET", "POST"} {
			s.echo.Add(method, "/libvirt/whoami", s.serve(methodRoute(method, "/libvirt/whoami", func(_ context.Context, r *request) *envelope.Response {
				return &envelope.Response{Results: []json.RawMessage{envelope.Raw(r.caller.User)}}
			})))
		}
		dir, err := os.MkdirTemp("", "vg") // short: a socket's path has 108 bytes
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "s")
		l, err := listen.Unix(path, 0o600, -1)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.Serve(ctx, l); err != nil {
				t.Error(err)
			}
		})
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
		for _, c := range []struct {
			method, origin string
			status         int
		}{
			{"GET", "", 200}, {"POST", "", 200}, {"GET", "http://other.example", 200}, {"POST", "http://virtgate", 200}, {"POST", "http://other.example", 403},
		} {
			req, _ := http.NewRequest(c.method, "http://virtgate/libvirt/whoami", nil)
			if c.origin != "" {
				req.Header.Set("Origin", c.origin)
			}
			res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			b, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != c.status || required && c.status == 200 && !strings.Contains(string(b), `["me"]`) {
				t.Errorf("required %v, %s for %q: %d %s", required, c.method, c.origin, res.StatusCode, b)
			}
		}
		tr.CloseIdleConnections()
		cancel()
		wg.Wait()
	}
}
