package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"virtgate/envelope"
	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/domainxml"
	"virtgate/server/audit"
	"virtgate/server/openapi"
)

type createDomainsReq struct {
	items                              []newDomain
	array                              bool
	start, transient, paused, validate bool
}

// newDomain is one domain to be made: XML as it came, or an object.
type newDomain struct {
	xml  string
	name string
	uuid *libvirtrpc.UUID // nil: libvirt chooses one
	spec *domainxml.Spec
}

// maxXML is the longest string in a libvirt message, in bytes
// (VIR_NET_MESSAGE_STRING_MAX).
const maxXML = 4 << 20

// maxItems bounds one POST; the whole has one request's time.
const maxItems = 64

func (r *createDomainsReq) params() []param {
	return []param{
		boolean("start", "start it too; when that fails, the definition is removed again and the error says so", &r.start),
		boolean("transient", "make a running domain without a definition instead", &r.transient),
		boolean("paused", "with start or transient: started paused", &r.paused),
		boolean("validate", "check the XML against libvirt's schema", &r.validate),
	}
}

func (r *createDomainsReq) decode(in *request) error {
	if r.paused && !r.start && !r.transient {
		return badParam("paused", "it goes with start or transient")
	}
	if r.start && r.transient {
		return badParam("transient", "a transient domain is started anyway; leave start out")
	}
	body, err := in.body()
	if err != nil {
		return err
	}
	list, array, err := items(body, maxItems)
	if err != nil {
		return err
	}
	r.array = array
	if len(list) == 0 || len(list) > maxItems {
		return envelope.New(envelope.BadRequest, fmt.Sprintf("want 1 to %d domains", maxItems))
	}
	for i, raw := range list {
		d, err := decodeNewDomain(raw)
		if err != nil {
			var e *envelope.Error
			if errors.As(err, &e) && array {
				return e.At(i)
			}
			return err
		}
		r.items = append(r.items, d)
	}
	return nil
}

func (r *createDomainsReq) body() openapi.Media {
	one := openapi.Either(domainXMLSchema(), openapi.Of[newDomainObject]()).Named("NewDomain", "A domain to make.")
	return openapi.Media{
		Schema:  openapi.Either(one, openapi.List(one).Between(1, maxItems)).Named("NewDomains", "One domain to make or several."),
		Example: json.RawMessage(`{"name":"fedora-vm","os":"Linux"}`),
	}
}

func decodeNewDomain(raw json.RawMessage) (newDomain, error) {
	var d newDomain
	switch raw[0] {
	case '"':
		if err := json.Unmarshal(raw, &d.xml); err != nil {
			return d, envelope.New(envelope.Syntax, err.Error())
		}
		return d, d.readXML()
	case '{':
		spec, err := decodeSpec(raw)
		if err != nil {
			return d, badXML(err.Error())
		}
		d.spec, d.name = spec, spec.Name
		if spec.UUID != "" {
			u, err := libvirtrpc.ParseUUID(spec.UUID)
			if err != nil {
				return d, envelope.New(envelope.BadIdentifier, err.Error())
			}
			d.uuid = &u
			spec.UUID = u.String()
		}
		return d, nil
	}
	return d, envelope.New(envelope.BadRequest, "a domain is a string of XML or an object")
}

func (r *createDomainsReq) record(e *audit.Entry) {
	e.Actions = []string{"define"}
	switch {
	case r.transient:
		e.Actions = []string{"create"}
	case r.start:
		e.Actions = []string{"define", "start"}
	}
	for _, item := range r.items {
		o := audit.Object{Kind: "domain", Name: item.name}
		if item.uuid != nil {
			o.UUID = item.uuid.String()
		}
		e.Objects = append(e.Objects, o)
	}
}

// badXML is the error for a description that cannot become a domain.
func badXML(why string) error {
	e := envelope.New(envelope.CreateFailed, why)
	e.Status = 400
	return e
}

// readXML finds the name and UUID in domain XML.
func (d *newDomain) readXML() error {
	if strings.TrimSpace(d.xml) == "" {
		return badXML("the XML is empty")
	}
	if len(d.xml) > maxXML {
		return tooMuchXML()
	}
	id, err := domainxml.ReadIdentity(d.xml)
	if err == nil {
		err = checkName(id.Name)
	}
	if err != nil {
		return badXML(err.Error())
	}
	d.name, d.uuid = id.Name, id.UUID
	return nil
}

func tooMuchXML() error {
	return envelope.New(envelope.BodyTooLarge, fmt.Sprintf("libvirt takes at most %d bytes of XML", maxXML))
}

// createDomains makes the domains in their order; what was made stays when a
// later one fails.
func (s *Server) createDomains(ctx context.Context, r createDomainsReq) (*envelope.Response, error) {
	ctx, cancel := s.finish(ctx)
	defer cancel()
	res := &envelope.Response{Created: true}
	all := domains.all()
	known, _ := domains.selected([]string{"name", "uuid"}, false)
	for i, item := range r.items {
		d, err := s.createDomain(ctx, r, item)
		if err != nil {
			e := libvirtError(err, envelope.CreateFailed)
			if r.array {
				e = e.At(i)
			}
			res.Errors = append(res.Errors, e)
			continue
		}
		recordObject(ctx, i, d.Name, d.UUID)
		fields := known
		if now, err := s.libvirt.GetDomain(ctx, libvirtrpc.ByUUID(d.UUID), all.costs()); err == nil {
			d, fields = now, all
		} else {
			// An error would say that nothing was made.
			res.Messages = append(res.Messages, printable(d.Name)+" was created; what became of it could not be found out")
		}
		b := fields.appendJSON(nil, &d)
		b = append(b[:len(b)-1], `,"created":true}`...)
		res.Results = append(res.Results, b)
	}
	return res, nil
}

func (s *Server) createDomain(ctx context.Context, r createDomainsReq, item newDomain) (domain, error) {
	doc := item.xml
	if item.spec != nil {
		host, err := s.libvirt.Host(ctx)
		if err != nil {
			return domain{}, err
		}
		if doc, err = item.spec.XML(host); err != nil {
			return domain{}, badXML(err.Error())
		}
		if len(doc) > maxXML { // a description of less, escaped
			return domain{}, tooMuchXML()
		}
	}
	// Two creations of one name or UUID take turns: libvirt would replace the
	// first definition by the second when both agree.
	unlock, err := s.creating.lock(ctx)
	if err != nil {
		return domain{}, envelope.New(envelope.Timeout, "another creation did not end; nothing was sent")
	}
	defer unlock()
	if err := s.mustNotExist(ctx, item); err != nil {
		return domain{}, err
	}
	var d domain
	var flags libvirtrpc.StartFlags
	if r.paused {
		flags |= libvirtrpc.StartPaused
	}
	if r.transient {
		if r.validate {
			flags |= libvirtrpc.StartValidate
		}
		d, err = s.libvirt.CreateTransient(ctx, doc, flags)
	} else {
		d, err = s.libvirt.Define(ctx, doc, r.validate)
	}
	if err != nil {
		return d, err
	}
	if r.start {
		if err := s.libvirt.Start(ctx, d.UUID, flags); err != nil {
			return d, s.undoDefine(ctx, d, err)
		}
	}
	return d, nil
}

// mustNotExist refuses a name or UUID that is taken: a definition is never
// replaced.
func (s *Server) mustNotExist(ctx context.Context, item newDomain) error {
	refs := []libvirtrpc.Ref{libvirtrpc.ByName(item.name)}
	if item.uuid != nil {
		refs = append(refs, libvirtrpc.ByUUID(*item.uuid))
	}
	for _, ref := range refs {
		switch _, err := s.libvirt.Lookup(ctx, ref); {
		case err == nil:
			return envelope.New(envelope.Exists, "")
		case libvirtrpc.KindOf(err) != libvirtrpc.NotFound:
			return err
		}
	}
	return nil
}

// undoDefine takes a definition back whose start failed, and says so. Nil: it
// did not fail after all, somebody else was faster.
func (s *Server) undoDefine(ctx context.Context, d domain, cause error) error {
	e := libvirtError(cause, envelope.StartFailed)
	e.Message = strings.TrimSuffix(e.Message, ".") // the reference's code 42 has one
	var lv *libvirtrpc.Error
	unsure := errors.As(cause, &lv) && lv.OutcomeUnknown
	if !unsure {
		now, err := s.libvirt.Lookup(ctx, libvirtrpc.ByUUID(d.UUID))
		if err == nil && now.Active() {
			return nil
		}
		unsure = err != nil && libvirtrpc.KindOf(err) != libvirtrpc.NotFound
	}
	if unsure { // without its definition it would be gone with its next stop
		e.Message += "; the definition was kept, because the domain may be running"
		e.RetryAfter = 0
		return e
	}
	err := s.libvirt.Undefine(ctx, d.UUID, 0)
	if libvirtrpc.KindOf(err) == libvirtrpc.Conflict {
		// It has an NVRAM file, which may have been there before.
		err = s.libvirt.Undefine(ctx, d.UUID, libvirtrpc.UndefineKeepNVRAM)
	}
	switch {
	case err == nil, libvirtrpc.KindOf(err) == libvirtrpc.NotFound:
		e.Message += "; the definition was removed again"
	case errors.As(err, &lv) && lv.OutcomeUnknown:
		e.Message += "; removing the definition was sent once and its outcome is unknown"
		e.RetryAfter = 0
	default:
		e.Message += "; the definition is still there: removing it failed too"
		e.RetryAfter = 0
	}
	return e
}
