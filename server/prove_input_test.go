package server

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// What is no number where one is wanted, in a query or a path.
var noNumbers = []string{"-1", "+1", "-0", "1.0", "1e0", "1e400", "0x1", "1_0", "NaN", "Infinity", "true", "1,x", "[1]",
	"9223372036854775808", "18446744073709551616", "1" + strings.Repeat("0", 400), "٣", "１"}

// The same in JSON: values that are in no range, and texts that are no values.
var (
	badValues = []string{"-1", "1.0", "1.5", "1e0", "1e400", "1E-1", "18446744073709551616", "1" + strings.Repeat("0", 400), "true", "{}", "[[1]]", `"x"`}
	noValues  = []string{"+1", "01", "00", "-", "- 1", "1.", ".1", "1e", "0x1", "1_0", "NaN", "Infinity", "٣", "１", "1 2", "nil"}
)

// What clients may get wrong, or try: it is refused with its own error, and
// libvirt does not hear of it.
func TestProveInputRefused(t *testing.T) {
	type input struct {
		method, target, body string
		want                 string // status/code
	}
	const (
		list = "/libvirt/domains"
		one  = "/libvirt/domains/by-name/a"
		no   = "400/102"
	)
	var inputs []input
	add := func(method, target, body, want string) {
		inputs = append(inputs, input{method, target, body, want})
	}
	query := func(name, value, want string) { add("GET", list+"?"+name+"="+url.QueryEscape(value), "", want) }

	for _, n := range noNumbers {
		query("page", n, no)
		query("per_page", n, no)
		query("state", n, no)
		add("GET", "/libvirt/domains/by-id/"+url.PathEscape(n), "", "400/103")
	}
	for i, n := range append(badValues, noValues...) {
		value, spec := "400/122", "400/105"
		if i >= len(badValues) {
			value, spec = "400/0", "400/0"
		}
		add("PATCH", one, `{"memory":`+n+`}`, value)
		add("PATCH", one, `{"max_memory":`+n+`}`, value)
		add("PATCH", one, `[{"autostart":true},{"autostart":true,"depends":`+n+`}]`, value)
		add("PATCH", one, `[{"autostart":true},{"autostart":true,"depends":[`+n+`]}]`, value)
		add("POST", list, `{"name":"a","os":"Linux","cpu":`+n+`}`, spec)
		add("POST", list, `{"name":"a","os":"Linux","memory":`+n+`}`, spec)
	}
	for _, n := range []string{"0", `"0"`, `"-1GiB"`, `"1.5GiB"`, `"1e3KiB"`, `"18446744073709551615TiB"`, `"1 0"`, `"１GiB"`, `"GiB"`, `""`} {
		add("PATCH", one, `{"memory":`+n+`}`, "400/122")
		add("POST", list, `{"name":"a","os":"Linux","memory":`+n+`}`, "400/105")
	}
	add("POST", list, `{"name":"a","os":"Linux","cpu":4097}`, "400/105")
	query("page", "0", no)
	query("page", "2147483648", no)
	query("per_page", "1001", no)
	query("state", "8", no)
	query("search", strings.Repeat(",", maxValues), no)
	add("GET", "/libvirt/domains/by-id/2147483648", "", "400/103")
	add("PATCH", one, `[{"autostart":true},{"autostart":true,"depends":[null]}]`, "400/122")
	add("PATCH", one, `[{"autostart":true},{"autostart":true,"depends":[0,null]}]`, "400/122")
	add("PATCH", one, `[{"autostart":true},{"autostart":true,"depends":null}]`, "400/122")
	add("PATCH", one, `[{"autostart":true,"depends":0}]`, "400/122")
	add("PATCH", one, `{"power_mgt":{"request":"start","type":[null]}}`, "400/301")

	// JSON.
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, body := range []string{
		"", " ", "{", "[", `{"a"`, `{"a":}`, "nul", "'a'", `"\x"`, "\"\x00\"", "\"\xff\"", "\"\xed\xa0\x80\"", "\xef\xbb\xbf{}", "\xff\xfe{\x00}\x00", "\xfe\xff\x00{\x00}", "{\x00}\x00", `{}{}`, `[],`, "// a\n{}",
		"{\x00}", `{"memory":1,"memory":1}`, `{"memory":1,"MEMORY":1}`, `[{"autostart":true,"autoſtart":false}]`, deep(17), deep(100_000),
		strings.Repeat(`{"a":`, 100_000), `{"` + strings.Repeat("a", 100_000),
	} {
		add("PATCH", one, body, "400/0")
		add("POST", list, body, "400/0")
	}
	for _, body := range []string{"1", "null", "true", `"a"`, "[]", "[[]]", "[null]", deep(16), "[" + strings.Repeat("1,", 400_000) + "1]"} {
		add("PATCH", one, body, "400/298")
	}
	for _, body := range []string{"1", "null", "true", "[]", "[[]]", "[null]", deep(16), "[" + strings.Repeat("1,", 400_000) + "1]"} {
		add("POST", list, body, "400/3")
	}
	add("PATCH", one, `{}`, "400/122")
	add("PATCH", one, `{"memory":1,"name":"b"}`, "400/122")
	add("PATCH", one, `{"`+strings.Repeat("a", 1000)+`":1}`, "400/123")
	add("PATCH", one, `{"power_mgt":{"request":"start","kind":"paused"}}`, "400/300")
	add("POST", list, `{"name":"a","os":"Linux","size":1}`, "400/105")
	add("POST", list, `{"name":["a"],"os":"Linux"}`, "400/105")
	add("POST", list, `{"name":"a","os":"Linux","disks":[1]}`, "400/105")
	add("POST", list, `{"name":"a\ud800/\u0000","os":"Linux"}`, "400/105")

	// Paths and queries.
	for target, want := range map[string]string{
		"/":                                  "400/2",
		"/libvirt":                           "404/5",
		"/libvirt/":                          "404/5",
		"/libvirt/domains/":                  "404/7",
		"/libvirt//domains":                  "404/7",
		"/libvirt/domains//by-name/a":        "400/101",
		"/libvirt/domains/by-name":           "400/103",
		"/libvirt/domains/by-name/":          "400/103",
		"/libvirt/domains/by-name/a/":        "404/7",
		"/libvirt/domains/by-name/../x":      "404/7",
		"/libvirt/../libvirt/domains":        "404/5",
		"/libvirt/./domains":                 "404/5",
		"/libvirt%2fdomains":                 "400/2",
		"/LIBVIRT/domains":                   "400/2",
		"/libvirtx/domains":                  "400/2",
		"/libvirt/domains/by-name/%00":       "400/103",
		"/libvirt/domains/by-name/a%00b":     "400/103",
		"/libvirt/domains/by-name/%0d%0aa":   "400/103",
		"/libvirt/domains/by-name/%ff":       "400/103",
		"/libvirt/domains/by-name/%c0%af":    "400/103",
		"/libvirt/domains/by-name/%ef%bf%bf": "400/103",
		"/libvirt/domains/by-name/" + strings.Repeat("a", 254): "400/103",
		"/libvirt/domains/by-uuid/a":                           "400/103",
		"/libvirt/domains/by-uuid/..":                          "400/103",
		"/libvirt/domains/by-NAME/a":                           "400/101",
		"/libvirt/domains?":                                    "", // no parameters
		"/libvirt/domains?a":                                   no,
		"/libvirt/domains?=":                                   no,
		"/libvirt/domains?%00=1":                               no,
		"/libvirt/domains?search=%ff":                          no,
		"/libvirt/domains?search=":                             no,
		"/libvirt/domains?search=a&search=b":                   no,
		"/libvirt/domains?SEARCH=a":                            no,
		"/libvirt/domains?search=%zz":                          "400/2",
		"/libvirt/domains?search=a;b":                          "400/2",
		"/libvirt/domains?fields=name,nome":                    no,
		"/libvirt/domains?active=maybe":                        no,
		"/libvirt/domains?order=os":                            no,
	} {
		if want != "" {
			add("GET", target, "", want)
		}
	}

	s, calls := onDaemon(t, nil)
	for _, in := range inputs {
		w := ask(s, in.method, in.target, in.body)
		code, err := enveloped(w.Body.Bytes())
		if got := fmt.Sprintf("%d/%d", w.Code, code); err != nil || got != in.want {
			t.Errorf("%s %.100s %.100s: %s, %v, want %s: %.300s", in.method, in.target, in.body, got, err, in.want, w.Body)
		}
		// An error names what is wrong; it does not repeat what was sent.
		if w.Body.Len() > 1000 {
			t.Errorf("%s %.100s %.100s: an error of %d bytes", in.method, in.target, in.body, w.Body.Len())
		}
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d libvirt calls", n)
	}
	if !t.Failed() {
		t.Attr("case", "numbers, JSON, paths and queries of every wrong shape")
		t.Attr("promised", "each is refused with its documented error, and nothing reaches libvirt")
		t.Attr("measured", fmt.Sprintf("%d inputs, 0 libvirt calls", len(inputs)))
	}
}

// A packet id comes back as it was sent, on every status, or is refused and
// not repeated.
func TestProvePacketID(t *testing.T) {
	s, calls := onDaemon(t, nil)
	send := func(target string, ids ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", target, nil)
		r.Header.Set("X-Auth-Key", testKey)
		r.Header.Set("X-Auth-Username", testUser)
		r.Header["X-Packet-Id"] = ids
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	good := []string{"1", " ", "~", `"\<>&`, strings.Repeat("a", 256)}
	for _, id := range good {
		for target, status := range map[string]int{"/livez": 200, "/libvirt/no": 404, "/": 400} {
			if w := send(target, id); w.Code != status || w.Header().Get("X-Packet-Id") != id {
				t.Errorf("%q: %d, %q", id, w.Code, w.Header())
			}
		}
	}
	bad := [][]string{{strings.Repeat("a", 257)}, {"a\x00"}, {"a\n"}, {"a\x1b[31m"}, {"a\x7f"}, {"ä"}, {"\xff"}, {"twice", "twice"}, {"twice", "another"}}
	for _, ids := range bad {
		for _, target := range []string{"/livez", "/libvirt/domains", "/libvirt/no", "/"} {
			w := send(target, ids...)
			_, echoed := w.Header()["X-Packet-Id"]
			if code, err := enveloped(w.Body.Bytes()); err != nil || w.Code != http.StatusBadRequest || code != 3 || echoed || strings.Contains(w.Body.String(), ids[0]) {
				t.Errorf("%q: %d, %v, %s", ids, w.Code, w.Header(), w.Body)
			}
		}
	}
	if calls.Load() != 0 {
		t.Errorf("%d libvirt calls", calls.Load())
	}
	if !t.Failed() {
		t.Attr("case", "packet ids with control characters, not ASCII, too long, or given twice")
		t.Attr("promised", "refused, never repeated, and nothing is done; any other comes back on every status")
		t.Attr("measured", fmt.Sprintf("%d bad ones, %d good ones", len(bad), len(good)))
	}
}
