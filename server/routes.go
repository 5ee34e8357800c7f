package server

import (
	"net/http"
	"slices"

	"virtgate/envelope"
	"virtgate/server/openapi"
)

// routes is the whole API. GET answers HEAD as well.
func (s *Server) routes() []route {
	var out []route
	add := func(method, path string, op operation, e endpoint, permissions ...string) {
		out = append(out, route{method: method, path: path, permissions: permissions, operation: op, endpoint: e})
	}
	add(http.MethodGet, base+"/domains", operation{
		id: "listDomains", summary: "List domains",
		about:  "Filters are ANDed; a comma inside one is OR.",
		result: domains.schema(), results: many,
	}, adapt(s.listDomains), "domains:read")
	add(http.MethodPost, base+"/domains", operation{
		id: "createDomains", summary: "Create domains",
		about: "From domain XML, from an object, or from an array of these, which run in order; what was created stays when a later one fails. " +
			"A definition is never replaced: a name or UUID that is taken is an error.",
		result: domains.createdSchema(), results: created,
		errors: []envelope.Code{envelope.CreateFailed, envelope.Exists, envelope.StartFailed, envelope.BadIdentifier, envelope.NoDomain},
	}, adapt(s.createDomains), "domains:create")

	// One row for each way to name a domain: the router then knows them, and
	// anything else in their place is 101.
	deleteErrors := []envelope.Code{envelope.BodyTooLarge, envelope.AlreadyActive, envelope.DestroyFailed, envelope.DeleteFailed}
	for i := range domains.keys {
		by := &domains.keys[i]
		add := func(method, sub string, op operation, e endpoint, permissions ...string) {
			op.errors = append(slices.Clone(op.errors), envelope.NoDomain)
			add(method, base+"/domains/"+by.by+"/:identifier"+sub, op, e, permissions...)
			out[len(out)-1].key = by
		}
		add(http.MethodGet, "", operation{
			id: "getDomain", summary: "Details of a domain",
			result: domains.schema(), results: one,
		}, adapt(s.getDomain), "domains:read")
		add(http.MethodPatch, "", operation{
			id: "changeDomain", summary: "Change a domain",
			about: "One action or an array of them, checked as a whole before the first one runs. Later ones run although an earlier one failed, unless they depend on it. " +
				"With options and without a body it deletes the domain, as the reference of the 2020 server has it.",
			result: openapi.Of[deleted](), results: maybe,
			errors: slices.Concat(actionCodes(), deleteErrors),
		}, adapt(s.patchDomain), "domains:power", "domains:update", "domains:delete")
		add(http.MethodDelete, "", operation{
			id: "deleteDomain", summary: "Delete a domain",
			about:  "An active domain is an error without the option destroy, which stops it first, but not when the removal would then be refused for want of another option.",
			result: openapi.Of[deleted](), results: one,
			errors: deleteErrors,
		}, adapt(s.deleteDomain), "domains:delete")
		add(http.MethodGet, "/xml_desc", operation{
			id: "getDomainXML", summary: "XML of a domain",
			result: domainXMLSchema(), results: one,
		}, adapt(s.domainXML), "domains:read", "domains:secure")
	}

	add(http.MethodGet, base+"/version", operation{
		id: "getVersion", summary: "Versions of the server, libvirt and the hypervisor",
		result: openapi.Of[version](), results: one,
	}, adapt(s.version), "domains:read")

	out = append(out, route{method: http.MethodGet, path: metricsPath, permissions: []string{"metrics:read"}, operation: operation{
		id: "getMetrics", summary: "Metrics for Prometheus", mediaType: "text/plain",
	}, endpoint: endpoint{write: s.metrics, libvirt: true}})
	// What the program can do is no secret, and tools read it before they know
	// what their key is good for.
	add(http.MethodGet, base+"/openapi.json", operation{
		id: "getDescription", summary: "This description, as JSON", mediaType: "application/json",
	}, adapt(s.descriptionJSON).offline(), anyCaller)
	add(http.MethodGet, base+"/openapi.yaml", operation{
		id: "getDescriptionYAML", summary: "This description, as YAML", mediaType: "application/yaml",
	}, adapt(s.descriptionYAML).offline(), anyCaller)

	// Outside of base, for anybody: they say nothing about the host.
	add(http.MethodGet, "/livez", operation{id: "getLive", summary: "Whether the process is there"}, endpoint{handle: s.livez})
	add(http.MethodGet, "/readyz", operation{id: "getReady", summary: "Whether libvirt answers now", errors: []envelope.Code{envelope.Unavailable}}, endpoint{handle: s.readyz})
	return out
}
