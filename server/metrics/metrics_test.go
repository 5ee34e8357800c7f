package metrics

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"virtgate/libvirtrpc"
)

var update = flag.Bool("update", false, "rewrite testdata/host.txt")

func nobody(context.Context) (net.Conn, error) { return nil, errors.New("nobody is there") }

func values(text string) []libvirtrpc.Value {
	var out []libvirtrpc.Value
	for i, name := range strings.Fields(text) {
		out = append(out, libvirtrpc.Value{Name: name, N: uint64(i + 1)})
	}
	return out
}

// full is a host that has every figure, and a domain and a pool that timed out.
func full() *libvirtrpc.HostStats {
	about := &libvirtrpc.Description{
		OSType: "hvm", Arch: "x86_64", Machine: "q35",
		Disks: []libvirtrpc.DiskDescription{
			{Device: "disk", Type: "file", Target: "vda", Bus: "virtio", DriverName: "qemu", DriverType: "qcow2", DriverCache: "none",
				DriverDiscard: "unmap", SourceFile: "/images/a.qcow2", SourceProtocol: "rbd", Serial: "S1"},
			{Device: "cdrom", Type: "file", Target: "sda", Bus: "sata"},
		},
		Interfaces: []libvirtrpc.InterfaceDescription{
			{Type: "bridge", SourceBridge: "br0", Target: "vnet0", MAC: "52:54:00:00:00:01", Model: "virtio", MTU: "9000"},
			{Type: "user", MAC: "52:54:00:00:00:02"},
		},
		Nova: libvirtrpc.NovaDescription{Name: "web", Flavor: "m1", UserName: "alice", UserID: "u1", ProjectName: "shop", ProjectID: "p1"},
	}
	disk := values("rd.reqs rd.bytes rd.times wr.reqs wr.bytes wr.times fl.reqs fl.times allocation capacity physical")
	disk[2].N, disk[5].N, disk[7].N = 1_500_000_000, 2_000_000_000, 250_000_000
	cpu := values("state time wait delay")
	cpu[1].N, cpu[2].N, cpu[3].N = 3_000_000_000, 1_000_000_000, 500_000_000
	return &libvirtrpc.HostStats{
		Domains: []libvirtrpc.DomainStats{
			{
				Domain: libvirtrpc.Domain{Name: "a", UUID: libvirtrpc.UUID{0xaa}, ID: 1, State: libvirtrpc.Running, MemoryKiB: 1024, MaxMemoryKiB: 2048, VCPUs: 2, CPUTimeNs: 2_500_000_000},
				Info:   true, Description: about,
				Values: append(values("state.state vcpu.current vcpu.maximum balloon.current balloon.maximum balloon.swap_in balloon.swap_out balloon.major_fault "+
					"balloon.minor_fault balloon.unused balloon.last-update balloon.disk_caches balloon.hugetlb_pgalloc balloon.hugetlb_pgfail balloon.rss"),
					libvirtrpc.Value{Name: "balloon.available", N: 1000}, libvirtrpc.Value{Name: "balloon.usable", N: 250}),
				CPUs:       []libvirtrpc.Device{{Name: "0", Values: cpu}},
				Disks:      []libvirtrpc.Device{{Name: "vda", Values: disk}},
				Interfaces: []libvirtrpc.Device{{Name: "vnet0", Values: values("rx.bytes rx.pkts rx.errs rx.drop tx.bytes tx.pkts tx.errs tx.drop")}, {Values: values("rx.bytes")}},
			},
			{Domain: libvirtrpc.Domain{Name: "b", UUID: libvirtrpc.UUID{0xbb}, ID: 2, State: libvirtrpc.Paused, MemoryKiB: 1, MaxMemoryKiB: 1, VCPUs: 1}, Info: true, TimedOut: true},
			{Domain: libvirtrpc.Domain{Name: "c \xff\"", UUID: libvirtrpc.UUID{0xcc}, ID: -1, State: libvirtrpc.Shutoff, MemoryKiB: 1, MaxMemoryKiB: 1, VCPUs: 1}, Info: true,
				Description: &libvirtrpc.Description{OSType: "hvm", Disks: about.Disks}},
			{Domain: libvirtrpc.Domain{Name: "d", UUID: libvirtrpc.UUID{0xdd}, ID: 4}, TimedOut: true},
		},
		Pools: []libvirtrpc.PoolStats{
			{Name: "default", State: 2, CapacityBytes: 100, AllocationBytes: 40, AvailableBytes: 60},
			{Name: "nfs", TimedOut: true},
		},
	}
}

// exposed is what a scrape says of one look at a host. The pedantic registry
// checks names, labels and duplicates.
func exposed(t *testing.T, s *libvirtrpc.HostStats) string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(host{s})
	w := httptest.NewRecorder()
	promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.HTTPErrorOnError}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatal(w.Body)
	}
	return w.Body.String()
}

func TestHost(t *testing.T) {
	got := exposed(t, full())
	if *update {
		if err := os.WriteFile("testdata/host.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/host.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := exposed(t, nil); !strings.Contains(got, "\nlibvirt_up 0\n") || strings.Contains(got, "libvirt_domain") {
		t.Errorf("without libvirt: %s", got)
	}
}

// testdata/names.txt has the names and labels that existing boards ask for.
func TestNames(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(host{full()})
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		var labels []string
		for _, l := range f.Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		got = append(got, f.GetName()+" "+strings.Join(labels, ","))
	}
	want, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if diff := cmp.Diff(strings.Split(strings.TrimSuffix(string(want), "\n"), "\n"), got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestBudget(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": 9500 * time.Millisecond, "10": 9500 * time.Millisecond, "5": 4500 * time.Millisecond, "1": 500 * time.Millisecond,
		"0.5": 200 * time.Millisecond, "0.01": 100 * time.Millisecond, "3600": 29500 * time.Millisecond, "7.77": 7200 * time.Millisecond,
		"-1": 9500 * time.Millisecond, "NaN": 9500 * time.Millisecond, "Inf": 29500 * time.Millisecond, "soon": 9500 * time.Millisecond,
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", header)
		if got := budget(r); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
	r := httptest.NewRequest("GET", "/metrics", nil)
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	if got := budget(r.WithContext(ctx)); got > 2500*time.Millisecond {
		t.Errorf("a request that has 3 s: %s", got)
	}
}

func TestOwnFigures(t *testing.T) {
	m := New("1")
	for range 100 {
		m.Request("_OTHER", "", 405, time.Second)
	}
	m.Request("GET", "/libvirt/domains", 200, time.Second)
	m.Call(t.Context(), libvirtrpc.Call{Procedure: "DomainReset", Outcome: "busy"})
	now := time.Now()
	m.Call(t.Context(), libvirtrpc.Call{Procedure: "DomainReset", Outcome: "ok", Start: now, Sent: now.Add(time.Second), End: now.Add(3 * time.Second)})
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "http_") || strings.HasPrefix(f.GetName(), "virtgate_libvirt") {
			for _, s := range f.Metric {
				got[f.GetName()] += fmt.Sprintf("%d series, sum %g; ", len(f.Metric), s.GetHistogram().GetSampleSum()+s.GetCounter().GetValue())
			}
		}
	}
	want := map[string]string{
		"http_server_request_duration_seconds":   "2 series, sum 1; 2 series, sum 100; ",
		"virtgate_libvirt_call_duration_seconds": "1 series, sum 2; ",
		"virtgate_libvirt_call_wait_seconds":     "1 series, sum 1; ",
		"virtgate_libvirt_calls_unsent_total":    "1 series, sum 1; ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
