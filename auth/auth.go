// Package auth decides who is calling and what they may do.
//
// It is given the values of the three credential headers and the caller's
// address, and answers with a [Caller] or an [*Error]. It knows nothing of
// HTTP beyond that, and nothing of libvirt.
//
// The rules, in the order in which they decide:
//
//  1. An address with too many failures behind it gets [TooMany], whatever it
//     sends (see [Config.FailuresPerMinute]).
//  2. A service key that is presented must be right: [BadServiceKey].
//  3. A key that is presented must be right, and without a service key there
//     has to be one: [BadKey].
//  4. A username that is presented must belong to a member of every group, and
//     without a service key there has to be one: [MissingUser], [NotMember].
//
// So nothing about users is said to somebody who does not hold a key, and a
// caller who sends several credentials needs all of them to be right. Someone
// with a service key has that key's permissions only, also when the other two
// credentials came along.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Config says who is let in. The zero value of a field means its default.
type Config struct {
	// Required says that a caller needs credentials. Without it, a caller who
	// presents none is let in with every permission; one who presents a wrong
	// one is still refused.
	Required bool
	// Key is what X-Auth-Key has to be: plain, or "sha256:<64 hex digits>".
	// Empty: no X-Auth-Key is ever right.
	Key string
	// Groups are the groups of which a user has to be a member, all of them.
	// Default: libvirt, kvm.
	Groups []string
	// GroupFile and PasswdFile default to /etc/group and /etc/passwd. They are
	// read again when they change.
	GroupFile, PasswdFile string
	// ServiceKeys are the keys that are good for some permissions only.
	ServiceKeys []ServiceKey
	// FailuresPerMinute is how many requests with wrong (or no) credentials one
	// address may make in any minute; default 30, at most 1000. Once that many
	// failures are less than a minute old, every request of the address gets
	// TooMany, right credentials or not: a different answer for right ones
	// would tell a guesser about the guess. Such requests are not counted, so
	// the block ends by itself. A success does not forgive earlier failures.
	//
	// An address is an IPv4 address or an IPv6 /64; the loopback addresses are
	// one. Callers behind one NAT or one reverse proxy share their failures.
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

// Credentials are what a request presents: all values of each header, as sent.
// None means that the header is absent. More than one value of a header, even
// of the same value, is wrong.
type Credentials struct {
	Key        []string // X-Auth-Key
	Username   []string // X-Auth-Username
	ServiceKey []string // X-Auth-User-Service-Key
	// Addr is the caller's address, with or without a port. All that cannot be
	// read as an address count as one caller.
	Addr string
}

// Reason says why somebody was not let in.
type Reason int

// The reasons. Each maps to one error code of the API and one HTTP status.
const (
	BadKey        Reason = iota + 1 // X-Auth-Key is absent or wrong: code 1, 401
	MissingUser                     // X-Auth-Username is absent or empty: code 8, 401
	NotMember                       // no such user, or not in every group: code 8, 403
	BadServiceKey                   // X-Auth-User-Service-Key is wrong: code 9, 401
	TooMany                         // too many failures from this address: code 13, 429
)

// String returns the reason in words.
func (r Reason) String() string {
	switch r {
	case BadKey:
		return "bad key"
	case MissingUser:
		return "missing username"
	case NotMember:
		return "not a member"
	case BadServiceKey:
		return "bad service key"
	case TooMany:
		return "too many failures"
	}
	return fmt.Sprintf("reason %d", int(r))
}

// Error is the error of Authenticate. It holds nothing of what was presented.
type Error struct {
	Reason Reason
	// RetryAfter comes with TooMany: whole seconds, at least one, after which
	// a request of this address is looked at again. Otherwise zero.
	RetryAfter time.Duration
}

// Error returns the reason in words.
func (e *Error) Error() string {
	if e.Reason == TooMany {
		return fmt.Sprintf("not authenticated: %s, retry after %s", e.Reason, e.RetryAfter)
	}
	return "not authenticated: " + e.Reason.String()
}

// Authenticator answers who is calling. It is safe for concurrent use.
type Authenticator struct {
	required bool
	hasKey   bool
	key      digest
	services []service
	members  *members
	failures *failures
}

type service struct {
	name  string
	key   digest
	allow []string
}

// New checks cfg and makes an Authenticator from it. Its errors name a service
// key by its name and never hold a key. Group and passwd files that cannot be
// read are no error: Warn is told, and they are tried again with every request.
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{required: cfg.Required}
	seen := map[digest]string{}

	if cfg.Key != "" {
		d, err := parseKey(cfg.Key)
		if err != nil {
			return nil, fmt.Errorf("cannot use the key: %w", err)
		}
		a.key, a.hasKey = d, true
		seen[d] = "the main key"
	} else if cfg.Required && len(cfg.ServiceKeys) == 0 {
		return nil, errors.New("cannot require a key: none is configured")
	}

	names := map[string]bool{}
	for _, k := range cfg.ServiceKeys {
		if k.Name == "" {
			return nil, errors.New("cannot use a service key without a name")
		}
		if names[k.Name] {
			return nil, fmt.Errorf("cannot use service key %q: the name is there twice", k.Name)
		}
		names[k.Name] = true
		d, err := parseKey(k.Key)
		if err != nil {
			return nil, fmt.Errorf("cannot use service key %q: %w", k.Name, err)
		}
		// Two names for one key would make it a matter of order which
		// permissions the caller gets.
		if other, ok := seen[d]; ok {
			return nil, fmt.Errorf("cannot use service key %q: it is the same as %s", k.Name, other)
		}
		seen[d] = fmt.Sprintf("service key %q", k.Name)
		if len(k.Allow) == 0 {
			return nil, fmt.Errorf("cannot use service key %q: it allows nothing", k.Name)
		}
		for _, p := range k.Allow {
			if !ValidPermission(p) {
				return nil, fmt.Errorf("cannot use service key %q: %q is not a permission", k.Name, p)
			}
		}
		a.services = append(a.services, service{k.Name, d, append([]string(nil), k.Allow...)})
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
	if a.hasKey {
		a.members.current() // so that what is amiss is said at the start
	}
	return a, nil
}

// Authenticate decides about one request. now is the time of the request and
// only serves to count failures. The error is always an *Error.
func (a *Authenticator) Authenticate(c Credentials, now time.Time) (Caller, error) {
	caller, reason := a.verify(c)
	// Looking at the credentials comes first and counting second, in one step:
	// the other way round, many requests at once would all be looked at before
	// the first of them is counted.
	if wait := a.failures.note(bucketOf(c.Addr), now, reason != 0); wait > 0 {
		return Caller{}, &Error{Reason: TooMany, RetryAfter: wait}
	}
	if reason != 0 {
		return Caller{}, &Error{Reason: reason}
	}
	return caller, nil
}

// verify returns the caller, or the reason that comes first.
func (a *Authenticator) verify(c Credentials) (Caller, Reason) {
	// Both digests are always made and always compared with everything, so that
	// a wrong key and an absent one cost the same, and so does each service key.
	keyOK := subtle.ConstantTimeCompare(sum(first(c.Key)), a.key[:]) == 1
	presented := sum(first(c.ServiceKey))
	match := -1
	for i := range a.services {
		eq := subtle.ConstantTimeCompare(presented, a.services[i].key[:])
		match = subtle.ConstantTimeSelect(eq, i, match)
	}

	// The digest of "" is compared too when a header is absent: only a header
	// that is there, once, can be right.
	byService := len(c.ServiceKey) > 0
	if byService && (len(c.ServiceKey) > 1 || match < 0) {
		return Caller{}, BadServiceKey
	}
	keyOK = keyOK && a.hasKey && len(c.Key) == 1
	byKey := len(c.Key) > 0
	if byKey && !keyOK {
		return Caller{}, BadKey
	}
	pairNeeded := a.required && !byService
	if pairNeeded && !byKey {
		return Caller{}, BadKey
	}
	var user string
	switch {
	case len(c.Username) == 0:
		if pairNeeded {
			return Caller{}, MissingUser
		}
	case len(c.Username) == 1 && c.Username[0] == "":
		return Caller{}, MissingUser
	case len(c.Username) > 1 || !a.members.current().has(c.Username[0]):
		return Caller{}, NotMember
	default:
		user = c.Username[0]
	}

	if byService {
		s := a.services[match]
		return Caller{User: user, KeyName: s.name, allow: s.allow}, 0
	}
	return Caller{User: user, all: true}, 0
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func sum(s string) []byte {
	d := sha256.Sum256([]byte(s))
	return d[:]
}
