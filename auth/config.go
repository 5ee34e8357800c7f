package auth

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Config says who is let in. The zero value of a field means its default.
type Config struct {
	// Required says that a caller needs credentials. Without it, a caller who
	// presents none is let in with every permission; one who presents a wrong
	// one is still refused.
	Required bool
	// Key is what X-Auth-Key has to be: plain, or "sha256:<64 hex digits>".
	// Empty: only users' own keys are ever right.
	Key string
	// Groups are the groups of which a user has to be a member, all of them.
	// Default: libvirt, kvm.
	Groups []string
	// GroupFile and PasswdFile default to /etc/group and /etc/passwd. They are
	// read again when they change.
	GroupFile, PasswdFile string
	// ServiceKeys are the keys that are good for some permissions only.
	ServiceKeys []ServiceKey
	// Users are those who have keys of their own, or fewer permissions.
	Users []User
	// Certificates says that a client certificate proves who a caller is.
	Certificates bool
	// Peers says that the uid at the other end of a unix socket does.
	Peers bool
	// FailuresPerMinute is how many requests with wrong (or no) credentials one
	// address may make in any minute; default 30, at most 1000. Once that many
	// failures are less than a minute old, every request of the address gets
	// TooMany, right credentials or not: a different answer for right ones
	// would tell a guesser about the guess. Such requests are not counted, so
	// the block ends by itself. A success does not forgive earlier failures.
	//
	// An address is an IPv4 address or an IPv6 /64; the loopback addresses are
	// one, and so is each uid on unix sockets. Callers behind one NAT or one
	// reverse proxy share their failures.
	FailuresPerMinute int
	// Warn is told when a group or passwd file cannot be read (nobody is a
	// member then) or does not have one of the groups: once per change, not
	// once per request. err is nil in the second case. It may be called from
	// several goroutines, one at a time, and must not call back into the
	// Authenticator.
	Warn func(msg string, err error)
}

// ServiceKey is a named key with its permissions.
type ServiceKey struct {
	// Name stands for the key in logs. It is not secret.
	Name string
	// Key has the same two forms as Config.Key.
	Key string
	// Allow lists permissions; see ValidPermission. At least one.
	Allow []string
}

// User is what is configured for one user. He has to be a member of the groups
// all the same.
type User struct {
	Name string
	// Key and NextKey, in the forms of Config.Key, are good as X-Auth-Key
	// together with this user's name; either may be empty. There are two so
	// that a key can be replaced while the old one is still in use.
	Key, NextKey string
	// Allow lists the permissions that the user has, however he proves who he
	// is; see ValidPermission. None: all of them.
	Allow []string
}

type service struct {
	name  string
	key   digest
	allow []string
}

// userKey is one of a user's own keys.
type userKey struct {
	user string
	key  digest
	next bool
}

// New checks cfg and makes an Authenticator from it. Its errors name a key by
// its owner and never hold a key. Group and passwd files that cannot be read
// are no error: Warn is told, and they are tried again with every request.
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{
		required: cfg.Required, certificates: cfg.Certificates, peers: cfg.Peers,
		narrowed: map[string][]string{},
	}
	if err := a.addKeys(cfg); err != nil {
		return nil, err
	}
	if cfg.Required && !a.hasKey && a.services == nil && a.userKeys == nil && !cfg.Certificates && !cfg.Peers {
		return nil, errors.New("cannot require a key: none is configured")
	}

	limit := cfg.FailuresPerMinute
	switch {
	case limit == 0:
		limit = defaultFailures
	case limit < 0 || limit > maxFailures:
		return nil, fmt.Errorf("cannot allow %d failures a minute: it has to be 1 to %d", limit, maxFailures)
	}
	a.failures = newFailures(limit, maxAddresses)

	groups := cfg.Groups
	if len(groups) == 0 {
		groups = []string{"libvirt", "kvm"}
	}
	for _, g := range groups {
		if g == "" || strings.ContainsAny(g, ":,\n") {
			return nil, fmt.Errorf("cannot use %q as a group's name", g)
		}
	}
	a.members = newMembers(groups, cfg.GroupFile, cfg.PasswdFile, cfg.Warn)
	if a.hasKey || a.userKeys != nil || cfg.Certificates || cfg.Peers {
		a.members.current() // so that what is amiss is said at the start
	}
	return a, nil
}

// Next makes an Authenticator from another configuration, which remembers the
// failures that a has counted, and goes on counting them with a.
func (a *Authenticator) Next(cfg Config) (*Authenticator, error) {
	next, err := New(cfg)
	if err != nil {
		return nil, err
	}
	next.failures = a.failures
	return next, nil
}

// addKeys reads every key of cfg. Each one has one owner: with two, it would be
// a matter of order who the caller is and what he may do.
func (a *Authenticator) addKeys(cfg Config) error {
	owners := map[digest]string{}
	read := func(key, owner string) (digest, error) {
		d, err := parseKey(key)
		if err != nil {
			return d, fmt.Errorf("cannot use %s: %w", owner, err)
		}
		if other, ok := owners[d]; ok {
			return d, fmt.Errorf("cannot use %s: it is the same as %s", owner, other)
		}
		owners[d] = owner
		return d, nil
	}
	allowed := func(allow []string, owner string) ([]string, error) {
		for _, p := range allow {
			if !ValidPermission(p) {
				return nil, fmt.Errorf("cannot use %s: %q is not a permission", owner, p)
			}
		}
		return slices.Clone(allow), nil
	}

	var err error
	if cfg.Key != "" {
		a.hasKey = true
		if a.key, err = read(cfg.Key, "the main key"); err != nil {
			return err
		}
	}
	names := map[string]bool{}
	for _, k := range cfg.ServiceKeys {
		owner := fmt.Sprintf("service key %q", k.Name)
		if k.Name == "" {
			return errors.New("cannot use a service key without a name")
		}
		if names[k.Name] {
			return fmt.Errorf("cannot use %s: the name is there twice", owner)
		}
		names[k.Name] = true
		s := service{name: k.Name}
		if s.key, err = read(k.Key, owner); err != nil {
			return err
		}
		if len(k.Allow) == 0 {
			return fmt.Errorf("cannot use %s: it allows nothing", owner)
		}
		if s.allow, err = allowed(k.Allow, owner); err != nil {
			return err
		}
		a.services = append(a.services, s)
	}
	names = map[string]bool{}
	for _, u := range cfg.Users {
		if u.Name == "" {
			return errors.New("cannot use a user without a name")
		}
		if names[u.Name] {
			return fmt.Errorf("cannot use user %q: the name is there twice", u.Name)
		}
		names[u.Name] = true
		for i, key := range []string{u.Key, u.NextKey} {
			if key == "" {
				continue
			}
			k := userKey{user: u.Name, next: i == 1}
			owner := fmt.Sprintf("the key of user %q", u.Name)
			if k.next {
				owner = fmt.Sprintf("the next key of user %q", u.Name)
			}
			if k.key, err = read(key, owner); err != nil {
				return err
			}
			a.userKeys = append(a.userKeys, k)
		}
		if len(u.Allow) > 0 {
			if a.narrowed[u.Name], err = allowed(u.Allow, fmt.Sprintf("user %q", u.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}
