package domainxml

import (
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"virtgate/libvirtrpc"
)

var (
	qemuHost = &libvirtrpc.Host{Arch: "x86_64", Guests: []libvirtrpc.Guest{
		{OSType: "hvm", Arch: "aarch64", Domains: []libvirtrpc.GuestDomain{{Type: "qemu", Machine: "integratorcp", Machines: []string{"integratorcp", "virt"}}}},
		{OSType: "hvm", Arch: "x86_64", Domains: []libvirtrpc.GuestDomain{
			{Type: "qemu", Emulator: "/usr/bin/qemu-system-x86_64", Machine: "pc", Machines: []string{"pc", "q35"}},
			{Type: "kvm", Emulator: "/usr/bin/qemu-system-x86_64", Machine: "pc", Machines: []string{"pc", "q35"}},
		}},
	}}
	emulated = &libvirtrpc.Host{Arch: "x86_64", Guests: []libvirtrpc.Guest{{OSType: "hvm", Arch: "x86_64",
		Domains: []libvirtrpc.GuestDomain{{Type: "qemu", Machine: "pc", Machines: []string{"pc", "q35"}}}}}}
	testHost = &libvirtrpc.Host{Arch: "i686", Guests: []libvirtrpc.Guest{{OSType: "linux", Arch: "i686",
		Domains: []libvirtrpc.GuestDomain{{Type: "test"}}}}}
)

func parse(t *testing.T, s Spec, h *libvirtrpc.Host) libvirtxml.Domain {
	t.Helper()
	doc, err := s.XML(h)
	if err != nil {
		t.Fatal(err)
	}
	var d libvirtxml.Domain
	if err := d.Unmarshal(doc); err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return d
}

func TestHypervisor(t *testing.T) {
	for name, c := range map[string]struct {
		host          *libvirtrpc.Host
		spec          Spec
		kind, machine string
		cpu           bool
	}{
		"kvm":         {qemuHost, Spec{Name: "a", OS: "Linux"}, "kvm", "q35", true},
		"no kvm":      {emulated, Spec{Name: "a", OS: "Linux"}, "qemu", "q35", false},
		"other arch":  {qemuHost, Spec{Name: "a", OS: "Linux", Arch: "aarch64"}, "qemu", "virt", false},
		"own machine": {qemuHost, Spec{Name: "a", OS: "Linux", Machine: "pc"}, "kvm", "pc", true},
		"test driver": {testHost, Spec{Name: "a", OS: "Linux"}, "test", "", false},
	} {
		d := parse(t, c.spec, c.host)
		if d.Type != c.kind || d.OS.Type.Machine != c.machine || (d.CPU != nil) != c.cpu {
			t.Errorf("%s: type %s, machine %q, cpu %v", name, d.Type, d.OS.Type.Machine, d.CPU)
		}
	}
}

func TestDefaults(t *testing.T) {
	linux, windows := parse(t, Spec{Name: "a", OS: "linux"}, qemuHost), parse(t, Spec{Name: "a", OS: "WINDOWS"}, qemuHost)
	if linux.Memory.Value != 1<<20 || linux.Memory.Unit != "KiB" || linux.VCPU.Value != 1 || linux.Clock.Offset != "utc" || len(linux.Devices.Graphics) != 0 || len(linux.Devices.Serials) != 1 {
		t.Errorf("linux: %+v %+v %+v", linux.Memory, linux.VCPU, linux.Clock)
	}
	if windows.Memory.Value != 4<<20 || windows.VCPU.Value != 2 || windows.Clock.Offset != "localtime" || len(windows.Devices.Graphics) != 1 {
		t.Errorf("windows: %+v %+v %+v", windows.Memory, windows.VCPU, windows.Clock)
	}
}

func TestDevices(t *testing.T) {
	d := parse(t, Spec{Name: "a&<b>", OS: "linux", Title: "t", MemoryKiB: 4096, CPU: 3, Boot: []string{"cdrom", "hd"},
		Disks:      []Disk{{Path: "/x.qcow2"}, {Pool: "default", Volume: "v.img"}, {Path: "/cd.iso", Device: "cdrom"}},
		Interfaces: []Interface{{Network: "default"}, {Bridge: "br0", Model: "e1000e", MAC: "52:54:00:00:00:01"}}}, qemuHost)
	if d.Name != "a&<b>" || d.Title != "t" || d.Memory.Value != 4096 || d.VCPU.Value != 3 {
		t.Errorf("%+v", d)
	}
	seen := map[string]bool{}
	for _, disk := range d.Devices.Disks {
		if seen[disk.Target.Dev] {
			t.Errorf("two disks are %s", disk.Target.Dev)
		}
		seen[disk.Target.Dev] = true
	}
	if len(d.Devices.Disks) != 3 || d.Devices.Disks[0].Driver.Type != "qcow2" || d.Devices.Disks[2].ReadOnly == nil || len(d.Devices.Interfaces) != 2 {
		t.Errorf("%+v", d.Devices)
	}
}

func TestRefused(t *testing.T) {
	for want, s := range map[string]Spec{
		"os is":   {Name: "a", OS: "BeOS"},
		"arch":    {Name: "a", OS: "Linux", Arch: "vax"},
		"machine": {Name: "a", OS: "Linux", Machine: "zx81"},
		"disk":    {Name: "a", OS: "Linux", Disks: []Disk{{}}},
		"path":    {Name: "a", OS: "Linux", Disks: []Disk{{Path: "/x", Pool: "p", Volume: "v"}}},
		"network": {Name: "a", OS: "Linux", Interfaces: []Interface{{}}},
		"boot":    {Name: "a", OS: "Linux", Boot: []string{"tape"}},
		"memory":  {Name: "a", OS: "Linux", MemoryKiB: 1 << 60},
		"hold":    {Name: "a", OS: "Linux", Disks: []Disk{{Path: "/a\x01b"}}},
	} {
		if doc, err := s.XML(qemuHost); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q\n%s", s, err, want, doc)
		}
	}
}
