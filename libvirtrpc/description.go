package libvirtrpc

import (
	"context"
	"encoding/xml"
	"math/rand/v2"
	"strings"
	"time"
)

// Description is what a domain's XML says of it that is no figure.
type Description struct {
	OSType     string // domain/os/type
	Arch       string
	Machine    string
	Disks      []DiskDescription
	Interfaces []InterfaceDescription
	Nova       NovaDescription
}

// DiskDescription is a disk of the domain, by the names of its XML
// (domain/devices/disk).
type DiskDescription struct {
	Device                                             string // disk, cdrom, floppy, lun
	Type                                               string // file, block, network …
	Target, Bus                                        string
	DriverName, DriverType, DriverCache, DriverDiscard string
	SourceFile, SourceProtocol                         string
	Serial                                             string
}

// InterfaceDescription is a network interface of the domain
// (domain/devices/interface).
type InterfaceDescription struct {
	Type, SourceBridge, Target, MAC, Model, MTU string
}

// NovaDescription is what OpenStack's compute service writes into the metadata
// of its domains (namespace http://openstack.org/xmlns/libvirt/nova/1.*). Empty
// for other domains.
type NovaDescription struct {
	Name, Flavor, UserName, UserID, ProjectName, ProjectID string
}

// description is a Description as it is kept. Beside what drops every kept
// definition, another run or other devices than it was read with make it old:
// libvirt has no event for all that is plugged in. Metadata can be set without
// either, so it also has a time.
type description struct {
	Description
	id      int32
	devices string
	until   time.Time
}

// describeFor is for how long at least a description is kept; twice as long at
// most, so that they are not all read again in the same moment.
const describeFor = 10 * time.Minute

// describeAll fills in the descriptions, and reads those that are not kept
// (virDomainGetXMLDesc) if that can begin before the time given. Domains whose
// QEMU does not answer are not asked: newer daemons ask QEMU for its part.
func (c *Client) describeAll(ctx context.Context, ds []DomainStats, before time.Time) error {
	var todo []int
	for i := range ds {
		d := &ds[i]
		kept, _, ok := c.descriptions.get(d.UUID)
		if ok {
			d.Description = &kept.Description
		}
		if (!ok || kept.id != d.ID || kept.devices != d.devices() || time.Now().After(kept.until)) && !d.TimedOut {
			todo = append(todo, i)
		}
	}
	return each(len(todo), c.opts.Pipeline, func(n int) error {
		d := &ds[todo[n]]
		if time.Now().After(before) {
			return nil
		}
		_, gen, _ := c.descriptions.get(d.UUID)
		doc, err := c.DomainXML(ctx, d.UUID, 0)
		if err != nil {
			return nil // it may be gone; the figures are there without it
		}
		parsed, err := parseDescription(doc)
		if err != nil {
			c.opts.Log.Warn("the XML of a domain cannot be read", "domain", d.UUID, "error", err)
			return nil
		}
		k := description{Description: parsed, id: d.ID, devices: d.devices(), until: time.Now().Add(describeFor + rand.N(describeFor))}
		d.Description = &k.Description
		c.descriptions.put(d.UUID, k, gen)
		return nil
	})
}

// devices names the disks and interfaces.
func (d *DomainStats) devices() string {
	var b strings.Builder
	for _, list := range [][]Device{d.Disks, d.Interfaces} {
		for i := range list {
			b.WriteString(list[i].Name)
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func parseDescription(doc string) (Description, error) {
	type named struct {
		UUID string `xml:"uuid,attr"`
		Text string `xml:",chardata"`
	}
	var x struct {
		OS struct {
			Type struct {
				Arch    string `xml:"arch,attr"`
				Machine string `xml:"machine,attr"`
				Text    string `xml:",chardata"`
			} `xml:"type"`
		} `xml:"os"`
		Metadata struct {
			Instance struct {
				Name   string `xml:"name"`
				Flavor struct {
					Name string `xml:"name,attr"`
				} `xml:"flavor"`
				User    named `xml:"owner>user"`
				Project named `xml:"owner>project"`
			} `xml:"instance"`
		} `xml:"metadata"`
		Disks []struct {
			Device string `xml:"device,attr"`
			Type   string `xml:"type,attr"`
			Driver struct {
				Name    string `xml:"name,attr"`
				Type    string `xml:"type,attr"`
				Cache   string `xml:"cache,attr"`
				Discard string `xml:"discard,attr"`
			} `xml:"driver"`
			Source struct {
				File     string `xml:"file,attr"`
				Protocol string `xml:"protocol,attr"`
			} `xml:"source"`
			Target struct {
				Dev string `xml:"dev,attr"`
				Bus string `xml:"bus,attr"`
			} `xml:"target"`
			Serial string `xml:"serial"`
		} `xml:"devices>disk"`
		Interfaces []struct {
			Type   string `xml:"type,attr"`
			Source struct {
				Bridge string `xml:"bridge,attr"`
			} `xml:"source"`
			Target struct {
				Dev string `xml:"dev,attr"`
			} `xml:"target"`
			MAC struct {
				Address string `xml:"address,attr"`
			} `xml:"mac"`
			Model struct {
				Type string `xml:"type,attr"`
			} `xml:"model"`
			MTU struct {
				Size string `xml:"size,attr"`
			} `xml:"mtu"`
		} `xml:"devices>interface"`
	}
	if err := xml.Unmarshal([]byte(doc), &x); err != nil {
		return Description{}, err
	}
	n := x.Metadata.Instance
	d := Description{
		OSType: x.OS.Type.Text, Arch: x.OS.Type.Arch, Machine: x.OS.Type.Machine,
		Nova: NovaDescription{
			Name: n.Name, Flavor: n.Flavor.Name, UserName: n.User.Text, UserID: n.User.UUID,
			ProjectName: n.Project.Text, ProjectID: n.Project.UUID,
		},
	}
	for _, v := range x.Disks {
		d.Disks = append(d.Disks, DiskDescription{
			Device: v.Device, Type: v.Type, Target: v.Target.Dev, Bus: v.Target.Bus,
			DriverName: v.Driver.Name, DriverType: v.Driver.Type, DriverCache: v.Driver.Cache, DriverDiscard: v.Driver.Discard,
			SourceFile: v.Source.File, SourceProtocol: v.Source.Protocol, Serial: v.Serial,
		})
	}
	for _, v := range x.Interfaces {
		d.Interfaces = append(d.Interfaces, InterfaceDescription{
			Type: v.Type, SourceBridge: v.Source.Bridge, Target: v.Target.Dev, MAC: v.MAC.Address, Model: v.Model.Type, MTU: v.MTU.Size,
		})
	}
	return d, nil
}
