package reread

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What a change leaves no other trace of than each of these is seen. Package
// auth tests the same through what it makes of its files.
func TestFresh(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	old := time.Now().Add(-time.Hour)
	write := func(text string, when time.Time) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	write("one", old)
	f := Read(path, 3)
	if f.Err != nil || string(f.Data) != "one" || !f.Fresh() {
		t.Fatalf("%+v", f)
	}
	changes := map[string]func(){
		"time":  func() { write("two", old.Add(time.Minute)) },
		"size":  func() { write("longer", old) },
		"inode": func() { os.Rename(path, path+".old"); write("one", old) },
		"gone":  func() { os.Remove(path) },
	}
	for name, change := range changes {
		write("one", old)
		f := Read(path, 3)
		change()
		if f.Fresh() {
			t.Errorf("a change of %s was not seen", name)
		}
	}
	// Too young to be trusted: half a second ahead, so that a slow machine
	// still finds it young.
	write("one", time.Now().Add(500*time.Millisecond))
	if f := Read(path, 3); f.Err != nil || f.Fresh() {
		t.Errorf("a file written just now: %+v", f)
	}
	write("four", old)
	if f := Read(path, 3); f.Err == nil || f.Fresh() || f.Data != nil {
		t.Errorf("over the limit: %+v", f)
	}
	if f := Read(filepath.Dir(path), 3); f.Err == nil || f.Fresh() {
		t.Errorf("a directory: %+v", f)
	}
	if f := new(File); f.Fresh() {
		t.Error("a file never read is fresh")
	}
}
