package auth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	mainKey    = "main-key;with#odd=\"signs\""
	serviceKey = "service-key"
)

var t0 = time.Date(2026, 11, 24, 4, 0, 0, 0, time.UTC)

const groupText = `root:x:0:
libvirt:x:108:smith,both, spaced
kvm:x:109:smith,primary,both
`

const passwdText = `root:x:0:0:root:/root:/bin/bash
smith:x:1000:1000:Smith:/home/smith:/bin/sh
primary:x:1001:108::/:/bin/sh
onlykvm:x:1002:109::/:/bin/sh
nobody:x:65534:65534::/:/bin/false
toor:x:0:1000::/:/bin/sh
`

// files writes both files, old enough to be trusted as they are.
func files(t testing.TB) (group, passwd string) {
	t.Helper()
	dir := t.TempDir()
	group, passwd = filepath.Join(dir, "group"), filepath.Join(dir, "passwd")
	write(t, group, groupText, time.Hour)
	write(t, passwd, passwdText, time.Hour)
	return group, passwd
}

func write(t testing.TB, path, text string, age time.Duration) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	when := time.Now().Add(-age)
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
}

func newAuth(t testing.TB, change func(*Config)) *Authenticator {
	t.Helper()
	g, p := files(t)
	cfg := Config{
		Required: true, Key: mainKey, GroupFile: g, PasswdFile: p,
		ServiceKeys: []ServiceKey{
			{Name: "other", Key: "other-key", Allow: []string{"*"}},
			{Name: "monitor", Key: HashKey(serviceKey), Allow: []string{"domains:read"}},
		},
	}
	if change != nil {
		change(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func reason(t testing.TB, err error) Reason {
	t.Helper()
	if err == nil {
		return 0
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is a %T, not an *Error", err)
	}
	return e.Reason
}

// TestMatrix goes through every combination of what each header can be. The
// first rule that fits says what has to happen.
func TestMatrix(t *testing.T) {
	keys := map[string][]string{
		"absent": nil, "none": {}, "empty": {""}, "wrong": {"nope"}, "right": {mainKey},
		"hash": {HashKey(mainKey)}, "service's": {serviceKey}, "longer": {mainKey + "x"}, "shorter": {mainKey[:5]},
		"twice": {mainKey, mainKey}, "right,wrong": {mainKey, "nope"},
	}
	services := map[string][]string{
		"absent": nil, "none": {}, "empty": {""}, "wrong": {"nope"}, "right": {serviceKey},
		"hash": {HashKey(serviceKey)}, "main's": {mainKey}, "twice": {serviceKey, serviceKey},
	}
	users := map[string][]string{
		"absent": nil, "none": {}, "empty": {""}, "right": {"smith"}, "primary": {"primary"}, "root": {"root"}, "toor": {"toor"},
		"unknown": {"ghost"}, "non-member": {"nobody"}, "half": {"onlykvm"}, "case": {"Smith"}, "space": {" smith"},
		"listed, no passwd": {"both"}, "twice": {"smith", "smith"}, "line": {"smith:x:1000"},
	}
	in := func(s string, of ...string) bool {
		for _, o := range of {
			if s == o {
				return true
			}
		}
		return false
	}
	absent := func(s string) bool { return in(s, "absent", "none") }
	want := func(required bool, key, user, service string) Reason {
		goodUser := in(user, "right", "primary", "root", "toor")
		switch {
		case !absent(service) && service != "right":
			return BadServiceKey
		case !absent(key) && key != "right":
			return BadKey
		case absent(service) && absent(key) && required:
			return BadKey
		case user == "empty", absent(user) && absent(service) && required:
			return MissingUser
		case !absent(user) && !goodUser:
			return NotMember
		}
		return 0
	}

	for _, required := range []bool{true, false} {
		a := newAuth(t, func(c *Config) { c.Required = required })
		now := t0
		for kn, k := range keys {
			for sn, s := range services {
				for un, u := range users {
					// Every combination gets its own minute: nothing is slowed.
					now = now.Add(2 * time.Minute)
					name := fmt.Sprintf("required=%v key=%s service=%s user=%s", required, kn, sn, un)
					c, err := a.Authenticate(Credentials{Key: k, Username: u, ServiceKey: s, Addr: "192.0.2.1:1"}, now)
					got, expect := reason(t, err), want(required, kn, un, sn)
					if got != expect {
						t.Errorf("%s: got %v, want %v", name, got, expect)
						continue
					}
					if expect != 0 {
						if c.Allowed("domains:read") || !c.Anonymous() {
							t.Errorf("%s: the refused caller is %+v", name, c)
						}
						continue
					}
					wantUser, wantKey := "", ""
					if len(u) == 1 {
						wantUser = u[0]
					}
					if sn == "right" {
						wantKey = "monitor"
					}
					if c.User != wantUser || c.KeyName != wantKey {
						t.Errorf("%s: got user %q, key %q", name, c.User, c.KeyName)
					}
					if !c.Allowed("domains:read") {
						t.Errorf("%s: may not read", name)
					}
					if c.Allowed("domains:delete") != (sn != "right") {
						t.Errorf("%s: delete allowed: %v", name, c.Allowed("domains:delete"))
					}
				}
			}
		}
	}
}

func TestNoMainKey(t *testing.T) {
	a := newAuth(t, func(c *Config) { c.Key = "" })
	for _, key := range [][]string{nil, {""}, {"x"}, {string(make([]byte, 32))}} {
		_, err := a.Authenticate(Credentials{Key: key, Username: []string{"root"}}, t0)
		if reason(t, err) != BadKey {
			t.Errorf("key %q: %v", key, err)
		}
	}
	if _, err := a.Authenticate(Credentials{ServiceKey: []string{serviceKey}}, t0); err != nil {
		t.Errorf("service key: %v", err)
	}
}

func TestAnonymous(t *testing.T) {
	a := newAuth(t, func(c *Config) { c.Required, c.Key, c.ServiceKeys = false, "", nil })
	c, err := a.Authenticate(Credentials{Addr: "127.0.0.1:1"}, t0)
	if err != nil || !c.Anonymous() || !c.Allowed("domains:delete") {
		t.Errorf("got %+v, %v", c, err)
	}
	if _, err := a.Authenticate(Credentials{Key: []string{""}}, t0); reason(t, err) != BadKey {
		t.Errorf("empty key against no key: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	sk := func(k ...ServiceKey) []ServiceKey { return k }
	ok := []string{"*"}
	tests := map[string]struct {
		cfg  Config
		want string
	}{
		"required without key":     {Config{Required: true}, "none is configured"},
		"short hash":               {Config{Key: "sha256:abcd"}, "64 hex digits"},
		"bad hex":                  {Config{Key: "sha256:" + strings.Repeat("z", 64)}, "64 hex digits"},
		"hash of nothing":          {Config{Key: HashKey("")}, "hash of nothing"},
		"key with newline":         {Config{Key: "secret\nx"}, "control character"},
		"key with space":           {Config{Key: " secret"}, "space"},
		"service key without name": {Config{ServiceKeys: sk(ServiceKey{"", "secret", ok})}, "without a name"},
		"service key without key":  {Config{ServiceKeys: sk(ServiceKey{"n", "", ok})}, "empty"},
		"no permission":            {Config{ServiceKeys: sk(ServiceKey{"n", "secret", nil})}, "allows nothing"},
		"bad permission":           {Config{ServiceKeys: sk(ServiceKey{"n", "secret", []string{"domains"}})}, `"domains" is not`},
		"name twice":               {Config{ServiceKeys: sk(ServiceKey{"n", "secret1", ok}, ServiceKey{"n", "secret2", ok})}, "twice"},
		"same key":                 {Config{ServiceKeys: sk(ServiceKey{"n", "secret", ok}, ServiceKey{"m", HashKey("secret"), ok})}, `same as service key "n"`},
		"same as main":             {Config{Key: HashKey("secret"), ServiceKeys: sk(ServiceKey{"n", "secret", ok})}, "same as the main key"},
		"negative limit":           {Config{FailuresPerMinute: -1}, "-1 failures"},
		"huge limit":               {Config{FailuresPerMinute: 1001}, "1001 failures"},
		"bad group":                {Config{Groups: []string{"libvirt", ""}}, "group's name"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := New(tt.cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want an error with %q", err, tt.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the error shows a key: %v", err)
			}
		})
	}
}

func TestErrorWords(t *testing.T) {
	for _, tt := range []struct {
		err  Error
		want string
	}{
		{Error{Reason: BadKey}, "not authenticated: bad key"},
		{Error{Reason: MissingUser}, "not authenticated: missing username"},
		{Error{Reason: NotMember}, "not authenticated: not a member"},
		{Error{Reason: BadServiceKey}, "not authenticated: bad service key"},
		{Error{TooMany, 3 * time.Second}, "not authenticated: too many failures, retry after 3s"},
		{Error{Reason: 77}, "not authenticated: reason 77"},
	} {
		if got := tt.err.Error(); got != tt.want {
			t.Errorf("got %q, want %q", got, tt.want)
		}
	}
}

// TestConcurrent is for the race detector: requests while files change.
func TestConcurrent(t *testing.T) {
	g, p := files(t)
	a, err := New(Config{Required: true, Key: mainKey, GroupFile: g, PasswdFile: p, Warn: func(string, error) {}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				if i == 0 && n%20 == 0 {
					write(t, g, groupText+"# "+strings.Repeat("x", n), time.Hour)
				}
				a.Authenticate(Credentials{Key: []string{mainKey}, Username: []string{"smith"}, Addr: fmt.Sprintf("192.0.2.%d", i)}, t0)
				a.Authenticate(Credentials{Key: []string{"x"}, Addr: "198.51.100.1"}, t0)
			}
		})
	}
	wg.Wait()
	// 1,600 failures, and exactly the limit of them was looked at.
	if n := len(a.failures.byKey[bucketOf(Credentials{Addr: "198.51.100.1"})].times); n != defaultFailures {
		t.Errorf("%d failures counted, want %d", n, defaultFailures)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	a := newAuth(b, nil)
	for name, c := range map[string]Credentials{
		"user":    {Key: []string{mainKey}, Username: []string{"smith"}, Addr: "192.0.2.1:5"},
		"service": {ServiceKey: []string{serviceKey}, Addr: "192.0.2.1:5"},
		"wrong":   {Key: []string{"guess"}, Addr: "192.0.2.2:5"},
		"absent":  {Addr: "192.0.2.3:5"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				a.Authenticate(c, t0)
			}
		})
	}
}
