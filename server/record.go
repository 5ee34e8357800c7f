package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"virtgate/auth"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/audit"
	"virtgate/server/listen"
)

// recorder is a request type that says what it is about to do, in the words of
// the API and without values. A read that is one gets into the audit log, too.
type recorder interface {
	record(*audit.Entry)
}

type entryKey struct{}

// newEntry begins the line of a request in the audit log; nil when there is no
// log. All that is done to it does nothing then.
func (s *Server) newEntry(r *http.Request, start time.Time, id, packet string) (*audit.Entry, *http.Request) {
	if !s.opts.Audit.On() {
		return nil, r
	}
	e := &audit.Entry{Time: audit.Time{Time: start}, RequestID: id, PacketID: packet, Remote: remoteAddr(r.RemoteAddr), Method: r.Method[:min(len(r.Method), maxMethod)]}
	return e, r.WithContext(context.WithValue(r.Context(), entryKey{}, e))
}

func entryOf(ctx context.Context) *audit.Entry {
	e, _ := ctx.Value(entryKey{}).(*audit.Entry)
	return e
}

// recordCaller says who calls, or was refused.
func recordCaller(e *audit.Entry, p listen.Peer, c auth.Credentials, caller auth.Caller, err error) {
	if e == nil {
		return
	}
	e.User, e.Proof, e.Key = caller.User, string(caller.Proof), caller.KeyName
	e.PeerUID, e.PeerPID = p.UID, p.PID
	if p.Certificate != nil {
		e.Certificate = p.Certificate.SerialNumber.Text(16)
	}
	var refused *auth.Error
	if errors.As(err, &refused) {
		e.Reason = refused.Reason.String()
		e.Claimed = claimed(c)
	}
}

// claimed is the user who somebody refused says, or shows a certificate, that
// he is; "" when it does not look like a user's name: people put keys into the
// wrong header.
func claimed(c auth.Credentials) string {
	name := ""
	switch {
	case len(c.Username) == 1:
		name = c.Username[0]
	case c.Certificate != nil:
		name = *c.Certificate
	}
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789_.-"
	if len(name) > 32 || strings.Trim(name, letters) != "" {
		return ""
	}
	return name
}

// recordRoute says what the request came to, and which object its path names.
func recordRoute(e *audit.Entry, rt route, id string) {
	if e == nil {
		return
	}
	e.Route = rt.path
	if rt.key == nil {
		return
	}
	o := audit.Object{Kind: strings.TrimSuffix(rt.chapter(), "s")}
	id = id[:min(len(id), maxName)]
	switch rt.key.by {
	case "by-name":
		o.Name = id
	case "by-uuid":
		o.UUID = id
	case "by-id":
		o.ID = id
	}
	e.Objects = []audit.Object{o}
}

// recordObject says what is known by now of the n-th object.
func recordObject(ctx context.Context, n int, name string, uuid libvirtrpc.UUID) {
	e := entryOf(ctx)
	if e == nil || n >= len(e.Objects) {
		return
	}
	e.Objects[n].UUID = uuid.String()
	if name != "" {
		e.Objects[n].Name = name
	}
}

// isRecorded tells whether a request that is let in belongs into the audit log.
func isRecorded(e *audit.Entry) bool {
	read := e.Method == http.MethodGet || e.Method == http.MethodHead
	return e.Route != "" && (!read || len(e.Actions) > 0)
}

// record says what the request asks for, if it is one that says so.
func (r *request) record(decoded any) {
	if rec, ok := decoded.(recorder); ok && r.entry != nil {
		rec.record(r.entry)
	}
}

// begin says that the request is about to be executed. It must not be when that
// cannot be recorded.
func (r *request) begin() error {
	if r.entry == nil || !isRecorded(r.entry) || r.audit.Begin(*r.entry) == nil {
		return nil
	}
	return envelope.New(envelope.Internal, "the audit log cannot be written, and has to be; nothing was done")
}

// recordErrors says what went wrong, without its text: libvirt's may quote what
// it was given.
func recordErrors(e *audit.Entry, errs []*envelope.Error) {
	if e == nil {
		return
	}
	for _, err := range errs {
		a := audit.Error{Code: int(err.Code), LibvirtCode: err.LibvirtCode}
		if err.Index >= 0 {
			a.Index = &err.Index
		}
		if err.Code == envelope.NotPermitted && err.LibvirtCode == 0 {
			e.Reason = err.Message
		}
		e.Errors = append(e.Errors, a)
	}
}

// recordEnd writes the line if it is of a change, done or not, or of a refusal.
func (s *Server) recordEnd(e *audit.Entry, status int, took time.Duration) {
	if e == nil {
		return
	}
	refused := slices.Contains([]int{http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests}, status)
	if !refused && !isRecorded(e) {
		return
	}
	e.Status, e.DurationMs = status, float64(took.Microseconds())/1000
	s.opts.Audit.Write(*e)
}
