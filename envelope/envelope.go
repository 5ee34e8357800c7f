// Package envelope is what every response looks like: the object with
// "results", "success", "errors" and "messages", and the error codes in it.
// It knows nothing of HTTP servers and nothing of libvirt.
package envelope

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Error is one entry of "errors". It is a Go error, so that it can travel up
// from where it was found.
type Error struct {
	Code    Code
	Message string // one sentence for the caller; the code's own when empty
	Status  int    // HTTP status; the code's own when 0
	// Libvirt is libvirt's own text and LibvirtCode its number
	// (virErrorNumber). Both are left out when LibvirtCode is 0.
	Libvirt     string
	LibvirtCode int
	// Index is the place in the request array of the item that failed, -1
	// when the request was not an array.
	Index int
	// RetryAfter is when to try again; 0 says nothing about it.
	RetryAfter time.Duration
}

// New is an error with the code's own sentence, followed by ": " and the detail
// unless that is empty.
func New(code Code, detail string) *Error {
	e := &Error{Code: code, Index: -1, Message: code.Message()}
	if detail != "" {
		e.Message += ": " + detail
	}
	return e
}

// Error is the sentence of the error.
func (e *Error) Error() string { return e.Message }

// HTTPStatus is the status a response with this error has.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	return e.Code.Status()
}

// At returns the error with its place in the request array.
func (e *Error) At(index int) *Error {
	c := *e
	c.Index = index
	return &c
}

// Done is an entry of "messages" after an action: {"start":"Domain started"}.
type Done struct{ Action, Text string }

// Page is "result_info". The tags about are for the description of the API.
type Page struct {
	Page       int `json:"page" about:"which one, from 1"`
	PerPage    int `json:"per_page" about:"how many results a page has at most"`
	Count      int `json:"count" about:"how many are on this page"`
	TotalCount int `json:"total_count" about:"how many there are, after the filters"`
	TotalPages int `json:"total_pages"`
}

// Response is one envelope. The zero value is an empty success.
type Response struct {
	// Results holds the objects, each one already JSON.
	Results []json.RawMessage
	Errors  []*Error
	// Messages holds strings and Done values.
	Messages []any
	Info     *Page // lists only
	Created  bool  // 201 instead of 200

	mediaType string // see Document
	encoded   []byte // see Encode
	zip       sync.Once
	zipped    []byte // see Gzip
}

// Document is a response that is sent as it is, without the envelope.
func Document(mediaType string, body []byte) *Response {
	return &Response{mediaType: mediaType, encoded: body}
}

// MediaType is the Content-Type of the response.
func (r *Response) MediaType() string {
	if r.mediaType != "" {
		return r.mediaType
	}
	return "application/json; charset=utf-8"
}

// Bytes is the response as it is sent. It must not be written to: see Encode.
func (r *Response) Bytes() []byte {
	if r.encoded != nil {
		return r.encoded
	}
	n := 512
	for _, res := range r.Results {
		n += len(res) + 1
	}
	return r.AppendJSON(make([]byte, 0, n))
}

// Encode fixes the response as it is now, so that several requests can be
// answered with the same bytes.
func (r *Response) Encode() { r.encoded = r.Bytes() }

// Failed is the response of a request that has one error.
func Failed(e *Error) *Response { return &Response{Errors: []*Error{e}} }

// Status is the HTTP status of the response: that of the first error.
func (r *Response) Status() int {
	switch {
	case len(r.Errors) > 0:
		return r.Errors[0].HTTPStatus()
	case r.Created:
		return http.StatusCreated
	}
	return http.StatusOK
}

// RetryAfter is how long to wait before sending the request again: the longest
// time that an error asks for. It is 0 unless that is safe, which takes that
// nothing was done and that each error says so, but for those that follow from
// another one.
func (r *Response) RetryAfter() time.Duration {
	if len(r.Results)+len(r.Messages) > 0 {
		return 0
	}
	var d time.Duration
	for _, e := range r.Errors {
		if e.RetryAfter == 0 && e.Code != Skipped {
			return 0
		}
		d = max(d, e.RetryAfter)
	}
	return d
}

// AppendJSON appends the envelope: always the same keys in the same order, and
// no null for an empty array.
func (r *Response) AppendJSON(b []byte) []byte {
	b = append(b, `{"results":[`...)
	for i, raw := range r.Results {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, raw...)
	}
	b = append(b, `],"success":`...)
	b = strconv.AppendBool(b, len(r.Errors) == 0)
	b = append(b, `,"errors":[`...)
	for i, e := range r.Errors {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.appendJSON(b)
	}
	b = append(b, `],"messages":[`...)
	for i, m := range r.Messages {
		if i > 0 {
			b = append(b, ',')
		}
		switch m := m.(type) {
		case Done:
			b = append(b, '{')
			b = AppendString(b, m.Action)
			b = append(b, ':')
			b = AppendString(b, m.Text)
			b = append(b, '}')
		case string:
			b = AppendString(b, m)
		}
	}
	b = append(b, ']')
	if r.Info != nil {
		b = append(b, `,"result_info":`...)
		b = append(b, Raw(r.Info)...)
	}
	return append(b, "}\n"...)
}

func (e *Error) appendJSON(b []byte) []byte {
	b = append(b, `{"code":`...)
	b = strconv.AppendInt(b, int64(e.Code), 10)
	b = append(b, `,"message":`...)
	b = AppendString(b, e.Message)
	if e.LibvirtCode != 0 {
		b = append(b, `,"libvirt":`...)
		b = AppendString(b, e.Libvirt)
		b = append(b, `,"libvirt_code":`...)
		b = strconv.AppendInt(b, int64(e.LibvirtCode), 10)
	}
	if e.Index >= 0 {
		b = append(b, `,"index":`...)
		b = strconv.AppendInt(b, int64(e.Index), 10)
	}
	return append(b, '}')
}

// Raw is v as JSON, with "<" and ">" as themselves: domain XML stays readable.
// v must be a value that JSON can hold; anything else is a mistake in the
// program and panics.
func Raw(v any) json.RawMessage {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("envelope: " + err.Error())
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})
}

// AppendString appends s as a JSON string. Plain ASCII, which names and
// UUIDs are, costs no allocation.
func AppendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			return append(b, Raw(s)...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// Time is t as the API writes dates: UTC, ISO 8601, microseconds.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }
