package server

import (
	"crypto/rand"
	"encoding/hex"
	"net/http"

	"virtgate/envelope"
)

// What a request is called in responses, logs and figures.

// maxMethod is how much of a method is logged: it may be as long as a header.
const maxMethod = 16

var badPacketID = envelope.New(envelope.BadRequest, "X-Packet-ID is printable ASCII, once, at most 256 characters")

const maxPacketID = 256 // characters

// packetID is the client's own number for the request, and whether it can be
// given back.
func packetID(values []string) (string, bool) {
	if len(values) == 0 {
		return "", true
	}
	v := values[0]
	if len(values) > 1 || len(v) > maxPacketID {
		return "", false
	}
	for i := 0; i < len(v); i++ {
		if v[i] < 0x20 || v[i] > 0x7e {
			return "", false
		}
	}
	return v, true
}

// knownMethod is the method if HTTP knows it, else _OTHER, as OpenTelemetry has
// it: for what must not hold whatever clients make up.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return m
	}
	return "_OTHER"
}

func newRequestID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
