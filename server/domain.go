package server

import (
	"cmp"
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"virtgate/audit"
	"virtgate/envelope"
	"virtgate/libvirtrpc"
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

// domains declares the keys of a domain, in the order in which they are
// written.
var domains = collection[domain]{
	tie: func(a, b *domain) int { return strings.Compare(a.Name, b.Name) },
	fields: []field[domain]{
		{name: "name",
			put:   func(b []byte, d *domain) []byte { return envelope.AppendString(b, d.Name) },
			order: func(a, b *domain) int { return strings.Compare(a.Name, b.Name) }},
		{name: "uuid",
			put: func(b []byte, d *domain) []byte {
				return append(d.UUID.AppendText(append(b, '"')), '"')
			},
			order: func(a, b *domain) int { return strings.Compare(string(a.UUID[:]), string(b.UUID[:])) }},
		{name: "id",
			put:   func(b []byte, d *domain) []byte { return strconv.AppendInt(b, int64(d.ID), 10) },
			order: func(a, b *domain) int { return cmp.Compare(a.ID, b.ID) }},
		{name: "status", costs: libvirtrpc.FieldState,
			put:   func(b []byte, d *domain) []byte { return envelope.AppendString(b, statusName(d.State)) },
			order: func(a, b *domain) int { return strings.Compare(statusName(a.State), statusName(b.State)) }},
		{name: "os", costs: libvirtrpc.FieldOSType,
			put: func(b []byte, d *domain) []byte { return envelope.AppendString(b, d.OSType) }},
		{name: "ram", costs: libvirtrpc.FieldInfo,
			put:   func(b []byte, d *domain) []byte { return strconv.AppendUint(b, d.MemoryKiB, 10) },
			order: func(a, b *domain) int { return cmp.Compare(a.MemoryKiB, b.MemoryKiB) }},
		{name: "ram_max", costs: libvirtrpc.FieldInfo,
			put:   func(b []byte, d *domain) []byte { return strconv.AppendUint(b, d.MaxMemoryKiB, 10) },
			order: func(a, b *domain) int { return cmp.Compare(a.MaxMemoryKiB, b.MaxMemoryKiB) }},
		{name: "cpu", costs: libvirtrpc.FieldInfo,
			put:   func(b []byte, d *domain) []byte { return strconv.AppendUint(b, uint64(d.VCPUs), 10) },
			order: func(a, b *domain) int { return cmp.Compare(a.VCPUs, b.VCPUs) }},
		{name: "active",
			put: func(b []byte, d *domain) []byte { return strconv.AppendBool(b, d.Active()) }},
		{name: "persistent", costs: libvirtrpc.FieldPersistent,
			put: func(b []byte, d *domain) []byte { return strconv.AppendBool(b, d.Persistent) }},
		{name: "autostart", costs: libvirtrpc.FieldAutostart,
			put: func(b []byte, d *domain) []byte { return strconv.AppendBool(b, d.Autostart) }},
		{name: "managed_save", costs: libvirtrpc.FieldManagedSave,
			put: func(b []byte, d *domain) []byte { return strconv.AppendBool(b, d.ManagedSave) }},
		{name: "has_snapshot", costs: libvirtrpc.FieldHasSnapshot,
			put: func(b []byte, d *domain) []byte { return strconv.AppendBool(b, d.HasSnapshot) }},
		{name: "status_reason", costs: libvirtrpc.FieldState | libvirtrpc.FieldReason, detail: true,
			put: func(b []byte, d *domain) []byte { return envelope.AppendString(b, d.StateReason()) }},
		{name: "cpu_time_ns", costs: libvirtrpc.FieldInfo, detail: true,
			put: func(b []byte, d *domain) []byte { return strconv.AppendUint(b, d.CPUTimeNs, 10) }},
		{name: "title", costs: libvirtrpc.FieldText, detail: true,
			put: func(b []byte, d *domain) []byte { return envelope.AppendString(b, d.Title) }},
		{name: "description", costs: libvirtrpc.FieldText, detail: true,
			put: func(b []byte, d *domain) []byte { return envelope.AppendString(b, d.Description) }},
	},
}

type listDomainsReq struct {
	listing[domain]
	names  nameFilter
	query  libvirtrpc.ListQuery
	states map[libvirtrpc.State]bool // nil: libvirt's own filters say it all
	raw    string                    // all of the above as the client wrote it
}

func (r *listDomainsReq) decode(in *request) error {
	q := in.query
	r.raw = in.http.URL.RawQuery
	r.query = libvirtrpc.ListQuery{
		Active:      q.tri("active"),
		Persistent:  q.tri("persistent"),
		ManagedSave: q.tri("managed_save"),
		HasSnapshot: q.tri("has_snapshot"),
		Autostart:   q.tri("autostart"),
	}
	r.readStates(q)
	r.names = readNameFilter(q)
	r.listing = domains.listing(q)
	r.query.Fields = r.costs()
	if r.states != nil {
		r.query.Fields |= libvirtrpc.FieldState
	}
	return nil
}

// readStates turns the state filter into the sets that libvirt filters by. What
// these cannot tell apart ("other" is five states) is left to r.states.
func (r *listDomainsReq) readStates(q *query) {
	words := q.list("state")
	if words == nil {
		return
	}
	want := map[libvirtrpc.State]bool{}
	for _, w := range words {
		if strings.EqualFold(w, "other") {
			for _, s := range otherStates {
				want[s] = true
			}
			continue
		}
		s, ok := parseState(w)
		if !ok {
			q.fail("state", "no state "+printable(w)+"; want running, paused, shutoff, other, a status name, or 0 to 7")
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
}

var otherStates = []libvirtrpc.State{libvirtrpc.NoState, libvirtrpc.Blocked, libvirtrpc.ShuttingDown, libvirtrpc.Crashed, libvirtrpc.PMSuspended}

func parseState(w string) (libvirtrpc.State, bool) {
	if n, err := strconv.Atoi(w); err == nil {
		return libvirtrpc.State(n), n >= 0 && n < len(statusNames)
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

func (r *getDomainReq) decode(in *request) (err error) {
	r.fields = domains.selected(in.query, true)
	r.ref, err = in.domain()
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
	ref    libvirtrpc.Ref
	flags  libvirtrpc.XMLFlags
	secure bool
}

func (r *domainXMLReq) decode(in *request) (err error) {
	for _, o := range in.query.list("options") {
		switch strings.ToLower(o) {
		case "secure":
			r.flags |= libvirtrpc.XMLSecure
			r.secure = true
		case "inactive":
			r.flags |= libvirtrpc.XMLInactive
		case "update_cpu":
			r.flags |= libvirtrpc.XMLUpdateCPU
		case "migratable":
			r.flags |= libvirtrpc.XMLMigratable
		default:
			in.query.fail("options", "no option "+printable(o)+"; there are secure, inactive, update_cpu, migratable")
		}
	}
	r.ref, err = in.domain()
	return err
}

func (r *domainXMLReq) needs() []string {
	if r.secure {
		return []string{"domains:read", "domains:secure"}
	}
	return []string{"domains:read"}
}

func (r *domainXMLReq) record(e *audit.Entry) {
	if r.secure {
		e.Actions = []string{"read_secure"}
	}
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

type versionReq struct{}

func (versionReq) decode(*request) error { return nil }

func (s *Server) version(ctx context.Context, _ versionReq) (*envelope.Response, error) {
	v, err := s.libvirt.Version(ctx)
	if err != nil {
		return nil, err
	}
	return &envelope.Response{Results: []json.RawMessage{envelope.Raw(struct {
		Version           string `json:"version"`
		Libvirt           string `json:"libvirt"`
		Hypervisor        string `json:"hypervisor"`
		HypervisorVersion string `json:"hypervisor_version"`
	}{s.opts.Version, v.Libvirt, v.Hypervisor, v.HypervisorVersion})}}, nil
}
