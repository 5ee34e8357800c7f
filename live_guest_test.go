package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A real Linux guest boots, answers an ACPI shutdown, and is deleted.
func TestLiveGuest(t *testing.T) {
	t.Parallel()
	dir := os.Getenv(envGuest)
	if dir == "" {
		t.Skipf("%s is not set: scripts/test makes the guest that this test needs", envGuest)
	}
	g := startGateway(t, "qemu", liveSocket(t, envQEMU))
	doc, err := os.ReadFile(filepath.Join(dir, "guest.xml"))
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("live-guest-%d", rand.Uint64())
	serial := filepath.Join(t.TempDir(), "serial")
	xml := strings.Replace(string(doc), "<name>guest</name>", "<name>"+name+"</name>", 1)
	xml = strings.Replace(xml, filepath.Join(dir, "serial.log"), serial, 1)
	one := "/libvirt/domains/by-name/" + name
	t.Cleanup(func() { g.try("DELETE", one+"?options=destroy", "") })

	if a := g.do(t, "POST", "/libvirt/domains?start=true", jsonString(xml)); a.status != 201 {
		t.Fatalf("create: %s", a.raw)
	}
	eventually(t, "the guest's prompt", time.Minute, func() bool {
		b, _ := os.ReadFile(serial)
		return bytes.Contains(b, []byte("guest ready"))
	})
	if a := g.do(t, "PATCH", one, `{"power_mgt":{"request":"shutdown","type":"acpi_power_btn"}}`); a.status != 200 {
		t.Fatalf("shutdown: %s", a.raw)
	}
	eventually(t, "Shutoff", time.Minute, func() bool {
		return strings.Contains(g.do(t, "GET", one+"?fields=status", "").raw, `"Shutoff"`)
	})
	b, _ := os.ReadFile(serial)
	if !bytes.Contains(b, []byte("guest stops")) {
		t.Errorf("the guest did not see its power button: %s", b)
	}
	if a := g.do(t, "GET", one+"?fields=status_reason", ""); !strings.Contains(a.raw, `"shutdown"`) {
		t.Errorf("the reason: %s", a.raw)
	}
	if a := g.do(t, "DELETE", one, ""); a.status != 200 {
		t.Errorf("delete: %s", a.raw)
	}
}

// qemuPID is the process of a domain.
func qemuPID(t *testing.T, name string) int {
	t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.Contains(string(b), "guest="+name+",") && bytes.Contains(b[:min(len(b), 40)], []byte("qemu")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	t.Fatalf("no process of %s", name)
	return 0
}

// A guest whose QEMU does not answer delays nothing but what is asked of it.
func TestLiveHungGuest(t *testing.T) {
	g := startGateway(t, "qemu", liveSocket(t, envQEMU), "libvirtd.call_timeout=2s", "http_server.request_timeout=3s")
	var names []string
	for i := range 2 {
		name := fmt.Sprintf("live-hung-%d-%d", i, rand.Uint64())
		t.Cleanup(func() { g.try("DELETE", "/libvirt/domains/by-name/"+name+"?options=destroy", "") })
		xml := strings.ReplaceAll(`<domain type='qemu'><name>$d</name><memory unit='MiB'>32</memory><os><type arch='x86_64'>hvm</type></os></domain>`, "$d", name)
		if a := g.do(t, "POST", "/libvirt/domains?start=true", jsonString(xml)); a.status != 201 {
			t.Fatalf("create: %s", a.raw)
		}
		names = append(names, name)
	}
	hung, other := "/libvirt/domains/by-name/"+names[0], "/libvirt/domains/by-name/"+names[1]
	pid := qemuPID(t, names[0])
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := sync.OnceFunc(func() { syscall.Kill(pid, syscall.SIGCONT) })
	t.Cleanup(goOn) // before the domain is deleted

	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			a, err := g.try("PATCH", hung, `{"power_mgt":"suspend"}`)
			if err != nil {
				t.Error(err)
				return
			}
			if a.status != 504 || a.code() != 12 || a.took > 6*time.Second {
				t.Errorf("suspend of the hung guest: %d in %s: %s", a.status, a.took, a.raw)
			}
		})
	}
	// While those wait, and after they were given up:
	for i := range 40 {
		for _, path := range []string{"/libvirt/domains", hung, other, other + "/xml_desc"} {
			if path == other+"/xml_desc" && i > 0 {
				continue
			}
			if a := g.do(t, "GET", path, ""); a.status != 200 || a.took > 2*time.Second {
				t.Errorf("GET %s beside a hung guest: %d in %s %s", path, a.status, a.took, a.raw)
			}
		}
		action := `{"power_mgt":"suspend"}`
		if i%2 == 1 {
			action = `{"power_mgt":"resume"}`
		}
		if a := g.do(t, "PATCH", other, action); a.status != 200 || a.took > 2*time.Second {
			t.Errorf("%s of another guest: %d in %s: %s", action, a.status, a.took, a.raw)
		}
	}
	wg.Wait()
	start := time.Now()
	if a := g.do(t, "PATCH", hung, `{"power_mgt":"suspend"}`); a.status != 504 || time.Since(start) > time.Second {
		t.Errorf("the circuit of the hung guest is not broken: %d after %s: %s", a.status, time.Since(start), a.raw)
	}
	goOn()
	eventually(t, "the guest answers again", 40*time.Second, func() bool {
		a := g.do(t, "PATCH", hung, `{"power_mgt":"resume"}`)
		return a.status == 200 || a.code() == 211
	})
}
