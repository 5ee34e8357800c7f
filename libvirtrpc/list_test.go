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
