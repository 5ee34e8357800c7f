package metrics

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"virtgate/libvirtrpc"
)

// figure is how one of libvirt's figures is exposed.
type figure struct {
	*prometheus.Desc
	kind prometheus.ValueType
	in   unit // what libvirt counts in
}

type unit int

const (
	one unit = iota
	kib
	ns
)

// of is n in Prometheus' base units, bytes and seconds.
func (u unit) of(n uint64) float64 {
	switch u {
	case kib:
		return float64(n) * 1024
	case ns:
		return float64(n) / 1e9
	}
	return float64(n)
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("libvirt_"+name, help, labels, nil)
}

func ofDomain(name, help string, kind prometheus.ValueType, in unit) figure {
	return figure{desc("domain_"+name, help, "domain"), kind, in}
}

func ofDevice(name, help string, kind prometheus.ValueType, in unit) figure {
	return figure{desc("domain_"+name, help, "domain", "target_device"), kind, in}
}

func ofCPU(name, help string, kind prometheus.ValueType, in unit) figure {
	return figure{desc("domain_vcpu_"+name, help, "domain", "vcpu"), kind, in}
}

// The names and labels are those of inovex/prometheus-libvirt-exporter; the keys
// are libvirt's (virConnectGetAllDomainStats).
var (
	up       = desc("up", "1 when libvirt answered this scrape.")
	domains  = desc("domains", "Domains on this host, inactive ones included.")
	timedOut = desc("domain_timed_out", "1 when the domain's QEMU was not asked or did not answer in time: its own figures are missing then.", "domain")

	info          = desc("domain_info", "1; the labels say what kind of machine the domain is.", "domain", "os_type", "os_type_arch", "os_type_machine")
	openstackInfo = desc("domain_openstack_info", "1; the labels are OpenStack's metadata of the domain.", "domain", "instance_name", "instance_id", "flavor_name", "user_name", "user_id", "project_name", "project_id")
	blockInfo     = desc("domain_block_stats_info", "1; the labels describe a disk.", "domain", "disk_type", "target_bus", "driver_name", "driver_type", "driver_cache", "driver_discard", "source_file", "source_protocol", "target_device", "serial")
	interfaceInfo = desc("domain_interface_stats_info", "1; the labels describe a network interface.", "domain", "interface_type", "source_bridge", "target_device", "mac_address", "model_type", "mtu_size")

	infoState     = desc("domain_info_state", "State of the domain, virDomainState.", "domain", "state_desc")
	infoMaxMemory = desc("domain_info_maximum_memory_bytes", "Memory that the domain can be given.", "domain")
	infoMemory    = desc("domain_info_memory_usage_bytes", "Memory that the domain has.", "domain")
	infoCPUs      = desc("domain_info_virtual_cpus", "Virtual CPUs of the domain.", "domain")
	infoCPUTime   = desc("domain_info_cpu_time_seconds_total", "CPU time that the domain used.", "domain")

	usedPercent = desc("domain_memory_stats_used_percent", "Memory that the guest uses of what it sees, in percent.", "domain")

	domainFigures = map[string]figure{
		"vcpu.current":            ofDomain("vcpu_current", "Virtual CPUs that are online.", gauge, one),
		"vcpu.maximum":            ofDomain("vcpu_maximum", "Virtual CPUs that can be online.", gauge, one),
		"balloon.current":         ofDomain("memory_stats_current_balloon_bytes", "Memory that the balloon leaves to the guest.", gauge, kib),
		"balloon.maximum":         ofDomain("memory_stats_maximum_bytes", "Memory that the guest can be given.", gauge, kib),
		"balloon.swap_in":         ofDomain("memory_stats_swap_in_bytes", "Data that the guest read from its swap space.", gauge, kib),
		"balloon.swap_out":        ofDomain("memory_stats_swap_out_bytes", "Data that the guest wrote to its swap space.", gauge, kib),
		"balloon.major_fault":     ofDomain("memory_stats_major_fault_total", "Page faults in the guest that took a disk.", counter, one),
		"balloon.minor_fault":     ofDomain("memory_stats_minor_fault_total", "Page faults in the guest that took no disk.", counter, one),
		"balloon.unused":          ofDomain("memory_stats_unused_bytes", "Memory that the guest leaves unused.", gauge, kib),
		"balloon.available":       ofDomain("memory_stats_available_bytes", "Memory that the guest sees.", gauge, kib),
		"balloon.usable":          ofDomain("memory_stats_usable_bytes", "Memory that the guest could use without swapping.", gauge, kib),
		"balloon.last-update":     ofDomain("memory_stats_last_update_timestamp_seconds", "When the guest last said so, in Unix time.", gauge, one),
		"balloon.disk_caches":     ofDomain("memory_stats_disk_caches_bytes", "Memory of the guest that caches its disks.", gauge, kib),
		"balloon.hugetlb_pgalloc": ofDomain("memory_stats_hugetlb_pgalloc_total", "Huge pages that the guest allocated.", counter, one),
		"balloon.hugetlb_pgfail":  ofDomain("memory_stats_hugetlb_pgfail_total", "Huge pages that the guest could not allocate.", counter, one),
		"balloon.rss":             ofDomain("memory_stats_rss_bytes", "Memory of the host that the domain's process holds.", gauge, kib),
	}
	cpuFigures = map[string]figure{
		"state": ofCPU("state", "State of the virtual CPU, virVcpuState.", gauge, one),
		"time":  ofCPU("time_seconds_total", "Time that the virtual CPU ran.", counter, ns),
		"wait":  ofCPU("wait_seconds_total", "Time that the virtual CPU waited without running.", counter, ns),
		"delay": ofCPU("delay_seconds_total", "Time that the virtual CPU waited for a CPU of the host; the guest sees it as stolen.", counter, ns),
	}
	diskFigures = map[string]figure{
		"rd.bytes": ofDevice("block_stats_read_bytes_total", "Data read from the disk.", counter, one),
		"rd.reqs":  ofDevice("block_stats_read_requests_total", "Reads from the disk.", counter, one),
		"rd.times": ofDevice("block_stats_read_time_seconds_total", "Time that reads from the disk took.", counter, ns),
		"wr.bytes": ofDevice("block_stats_write_bytes_total", "Data written to the disk.", counter, one),
		"wr.reqs":  ofDevice("block_stats_write_requests_total", "Writes to the disk.", counter, one),
		"wr.times": ofDevice("block_stats_write_time_seconds_total", "Time that writes to the disk took.", counter, ns),
		"fl.reqs":  ofDevice("block_stats_flush_requests_total", "Flushes of the disk's cache.", counter, one),
		"fl.times": ofDevice("block_stats_flush_time_seconds_total", "Time that flushes of the disk's cache took.", counter, ns),
		"capacity": ofDevice("block_stats_capacity_bytes", "Size of the disk as the guest sees it.", gauge, one),
	}
	interfaceFigures = map[string]figure{
		"rx.bytes": ofDevice("interface_stats_receive_bytes_total", "Data received on the interface.", counter, one),
		"rx.pkts":  ofDevice("interface_stats_receive_packets_total", "Packets received on the interface.", counter, one),
		"rx.errs":  ofDevice("interface_stats_receive_errors_total", "Errors of receiving on the interface.", counter, one),
		"rx.drop":  ofDevice("interface_stats_receive_drops_total", "Packets that were dropped instead of being received on the interface.", counter, one),
		"tx.bytes": ofDevice("interface_stats_transmit_bytes_total", "Data sent on the interface.", counter, one),
		"tx.pkts":  ofDevice("interface_stats_transmit_packets_total", "Packets sent on the interface.", counter, one),
		"tx.errs":  ofDevice("interface_stats_transmit_errors_total", "Errors of sending on the interface.", counter, one),
		"tx.drop":  ofDevice("interface_stats_transmit_drops_total", "Packets that were dropped instead of being sent on the interface.", counter, one),
	}

	poolState      = desc("storage_pool_state", "State of the storage pool, virStoragePoolState.", "storage_pool")
	poolCapacity   = desc("storage_pool_capacity_bytes", "Size of the storage pool.", "storage_pool")
	poolAllocation = desc("storage_pool_allocation_bytes", "Allocated part of the storage pool.", "storage_pool")
	poolAvailable  = desc("storage_pool_available_bytes", "Free part of the storage pool.", "storage_pool")
	poolTimedOut   = desc("storage_pool_timed_out", "1 when the storage pool did not answer in time: its figures are missing then.", "storage_pool")
)

// stateDescs are the values of state_desc by virDomainState, as libvirt-domain.h
// describes them.
var stateDescs = [...]string{
	"no state",
	"the domain is running",
	"the domain is blocked on resource",
	"the domain is paused by user",
	"the domain is being shut down",
	"the domain is shut off",
	"the domain is crashed",
	"the domain is suspended by guest power management",
}

// host collects one look at libvirt. What it has depends on the host, so it
// describes nothing beforehand.
type host struct {
	stats *libvirtrpc.HostStats // nil: libvirt did not answer
}

func (host) Describe(chan<- *prometheus.Desc) {}

func (h host) Collect(ch chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		for i := range labels {
			labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD")
		}
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	put(up, gauge, truth(h.stats != nil))
	if h.stats == nil {
		return
	}
	put(domains, gauge, float64(len(h.stats.Domains)))
	for i := range h.stats.Domains {
		collectDomain(put, &h.stats.Domains[i])
	}
	for _, p := range h.stats.Pools {
		put(poolTimedOut, gauge, truth(p.TimedOut), p.Name)
		if p.TimedOut {
			continue
		}
		put(poolState, gauge, float64(p.State), p.Name)
		put(poolCapacity, gauge, float64(p.CapacityBytes), p.Name)
		put(poolAllocation, gauge, float64(p.AllocationBytes), p.Name)
		put(poolAvailable, gauge, float64(p.AvailableBytes), p.Name)
	}
}

type putFunc func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string)

func collectDomain(put putFunc, d *libvirtrpc.DomainStats) {
	put(timedOut, gauge, truth(d.TimedOut), d.Name)
	if d.Info {
		text := ""
		if int(d.State) < len(stateDescs) {
			text = stateDescs[d.State]
		}
		put(infoState, gauge, float64(d.State), d.Name, text)
		put(infoMaxMemory, gauge, kib.of(d.MaxMemoryKiB), d.Name)
		put(infoMemory, gauge, kib.of(d.MemoryKiB), d.Name)
		put(infoCPUs, gauge, float64(d.VCPUs), d.Name)
		put(infoCPUTime, counter, ns.of(d.CPUTimeNs), d.Name)
	}
	if a := d.Description; a != nil {
		put(info, gauge, 1, d.Name, a.OSType, a.Arch, a.Machine)
		n := a.Nova
		put(openstackInfo, gauge, 1, d.Name, n.Name, d.UUID.String(), n.Flavor, n.UserName, n.UserID, n.ProjectName, n.ProjectID)
		if d.Active() {
			collectDevices(put, d.Name, a)
		}
	}
	var available, usable float64
	for _, v := range d.Values {
		switch v.Name {
		case "balloon.available":
			available = float64(v.N)
		case "balloon.usable":
			usable = float64(v.N)
		}
		if f, ok := domainFigures[v.Name]; ok {
			put(f.Desc, f.kind, f.in.of(v.N), d.Name)
		}
	}
	if available > 0 {
		put(usedPercent, gauge, (available-usable)/available*100, d.Name)
	}
	for _, l := range []struct {
		figures map[string]figure
		devices []libvirtrpc.Device
	}{{cpuFigures, d.CPUs}, {diskFigures, d.Disks}, {interfaceFigures, d.Interfaces}} {
		for _, dev := range l.devices {
			if dev.Name == "" {
				continue
			}
			for _, v := range dev.Values {
				if f, ok := l.figures[v.Name]; ok {
					put(f.Desc, f.kind, f.in.of(v.N), d.Name, dev.Name)
				}
			}
		}
	}
}

// collectDevices describes disks, without the drives for removable media, and
// the interfaces that the host sees.
func collectDevices(put putFunc, domain string, a *libvirtrpc.Description) {
	for _, v := range a.Disks {
		if v.Device == "cdrom" || v.Device == "floppy" {
			continue
		}
		put(blockInfo, gauge, 1, domain, v.Type, v.Bus, v.DriverName, v.DriverType, v.DriverCache, v.DriverDiscard, v.SourceFile, v.SourceProtocol, v.Target, v.Serial)
	}
	for _, v := range a.Interfaces {
		if v.Target != "" {
			put(interfaceInfo, gauge, 1, domain, v.Type, v.SourceBridge, v.Target, v.MAC, v.Model, v.MTU)
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
