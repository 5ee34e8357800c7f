package server

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
)

// retryAfter is what clients are told while the daemon is away or the queue is
// full: about as long as the client package pauses between two attempts.
const retryAfter = 2 * time.Second

// kindStatus is the HTTP status of each kind of libvirt error, for the codes
// whose status is libvirt's to decide.
var kindStatus = map[libvirtrpc.Kind]int{
	libvirtrpc.Failed:      http.StatusBadGateway,
	libvirtrpc.NotFound:    http.StatusNotFound,
	libvirtrpc.Missing:     http.StatusNotFound,
	libvirtrpc.Exists:      http.StatusConflict,
	libvirtrpc.Invalid:     http.StatusBadRequest,
	libvirtrpc.Conflict:    http.StatusConflict,
	libvirtrpc.Denied:      http.StatusForbidden,
	libvirtrpc.Unsupported: http.StatusNotImplemented,
	libvirtrpc.TimedOut:    http.StatusGatewayTimeout,
}

// kindCode is the code of the kinds that mean the same whatever was asked.
var kindCode = map[libvirtrpc.Kind]envelope.Code{
	libvirtrpc.NotFound:    envelope.NoDomain,
	libvirtrpc.Exists:      envelope.Exists,
	libvirtrpc.NoAnswer:    envelope.Timeout,
	libvirtrpc.Lost:        envelope.Unavailable,
	libvirtrpc.Unavailable: envelope.Unavailable,
	libvirtrpc.Busy:        envelope.Busy,
	libvirtrpc.Unsupported: envelope.Unsupported,
}

// statuses are the HTTP statuses that a code can have, its own first.
func statuses(c envelope.Code) []int {
	out := []int{c.Status()}
	if c == envelope.BadUsername {
		out = append(out, http.StatusForbidden)
	}
	if c.Status() == http.StatusBadGateway || c == envelope.Internal {
		for kind, status := range kindStatus {
			if _, fixed := kindCode[kind]; !fixed {
				out = append(out, status)
			}
		}
	}
	slices.Sort(out[1:])
	return out
}

// libvirtError is the error of a request that did a thing whose failure has the
// code given. It is the only place where libvirt's errors become ours.
func libvirtError(err error, code envelope.Code) *envelope.Error {
	var own *envelope.Error
	if errors.As(err, &own) {
		return own
	}
	var lv *libvirtrpc.Error
	if !errors.As(err, &lv) {
		return envelope.New(envelope.Internal, "")
	}
	if c, ok := kindCode[lv.Kind]; ok {
		code = c
	}
	e := envelope.New(code, "")
	e.Status = kindStatus[lv.Kind]
	e.Libvirt, e.LibvirtCode = lv.Message, lv.Code
	switch lv.Kind {
	case libvirtrpc.Lost, libvirtrpc.Unavailable, libvirtrpc.Busy:
		e.RetryAfter = retryAfter
		if lv.OutcomeUnknown {
			e.RetryAfter = 0 // trying again is not safe
		}
		fallthrough
	case libvirtrpc.NoAnswer:
		// What the client package says here names no socket and no host.
		if lv.Kind != libvirtrpc.Unavailable {
			e.Message += ": " + lv.Message
		}
	}
	return e
}

// failed is the response for an error of a handler.
func failed(err error) *envelope.Response {
	return envelope.Failed(libvirtError(err, envelope.Internal))
}

// authError maps the refusals of package auth.
func authError(err error) *envelope.Error {
	var ae *auth.Error
	if !errors.As(err, &ae) {
		return envelope.New(envelope.Internal, "")
	}
	e := envelope.New(map[auth.Reason]envelope.Code{
		auth.BadKey:         envelope.BadKey,
		auth.MissingUser:    envelope.BadUsername,
		auth.NotMember:      envelope.BadUsername,
		auth.BadCertificate: envelope.BadUsername,
		auth.OtherUser:      envelope.BadUsername,
		auth.BadServiceKey:  envelope.BadServiceKey,
		auth.TooMany:        envelope.TooManyRequests,
	}[ae.Reason], "")
	switch ae.Reason {
	case auth.NotMember, auth.BadCertificate, auth.OtherUser:
		e.Status = http.StatusForbidden
	}
	e.RetryAfter = ae.RetryAfter
	return e
}
