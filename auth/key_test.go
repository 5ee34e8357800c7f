package auth

import (
	"strings"
	"testing"
)

func TestHashKey(t *testing.T) {
	// From sha256sum.
	const want = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	if got := HashKey("abc"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, form := range []string{want, strings.ToUpper(want)} {
		d, err := parseKey(form)
		plain, _ := parseKey("abc")
		if err != nil || d != plain {
			t.Errorf("%s is not read as the digest of abc: %v", form, err)
		}
	}
}

func TestGenerateKey(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		k := GenerateKey()
		if len(k) != 43 || strings.Trim(k, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Fatalf("%q is not 43 url-safe characters", k)
		}
		if seen[k] {
			t.Fatal("the same key twice")
		}
		seen[k] = true
		if err := CheckKey(k); err != nil {
			t.Fatal(err)
		}
	}
}

func TestIsSampleKey(t *testing.T) {
	for _, k := range []string{
		"123456789abcdefgh", "1234567893feefc5f0q5000bfo0c38d90bbeb",
		"v1.0-e24fd090c02efcfecb4de8f4ff24...", "v1.0-e24fd090c02efcfecb4de8f4ff24",
	} {
		if !IsSampleKey(k) || !IsSampleKey(HashKey(k)) || !IsSampleKey(strings.ToUpper(HashKey(k))) {
			t.Errorf("%q, plain and hashed, is a sample", k)
		}
	}
	for _, k := range []string{"", "123456789abcdefg", "123456789ABCDEFGH", GenerateKey(), "sha256:"} {
		if IsSampleKey(k) {
			t.Errorf("%q is no sample", k)
		}
	}
}

func TestPermissions(t *testing.T) {
	tests := []struct {
		allow string // comma-joined
		ask   string
		want  bool
	}{
		{"domains:read", "domains:read", true},
		{"domains:read", "domains:power", false},
		{"domains:read", "networks:read", false},
		{"networks:read,domains:power", "domains:power", true},
		{"domains:*", "domains:secure", true},
		{"domains:*", "networks:read", false},
		{"*:read", "networks:read", true},
		{"*:read", "networks:delete", false},
		{"*", "networks:delete", true},
		{"*:*", "networks:delete", true},
		{"*", "", false},
		{"*", "*", false},
		{"*", "domains", false},
		{"*", "domains:", false},
		{"*", "domains:*", false},
		{"domains:*", "domains:*", false},
		{"domains:rea", "domains:read", false},
	}
	for _, tt := range tests {
		c := Caller{KeyName: "k", allow: strings.Split(tt.allow, ",")}
		if got := c.Allowed(tt.ask); got != tt.want {
			t.Errorf("%q asks %q: got %v", tt.allow, tt.ask, got)
		}
	}
	if (Caller{}).Allowed("domains:read") || (Caller{User: "root"}).Allowed("domains:read") {
		t.Error("a Caller made by hand may do something")
	}
	if !(Caller{all: true}).Allowed("domains:secure") {
		t.Error("a full caller may not do everything")
	}
}

func TestValidPermission(t *testing.T) {
	for _, p := range []string{"*", "domains:read", "domains:*", "*:read", "*:*", "node_devices:read", "nwfilter-bindings:read"} {
		if !ValidPermission(p) {
			t.Errorf("%q is valid", p)
		}
	}
	for _, p := range []string{"", ":", "domains", "domains:", ":read", "Domains:read", "domains:READ", "domains:read ", " *", "**", "a:b:c", "dom*:read", "1a:b", "domäne:read"} {
		if ValidPermission(p) {
			t.Errorf("%q is not valid", p)
		}
	}
}
