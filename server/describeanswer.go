package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"virtgate/envelope"
	"virtgate/server/openapi"
)

// successSchema is the envelope of a success.
func (rt *route) successSchema() *openapi.Schema {
	results := openapi.List(rt.result)
	switch rt.results {
	case none:
		results = openapi.List(&openapi.Schema{}).Between(0, 0)
	case maybe:
		results.Between(0, 1)
	case one:
		results.Between(1, 1)
	case created:
		results.Between(1, maxItems)
	}
	s := envelopeSchema(results, true, openapi.List(errorSchema()).Between(0, 0))
	if rt.results == many {
		s.Properties.Set("result_info", openapi.Of[envelope.Page]())
		s.Required = append(s.Required, "result_info")
	}
	return s.Named(openapi.TypeName(rt.id)+"Answer", "")
}

func envelopeSchema(results *openapi.Schema, success bool, errors *openapi.Schema) *openapi.Schema {
	return openapi.Object(openapi.Map[*openapi.Schema]{
		{Key: "results", Value: results},
		{Key: "success", Value: &openapi.Schema{Type: "boolean", Const: success}},
		{Key: "errors", Value: errors},
		{Key: "messages", Value: openapi.List(messageSchema())},
	}, "results", "success", "errors", "messages")
}

func messageSchema() *openapi.Schema {
	done := &openapi.Schema{Type: "object", AdditionalProperties: openapi.Text(), MinProperties: 1, MaxProperties: 1,
		Examples: []any{map[string]string{"start": "Domain started"}}}
	return openapi.Either(openapi.Text(), done.About("an action and what it did")).Named("Message", "")
}

func errorSchema() *openapi.Schema {
	return openapi.Object(openapi.Map[*openapi.Schema]{
		{Key: "code", Value: codeSchema()},
		{Key: "message", Value: openapi.Text().About("one sentence for people")},
		{Key: "libvirt", Value: openapi.Text().About("what libvirt said")},
		{Key: "libvirt_code", Value: openapi.Number(32, 0).About("libvirt's number for it (virErrorNumber)")},
		{Key: "index", Value: openapi.Number(32, 0).About("place in the request's array of what failed")},
	}, "code", "message").Named("Error", "")
}

func codeSchema() *openapi.Schema {
	codes := envelope.Codes()
	slices.Sort(codes)
	s := &openapi.Schema{Type: "integer", Format: "int32"}
	about := "What went wrong. New codes may be added; none changes its meaning.\n\n| code | status | message |\n|---|---|---|\n"
	for _, code := range codes {
		s.Enum = append(s.Enum, code)
		about += fmt.Sprintf("| %d | %s | %s |\n", code, joinInts(statuses(code), ", "), code.Message())
	}
	return s.Named("ErrorCode", about)
}

// describeErrors adds a response for each status that an error can have. The
// status is the first error's; behind it may stand any other of the operation.
func (rt *route) describeErrors(op *openapi.Operation, c *openapi.Components) {
	failure := envelopeSchema(openapi.List(&openapi.Schema{}).About("what succeeded all the same"), false, openapi.List(errorSchema()).Between(1, -1)).
		Named("Failure", "An answer with errors. The HTTP status is that of the first one.")
	by := map[int][]envelope.Code{}
	var order []int
	for _, code := range rt.codes() {
		for _, status := range statuses(code) {
			if by[status] == nil {
				order = append(order, status)
			}
			by[status] = append(by[status], code)
		}
	}
	slices.Sort(order)
	for _, status := range order {
		var text []string
		for _, code := range by[status] {
			text = append(text, fmt.Sprintf("- %d: %s", code, code.Message()))
		}
		headers := responseHeaders()
		if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
			headers = responseHeaders(retryAfterHeader)
		}
		schema := c.Use(failure)
		schema.Properties.Set("errors", &openapi.Schema{PrefixItems: []*openapi.Schema{withCode(by[status])}})
		op.Responses.Set(fmt.Sprint(status), &openapi.Response{
			Description: strings.Join(text, "\n"), Headers: headers,
			Content: openapi.Map[openapi.Media]{{Key: "application/json", Value: openapi.Media{Schema: schema}}},
		})
	}
}

// withCode is an error that has one of the codes.
func withCode(codes []envelope.Code) *openapi.Schema {
	enum := make([]any, len(codes))
	for i, code := range codes {
		enum[i] = code
	}
	return &openapi.Schema{Properties: openapi.Map[*openapi.Schema]{{Key: "code", Value: &openapi.Schema{Enum: enum}}}}
}

// codes are all that the route can fail with, in order.
func (rt *route) codes() []envelope.Code {
	out := append([]envelope.Code{envelope.BadRequest, envelope.Internal}, rt.errors...)
	if !rt.public() {
		out = append(out, envelope.BadKey, envelope.BadUsername, envelope.BadServiceKey, envelope.TooManyRequests, envelope.BadURL, envelope.BadFlag)
		if !slices.Contains(rt.permissions, anyCaller) {
			out = append(out, envelope.NotPermitted)
		}
	}
	if rt.key != nil {
		out = append(out, envelope.BadIdentifier)
	}
	if rt.body != nil {
		out = append(out, envelope.Syntax, envelope.BodyTooLarge)
	}
	if rt.libvirt {
		out = append(out, envelope.Unavailable, envelope.Timeout, envelope.Busy, envelope.Unsupported)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func joinInts(list []int, with string) string {
	var out []string
	for _, n := range list {
		out = append(out, fmt.Sprint(n))
	}
	return strings.Join(out, with)
}
