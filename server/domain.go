package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/server/audit"
	"virtgate/server/openapi"
)

// statusNames are the states by libvirt's number, as the API spells them.
var statusNames = [...]string{
	libvirtrpc.NoState:      "No State",
	libvirtrpc.Running:      "Running",
	libvirtrpc.Blocked:      "Blocked",
	libvirtrpc.Paused:       "Paused",
	libvirtrpc.ShuttingDown: "Shutting down",
	libvirtrpc.Shutoff:      "Shutoff",
	libvirtrpc.Crashed:      "Crashed",
	libvirtrpc.PMSuspended:  "Power Management Suspended",
}

func statusName(s libvirtrpc.State) string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return statusNames[libvirtrpc.NoState]
}

type domain = libvirtrpc.Domain

// domains declares what the API knows of domains. The fields are in the order in
// which they are written.
var domains = collection[domain]{
	name: "domains", object: "Domain", about: "Domains: libvirt's word for virtual machines.",
	tie: func(a, b *domain) int { return strings.Compare(a.Name, b.Name) },
	keys: []key{
		{by: "by-name", suffix: "ByName", about: "the domain's name",
			schema: nameSchema(),
			parse: func(id string) (libvirtrpc.Ref, error) {
				return libvirtrpc.ByName(id), checkName(id)
			}},
		{by: "by-uuid", suffix: "ByUUID", about: "the domain's UUID, in any letter case, with or without dashes",
			schema: &openapi.Schema{Type: "string", Pattern: "^([0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})$", Examples: []any{sampleUUID}},
			parse: func(id string) (libvirtrpc.Ref, error) {
				u, err := libvirtrpc.ParseUUID(id)
				return libvirtrpc.ByUUID(u), err
			}},
		{by: "by-id", suffix: "ByID", about: "the id of an active domain",
			schema: openapi.Number(32, 0),
			parse: func(id string) (libvirtrpc.Ref, error) {
				n, err := strconv.ParseUint(id, 10, 31) // no sign
				if err != nil {
					err = errors.New("the id of an active domain is a number from 0")
				}
				return libvirtrpc.ByID(int32(n)), err
			}},
	},
	fields: []field[domain]{
		textField("name", "unique on its host", 0, func(d *domain) string { return d.Name }).orderable(),
		{name: "uuid", about: "lower-case, with dashes", schema: uuidSchema(), ordered: true,
			put: func(b []byte, d *domain) []byte {
				return append(d.UUID.AppendText(append(b, '"')), '"')
			},
			order: func(a, b *domain) int { return strings.Compare(string(a.UUID[:]), string(b.UUID[:])) }},
		{name: "id", about: "libvirt's number of the active domain; -1 of an inactive one", schema: openapi.Number(32, -1), ordered: true,
			put:   func(b []byte, d *domain) []byte { return strconv.AppendInt(b, int64(d.ID), 10) },
			order: func(a, b *domain) int { return cmp.Compare(a.ID, b.ID) }},
		textField("status", "what it is doing", libvirtrpc.FieldState, func(d *domain) string { return statusName(d.State) }).of(statusNames[:]).orderable(),
		textField("os", "libvirt's OS type: hvm, xen, exe …", libvirtrpc.FieldOSType, func(d *domain) string { return d.OSType }),
		numberField("ram", "memory that it has now, in KiB", libvirtrpc.FieldInfo, func(d *domain) uint64 { return d.MemoryKiB }).orderable(),
		numberField("ram_max", "memory that it can be given, in KiB", libvirtrpc.FieldInfo, func(d *domain) uint64 { return d.MaxMemoryKiB }).orderable(),
		numberField("cpu", "virtual CPUs", libvirtrpc.FieldInfo, func(d *domain) uint64 { return uint64(d.VCPUs) }).orderable(),
		truthField("active", "whether it has an id: it runs, or is paused or shutting down", 0, func(d *domain) bool { return d.Active() }),
		truthField("persistent", "whether it has a definition that stays when it stops", libvirtrpc.FieldPersistent, func(d *domain) bool { return d.Persistent }),
		truthField("autostart", "whether it starts with its host", libvirtrpc.FieldAutostart, func(d *domain) bool { return d.Autostart }),
		truthField("managed_save", "whether its memory was saved by libvirt, to go on from with the next start", libvirtrpc.FieldManagedSave, func(d *domain) bool { return d.ManagedSave }),
		truthField("has_snapshot", "whether it has a snapshot", libvirtrpc.FieldHasSnapshot, func(d *domain) bool { return d.HasSnapshot }),
		textField("status_reason", "why it is in its status, in virsh's words", libvirtrpc.FieldState|libvirtrpc.FieldReason, func(d *domain) string { return d.StateReason() }).inDetails(),
		numberField("cpu_time_ns", "CPU time that it has used, in nanoseconds", libvirtrpc.FieldInfo, func(d *domain) uint64 { return d.CPUTimeNs }).inDetails(),
		textField("title", "the title of its definition", libvirtrpc.FieldText, func(d *domain) string { return d.Title }).inDetails(),
		textField("description", "the description in its definition", libvirtrpc.FieldText, func(d *domain) string { return d.Description }).inDetails(),
	},
}

const sampleUUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"

func uuidSchema() *openapi.Schema {
	return &openapi.Schema{Type: "string", Format: "uuid", Examples: []any{sampleUUID}}
}

type listDomainsReq struct {
	listing[domain]
	names  nameFilter
	query  libvirtrpc.ListQuery
	states map[libvirtrpc.State]bool // nil: libvirt's own filters say it all
	raw    string                    // all of the above as the client wrote it
}

func (r *listDomainsReq) params() []param {
	state := param{"state", "running, paused, shutoff, other (each other status), the name of a status, or libvirt's number of it; in any letter case", stateSchema, r.readStates}
	return slices.Concat([]param{
		state,
		tri("active", "active ones only, or inactive ones", &r.query.Active),
		tri("persistent", "ones with a definition only, or transient ones", &r.query.Persistent),
		tri("managed_save", "ones with a managed save image only, or without", &r.query.ManagedSave),
		tri("has_snapshot", "ones with a snapshot only, or without", &r.query.HasSnapshot),
		tri("autostart", "ones that start with their host only, or the others", &r.query.Autostart),
	}, r.names.params(), r.listing.params(&domains))
}

func (r *listDomainsReq) decode(in *request) error {
	r.raw = in.http.URL.RawQuery
	r.query.Fields = r.costs()
	if r.states != nil {
		r.query.Fields |= libvirtrpc.FieldState
	}
	return nil
}

func stateSchema() *openapi.Schema {
	words := []string{"running", "paused", "shutoff", "other"}
	for _, name := range statusNames {
		if !slices.Contains(words, strings.ToLower(name)) {
			words = append(words, name)
		}
	}
	for n := range statusNames {
		words = append(words, strconv.Itoa(n))
	}
	return openapi.List(openapi.OneWord(words...)).Between(1, -1)
}

// readStates turns the state filter into the sets that libvirt filters by. What
// these cannot tell apart ("other" is five states) is left to r.states.
func (r *listDomainsReq) readStates(v string) error {
	want := map[libvirtrpc.State]bool{}
	for _, w := range split(v) {
		if strings.EqualFold(w, "other") {
			for _, s := range otherStates {
				want[s] = true
			}
			continue
		}
		s, ok := parseState(w)
		if !ok {
			return errors.New("no state " + printable(w) + "; want running, paused, shutoff, other, a status name, or 0 to 7")
		}
		want[s] = true
	}
	others := 0
	for s := range want {
		switch s {
		case libvirtrpc.Running:
			r.query.States |= libvirtrpc.StateRunning
		case libvirtrpc.Paused:
			r.query.States |= libvirtrpc.StatePaused
		case libvirtrpc.Shutoff:
			r.query.States |= libvirtrpc.StateShutoff
		default:
			r.query.States |= libvirtrpc.StateOther
			others++
		}
	}
	if others > 0 && others < len(otherStates) {
		r.states = want
	}
	return nil
}

var otherStates = []libvirtrpc.State{libvirtrpc.NoState, libvirtrpc.Blocked, libvirtrpc.ShuttingDown, libvirtrpc.Crashed, libvirtrpc.PMSuspended}

func parseState(w string) (libvirtrpc.State, bool) {
	if n, err := strconv.ParseUint(w, 10, 8); err == nil {
		return libvirtrpc.State(n), int(n) < len(statusNames)
	}
	for s, name := range statusNames {
		if strings.EqualFold(w, name) {
			return libvirtrpc.State(s), true
		}
	}
	return 0, false
}

func (s *Server) listDomains(ctx context.Context, r listDomainsReq) (*envelope.Response, error) {
	all, err := s.libvirt.ListDomains(ctx, r.query)
	if err != nil {
		return nil, err
	}
	return s.domainList.get(all, r.raw, func() *envelope.Response {
		fit := make([]*domain, 0, len(all))
		for i := range all {
			d := &all[i]
			if (r.states == nil || r.states[d.State]) && (r.names.empty() || r.names.fits(d.Name, d.UUID.String())) {
				fit = append(fit, d)
			}
		}
		return r.respond(fit)
	}), nil
}

type getDomainReq struct {
	ref    libvirtrpc.Ref
	fields selection[domain]
}

func (r *getDomainReq) params() []param { return []param{domains.choose(&r.fields, true)} }

func (r *getDomainReq) decode(in *request) (err error) {
	r.ref, err = in.ref()
	return err
}

func (s *Server) getDomain(ctx context.Context, r getDomainReq) (*envelope.Response, error) {
	d, err := s.libvirt.GetDomain(ctx, r.ref, r.fields.costs())
	if err != nil {
		return nil, err
	}
	return &envelope.Response{Results: r.fields.encode([]*domain{&d})}, nil
}

type domainXMLReq struct {
	ref   libvirtrpc.Ref
	flags libvirtrpc.XMLFlags
}

var xmlOptions = []option[libvirtrpc.XMLFlags]{
	{"secure", "with passwords; takes the permission `domains:secure`", libvirtrpc.XMLSecure},
	{"inactive", "the definition for the next start", libvirtrpc.XMLInactive},
	{"update_cpu", "with the CPU model that the host really gives", libvirtrpc.XMLUpdateCPU},
	{"migratable", "fit for migration to another host", libvirtrpc.XMLMigratable},
}

func (r *domainXMLReq) params() []param {
	return []param{options("options", "which XML", xmlOptions, func(o option[libvirtrpc.XMLFlags]) { r.flags |= o.value })}
}

func (r *domainXMLReq) decode(in *request) (err error) {
	r.ref, err = in.ref()
	return err
}

func (r *domainXMLReq) needs() []string {
	if r.flags&libvirtrpc.XMLSecure != 0 {
		return []string{"domains:read", "domains:secure"}
	}
	return []string{"domains:read"}
}

func (r *domainXMLReq) record(e *audit.Entry) {
	if r.flags&libvirtrpc.XMLSecure != 0 {
		e.Actions = []string{"read_secure"}
	}
}

func domainXMLSchema() *openapi.Schema {
	return openapi.Text().Named("DomainXML", "Domain XML, as libvirt has it.")
}

func (s *Server) domainXML(ctx context.Context, r domainXMLReq) (*envelope.Response, error) {
	uuid, err := s.libvirt.Resolve(ctx, r.ref)
	if err != nil {
		return nil, err
	}
	recordObject(ctx, 0, "", uuid)
	doc, err := s.libvirt.DomainXML(ctx, uuid, r.flags)
	if err != nil {
		return nil, err
	}
	return &envelope.Response{Results: []json.RawMessage{envelope.Raw(doc)}}, nil
}
