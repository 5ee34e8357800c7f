package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The live tests drive the built binary against a real libvirtd. scripts/test
// starts the daemons and tells where they are by these variables; without them
// the tests that need them are skipped, and say so.
const (
	envTest  = "VIRTGATE_LIVE_TEST"  // socket of a libvirtd with the test driver
	envQEMU  = "VIRTGATE_LIVE_QEMU"  // socket of a libvirtd with the QEMU driver
	envGuest = "VIRTGATE_LIVE_GUEST" // directory with a guest's kernel and initrd
)

func liveSocket(t testing.TB, env string) string {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		t.Skipf("%s is not set: scripts/test starts what this test needs", env)
	}
	return s
}

// binary is the program, built once for all live tests, with the race detector
// when the tests have it.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "virtgate-live")
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "virtgate")
	args := []string{"build", "-o", out}
	if raceEnabled {
		args = append(args, "-race")
	}
	if b, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, b)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func tail(s string, n int) string {
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}

// answer is a response, its envelope checked.
type answer struct {
	status  int
	header  http.Header
	raw     string
	Results []json.RawMessage `json:"results"`
	Success bool              `json:"success"`
	Errors  []struct {
		Code        int    `json:"code"`
		Message     string `json:"message"`
		Libvirt     string `json:"libvirt"`
		LibvirtCode int    `json:"libvirt_code"`
		Index       *int   `json:"index"`
	} `json:"errors"`
	Messages []json.RawMessage `json:"messages"`
	Info     *struct {
		Page       int `json:"page"`
		PerPage    int `json:"per_page"`
		Count      int `json:"count"`
		TotalCount int `json:"total_count"`
		TotalPages int `json:"total_pages"`
	} `json:"result_info"`
	took time.Duration
}

// code is the first error's code, -1 without an error.
func (a *answer) code() int {
	if len(a.Errors) == 0 {
		return -1
	}
	return a.Errors[0].Code
}

// try sends a request. header are pairs.
func (g *gateway) try(method, path, body string, header ...string) (*answer, error) {
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Auth-Key", liveKey)
	req.Header.Set("X-Auth-Username", liveUser)
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
			continue
		}
		req.Header.Set(header[i], header[i+1])
	}
	start := time.Now()
	res, err := g.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	a := &answer{status: res.StatusCode, header: res.Header, raw: string(raw), took: time.Since(start)}
	if err := a.check(method); err != nil {
		return a, err
	}
	return a, conform(exchanged{method, path, req.Header, body, res.StatusCode, res.Header, a.raw})
}

// do is try for tests that are over when it fails.
func (g *gateway) do(t testing.TB, method, path, body string, header ...string) *answer {
	t.Helper()
	a, err := g.try(method, path, body, header...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// check holds what is true of every response.
func (a *answer) check(method string) error {
	if a.header.Get("X-Request-Id") == "" {
		return errors.New("no request id")
	}
	if method == http.MethodHead {
		if a.raw != "" {
			return fmt.Errorf("HEAD has a body: %s", a.raw)
		}
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(a.raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(a); err != nil {
		return fmt.Errorf("not an envelope: %w: %.200s", err, a.raw)
	}
	if a.Results == nil || a.Errors == nil || a.Messages == nil {
		return fmt.Errorf("null for an empty array: %s", a.raw)
	}
	at := -1
	for _, key := range []string{`"results":[`, `"success":`, `"errors":[`, `"messages":[`} {
		i := strings.LastIndex(a.raw, key)
		if i <= at {
			return fmt.Errorf("keys out of order: %s", a.raw)
		}
		at = i
	}
	if a.Success != (len(a.Errors) == 0) || a.Success != (a.status < 300) {
		return fmt.Errorf("status %d does not fit: %s", a.status, a.raw)
	}
	return nil
}

// step is one request and what has to come back.
type step struct {
	what         string
	method, path string
	body         string
	status, code int    // code -1: success
	contains     string // in the body
}

// walk takes the steps in order. $d in path and body is the domain's name.
func (g *gateway) walk(t *testing.T, name string, steps []step) {
	t.Helper()
	for _, s := range steps {
		in := strings.NewReplacer("$d", name)
		a := g.do(t, s.method, in.Replace(s.path), in.Replace(s.body))
		if a.status != s.status || a.code() != s.code || !strings.Contains(a.raw, in.Replace(s.contains)) {
			t.Errorf("%s: %s %s %s\n got %d, code %d: %s\nwant %d, code %d, with %s", s.what, s.method, in.Replace(s.path), in.Replace(s.body),
				a.status, a.code(), a.raw, s.status, s.code, in.Replace(s.contains))
		}
	}
}

// eventually waits until ok, asking again and again.
func eventually(t testing.TB, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond) // the pause between two looks
	}
}
