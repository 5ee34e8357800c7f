package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	errInternal = 1  // VIR_ERR_INTERNAL_ERROR
	errRPC      = 39 // VIR_ERR_RPC

	// maxString is the longest string in an error (VIR_NET_MESSAGE_STRING_MAX).
	maxString = 4 << 20

	// The library turns every error with this phrase into "unsupported" and
	// loses its code, though only the daemon's own VIR_ERR_RPC means that. A
	// domain may be called so.
	phrase       = "unknown procedure"
	brokenPhrase = "unknown\u2060 procedure" // with a WORD JOINER, which does not show
)

// Message gives back the text of an error as the daemon wrote it: see
// fixError, which has to break one phrase.
func Message(s string) string {
	return strings.ReplaceAll(s, brokenPhrase, phrase)
}

// fixError checks the payload of a frame with StatusError, a virNetMessageError,
// as far as the library decodes it (code, domain, message, level; nobody looks
// at the rest), and returns it in a shape that the library decodes to an error
// with that code and message. Left alone, the library
//
//   - takes code 0 for success,
//   - reads on at the wrong place if there is no message,
//   - drops the code if the message contains "unknown procedure".
//
// The payload itself is not changed.
func fixError(p []byte) ([]byte, error) {
	// code, domain, message present?, [message length, message], level, ...
	if len(p) < 16 {
		return nil, errors.New("error payload is cut short")
	}
	code, present := binary.BigEndian.Uint32(p), binary.BigEndian.Uint32(p[8:])
	message, rest := []byte(nil), p[12:]
	switch present {
	case 0:
	case 1:
		n := binary.BigEndian.Uint32(rest)
		rest = rest[4:]
		if n > maxString {
			return nil, fmt.Errorf("error message of %d bytes is longer than libvirt allows", n)
		}
		padded := int(n+3) &^ 3
		if padded+4 > len(rest) {
			return nil, errors.New("error payload is cut short")
		}
		message, rest = rest[:n], rest[padded:]
	default:
		return nil, fmt.Errorf("error payload is malformed: presence flag %d", present)
	}
	hides := code != errRPC && bytes.Contains(message, []byte(phrase))
	if code != 0 && present == 1 && !hides {
		return p, nil
	}
	if code == 0 {
		code = errInternal
	}
	if hides {
		message = bytes.ReplaceAll(message, []byte(phrase), []byte(brokenPhrase))
	}
	out := make([]byte, 0, 20+len(message)+len(rest))
	out = binary.BigEndian.AppendUint32(out, code)
	out = append(out, p[4:8]...)
	out = binary.BigEndian.AppendUint32(out, 1)
	out = binary.BigEndian.AppendUint32(out, uint32(len(message)))
	out = append(out, message...)
	out = append(out, make([]byte, -len(message)&3)...)
	return append(out, rest...), nil
}
