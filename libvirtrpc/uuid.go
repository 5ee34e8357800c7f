package libvirtrpc

import (
	"encoding/hex"
	"errors"
	"strings"
)

// UUID is the identity of a domain. Its text is lower-case with dashes.
type UUID [16]byte

// ParseUUID reads a UUID in any case, with or without dashes.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) == 36 {
		if s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
			return u, errUUID
		}
		s = s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	}
	if len(s) != 32 {
		return u, errUUID
	}
	if _, err := hex.Decode(u[:], []byte(strings.ToLower(s))); err != nil {
		return u, errUUID
	}
	return u, nil
}

var errUUID = errors.New("a UUID has 32 hexadecimal digits, with or without dashes")

// AppendText appends the UUID's text.
func (u UUID) AppendText(b []byte) []byte {
	for i, n := range [...]int{4, 6, 8, 10, 16} {
		if i > 0 {
			b = append(b, '-')
		}
		from := [...]int{0, 4, 6, 8, 10}[i]
		b = hex.AppendEncode(b, u[from:n])
	}
	return b
}

func (u UUID) String() string { return string(u.AppendText(make([]byte, 0, 36))) }
