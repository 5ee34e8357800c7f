// Package auth decides who is calling and what they may do.
//
// It is given what a request presents and the caller's address, and answers
// with a [Caller] or an [*Error]. It knows nothing of HTTP beyond that, and
// nothing of libvirt.
//
// The rules, in the order in which they decide:
//
//  1. An address with too many failures behind it gets [TooMany], whatever it
//     sends (see [Config.FailuresPerMinute]).
//  2. A service key that is presented must be right: [BadServiceKey].
//  3. A key that is presented must be right, and without a service key or
//     another proof there has to be one: [BadKey].
//  4. A client certificate that is presented must be good: [BadCertificate].
//  5. The user is the one that the certificate names, or the uid at the other
//     end of a unix socket when no key came, or else the username. When several
//     of them are there, they have to agree: [OtherUser]. A user's own key is
//     wrong with any other name: [BadKey]. Without a service key there has to
//     be a name: [MissingUser].
//  6. The user must be a member of every group: [NotMember].
//
// So nothing about users is said to somebody who does not hold a key or another
// proof, and a caller who sends several credentials needs all of them to be
// right. Someone with a service key has that key's permissions only, also when
// other credentials came along.
package auth

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"time"
)

// Credentials are what a request presents: all values of each header, as sent.
// None means that the header is absent. More than one value of a header, even
// of the same value, is wrong.
type Credentials struct {
	Key        []string // X-Auth-Key
	Username   []string // X-Auth-Username
	ServiceKey []string // X-Auth-User-Service-Key
	// Certificate is the common name in the subject of the client certificate,
	// which somebody else has verified. Empty: there is one, and it is not good
	// any more, or names nobody. Nil: there is none.
	Certificate *string
	// UID is who is at the other end of a unix socket, nil on other ones.
	UID *uint32
	// Addr is the caller's address, with or without a port. All that cannot be
	// read as an address count as one caller.
	Addr string
}

// Reason says why somebody was not let in.
type Reason int

// The reasons. Each maps to one error code of the API and one HTTP status.
const (
	BadKey         Reason = iota + 1 // X-Auth-Key is absent or wrong: code 1, 401
	MissingUser                      // X-Auth-Username is absent or empty: code 8, 401
	NotMember                        // no such user, or not in every group: code 8, 403
	BadServiceKey                    // X-Auth-User-Service-Key is wrong: code 9, 401
	TooMany                          // too many failures from this address: code 13, 429
	BadCertificate                   // the client certificate names nobody: code 8, 403
	OtherUser                        // X-Auth-Username is not who was proven: code 8, 403
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
	case BadCertificate:
		return "bad certificate"
	case OtherUser:
		return "another user's name"
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

// Authenticator answers who is calling. It does not change, but for what it
// reads from the group and passwd files and the failures that it counts, and is
// safe for concurrent use.
type Authenticator struct {
	required, certificates, peers bool

	hasKey   bool
	key      digest
	userKeys []userKey
	services []service
	narrowed map[string][]string // permissions, by user; who is not in it has all
	members  *members
	failures *failures
}

// Authenticate decides about one request. now is the time of the request and
// only serves to count failures. The error is always an *Error.
func (a *Authenticator) Authenticate(c Credentials, now time.Time) (Caller, error) {
	caller, reason := a.verify(c)
	// Looking at the credentials comes first and counting second, in one step:
	// the other way round, many requests at once would all be looked at before
	// the first of them is counted.
	if wait := a.failures.note(bucketOf(c), now, reason != 0); wait > 0 {
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
	// a wrong key and an absent one cost the same, and so does each one's owner.
	presented := sum(first(c.Key))
	shared := subtle.ConstantTimeCompare(presented, a.key[:]) == 1
	own := -1
	for i := range a.userKeys {
		eq := subtle.ConstantTimeCompare(presented, a.userKeys[i].key[:])
		own = subtle.ConstantTimeSelect(eq, i, own)
	}
	presented = sum(first(c.ServiceKey))
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
	byKey := len(c.Key) > 0
	if byKey && (len(c.Key) > 1 || !(shared && a.hasKey) && own < 0) {
		return Caller{}, BadKey
	}
	byCertificate := c.Certificate != nil && a.certificates
	// A uid is not something that a caller chose to show: a proxy has one, too.
	// It counts only when nothing else is there to go by, and is needed.
	byPeer := c.UID != nil && a.peers && a.required && !byCertificate && !byKey && !byService
	if a.required && !byService && !byKey && !byCertificate && !byPeer {
		return Caller{}, BadKey
	}

	user, reason := a.name(c, byCertificate, byPeer)
	if reason != 0 {
		return Caller{}, reason
	}
	if byKey && own >= 0 {
		if owner := a.userKeys[own].user; user != "" && user != owner {
			return Caller{}, BadKey
		} else if !a.required {
			user = owner
		}
	}
	if user == "" {
		if a.required && !byService {
			return Caller{}, MissingUser
		}
	} else if !a.members.current().has(user) {
		return Caller{}, NotMember
	}

	caller := Caller{User: user, all: true}
	switch {
	case byService:
		s := a.services[match]
		return Caller{User: user, Proof: ProofServiceKey, KeyName: s.name, allow: s.allow}, 0
	case byCertificate:
		caller.Proof = ProofCertificate
	case byPeer:
		caller.Proof = ProofPeer
	case byKey && own >= 0 && a.userKeys[own].next:
		caller.Proof = ProofNextUserKey
	case byKey && own >= 0:
		caller.Proof = ProofUserKey
	case byKey:
		caller.Proof = ProofKey
	}
	if allow, ok := a.narrowed[user]; ok {
		caller.all, caller.allow = false, allow
	}
	return caller, 0
}

// name returns the user whom the request names, "" for none: all that names one
// agrees.
func (a *Authenticator) name(c Credentials, byCertificate, byPeer bool) (string, Reason) {
	proven := ""
	switch {
	case byCertificate:
		if proven = *c.Certificate; proven == "" {
			return "", BadCertificate
		}
	case byPeer:
		if proven = a.members.current().nameOf(*c.UID); proven == "" {
			return "", NotMember
		}
	}
	switch {
	case len(c.Username) == 0:
		return proven, 0
	case len(c.Username) == 1 && c.Username[0] == "":
		return "", MissingUser
	case len(c.Username) > 1:
		return "", NotMember
	case proven != "" && proven != c.Username[0]:
		return "", OtherUser
	}
	return c.Username[0], 0
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
