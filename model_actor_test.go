package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"
)

// actor is one of the clients of a round.
type actor struct {
	p     *parallel
	id    int
	rand  *rand.Rand
	begin time.Time
	says  []history // by domain
	sent  int
	opens int
	err   error
}

// send sends a request and returns what notes facts from its response.
func (c *actor) send(method, path, body string) (*answer, func(domain int, facts ...fact), error) {
	c.sent++
	from := time.Since(c.begin)
	a, err := c.p.g.try(method, path, body)
	to := time.Since(c.begin)
	if err == nil && (a.status == 503 || a.status == 504) && c.p.up != nil && !c.p.up() {
		err = errDown
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return a, func(domain int, facts ...fact) {
		for _, f := range facts {
			if f.open {
				c.opens++
			}
		}
		text := fmt.Sprintf("%s %s %.80s -> %d %d", method, strings.TrimPrefix(path, "/libvirt/domains"), body, a.status, a.code())
		c.says[domain].add(c.id, from, to, text, facts)
	}, nil
}

// lost tells whether the response says that libvirt could not be asked, or that
// a change's outcome is unknown.
func (c *actor) lost(a *answer) (lost, unknown bool) {
	if c.p.up == nil || a.status != 503 && a.status != 504 {
		return false, false
	}
	return true, strings.Contains(a.Errors[0].Message, "outcome is unknown")
}

func (c *actor) pick(of ...string) string { return of[c.rand.IntN(len(of))] }

func (c *actor) call() error {
	if c.id%3 == 2 { // one that only watches: its lists and others' are one round
		return c.list("", "")
	}
	switch n := c.rand.IntN(100); {
	case n < 15:
		return c.create()
	case n < 23:
		return c.remove()
	case n < 60:
		return c.patch()
	case n < 75:
		return c.details()
	}
	if c.rand.IntN(2) == 0 {
		return c.list("", "")
	}
	return c.list(c.pick("", "&active=true", "&state=running", "&state=paused", "&autostart=true", "&persistent=false"), c.pick(fieldSets...))
}

// ref is a path to one of the domains, and what it says: by-name, the name is
// right.
func (c *actor) ref() (domain int, path string, right fact) {
	domain = c.rand.IntN(c.p.domains)
	if c.rand.IntN(3) > 0 {
		return domain, "/libvirt/domains/by-uuid/" + c.p.uuid(domain), isThere
	}
	name := c.p.name(domain, c.rand.IntN(2))
	return domain, "/libvirt/domains/by-name/" + url.PathEscape(name), was(name, func(d vm) bool { return d.name == name })
}

// missing is the fact in a 404: the way to it was wrong, or it went away on the
// way.
func missing(right fact) fact {
	return was("missing", func(d vm) bool { return d.name == "" || !right.holds(d) })
}

// undone is a definition that was taken back: by the same request, when the
// domain was off, or by somebody else.
var undone = fact{text: "was taken back", then: func(d vm) []vm {
	if d.active {
		return nil
	}
	return []vm{{}}
}}

func (c *actor) create() error {
	i := c.rand.IntN(c.p.domains)
	made := vm{name: c.p.name(i, c.rand.IntN(2)), persistent: true, ram: 32 << 10, ramMax: 32 << 10}
	how := c.pick("", "?start=true", "?transient=true")
	if how == "?transient=true" {
		made.persistent, made.active = false, true
	}
	define := act{what: "define", made: made}
	a, note, err := c.send("POST", "/libvirt/domains"+how, domainXML(made.name, c.p.uuid(i), "<memory unit='MiB'>32</memory>"))
	if err != nil {
		return err
	}
	if lost, open := c.lost(a); lost {
		switch {
		case open:
			note(i, unknown(define), unknown(act{what: "start"}), unknown(act{what: "undefine"}))
		case how == "?start=true":
			note(i, maybe(define), maybe(act{what: "undefine"}))
		}
		return nil
	}
	switch {
	case a.status == 201:
		facts := append(c.shown(a.Results[0]), did(define))
		if how == "?start=true" {
			facts = append(facts, maybe(act{what: "start"}), isActive)
		}
		note(i, facts...)
	case a.code() == 106:
		note(i, isThere)
	case how == "?start=true" && (a.code() == 202 || a.code() == 42): // somebody else was faster
		switch {
		case strings.Contains(a.raw, "removed again"):
			note(i, did(define), undone)
		case strings.Contains(a.raw, "outcome is unknown"):
			note(i, did(define), unknown(act{what: "undefine"}))
		default: // it was kept
			note(i, did(define))
		}
	default:
		return fmt.Errorf("create%s: %d %s", how, a.status, a.raw)
	}
	return nil
}

func (c *actor) remove() error {
	i, path, right := c.ref()
	stop := c.rand.IntN(2) == 0
	if stop {
		path += "?options=destroy"
	}
	a, note, err := c.send("DELETE", path, "")
	if err != nil {
		return err
	}
	destroy, undefine := act{what: "destroy"}, act{what: "undefine"}
	if lost, open := c.lost(a); lost {
		switch {
		case open: // a domain that was started in between is stopped twice
			note(i, unknown(destroy), unknown(undefine), unknown(destroy))
		case strings.Contains(a.raw, "the domain was stopped"):
			note(i, maybe(destroy))
		case strings.Contains(a.raw, "without a definition"):
			note(i, maybe(undefine))
		}
		return nil
	}
	gone := fact{text: "went away", then: func(d vm) []vm {
		switch {
		case d.name == "" && !stop, d.active && (d.persistent || !stop):
			return nil
		}
		return []vm{{}} // with destroy, it may have gone by itself
	}}
	switch code := a.code(); {
	case a.status == 200 && len(a.Messages) > 0: // it could not be looked at afterwards
		note(i, right, maybe(destroy), maybe(undefine))
	case a.status == 200 && stop:
		note(i, right, maybe(destroy), maybe(undefine), gone)
	case a.status == 200:
		note(i, right, gone)
	case strings.Contains(a.raw, "without a definition"):
		note(i, isActive, maybe(destroy), maybe(undefine))
	case code == 201:
		note(i, isActive)
	case code == 209 && stop: // somebody else stopped it, and it was started again
		note(i, was("inactive", func(d vm) bool { return !d.active }))
	case code == 216: // it was made anew, as a transient one
		note(i, maybe(destroy), was("transient", func(d vm) bool { return d.active && !d.persistent }))
	case code == 42 && stop:
		note(i, maybe(destroy), missing(right))
	case code == 42:
		note(i, missing(right))
	default:
		return fmt.Errorf("DELETE %s: %d %s", path, a.status, a.raw)
	}
	return nil
}

func (c *actor) patch() error {
	i, path, right := c.ref()
	a := act{what: c.pick("start", "start", "shutdown", "destroy", "reboot", "suspend", "resume", "name", "memory", "max_memory", "autostart")}
	var body string
	switch a.what {
	case "name":
		a.to = c.p.name(i, c.rand.IntN(2))
		body = mustJSON(map[string]any{a.what: a.to})
	case "memory", "max_memory":
		a.kib = uint64(1+c.rand.IntN(3)) << 14
		body = mustJSON(map[string]any{a.what: a.kib})
	case "autostart":
		a.on = c.rand.IntN(2) == 0
		body = mustJSON(map[string]any{a.what: a.on})
	default:
		body = mustJSON(map[string]any{"power_mgt": a.what})
	}
	res, note, err := c.send("PATCH", path, body)
	if err != nil {
		return err
	}
	if lost, open := c.lost(res); lost {
		if open {
			note(i, unknown(a))
		}
		return nil
	}
	refused := was("not possible", func(d vm) bool {
		_, ok := d.after(a)
		return !ok && d.name != ""
	})
	switch code := res.code(); {
	case res.status == 200:
		note(i, right, did(a))
	case code == 42:
		// Either the way to it was wrong, or it went away on the way.
		note(i, missing(right))
	case code == generic[a.what] && res.status != 503 && res.status != 504:
		facts := []fact{right, refused}
		if c.p.up == nil { // the state, looked at afterwards, did not explain it
			facts = append(facts, was("no reason", func(d vm) bool { n, _ := d.refusal(a, false); return d.name == "" || n == code }))
		}
		note(i, facts...)
	case code > 200 && code < 212 && res.status == 409:
		note(i, right, refused, was(fmt.Sprint("the reason ", code), func(d vm) bool { n, _ := d.refusal(a, false); return n == code }))
	default:
		return fmt.Errorf("PATCH %s %s: %d %s", path, body, res.status, res.raw)
	}
	return nil
}

// shown are the facts in what a response shows of a domain. What libvirt is
// asked in one call is one fact: a domain may change while it is shown.
func (c *actor) shown(raw json.RawMessage) []fact {
	var s struct {
		Name, Status          *string
		RAM                   *uint64
		RAMMax                *uint64 `json:"ram_max"`
		Active                *bool
		Persistent, Autostart *bool
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		panic(err)
	}
	var out []fact
	if s.Name != nil {
		out = append(out, was(*s.Name, func(d vm) bool { return d.name == *s.Name && (s.Active == nil || d.active == *s.Active) }))
	}
	if s.Status != nil {
		out = append(out, was(*s.Status, func(d vm) bool {
			return d.name != "" && d.status() == *s.Status && (s.RAM == nil || d.ram == *s.RAM && d.ramMax == *s.RAMMax)
		}))
	}
	for _, f := range []struct {
		text  string
		shown *bool
		has   func(vm) bool
	}{
		{"persistent", s.Persistent, func(d vm) bool { return d.persistent }},
		{"autostart", s.Autostart, func(d vm) bool { return d.autostart }},
	} {
		if f.shown != nil {
			out = append(out, was(fmt.Sprint(f.text, " ", *f.shown), func(d vm) bool { return f.has(d) == *f.shown || d.name == "" }))
		}
	}
	return out
}

var fieldSets = []string{"name,active", "name,status", "status,ram,ram_max", "name,persistent", "autostart", ""}

func (c *actor) details() error {
	i, path, right := c.ref()
	if f := c.pick(fieldSets...); f != "" {
		path += "?fields=" + f
	}
	a, note, err := c.send("GET", path, "")
	if err != nil {
		return err
	}
	lost, _ := c.lost(a)
	switch {
	case lost:
	case a.status == 200:
		note(i, append(c.shown(a.Results[0]), right)...)
	case a.code() == 42:
		note(i, missing(right))
	default:
		return fmt.Errorf("GET %s: %d %s", path, a.status, a.raw)
	}
	return nil
}

// list lists, and takes from the list what it says of each domain.
func (c *actor) list(filter, fields string) error {
	filters := map[string]func(vm) bool{
		"": func(d vm) bool { return d.name != "" }, "&active=true": func(d vm) bool { return d.active },
		"&state=running": func(d vm) bool { return d.active && !d.paused }, "&state=paused": func(d vm) bool { return d.paused },
		"&autostart=true": func(d vm) bool { return d.autostart }, "&persistent=false": func(d vm) bool { return d.name != "" && !d.persistent },
	}
	if fields != "" {
		fields = "&fields=uuid," + fields
	}
	a, note, err := c.send("GET", "/libvirt/domains?search="+c.p.prefix()+filter+fields, "")
	if err != nil {
		return err
	}
	if lost, _ := c.lost(a); lost {
		return nil
	}
	if a.status != 200 {
		return fmt.Errorf("list: %d %s", a.status, a.raw)
	}
	for i := range c.p.domains {
		fits := was("in the list", filters[filter])
		at := slices.IndexFunc(a.Results, func(r json.RawMessage) bool { return strings.Contains(string(r), c.p.uuid(i)) })
		if at < 0 {
			// It did not fit, or went away while the list was made.
			note(i, was("not in the list", func(d vm) bool { return d.name == "" || !filters[filter](d) }))
			continue
		}
		note(i, append(c.shown(a.Results[at]), fits)...)
	}
	return nil
}
