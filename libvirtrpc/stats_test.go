package libvirtrpc_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// host is a daemon with the QEMU driver that has domains and pools, of which
// some hang. libvirt's own behaviour with a hung QEMU was measured: a stats call
// hangs on the first such domain whose job is free, and passes over those whose
// job is held.
type host struct {
	*rpctest.Daemon
	mu      sync.Mutex
	domains []libvirt.Domain
	disks   []string // of every active domain
	hung    map[string]chan struct{}
	held    map[string]bool // hung, and a stats call holds the job
	pools   chan struct{}   // when set, pools answer after it
}

func newHost(active, inactive int) *host {
	h := &host{hung: map[string]chan struct{}{}, held: map[string]bool{}, disks: []string{"vda"}}
	for i := range active + inactive {
		d := libvirt.Domain{Name: fmt.Sprintf("vm%d", i), UUID: libvirt.UUID{byte(i + 1)}, ID: int32(i + 1)}
		if i >= active {
			d.ID = -1
		}
		h.domains = append(h.domains, d)
	}
	h.Daemon = rpctest.NewDaemon(h.answer)
	return h
}

func (h *host) hang(names ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range names {
		h.hung[n] = make(chan struct{})
	}
}

func (h *host) goOn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n, c := range h.hung {
		close(c)
		delete(h.hung, n)
		delete(h.held, n)
	}
}

func params(kv ...any) []libvirt.TypedParam {
	var out []libvirt.TypedParam
	for i := 0; i < len(kv); i += 2 {
		d := map[string]uint32{"int32": 1, "uint32": 2, "uint64": 4, "string": 7}[fmt.Sprintf("%T", kv[i+1])]
		out = append(out, libvirt.TypedParam{Field: kv[i].(string), Value: libvirt.TypedParamValue{D: d, I: kv[i+1]}})
	}
	return out
}

func (h *host) answer(r *rpctest.Request) {
	h.mu.Lock()
	domains, disks, pools := slices.Clone(h.domains), slices.Clone(h.disks), h.pools
	h.mu.Unlock()
	switch a := r.Args.(type) {
	case libvirt.ConnectListAllDomainsArgs:
		r.Reply(libvirt.ConnectListAllDomainsRet{Domains: domains, Ret: uint32(len(domains))})
	case libvirt.ConnectGetAllDomainStatsArgs:
		var ret libvirt.ConnectGetAllDomainStatsRet
		for _, d := range domains {
			wantActive := a.Flags&uint32(libvirt.ConnectGetAllDomainsStatsActive) != 0
			if wantActive != (d.ID >= 0) {
				continue
			}
			rec := libvirt.DomainStatsRecord{Dom: d, Params: params("state.state", int32(1), "state.reason", int32(1), "cpu.time", uint64(5e9),
				"balloon.current", uint64(1024), "balloon.maximum", uint64(2048), "vcpu.current", uint32(2), "vcpu.maximum", uint32(4))}
			if d.ID >= 0 {
				h.mu.Lock()
				hung, isHung := h.hung[d.Name]
				held := h.held[d.Name]
				h.held[d.Name] = isHung
				h.mu.Unlock()
				if isHung && !held {
					<-hung
					isHung = false
				}
				rec.Params = append(rec.Params, params("vcpu.0.state", int32(1), "vcpu.0.time", uint64(1e9), "net.count", uint32(1), "net.0.name", "vnet0", "net.0.rx.bytes", uint64(7))...)
				for i, name := range disks {
					rec.Params = append(rec.Params, params(fmt.Sprintf("block.%d.name", i), name)...)
				}
				if !isHung {
					rec.Params = append(rec.Params, params("balloon.rss", uint64(99), "block.0.rd.bytes", uint64(512))...)
				}
			}
			ret.RetStats = append(ret.RetStats, rec)
		}
		r.Reply(ret)
	case libvirt.DomainGetInfoArgs:
		r.Reply(libvirt.DomainGetInfoRet{State: 1, MaxMem: 2048, Memory: 1024, NrVirtCPU: 2, CPUTime: 5e9})
	case libvirt.DomainGetXMLDescArgs:
		r.Reply(libvirt.DomainGetXMLDescRet{XML: `<domain><os><type arch="x86_64" machine="q35">hvm</type></os></domain>`})
	case libvirt.ConnectListAllStoragePoolsArgs:
		r.Reply(libvirt.ConnectListAllStoragePoolsRet{Pools: []libvirt.StoragePool{{Name: "default"}, {Name: "images"}}, Ret: 2})
	case libvirt.StoragePoolGetInfoArgs:
		if pools != nil && a.Pool.Name == "images" {
			<-pools
		}
		r.Reply(libvirt.StoragePoolGetInfoRet{State: 2, Capacity: 100, Allocation: 40, Available: 60})
	default:
		r.Reply(nil)
	}
}

func startHost(t *testing.T, h *host, before ...func(*libvirtrpc.Client)) *libvirtrpc.Client {
	t.Helper()
	c := start(t, h.Daemon, func(o *libvirtrpc.Options) {
		o.URI, o.Connections, o.ChangeTimeout = "qemu:///system", 2, 300*time.Millisecond
	}, before...)
	t.Cleanup(h.goOn) // before the daemon ends
	until(t, "connections", func() bool { return c.State().Open == 2 })
	return c
}

func look(t *testing.T, c *libvirtrpc.Client, budget time.Duration) *libvirtrpc.HostStats {
	t.Helper()
	began := time.Now()
	s, err := c.Stats(t.Context(), budget)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > budget+time.Second {
		t.Errorf("a look of %s took %s", budget, took)
	}
	return s
}

// timedOut are the names of the domains that did not answer.
func timedOut(s *libvirtrpc.HostStats) string {
	var names []string
	for _, d := range s.Domains {
		if d.TimedOut {
			names = append(names, d.Name)
		}
	}
	return strings.Join(names, " ")
}

func TestStats(t *testing.T) {
	h := newHost(1, 9)
	c := startHost(t, h)
	s := look(t, c, 5*time.Second)
	info := libvirtrpc.Domain{State: libvirtrpc.Running, MemoryKiB: 1024, MaxMemoryKiB: 2048, VCPUs: 2, CPUTimeNs: 5e9}
	about := &libvirtrpc.Description{OSType: "hvm", Arch: "x86_64", Machine: "q35"}
	vm0, vm9 := libvirtrpc.DomainStats{Domain: info, Info: true, Description: about}, libvirtrpc.DomainStats{Domain: info, Info: true, Description: about}
	vm0.Name, vm0.UUID, vm0.ID = "vm0", libvirtrpc.UUID{1}, 1
	vm9.Name, vm9.UUID, vm9.ID, vm9.CPUTimeNs = "vm9", libvirtrpc.UUID{10}, -1, 0
	vm0.Values = []libvirtrpc.Value{{"state.state", 1}, {"state.reason", 1}, {"cpu.time", 5e9}, {"balloon.current", 1024}, {"balloon.maximum", 2048},
		{"vcpu.current", 2}, {"vcpu.maximum", 4}, {"net.count", 1}, {"balloon.rss", 99}}
	vm0.CPUs = []libvirtrpc.Device{{Name: "0", Values: []libvirtrpc.Value{{"state", 1}, {"time", 1e9}}}}
	vm0.Interfaces = []libvirtrpc.Device{{Name: "vnet0", Values: []libvirtrpc.Value{{"rx.bytes", 7}}}}
	vm0.Disks = []libvirtrpc.Device{{Name: "vda", Values: []libvirtrpc.Value{{"rd.bytes", 512}}}}
	want := []libvirtrpc.DomainStats{vm0, vm9}
	got := []libvirtrpc.DomainStats{s.Domains[0], s.Domains[9]}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(libvirtrpc.Device{})); diff != "" || len(s.Domains) != 10 {
		t.Errorf("%d domains (-want +got):\n%s", len(s.Domains), diff)
	}
	pools := []libvirtrpc.PoolStats{
		{Name: "default", State: 2, CapacityBytes: 100, AllocationBytes: 40, AvailableBytes: 60},
		{Name: "images", State: 2, CapacityBytes: 100, AllocationBytes: 40, AvailableBytes: 60},
	}
	if diff := cmp.Diff(pools, s.Pools); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
}

// However many domains there are, a look is a list, two stats calls, and those
// of the pools. The descriptions are read once, and again for another run of a
// domain or for other devices.
func TestStatsCalls(t *testing.T) {
	h := newHost(30, 30)
	c := startHost(t, h)
	calls := map[string]int{}
	after := func(what string, want map[string]int) {
		t.Helper()
		look(t, c, 5*time.Second)
		got := map[string]int{}
		for _, p := range []string{"ConnectListAllDomains", "ConnectGetAllDomainStats", "DomainGetInfo", "DomainGetXMLDesc", "ConnectListAllStoragePools", "StoragePoolGetInfo"} {
			if n := h.Calls(p) - calls[p]; n > 0 {
				got[p] = n
			}
			calls[p] = h.Calls(p)
		}
		for p, n := range map[string]int{"ConnectListAllDomains": 1, "ConnectGetAllDomainStats": 2, "ConnectListAllStoragePools": 1, "StoragePoolGetInfo": 2} {
			want[p] = n
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: calls (-want +got):\n%s", what, diff)
		}
	}
	after("the first look", map[string]int{"DomainGetXMLDesc": 60})
	after("the second", map[string]int{})
	h.mu.Lock()
	h.domains[3].ID = 99
	h.mu.Unlock()
	after("a domain that was started again", map[string]int{"DomainGetXMLDesc": 1})
	h.mu.Lock()
	h.disks = append(h.disks, "vdb")
	h.mu.Unlock()
	after("a disk more in each", map[string]int{"DomainGetXMLDesc": 30})
	after("the last", map[string]int{})
}

// A hung QEMU costs the first look a part of its time and the others nothing,
// and only that domain's own figures are missing.
func TestStatsOfAHungDomain(t *testing.T) {
	h := newHost(3, 1)
	c := startHost(t, h, func(c *libvirtrpc.Client) { c.BlameAfter(0) })
	h.hang("vm1")
	const budget = time.Second
	s := look(t, c, budget)
	if got := timedOut(s); got != "vm1" {
		t.Errorf("timed out: %q, want vm1", got)
	}
	for _, d := range s.Domains {
		hasDisk := len(d.Disks) > 0 && len(d.Disks[0].Values) > 0
		if hasDisk != (d.Name == "vm0" || d.Name == "vm2") || !d.Info {
			t.Errorf("%s: info %v, figures of its disk %v", d.Name, d.Info, hasDisk)
		}
	}
	// It is known now: to the next look, and to whoever wants something of it.
	if s := c.State(); s.Circuits != 1 || s.GateCalls != 1 {
		t.Errorf("after the first look: %+v", s)
	}
	before := h.Calls("ConnectGetAllDomainStats")
	for range 3 {
		if got := timedOut(look(t, c, budget)); got != "vm1" {
			t.Errorf("then timed out: %q", got)
		}
	}
	if n := h.Calls("ConnectGetAllDomainStats") - before; n != 6 {
		t.Errorf("%d stats calls for three looks, want 6", n)
	}
	if e := wantKind(t, c.Suspend(t.Context(), libvirtrpc.UUID{2}), libvirtrpc.NoAnswer); e.OutcomeUnknown {
		t.Error("the hung domain was asked")
	}
	if err := c.Suspend(t.Context(), libvirtrpc.UUID{1}); err != nil {
		t.Error(err)
	}
	h.goOn()
	until(t, "the circuit is closed", func() bool { s := c.State(); return s.Circuits == 0 && s.GateCalls == 0 })
	if got := timedOut(look(t, c, budget)); got != "" {
		t.Errorf("after it went on: %q", got)
	}
}

// More hung domains than there are places: QEMU is asked no more, what libvirt
// knows by itself is there, and half of the places are left to others.
func TestStatsOfManyHungDomains(t *testing.T) {
	h := newHost(12, 0)
	c := startHost(t, h, func(c *libvirtrpc.Client) { c.BlameAfter(0) })
	for i := range 10 {
		h.hang(fmt.Sprintf("vm%d", i))
	}
	const budget = 400 * time.Millisecond
	all := "vm0 vm1 vm10 vm11 vm2 vm3 vm4 vm5 vm6 vm7 vm8 vm9"
	for range 4 {
		s := look(t, c, budget)
		if got := timedOut(s); got != all {
			t.Errorf("timed out: %q", got)
		}
		for _, d := range s.Domains {
			if !d.Info || d.MemoryKiB != 1024 {
				t.Errorf("%s: %+v", d.Name, d.Domain)
			}
		}
	}
	if s := c.State(); s.GateCalls != 5 {
		t.Errorf("%d calls wait for QEMU, want 5 of %d", s.GateCalls, s.GateLimit)
	}
	began := time.Now()
	look(t, c, 10*time.Second)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a look that asks no QEMU took %s", took)
	}
	h.goOn()
	until(t, "all is well", func() bool { return timedOut(look(t, c, 10*time.Second)) == "" })
}

// A pool that does not answer delays no domain, is named, and takes few places.
func TestStatsOfAHungPool(t *testing.T) {
	h := newHost(1, 0)
	c := startHost(t, h)
	look(t, c, 5*time.Second)
	answer := make(chan struct{})
	h.mu.Lock()
	h.pools = answer
	h.mu.Unlock()
	for i := range 6 {
		s := look(t, c, 400*time.Millisecond)
		if !s.Domains[0].Info || timedOut(s) != "" {
			t.Errorf("look %d: %+v", i, s.Domains[0])
		}
		var out []string
		for _, p := range s.Pools {
			if p.TimedOut {
				out = append(out, p.Name)
			}
		}
		// Once all places are taken nothing is known of the other one either.
		if !slices.Contains(out, "images") || len(s.Pools) != 2 {
			t.Errorf("look %d: timed out are %q of %d", i, out, len(s.Pools))
		}
	}
	if n := h.Calls("StoragePoolGetInfo"); n > 2+2*4 {
		t.Errorf("%d calls to the pools", n)
	}
	close(answer)
	until(t, "the pools answer", func() bool {
		s := look(t, c, 5*time.Second)
		return len(s.Pools) == 2 && !s.Pools[1].TimedOut
	})
}

// Who looks while others do shares what they find.
func TestStatsAreShared(t *testing.T) {
	h := newHost(1, 0)
	c := startHost(t, h)
	look(t, c, 10*time.Second)
	before := h.Calls("ConnectListAllDomains")
	h.hang("vm0")
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			if s := look(t, c, 10*time.Second); timedOut(s) != "" {
				t.Error("timed out")
			}
		})
	}
	until(t, "all of them look", func() bool { return c.Looking() == 32 })
	h.goOn()
	wg.Wait()
	if n := h.Calls("ConnectListAllDomains") - before; n != 1 {
		t.Errorf("%d lists for 32 looks", n)
	}
}

// Without libvirt a look is an error, within its time.
func TestStatsWithoutLibvirt(t *testing.T) {
	h := newHost(1, 0)
	c := startHost(t, h)
	h.Down()
	until(t, "no connection", func() bool { return c.State().Open == 0 })
	began := time.Now()
	if s, err := c.Stats(t.Context(), 500*time.Millisecond); err == nil || time.Since(began) > 3*time.Second {
		t.Errorf("%v, %v after %s", s, err, time.Since(began))
	}
}
