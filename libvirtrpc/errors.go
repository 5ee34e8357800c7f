package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc/wire"
)

// Kind is what went wrong, as far as a caller has to tell cases apart.
type Kind int

const (
	Failed      Kind = iota // libvirt said no for a reason that has no kind of its own
	NotFound                // no such domain
	Missing                 // something else that is needed is not there: a network, a volume
	Exists                  // an object with that name or UUID is there already
	Invalid                 // an argument or a document that libvirt does not accept
	Conflict                // not possible in the object's present state
	Denied                  // the daemon does not allow it
	Unsupported             // this hypervisor or this daemon cannot do it
	TimedOut                // libvirt itself gave up waiting
	NoAnswer                // no answer before the deadline
	Lost                    // the connection ended before the answer
	Unavailable             // no connection to the daemon could be had; nothing was sent
	Busy                    // the queue of waiting calls is full; nothing was sent
)

var kindNames = [...]string{"failed", "not_found", "missing", "exists", "invalid", "conflict", "denied", "unsupported", "timed_out", "no_answer", "lost", "unavailable", "busy"}

// String is the kind as one word.
func (k Kind) String() string { return kindNames[k] }

// Error is what every method of Client returns when it fails, except for
// mistakes of the caller that never reach libvirt.
type Error struct {
	Kind Kind
	// Code is libvirt's own number (virErrorNumber, virterror.h), 0 when
	// libvirt said nothing.
	Code    int
	Message string
	// OutcomeUnknown is set for a change that was sent and not answered: it
	// may have happened, it may happen yet, and it was not sent again.
	OutcomeUnknown bool
}

func (e *Error) Error() string { return e.Message }

// KindOf is the kind of an error returned by Client, and Failed for any other.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Failed
}

// errorKinds maps libvirt's numbers (virErrorNumber) to kinds. A number that
// is not here is Failed.
var errorKinds = map[libvirt.ErrorNumber]Kind{
	libvirt.ErrNoSupport:              Unsupported,
	libvirt.ErrConfigUnsupported:      Unsupported,
	libvirt.ErrOperationUnsupported:   Unsupported,
	libvirt.ErrArgumentUnsupported:    Unsupported,
	libvirt.ErrInvalidArg:             Invalid,
	libvirt.ErrXMLError:               Invalid,
	libvirt.ErrXMLDetail:              Invalid,
	libvirt.ErrXMLInvalidSchema:       Invalid,
	libvirt.ErrInvalidDomain:          Invalid,
	libvirt.ErrOsType:                 Invalid,
	libvirt.ErrUnknownHost:            Invalid,
	libvirt.ErrOverflow:               Invalid,
	libvirt.ErrOperationDenied:        Denied,
	libvirt.ErrAuthFailed:             Denied,
	libvirt.ErrAuthUnavailable:        Denied,
	libvirt.ErrAuthCancelled:          Denied,
	libvirt.ErrAccessDenied:           Denied,
	libvirt.ErrDomExist:               Exists,
	libvirt.ErrOperationInvalid:       Conflict,
	libvirt.ErrResourceBusy:           Conflict,
	libvirt.ErrOperationTimeout:       TimedOut,
	libvirt.ErrAgentUnresponsive:      TimedOut,
	libvirt.ErrOperationAborted:       Failed,
	libvirt.ErrNoDomain:               NotFound,
	libvirt.ErrNoNetwork:              Missing,
	libvirt.ErrNoStoragePool:          Missing,
	libvirt.ErrNoStorageVol:           Missing,
	libvirt.ErrNoNodeDevice:           Missing,
	libvirt.ErrNoSecret:               Missing,
	libvirt.ErrNoDomainSnapshot:       Missing,
	libvirt.ErrNoDomainCheckpoint:     Missing,
	libvirt.ErrNoDomainMetadata:       Missing,
	libvirt.ErrNoServer:               Unavailable,
	libvirt.ErrSnapshotRevertRisky:    Conflict,
	libvirt.ErrMigrateUnsafe:          Conflict,
	libvirt.ErrBlockCopyActive:        Conflict,
	libvirt.ErrMultipleDomains:        Conflict,
	libvirt.ErrNoConnect:              Failed,
	libvirt.ErrCheckpointInconsistent: Conflict,
}

// libvirtError turns what go-libvirt returned into an *Error. Errors that are
// neither libvirt's nor the connection's are protocol mistakes of the peer.
func libvirtError(err error) *Error {
	var lv libvirt.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &lv):
		return &Error{
			Kind:    errorKinds[libvirt.ErrorNumber(lv.Code)],
			Code:    int(lv.Code),
			Message: wire.Message(lv.Message),
		}
	case errors.Is(err, libvirt.ErrUnsupported):
		return &Error{Kind: Unsupported, Code: int(libvirt.ErrRPC), Message: "the libvirt daemon does not know this procedure"}
	}
	// The reason is in the log, see keepOpen: it may name sockets and hosts.
	return &Error{Kind: Lost, Message: "connection to the libvirt daemon lost"}
}

// died tells whether a call ended because its connection did.
func died(err error) bool {
	var lv libvirt.Error
	return err != nil && !errors.As(err, &lv) && !errors.Is(err, libvirt.ErrUnsupported) ||
		errors.Is(err, libvirt.ErrInterrupted) || errors.Is(err, syscall.EINVAL)
}

// noAnswer is the error of a call that was given up.
func noAnswer(ctx context.Context, what string, change bool) *Error {
	e := &Error{Kind: NoAnswer, OutcomeUnknown: change}
	reason := "before the deadline"
	if errors.Is(ctx.Err(), context.Canceled) {
		reason = "before the request was cancelled"
	}
	e.Message = fmt.Sprintf("no answer to %s %s", what, reason)
	if change {
		e.Message += "; it was sent once and its outcome is unknown"
	}
	return e
}
