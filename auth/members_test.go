package auth

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMembership(t *testing.T) {
	tests := []struct {
		name, group, passwd string
		groups              []string
		user                string
		want                bool
	}{
		{name: "listed in both", user: "smith", want: true},
		{name: "primary and listed", user: "primary", want: true},
		{name: "primary of one only", user: "onlykvm"},
		{name: "uid 0", user: "root", want: true},
		{name: "uid 0 of another name", user: "toor", want: true},
		{name: "unknown", user: "ghost"},
		{name: "empty name", user: ""},
		{name: "listed but not in passwd", user: "both"},
		{name: "one group is enough when one is asked", groups: []string{"kvm"}, user: "onlykvm", want: true},
		{name: "a group that does not exist", groups: []string{"kvm", "nosuch"}, user: "smith"},
		{name: "uid 0 needs no group", groups: []string{"nosuch"}, user: "root", want: true},
		{name: "empty files", group: "\n", passwd: "\n", user: "root"},
		{name: "comments, NIS and rubbish are skipped",
			group:  "# c\n+::::\n+:::\n-x:::\nlibvirt\nlibvirt:x:abc:smith\n:x:5:smith\nlibvirt:x:108:smith:more\n\x00\xff\nlibvirt:x:1:smith\nkvm:x:2:smith\n",
			passwd: "+::::::\n+smith::0:0:::\nsmith\nsmith:x:z:1:::\nsmith:x:5:6:g:/h:/s\n", user: "smith", want: true},
		{name: "a commented line is not a member", group: "#libvirt:x:1:smith\nkvm:x:2:smith\n", user: "smith"},
		{name: "a NIS user is nobody", passwd: "+root:x:0:0:::\n", user: "+root"},
		{name: "first passwd line counts", passwd: "eve:x:5:6:g:/h:/s\neve:x:0:0:g:/h:/s\n", user: "eve"},
		{name: "first group line counts", group: "libvirt:x:1:\nlibvirt:x:2:smith\nkvm:x:3:smith\n", user: "smith"},
		{name: "signed uid is no uid", passwd: "eve:x:+0:0:g:/h:/s\n", user: "eve"},
		{name: "uid past 32 bit is no uid", passwd: "eve:x:4294967296:0:g:/h:/s\n", user: "eve"},
		{name: "line cut within the ids", passwd: "eve:x:0:0", user: "eve"},
		{name: "CRLF and no newline at the end", group: "libvirt:x:1:smith\r\nkvm:x:2:a,smith", passwd: "smith:x:5:6:g:/h:/s\r\n", user: "smith", want: true},
		{name: "spaces around members", group: "libvirt:x:1: smith , b\nkvm:x:2:smith\n", passwd: "smith:x:5:6:g:/h:/s", user: "smith", want: true},
		{name: "part of a name", group: "libvirt:x:1:smithers\nkvm:x:2:blacksmith\n", user: "smith"},
		{name: "empty member list does not hold the empty name", group: "libvirt:x:1:,\nkvm:x:2:\n", passwd: ":x:5:1:g:/h:/s\n", user: ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, p := files(t)
			if tt.group != "" {
				write(t, g, tt.group, time.Hour)
			}
			if tt.passwd != "" {
				write(t, p, tt.passwd, time.Hour)
			}
			groups := tt.groups
			if groups == nil {
				groups = []string{"libvirt", "kvm"}
			}
			if got := newMembers(groups, g, p, nil).current().has(tt.user); got != tt.want {
				t.Errorf("%q: got %v, want %v", tt.user, got, tt.want)
			}
		})
	}
}

type warning struct {
	msg string
	err error
}

func watched(t *testing.T) (m *members, group, passwd string, warned func() []warning) {
	t.Helper()
	group, passwd = files(t)
	var w []warning
	m = newMembers([]string{"libvirt", "kvm"}, group, passwd, func(msg string, err error) { w = append(w, warning{msg, err}) })
	return m, group, passwd, func() []warning { r := w; w = nil; return r }
}

func TestFollowsChanges(t *testing.T) {
	m, g, p, warned := watched(t)
	in := func(what, name string, want bool) {
		t.Helper()
		for range 2 {
			if got := m.current().has(name); got != want {
				t.Fatalf("%s: %s is a member: %v", what, name, got)
			}
		}
	}
	without := strings.ReplaceAll(groupText, "smith", "smyth")

	in("at first", "smith", true)
	same := m.current()
	if m.current() != same {
		t.Fatal("unchanged files were read again")
	}

	write(t, g, without, 30*time.Minute)
	in("same size and inode, other time", "smith", false)

	when := mtime(t, g)
	write(t, g, groupText+"# more\n", 0)
	chtime(t, g, when)
	in("same time and inode, other size", "smith", true)

	info, _ := os.Stat(g)
	next := g + ".new"
	write(t, next, without+"# more\n", 0)
	chtime(t, next, info.ModTime())
	if err := os.Rename(next, g); err != nil {
		t.Fatal(err)
	}
	in("same time and size, other inode", "smith", false)

	write(t, g, groupText, time.Hour)
	in("back again", "smith", true)
	write(t, p, strings.ReplaceAll(passwdText, "smith", "smyth"), 10*time.Minute)
	in("gone from passwd", "smith", false)
	write(t, p, passwdText, 9*time.Minute)
	in("back in passwd", "smith", true)
	if w := warned(); len(w) != 0 {
		t.Errorf("warned of ordinary changes: %v", w)
	}
}

func mtime(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

func chtime(t *testing.T, path string, when time.Time) {
	t.Helper()
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
}

// TestChangeWithinTimeGrain: a second change that leaves size, inode and time
// as they are is seen as long as the file is young.
func TestChangeWithinTimeGrain(t *testing.T) {
	m, g, _, _ := watched(t)
	// Half a second ahead, so that a slow machine still finds it young.
	write(t, g, groupText, -500*time.Millisecond)
	when := mtime(t, g)
	if !m.current().has("smith") {
		t.Fatal("not a member")
	}
	if err := os.WriteFile(g, []byte(strings.ReplaceAll(groupText, "smith", "smyth")), 0o600); err != nil {
		t.Fatal(err)
	}
	chtime(t, g, when)
	if m.current().has("smith") {
		t.Error("the change was not seen")
	}
}

func TestUnreadableFilesCloseTheDoor(t *testing.T) {
	breaks := map[string]func(t *testing.T, path string){
		"vanished":  func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"directory": func(t *testing.T, path string) { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o700)) },
		"fifo":      func(t *testing.T, path string) { must(t, os.Remove(path)); must(t, syscall.Mkfifo(path, 0o600)) },
		"dangling":  func(t *testing.T, path string) { must(t, os.Remove(path)); must(t, os.Symlink("nowhere", path)) },
		"too big":   func(t *testing.T, path string) { must(t, os.Truncate(path, maxFile+1)) },
	}
	for name, broken := range breaks {
		for _, which := range []string{"group", "passwd"} {
			t.Run(name+" "+which, func(t *testing.T) {
				m, g, p, warned := watched(t)
				if !m.current().has("smith") || !m.current().has("root") {
					t.Fatal("not members at first")
				}
				path, text := g, groupText
				if which == "passwd" {
					path, text = p, passwdText
				}
				for round := range 2 { // broken, mended, and broken again
					broken(t, path)
					for range 3 {
						for _, u := range []string{"smith", "root"} {
							if m.current().has(u) {
								t.Fatalf("%s is still a member", u)
							}
						}
					}
					w := warned()
					if len(w) != 1 || w[0].err == nil || !strings.Contains(w[0].msg, which) {
						t.Fatalf("round %d: warned %v, want once about %s", round, w, which)
					}
					must(t, os.RemoveAll(path))
					write(t, path, text, time.Hour)
					if !m.current().has("smith") {
						t.Fatal("not a member after mending")
					}
					if w := warned(); len(w) != 0 {
						t.Fatalf("warned of mending: %v", w)
					}
				}
			})
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestWarnings(t *testing.T) {
	m, g, p, warned := watched(t)
	write(t, g, "libvirt:x:1:smith\n", time.Hour)
	m.current()
	w := warned()
	if len(w) != 1 || w[0].err != nil || !strings.Contains(w[0].msg, "no group kvm in "+g) {
		t.Fatalf("warned %v", w)
	}
	// The other file changes, the trouble is the same: nothing new to say.
	write(t, p, passwdText+"# x\n", time.Hour)
	m.current()
	if w := warned(); len(w) != 0 {
		t.Errorf("warned again: %v", w)
	}
	must(t, os.Remove(g))
	m.current()
	if w := warned(); len(w) != 1 || !errors.Is(w[0].err, fs.ErrNotExist) {
		t.Errorf("warned %v", w)
	}
}

// TestNewWarns: what is amiss at the start is said at the start.
func TestNewWarns(t *testing.T) {
	n := 0
	missing := filepath.Join(t.TempDir(), "group")
	a, err := New(Config{Key: mainKey, GroupFile: missing, Warn: func(string, error) { n++ }})
	if err != nil || n != 1 {
		t.Fatalf("err %v, warned %d times", err, n)
	}
	_, err = a.Authenticate(Credentials{Key: []string{mainKey}, Username: []string{"root"}}, t0)
	if reason(t, err) != NotMember || n != 1 {
		t.Errorf("err %v, warned %d times", err, n)
	}
}

// A file that changed and cannot be opened for want of descriptors is as it was
// before: whoever uses them up shuts nobody out.
func TestNoDescriptors(t *testing.T) {
	g, p := files(t)
	m := newMembers([]string{"libvirt", "kvm"}, g, p, func(msg string, err error) { t.Errorf("warned: %s: %v", msg, err) })
	if !m.current().has("smith") {
		t.Fatal("smith is no member")
	}
	write(t, g, "libvirt:x:1:\nkvm:x:2:\n", time.Minute)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	none := was
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	still := m.current().has("smith")
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if !still {
		t.Error("a member is shut out")
	}
	if m.current().has("smith") {
		t.Error("the change is not seen when there are descriptors again")
	}
}
