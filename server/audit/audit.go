// Package audit keeps the record of who changed what, and of who was refused:
// one line of JSON for each, in a file of its own. It knows what a line holds
// and how it gets into the file, and nothing of what is recorded.
package audit

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Entry is one line. What is not known is left out.
type Entry struct {
	Time Time `json:"time"`
	// Phase is "begin" in the line that is written before a change when the
	// record is required. The line of the end has none.
	Phase     string `json:"phase,omitempty"`
	RequestID string `json:"request_id"`
	PacketID  string `json:"packet_id,omitempty"`

	User    string `json:"user,omitempty"`
	Claimed string `json:"claimed_user,omitempty"` // by somebody who was refused
	Proof   string `json:"proof,omitempty"`        // what the user was let in by
	Key     string `json:"key,omitempty"`          // the name of the service key
	// Certificate is the serial number of the client's certificate, in hex.
	Certificate string  `json:"certificate,omitempty"`
	PeerUID     *uint32 `json:"peer_uid,omitempty"`
	PeerPID     int32   `json:"peer_pid,omitempty"`
	Remote      string  `json:"remote"`

	Method string `json:"method"`
	Route  string `json:"route,omitempty"`
	// Actions are what was asked for, in the API's words and without values.
	Actions []string `json:"actions,omitempty"`
	Objects []Object `json:"objects,omitempty"`

	Status     int     `json:"status,omitempty"`
	Reason     string  `json:"reason,omitempty"` // of a refusal
	Errors     []Error `json:"errors,omitempty"`
	DurationMs float64 `json:"duration_ms,omitempty"`
}

// Object is what an action is about: as much as is known of it.
type Object struct {
	Kind string `json:"kind,omitempty"`
	Name string `json:"name,omitempty"`
	UUID string `json:"uuid,omitempty"`
	ID   string `json:"id,omitempty"`
}

// Error is one of the response's errors, without its text.
type Error struct {
	Code        int  `json:"code"`
	LibvirtCode int  `json:"libvirt_code,omitempty"`
	Index       *int `json:"index,omitempty"` // of the action or object that failed
}

// Time is written as the API writes dates: UTC, ISO 8601, microseconds.
type Time struct{ time.Time }

// MarshalJSON writes the time.
func (t Time) MarshalJSON() ([]byte, error) {
	return t.UTC().AppendFormat(nil, `"2006-01-02T15:04:05.000000Z"`), nil
}

// Config says where the record goes.
type Config struct {
	File string // "-" is standard output; "" is nowhere
	// Required: what cannot be recorded does not happen.
	Required bool
}

// Log is the record. Its zero value records nothing.
type Log struct {
	log *slog.Logger

	mu       sync.Mutex
	out      io.Writer // nil: nowhere
	file     *os.File  // out, when it is a file of ours
	required bool
	torn     bool // the last line is not whole
	failed   bool // the last line was lost, and the log says so
}

// Open opens the record. Lines that are lost later go to log.
func Open(c Config, log *slog.Logger) (*Log, error) {
	l := &Log{log: log}
	use, err := l.Prepare(c)
	if err != nil {
		return nil, err
	}
	use()
	return l, nil
}

// Prepare opens another record, or the same file anew, which is used from the
// call of use on. The one from before is closed then.
func (l *Log) Prepare(c Config) (use func(), err error) {
	var out io.Writer
	var file *os.File
	torn := false
	switch c.File {
	case "":
	case "-":
		out = os.Stdout
	default:
		if file, torn, err = open(c.File); err != nil {
			return nil, fmt.Errorf("cannot open the audit log: %w", err)
		}
		out = file
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.file != nil {
			l.file.Close()
		}
		l.out, l.file, l.required = out, file, c.Required
		l.torn, l.failed = torn, false
	}, nil
}

// open opens a file for lines behind what it has. torn tells that the last one
// there is not whole.
func open(path string) (f *os.File, torn bool, err error) {
	// Not O_WRONLY, which waits for the reader of a FIFO.
	f, err = os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		_, err = f.ReadAt(last, info.Size()-1)
		torn = last[0] != '\n'
	}
	if err != nil {
		f.Close()
		return nil, false, err
	}
	return f, torn, nil
}

// Close closes the record. Nothing is recorded any more.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.Close()
	}
	l.out, l.file = nil, nil
}

// On tells whether anything is recorded.
func (l *Log) On() bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out != nil
}

// Begin writes the line of a change that is about to be made, if the record is
// required. With an error the change must not be made.
func (l *Log) Begin(e Entry) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil || !l.required {
		return nil
	}
	e.Phase = "begin"
	return l.write(e)
}

// Write writes the line of what has happened. A line that is lost goes into the
// log instead.
func (l *Log) Write(e Entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		l.write(e)
	}
}

func (l *Log) write(e Entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err // an Entry has nothing that JSON cannot hold
	}
	text := append(line, '\n')
	if l.torn {
		// So that only one line is spoiled by a full disk.
		text = append([]byte{'\n'}, text...)
	}
	n, err := l.out.Write(text)
	if err != nil {
		l.torn = l.torn || n > 0
		l.failed = true
		l.log.Error("the audit log cannot be written", "error", err, "entry", json.RawMessage(line))
		return err
	}
	if l.failed {
		l.log.Warn("the audit log is written again")
	}
	l.torn, l.failed = false, false
	return nil
}
