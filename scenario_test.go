package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/server"
)

// A scenario is a txtar file in testdata: a comment, then requests in their
// order, each with the conversation with libvirt that it leads to and the
// response:
//
//	-- request --   METHOD path, headers, an empty line, the body
//	-- rpc --       see package rpctest; empty when libvirt is not asked
//	-- response --  status, some headers, an empty line, the body
//
// The comment says what is shown. Its lines "daemon: test" or "daemon: qemu"
// say what -record records from; a handwritten conversation has "handwritten:"
// and why, and is never recorded. "call_timeout:" and "outage_wait:" set these.
var (
	record = flag.Bool("record", false, "record the scenarios from the daemons that the VIRTGATE_LIVE variables name")
	update = flag.Bool("update", false, "rewrite the responses of the scenarios")
)

type scenario struct {
	file    string
	archive *txtar.Archive
	setting map[string]string // lines "name: value" of the comment
}

func scenarios(t *testing.T) []scenario {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	var out []scenario
	for _, f := range files {
		a, err := txtar.ParseFile(f)
		if err != nil {
			t.Fatal(err)
		}
		s := scenario{file: f, archive: a, setting: map[string]string{}}
		for line := range strings.Lines(string(a.Comment)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok {
				s.setting[name] = value
			}
		}
		if len(a.Files)%3 != 0 {
			t.Fatalf("%s: want request, rpc, response, again and again", f)
		}
		for i, part := range a.Files {
			if part.Name != []string{"request", "rpc", "response"}[i%3] {
				t.Fatalf("%s: part %d is %q", f, i+1, part.Name)
			}
		}
		out = append(out, s)
	}
	return out
}

func (s *scenario) duration(t *testing.T, name string) time.Duration {
	v := s.setting[name]
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestScenarios(t *testing.T) {
	if *record && *update {
		t.Fatal("-record and -update do not go together")
	}
	for _, s := range scenarios(t) {
		t.Run(strings.TrimSuffix(filepath.Base(s.file), ".txtar"), func(t *testing.T) {
			switch {
			case !*record:
				if !*update {
					t.Parallel()
				}
				s.replay(t)
			case s.setting["handwritten"] == "":
				s.record(t)
			}
		})
	}
}

// serve makes a server over the client options, and stops it with the test.
func (s *scenario) serve(t *testing.T, o libvirtrpc.Options) (*server.Server, *libvirtrpc.Client) {
	t.Helper()
	// One call at a time, in an order that does not depend on the scheduler.
	o.Connections, o.Pipeline, o.PingInterval = 1, 1, -1
	o.CallTimeout, o.ChangeTimeout = s.duration(t, "call_timeout"), s.duration(t, "call_timeout")
	o.OutageWait = s.duration(t, "outage_wait")
	client, err := libvirtrpc.New(o)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"group":  "libvirt:x:1:smith\nkvm:x:2:smith,half\nlibvirt-x:x:3:\n",
		"passwd": "root:x:0:0::/:/bin/sh\nsmith:x:1000:1000::/:/bin/sh\nhalf:x:1001:1001::/:/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := auth.New(auth.Config{
		Required: true, Key: "the key", GroupFile: filepath.Join(dir, "group"), PasswdFile: filepath.Join(dir, "passwd"),
		ServiceKeys: []auth.ServiceKey{{Name: "reader", Key: "the reader's key", Allow: []string{"domains:read"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { client.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	eventually(t, "a connection", 10*time.Second, func() bool {
		open, _, _ := client.Load()
		return open > 0
	})
	return server.New(server.Options{
		Libvirt: client, Auth: a, Log: slog.New(slog.DiscardHandler), Version: "1.2.3",
		BodyLimit: 4096, RequestTimeout: 30 * time.Second,
	}), client
}

func (s *scenario) replay(t *testing.T) {
	r, err := rpctest.NewReplayer("")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	uri := "test:///default"
	if s.setting["daemon"] == "qemu" {
		uri = "qemu:///system"
	}
	srv, _ := s.serve(t, libvirtrpc.Options{Dial: r.Dial, URI: uri})
	for i := 0; i < len(s.archive.Files); i += 3 {
		parts := s.archive.Files[i : i+3]
		if err := r.Continue(string(parts[1].Data)); err != nil {
			t.Fatal(err)
		}
		got := exchange(t, srv, string(parts[0].Data))
		if err := r.Finished(); err != nil {
			t.Errorf("request %d: %v", i/3+1, err)
		}
		if *update {
			parts[2].Data = []byte(got)
			continue
		}
		if diff := cmp.Diff(strings.Split(string(parts[2].Data), "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("request %d: response (-want +got):\n%s", i/3+1, diff)
		}
	}
	if *update && !t.Failed() {
		s.write(t)
	}
}

func (s *scenario) record(t *testing.T) {
	var rec rpctest.Recorder
	env, uri := envTest, "test:///default"
	if s.setting["daemon"] == "qemu" {
		env, uri = envQEMU, "qemu:///system"
	}
	dial, _, err := libvirtrpc.Dialer(uri, liveSocket(t, env))
	if err != nil {
		t.Fatal(err)
	}
	srv, client := s.serve(t, libvirtrpc.Options{Dial: dial, URI: uri, Tap: rec.Tap})
	v, err := client.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := rpctest.KnownVersion(v.Libvirt); err != nil {
		t.Fatal(err)
	}
	rec.Take()
	for i := 0; i < len(s.archive.Files); i += 3 {
		parts := s.archive.Files[i : i+3]
		parts[2].Data = []byte(exchange(t, srv, string(parts[0].Data)))
		parts[1].Data = []byte(rec.Take())
	}
	recorded := "recorded: libvirt " + v.Libvirt
	comment := regexp.MustCompile(`(?m)^recorded: .*$`)
	if !comment.Match(s.archive.Comment) {
		s.archive.Comment = append(s.archive.Comment, "recorded: \n"...)
	}
	s.archive.Comment = comment.ReplaceAll(s.archive.Comment, []byte(recorded))
	s.write(t)
	// What was scrubbed from the conversation shows in the responses.
	*update = true
	defer func() { *update = false }()
	s.replay(t)
}

func (s *scenario) write(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(s.file, txtar.Format(s.archive), 0o644); err != nil {
		t.Fatal(err)
	}
}

// shown are the response's headers that a scenario holds.
var shown = []string{"Allow", "Retry-After", "X-Packet-Id"}

// exchange sends a request of a scenario and gives the response as text.
func exchange(t *testing.T, h http.Handler, text string) string {
	t.Helper()
	head, body, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(strings.TrimRight(head, "\n"), "\n")
	method, path, ok := strings.Cut(lines[0], " ")
	if !ok {
		t.Fatalf("%q is no request", lines[0])
	}
	req := httptest.NewRequest(method, "http://virtgate.test/", strings.NewReader(strings.TrimSuffix(body, "\n")))
	u, err := req.URL.Parse(path)
	if err != nil {
		t.Fatal(err)
	}
	req.URL, req.RequestURI = u, path
	req.Header.Set("X-Auth-Key", "the key")
	req.Header.Set("X-Auth-Username", "smith")
	for _, line := range lines[1:] {
		name, value, _ := strings.Cut(line, ": ")
		if value == "-" {
			req.Header.Del(name)
			continue
		}
		req.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, req)
	if err := conform(exchanged{method, path, req.Header, strings.TrimSuffix(body, "\n"), w.Code, w.Header(), w.Body.String()}); err != nil {
		t.Errorf("%s: %v", lines[0], err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", w.Code)
	for _, name := range shown {
		if v := w.Header().Get(name); v != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, v)
		}
	}
	if w.Body.Len() > 0 {
		b.WriteByte('\n')
		if err := json.Indent(&b, w.Body.Bytes(), "", "  "); err != nil {
			t.Fatalf("%s: not JSON: %v: %.200s", lines[0], err, w.Body)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// withoutScenario are the codes that no recorded conversation shows, and who
// does.
var withoutScenario = map[envelope.Code]string{
	envelope.TooManyRequests: "31 requests: package auth",
	envelope.Busy:            "a full queue: package libvirtrpc",
	envelope.Internal:        "a defect: package server",
}

var codeInText = regexp.MustCompile(`"code": ([0-9]+)`)

// Every route and every error code has a scenario.
func TestScenariosAreComplete(t *testing.T) {
	codes := map[int]bool{}
	var asked []string
	for _, s := range scenarios(t) {
		for i, part := range s.archive.Files {
			switch part.Name {
			case "request":
				line, _, _ := strings.Cut(string(part.Data), "\n")
				line, _, _ = strings.Cut(line, "?")
				asked = append(asked, line)
			case "response":
				for _, m := range codeInText.FindAllStringSubmatch(string(part.Data), -1) {
					n, _ := strconv.Atoi(m[1])
					codes[n] = true
				}
				if i%3 != 2 {
					t.Errorf("%s: part %d", s.file, i)
				}
			}
		}
	}
	srv := server.New(server.Options{Log: slog.New(slog.DiscardHandler)})
	for _, rt := range srv.Routes() {
		if strings.HasPrefix(rt.Path, "/libvirt/openapi.") {
			continue // the description: package server
		}
		pattern := regexp.MustCompile("^" + rt.Method + " " + regexp.MustCompile(`:[a-z]+`).ReplaceAllString(regexp.QuoteMeta(rt.Path), "[^/]+") + "$")
		if !slices.ContainsFunc(asked, pattern.MatchString) {
			t.Errorf("no scenario asks %s %s", rt.Method, rt.Path)
		}
	}
	for _, c := range envelope.Codes() {
		_, excused := withoutScenario[c]
		if codes[int(c)] == excused {
			t.Errorf("code %d (%s): shown %v, excused %v", c, c.Message(), codes[int(c)], excused)
		}
		delete(codes, int(c))
	}
	if len(codes) > 0 {
		t.Errorf("codes that the table does not have: %v", slices.Collect(maps.Keys(codes)))
	}
}
