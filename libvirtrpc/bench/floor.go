package main

import (
	"errors"
	"fmt"
	"log"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
)

// floor is go-libvirt called directly, over as many connections as the server
// keeps, with at most as many calls on each.
type floor struct {
	conns  []*libvirt.Libvirt
	next   atomic.Int64
	places chan struct{}
}

const connections, callsEach = 4, 4

func newFloor(socket string) (*floor, error) {
	f := &floor{places: make(chan struct{}, connections*callsEach)}
	for range connections {
		lv := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(socket)))
		if err := lv.ConnectToURI(libvirt.QEMUSystem); err != nil {
			return nil, err
		}
		f.conns = append(f.conns, lv)
	}
	return f, nil
}

// call takes the connections in turn.
func (f *floor) call(fn func(*libvirt.Libvirt) error) {
	f.places <- struct{}{}
	err := fn(f.conns[int(f.next.Add(1))%len(f.conns)])
	<-f.places
	if err != nil {
		log.Panic(err)
	}
}

func together(fns ...func()) {
	var wg sync.WaitGroup
	for _, fn := range fns {
		wg.Go(fn)
	}
	wg.Wait()
}

func (f *floor) listWith(flags libvirt.ConnectListAllDomainsFlags) (ds []libvirt.Domain) {
	f.call(func(lv *libvirt.Libvirt) (err error) {
		ds, _, err = lv.ConnectListAllDomains(1, flags)
		return err
	})
	return ds
}

func (f *floor) list() { f.listWith(0) }

// listAll gets all fields of all domains: the list; then, side by side, the
// four sets, the stats of the inactive ones in one call, and GetInfo of each
// active one. The OS types are known from before.
func (f *floor) listAll() {
	var active []libvirt.Domain
	for _, d := range f.listWith(0) {
		if d.ID >= 0 {
			active = append(active, d)
		}
	}
	var next atomic.Int64
	info := func() {
		for i := int(next.Add(1)) - 1; i < len(active); i = int(next.Add(1)) - 1 {
			f.call(func(lv *libvirt.Libvirt) error {
				_, _, _, _, _, err := lv.DomainGetInfo(active[i])
				return err
			})
		}
	}
	fns := []func(){info, info, info, info, info, info, info, info, func() {
		f.call(func(lv *libvirt.Libvirt) error {
			_, err := lv.ConnectGetAllDomainStats(nil, uint32(libvirt.DomainStatsState|libvirt.DomainStatsBalloon|libvirt.DomainStatsVCPU),
				uint32(libvirt.ConnectGetAllDomainsStatsInactive|libvirt.ConnectGetAllDomainsStatsNowait))
			return err
		})
	}}
	for _, flag := range []libvirt.ConnectListAllDomainsFlags{libvirt.ConnectListDomainsTransient, libvirt.ConnectListDomainsAutostart,
		libvirt.ConnectListDomainsManagedsave, libvirt.ConnectListDomainsHasSnapshot} {
		fns = append(fns, func() { f.listWith(flag) })
	}
	together(fns...)
}

// details makes the calls of one domain's details: the lookup, then the others,
// all side by side. The OS type is known from before.
func (f *floor) details(name string) {
	var d libvirt.Domain
	f.call(func(lv *libvirt.Libvirt) (err error) {
		d, err = lv.DomainLookupByName(name)
		return err
	})
	calls := []func(*libvirt.Libvirt) error{
		func(lv *libvirt.Libvirt) error { _, _, _, _, _, err := lv.DomainGetInfo(d); return err },
		func(lv *libvirt.Libvirt) error { _, _, err := lv.DomainGetState(d, 0); return err },
		func(lv *libvirt.Libvirt) error { _, err := lv.DomainIsPersistent(d); return err },
		func(lv *libvirt.Libvirt) error { _, err := lv.DomainGetAutostart(d); return err },
		func(lv *libvirt.Libvirt) error { _, err := lv.DomainHasManagedSaveImage(d, 0); return err },
		func(lv *libvirt.Libvirt) error { _, err := lv.DomainSnapshotNum(d, 0); return err },
		func(lv *libvirt.Libvirt) error { return f.metadata(lv, d, libvirt.DomainMetadataTitle) },
		func(lv *libvirt.Libvirt) error { return f.metadata(lv, d, libvirt.DomainMetadataDescription) },
	}
	var next atomic.Int64
	worker := func() {
		for i := int(next.Add(1)) - 1; i < len(calls); i = int(next.Add(1)) - 1 {
			f.call(calls[i])
		}
	}
	together(slicesRepeat(len(calls), worker)...)
}

// metadata asks for the title or the description, which most domains have not.
func (f *floor) metadata(lv *libvirt.Libvirt, d libvirt.Domain, which libvirt.DomainMetadataType) error {
	_, err := lv.DomainGetMetadata(d, int32(which), nil, libvirt.DomainAffectCurrent)
	var e libvirt.Error
	if errors.As(err, &e) && e.Code == uint32(libvirt.ErrNoDomainMetadata) {
		return nil
	}
	return err
}

func domainName(i int) string { return fmt.Sprintf("bench-%04d", i) }

func (f *floor) each(n int, fn func(lv *libvirt.Libvirt, i int) error) error {
	var next atomic.Int64
	errs := make(chan error, n)
	together(slicesRepeat(connections*2, func() {
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			f.call(func(lv *libvirt.Libvirt) error { errs <- fn(lv, i); return nil })
		}
	})...)
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func slicesRepeat(n int, fn func()) []func() {
	out := make([]func(), n)
	for i := range out {
		out[i] = fn
	}
	return out
}

// populate defines the domains; the last ones run, paused: 32 MiB each.
func (f *floor) populate(defined, running int) error {
	return f.each(defined+running, func(lv *libvirt.Libvirt, i int) error {
		xml := strings.ReplaceAll(`<domain type='qemu'><name>NAME</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>`+
			`<os><type arch='x86_64'>hvm</type></os><features><acpi/></features><devices><memballoon model='none'/></devices></domain>`, "NAME", domainName(i))
		d, err := lv.DomainDefineXML(xml)
		if err != nil || i < defined {
			return err
		}
		_, err = lv.DomainCreateWithFlags(d, uint32(libvirt.DomainStartPaused))
		return err
	})
}

func (f *floor) remove() {
	ds := f.listWith(0)
	err := f.each(len(ds), func(lv *libvirt.Libvirt, i int) error {
		if !strings.HasPrefix(ds[i].Name, "bench-") {
			return nil
		}
		if ds[i].ID >= 0 {
			if err := lv.DomainDestroy(ds[i]); err != nil {
				return err
			}
		}
		return lv.DomainUndefine(ds[i])
	})
	if err != nil {
		log.Print(err)
	}
}
