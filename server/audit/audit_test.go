package audit

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func lines(t *testing.T, path string) []map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for line := range strings.Lines(string(b)) {
		var e map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, e)
	}
	return out
}

func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l, err := Open(Config{File: path}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	zero, uid := 0, uint32(0)
	e := Entry{Time: Time{time.Date(2026, 11, 24, 5, 2, 36, 742734567, time.FixedZone("", 3600))}, RequestID: "1", PacketID: "\n\"\u2028",
		PeerUID: &uid, Method: "PATCH", Objects: []Object{{Kind: "domain", Name: "a\nb"}}, Errors: []Error{{Code: 0, Index: &zero}}, Status: 400}
	if err := l.Begin(e); err != nil { // not required: no line
		t.Fatal(err)
	}
	l.Write(e)
	l.Write(Entry{RequestID: "2"})
	l.Close()
	l.Write(Entry{RequestID: "3"})
	got := lines(t, path)
	if len(got) != 2 || got[0]["time"] != "2026-11-24T04:02:36.742734Z" || got[0]["packet_id"] != "\n\"\u2028" || got[0]["peer_uid"] != 0.0 || got[1]["request_id"] != "2" {
		t.Errorf("%v", got)
	}
	b, _ := os.ReadFile(path)
	if want := `"objects":[{"kind":"domain","name":"a\nb"}],"status":400,"errors":[{"code":0,"index":0}]}` + "\n"; !strings.Contains(string(b), want) {
		t.Errorf("%s", b)
	}
}

func TestOff(t *testing.T) {
	var none *Log
	l, err := Open(Config{}, slog.New(slog.DiscardHandler))
	if err != nil || l.On() || none.On() {
		t.Fatal(err)
	}
	l.Write(Entry{})
	none.Write(Entry{})
	if l.Begin(Entry{}) != nil || none.Begin(Entry{}) != nil {
		t.Error("what is not recorded cannot be refused")
	}
}

// A record that is required has two lines for a change, and the first one's
// loss is told.
func TestRequired(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	var log bytes.Buffer
	l, err := Open(Config{File: path, Required: true}, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Begin(Entry{RequestID: "1"}); err != nil {
		t.Fatal(err)
	}
	l.Write(Entry{RequestID: "1"})
	if got := lines(t, path); len(got) != 2 || got[0]["phase"] != "begin" || got[1]["phase"] != nil {
		t.Errorf("%v", got)
	}
	// /dev/full is a disk without space.
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	file := l.file
	defer file.Close()
	l.out = full
	if err := l.Begin(Entry{RequestID: "2"}); err == nil {
		t.Error("a lost line is not told")
	}
	l.Write(Entry{RequestID: "3"})
	for _, id := range []string{`"request_id":"2"`, `"request_id":"3"`} {
		if !strings.Contains(log.String(), id) {
			t.Errorf("the log does not have what was lost: %s", log.String())
		}
	}
	l.out = file
	if err := l.Begin(Entry{RequestID: "4"}); err != nil {
		t.Error(err)
	}
	if got := lines(t, path); len(got) != 3 || got[2]["request_id"] != "4" {
		t.Errorf("%v", got)
	}
}

// half takes half of what is written, as a disk that fills up.
type half struct{ *os.File }

func (h half) Write(p []byte) (int, error) {
	n, _ := h.File.Write(p[:len(p)/2])
	return n, syscall.ENOSPC
}

// A line that is not whole spoils no other one.
func TestTornLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	c := Config{File: path}
	l, err := Open(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	file := l.file
	l.out = half{file}
	l.Write(Entry{RequestID: "torn"})
	l.out = file
	l.Write(Entry{RequestID: "whole"})
	l.out = half{file}
	l.Write(Entry{RequestID: "torn again"})
	// The next process, or the next reload, finds it so.
	use, err := l.Prepare(c)
	if err != nil {
		t.Fatal(err)
	}
	use()
	l.Write(Entry{RequestID: "after"})
	l.Close()
	b, _ := os.ReadFile(path)
	var whole []string
	for line := range strings.Lines(string(b)) {
		var e Entry
		if json.Unmarshal([]byte(line), &e) == nil {
			whole = append(whole, e.RequestID)
		}
	}
	if strings.Join(whole, ",") != "whole,after" {
		t.Errorf("whole lines: %v in\n%s", whole, b)
	}
}

// The file is opened anew where it is now, and a file that cannot be opened
// changes nothing.
func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit")
	l, err := Open(Config{File: path}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Write(Entry{RequestID: "1"})
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Write(Entry{RequestID: "2"}) // into the file that was moved away
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{dir, fifo, filepath.Join(dir, "none", "audit"), "/dev/null"} {
		if _, err := l.Prepare(Config{File: bad}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	l.Write(Entry{RequestID: "3"})
	use, err := l.Prepare(Config{File: path})
	if err != nil {
		t.Fatal(err)
	}
	l.Write(Entry{RequestID: "4"})
	use()
	l.Write(Entry{RequestID: "5"})
	if a, b := lines(t, path+".1"), lines(t, path); len(a) != 4 || len(b) != 1 || b[0]["request_id"] != "5" {
		t.Errorf("%v, %v", a, b)
	}
	if use, err = l.Prepare(Config{}); err != nil {
		t.Fatal(err)
	}
	use()
	if l.On() {
		t.Error("it is on without a file")
	}
	if info, err := os.Stat(fifo); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("%v, %v", info, err)
	}
}
