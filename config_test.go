package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"virtgate/auth"
	"virtgate/server/audit"
	"virtgate/server/listen"
)

func TestShippedConfigIsTheDefault(t *testing.T) {
	f, err := os.Open("config.ini")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := parseConfig(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(defaultConfig(), got); diff != "" {
		t.Errorf("config.ini does not say the defaults (-default +config.ini):\n%s", diff)
	}
	text, _ := os.ReadFile("config.ini")
	for _, s := range settings {
		if !strings.Contains(string(text), "\n"+s.key+"=") {
			t.Errorf("config.ini lacks [%s] %s", s.section, s.key)
		}
	}
}

func TestParseConfig(t *testing.T) {
	got, err := parseConfig(strings.NewReader(`
[libvirtd]
driver=qemu
transport=SSH
username=root
hostname=h
port=2222
path=system
extras=keyfile=/k
connections=8
call_timeout=2.5s
[http_server]
address=::1
port=80
threads=3
auth-key-required=yes
auth-key=a#b;c ; what is behind is a comment
doc_root=/srv
body_limit=2MiB
request_timeout=30
tls_cert=/c
tls_key=/k
tls_client_ca=/ca
tls_min_version=1.3
socket=/run/s
socket_mode=600
socket_group=g
socket_peer=no
docs=off
[auth]
groups=a, b
[service_key.ci]
key=x
allow=domains:read,domains:power
[user.smith]
key=y
[user.john.doe]
allow=*:read
[audit]
file=/var/log/a
required=yes
[trace]
endpoint=http://collector:4318
[wrapperd]
color=1
quiet=off
format=JSON
`), []string{"VIRTGATE_HTTP_SERVER_PORT=81", "VIRTGATE_HTTP_SERVER_AUTH_KEY_REQUIRED=no", "VIRTGATE_SERVICE_KEY_CI_ALLOW=*:read",
		"VIRTGATE_USER_SMITH_NEXT_KEY=z", "VIRTGATE_USER_JONES_KEY=w",
		"VIRTGATE_PORT=tcp://10.0.0.1", "HOME=/"})
	if err != nil {
		t.Fatal(err)
	}
	want := config{
		Libvirtd: libvirtdConfig{Driver: "qemu", Transport: "ssh", Username: "root", Hostname: "h", Port: 2222, Path: "system",
			Extras: "keyfile=/k", Connections: 8, CallTimeout: 2500 * time.Millisecond},
		HTTP: httpConfig{Address: "::1", Port: 81, Threads: 3, Key: "a#b;c", BodyLimit: 2 << 20, RequestTimeout: 30 * time.Second,
			TLS:    listen.TLSFiles{Cert: "/c", Key: "/k", ClientCA: "/ca", Min: tls.VersionTLS13},
			Socket: "/run/s", SocketMode: 0o600, SocketGroup: "g"},
		Auth:  authConfig{Groups: []string{"a", "b"}, GroupFile: "/etc/group", PasswdFile: "/etc/passwd"},
		Audit: audit.Config{File: "/var/log/a", Required: true},
		Log:   logConfig{Color: true, Format: "json"},

		TraceEndpoint: "http://collector:4318",
		ServiceKeys:   []auth.ServiceKey{{Name: "ci", Key: "x", Allow: []string{"*:read"}}},
		Users:         []auth.User{{Name: "john.doe", Allow: []string{"*:read"}}, {Name: "jones", Key: "w"}, {Name: "smith", Key: "y", NextKey: "z"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if uri := got.Libvirtd.URI(); uri != "qemu+ssh://root@h:2222/system?keyfile=/k" {
		t.Errorf("URI %s", uri)
	}
	if l := got.listen(); l != "[::1]:81" {
		t.Errorf("listen on %s", l)
	}
}

// What the source server's example had: every key, most of them empty.
const sourceConfig = "\xef\xbb\xbf; libvirt-web\r\n" + `
[libvirtd] ; where libvirt is
driver = "qemu"
transport =
username =
hostname =
port =
path = system
extras =

[http_server]
  address = '0.0.0.0'
  port = 8081	; the port
  threads = 4   # of them
  auth-key-required = true
  auth-key = "k ; # =x"
  doc_root = /var/www/html

[wrapperd]
color = yes
quiet: no
DEBUG = Off
`

func TestSourceConfig(t *testing.T) {
	got, err := parseConfig(strings.NewReader(sourceConfig), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Libvirtd.Path = "system"
	want.HTTP.Address, want.HTTP.Threads, want.HTTP.Key = "0.0.0.0", 4, "k ; # =x"
	want.Log.Color = true
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if uri := got.Libvirtd.URI(); uri != "qemu:///system" {
		t.Errorf("URI %s", uri)
	}
}

// Quotes and comments around a value, which a key must survive as it was meant.
func TestConfigValues(t *testing.T) {
	for in, want := range map[string]string{
		`abc`: "abc", `  abc  `: "abc", `"abc"`: "abc", `'abc'`: "abc", `"abc" ; x`: "abc", `'a' # "b"`: "a",
		`abc ; x`: "abc", "abc\t# x": "abc", `abc;x#y`: "abc;x#y", `"a ; b"`: "a ; b", `'a # b'`: "a # b", `"a;b" ;"c"`: "a;b",
		`; x`: "", `# x`: "", `"" ; x`: "", ``: "", `"abc`: `"abc`, `abc"`: `abc"`, `'it''s'`: `'it''s'`, `"a" "b"`: `"a" "b"`, `"a"b;c`: `"a"b;c`,
		`a = b`: "a = b", `=abc`: "=abc", `a:b`: "a:b", `abc\`: `abc\`, `$HOME`: "$HOME", `ü`: "ü",
	} {
		c, err := parseConfig(strings.NewReader("[http_server]\nauth-key="+in+"\nport=81\n"), nil)
		if err != nil || c.HTTP.Key != want || c.HTTP.Port != 81 {
			t.Errorf("auth-key=%s: %q, port %d, %v, want %q", in, c.HTTP.Key, c.HTTP.Port, err, want)
		}
	}
}

// The environment has no dots and dashes: a service of the file is found by
// what its name becomes there.
func TestServiceKeyFromEnvironment(t *testing.T) {
	c, err := parseConfig(strings.NewReader("[service_key.my-app]\nkey=old\nallow=domains:read\n"), []string{
		"VIRTGATE_SERVICE_KEY_MY_APP_KEY=new", "VIRTGATE_SERVICE_KEY_OTHER_ONE_KEY=x", "VIRTGATE_SERVICE_KEY_OTHER_ONE_ALLOW=*"})
	want := []auth.ServiceKey{{Name: "my-app", Key: "new", Allow: []string{"domains:read"}}, {Name: "other_one", Key: "x", Allow: []string{"*"}}}
	if diff := cmp.Diff(want, c.ServiceKeys); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

// A log that nobody looks at has no colours.
func TestColor(t *testing.T) {
	var b bytes.Buffer
	log, _ := newLogger(logConfig{Color: true, Format: "text"}, &b)
	log.Info("x")
	if !strings.Contains(b.String(), "msg=x") {
		t.Errorf("%q", b.String())
	}
}

// Every mistake stops the start, with section, key and value, but never with a
// key's value.
func TestParseConfigRefuses(t *testing.T) {
	for _, c := range []struct{ ini, env, want string }{
		{"[http]\nport=1", "", `[http] is not a section`},
		{"[http_server]\nprot=1", "", `[http_server] has no key "prot"; there are address, port`},
		{"[http_server]\nport=70000", "", `[http_server] port = "70000": want a number`},
		{"[http_server]\nport=x", "", `[http_server] port = "x"`},
		{"[http_server]\nauth-key-required=perhaps", "", `[http_server] auth-key-required = "perhaps": want true or false`},
		{"[http_server]\nauth-key=sha256:12", "", `[http_server] auth-key: `},
		{"[http_server]\nbody_limit=1GiB", "", `[http_server] body_limit = "1GiB"`},
		{"[http_server]\nrequest_timeout=1s", "", `shorter than [libvirtd] call_timeout`},
		{"[libvirtd]\ntransport=pigeon", "", `[libvirtd] transport = "pigeon": want one of unix`},
		{"[libvirtd]\ntransport=tls", "", `needs hostname`},
		{"[libvirtd]\ncall_timeout=-1s", "", `[libvirtd] call_timeout = "-1s"`},
		{"[libvirtd]\nconnections=65", "", `[libvirtd] connections = "65"`},
		{"[service_key.x]\nkey=a", "", `[service_key.x] needs both key and allow`},
		{"[service_key.x]\nkey=a\nallow=everything", "", `"everything" is not a permission`},
		{"[service_key.x]\ncolour=a", "", `[service_key.x] has no key "colour"`},
		{"[user.x]\nkey=", "", `[user.x] needs key, next_key or allow`},
		{"[user.x]\nkey=sha256:1", "", `[user.x] key: `},
		{"[user.x]\nallow=domains", "", `[user.x] allow = "domains": "domains" is not a permission`},
		{"[user.x]\nkeys=1", "", `[user.x] has no key "keys"; there are next_key, key, allow`},
		{"[http_server]\ntls_cert=/c", "", `tls_cert and tls_key go together`},
		{"[http_server]\ntls_client_ca=/c", "", `tls_client_ca needs tls_cert`},
		{"[http_server]\ntls_min_version=1.1", "", `[http_server] tls_min_version = "1.1": want one of 1.2, 1.3`},
		{"[http_server]\nsocket=virtgate.sock", "", `[http_server] socket = "virtgate.sock": want a path from the root`},
		{"[http_server]\nsocket_mode=0999", "", `[http_server] socket_mode = "0999": want permissions in octal`},
		{"[http_server]\nsocket_mode=4755", "", `want permissions in octal`},
		{"[audit]\nfile=audit.log", "", `[audit] file = "audit.log": want a path from the root`},
		{"[audit]\nrequired=true", "", `[audit] required needs file`},
		{"[trace]\nendpoint=collector:4318", "", `[trace] endpoint: want http://host:port`},
		{"port=1", "", `before the first [section]`},
		{"", "VIRTGATE_HTTP_SERVER_PROT=1", `VIRTGATE_HTTP_SERVER_PROT names no key`},
		{"", "VIRTGATE_SERVICE_KEY_X=1", `VIRTGATE_SERVICE_KEY_X names no key`},
		{"", "VIRTGATE_USER__KEY=1", `VIRTGATE_USER__KEY names no key`},
	} {
		_, err := parseConfig(strings.NewReader(c.ini), []string{c.env})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q %s: %v, want %s", c.ini, c.env, err, c.want)
		}
	}
	for ini, want := range map[string]string{
		"[http_server]\nauth-key=sha256:topsecret":            "[http_server] auth-key",
		"[http_server]\nauth-key topsecret":                   "line 2 is no",
		"[http_server]\n# good\n\nauth-key=x\ntopsecret\n":    "line 5 is no",
		"[http_server]\nauth-key=\"\"\"topsecret\nport=1":     "line 2 is no",
		"[http_server]\nauth-key=`topsecret\nport=1":          "line 2 is no",
		"[http_server auth-key=topsecret":                     "line 1 is no",
		"[auth]\ngroups=topsecret\n[http_server]\nport=%(a)s": "line 4: %(name)s is not accepted",
		"[service_key.x]\nkey=topsecret\nallow=all":           "not a permission",
	} {
		_, err := parseConfig(strings.NewReader(ini), nil)
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s and no key", ini, err, want)
		}
	}
}

func TestURI(t *testing.T) {
	for want, c := range map[string]libvirtdConfig{
		"qemu:///system":            {Driver: "qemu"},
		"qemu:///session":           {Driver: "qemu", Path: "/session"},
		"test:///default":           {Driver: "test"},
		"test:///etc/host.xml":      {Driver: "test", Path: "/etc/host.xml"},
		"qemu+tcp://h:16509/system": {Driver: "qemu", Transport: "tcp", Hostname: "h", Port: 16509},
		"qemu+tls://[::1]/system":   {Driver: "qemu", Transport: "tls", Hostname: "::1"},
	} {
		if got := c.URI(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestExposed(t *testing.T) {
	sample := config{HTTP: httpConfig{KeyRequired: true, Key: "123456789abcdefgh"}}
	open := config{HTTP: httpConfig{Key: "x"}}
	service := config{HTTP: httpConfig{KeyRequired: true, Key: "x"}, ServiceKeys: []auth.ServiceKey{{Name: "s", Key: "v1.0-e24fd090c02efcfecb4de8f4ff24..."}}}
	good := config{HTTP: httpConfig{KeyRequired: true, Key: "x"}}
	user := config{HTTP: httpConfig{KeyRequired: true}, Users: []auth.User{{Name: "u", NextKey: "123456789abcdefgh"}}}
	for _, host := range []string{"127.0.0.1", "::1", "localhost", "127.3.2.1"} {
		for _, c := range []config{sample, open, service, user, good} {
			if err := c.checkExposed(host); err != nil {
				t.Errorf("%s: %v", host, err)
			}
		}
	}
	for _, host := range []string{"", "0.0.0.0", "192.168.1.1", "::", "example.org"} {
		for _, c := range []config{sample, open, service, user} {
			if c.checkExposed(host) == nil {
				t.Errorf("%s: not refused: %+v", host, c)
			}
		}
		if err := good.checkExposed(host); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// What the program does besides serving.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	run := func(stdin string, args ...string) (string, error) {
		var out bytes.Buffer
		err := run(context.Background(), args, nil, strings.NewReader(stdin), &out, &out)
		return out.String(), err
	}
	if out, err := run("", "--version"); err != nil || !strings.HasPrefix(out, "virtgate ") {
		t.Errorf("--version: %q, %v", out, err)
	}
	version, commit, date = "1.2.3", "0123abc", "2026-01-02T03:04:05Z"
	defer func() { version, commit, date = "", "", "" }()
	if out, err := run("", "--version"); err != nil || out != "virtgate 1.2.3 (commit 0123abc, 2026-01-02T03:04:05Z)\n" {
		t.Errorf("--version of a release: %q, %v", out, err)
	}
	if out, err := run("", "--help"); err != nil || !strings.Contains(out, "--hash-key") {
		t.Errorf("--help: %q, %v", out, err)
	}
	if out, err := run("", "--openapi"); err != nil || !strings.HasPrefix(out, `{"openapi":"3.1.`) {
		t.Errorf("--openapi: %.100q, %v", out, err)
	}
	out, err := run("secret\n", "--hash-key")
	if want := "sha256:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b\n"; err != nil || out != want {
		t.Errorf("--hash-key: %q, %v", out, err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--bogus"}, "--help"},
		{[]string{"stray"}, `"stray"`},
		{[]string{"--config", "missing.ini"}, "missing.ini"},
		{[]string{"--completion", "csh"}, "bash, zsh or fish"},
		{[]string{"--listen", "nonsense"}, "address:port"},
		{[]string{"--uri", "pigeon"}, "libvirt URI"},
		{[]string{"--check", "--uri", "qemu://me:topsecret@/system?socket=/nonexistent/sock"}, "/nonexistent/sock: no such file"},
	} {
		if out, err := run("", c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v %s, want %s", c.args, err, out, c.want)
		} else if strings.Contains(out+err.Error(), "topsecret") {
			t.Errorf("%v: a password is shown: %v\n%s", c.args, err, out)
		}
	}
	if _, err := run("", "--hash-key"); err == nil {
		t.Error("an empty key was hashed")
	}
}
