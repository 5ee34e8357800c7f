package libvirtrpc

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseDescription(t *testing.T) {
	got, err := parseDescription(`<domain type='kvm' id='7'>
  <name>instance-00000001</name>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
      <nova:package version="27.0.0"/>
      <nova:name>web</nova:name>
      <nova:flavor name="m1.small"><nova:memory>2048</nova:memory></nova:flavor>
      <nova:owner>
        <nova:user uuid="u1">alice</nova:user>
        <nova:project uuid="p1">shop</nova:project>
      </nova:owner>
    </nova:instance>
  </metadata>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' discard='unmap'/>
      <source file='/images/web.qcow2' index='1'/>
      <target dev='vda' bus='virtio'/>
      <serial>S1</serial>
    </disk>
    <disk type='network' device='disk'>
      <source protocol='rbd' name='pool/volume'/>
      <target dev='vdb' bus='scsi'/>
    </disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:01'/>
      <source bridge='br0'/>
      <target dev='vnet0'/>
      <model type='virtio'/>
      <mtu size='9000'/>
    </interface>
    <interface type='user'><mac address='52:54:00:00:00:02'/></interface>
  </devices>
</domain>`)
	if err != nil {
		t.Fatal(err)
	}
	want := Description{
		OSType: "hvm", Arch: "x86_64", Machine: "pc-q35-7.2",
		Disks: []DiskDescription{
			{Device: "disk", Type: "file", Target: "vda", Bus: "virtio", DriverName: "qemu", DriverType: "qcow2", DriverCache: "none",
				DriverDiscard: "unmap", SourceFile: "/images/web.qcow2", Serial: "S1"},
			{Device: "disk", Type: "network", Target: "vdb", Bus: "scsi", SourceProtocol: "rbd"},
			{Device: "cdrom", Type: "file", Target: "sda", Bus: "sata"},
		},
		Interfaces: []InterfaceDescription{
			{Type: "bridge", SourceBridge: "br0", Target: "vnet0", MAC: "52:54:00:00:00:01", Model: "virtio", MTU: "9000"},
			{Type: "user", MAC: "52:54:00:00:00:02"},
		},
		Nova: NovaDescription{Name: "web", Flavor: "m1.small", UserName: "alice", UserID: "u1", ProjectName: "shop", ProjectID: "p1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := parseDescription("<domain>"); err == nil {
		t.Error("half a document was read")
	}
}
