package auth

import (
	"strings"
	"testing"
)

// Whatever the group and passwd files hold: an entry has a name that stands
// there; a member has a line of his own in the one, and a name in every group or
// their id, or is root; a line that is nobody's changes nothing.
func FuzzMembers(f *testing.F) {
	f.Add(groupText, passwdText, "smith")
	f.Add("libvirt:x:7:\r\nkvm:x:7:", "a:x:1:7:::", "a")
	f.Add("+x:x:1:a\n-a\n#libvirt:x:1:a\nlibvirt:x:-1:a\nkvm:x:4294967296:a", "a:x:+0:0::", "a")
	f.Add("libvirt:x:1:a,,b ,\nlibvirt:x:2:c\nkvm::1:", "a:x:1:1:::\na:x:0:0:::\n", "b ")
	f.Add("\x00:\xff:0:\n:\n+:::", "\x00:\xff:0:0::", "\x00")
	f.Fuzz(func(t *testing.T, groups, users, name string) {
		s := snapshot{groups: parseGroup(groups), wanted: []string{"libvirt", "kvm"}}
		s.users, s.names = parsePasswd(users)
		entry := func(name, text string) {
			if name == "" || strings.ContainsAny(name, ":\n") || strings.ContainsAny(name[:1], "#+-") || !strings.Contains(text, name) {
				t.Errorf("an entry %q of %q", name, text)
			}
		}
		for name, g := range s.groups {
			entry(name, groups)
			for m := range g.members {
				if m == "" || strings.ContainsAny(m, ",:\n") {
					t.Errorf("a member %q of %q", m, groups)
				}
			}
		}
		for name := range s.users {
			entry(name, users)
		}
		for uid, name := range s.names {
			if s.users[name].uid != uid {
				t.Errorf("uid %d is %q, whose uid is %d", uid, name, s.users[name].uid)
			}
		}

		read := func(groups, users string) bool {
			s := snapshot{groups: parseGroup(groups), wanted: s.wanted}
			s.users, s.names = parsePasswd(users)
			return s.has(name)
		}
		is := s.has(name)
		if is && !strings.Contains(users, name+":") || is && read(groups, "") {
			t.Errorf("%q is a member without a line in %q", name, users)
		}
		if is && read("", users) != (s.users[name].uid == 0) {
			t.Errorf("%q is a member of no group", name)
		}
		for _, nobodys := range []string{"\n", "# " + name + ":x:0:0:::\n", "+" + name + ":x:0:0:::\n", ":x:0:0:::\n", name + ":x:+0:0:::\n"} {
			if read(nobodys+groups, nobodys+users) != is {
				t.Errorf("%q is a member, or none, because of %q", name, nobodys)
			}
		}
	})
}

// A key that is accepted is good for itself, plain or hashed, and for nothing
// else; the error of one that is not does not hold it.
func FuzzKey(f *testing.F) {
	f.Add("a key")
	f.Add("sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b")
	f.Add("SHA256:2bb8")
	f.Add(" \t")
	f.Fuzz(func(t *testing.T, key string) {
		d, err := parseKey(key)
		if err != nil {
			if len(key) > 8 && strings.Contains(err.Error(), key) {
				t.Errorf("the error holds the key: %v", err)
			}
			return
		}
		if strings.EqualFold(key[:min(len(key), len(hashPrefix))], hashPrefix) {
			return
		}
		hashed, err := parseKey(HashKey(key))
		if err != nil || hashed != d {
			t.Errorf("%q: its hash is not good for it, %v", key, err)
		}
		if other, err := parseKey(key + "x"); err == nil && other == d {
			t.Errorf("%q: another key is as good", key)
		}
	})
}
