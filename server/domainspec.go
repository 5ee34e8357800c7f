package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"virtgate/libvirtrpc/domainxml"
)

// newDomainObject is the JSON object that describes a new domain. What it can
// say is less than XML can, and what it cannot say is an error.
type newDomainObject struct {
	Name        string                `json:"name" about:"unique on its host"`
	OS          string                `json:"os" enum:"Linux,Windows,Other" about:"decides the defaults; in any letter case"`
	UUID        string                `json:"uuid,omitempty" about:"libvirt chooses one by default"`
	Title       string                `json:"title,omitempty" about:"a line for people"`
	Description string                `json:"description,omitempty" about:"more for people"`
	Memory      kib                   `json:"memory,omitempty" about:"default: 1 GiB, Windows 4 GiB"`
	CPU         *uint                 `json:"cpu,omitempty" minimum:"1" maximum:"4096" about:"virtual CPUs; default: 1, Windows 2"`
	Arch        string                `json:"arch,omitempty" about:"x86_64, aarch64 …; default: the host's"`
	Machine     string                `json:"machine,omitempty" about:"the hypervisor's machine type; default: q35 on x86"`
	Disks       []domainxml.Disk      `json:"disks,omitempty"`
	Interfaces  []domainxml.Interface `json:"interfaces,omitempty" about:"network cards"`
	Boot        []string              `json:"boot,omitempty" enum:"hd,cdrom,network,fd" about:"what to boot from, in this order"`
}

func decodeSpec(raw json.RawMessage) (*domainxml.Spec, error) {
	var o newDomainObject
	if err := strict(raw, &o); err != nil {
		return nil, err
	}
	if err := checkText(raw); err != nil {
		return nil, err
	}
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	s := &domainxml.Spec{
		Name: o.Name, OS: o.OS, UUID: o.UUID, Title: o.Title, Description: o.Description, MemoryKiB: uint64(o.Memory),
		Arch: o.Arch, Machine: o.Machine, Disks: o.Disks, Interfaces: o.Interfaces, Boot: o.Boot,
	}
	if o.OS == "" {
		return nil, errors.New("os is missing: Linux, Windows or Other")
	}
	if o.CPU != nil {
		if *o.CPU == 0 || *o.CPU > maxCPUs {
			return nil, errors.New("cpu is a number from 1 to 4096")
		}
		s.CPU = *o.CPU
	}
	return s, nil
}

// maxCPUs is what no machine type of QEMU exceeds; libvirt refuses what the
// chosen one cannot have.
const maxCPUs = 4096

// checkText refuses strings that XML cannot hold: they would become others
// without a word.
func checkText(raw json.RawMessage) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	for {
		tok, err := dec.Token()
		if err != nil { // the end: the syntax was checked before
			return nil
		}
		if s, ok := tok.(string); ok && !domainxml.Text(s) {
			return fmt.Errorf("%s holds a character that XML has not", printable(s))
		}
	}
}
