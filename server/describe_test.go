package server

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"virtgate/auth"
	"virtgate/envelope"
)

// description is what the server serves about itself, read by nothing that made
// it.
type description struct {
	OpenAPI    string
	Paths      map[string]map[string]json.RawMessage
	Components struct {
		Schemas map[string]struct {
			Properties map[string]json.RawMessage
			Enum       []any
			OneOf      []struct {
				Ref string `json:"$ref"`
			}
		}
	}
}

type describedOperation struct {
	ID          string   `json:"operationId"`
	Permissions []string `json:"x-permissions"`
	Security    *[]any
	Parameters  []struct {
		Name, In string
		Schema   struct{ Items struct{ Enum []string } }
	}
	Responses map[string]struct {
		Content map[string]struct{ Schema json.RawMessage }
	}
}

// describedServer lets a caller in for each permission, with the key "may X",
// and has no libvirt: what is asked of it here is refused before.
func describedServer(t testing.TB) (*Server, description) {
	t.Helper()
	keys := []auth.ServiceKey{{Name: "nothing", Key: "may nothing", Allow: []string{"nothing:read"}}}
	for _, rt := range New(Options{}).Routes() {
		for _, p := range rt.Permissions {
			name := strings.ReplaceAll(p, ":", "-")
			if !slices.ContainsFunc(keys, func(k auth.ServiceKey) bool { return k.Name == name }) {
				keys = append(keys, auth.ServiceKey{Name: name, Key: "may " + p, Allow: []string{p}})
			}
		}
	}
	a, err := auth.New(auth.Config{ServiceKeys: keys})
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Auth: a, Log: slog.New(slog.DiscardHandler), Version: "1.2.3", BodyLimit: 1000, RequestTimeout: 5 * time.Second})
	w, text := body(t, s, "GET", "/libvirt/openapi.json")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		t.Fatalf("%d %v", w.Code, w.Header())
	}
	var d description
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return s, d
}

// each calls f for every operation; at is the path with an identifier in it.
func (d description) each(t *testing.T, f func(t *testing.T, method, template, at string, op describedOperation)) {
	for template, item := range d.Paths {
		for method, raw := range item {
			if method == "parameters" {
				continue
			}
			var op describedOperation
			if err := json.Unmarshal(raw, &op); err != nil {
				t.Fatal(err)
			}
			t.Run(op.ID, func(t *testing.T) {
				f(t, strings.ToUpper(method), template, strings.ReplaceAll(template, "{identifier}", "7"), op)
			})
		}
	}
}

// send sends a request with the service key of one permission.
func send(s http.Handler, permission, method, at, text string) (int, string) {
	r := httptest.NewRequest(method, at, strings.NewReader(text))
	r.Header.Set("X-Auth-User-Service-Key", "may "+permission)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// known are the words that a refusal says there are.
func known(t *testing.T, answer, before string) []string {
	t.Helper()
	_, rest, ok := strings.Cut(answer, before)
	if !ok {
		t.Fatalf("%q is not in %s", before, answer)
	}
	out := strings.Split(strings.SplitN(rest, `"`, 2)[0], ", ")
	slices.Sort(out)
	return out
}

func same(t *testing.T, what string, described, real []string) {
	t.Helper()
	slices.Sort(described)
	slices.Sort(real)
	if diff := cmp.Diff(described, real); diff != "" {
		t.Errorf("%s (-described +real):\n%s", what, diff)
	}
}

// What is described is what the router routes, and nothing else is.
func TestDescribedRoutes(t *testing.T) {
	s, d := describedServer(t)
	var described, real []string
	d.each(t, func(t *testing.T, method, template, _ string, _ describedOperation) {
		described = append(described, method+" "+regexp.MustCompile(`\{(\w+)\}`).ReplaceAllString(template, ":$1"))
	})
	for _, rt := range s.echo.Routes() {
		if rt.Method != http.MethodHead && rt.Method != http.MethodOptions {
			real = append(real, rt.Method+" "+rt.Path)
		}
	}
	same(t, "routes", described, real)
}

// Who has one of the permissions described is heard, and nobody else is.
func TestDescribedPermissions(t *testing.T) {
	s, d := describedServer(t)
	permissions := map[string]bool{"nothing": true}
	for _, rt := range s.Routes() {
		for _, p := range rt.Permissions {
			permissions[p] = true
		}
	}
	d.each(t, func(t *testing.T, method, template, at string, op describedOperation) {
		if public := op.Security != nil && len(*op.Security) == 0; public != !guarded(template) {
			t.Errorf("described as public: %v", public)
		}
		if !guarded(template) {
			return
		}
		for p := range permissions {
			// The parameter is refused to who is heard.
			_, answer := send(s, p, method, at+"?nonsense=1", "")
			heard := strings.Contains(answer, `"code":102`)
			if want := op.Permissions == nil || slices.Contains(op.Permissions, p); heard != want || !heard && !strings.Contains(answer, `"code":11,`) {
				t.Errorf("with %s: %s", p, answer)
			}
		}
	})
}

// The parameters described are the ones that the server knows, and so are the
// words of those that take a list.
func TestDescribedParameters(t *testing.T) {
	s, d := describedServer(t)
	d.each(t, func(t *testing.T, method, template, at string, op describedOperation) {
		if !guarded(template) {
			return
		}
		permission := "nothing"
		if op.Permissions != nil {
			permission = op.Permissions[0]
		}
		_, answer := send(s, permission, method, at+"?nonsense=1", "")
		var names []string
		for _, p := range op.Parameters {
			names = append(names, p.Name)
			if p.Schema.Items.Enum == nil || p.Name == "state" {
				continue
			}
			_, answer := send(s, permission, method, at+"?"+p.Name+"=nonsense", "")
			same(t, p.Name, p.Schema.Items.Enum, known(t, answer, "; there are "))
		}
		if names == nil {
			names = []string{"no parameters"}
		}
		same(t, "parameters", names, known(t, answer, "; this request knows "))
	})
	for _, w := range strings.Split("running,paused,shutoff,other,No State,Power Management Suspended,0,7", ",") {
		if !strings.Contains(string(d.Paths["/libvirt/domains"]["get"]), `"`+w+`"`) {
			t.Errorf("state %s is not described", w)
		}
	}
}

// The fields described are those of details.
func TestDescribedFields(t *testing.T) {
	s, d := describedServer(t)
	_, answer := send(s, "domains:read", "GET", "/libvirt/domains/by-name/x?fields=nonsense", "")
	same(t, "fields", slices.Collect(maps.Keys(d.Components.Schemas["Domain"].Properties)), known(t, answer, "; there are "))
	domain := string(domains.all().appendJSON(nil, &domain{}))
	var written map[string]json.RawMessage
	if err := json.Unmarshal([]byte(domain[:len(domain)-1]+`,"created":true}`), &written); err != nil {
		t.Fatal(err)
	}
	same(t, "what was created", slices.Collect(maps.Keys(d.Components.Schemas["CreatedDomain"].Properties)), slices.Collect(maps.Keys(written)))
}

// The actions, power requests and flags described are those that there are.
func TestDescribedActions(t *testing.T) {
	s, d := describedServer(t)
	refused := func(text string) string {
		_, answer := send(s, "domains:power", "PATCH", "/libvirt/domains/by-name/x", text)
		return answer
	}
	var kinds []string
	for _, k := range d.Components.Schemas["Action"].OneOf {
		for name := range d.Components.Schemas[path.Base(k.Ref)].Properties {
			if name != "depends" {
				kinds = append(kinds, name)
			}
		}
	}
	same(t, "actions", kinds, known(t, refused(`{"nonsense":1}`), "; there are "))
	requests := known(t, refused(`{"power_mgt":"nonsense"}`), "; there are ")
	same(t, "requests", texts(d.Components.Schemas["PowerRequest"].Enum), requests)
	var flags []string
	for _, r := range requests {
		answer := refused(`{"power_mgt":{"request":"` + r + `","type":"nonsense"}}`)
		if !strings.Contains(answer, "; it has none") {
			flags = append(flags, known(t, answer, "; there are ")...)
		}
	}
	slices.Sort(flags)
	same(t, "flags", texts(d.Components.Schemas["PowerFlag"].Enum), slices.Compact(flags))
}

// The codes described are those that there are, and each is in an operation, or
// is of paths that are in none.
func TestDescribedCodes(t *testing.T) {
	_, d := describedServer(t)
	var real []string
	seen := map[string]bool{}
	for _, c := range envelope.Codes() {
		real = append(real, fmt.Sprint(int(c)))
	}
	for _, c := range unroutedCodes {
		seen[fmt.Sprint(int(c))] = true
	}
	d.each(t, func(t *testing.T, _, _, _ string, op describedOperation) {
		for _, res := range op.Responses {
			for _, code := range regexp.MustCompile(`\d+`).FindAllString(string(res.Content["application/json"].Schema), -1) {
				seen[code] = true
			}
		}
	})
	same(t, "codes", texts(d.Components.Schemas["ErrorCode"].Enum), slices.Clone(real))
	same(t, "codes of operations", slices.Collect(maps.Keys(seen)), real)
}

// Both forms say the same.
func TestDescriptionForms(t *testing.T) {
	s, _ := describedServer(t)
	_, asJSON := body(t, s, "GET", "/libvirt/openapi.json")
	w, asYAML := body(t, s, "GET", "/libvirt/openapi.yaml")
	var a, b any
	if err := json.Unmarshal([]byte(asJSON), &a); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(asYAML), &b); err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(again, &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(a, b); diff != "" || w.Header().Get("Content-Type") != "application/yaml; charset=utf-8" {
		t.Errorf("%v (-json +yaml):\n%s", w.Header(), diff)
	}
}

func texts(list []any) []string {
	var out []string
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return out
}
