package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
