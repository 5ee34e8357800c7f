package auth

import "strings"

// Caller is somebody who was let in. The zero Caller may do nothing.
type Caller struct {
	// User is who calls, "" if no name was given. With ProofKey and
	// ProofServiceKey the key proves that the caller may act, and the name is
	// the caller's word; the other proofs are of the name.
	User string
	// Proof is what the caller was let in by.
	Proof Proof
	// KeyName is the name of the service key that was presented, "" if none.
	KeyName string

	all   bool
	allow []string
}

// Proof is what a caller was let in by, as logs show it.
type Proof string

// The proofs. A caller of whom nothing is required has none.
const (
	ProofKey         Proof = "key" // the one that all users share
	ProofUserKey     Proof = "user key"
	ProofNextUserKey Proof = "next user key"
	ProofServiceKey  Proof = "service key"
	ProofCertificate Proof = "certificate"
	ProofPeer        Proof = "peer" // the uid at the other end of a unix socket
)

// Anonymous says that the caller gave no name of any kind.
func (c Caller) Anonymous() bool { return c.User == "" && c.KeyName == "" }

// Allowed says whether the caller has a permission such as "domains:read".
// Callers without a list of their own have every one. What is not one permission
// (a wildcard, or nothing) is not allowed to a list, also not to "*":
// a route that forgot to declare what it needs stays closed.
func (c Caller) Allowed(permission string) bool {
	if c.all {
		return true
	}
	collection, verb, ok := strings.Cut(permission, ":")
	if !ok || !word(collection) || !word(verb) {
		return false
	}
	for _, p := range c.allow {
		if p == "*" {
			return true
		}
		pc, pv, ok := strings.Cut(p, ":")
		if ok && (pc == "*" || pc == collection) && (pv == "*" || pv == verb) {
			return true
		}
	}
	return false
}

// ValidPermission says whether p can stand in a service key's list:
// "<collection>:<verb>", either of them "*", or "*" alone. Collection and verb
// are lower-case words; which ones exist is for the route table to say.
func ValidPermission(p string) bool {
	if p == "*" {
		return true
	}
	collection, verb, ok := strings.Cut(p, ":")
	return ok && (collection == "*" || word(collection)) && (verb == "*" || word(verb))
}

// word accepts [a-z][a-z0-9_-]*.
func word(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'a' && c <= 'z' || i > 0 && (c >= '0' && c <= '9' || c == '_' || c == '-') {
			continue
		}
		return false
	}
	return s != ""
}
