package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const scrapeKey = "a key for scrapes"

// scrape is what a scraper got: the text, and the values by series.
type scrape struct {
	text   string
	series map[string]float64
	took   time.Duration
}

// scrape asks as Prometheus does, with a service key as bearer token.
func (g *gateway) scrape(t testing.TB, timeout string) *scrape {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, g.url+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+scrapeKey)
	req.Header.Set("X-Prometheus-Scrape-Timeout-Seconds", timeout)
	start := time.Now()
	res, err := g.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("scrape: %d, %v: %s", res.StatusCode, err, b)
	}
	s := &scrape{text: string(b), series: map[string]float64{}, took: time.Since(start)}
	for line := range strings.Lines(s.text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		i := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(strings.TrimSpace(line[i+1:]), 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		s.series[line[:i]] = v
	}
	if limit, _ := strconv.ParseFloat(timeout, 64); s.took.Seconds() > limit {
		t.Errorf("a scrape took %s of the %s s that it had", s.took, timeout)
	}
	return s
}

// want demands series with their values.
func (s *scrape) want(t testing.TB, series map[string]float64) {
	t.Helper()
	for k, v := range series {
		if got, ok := s.series[k]; !ok || got != v {
			t.Errorf("%s is %g (there: %v), want %g", k, got, ok, v)
		}
	}
}

var scraper = []string{"service_key.scraper.key=" + scrapeKey, "service_key.scraper.allow=metrics:read"}

// The test driver: its domain, its pool, the server's own figures, and all of it
// as Prometheus wants it.
func TestLiveMetrics(t *testing.T) {
	g := startGateway(t, "test", liveSocket(t, envTest), scraper...)
	g.do(t, "GET", "/libvirt/domains/by-name/nosuch", "")
	s := g.scrape(t, "10")
	s.want(t, map[string]float64{
		"libvirt_up": 1,
		`libvirt_domain_timed_out{domain="test"}`:                                                 0,
		`libvirt_domain_info_state{domain="test",state_desc="the domain is running"}`:             1,
		`libvirt_domain_info_virtual_cpus{domain="test"}`:                                         2,
		`libvirt_domain_info{domain="test",os_type="hvm",os_type_arch="i686",os_type_machine=""}`: 1,
		`libvirt_storage_pool_state{storage_pool="default-pool"}`:                                 2,
		`virtgate_libvirt_connections_wanted`:                                                     4,
		`http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="404",http_route="/libvirt/domains/by-name/:identifier"}`: 1,
		`virtgate_libvirt_call_duration_seconds_count{outcome="not_found",procedure="DomainLookupByName"}`:                                                        1,
	})
	// Without its permission a key scrapes nothing, and with it nothing else.
	for key, status := range map[string]int{readKey: 403, scrapeKey: 200} {
		res, err := http.NewRequest("GET", g.url+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Header.Set("X-Auth-User-Service-Key", key)
		if r, err := g.http.Do(res); err != nil || r.StatusCode != status {
			t.Errorf("%s scrapes: %v, %v, want %d", key, r, err, status)
		} else {
			r.Body.Close()
		}
	}
	if a := g.do(t, "GET", "/libvirt/domains", "", "X-Auth-Key", "", "X-Auth-Username", "", "X-Auth-User-Service-Key", scrapeKey); a.status != 403 {
		t.Errorf("the scraper's key lists domains: %s", a.raw)
	}
	t.Run("promtool", func(t *testing.T) { checkMetrics(t, s.text) })
}

// checkMetrics has promtool look at a scrape.
func checkMetrics(t *testing.T, text string) {
	t.Helper()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool: scripts/test installs it")
	}
	cmd := exec.Command(promtool, "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v\n%s", err, out)
	}
}

// A guest whose QEMU does not answer costs a scrape its own figures, the first
// one some time, and nobody else anything.
func TestLiveMetricsHungGuest(t *testing.T) {
	g := startGateway(t, "qemu", liveSocket(t, envQEMU), scraper...)
	var names []string
	for i := range 2 {
		name := fmt.Sprintf("live-scrape-%d-%d", i, rand.Uint64())
		disk := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(disk, make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.try("DELETE", "/libvirt/domains/by-name/"+name+"?options=destroy", "") })
		xml := fmt.Sprintf(`<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os>`+
			`<devices><disk type='file'><source file='%s'/><target dev='vda' bus='virtio'/></disk></devices></domain>`, name, disk)
		if a := g.do(t, "POST", "/libvirt/domains?start=true&paused=true", jsonString(xml)); a.status != 201 {
			t.Fatalf("create: %s", a.raw)
		}
		names = append(names, name)
	}
	hung, other := names[0], names[1]
	of := func(metric, name, more string) string { return fmt.Sprintf("%s{domain=%q%s}", metric, name, more) }
	whole := func(name string) map[string]float64 {
		return map[string]float64{
			"libvirt_up":                             1,
			of("libvirt_domain_timed_out", name, ""): 0,
			of("libvirt_domain_memory_stats_maximum_bytes", name, ""):                           32 << 20,
			of("libvirt_domain_block_stats_capacity_bytes", name, `,target_device="vda"`):       1 << 20,
			of("libvirt_domain_block_stats_write_bytes_total", name, `,target_device="vda"`):    0,
			of("libvirt_domain_info_state", name, `,state_desc="the domain is paused by user"`): 3,
		}
	}
	before := g.scrape(t, "10")
	before.want(t, whole(hung))
	before.want(t, whole(other))
	t.Run("promtool", func(t *testing.T) { checkMetrics(t, before.text) })

	pid := qemuPID(t, hung)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := sync.OnceFunc(func() { syscall.Kill(pid, syscall.SIGCONT) })
	t.Cleanup(goOn) // before the domain is deleted
	missing := func(s *scrape) {
		t.Helper()
		s.want(t, whole(other))
		s.want(t, map[string]float64{
			of("libvirt_domain_timed_out", hung, ""):                                            1,
			of("libvirt_domain_info_state", hung, `,state_desc="the domain is paused by user"`): 3,
			of("libvirt_domain_info_maximum_memory_bytes", hung, ""):                            32 << 20,
		})
		if _, ok := s.series[of("libvirt_domain_block_stats_write_bytes_total", hung, `,target_device="vda"`)]; ok {
			t.Error("there are figures that only the hung QEMU knows")
		}
	}
	var wg sync.WaitGroup
	for range 3 { // at the same time
		wg.Go(func() { missing(g.scrape(t, "6")) })
	}
	// While they wait:
	for range 20 {
		for _, path := range []string{"/libvirt/domains", "/libvirt/domains/by-name/" + hung, "/libvirt/domains/by-name/" + other} {
			if a := g.do(t, "GET", path, ""); a.status != 200 || a.took > 2*time.Second {
				t.Errorf("GET %s beside a scrape of a hung guest: %d in %s %s", path, a.status, a.took, a.raw)
			}
		}
	}
	wg.Wait()
	// Now it is known.
	s := g.scrape(t, "6")
	missing(s)
	if s.took > 2*time.Second {
		t.Errorf("the next scrape took %s", s.took)
	}
	s.want(t, map[string]float64{"virtgate_libvirt_circuits_open": 1, "virtgate_libvirt_monitor_calls": 1})
	goOn()
	eventually(t, "all figures of the guest that went on", 20*time.Second, func() bool {
		s = g.scrape(t, "6")
		return s.series[of("libvirt_domain_timed_out", hung, "")] == 0
	})
	s.want(t, whole(hung))
	s.want(t, map[string]float64{"virtgate_libvirt_circuits_open": 0, "virtgate_libvirt_calls_overdue": 0})
}
