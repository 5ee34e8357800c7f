package envelope

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestAppendJSON(t *testing.T) {
	for name, c := range map[string]struct {
		res    *Response
		want   string
		status int
	}{
		"empty": {&Response{}, `{"results":[],"success":true,"errors":[],"messages":[]}`, 200},
		"created": {&Response{Created: true, Results: []json.RawMessage{Raw("a<b>&\u2028")}},
			"{\"results\":[\"a<b>&\\u2028\"],\"success\":true,\"errors\":[],\"messages\":[]}", 201},
		"messages": {&Response{Messages: []any{Done{"start", "Domain started"}, "and a \"note\""}},
			`{"results":[],"success":true,"errors":[],"messages":[{"start":"Domain started"},"and a \"note\""]}`, 200},
		"list": {&Response{Info: &Page{1, 2, 3, 4, 5}},
			`{"results":[],"success":true,"errors":[],"messages":[],"result_info":{"page":1,"per_page":2,"count":3,"total_count":4,"total_pages":5}}`, 200},
		"errors": {&Response{Errors: []*Error{
			(&Error{Code: 201, Message: "Domain is already active", Libvirt: "it runs", LibvirtCode: 55}).At(5),
			New(Skipped, "")}},
			`{"results":[],"success":false,"errors":[{"code":201,"message":"Domain is already active","libvirt":"it runs","libvirt_code":55,"index":5},` +
				`{"code":299,"message":"Skipped: an action it depends on did not succeed"}],"messages":[]}`, 409},
	} {
		got := strings.TrimSpace(string(c.res.AppendJSON(nil)))
		if got != c.want || c.res.Status() != c.status {
			t.Errorf("%s: %d\n got %s\nwant %s", name, c.res.Status(), got, c.want)
		}
	}
}

func TestCodes(t *testing.T) {
	for _, c := range Codes() {
		if c.Message() == "" || c.Status() < 400 {
			t.Errorf("code %d: %d %q", c, c.Status(), c.Message())
		}
	}
	e := New(NoDomain, "")
	e.Status = 410
	if e.HTTPStatus() != 410 || New(NoDomain, "").HTTPStatus() != 404 {
		t.Error("an error's own status does not win")
	}
	if at := e.At(3); at.Index != 3 || e.Index != -1 {
		t.Error("At changes its error")
	}
}

// A client is told to send a request again only when none of it was done.
func TestRetryAfter(t *testing.T) {
	away := func(d time.Duration) *Error { return &Error{Code: Unavailable, RetryAfter: d} }
	unknown, skipped := away(0), New(Skipped, "")
	for name, c := range map[string]struct {
		res  *Response
		want time.Duration
	}{
		"success":                   {&Response{}, 0},
		"one error":                 {Failed(away(2)), 2},
		"an outcome unknown":        {Failed(unknown), 0},
		"the longest":               {&Response{Errors: []*Error{away(2), away(3)}}, 3},
		"one unknown among others":  {&Response{Errors: []*Error{away(2), unknown}}, 0},
		"what follows from another": {&Response{Errors: []*Error{away(2), skipped}}, 2},
		"after an action":           {&Response{Messages: []any{Done{"reset", "Domain was reset"}}, Errors: []*Error{away(2)}}, 0},
		"after a creation":          {&Response{Results: []json.RawMessage{Raw(1)}, Errors: []*Error{away(2)}}, 0},
	} {
		if got := c.res.RetryAfter(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestTime(t *testing.T) {
	zone := time.FixedZone("", 3600)
	if got := Time(time.Date(2026, 11, 24, 5, 2, 36, 742734999, zone)); got != "2026-11-24T04:02:36.742734Z" {
		t.Error(got)
	}
}

// Strings come out as JSON that reads back as the same string.
func FuzzAppendString(f *testing.F) {
	f.Add("a\"\\\x00\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		if err := json.Unmarshal(AppendString(nil, s), &back); err != nil {
			t.Fatal(err)
		}
		if back != strings.ToValidUTF8(s, "\ufffd") && strings.ToValidUTF8(s, "\ufffd") == s {
			t.Errorf("%q became %q", s, back)
		}
	})
}
