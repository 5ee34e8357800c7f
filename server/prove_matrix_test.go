package server

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"virtgate/auth"
)

// testServiceKeys are what the keys of the matrix allow, by name; each key is its
// name with "-key" behind it.
var testServiceKeys = map[string][]string{
	"read": {"domains:read"}, "create": {"domains:create"}, "power": {"domains:power"}, "update": {"domains:update"},
	"delete": {"domains:delete"}, "secure": {"domains:secure"}, "collection": {"domains:*"}, "verb": {"*:read"}, "all": {"*"},
	"other": {"networks:*", "*:start"}, "several": {"domains:read", "domains:secure", "domains:power"},
}

// credentials is one way to present oneself.
type credentials struct {
	what                string
	key, user, services []string // nil: no such header
	refused             string   // status/code; "" when let in
	allow               []string // what it may do then; nil: everything
}

func allCredentials() []credentials {
	one := func(s string) []string { return []string{s} }
	right, smith := one(testKey), one(testUser)
	cases := []credentials{
		{what: "nothing", refused: "401/1"},
		{what: "a wrong key", key: one("wrong"), user: smith, refused: "401/1"},
		{what: "a wrong key and an unknown user", key: one("wrong"), user: one("ghost"), refused: "401/1"},
		{what: "a wrong key alone", key: one("wrong"), refused: "401/1"},
		{what: "an empty key", key: one(""), user: smith, refused: "401/1"},
		{what: "the key cut short", key: one(testKey[1:]), user: smith, refused: "401/1"},
		{what: "the key and more", key: one(testKey + "x"), user: smith, refused: "401/1"},
		{what: "the key in capitals", key: one(strings.ToUpper(testKey)), user: smith, refused: "401/1"},
		{what: "the key twice", key: []string{testKey, testKey}, user: smith, refused: "401/1"},
		{what: "the key and a wrong one", key: []string{testKey, "wrong"}, user: smith, refused: "401/1"},
		{what: "the keys in one header", key: one(testKey + ", " + testKey), user: smith, refused: "401/1"},
		{what: "a user alone", user: smith, refused: "401/1"},
		{what: "uid 0 alone", user: one("root"), refused: "401/1"},
		{what: "the key without a user", key: right, refused: "401/8"},
		{what: "an empty user", key: right, user: one(""), refused: "401/8"},
		{what: "an unknown user", key: right, user: one("ghost"), refused: "403/8"},
		{what: "a user in one group", key: right, user: one("half"), refused: "403/8"},
		{what: "a user by number", key: right, user: one("1000"), refused: "403/8"},
		{what: "uid 0 by number", key: right, user: one("0"), refused: "403/8"},
		{what: "the user in capitals", key: right, user: one(strings.ToUpper(testUser)), refused: "403/8"},
		{what: "two users", key: right, user: []string{testUser, testUser}, refused: "403/8"},
		{what: "the key and a member", key: right, user: smith},
		{what: "the key and uid 0", key: right, user: one("root")},
		{what: "a wrong service key", services: one("wrong"), refused: "401/9"},
		{what: "an empty service key", services: one(""), refused: "401/9"},
		{what: "the main key as service key", services: right, refused: "401/9"},
		{what: "a service key as main key", key: one("all-key"), user: smith, refused: "401/1"},
		{what: "a service key twice", services: []string{"all-key", "all-key"}, refused: "401/9"},
		{what: "two service keys", services: []string{"all-key", "read-key"}, refused: "401/9"},
		{what: "a service key and a wrong key", key: one("wrong"), user: smith, services: one("all-key"), refused: "401/1"},
		{what: "a service key and an empty key", key: one(""), services: one("all-key"), refused: "401/1"},
		{what: "a service key and an unknown user", user: one("ghost"), services: one("all-key"), refused: "403/8"},
		{what: "a service key and a user in one group", key: right, user: one("half"), services: one("all-key"), refused: "403/8"},
		{what: "a wrong service key and a right pair", key: right, user: smith, services: one("wrong"), refused: "401/9"},
		{what: "an empty service key and a right pair", key: right, user: smith, services: one(""), refused: "401/9"},
	}
	for name, allow := range testServiceKeys {
		key := one(name + "-key")
		cases = append(cases,
			credentials{what: "the service key " + name, services: key, allow: allow},
			credentials{what: "the service key and a member: " + name, user: smith, services: key, allow: allow},
			credentials{what: "the service key and a right pair: " + name, key: right, user: smith, services: key, allow: allow})
	}
	return cases
}

func (c *credentials) on(r *http.Request) {
	r.Header["X-Auth-Key"], r.Header["X-Auth-Username"], r.Header["X-Auth-User-Service-Key"] = c.key, c.user, c.services
}

// may says by the words of the API's description what the keys allow.
func (c *credentials) may(permission string) bool {
	collection, verb, _ := strings.Cut(permission, ":")
	return c.allow == nil || slices.ContainsFunc([]string{permission, collection + ":*", "*:" + verb, "*"},
		func(p string) bool { return slices.Contains(c.allow, p) })
}

func matrixServer(t testing.TB) (send func(c *credentials, method, target, body string) *httptest.ResponseRecorder, routes []Route, calls func() int64) {
	s, n := onDaemon(t, func(_ *Options, a *auth.Config) {
		for _, name := range slices.Sorted(maps.Keys(testServiceKeys)) {
			a.ServiceKeys = append(a.ServiceKeys, auth.ServiceKey{Name: name, Key: name + "-key", Allow: testServiceKeys[name]})
		}
	})
	address := 0
	return func(c *credentials, method, target, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		c.on(r)
		address++ // nobody is slowed down
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", address>>16, address>>8&255, address&255)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}, s.Routes(), func() int64 { return n.Swap(0) }
}

// question is a good request, and the permissions that it takes, all of them.
type question struct {
	method, target, body string
	needs                []string
}

// questions are what can be asked, at least one for each permission of each
// route. A new permission that is checked by what is in the request needs its
// words here.
func questions(routes []Route) []question {
	words := map[string]struct{ query, body string }{
		"domains:create": {body: `{"name":"a","os":"Linux"}`},
		"domains:power":  {body: `{"power_mgt":"start"}`},
		"domains:update": {body: `[{"name":"b"},{"memory":1},{"max_memory":1},{"autostart":true}]`},
		"domains:delete": {query: "?options=managed_save"}, // of a PATCH, too
		"domains:secure": {query: "?options=inactive,secure"},
	}
	var out []question
	for _, rt := range routes {
		target := strings.NewReplacer("by-uuid/:identifier", "by-uuid/6695eb01-f6a4-8304-79aa-97f2502e193f", ":identifier", "0").Replace(rt.Path)
		for _, p := range rt.Permissions {
			q := question{rt.Method, target + words[p].query, words[p].body, []string{p}}
			if p == "domains:secure" {
				q.needs = append(q.needs, "domains:read")
			}
			out = append(out, q)
			if rt.Method == http.MethodGet {
				q.method = http.MethodHead
				out = append(out, q)
			}
		}
		if rt.Method == http.MethodPatch {
			out = append(out, question{rt.Method, target, `[{"power_mgt":"start"},{"autostart":true,"depends":0}]`, []string{"domains:power", "domains:update"}})
		}
	}
	return out
}

// Every route with every way to present oneself.
func TestProveMatrix(t *testing.T) {
	send, routes, calls := matrixServer(t)
	cells, refusals := 0, 0
	for _, q := range questions(routes) {
		for _, c := range allCredentials() {
			want := c.refused
			if want == "" && slices.ContainsFunc(q.needs, func(p string) bool { return !c.may(p) }) {
				want = "403/11"
			}
			w := send(&c, q.method, q.target, q.body)
			n := calls()
			cells++
			got := ""
			if w.Code == 401 || w.Code == 403 || w.Code == 429 {
				refusals++
				got = fmt.Sprintf("%d/%d", w.Code, refusalCode(t, q.method, w, want))
			}
			if got != want || (want == "") != (n > 0) {
				t.Errorf("%s %s %s with %s: %d, got %q, want %q, %d libvirt calls: %s", q.method, q.target, q.body, c.what, w.Code, got, want, n, w.Body)
			}
		}
	}
	if !t.Failed() {
		t.Attr("case", "every route and permission with every way to present oneself")
		t.Attr("promised", "who may not gets the documented status and code, and libvirt is not asked")
		t.Attr("measured", fmt.Sprintf("%d cells, %d refusals, 0 libvirt calls by these", cells, refusals))
	}
}

// refusalCode is the code of a refusal; a HEAD does not tell it and gets the one
// that is wanted.
func refusalCode(t *testing.T, method string, w *httptest.ResponseRecorder, want string) (code int) {
	t.Helper()
	if method == http.MethodHead {
		if w.Body.Len() > 0 {
			t.Errorf("HEAD has a body: %s", w.Body)
		}
		fmt.Sscanf(want, "%d/%d", new(int), &code)
		return code
	}
	code, err := enveloped(w.Body.Bytes())
	if err != nil {
		t.Error(err)
	}
	return code
}

// Who is not let in learns nothing from the answer: it is the same one for
// everything that could be asked.
func TestProveStrangersLearnNothing(t *testing.T) {
	send, routes, calls := matrixServer(t)
	targets := []string{"/libvirt", "/libvirt/", "/libvirt/no", "/libvirt/domains/", "/libvirt/domains?no=1", "/libvirt/domains?search=%zz", "/libvirt/domains?a;b",
		"/libvirt/domains/by-no/a", "/libvirt/domains/by-id/x", "/libvirt/domains/by-uuid/x", "/libvirt/domains/by-name/a/no", "/libvirt/domains/by-name/%00",
		"/libvirt/domains/by-name/%ff", "/libvirt//domains", "/libvirt/../livez", "/libvirt%2fdomains", "/%6cibvirt/version", "/libvirt/domains/by-name/" + strings.Repeat("a", 5000)}
	for _, rt := range routes {
		if len(rt.Permissions) == 0 { // for anybody
			continue
		}
		targets = append(targets, strings.ReplaceAll(rt.Path, ":identifier", "0"), rt.Path)
	}
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "FOO"}
	sent := []string{"", "{", `{"power_mgt":"start"}`, `{"name":"a","os":"Linux"}`, strings.Repeat("x", 2<<20)}
	type seen struct {
		Status int
		Header http.Header
		Body   string
	}
	look := func(c *credentials, method, target, body string) seen {
		w := send(c, method, target, body)
		h := w.Result().Header
		h.Del("X-Request-Id")
		return seen{w.Code, h, w.Body.String()}
	}
	asked := 0
	for _, c := range allCredentials() {
		if c.refused == "" {
			continue
		}
		all := look(&c, "GET", "/libvirt/domains", "")
		head := all
		head.Body = ""
		for _, target := range targets {
			for i, method := range methods {
				want := all
				if method == "HEAD" {
					want = head
				}
				body := sent[(i+asked)%len(sent)] // all of them, for every target
				asked++
				if diff := cmp.Diff(want, look(&c, method, target, body)); diff != "" {
					t.Fatalf("%s %.100s with %s tells something:\n%s", method, target, c.what, diff)
				}
			}
		}
	}
	if n := calls(); n != 0 {
		t.Errorf("%d libvirt calls", n)
	}
	if !t.Failed() {
		t.Attr("case", "callers without valid credentials ask for what there is and what there is not")
		t.Attr("promised", "status, headers and body are the same for every path, method and body")
		t.Attr("measured", fmt.Sprintf("%d requests, 0 libvirt calls", asked))
	}
}

// Guessing ends after 30 failures in a minute, for the guesser's address and for
// nobody else.
func TestProveGuessing(t *testing.T) {
	s, calls := onDaemon(t, func(_ *Options, a *auth.Config) {
		a.FailuresPerMinute = 0 // the default
		a.ServiceKeys = []auth.ServiceKey{{Name: "all", Key: "all-key", Allow: []string{"*"}}}
	})
	send := func(c credentials, address string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/libvirt/domains", nil)
		c.on(r)
		r.RemoteAddr = address
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	right := credentials{key: []string{testKey}, user: []string{testUser}}
	for _, guesser := range []struct {
		own    []string // addresses of one guesser
		others []string
	}{
		{[]string{"192.0.2.1:1", "192.0.2.1:2"}, []string{"192.0.2.2:1", "[2001:db8::1]:1"}},
		{[]string{"[2001:db8:0:7::1]:1", "[2001:db8:0:7:ffff:1:2:3]:1", "[2001:db8:0:7:8::]:9"}, []string{"[2001:db8:0:8::1]:1", "[2001:db8:0:6:ffff::]:1"}},
		{[]string{"[::ffff:198.51.100.1]:1", "198.51.100.1:1"}, []string{"198.51.100.2:1"}},
	} {
		for i := range 30 {
			guess := credentials{key: []string{fmt.Sprint("guess ", i)}, user: []string{testUser}}
			if i%2 == 1 {
				guess = credentials{services: []string{fmt.Sprint("guess ", i)}}
			}
			if w := send(guess, guesser.own[i%len(guesser.own)]); w.Code != 401 {
				t.Fatalf("failure %d of %v: %d", i+1, guesser.own, w.Code)
			}
		}
		if calls.Load() != 0 {
			t.Fatalf("%d libvirt calls", calls.Load())
		}
		// From now on a right guess is told apart from a wrong one by nothing.
		var bodies []string
		for i, c := range []credentials{{key: []string{"guess"}}, {}, right, {services: []string{"all-key"}}} {
			w := send(c, guesser.own[i%len(guesser.own)])
			var wait int
			fmt.Sscan(w.Header().Get("Retry-After"), &wait)
			if code, err := enveloped(w.Body.Bytes()); err != nil || w.Code != 429 || code != 13 || wait < 1 || wait > 60 {
				t.Errorf("after 30 failures: %d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
			}
			bodies = append(bodies, w.Body.String())
		}
		if len(slices.Compact(bodies)) != 1 || calls.Load() != 0 {
			t.Errorf("a right guess shows: %q, %d libvirt calls", bodies, calls.Load())
		}
		for _, address := range guesser.others {
			if w := send(right, address); w.Code != 200 {
				t.Errorf("%s is locked out by %v: %d", address, guesser.own, w.Code)
			}
		}
		calls.Store(0)
	}
	if !t.Failed() {
		t.Attr("case", "keys guessed from one address, by IPv4 and by many addresses of one IPv6 /64")
		t.Attr("promised", "429 from the 31st failure in a minute on, a right guess included; other addresses are not concerned")
		t.Attr("measured", "30 guesses answered of each guesser, 0 libvirt calls; every other address is served")
	}
}
