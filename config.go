package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"virtgate/auth"
)

// config is the whole configuration, read once and validated. Nothing reads
// configuration later.
type config struct {
	Libvirtd    libvirtdConfig
	HTTP        httpConfig
	Auth        authConfig
	ServiceKeys []auth.ServiceKey // in the order of their names
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
	set          func(*config, string) error
	secret       bool // its value is never shown
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
	{section: "http_server", key: "auth-key-required", set: boolean(func(c *config) *bool { return &c.HTTP.KeyRequired })},
	{section: "http_server", key: "auth-key", set: key(func(c *config) *string { return &c.HTTP.Key }), secret: true},
	{section: "http_server", key: "doc_root", set: func(*config, string) error { return nil }}, // no files are served
	{section: "http_server", key: "body_limit", set: size(func(c *config) *int64 { return &c.HTTP.BodyLimit }, 1024, maxBodyLimit)},
	{section: "http_server", key: "request_timeout", set: duration(func(c *config) *time.Duration { return &c.HTTP.RequestTimeout }, time.Second, time.Hour)},
	{section: "http_server", key: "docs", set: boolean(func(c *config) *bool { return &c.HTTP.Docs })},

	{section: "auth", key: "groups", set: func(c *config, v string) error {
		c.Auth.Groups = words(v)
		return nil
	}},
	{section: "auth", key: "group_file", set: text(func(c *config) *string { return &c.Auth.GroupFile })},
	{section: "auth", key: "passwd_file", set: text(func(c *config) *string { return &c.Auth.PasswdFile })},

	{section: "trace", key: "endpoint", set: webURL(func(c *config) *string { return &c.TraceEndpoint }), secret: true},

	{section: "wrapperd", key: "color", set: boolean(func(c *config) *bool { return &c.Log.Color })},
	{section: "wrapperd", key: "quiet", set: boolean(func(c *config) *bool { return &c.Log.Quiet })},
	{section: "wrapperd", key: "debug", set: boolean(func(c *config) *bool { return &c.Log.Debug })},
	{section: "wrapperd", key: "format", set: choice(func(c *config) *string { return &c.Log.Format }, "text", "json")},
}

const servicePrefix = "service_key."

func defaultConfig() config {
	return config{
		Libvirtd: libvirtdConfig{Driver: "qemu", Connections: 4, CallTimeout: 10 * time.Second},
		HTTP: httpConfig{
			Address: "127.0.0.1", Port: 8081, KeyRequired: true,
			BodyLimit: 1 << 20, RequestTimeout: time.Minute, Docs: true,
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
	services := map[string]*auth.ServiceKey{}
	for _, section := range sorted(sections) {
		name, isService := strings.CutPrefix(section, servicePrefix)
		for _, k := range sorted(sections[section]) {
			v := strings.TrimSpace(sections[section][k])
			if isService {
				err = c.setService(services, name, k, v)
			} else {
				err = c.set(section, k, v)
			}
			if err != nil {
				return c, err
			}
		}
	}
	for _, name := range sorted(services) {
		c.ServiceKeys = append(c.ServiceKeys, *services[name])
	}
	return c, c.check()
}

// overlay puts the environment over what the file says. A variable that names
// a section of ours but no key of it is an error; others (Kubernetes makes
// VIRTGATE_PORT for a service of that name) are left alone.
func overlay(sections map[string]map[string]string, env []string) error {
	put := func(section, k, v string) {
		if sections[section] == nil {
			sections[section] = map[string]string{}
		}
		sections[section][k] = v
	}
	variable := func(s string) string { return strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(s)) }
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		rest, ok := strings.CutPrefix(name, "VIRTGATE_")
		if !ok {
			continue
		}
		if service, ok := strings.CutPrefix(rest, "SERVICE_KEY_"); ok {
			i := strings.LastIndexByte(service, '_')
			if i < 1 {
				return fmt.Errorf("environment: %s: want VIRTGATE_SERVICE_KEY_NAME_KEY or …_ALLOW", name)
			}
			section := servicePrefix + strings.ToLower(service[:i])
			for _, s := range sorted(sections) { // the file's spelling, when it has that one
				if variable(s) == "SERVICE_KEY_"+service[:i] {
					section = s
				}
			}
			put(section, strings.ToLower(service[i+1:]), value)
			continue
		}
		known, ours := false, false
		for _, s := range settings {
			ours = ours || strings.HasPrefix(rest, variable(s.section)+"_")
			if rest == variable(s.section)+"_"+variable(s.key) {
				put(s.section, s.key, value)
				known = true
			}
		}
		if ours && !known {
			return fmt.Errorf("environment: %s names no key of the configuration", name)
		}
	}
	return nil
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
		if err := s.set(c, v); err != nil {
			return settingError(section, k, v, s.secret, err)
		}
		return nil
	}
	if keys == nil {
		return fmt.Errorf("[%s] is not a section; there are libvirtd, http_server, auth, service_key.NAME, trace, wrapperd", section)
	}
	return fmt.Errorf("[%s] has no key %q; there are %s", section, k, strings.Join(keys, ", "))
}

func (c *config) setService(services map[string]*auth.ServiceKey, name, k, v string) error {
	section := servicePrefix + name
	s := services[name]
	if s == nil {
		s = &auth.ServiceKey{Name: name}
		services[name] = s
	}
	switch k {
	case "key":
		if err := auth.CheckKey(v); err != nil {
			return settingError(section, k, v, true, err)
		}
		s.Key = v
	case "allow":
		s.Allow = words(v)
		for _, p := range s.Allow {
			if !auth.ValidPermission(p) {
				return settingError(section, k, v, false, fmt.Errorf("%q is not a permission; want for example domains:read, domains:*, *:read, *", p))
			}
		}
	default:
		return fmt.Errorf("[%s] has no key %q; there are key, allow", section, k)
	}
	return nil
}

func settingError(section, k, v string, secret bool, err error) error {
	if secret {
		return fmt.Errorf("[%s] %s: %w", section, k, err)
	}
	return fmt.Errorf("[%s] %s = %q: %w", section, k, v, err)
}

// check is what only the whole can show.
func (c *config) check() error {
	if c.HTTP.RequestTimeout < c.Libvirtd.CallTimeout {
		return fmt.Errorf("[http_server] request_timeout = %q: it is shorter than [libvirtd] call_timeout, %s", c.HTTP.RequestTimeout, c.Libvirtd.CallTimeout)
	}
	if c.Libvirtd.Hostname == "" {
		switch c.Libvirtd.Transport {
		case "", "unix":
		default:
			return fmt.Errorf("[libvirtd] transport = %q: it needs hostname", c.Libvirtd.Transport)
		}
	}
	for _, s := range c.ServiceKeys {
		if s.Key == "" || len(s.Allow) == 0 {
			return fmt.Errorf("[%s%s] needs both key and allow", servicePrefix, s.Name)
		}
	}
	return nil
}

// checkExposed refuses what must not be reachable from other machines.
func (c *config) checkExposed(host string) error {
	if loopback(host) {
		return nil
	}
	if !c.HTTP.KeyRequired {
		return fmt.Errorf("[http_server] auth-key-required = \"no\": refused on %s, which other machines can reach; listen on 127.0.0.1, or require a key", printHost(host))
	}
	if auth.IsSampleKey(c.HTTP.Key) {
		return fmt.Errorf("[http_server] auth-key: it is a sample key that everybody knows, refused on %s; make another one", printHost(host))
	}
	for _, s := range c.ServiceKeys {
		if auth.IsSampleKey(s.Key) {
			return fmt.Errorf("[%s%s] key: it is a sample key that everybody knows, refused on %s; make another one", servicePrefix, s.Name, printHost(host))
		}
	}
	return nil
}

func printHost(host string) string {
	if host == "" {
		return "all addresses"
	}
	return host
}

// loopback tells whether only this machine can reach the host.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// noKey tells whether nobody could call.
func (c *config) noKey() bool {
	return c.HTTP.KeyRequired && c.HTTP.Key == "" && len(c.ServiceKeys) == 0
}

func (c *config) listen() string {
	return net.JoinHostPort(strings.Trim(c.HTTP.Address, "[]"), strconv.Itoa(c.HTTP.Port))
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
