package libvirtrpc

import (
	"context"

	"github.com/digitalocean/go-libvirt"
)

// Tri is a filter's answer to a yes-or-no question.
type Tri uint8

const (
	Any Tri = iota
	Yes
	No
)

// States is a set of the states that libvirt itself can filter by.
type States uint8

const (
	StateRunning States = 1 << iota
	StatePaused
	StateShutoff
	StateOther // every other state
)

// ListQuery says which domains are wanted, and which of their fields. The zero
// value is every domain with name, UUID and id.
type ListQuery struct {
	Active, Persistent, Autostart, ManagedSave, HasSnapshot Tri

	States States // none: any
	Fields Fields
}

type listKey = ListQuery

func (q ListQuery) flags() libvirt.ConnectListAllDomainsFlags {
	var f libvirt.ConnectListAllDomainsFlags
	tri := func(t Tri, yes, no libvirt.ConnectListAllDomainsFlags) {
		switch t {
		case Yes:
			f |= yes
		case No:
			f |= no
		}
	}
	tri(q.Active, libvirt.ConnectListDomainsActive, libvirt.ConnectListDomainsInactive)
	tri(q.Persistent, libvirt.ConnectListDomainsPersistent, libvirt.ConnectListDomainsTransient)
	tri(q.Autostart, libvirt.ConnectListDomainsAutostart, libvirt.ConnectListDomainsNoAutostart)
	tri(q.ManagedSave, libvirt.ConnectListDomainsManagedsave, libvirt.ConnectListDomainsNoManagedsave)
	tri(q.HasSnapshot, libvirt.ConnectListDomainsHasSnapshot, libvirt.ConnectListDomainsNoSnapshot)
	for s, flag := range map[States]libvirt.ConnectListAllDomainsFlags{
		StateRunning: libvirt.ConnectListDomainsRunning,
		StatePaused:  libvirt.ConnectListDomainsPaused,
		StateShutoff: libvirt.ConnectListDomainsShutoff,
		StateOther:   libvirt.ConnectListDomainsOther,
	} {
		if q.States&s != 0 {
			f |= flag
		}
	}
	return f
}

// ListDomains lists the domains that fit, sorted by name, with the fields
// wanted (virConnectListAllDomains and what the fields cost). Equal queries
// that are asked at the same moment share their calls; the answer is never
// from before the call. The slice is shared: do not write to it.
//
// None of the calls waits for a QEMU monitor, so a hung guest delays nothing.
func (c *Client) ListDomains(ctx context.Context, q ListQuery) ([]Domain, error) {
	return c.lists.get(ctx, q, c.background, func() ([]Domain, error) {
		// Nobody's own deadline: the round is shared. Each of its calls has
		// CallTimeout, and so has the whole.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.CallTimeout)
		defer cancel()
		return c.listDomains(ctx, q)
	})
}

func (c *Client) list(ctx context.Context, flags libvirt.ConnectListAllDomainsFlags) ([]libvirt.Domain, error) {
	return call(ctx, c, op{name: "ConnectListAllDomains"}, func(lv *libvirt.Libvirt) ([]libvirt.Domain, error) {
		ds, _, err := lv.ConnectListAllDomains(1, flags)
		return ds, err
	})
}

func (c *Client) listDomains(ctx context.Context, q ListQuery) ([]Domain, error) {
	base, err := c.list(ctx, q.flags())
	if err != nil {
		return nil, err
	}
	ds := make([]Domain, len(base))
	for i, d := range base {
		ds[i] = fromHandle(d)
	}
	sortDomains(ds)
	index := make(map[UUID]int, len(ds))
	for i := range ds {
		index[ds[i].UUID] = i
	}

	// Each part writes fields of its own, so all of them run side by side.
	var parts []func() error
	part := func(fn func() error) { parts = append(parts, fn) }
	c.setParts(ctx, q, ds, index, part)
	// Who went away meanwhile, as two parts may find at once.
	gone, goneToo := make([]bool, len(ds)), make([]bool, len(ds))
	switch {
	case q.Fields&FieldInfo != 0:
		part(func() error { return c.listInfo(ctx, q, ds, index, gone) })
	case q.Fields&FieldState != 0:
		part(func() error { return c.listStates(ctx, ds, index, gone) })
	}
	if q.Fields&FieldOSType != 0 {
		part(func() error { return c.listOSTypes(ctx, ds, goneToo) })
	}
	if err := each(len(parts), c.opts.Pipeline, func(i int) error { return parts[i]() }); err != nil {
		return nil, err
	}
	kept := ds[:0]
	for i := range ds {
		if !gone[i] && !goneToo[i] {
			kept = append(kept, ds[i])
		}
	}
	return kept, nil
}

// setParts adds the parts that find a yes-or-no field of all domains with one
// filtered list each. Of the two possible lists it asks for the one that is
// usually the shorter.
func (c *Client) setParts(ctx context.Context, q ListQuery, ds []Domain, index map[UUID]int, part func(func() error)) {
	set := func(want Fields, known Tri, flag libvirt.ConnectListAllDomainsFlags, listed bool, field func(*Domain) *bool) {
		if q.Fields&want == 0 {
			return
		}
		if known != Any { // the filter has said it of every domain in the list
			for i := range ds {
				*field(&ds[i]) = known == Yes
			}
			return
		}
		for i := range ds {
			*field(&ds[i]) = !listed
		}
		part(func() error {
			// Without the query's own filters: a domain that they fit a moment
			// ago and do not now would be taken for one without the flag.
			some, err := c.list(ctx, flag)
			for _, d := range some {
				if i, ok := index[UUID(d.UUID)]; ok {
					*field(&ds[i]) = listed
				}
			}
			return err
		})
	}
	set(FieldPersistent, q.Persistent, libvirt.ConnectListDomainsTransient, false, func(d *Domain) *bool { return &d.Persistent })
	set(FieldAutostart, q.Autostart, libvirt.ConnectListDomainsAutostart, true, func(d *Domain) *bool { return &d.Autostart })
	set(FieldManagedSave, q.ManagedSave, libvirt.ConnectListDomainsManagedsave, true, func(d *Domain) *bool { return &d.ManagedSave })
	set(FieldHasSnapshot, q.HasSnapshot, libvirt.ConnectListDomainsHasSnapshot, true, func(d *Domain) *bool { return &d.HasSnapshot })
}

// statsWorth is from how many inactive domains on one stats call is cheaper
// than virDomainGetInfo for each (docs/performance.md).
const statsWorth = 8

// listInfo fills in state, memory, VCPUs and CPU time. Active domains are asked
// one by one with virDomainGetInfo, which does not touch their monitor; all
// inactive ones, which have none, with one virConnectGetAllDomainStats.
func (c *Client) listInfo(ctx context.Context, q ListQuery, ds []Domain, index map[UUID]int, gone []bool) error {
	inactive := 0
	for i := range ds {
		if !ds[i].Active() {
			inactive++
		}
	}
	done := make([]bool, len(ds))
	stats := func() error { return nil }
	if inactive >= statsWorth && !c.pool.noStats.Load() {
		stats = func() error { return c.inactiveStats(ctx, q, ds, index, done) }
	}
	rest := func(active bool) error {
		var todo []int
		for i := range ds {
			if ds[i].Active() == active && !done[i] {
				todo = append(todo, i)
			}
		}
		return c.eachDomain(todo, ds, gone, func(d *Domain) error { return c.info(ctx, d) })
	}
	return each(2, c.opts.Pipeline, func(i int) error {
		if i == 0 {
			return rest(true)
		}
		if err := stats(); err != nil {
			return err
		}
		return rest(false) // whom the stats did not say enough of
	})
}

func (c *Client) inactiveStats(ctx context.Context, q ListQuery, ds []Domain, index map[UUID]int, done []bool) error {
	const what = uint32(libvirt.DomainStatsState | libvirt.DomainStatsBalloon | libvirt.DomainStatsVCPU)
	// The filters of this call are a list's, by the same numbers.
	flags := uint32(q.flags()) | uint32(libvirt.ConnectGetAllDomainsStatsInactive|libvirt.ConnectGetAllDomainsStatsNowait)
	recs, err := call(ctx, c, op{name: "ConnectGetAllDomainStats"}, func(lv *libvirt.Libvirt) ([]libvirt.DomainStatsRecord, error) {
		return lv.ConnectGetAllDomainStats(nil, what, flags&statsFlags)
	})
	if KindOf(err) == Unsupported || KindOf(err) == Invalid {
		c.pool.noStats.Store(true)
		return nil
	}
	if err != nil {
		return err
	}
	for _, r := range recs {
		i, ok := index[UUID(r.Dom.UUID)]
		// One that was active in the list is asked by somebody else.
		if !ok || r.Dom.ID >= 0 || ds[i].Active() {
			continue
		}
		d, found := &ds[i], 0
		for _, p := range r.Params {
			found++
			switch p.Field {
			case "state.state":
				d.State = State(number(p.Value.I))
			case "balloon.current":
				d.MemoryKiB = number(p.Value.I)
			case "balloon.maximum":
				d.MaxMemoryKiB = number(p.Value.I)
			case "vcpu.current":
				d.VCPUs = uint16(number(p.Value.I))
			default:
				found--
			}
		}
		done[i] = found == 4
	}
	return nil
}

// statsFlags are the filters that virConnectGetAllDomainStats knows.
const statsFlags = uint32(libvirt.ConnectGetAllDomainsStatsActive | libvirt.ConnectGetAllDomainsStatsInactive |
	libvirt.ConnectGetAllDomainsStatsPersistent | libvirt.ConnectGetAllDomainsStatsTransient |
	libvirt.ConnectGetAllDomainsStatsRunning | libvirt.ConnectGetAllDomainsStatsPaused |
	libvirt.ConnectGetAllDomainsStatsShutoff | libvirt.ConnectGetAllDomainsStatsOther |
	libvirt.ConnectGetAllDomainsStatsNowait)

func number(v any) uint64 {
	n, _ := integer(v)
	return n
}

// integer is the value of a typed parameter, and whether it is a whole number.
func integer(v any) (uint64, bool) {
	switch v := v.(type) {
	case int32:
		return uint64(v), true
	case uint32:
		return uint64(v), true
	case int64:
		return uint64(v), true
	case uint64:
		return v, true
	}
	return 0, false
}

// listStates fills in the state alone, from filtered lists: of the active
// domains who runs and who is paused, of the inactive ones who is not simply
// shut off. Whoever is left is asked.
func (c *Client) listStates(ctx context.Context, ds []Domain, index map[UUID]int, gone []bool) error {
	for i := range ds {
		if !ds[i].Active() {
			ds[i].State = Shutoff
		}
	}
	known := make([]bool, len(ds))
	lists := []struct {
		flags libvirt.ConnectListAllDomainsFlags
		state State // NoState: to be asked
	}{
		{libvirt.ConnectListDomainsActive | libvirt.ConnectListDomainsRunning, Running},
		{libvirt.ConnectListDomainsActive | libvirt.ConnectListDomainsPaused, Paused},
		{libvirt.ConnectListDomainsInactive | libvirt.ConnectListDomainsOther, NoState},
	}
	found := make([][]libvirt.Domain, len(lists))
	err := each(len(lists), c.opts.Pipeline, func(i int) (err error) {
		found[i], err = c.list(ctx, lists[i].flags)
		return err
	})
	if err != nil {
		return err
	}
	for i := range ds {
		known[i] = !ds[i].Active()
	}
	for n, l := range lists {
		for _, d := range found[n] {
			if i, ok := index[UUID(d.UUID)]; ok {
				ds[i].State, known[i] = l.state, l.state != NoState
			}
		}
	}
	var todo []int
	for i := range ds {
		if !known[i] {
			todo = append(todo, i)
		}
	}
	return c.eachDomain(todo, ds, gone, func(d *Domain) error { return c.stateAndReason(ctx, d) })
}

func (c *Client) listOSTypes(ctx context.Context, ds []Domain, gone []bool) error {
	var todo []int
	for i := range ds {
		if osType, _, ok := c.osTypes.get(ds[i].UUID); ok {
			ds[i].OSType = osType
		} else {
			todo = append(todo, i)
		}
	}
	return c.eachDomain(todo, ds, gone, func(d *Domain) error { return c.osType(ctx, d) })
}

// eachDomain runs fn for the domains at the places in todo, pipelined. One that
// is not there any more is marked gone instead of failing the list.
func (c *Client) eachDomain(todo []int, ds []Domain, gone []bool, fn func(*Domain) error) error {
	return each(len(todo), c.opts.Pipeline, func(n int) error {
		i := todo[n]
		err := fn(&ds[i])
		if KindOf(err) == NotFound {
			gone[i] = true
			return nil
		}
		return err
	})
}
