package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"virtgate/auth"
	"virtgate/server/audit"
	"virtgate/server/listen"
)

// config is the whole configuration, read once and validated. Nothing reads
// configuration later, but for a reload, which makes another one.
type config struct {
	Libvirtd    libvirtdConfig
	HTTP        httpConfig
	Auth        authConfig
	ServiceKeys []auth.ServiceKey // in the order of their names
	Users       []auth.User       // likewise
	Audit       audit.Config
	Log         logConfig
	// TraceEndpoint is where traces go, empty for nowhere.
	TraceEndpoint string
}

type libvirtdConfig struct {
	Driver, Transport, Username, Hostname string
	Port                                  int // 0: the transport's own
	Path, Extras                          string
	Socket                                string
	Connections                           int
	CallTimeout                           time.Duration
}

type httpConfig struct {
	Address        string
	Port           int
	Threads        int // that run at the same time; 0: half of the CPUs
	KeyRequired    bool
	Key            string
	BodyLimit      int64 // bytes
	RequestTimeout time.Duration
	Docs           bool // there is a page for people

	TLS         listen.TLSFiles // without Cert: none
	Socket      string
	SocketMode  fs.FileMode
	SocketGroup string // name or gid; "": that of the process
	SocketPeer  bool
}

type authConfig struct {
	Groups                []string
	GroupFile, PasswdFile string
}

type logConfig struct {
	Color, Quiet, Debug bool
	Format              string // text or json
}

// setting is one key of the configuration. An empty value means the default.
type setting struct {
	section, key string
	set          value
	secret       bool // its value is never shown
	live         bool // a reload can change it
}

// The bounds are what a sane host can want; a value beyond them is a typing
// error.
const (
	maxConnections = 64 // libvirtd takes 5000 clients in all (max_clients)
	maxThreads     = 1024
	maxBodyLimit   = 16 << 20 // bytes; libvirt itself takes 4 MiB of XML
)

var settings = []setting{
	{section: "libvirtd", key: "driver", set: text(func(c *config) *string { return &c.Libvirtd.Driver })},
	{section: "libvirtd", key: "transport", set: choice(func(c *config) *string { return &c.Libvirtd.Transport }, "", "unix", "tcp", "tls", "ssh", "libssh", "libssh2")},
	{section: "libvirtd", key: "username", set: text(func(c *config) *string { return &c.Libvirtd.Username })},
	{section: "libvirtd", key: "hostname", set: text(func(c *config) *string { return &c.Libvirtd.Hostname })},
	{section: "libvirtd", key: "port", set: number(func(c *config) *int { return &c.Libvirtd.Port }, 1, 65535)},
	{section: "libvirtd", key: "path", set: text(func(c *config) *string { return &c.Libvirtd.Path })},
	{section: "libvirtd", key: "extras", set: text(func(c *config) *string { return &c.Libvirtd.Extras })},
	{section: "libvirtd", key: "socket", set: text(func(c *config) *string { return &c.Libvirtd.Socket })},
	{section: "libvirtd", key: "connections", set: number(func(c *config) *int { return &c.Libvirtd.Connections }, 1, maxConnections)},
	{section: "libvirtd", key: "call_timeout", set: duration(func(c *config) *time.Duration { return &c.Libvirtd.CallTimeout }, 100*time.Millisecond, 10*time.Minute)},

	{section: "http_server", key: "address", set: text(func(c *config) *string { return &c.HTTP.Address })},
	{section: "http_server", key: "port", set: number(func(c *config) *int { return &c.HTTP.Port }, 0, 65535)},
	{section: "http_server", key: "threads", set: number(func(c *config) *int { return &c.HTTP.Threads }, 0, maxThreads)},
	{section: "http_server", key: "auth-key-required", set: boolean(func(c *config) *bool { return &c.HTTP.KeyRequired }), live: true},
	{section: "http_server", key: "auth-key", set: key(func(c *config) *string { return &c.HTTP.Key }), secret: true, live: true},
	{section: "http_server", key: "doc_root", set: unused},
	{section: "http_server", key: "body_limit", set: size(func(c *config) *int64 { return &c.HTTP.BodyLimit }, 1024, maxBodyLimit), live: true},
	{section: "http_server", key: "request_timeout", set: duration(func(c *config) *time.Duration { return &c.HTTP.RequestTimeout }, time.Second, time.Hour), live: true},
	{section: "http_server", key: "tls_cert", set: text(func(c *config) *string { return &c.HTTP.TLS.Cert }), live: true},
	{section: "http_server", key: "tls_key", set: text(func(c *config) *string { return &c.HTTP.TLS.Key }), live: true},
	{section: "http_server", key: "tls_client_ca", set: text(func(c *config) *string { return &c.HTTP.TLS.ClientCA }), live: true},
	{section: "http_server", key: "tls_min_version", set: oneOf(func(c *config) *uint16 { return &c.HTTP.TLS.Min }, map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}), live: true},
	{section: "http_server", key: "socket", set: absolutePath(func(c *config) *string { return &c.HTTP.Socket })},
	{section: "http_server", key: "socket_mode", set: fileMode(func(c *config) *fs.FileMode { return &c.HTTP.SocketMode })},
	{section: "http_server", key: "socket_group", set: text(func(c *config) *string { return &c.HTTP.SocketGroup })},
	{section: "http_server", key: "socket_peer", set: boolean(func(c *config) *bool { return &c.HTTP.SocketPeer }), live: true},
	{section: "http_server", key: "docs", set: boolean(func(c *config) *bool { return &c.HTTP.Docs })},

	{section: "auth", key: "groups", set: wordList(func(c *config) *[]string { return &c.Auth.Groups }), live: true},
	{section: "auth", key: "group_file", set: text(func(c *config) *string { return &c.Auth.GroupFile }), live: true},
	{section: "auth", key: "passwd_file", set: text(func(c *config) *string { return &c.Auth.PasswdFile }), live: true},

	{section: "audit", key: "file", set: at(func(c *config) *string { return &c.Audit.File }, func(v string) (string, error) {
		if v == "-" {
			return v, nil
		}
		return v, wantAbsolute(v)
	}), live: true},
	{section: "audit", key: "required", set: boolean(func(c *config) *bool { return &c.Audit.Required }), live: true},

	{section: "trace", key: "endpoint", set: webURL(func(c *config) *string { return &c.TraceEndpoint }), secret: true},

	{section: "wrapperd", key: "color", set: boolean(func(c *config) *bool { return &c.Log.Color })},
	{section: "wrapperd", key: "quiet", set: boolean(func(c *config) *bool { return &c.Log.Quiet }), live: true},
	{section: "wrapperd", key: "debug", set: boolean(func(c *config) *bool { return &c.Log.Debug }), live: true},
	{section: "wrapperd", key: "format", set: choice(func(c *config) *string { return &c.Log.Format }, "text", "json")},
}

// Sections that are there once for each service and each user.
const (
	servicePrefix = "service_key."
	userPrefix    = "user."
)

func defaultConfig() config {
	return config{
		Libvirtd: libvirtdConfig{Driver: "qemu", Connections: 4, CallTimeout: 10 * time.Second},
		HTTP: httpConfig{
			Address: "127.0.0.1", Port: 8081, KeyRequired: true,
			BodyLimit: 1 << 20, RequestTimeout: time.Minute, Docs: true,
			TLS:        listen.TLSFiles{Min: tls.VersionTLS12},
			SocketMode: 0o660, SocketPeer: true,
		},
		Auth: authConfig{Groups: []string{"libvirt", "kvm"}, GroupFile: "/etc/group", PasswdFile: "/etc/passwd"},
		Log:  logConfig{Format: "text"},
	}
}

// parseConfig reads a configuration in INI form, then the environment, whose
// VIRTGATE_SECTION_KEY variables win. What it does not know or cannot read is
// an error that names section, key and value; the values of keys are not shown.
func parseConfig(r io.Reader, env []string) (config, error) {
	c := defaultConfig()
	sections, err := readINI(r)
	if err != nil {
		return c, err
	}
	if err := overlay(sections, env); err != nil {
		return c, err
	}
	for _, section := range sorted(sections) {
		set := c.set
		if name, ok := strings.CutPrefix(section, servicePrefix); ok {
			c.ServiceKeys = append(c.ServiceKeys, auth.ServiceKey{Name: name})
			set = c.setService
		} else if name, ok := strings.CutPrefix(section, userPrefix); ok {
			c.Users = append(c.Users, auth.User{Name: name})
			set = c.setUser
		}
		for _, k := range sorted(sections[section]) {
			if err := set(section, k, strings.TrimSpace(sections[section][k])); err != nil {
				return c, err
			}
		}
	}
	return c, c.check()
}

func (c *config) set(section, k, v string) error {
	var keys []string
	for _, s := range settings {
		if s.section != section {
			continue
		}
		keys = append(keys, s.key)
		if s.key != k || v == "" {
			if s.key == k {
				return nil
			}
			continue
		}
		if err := s.set.put(c, v); err != nil {
			return settingError(section, k, v, s.secret, err)
		}
		return nil
	}
	if keys == nil {
		return fmt.Errorf("[%s] is not a section; there are %s", section, strings.Join(sectionNames(), ", "))
	}
	return fmt.Errorf("[%s] has no key %q; there are %s", section, k, strings.Join(keys, ", "))
}

// sectionNames are all sections, in the order of config.ini.
func sectionNames() []string {
	var out []string
	for _, s := range settings {
		if !slices.Contains(out, s.section) {
			out = append(out, s.section)
		}
	}
	return append(out, servicePrefix+"NAME", userPrefix+"NAME")
}

// setService sets a key of the service that was added last.
func (c *config) setService(section, k, v string) (err error) {
	s := &c.ServiceKeys[len(c.ServiceKeys)-1]
	switch k {
	case "key":
		s.Key, err = configuredKey(section, k, v)
	case "allow":
		s.Allow, err = permissions(section, k, v)
	default:
		err = fmt.Errorf("[%s] has no key %q; there are %s", section, k, strings.Join(namedKeys[servicePrefix], ", "))
	}
	return err
}

// setUser sets a key of the user who was added last.
func (c *config) setUser(section, k, v string) (err error) {
	u := &c.Users[len(c.Users)-1]
	switch k {
	case "key":
		u.Key, err = configuredKey(section, k, v)
	case "next_key":
		u.NextKey, err = configuredKey(section, k, v)
	case "allow":
		u.Allow, err = permissions(section, k, v)
	default:
		err = fmt.Errorf("[%s] has no key %q; there are %s", section, k, strings.Join(namedKeys[userPrefix], ", "))
	}
	return err
}

func configuredKey(section, k, v string) (string, error) {
	if v == "" {
		return "", nil
	}
	if err := auth.CheckKey(v); err != nil {
		return "", settingError(section, k, v, true, err)
	}
	return v, nil
}

func permissions(section, k, v string) ([]string, error) {
	allow := words(v)
	for _, p := range allow {
		if !auth.ValidPermission(p) {
			return nil, settingError(section, k, v, false, fmt.Errorf("%q is not a permission; want for example domains:read, domains:*, *:read, *", p))
		}
	}
	return allow, nil
}

func settingError(section, k, v string, secret bool, err error) error {
	if secret {
		return fmt.Errorf("[%s] %s: %w", section, k, err)
	}
	return fmt.Errorf("[%s] %s = %q: %w", section, k, v, err)
}

// URI is the daemon's address as libvirt spells it:
// driver[+transport]://[username@][hostname][:port]/[path][?extras].
func (c *libvirtdConfig) URI() string {
	u := url.URL{Scheme: c.Driver, RawQuery: strings.TrimPrefix(c.Extras, "?")}
	if c.Transport != "" {
		u.Scheme += "+" + c.Transport
	}
	if c.Username != "" {
		u.User = url.User(c.Username)
	}
	u.Host = c.Hostname
	if strings.Contains(u.Host, ":") && !strings.HasPrefix(u.Host, "[") {
		u.Host = "[" + u.Host + "]"
	}
	if c.Port != 0 {
		u.Host += ":" + strconv.Itoa(c.Port)
	}
	path := c.Path
	if path == "" {
		path = "system"
		if c.Driver == "test" {
			path = "default"
		}
	}
	u.Path = "/" + strings.TrimPrefix(path, "/")
	return u.String()
}
