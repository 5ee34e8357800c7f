package main

import (
	"slices"
	"strings"
)

// vm is a domain as the API promises it and the test driver has it, small enough
// to be compared with ==. The zero value is no domain.
type vm struct {
	name                  string
	active, paused        bool
	persistent, autostart bool
	ram, ramMax           uint64 // KiB
	nextRAM               uint64 // the definition's, for the next start
}

// act is one change: a request of power_mgt, another key of a PATCH, or what
// creating and deleting come to ("define", "undefine").
type act struct {
	what string
	made vm     // of define
	kib  uint64 // of memory and max_memory
	on   bool   // of autostart
	to   string // of name
	flag bool   // of power_mgt: with a flag that the test driver does not take
}

// after is the domain after the act, and whether libvirt does it.
func (d vm) after(a act) (vm, bool) {
	was, there := d, d.name != ""
	ok := there
	switch a.what {
	case "define":
		d, ok = a.made, !there
	case "undefine": // an active domain lives on as a transient one
		if d.persistent = false; !d.active {
			d = vm{}
		}
	case "start":
		ok = there && !d.active && !a.flag
		d.active, d.nextRAM = true, d.ram
	case "shutdown", "destroy":
		ok = d.active && !a.flag
		d.active, d.paused, d.ram, d.nextRAM = false, false, d.nextRAM, 0
		if !d.persistent {
			d = vm{}
		}
	case "reboot": // lets a paused domain go on
		ok = d.active
		d.paused = false
	case "reset":
		ok = d.active
	case "suspend":
		ok = d.active && !d.paused
		d.paused = true
	case "resume":
		ok = d.paused
		d.paused = false
	case "name":
		ok = there && !d.active && a.to != d.name
		d.name = a.to
	case "memory":
		ok = there && a.kib <= d.ramMax
		d.ram = a.kib
	case "max_memory":
		ok = there && !d.active
		d.ramMax, d.ram = a.kib, min(d.ram, a.kib)
	case "autostart":
		d.autostart = a.on
	}
	if !ok {
		return was, false
	}
	return d, true
}

// refusal is the code and status that the contract has for the act when the
// domain is as it is; taken: another domain has the new name.
func (d vm) refusal(a act, taken bool) (code, status int) {
	switch {
	case d.name == "" && a.flag: // flags are the first thing that it looks at
		return generic[a.what], 400
	case d.name == "":
		return 42, 404
	}
	idle := map[string]int{"shutdown": 203, "destroy": 210, "reboot": 210, "reset": 210, "suspend": 210}
	switch {
	case idle[a.what] != 0 && !d.active:
		return idle[a.what], 409
	case a.what == "start" && d.active:
		return 201, 409
	case a.what == "resume" && !d.paused:
		return 211, 409
	case (a.what == "suspend" || a.what == "shutdown") && d.paused:
		return 203, 409
	case a.what == "name" && taken:
		return 106, 409
	case a.what == "name", a.what == "max_memory":
		return generic[a.what], 409
	}
	return generic[a.what], 400
}

// generic are the codes of acts that libvirt refused for reasons of its own.
var generic = map[string]int{"shutdown": 200, "start": 202, "name": 205, "memory": 206, "max_memory": 207, "autostart": 208,
	"destroy": 209, "resume": 212, "reboot": 213, "reset": 214, "suspend": 215, "undefine": 216}

// said is what the contract has for the act's success.
func (a act) said() string {
	if a.what == "autostart" && !a.on {
		return "Autostart disabled"
	}
	return map[string]string{"start": "Domain started", "shutdown": "Domain is being shutdown", "destroy": "Domain destroyed",
		"reboot": "Domain is being rebooted", "reset": "Domain was reset", "suspend": "Domain suspended", "resume": "Domain resumed",
		"name": "Domain renamed", "memory": "Memory set", "max_memory": "Maximum memory set", "autostart": "Autostart enabled"}[a.what]
}

func (d vm) status() string {
	switch {
	case d.paused:
		return "Paused"
	case d.active:
		return "Running"
	}
	return "Shutoff"
}

// seen is a domain as a response shows it.
type seen struct {
	Name       string
	UUID       string
	ID         int
	Status     string
	RAM        uint64
	RAMMax     uint64 `json:"ram_max"`
	CPU        int
	Active     bool
	Persistent bool
	Autostart  bool
}

// look is the domain as it should be shown. UUID and id are libvirt's to choose;
// what the model can say of the id is whether there is one.
func (d vm) look(uuid string, id int) seen {
	if (id >= 0) != d.active {
		id = -2
	}
	return seen{d.name, uuid, id, d.status(), d.ram, d.ramMax, 1, d.active, d.persistent, d.autostart}
}

// world are all domains, by UUID.
type world map[string]vm

// named is the UUID of the domain with that name, "" when there is none.
func (w world) named(name string) string {
	for uuid, d := range w {
		if d.name == name {
			return uuid
		}
	}
	return ""
}

// put changes one domain; the zero vm takes it away.
func (w world) put(uuid string, d vm) {
	if w[uuid] = d; d.name == "" {
		delete(w, uuid)
	}
}

// do is one act on one domain: code and status of the refusal, or 0.
func (w world) do(uuid string, a act) (code, status int) {
	taken := a.what == "name" && w.named(a.to) != ""
	next, ok := w[uuid].after(a)
	if !ok || taken {
		return w[uuid].refusal(a, taken && w.named(a.to) != uuid)
	}
	w.put(uuid, next)
	return 0, 0
}

// listed are the names of the domains that fit, in order; nil: all of them.
func (w world) listed(fits func(vm) bool) []string {
	var out []string
	for _, d := range w {
		if fits == nil || fits(d) {
			out = append(out, d.name)
		}
	}
	slices.SortFunc(out, strings.Compare)
	return out
}
