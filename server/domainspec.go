package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"virtgate/libvirtrpc/domainxml"
)

// decodeSpec reads the JSON object that describes a new domain. What it can say
// is less than XML can, and what it cannot say is an error.
func decodeSpec(raw json.RawMessage) (*domainxml.Spec, error) {
	var o struct {
		Name        string                `json:"name"`
		OS          string                `json:"os"`
		UUID        string                `json:"uuid"`
		Title       string                `json:"title"`
		Description string                `json:"description"`
		Memory      json.RawMessage       `json:"memory"`
		CPU         *uint                 `json:"cpu"`
		Arch        string                `json:"arch"`
		Machine     string                `json:"machine"`
		Disks       []domainxml.Disk      `json:"disks"`
		Interfaces  []domainxml.Interface `json:"interfaces"`
		Boot        []string              `json:"boot"`
	}
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
		Name: o.Name, OS: o.OS, UUID: o.UUID, Title: o.Title, Description: o.Description,
		Arch: o.Arch, Machine: o.Machine, Disks: o.Disks, Interfaces: o.Interfaces, Boot: o.Boot,
	}
	if o.OS == "" {
		return nil, errors.New("os is missing: Linux, Windows or Other")
	}
	if o.Memory != nil {
		var err error
		if s.MemoryKiB, err = parseKiB(o.Memory); err != nil {
			return nil, err
		}
		if s.MemoryKiB == 0 {
			return nil, errors.New("memory is more than nothing")
		}
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
