package libvirtrpc_test

import (
	"testing"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// A domain that leaves a filter while the list is made keeps what it is: its
// flags are not those of the domains that fit now.
func TestListWhileADomainChanges(t *testing.T) {
	dom := libvirt.Domain{Name: "vm", UUID: libvirt.UUID(vm1), ID: 1}
	asked := false
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		switch r.Proc {
		case "ConnectListAllDomains":
			var ds []libvirt.Domain
			// It runs and starts by itself; paused after the first answer.
			running := r.Args.(libvirt.ConnectListAllDomainsArgs).Flags&libvirt.ConnectListDomainsRunning != 0
			transient := r.Args.(libvirt.ConnectListAllDomainsArgs).Flags&libvirt.ConnectListDomainsTransient != 0
			if !transient && (!running || !asked) {
				ds = append(ds, dom)
			}
			asked = true
			r.Reply(libvirt.ConnectListAllDomainsRet{Domains: ds, Ret: uint32(len(ds))})
		default:
			r.Error(1, "not here")
		}
	})
	c := start(t, d, func(o *libvirtrpc.Options) { o.Pipeline = 1 })
	ds, err := c.ListDomains(t.Context(), libvirtrpc.ListQuery{
		States: libvirtrpc.StateRunning,
		Fields: libvirtrpc.FieldAutostart | libvirtrpc.FieldPersistent | libvirtrpc.FieldManagedSave | libvirtrpc.FieldHasSnapshot,
	})
	if err != nil || len(ds) != 1 {
		t.Fatal(ds, err)
	}
	if d := ds[0]; !d.Autostart || !d.Persistent || !d.ManagedSave || !d.HasSnapshot {
		t.Errorf("%+v", d)
	}
}

// A domain that stops while the list is made is in the answers for the active
// ones and for the inactive ones; one of them fills in its fields.
func TestListWhileADomainStops(t *testing.T) {
	all := []libvirt.Domain{{Name: "vm", UUID: libvirt.UUID(vm1), ID: 1}}
	for i := range 8 {
		all = append(all, libvirt.Domain{Name: "off", UUID: libvirt.UUID{9, byte(i)}, ID: -1})
	}
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		switch r.Proc {
		case "ConnectListAllDomains":
			r.Reply(libvirt.ConnectListAllDomainsRet{Domains: all, Ret: uint32(len(all))})
		case "ConnectGetAllDomainStats":
			var ret libvirt.ConnectGetAllDomainStatsRet
			for _, dom := range all {
				dom.ID = -1
				ret.RetStats = append(ret.RetStats, libvirt.DomainStatsRecord{Dom: dom, Params: params(
					"state.state", int32(5), "balloon.current", uint64(64), "balloon.maximum", uint64(64), "vcpu.current", uint32(1))})
			}
			r.Reply(ret)
		case "DomainGetInfo":
			r.Reply(libvirt.DomainGetInfoRet{State: 1, Memory: 32, MaxMem: 32, NrVirtCPU: 1})
		default:
			r.Error(1, "not here")
		}
	})
	c := start(t, d, nil)
	ds, err := c.ListDomains(t.Context(), libvirtrpc.ListQuery{Fields: libvirtrpc.FieldInfo})
	if err != nil || len(ds) != len(all) {
		t.Fatal(ds, err)
	}
	for _, d := range ds {
		want := uint64(64)
		if d.UUID == vm1 {
			want = 32
		}
		if d.MemoryKiB != want {
			t.Errorf("%+v, want %d KiB", d, want)
		}
	}
}
