package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// drivers are what the action tests run on. The expectations are the same for
// both: that is the point.
var drivers = []struct {
	name, env string
	xml       string // $d is the name
}{
	{"test", envTest, `<domain type='test'><name>$d</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>`},
	{"qemu", envQEMU, `<domain type='qemu'><name>$d</name><memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os><features><acpi/></features></domain>`},
}

func pick(first bool, a, b int) int {
	if first {
		return a
	}
	return b
}

func jsonString(s string) string { return fmt.Sprintf("%q", s) }

// A domain's whole life, and every refusal on the way.
func TestLiveDomainActions(t *testing.T) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			g := startGateway(t, d.name, liveSocket(t, d.env))
			name := fmt.Sprintf("live-%d", rand.Uint64())
			t.Cleanup(func() {
				for _, n := range []string{name, name + " b"} {
					g.try("DELETE", "/libvirt/domains/by-name/"+strings.ReplaceAll(n, " ", "%20")+"?options=destroy", "")
				}
			})
			one := "/libvirt/domains/by-name/$d"
			power := func(what, action string, status, code int, contains string) step {
				return step{what, "PATCH", one, `{"power_mgt":"` + action + `"}`, status, code, contains}
			}
			// The test driver has no flags for start, and lets a paused domain be
			// shut down.
			qemu := d.name == "qemu"
			pausedStatus, pausedCode, pausedSays := 201, -1, `"status":"Paused"`
			if !qemu {
				pausedStatus, pausedCode, pausedSays = 400, 202, "the definition was removed again"
			}
			g.walk(t, name, []step{
				{"no XML", "POST", "/libvirt/domains", `"<domain"`, 400, 105, ""},
				{"libvirt refuses the XML", "POST", "/libvirt/domains", `"<domain type='` + d.name + `'><name>$d</name></domain>"`, 400, 105, `"libvirt":`},
				{"create", "POST", "/libvirt/domains", jsonString(d.xml), 201, -1, `"created":true`},
				{"create again", "POST", "/libvirt/domains", jsonString(d.xml), 409, 106, ""},
				{"details", "GET", one, "", 200, -1, `"status":"Shutoff"`},

				power("shutdown while off", "shutdown", 409, 203, ""),
				power("reboot while off", "reboot", 409, 210, ""),
				power("reset while off", "reset", 409, 210, ""),
				power("suspend while off", "suspend", 409, 210, ""),
				power("resume while off", "resume", 409, 211, ""),
				power("destroy while off", "destroy", 409, 210, ""),
				power("no such power action", "explode", 400, 300, ""),

				{"maximum memory", "PATCH", one, `{"max_memory":"64MiB"}`, 200, -1, `{"max_memory":"Maximum memory set"}`},
				{"memory", "PATCH", one, `{"memory":49152}`, 200, -1, `{"memory":"Memory set"}`},
				{"both are seen", "GET", one + "?fields=ram,ram_max", "", 200, -1, `{"ram":49152,"ram_max":65536}`},
				{"more memory than the maximum", "PATCH", one, `{"memory":"1GiB"}`, 400, 206, ""},
				{"autostart", "PATCH", one, `{"autostart":true}`, 200, -1, `{"autostart":"Autostart enabled"}`},
				{"autostart is seen", "GET", "/libvirt/domains?autostart=true&name=$d&fields=name,autostart", "", 200, -1, `[{"name":"$d","autostart":true}]`},
				{"no autostart", "PATCH", one, `{"autostart":false}`, 200, -1, `{"autostart":"Autostart disabled"}`},
				{"no autostart is seen", "GET", "/libvirt/domains?autostart=true&name=$d", "", 200, -1, `"results":[]`},

				{"rename to itself", "PATCH", one, `{"name":"$d"}`, 409, 205, ""},
				{"rename to nothing", "PATCH", one, `{"name":""}`, 400, 103, ""},
				{"another domain", "POST", "/libvirt/domains", jsonString(strings.ReplaceAll(d.xml, "$d", "$d b")), 201, -1, ""},
				{"rename to its name", "PATCH", one, `{"name":"$d b"}`, 409, 106, ""},
				{"delete it", "DELETE", one + "%20b", "", 200, -1, ""},
				{"rename", "PATCH", one, `{"name":"$d b"}`, 200, -1, `{"name":"Domain renamed"}`},
				{"the old name is gone", "GET", one, "", 404, 42, ""},
				{"rename back", "PATCH", one + "%20b", `{"name":"$d"}`, 200, -1, ""},

				power("start", "start", 200, -1, `{"start":"Domain started"}`),
				power("start again", "start", 409, 201, ""),
				{"it runs", "GET", one, "", 200, -1, `"status":"Running"`},
				{"it is listed as running", "GET", "/libvirt/domains?state=running&name=$d&fields=name,active", "", 200, -1, `[{"name":"$d","active":true}]`},
				{"rename while running", "PATCH", one, `{"name":"$d b"}`, 409, 205, ""},
				{"maximum memory while running", "PATCH", one, `{"max_memory":"128MiB"}`, 409, 207, ""},
				power("resume while running", "resume", 409, 211, ""),
				{"delete while running", "DELETE", one, "", 409, 201, "destroy"},

				power("suspend", "suspend", 200, -1, `{"suspend":"Domain suspended"}`),
				{"it is paused", "GET", one, "", 200, -1, `"status":"Paused"`},
				power("suspend again", "suspend", pick(qemu, 200, 409), pick(qemu, -1, 203), ""),
				power("start while paused", "start", 409, 201, ""),
				power("resume", "resume", 200, -1, `{"resume":"Domain resumed"}`),
				power("reset", "reset", 200, -1, `{"reset":"Domain was reset"}`),
				power("reboot", "reboot", 200, -1, `{"reboot":"Domain is being rebooted"}`),
				{"several actions", "PATCH", one, `[{"power_mgt":"start"},{"power_mgt":"suspend","depends":0},{"autostart":true}]`, 409, 201, `Skipped`},
				{"the one without depends ran", "GET", one + "?fields=autostart", "", 200, -1, `"autostart":true`},
				{"a flag of none", "PATCH", one, `[{"power_mgt":"destroy"},{"power_mgt":{"request":"start","type":"nonsense"}}]`, 400, 301, ""},
				{"nothing ran", "GET", one + "?fields=active", "", 200, -1, `"active":true`},
				{"a flag of another request", "PATCH", one, `{"power_mgt":{"request":"destroy","type":"ACPI_POWER_BTN"}}`, 200, -1, `[{"destroy":"Domain destroyed"},"`},
				power("start once more", "start", 200, -1, ""),
				power("shutdown", "shutdown", 200, -1, `{"shutdown":"Domain is being shutdown"}`),
				{"delete, stopped first", "DELETE", one + "?options=destroy", "", 200, -1, `{"deleted":true,"uuid":"`},
				{"it is gone", "GET", one, "", 404, 42, `"message":"Invalid or missing domain."`},
				{"delete again", "DELETE", one, "", 404, 42, ""},

				{"start at once, paused", "POST", "/libvirt/domains?start=true&paused=true", jsonString(d.xml), pausedStatus, pausedCode, pausedSays},
				{"delete it", "DELETE", one + "?options=destroy", "", pick(qemu, 200, 404), pick(qemu, -1, 42), ""},
				{"transient", "POST", "/libvirt/domains?transient=true", jsonString(d.xml), 201, -1, `"persistent":false`},
				{"delete a transient one", "DELETE", one, "", 409, 201, ""},
				{"with destroy", "DELETE", one + "?options=destroy", "", 200, -1, ""},
				{"and it is gone", "GET", one, "", 404, 42, ""},
				{"from an object", "POST", "/libvirt/domains?start=true", `{"name":"$d","os":"Linux","memory":"64MiB"}`, 201, -1, `"status":"Running"`},
				{"its description", "GET", one + "/xml_desc", "", 200, -1, "<domain type='" + d.name + "'"},
				{"delete that", "DELETE", one + "?options=destroy", "", 200, -1, ""},
			})
		})
	}
}

// Each request that the reference prints, sent as printed.
func TestLiveReference(t *testing.T) {
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			g := startGateway(t, d.name, liveSocket(t, d.env))
			const uuid = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"
			for _, n := range []string{"debian-vm", "fedora-vm"} {
				g.do(t, "DELETE", "/libvirt/domains/by-name/"+n+"?options=destroy", "")
				t.Cleanup(func() { g.try("DELETE", "/libvirt/domains/by-name/"+n+"?options=destroy", "") })
			}
			debian := strings.Replace(strings.ReplaceAll(d.xml, "$d", "debian-vm"), "</name>", "</name><uuid>"+uuid+"</uuid>", 1)
			start := `[{"power_mgt":{"request":"start", "type":"ACPI_POWER_BTN"}}]`
			g.walk(t, "", []step{
				{"a number is no UUID", "GET", "/libvirt/domains/by-uuid/14", "", 400, 103, ""},
				{"create", "POST", "/libvirt/domains", jsonString(debian), 201, -1, ""},
				{"create from an object", "POST", "/libvirt/domains", `{"name":"fedora-vm","os":"Linux"}`, 201, -1, `"name":"fedora-vm"`},
				{"list", "GET", "/libvirt/domains?state=running&has_snapshot=true", "", 200, -1, `"results":[]`},
				{"details", "GET", "/libvirt/domains/by-uuid/" + uuid, "", 200, -1, `"uuid":"` + uuid + `"`},
				{"xml_desc", "GET", "/libvirt/domains/by-uuid/" + uuid + "/xml_desc", "", 200, -1, `["<domain `},
				{"start", "PATCH", "/libvirt/domains/by-name/debian-vm", start, 200, -1, `"messages":[{"start":"Domain started"}`},
				{"start again", "PATCH", "/libvirt/domains/by-name/debian-vm", start, 409, 201, `"message":"Domain is already active"`},
				{"missing", "GET", "/libvirt/domains/by-name/nosuch", "", 404, 42, `"message":"Invalid or missing domain."`},
				{"destroy", "PATCH", "/libvirt/domains/by-name/debian-vm", `{"power_mgt":"destroy"}`, 200, -1, ""},
			})
			if d.name == "qemu" { // the test driver does not know the option
				g.walk(t, "", []step{
					{"delete", "PATCH", "/libvirt/domains/by-name/debian-vm?options=keep_nvram", "", 200, -1, `"deleted":true`},
				})
			}
			a := g.do(t, "GET", "/libvirt/domains?state=running&has_snapshot=true", "",
				"X-Auth-Username", "", "X-Auth-User-Service-Key", readKey, "X-Packet-ID", "packet 7")
			if a.status != http.StatusOK || a.header.Get("X-Packet-ID") != "packet 7" {
				t.Errorf("key and service key: %d, %v", a.status, a.header)
			}
		})
	}
}
