package libvirtrpc

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
)

// HostStats is what one look at a host's domains and storage pools found.
type HostStats struct {
	Domains []DomainStats // by name
	Pools   []PoolStats   // by name
}

// DomainStats are the figures of one domain.
type DomainStats struct {
	Domain // Name, UUID, ID; of the rest what FieldInfo says, with Info
	Info   bool
	// TimedOut: the domain is active, and its QEMU was not asked or did not
	// answer in time. What libvirt knows without QEMU is there all the same.
	TimedOut bool
	// The figures of an active domain, as libvirt calls them
	// (virConnectGetAllDomainStats says their units): balloon.rss, vcpu.maximum.
	Values                  []Value
	CPUs, Disks, Interfaces []Device
	Description             *Description // nil when it is not known
}

// Value is one figure.
type Value struct {
	Name string
	N    uint64
}

// Device is one disk, network interface or virtual CPU. Its values are called
// without what names it: rd.bytes instead of block.0.rd.bytes.
type Device struct {
	Name   string // vda, vnet0; the number of a virtual CPU
	Values []Value
	number string
}

// Stats looks at all domains and storage pools and ends within the budget. What
// did not answer in time says so; an error means that libvirt is not there. Who
// asks with the same budget while a look is under way shares it.
//
// It makes a list and two stats calls (virConnectListAllDomains,
// virConnectGetAllDomainStats for the active and for the inactive ones), those
// of the pools, and one for each definition that it does not know yet.
func (c *Client) Stats(ctx context.Context, budget time.Duration) (*HostStats, error) {
	return c.stats.get(ctx, budget, c.background, func() (*HostStats, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), budget)
		defer cancel()
		return c.look(ctx, budget)
	})
}

func (c *Client) look(ctx context.Context, budget time.Duration) (*HostStats, error) {
	began := time.Now()
	base, err := c.list(ctx, 0)
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
	h := &HostStats{Domains: make([]DomainStats, len(ds))}
	for i := range ds {
		h.Domains[i].Domain = ds[i]
	}
	inactive := make([]bool, len(ds)) // whose stats came
	parts := []func() error{
		func() error { return c.activeStats(ctx, budget, h.Domains, index) },
		func() error {
			if c.pool.noStats.Load() {
				return nil
			}
			return c.inactiveStats(ctx, ListQuery{Active: No}, ds, index, inactive)
		},
		func() error { h.Pools = c.poolStats(ctx, budget/2); return nil },
	}
	if err := each(len(parts), len(parts), func(i int) error { return parts[i]() }); err != nil {
		return nil, err
	}
	for i, done := range inactive {
		if done {
			h.Domains[i].Domain, h.Domains[i].Info = ds[i], true
		}
	}
	if err := c.missingInfo(ctx, h); err != nil {
		return nil, err
	}
	// A description that is not answered would make its domain a hung one: none
	// is asked for with little time left.
	return h, c.describeAll(ctx, h.Domains, began.Add(budget*7/10))
}

// tries are the parts of the budget, in percent, that the first, second and
// third call for the active domains' stats may take. The first one hangs on a
// QEMU that nobody knew to hang; the next one passes over it.
var tries = [...]time.Duration{50, 20, 10}

// activeStats fills in the figures of the active domains.
func (c *Client) activeStats(ctx context.Context, budget time.Duration, ds []DomainStats, index map[UUID]int) error {
	active := 0
	for i := range ds {
		if ds[i].Active() {
			active++
		}
	}
	if active == 0 || c.pool.noStats.Load() {
		return nil
	}
	for _, percent := range tries {
		limited, cancel := context.WithTimeout(ctx, budget*percent/100)
		recs, err := c.statsOfEveryone(limited)
		cancel()
		switch {
		case err == nil:
			c.fill(recs, ds, index)
			return nil
		case KindOf(err) == Unsupported || KindOf(err) == Invalid:
			c.pool.noStats.Store(true)
			return nil
		case KindOf(err) == Busy:
			return markTimedOut(ds)
		case KindOf(err) != NoAnswer:
			return err
		}
	}
	return markTimedOut(ds)
}

func markTimedOut(ds []DomainStats) error {
	for i := range ds {
		ds[i].TimedOut = ds[i].Active()
	}
	return nil
}

func (c *Client) statsOfEveryone(ctx context.Context) ([]libvirt.DomainStatsRecord, error) {
	const what = uint32(libvirt.DomainStatsState | libvirt.DomainStatsCPUTotal | libvirt.DomainStatsBalloon |
		libvirt.DomainStatsVCPU | libvirt.DomainStatsInterface | libvirt.DomainStatsBlock)
	// Without NOWAIT it would wait for every job on a domain. Inactive domains
	// are left out: libvirt would open their images to see how large they are.
	flags := uint32(libvirt.ConnectGetAllDomainsStatsActive | libvirt.ConnectGetAllDomainsStatsNowait)
	o := op{name: "ConnectGetAllDomainStats", enter: (*gate).enterEveryone}
	return call(ctx, c, o, func(lv *libvirt.Libvirt) ([]libvirt.DomainStatsRecord, error) {
		return lv.ConnectGetAllDomainStats(nil, what, flags)
	})
}

func (c *Client) fill(recs []libvirt.DomainStatsRecord, ds []DomainStats, index map[UUID]int) {
	var passedOver []UUID
	// Only QEMU has a monitor, and what libvirt asked of it ends with the size of
	// its process (qemuDomainMemoryStats): a record without it is of a domain
	// that was passed over.
	qemu := strings.HasPrefix(c.opts.URI, "qemu:")
	for _, r := range recs {
		i, ok := index[UUID(r.Dom.UUID)]
		if !ok || r.Dom.ID < 0 {
			continue
		}
		d := &ds[i]
		d.ID = r.Dom.ID // it may have been started meanwhile
		d.TimedOut = qemu
		info := 0
		for _, p := range r.Params {
			n, isNumber := integer(p.Value.I)
			info++
			switch p.Field {
			case "state.state":
				d.State = State(n)
			case "cpu.time":
				d.CPUTimeNs = n
			case "balloon.current":
				d.MemoryKiB = n
			case "balloon.maximum":
				d.MaxMemoryKiB = n
			case "vcpu.current":
				d.VCPUs = uint16(n)
			case "balloon.rss":
				d.TimedOut = false
				fallthrough
			default:
				info--
			}
			text, _ := p.Value.I.(string)
			d.add(p.Field, n, isNumber, text)
		}
		d.Info = info == 5
		if d.TimedOut {
			passedOver = append(passedOver, d.UUID)
		}
	}
	c.gate.blame(passedOver)
}

// add puts one figure where it belongs.
func (d *DomainStats) add(field string, n uint64, isNumber bool, text string) {
	group, rest, _ := strings.Cut(field, ".")
	var list *[]Device
	switch group {
	case "vcpu":
		list = &d.CPUs
	case "block":
		list = &d.Disks
	case "net":
		list = &d.Interfaces
	}
	number, name, isDevice := strings.Cut(rest, ".")
	if _, err := strconv.ParseUint(number, 10, 16); list == nil || !isDevice || err != nil {
		if isNumber {
			d.Values = append(d.Values, Value{field, n})
		}
		return
	}
	if l := *list; len(l) == 0 || l[len(l)-1].number != number {
		dev := Device{number: number}
		if group == "vcpu" {
			dev.Name = number
		}
		*list = append(l, dev)
	}
	dev := &(*list)[len(*list)-1]
	switch {
	case isNumber:
		dev.Values = append(dev.Values, Value{name, n})
	case name == "name":
		dev.Name = text
	}
}

// missingInfo asks the domains of which the stats did not say enough, one by
// one (virDomainGetInfo, which waits for no monitor).
func (c *Client) missingInfo(ctx context.Context, h *HostStats) error {
	var todo []int
	for i := range h.Domains {
		if !h.Domains[i].Info {
			todo = append(todo, i)
		}
	}
	gone := make([]bool, len(h.Domains))
	err := each(len(todo), c.opts.Pipeline, func(n int) error {
		d := &h.Domains[todo[n]]
		err := c.info(ctx, &d.Domain)
		switch KindOf(err) {
		case NotFound:
			gone[todo[n]] = true
			return nil
		case NoAnswer, TimedOut:
			d.TimedOut = true
		case Lost, Unavailable, Busy:
			return err
		default: // it ended, or it does not say: the others do
			d.Info = err == nil
		}
		return nil
	})
	kept := h.Domains[:0]
	for i := range h.Domains {
		if !gone[i] {
			kept = append(kept, h.Domains[i])
		}
	}
	h.Domains = kept
	return err
}

// PoolStats are the figures of one storage pool (virStoragePoolGetInfo), which
// it does not have when it timed out.
type PoolStats struct {
	Name                                           string
	TimedOut                                       bool
	State                                          uint8 // virStoragePoolState
	CapacityBytes, AllocationBytes, AvailableBytes uint64
}

// poolStats asks all storage pools. A pool that is being refreshed makes both
// calls wait until that is done, which is never on a dead file server; so both
// have few places, and the domains do not wait for them.
func (c *Client) poolStats(ctx context.Context, limit time.Duration) []PoolStats {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var known []string
	if p := c.storagePools.Load(); p != nil {
		known = *p
	}
	o := op{name: "ConnectListAllStoragePools", enter: (*gate).enterStorage}
	pools, err := call(ctx, c, o, func(lv *libvirt.Libvirt) ([]libvirt.StoragePool, error) {
		pools, _, err := lv.ConnectListAllStoragePools(1, 0)
		return pools, err
	})
	if err != nil {
		var out []PoolStats
		if KindOf(err) == NoAnswer {
			for _, name := range known {
				out = append(out, PoolStats{Name: name, TimedOut: true})
			}
		}
		return out // a driver may have no storage
	}
	out, gone := make([]PoolStats, len(pools)), make([]bool, len(pools))
	each(len(pools), storageCalls, func(i int) error {
		o := op{name: "StoragePoolGetInfo", enter: (*gate).enterStorage}
		p, err := call(ctx, c, o, func(lv *libvirt.Libvirt) (p PoolStats, err error) {
			p.State, p.CapacityBytes, p.AllocationBytes, p.AvailableBytes, err = lv.StoragePoolGetInfo(pools[i])
			return p, err
		})
		var e *Error
		gone[i] = errors.As(err, &e) && e.Kind != NoAnswer
		out[i] = p
		out[i].Name, out[i].TimedOut = pools[i].Name, err != nil
		return nil
	})
	kept := out[:0]
	var names []string
	for i := range out {
		if !gone[i] {
			kept = append(kept, out[i])
			names = append(names, out[i].Name)
		}
	}
	c.storagePools.Store(&names)
	return kept
}
