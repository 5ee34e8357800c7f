package rpctest

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"virtgate/libvirtrpc/wire"
	"virtgate/libvirtrpc/xdr"
)

// Recorder collects a conversation with a real daemon. Its Tap goes into the
// client's options; the client must make one call at a time.
type Recorder struct {
	mu sync.Mutex
	ms []Message
}

// Tap takes a frame as it crosses the socket.
func (r *Recorder) Tap(_ wire.Direction, b []byte) {
	f, err := wire.ParseFrame(b)
	if err != nil {
		return
	}
	proc, ok := xdr.Procedure(f.Program, f.Procedure)
	if _, ours := handshake[proc.Name]; !ok || ours {
		return
	}
	m := Message{Proc: proc.Name, Payload: append([]byte(nil), f.Payload...)}
	switch {
	case f.Type == wire.TypeCall:
	case f.Type == wire.TypeReply && f.Status == wire.StatusError:
		m.Kind = Error
	case f.Type == wire.TypeReply:
		m.Kind = Reply
	default:
		return // an event
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ms = append(r.ms, m)
}

// Take is the text of what was said since the last Take, scrubbed.
func (r *Recorder) Take() string {
	r.mu.Lock()
	ms := r.ms
	r.ms = nil
	r.mu.Unlock()
	text := Format(ms)
	for _, s := range scrubs {
		text = s.find.ReplaceAllString(text, s.with)
	}
	return text
}

// scrubs replace what differs from one recording to the next. They see the text
// of the whole conversation.
var scrubs = []struct {
	find *regexp.Regexp
	with string
}{
	// DomainGetInfo: nanoseconds; the test driver answers with the time of day.
	{regexp.MustCompile(`(?m)^CPUTime = [0-9]+$`), "CPUTime = 1500000000"},
	// Capabilities: the host's own identity.
	{regexp.MustCompile(`(?m)^\t    <uuid>[0-9a-f-]+</uuid>$`), "\t    <uuid>00000000-0000-0000-0000-000000000000</uuid>"},
}

// knownVersions are the daemons whose answers were looked at: Debian 12 has
// 9.0.0, Debian 13 has 11.3.0.
var knownVersions = []string{"9.0.0", "11.3.0"}

// KnownVersion refuses to record from a libvirt that was never looked at.
func KnownVersion(version string) error {
	for _, v := range knownVersions {
		if v == version {
			return nil
		}
	}
	return fmt.Errorf("libvirt %s was never recorded from; look at what it answers and add it to knownVersions (%s)", version, strings.Join(knownVersions, ", "))
}
