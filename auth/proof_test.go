package auth

import (
	"strings"
	"testing"
	"time"
)

const (
	smithKey   = "a key of smith's own"
	nextKey    = "smith's next key"
	primaryKey = "a key of primary's own"
)

// proofs is newAuth with all that can prove who somebody is.
func proofs(t *testing.T, change func(*Config)) *Authenticator {
	t.Helper()
	return newAuth(t, func(c *Config) {
		c.Certificates, c.Peers = true, true
		c.Users = []User{
			{Name: "smith", Key: smithKey, NextKey: HashKey(nextKey)},
			{Name: "primary", Key: primaryKey, Allow: []string{"domains:read", "domains:power"}},
			{Name: "nobody", Key: "nobody's key"},
		}
		if change != nil {
			change(c)
		}
	})
}

func TestProofs(t *testing.T) {
	uid := func(n uint32) *uint32 { return &n }
	cn := func(s string) *string { return &s }
	one := func(s string) []string { return []string{s} }
	tests := []struct {
		name    string
		c       Credentials
		want    Reason
		user    string
		proof   Proof
		key     string // the name of the service key
		cannot  string // a permission that is lacking; default: none is
		relaxed bool   // auth-key-required=no
		without bool   // neither certificates nor peers count
	}{
		{name: "own key", c: Credentials{Key: one(smithKey), Username: one("smith")}, user: "smith", proof: ProofUserKey},
		{name: "next key", c: Credentials{Key: one(nextKey), Username: one("smith")}, user: "smith", proof: ProofNextUserKey},
		{name: "the shared key still is", c: Credentials{Key: one(mainKey), Username: one("smith")}, user: "smith", proof: ProofKey},
		{name: "own key, no name", c: Credentials{Key: one(smithKey)}, want: MissingUser},
		{name: "own key, other member's name", c: Credentials{Key: one(smithKey), Username: one("root")}, want: BadKey},
		{name: "own key, nobody's name", c: Credentials{Key: one(smithKey), Username: one("ghost")}, want: BadKey},
		{name: "own key twice", c: Credentials{Key: []string{smithKey, smithKey}, Username: one("smith")}, want: BadKey},
		{name: "hash of own key", c: Credentials{Key: one(HashKey(smithKey)), Username: one("smith")}, want: BadKey},
		{name: "own key as service key", c: Credentials{ServiceKey: one(smithKey)}, want: BadServiceKey},
		{name: "own key of a non-member", c: Credentials{Key: one("nobody's key"), Username: one("nobody")}, want: NotMember},
		{name: "narrowed, own key", c: Credentials{Key: one(primaryKey), Username: one("primary")}, user: "primary", proof: ProofUserKey, cannot: "domains:delete"},
		{name: "narrowed, shared key", c: Credentials{Key: one(mainKey), Username: one("primary")}, user: "primary", proof: ProofKey, cannot: "domains:delete"},
		{name: "narrowed, certificate", c: Credentials{Certificate: cn("primary")}, user: "primary", proof: ProofCertificate, cannot: "domains:delete"},
		{name: "narrowed, peer", c: Credentials{UID: uid(1001)}, user: "primary", proof: ProofPeer, cannot: "domains:delete"},
		{name: "service key with a narrowed user's name", c: Credentials{ServiceKey: one("other-key"), Username: one("primary")}, user: "primary", proof: ProofServiceKey, key: "other"},

		{name: "certificate", c: Credentials{Certificate: cn("smith")}, user: "smith", proof: ProofCertificate},
		{name: "certificate and its name", c: Credentials{Certificate: cn("smith"), Username: one("smith")}, user: "smith", proof: ProofCertificate},
		{name: "certificate and another name", c: Credentials{Certificate: cn("smith"), Username: one("root")}, want: OtherUser},
		{name: "certificate and an empty name", c: Credentials{Certificate: cn("smith"), Username: one("")}, want: MissingUser},
		{name: "certificate of nobody", c: Credentials{Certificate: cn("")}, want: BadCertificate},
		{name: "certificate of nobody, key and name", c: Credentials{Certificate: cn(""), Key: one(mainKey), Username: one("smith")}, want: BadCertificate},
		{name: "certificate of a stranger", c: Credentials{Certificate: cn("ghost")}, want: NotMember},
		{name: "certificate of a non-member", c: Credentials{Certificate: cn("nobody")}, want: NotMember},
		{name: "certificate in other case", c: Credentials{Certificate: cn("Smith")}, want: NotMember},
		{name: "certificate and wrong key", c: Credentials{Certificate: cn("smith"), Key: one("x")}, want: BadKey},
		{name: "certificate and shared key", c: Credentials{Certificate: cn("smith"), Key: one(mainKey)}, user: "smith", proof: ProofCertificate},
		{name: "certificate and own key", c: Credentials{Certificate: cn("smith"), Key: one(smithKey)}, user: "smith", proof: ProofCertificate},
		{name: "certificate and another's own key", c: Credentials{Certificate: cn("root"), Key: one(smithKey)}, want: BadKey},
		{name: "certificate and wrong service key", c: Credentials{Certificate: cn("smith"), ServiceKey: one("x")}, want: BadServiceKey},
		{name: "certificate and service key", c: Credentials{Certificate: cn("smith"), ServiceKey: one(serviceKey)}, user: "smith", proof: ProofServiceKey, key: "monitor", cannot: "domains:power"},
		{name: "certificate of a stranger and service key", c: Credentials{Certificate: cn("ghost"), ServiceKey: one(serviceKey)}, want: NotMember},
		{name: "certificate where none counts", c: Credentials{Certificate: cn("smith")}, want: BadKey, without: true},

		{name: "peer", c: Credentials{UID: uid(1000)}, user: "smith", proof: ProofPeer},
		{name: "root peer", c: Credentials{UID: uid(0)}, user: "root", proof: ProofPeer},
		{name: "peer and his name", c: Credentials{UID: uid(1000), Username: one("smith")}, user: "smith", proof: ProofPeer},
		{name: "peer and another name", c: Credentials{UID: uid(1000), Username: one("root")}, want: OtherUser},
		{name: "peer without a name", c: Credentials{UID: uid(4711)}, want: NotMember},
		{name: "peer without a name and a name", c: Credentials{UID: uid(4711), Username: one("smith")}, want: NotMember},
		{name: "peer who is no member", c: Credentials{UID: uid(1002)}, want: NotMember},
		{name: "peer whom the kernel cannot name", c: Credentials{UID: uid(65534)}, want: NotMember},
		{name: "peer and wrong key", c: Credentials{UID: uid(1000), Key: one("x")}, want: BadKey},
		{name: "a proxy passes a key on", c: Credentials{UID: uid(1002), Key: one(mainKey), Username: one("smith")}, user: "smith", proof: ProofKey},
		{name: "a root proxy passes a key on", c: Credentials{UID: uid(0), Key: one(primaryKey), Username: one("primary")}, user: "primary", proof: ProofUserKey, cannot: "domains:delete"},
		{name: "peer and key but no name", c: Credentials{UID: uid(1000), Key: one(mainKey)}, want: MissingUser},
		{name: "peer and service key", c: Credentials{UID: uid(0), ServiceKey: one(serviceKey)}, proof: ProofServiceKey, key: "monitor", cannot: "domains:power"},
		{name: "peer where none counts", c: Credentials{UID: uid(0)}, want: BadKey, without: true},

		{name: "nothing required: a peer who is no member", c: Credentials{UID: uid(1002)}, relaxed: true},
		{name: "nothing required: own key alone", c: Credentials{Key: one(primaryKey)}, relaxed: true, user: "primary", proof: ProofUserKey, cannot: "domains:delete"},
		{name: "nothing required: own key, other name", c: Credentials{Key: one(primaryKey), Username: one("smith")}, relaxed: true, want: BadKey},
		{name: "nothing required: certificate of a stranger", c: Credentials{Certificate: cn("ghost")}, relaxed: true, want: NotMember},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := proofs(t, func(c *Config) {
				c.Required = !tt.relaxed
				if tt.without {
					c.Certificates, c.Peers = false, false
				}
			})
			tt.c.Addr = "192.0.2.1"
			c, err := a.Authenticate(tt.c, t0)
			if got := reason(t, err); got != tt.want {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
			if c.User != tt.user || c.Proof != tt.proof || c.KeyName != tt.key {
				t.Errorf("got user %q, proof %q, key %q", c.User, c.Proof, c.KeyName)
			}
			if tt.want != 0 {
				return
			}
			if !c.Allowed("domains:read") || tt.cannot == "" && !c.Allowed("domains:delete") {
				t.Error("may not do what he may")
			}
			if tt.cannot != "" && c.Allowed(tt.cannot) {
				t.Errorf("may do %s", tt.cannot)
			}
		})
	}
}

func TestNewRefusesUsers(t *testing.T) {
	users := func(u ...User) Config { return Config{Key: "the secret", Users: u} }
	for want, cfg := range map[string]Config{
		"user without a name":         users(User{Key: "secret"}),
		`user "a": the name is there`: users(User{Name: "a", Key: "secret1"}, User{Name: "a", Key: "secret2"}),
		"same as the main key":        users(User{Name: "a", Key: "the secret"}),
		`same as the key of user "a"`: users(User{Name: "a", Key: "secret", NextKey: HashKey("secret")}),
		`the next key of user "a"`:    users(User{Name: "a", NextKey: " secret"}),
		`user "a": "x" is not a perm`: users(User{Name: "a", Key: "secret", Allow: []string{"x"}}),
		`service key "s": it is the same as the main key`: {Key: "secret", ServiceKeys: []ServiceKey{{"s", "secret", []string{"*"}}},
			Users: []User{{Name: "a", Key: "secret"}}},
	} {
		_, err := New(cfg)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want an error with %s", err, want)
		}
	}
	for _, cfg := range []Config{
		{Required: true, Certificates: true}, {Required: true, Peers: true}, {Required: true, Users: []User{{Name: "a", Key: "k"}}},
	} {
		if _, err := New(cfg); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
	if _, err := New(Config{Required: true, Users: []User{{Name: "a", Allow: []string{"*"}}}}); err == nil {
		t.Error("a user without a key counts as a key")
	}
}

// Who guesses over a unix socket slows down himself, and nobody else.
func TestSlowDownPeers(t *testing.T) {
	a := proofs(t, nil)
	eve, smith := uint32(1002), uint32(1000)
	for range defaultFailures {
		if _, err := a.Authenticate(Credentials{UID: &eve, Addr: "@"}, t0); reason(t, err) != NotMember {
			t.Fatal(err)
		}
	}
	if _, err := a.Authenticate(Credentials{UID: &eve, Key: []string{mainKey}, Username: []string{"smith"}, Addr: "@"}, t0); reason(t, err) != TooMany {
		t.Error(err)
	}
	for _, c := range []Credentials{{UID: &smith, Addr: "@"}, {Key: []string{mainKey}, Username: []string{"smith"}, Addr: "@"}} {
		if _, err := a.Authenticate(c, t0); err != nil {
			t.Error(err)
		}
	}
}

// A guesser does not get a new start with a new configuration.
func TestNextRemembersFailures(t *testing.T) {
	a := newAuth(t, nil)
	guess := Credentials{Key: []string{"guess"}, Addr: "192.0.2.1"}
	for range defaultFailures {
		a.Authenticate(guess, t0)
	}
	g, p := files(t)
	b, err := a.Next(Config{Required: true, Key: "new", GroupFile: g, PasswdFile: p})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Authenticate(guess, t0.Add(time.Second)); reason(t, err) != TooMany {
		t.Errorf("after a reload: %v", err)
	}
	guess.Addr = "192.0.2.2"
	b.Authenticate(guess, t0)
	if n := len(a.failures.byKey); n != 2 {
		t.Errorf("the old one knows of %d addresses, want 2", n)
	}
	if _, err := b.Authenticate(Credentials{Key: []string{"new"}, Username: []string{"smith"}, Addr: "192.0.2.3"}, t0); err != nil {
		t.Error(err)
	}
	if _, err := b.Authenticate(Credentials{Key: []string{mainKey}, Username: []string{"smith"}, Addr: "192.0.2.3"}, t0); reason(t, err) != BadKey {
		t.Errorf("the old key: %v", err)
	}
	if _, err := a.Next(Config{Required: true}); err == nil {
		t.Error("a bad configuration was taken")
	}
}

// A uid that the kernel cannot show is anybody's, also where nobody is a member.
func TestOverflowUID(t *testing.T) {
	a := proofs(t, func(c *Config) {
		write(t, c.GroupFile, "libvirt:x:1:nobody\nkvm:x:2:nobody\n", time.Hour)
	})
	uid := uint32(overflowUID)
	if _, err := a.Authenticate(Credentials{UID: &uid}, t0); reason(t, err) != NotMember {
		t.Errorf("got %v", err)
	}
	if _, err := a.Authenticate(Credentials{Key: []string{"nobody's key"}, Username: []string{"nobody"}}, t0); err != nil {
		t.Errorf("nobody is no member: %v", err)
	}
}
