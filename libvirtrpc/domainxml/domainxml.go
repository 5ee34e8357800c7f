// Package domainxml makes a libvirt domain description out of a short
// specification and what the host can run.
package domainxml

import (
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"libvirt.org/go/libvirtxml"

	"virtgate/libvirtrpc"
)

// Spec is what a client may say of a new domain; only Name and OS have to be
// there.
type Spec struct {
	Name        string
	OS          string // Linux, Windows or Other, in any case
	UUID        string // libvirt chooses one when empty
	Title       string
	Description string
	MemoryKiB   uint64 // 0: 1 GiB, Windows 4 GiB
	CPU         uint   // virtual CPUs; 0: 1, Windows 2
	Arch        string // the host's own when empty
	Machine     string // q35 on x86_64 where there is one, else the hypervisor's default
	Disks       []Disk
	Interfaces  []Interface
	Boot        []string // hd, cdrom, network, fd in their order
}

// Disk is a file, a block device or a volume. The tags enum and about are for
// the description of the API.
type Disk struct {
	Path   string `json:"path,omitempty" about:"of an image or block device on the host; instead of pool and volume"`
	Pool   string `json:"pool,omitempty" about:"storage pool of the volume"`
	Volume string `json:"volume,omitempty" about:"name of the volume in its pool"`
	Device string `json:"device,omitempty" enum:"disk,cdrom" default:"disk" about:"what the guest sees"`
	Format string `json:"format,omitempty" about:"raw, qcow2 …; default: by the name's ending"`
	Bus    string `json:"bus,omitempty" enum:"virtio,sata,scsi,usb,ide" about:"default: virtio; sata for Windows and for a cdrom"`
	// ReadOnly disks cannot be written by the guest; a cdrom always is one.
	ReadOnly bool `json:"readonly,omitempty" about:"the guest cannot write; a cdrom always is"`
}

// Interface is a network card on a libvirt network or a host bridge.
type Interface struct {
	Network string `json:"network,omitempty" about:"libvirt's network that it is on; or bridge"`
	Bridge  string `json:"bridge,omitempty" about:"the host's bridge that it is on; or network"`
	Model   string `json:"model,omitempty" about:"default: virtio, Windows e1000e"`
	MAC     string `json:"mac,omitempty" about:"six bytes, such as 52:54:00:12:34:56; libvirt chooses one by default"`
}

const (
	gib = 1 << 20 // KiB
	// maxMemoryKiB keeps the number of bytes in 63 bits, which is what libvirt
	// counts in.
	maxMemoryKiB = 1<<53 - 1
)

// profile is what an operating system wants by default.
type profile struct {
	memoryKiB uint64
	cpus      uint
	clock     string
	bus, nic  string
	display   bool
}

// The sources are virt-install's defaults and the minimum requirements of the
// systems: cloud images of Linux want 1 GiB and a serial console, Windows wants
// 4 GiB, local time, a picture, and devices that it has drivers for.
var profiles = map[string]profile{
	"linux":   {memoryKiB: 1 * gib, cpus: 1, clock: "utc", bus: "virtio", nic: "virtio"},
	"windows": {memoryKiB: 4 * gib, cpus: 2, clock: "localtime", bus: "sata", nic: "e1000e", display: true},
	"other":   {memoryKiB: 1 * gib, cpus: 1, clock: "utc", bus: "virtio", nic: "virtio", display: true},
}

// XML is the description of a domain that the host can start. Its errors are
// mistakes in the specification.
func (s *Spec) XML(host *libvirtrpc.Host) (string, error) {
	p, ok := profiles[strings.ToLower(s.OS)]
	if !ok {
		return "", errors.New("os is Linux, Windows or Other")
	}
	guest, hyper, err := s.choose(host)
	if err != nil {
		return "", err
	}
	if s.MemoryKiB > maxMemoryKiB {
		return "", errors.New("memory is too large")
	}
	memory, cpus := s.MemoryKiB, s.CPU
	if memory == 0 {
		memory = p.memoryKiB
	}
	if cpus == 0 {
		cpus = p.cpus
	}
	d := libvirtxml.Domain{
		Type: hyper.Type, Name: s.Name, UUID: s.UUID, Title: s.Title, Description: s.Description,
		Memory: &libvirtxml.DomainMemory{Value: uint(memory), Unit: "KiB"},
		VCPU:   &libvirtxml.DomainVCPU{Value: cpus},
		OS:     &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: guest.Arch, Type: guest.OSType}},
	}
	for _, b := range s.Boot {
		if !slices.Contains([]string{"hd", "cdrom", "network", "fd"}, b) {
			return "", fmt.Errorf("boot: no device %q; there are hd, cdrom, network, fd", b)
		}
		d.OS.BootDevices = append(d.OS.BootDevices, libvirtxml.DomainBootDevice{Dev: b})
	}
	// The test driver knows no devices that could stand in the way of a start;
	// everything below is for real hypervisors too.
	d.Devices = &libvirtxml.DomainDeviceList{}
	if err := s.addDisks(&d, p); err != nil {
		return "", err
	}
	if err := s.addInterfaces(&d, p); err != nil {
		return "", err
	}
	if hyper.Type == "qemu" || hyper.Type == "kvm" {
		if d.OS.Type.Machine, err = s.machine(guest, hyper); err != nil {
			return "", err
		}
		finishQEMU(&d, guest.Arch, hyper, p)
	}
	doc, err := d.Marshal()
	if strings.ContainsRune(doc, utf8.RuneError) {
		// It was put in the place of one; a path would be that of another file.
		return "", errors.New("a text has a character that XML cannot hold")
	}
	return doc, err
}

// choose finds what runs the guest: kvm where the host says that it works, else
// qemu, else whatever there is.
func (s *Spec) choose(host *libvirtrpc.Host) (*libvirtrpc.Guest, *libvirtrpc.GuestDomain, error) {
	arch := s.Arch
	if arch == "" {
		arch = host.Arch
	}
	var archs []string
	pick := func(arch string) (*libvirtrpc.Guest, *libvirtrpc.GuestDomain) {
		for i := range host.Guests {
			g := &host.Guests[i]
			if g.Arch != arch || len(g.Domains) == 0 {
				continue
			}
			for _, want := range []string{"kvm", "qemu"} {
				for j := range g.Domains {
					if g.Domains[j].Type == want {
						return g, &g.Domains[j]
					}
				}
			}
			return g, &g.Domains[0]
		}
		return nil, nil
	}
	if g, d := pick(arch); g != nil {
		return g, d, nil
	}
	for _, g := range host.Guests {
		archs = append(archs, g.Arch)
	}
	if s.Arch == "" && len(archs) > 0 { // the test driver's host is an i686 that runs i686
		if g, d := pick(archs[0]); g != nil {
			return g, d, nil
		}
	}
	return nil, nil, fmt.Errorf("this host cannot run guests for %q; it can for %s", arch, strings.Join(archs, ", "))
}

func (s *Spec) machine(g *libvirtrpc.Guest, h *libvirtrpc.GuestDomain) (string, error) {
	if s.Machine != "" {
		if !slices.Contains(h.Machines, s.Machine) {
			return "", fmt.Errorf("this host has no machine %q for %s", s.Machine, g.Arch)
		}
		return s.Machine, nil
	}
	if g.Arch == "x86_64" && slices.Contains(h.Machines, "q35") {
		return "q35", nil
	}
	if strings.HasPrefix(g.Arch, "aarch64") || strings.HasPrefix(g.Arch, "riscv") || g.Arch == "armv7l" {
		return "virt", nil // their default machine is a board without PCI
	}
	return h.Machine, nil
}

// finishQEMU adds what a guest under QEMU is hard to use without.
func finishQEMU(d *libvirtxml.Domain, arch string, h *libvirtrpc.GuestDomain, p profile) {
	x86 := arch == "x86_64" || arch == "i686"
	d.Features = &libvirtxml.DomainFeatureList{}
	if x86 || arch == "aarch64" {
		d.Features.ACPI = &libvirtxml.DomainFeature{}
	}
	if x86 {
		d.Features.APIC = &libvirtxml.DomainFeatureAPIC{}
	}
	d.Clock = &libvirtxml.DomainClock{Offset: p.clock}
	d.OnPoweroff, d.OnReboot, d.OnCrash = "destroy", "restart", "destroy"
	if h.Type == "kvm" {
		d.CPU = &libvirtxml.DomainCPU{Mode: libvirtrpc.KVMCPU}
	}
	d.Devices.Emulator = h.Emulator
	port := uint(0)
	d.Devices.Serials = []libvirtxml.DomainSerial{{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainSerialTarget{Port: &port},
	}}
	d.Devices.Consoles = []libvirtxml.DomainConsole{{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &port},
	}}
	d.Devices.Channels = []libvirtxml.DomainChannel{{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: "org.qemu.guest_agent.0"}},
	}}
	d.Devices.RNGs = []libvirtxml.DomainRNG{{
		Model:   "virtio",
		Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
	}}
	if p.display {
		d.Devices.Graphics = []libvirtxml.DomainGraphic{{
			VNC: &libvirtxml.DomainGraphicVNC{Port: -1, AutoPort: "yes", Listen: "127.0.0.1"},
		}}
		d.Devices.Inputs = []libvirtxml.DomainInput{{Type: "tablet", Bus: "usb"}}
	}
}

func (s *Spec) addDisks(d *libvirtxml.Domain, p profile) error {
	letters := map[string]int{} // device names are counted for each prefix
	for i, disk := range s.Disks {
		bad := func(format string, a ...any) error {
			return fmt.Errorf("disks[%d]: "+format, append([]any{i}, a...)...)
		}
		out := libvirtxml.DomainDisk{Source: &libvirtxml.DomainDiskSource{}, Driver: &libvirtxml.DomainDiskDriver{Name: "qemu"}}
		file := disk.Path
		switch {
		case disk.Path != "" && disk.Volume == "" && disk.Pool == "":
			if !path.IsAbs(disk.Path) {
				return bad("path is an absolute path")
			}
			if strings.HasPrefix(disk.Path, "/dev/") {
				out.Source.Block = &libvirtxml.DomainDiskSourceBlock{Dev: disk.Path}
			} else {
				out.Source.File = &libvirtxml.DomainDiskSourceFile{File: disk.Path}
			}
		case disk.Path == "" && disk.Volume != "" && disk.Pool != "":
			file = disk.Volume
			out.Source.Volume = &libvirtxml.DomainDiskSourceVolume{Pool: disk.Pool, Volume: disk.Volume}
		default:
			return bad("want either path, or pool and volume")
		}
		if out.Driver.Type = disk.Format; disk.Format == "" {
			out.Driver.Type = "raw"
			if strings.HasSuffix(file, ".qcow2") {
				out.Driver.Type = "qcow2"
			}
		}
		bus := disk.Bus
		switch out.Device = disk.Device; disk.Device {
		case "", "disk":
			out.Device = "disk"
			if bus == "" {
				bus = p.bus
			}
		case "cdrom":
			if bus == "" {
				bus = "sata"
			}
			disk.ReadOnly = true
		default:
			return bad("no device %q; there are disk, cdrom", disk.Device)
		}
		prefix, ok := map[string]string{"virtio": "vd", "sata": "sd", "scsi": "sd", "usb": "sd", "ide": "hd"}[bus]
		if !ok {
			return bad("no bus %q; there are virtio, sata, scsi, usb, ide", bus)
		}
		if letters[prefix] >= 26 {
			return bad("too many disks")
		}
		out.Target = &libvirtxml.DomainDiskTarget{Dev: prefix + string(rune('a'+letters[prefix])), Bus: bus}
		letters[prefix]++
		if disk.ReadOnly {
			out.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
		}
		d.Devices.Disks = append(d.Devices.Disks, out)
	}
	return nil
}

func (s *Spec) addInterfaces(d *libvirtxml.Domain, p profile) error {
	for i, n := range s.Interfaces {
		out := libvirtxml.DomainInterface{Source: &libvirtxml.DomainInterfaceSource{}, Model: &libvirtxml.DomainInterfaceModel{Type: n.Model}}
		switch {
		case n.Network != "" && n.Bridge == "":
			out.Source.Network = &libvirtxml.DomainInterfaceSourceNetwork{Network: n.Network}
		case n.Bridge != "" && n.Network == "":
			out.Source.Bridge = &libvirtxml.DomainInterfaceSourceBridge{Bridge: n.Bridge}
		default:
			return fmt.Errorf("interfaces[%d]: want either network or bridge", i)
		}
		if n.Model == "" {
			out.Model.Type = p.nic
		}
		if n.MAC != "" {
			mac, err := net.ParseMAC(n.MAC)
			if err != nil || len(mac) != 6 {
				return fmt.Errorf("interfaces[%d]: mac is six bytes, such as 52:54:00:12:34:56", i)
			}
			out.MAC = &libvirtxml.DomainInterfaceMAC{Address: mac.String()}
		}
		d.Devices.Interfaces = append(d.Devices.Interfaces, out)
	}
	return nil
}
