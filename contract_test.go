package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"virtgate/server"
)

// contract is the description that the server gives of itself, as somebody
// reads it who has nothing else.
type contract struct {
	doc   *openapi3.T
	paths map[string]*regexp.Regexp // by path template
	codes map[*openapi3.Operation][]int
	held  sync.Map // exchanges that were checked, by their shape
}

var theContract = sync.OnceValues(func() (*contract, error) {
	d, err := server.New(server.Options{Version: "1.2.3"}).Description()
	if err != nil {
		return nil, err
	}
	c := &contract{paths: map[string]*regexp.Regexp{}, codes: map[*openapi3.Operation][]int{}}
	if c.doc, err = openapi3.NewLoader().LoadFromData(d.JSON); err != nil {
		return nil, err
	}
	templated := regexp.MustCompile(`\\\{([a-z]+)\\\}`)
	for path, item := range c.doc.Paths.Map() {
		for _, op := range item.Operations() {
			if c.codes[op], err = declaredCodes(op); err != nil {
				return nil, err
			}
		}
		c.paths[path] = regexp.MustCompile("^" + templated.ReplaceAllString(regexp.QuoteMeta(path), "(?P<$1>[^/]+)") + "$")
	}
	return c, c.doc.Validate(context.Background())
})

// exchanged is a request and its response.
type exchanged struct {
	method, path string // the path as sent, with the query
	header       http.Header
	body         string
	status       int
	answered     http.Header
	answer       string
}

// withoutOperation are the codes of what is in no operation, also for want of
// credentials.
var withoutOperation = []int{1, 2, 3, 5, 7, 8, 9, 13, 14, 101, 103}

// spellings are words that the server takes although the description has them in
// another one only; the reference prints the first.
var spellings = strings.NewReplacer("ACPI_POWER_BTN", "acpi_power_btn", `"paused,force_boot"`, `["paused","force_boot"]`, "state=crashed", "state=Crashed",
	"active=yes&persistent=1", "active=true&persistent=true", "managed_save=no", "managed_save=false")

// volatile are the parts of an exchange that do not make it another one for the
// description.
var volatile = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]+`)

// conform holds an exchange against the description: the response always, the
// request when it succeeded.
func conform(x exchanged) error {
	c, err := theContract()
	if err != nil {
		return err
	}
	u, err := url.Parse(spellings.Replace(x.path))
	if err != nil {
		return err
	}
	if x.method == http.MethodHead {
		return nil // a GET without the body
	}
	route, params := c.find(x.method, u.EscapedPath())
	declared := withoutOperation
	if route != nil {
		declared = c.codes[route.Operation]
	}
	var answer struct{ Errors []struct{ Code int } }
	if err := json.Unmarshal([]byte(x.answer), &answer); err != nil {
		return err
	}
	for _, e := range answer.Errors {
		if !slices.Contains(declared, e.Code) {
			return fmt.Errorf("not declared to fail with %d", e.Code)
		}
	}
	if route == nil {
		return nil
	}
	// The check takes a while, and tests under load send the same again and again.
	shape := fmt.Sprint(x.method, route.Path, x.status, answer, volatile.ReplaceAllString(u.RawQuery+x.body+x.answer, "0"))
	if _, ok := c.held.Load(shape); ok {
		return nil
	}
	req := &http.Request{Method: x.method, URL: u, Header: x.header.Clone(), Body: http.NoBody}
	if x.body != "" {
		req.Body = io.NopCloser(strings.NewReader(spellings.Replace(x.body)))
		req.Header.Set("Content-Type", "application/json") // the server takes JSON under any name
	}
	in := &openapi3filter.RequestValidationInput{Request: req, PathParams: params, Route: route, Options: &openapi3filter.Options{
		IncludeResponseStatus: true, SkipSettingDefaults: true, RejectWhenRequestBodyNotSpecified: true,
		AuthenticationFunc: openapi3filter.NoopAuthenticationFunc,
	}}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: x.status, Header: x.answered, Options: in.Options}
	if err := openapi3filter.ValidateResponse(context.Background(), out.SetBodyBytes([]byte(x.answer))); err != nil {
		return fmt.Errorf("the response is not as described: %.500s", err)
	}
	if x.status < 300 {
		if err := openapi3filter.ValidateRequest(context.Background(), in); err != nil {
			return fmt.Errorf("the server took what is not described: %.500s", err)
		}
	}
	c.held.Store(shape, true)
	return nil
}

// find is the operation for a path, nil when there is none, and its path
// parameters.
func (c *contract) find(method, path string) (*routers.Route, map[string]string) {
	for template, match := range c.paths {
		found := match.FindStringSubmatch(path)
		if found == nil {
			continue
		}
		item := c.doc.Paths.Value(template)
		op := item.Operations()[method]
		if op == nil {
			return nil, nil
		}
		params := map[string]string{}
		for i, name := range match.SubexpNames() {
			if name != "" {
				params[name], _ = url.PathUnescape(found[i])
			}
		}
		return &routers.Route{Spec: c.doc, Path: template, PathItem: item, Method: method, Operation: op}, params
	}
	return nil, nil
}

// declaredCodes are the error codes that an operation says it fails with.
func declaredCodes(op *openapi3.Operation) ([]int, error) {
	var out []int
	for _, res := range op.Responses.Map() {
		media := res.Value.Content.Get("application/json")
		if media == nil {
			continue
		}
		raw, err := json.Marshal(media.Schema)
		if err != nil {
			return nil, err
		}
		var schema struct {
			Properties struct {
				Errors struct {
					PrefixItems []struct {
						Properties struct{ Code struct{ Enum []int } }
					}
				}
			}
		}
		if err := json.Unmarshal(raw, &schema); err != nil {
			return nil, err
		}
		for _, item := range schema.Properties.Errors.PrefixItems {
			out = append(out, item.Properties.Code.Enum...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// What an operation declares to fail with, a scenario shows, unless every
// operation can fail with it.
func TestDeclaredCodesAreSeen(t *testing.T) {
	c, err := theContract()
	if err != nil {
		t.Fatal(err)
	}
	// The ways to name a domain share their operation.
	id := func(op *openapi3.Operation) string {
		return regexp.MustCompile("By(Name|UUID|ID)$").ReplaceAllString(op.OperationID, "")
	}
	seen := map[string]map[int]bool{}
	for _, s := range scenarios(t) {
		for i := 0; i < len(s.archive.Files); i += 3 {
			line, _, _ := strings.Cut(string(s.archive.Files[i].Data), "\n")
			method, path, _ := strings.Cut(line, " ")
			path, _, _ = strings.Cut(path, "?")
			route, _ := c.find(method, path)
			if route == nil {
				continue
			}
			if seen[id(route.Operation)] == nil {
				seen[id(route.Operation)] = map[int]bool{}
			}
			for _, m := range codeInText.FindAllStringSubmatch(string(s.archive.Files[i+2].Data), -1) {
				n, _ := strconv.Atoi(m[1])
				seen[id(route.Operation)][n] = true
			}
		}
	}
	version, _ := c.find("GET", "/libvirt/version")
	for op, codes := range c.codes {
		for _, code := range codes {
			if !seen[id(op)][code] && !slices.Contains(c.codes[version.Operation], code) {
				t.Errorf("%s declares %d, and no scenario shows it", id(op), code)
			}
		}
	}
}
