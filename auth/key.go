package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
)

const hashPrefix = "sha256:"

// digest is the SHA-256 of a key. Keys are kept and compared as digests only:
// equal length, and nothing to find in a memory dump.
type digest [sha256.Size]byte

// HashKey returns the form in which a key can be stored without being known:
// "sha256:" and the lower-case hex digits of its SHA-256. A caller still has to
// present the key itself. There is no salt, so only hash keys that cannot be
// guessed, such as those of GenerateKey.
func HashKey(key string) string {
	return hashPrefix + hex.EncodeToString(sum(key))
}

// GenerateKey returns a new key: 256 random bits as 43 characters of A-Z, a-z,
// 0-9, "-" and "_".
func GenerateKey() string {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// CheckKey says what is wrong with a configured key, plain or hashed; nil if
// nothing is. The error does not hold the key.
func CheckKey(key string) error {
	_, err := parseKey(key)
	return err
}

func parseKey(key string) (digest, error) {
	if len(key) >= len(hashPrefix) && strings.EqualFold(key[:len(hashPrefix)], hashPrefix) {
		var d digest
		b, err := hex.DecodeString(key[len(hashPrefix):])
		if err != nil || len(b) != len(d) {
			return digest{}, errors.New("a hashed key is sha256: and 64 hex digits")
		}
		copy(d[:], b)
		if d == sha256.Sum256(nil) {
			return digest{}, errors.New("it is the hash of nothing")
		}
		return d, nil
	}
	if key == "" {
		return digest{}, errors.New("it is empty")
	}
	// What cannot be sent in a header as it stands could never be right.
	if strings.Trim(key, " \t") != key {
		return digest{}, errors.New("it begins or ends with a space")
	}
	for i := 0; i < len(key); i++ {
		if (key[i] < ' ' && key[i] != '\t') || key[i] == 0x7f {
			return digest{}, errors.New("it holds a control character")
		}
	}
	return sha256.Sum256([]byte(key)), nil
}

// sampleKeys are known to everybody: the source server's default, and what the
// API's reference prints (the last one with and without its ellipsis).
var sampleKeys = func() map[digest]bool {
	m := map[digest]bool{}
	for _, k := range []string{
		"123456789abcdefgh",
		"1234567893feefc5f0q5000bfo0c38d90bbeb",
		"v1.0-e24fd090c02efcfecb4de8f4ff24...",
		"v1.0-e24fd090c02efcfecb4de8f4ff24",
	} {
		m[sha256.Sum256([]byte(k))] = true
	}
	return m
}()

// IsSampleKey says whether key, plain or hashed, is one that is printed in the
// documentation of the API or was the default of the server it comes from.
func IsSampleKey(key string) bool {
	d, err := parseKey(key)
	return err == nil && sampleKeys[d]
}
