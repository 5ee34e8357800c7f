package libvirtrpc

import (
	"context"
	"crypto/rand"
	"encoding/xml"
	"fmt"
	"slices"
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// Version is what the daemon says of itself.
type Version struct {
	Libvirt    string // virConnectGetLibVersion: 9.0.0
	Hypervisor string // virConnectGetType: QEMU
	// HypervisorVersion is virConnectGetVersion: 7.2.0.
	HypervisorVersion string
}

// Version asks the daemon for the versions of libvirt and the hypervisor.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v Version
	n, err := call(ctx, c, op{name: "ConnectGetLibVersion"}, (*libvirt.Libvirt).ConnectGetLibVersion)
	if err != nil {
		return v, err
	}
	v.Libvirt = versionText(n)
	if v.Hypervisor, err = call(ctx, c, op{name: "ConnectGetType"}, (*libvirt.Libvirt).ConnectGetType); err != nil {
		return v, err
	}
	n, err = call(ctx, c, op{name: "ConnectGetVersion"}, (*libvirt.Libvirt).ConnectGetVersion)
	if err == nil {
		v.HypervisorVersion = versionText(n)
	}
	return v, err
}

// versionText spells libvirt's number, major * 1,000,000 + minor * 1,000 +
// release.
func versionText(n uint64) string {
	return fmt.Sprintf("%d.%d.%d", n/1_000_000, n/1000%1000, n%1000)
}

// Guest is one kind of guest that the host can run, from its capabilities.
type Guest struct {
	OSType  string // hvm
	Arch    string // x86_64
	Domains []GuestDomain
}

// GuestDomain is one hypervisor type for a guest.
type GuestDomain struct {
	Type     string // kvm, qemu, test …
	Emulator string
	Machine  string   // the default one
	Machines []string // all of them, aliases included
}

// Host is what new domains need to know of the machine they will run on.
type Host struct {
	Arch   string
	Guests []Guest
}

// hostCache keeps what the host can run until the daemon has been away: libvirt
// takes a while to answer, and it changes with the host's packages.
type hostCache struct {
	mu   sync.Mutex
	gen  uint64
	host *Host
}

func (h *hostCache) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gen++
	h.host = nil
}

func (h *hostCache) get() (*Host, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.host, h.gen
}

// Host is what the host can run (virConnectGetCapabilities). A hypervisor that
// the capabilities list and that does not start guests is left out: libvirt
// lists kvm wherever /dev/kvm can be opened, see probe.
func (c *Client) Host(ctx context.Context) (*Host, error) {
	return c.hosts.get(ctx, struct{}{}, c.background, func() (*Host, error) {
		host, gen := c.host.get()
		if host != nil {
			return host, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.changeLimit())
		defer cancel()
		doc, err := call(ctx, c, op{name: "ConnectGetCapabilities"}, (*libvirt.Libvirt).ConnectGetCapabilities)
		if err != nil {
			return nil, err
		}
		if host, err = parseCapabilities(doc); err != nil {
			return nil, &Error{Kind: Failed, Message: err.Error()}
		}
		for i := range host.Guests {
			g := &host.Guests[i]
			for j, d := range g.Domains {
				if d.Type != "kvm" || g.Arch != host.Arch {
					continue
				}
				if err := c.probe(ctx, g.OSType, g.Arch, d); err != nil {
					switch KindOf(err) {
					case Failed, Invalid, Unsupported:
					default:
						return nil, err
					}
					c.opts.Log.Warn("KVM does not start guests on this host; new domains are emulated", "error", err)
					g.Domains = slices.Delete(g.Domains, j, j+1)
				}
				break
			}
		}
		c.host.mu.Lock()
		if c.host.gen == gen {
			c.host.host = host
		}
		c.host.mu.Unlock()
		return host, nil
	})
}

// KVMCPU is the mode of the CPU that new domains get under KVM
// (domain/cpu/@mode): what the host has, as far as libvirt knows its features.
const KVMCPU = "host-model"

// probe starts the smallest transient domain, paused, and destroys it
// (virDomainCreateXML, virDomainDestroyFlags). Inside other virtual machines
// KVM often is there and cannot run what the host's CPU claims. Should this
// program end in between, libvirt destroys the domain (autodestroy).
func (c *Client) probe(ctx context.Context, osType, arch string, d GuestDomain) error {
	var suffix [4]byte
	rand.Read(suffix[:])
	doc := fmt.Sprintf(`<domain type='%s'><name>virtgate-probe-%x</name><memory unit='MiB'>32</memory>`+
		`<os><type arch='%s'>%s</type></os><cpu mode='%s'/></domain>`, d.Type, suffix, arch, osType, KVMCPU)
	made, err := c.CreateTransient(ctx, doc, StartPaused|startAutodestroy)
	if err != nil {
		return err
	}
	return c.Destroy(ctx, made.UUID, false)
}

func parseCapabilities(doc string) (*Host, error) {
	type machine struct {
		Canonical string `xml:"canonical,attr"`
		Name      string `xml:",chardata"`
	}
	var caps struct {
		Host struct {
			CPU struct {
				Arch string `xml:"arch"`
			} `xml:"cpu"`
		} `xml:"host"`
		Guests []struct {
			OSType string `xml:"os_type"`
			Arch   struct {
				Name     string    `xml:"name,attr"`
				Emulator string    `xml:"emulator"`
				Machines []machine `xml:"machine"`
				Domains  []struct {
					Type     string    `xml:"type,attr"`
					Emulator string    `xml:"emulator"`
					Machines []machine `xml:"machine"`
				} `xml:"domain"`
			} `xml:"arch"`
		} `xml:"guest"`
	}
	if err := xml.Unmarshal([]byte(doc), &caps); err != nil {
		return nil, fmt.Errorf("cannot read the host's capabilities: %w", err)
	}
	h := &Host{Arch: caps.Host.CPU.Arch}
	for _, g := range caps.Guests {
		guest := Guest{OSType: g.OSType, Arch: g.Arch.Name}
		for _, d := range g.Arch.Domains {
			gd := GuestDomain{Type: d.Type, Emulator: d.Emulator}
			if gd.Emulator == "" {
				gd.Emulator = g.Arch.Emulator
			}
			machines := d.Machines
			if len(machines) == 0 {
				machines = g.Arch.Machines
			}
			for _, m := range machines {
				gd.Machines = append(gd.Machines, m.Name)
			}
			if len(gd.Machines) > 0 {
				gd.Machine = gd.Machines[0] // libvirt lists the default first
			}
			guest.Domains = append(guest.Domains, gd)
		}
		h.Guests = append(h.Guests, guest)
	}
	return h, nil
}
