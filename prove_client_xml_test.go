package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// A domain is there. XML that tries to be read as another one by this server
// and as that one by libvirt does not replace it: it is refused, or makes the
// domain that the server looked for before, which a second try shows.
func TestProveNothingIsReplaced(t *testing.T) {
	d := startDaemon(t)
	g := startGateway(t, "test", d.socket(), "http_server.body_limit=16MiB")
	const (
		uuid  = "11111111-2222-3333-4444-5555555555aa"
		other = "99999999-2222-3333-4444-555555555555"
		rest  = "<memory unit='MiB'>32</memory><vcpu>1</vcpu><os><type>hvm</type></os>"
	)
	in := func(inner string) string { return "<domain type='test'>" + inner + rest + "</domain>" }
	victim := in("<name>victim</name><uuid>" + uuid + "</uuid><title>first</title>")
	if a := g.do(t, "POST", "/libvirt/domains", jsonString(victim)); a.status != 201 {
		t.Fatal(a.raw)
	}
	state := func() (xml string, names map[string]bool) {
		names = map[string]bool{}
		for _, r := range g.do(t, "GET", "/libvirt/domains?fields=name", "").Results {
			var one struct{ Name string }
			if err := json.Unmarshal(r, &one); err != nil {
				t.Fatal(err)
			}
			names[one.Name] = true
		}
		return g.do(t, "GET", "/libvirt/domains/by-name/victim/xml_desc?options=secure,inactive", "").raw, names
	}
	before, names := state()

	const free, freeUUID = "<name>free</name>", "<uuid>" + other + "</uuid>"
	const taken, takenUUID = "<name>victim</name>", "<uuid>" + uuid + "</uuid>"
	utf7 := "+AHY-ictim" // victim, for who decodes it
	bodies := map[string]string{
		"the same again":               victim,
		"the same, changed":            in(taken + takenUUID + "<title>second</title>"),
		"the name":                     in(taken),
		"the UUID":                     in(free + takenUUID),
		"the UUID without dashes":      in(free + "<uuid>" + strings.ReplaceAll(uuid, "-", "") + "</uuid>"),
		"the UUID in capitals":         in(free + "<uuid> " + strings.ToUpper(uuid) + "\n</uuid>"),
		"the UUID with other dashes":   in(free + "<uuid>1111-11112222333344445555555555aa</uuid>"),
		"the UUID with spaces":         in(free + "<uuid>1111 1111 2222 3333 4444 5555 5555 55aa</uuid>"),
		"another name first":           in(free + freeUUID + taken + takenUUID),
		"another name last":            in(taken + takenUUID + free + freeUUID),
		"another name last, odd UUID":  in(taken + free + "<uuid> 11111111-22223333-4444-5555 555555aa</uuid>"),
		"another name in a namespace":  in(taken + takenUUID + "<x:name xmlns:x='u'>free</x:name><x:uuid xmlns:x='u'>" + other + "</x:uuid>"),
		"in no declared namespace":     in(taken + takenUUID + "<x:name>free</x:name><x:uuid>" + other + "</x:uuid>"),
		"in a namespace of its own":    in(taken + takenUUID + "<name xmlns='u'>free</name><uuid xmlns='u'>" + other + "</uuid>"),
		"in an empty namespace":        in(taken + takenUUID + "<name xmlns=''>free</name>"),
		"the taken one in a namespace": in("<x:name xmlns:x='u'>victim</x:name>" + free),
		"in the root's namespace":      "<domain type='test' xmlns='u'>" + taken + takenUUID + rest + "</domain>",
		"the root in a namespace":      "<x:domain type='test' xmlns:x='u'>" + taken + takenUUID + rest + "</x:domain>",
		"the root in one, a free name": "<x:domain type='test' xmlns:x='u'>" + free + rest + "</x:domain>",
		"a name in pieces":             in("<name>vic<!-- a -->t<?b?>i<![CDATA[m]]></name>" + takenUUID),
		"a name in references":         in("<name>&#118;&#x69;ctim</name>" + takenUUID),
		"a name in elements":           in("<name>vic<b>tim</b></name><uuid>1111 1111222233334444 5555555555aa</uuid>"),
		"a name around spaces":         in("<name> victim </name>"),
		"a name ending a line":         in("<name>victim\n</name>" + takenUUID),
		"an entity for the name":       `<!DOCTYPE domain [<!ENTITY v "victim">]>` + in("<name>&v;</name>"+takenUUID),
		"an attribute default":         `<!DOCTYPE domain [<!ATTLIST domain type CDATA "test">]>` + in(taken+takenUUID),
		"UTF-7":                        `<?xml version="1.0" encoding="UTF-7"?>` + in("<name>"+utf7+"</name>"),
		"UTF-7, hidden from Go":        `<?xml version="1.0" encoding ="UTF-7"?>` + in("<name>"+utf7+"</name>"),
		"UTF-16 that is none":          `<?xml version="1.0" encoding = "UTF-16"?>` + in(taken+takenUUID),
		"Latin 1":                      `<?xml version="1.0" encoding = "ISO-8859-1"?>` + in("<name>é</name>"),
		"UTF-8 with a mark":            "\ufeff<?xml version=\"1.0\" encoding=\"utf-8\"?>" + in("<name>é</name>"),
		"NUL behind":                   in(taken+takenUUID) + "\x00" + in(free+freeUUID),
		"NUL in a comment":             in(taken+takenUUID) + "<!-- \x00 -->" + in(free+freeUUID),
		"two roots":                    in(free+freeUUID) + in(taken+takenUUID),
		"a snapshot":                   "<domainsnapshot><name>victim</name>" + in(taken+takenUUID) + "</domainsnapshot>",
		"a domain within":              "<domain type='test'>" + free + rest + "<metadata>" + in(taken+takenUUID) + "</metadata></domain>",
		"XInclude":                     in(free + `<xi:include xmlns:xi="http://www.w3.org/2001/XInclude" href="file:///etc/passwd" parse="text"/>`),
		"a name in another element":    in("<os><name>victim</name></os>" + free),
		"another element before":       in("<title>" + taken[6:12] + "</title>" + free + "<description>victim</description>"),
		"an empty UUID":                in(free + "<uuid/>"),
		"an empty UUID before":         in(free + "<uuid></uuid>" + takenUUID),
		"the UUID of firmware":         in(free + freeUUID + "<sysinfo type='smbios'><system><entry name='uuid'>" + uuid + "</entry></system></sysinfo>"),
		"4 MiB":                        in(free + "<title>" + strings.Repeat("a", 4<<20) + "</title>"),
		"just under 4 MiB":             in(free + "<description>" + strings.Repeat("a", 4<<20-1000) + "</description>"),
	}
	refused, made := 0, 0
	for what, doc := range bodies {
		for _, query := range []string{"", "?transient=true", "?validate=true"} {
			a, err := g.try("POST", "/libvirt/domains"+query, jsonXML(t, doc))
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			after, now := state()
			if after != before {
				t.Fatalf("%s%s changed the domain that was there: %s", what, query, after)
			}
			if a.status != 201 {
				refused++
				if len(now) != len(names) || a.status >= 500 && a.status != 502 && a.status != 501 {
					t.Errorf("%s%s: %d %.300s, domains %v", what, query, a.status, a.raw, now)
				}
				continue
			}
			made++
			var one struct{ Name, UUID string }
			if err := json.Unmarshal(a.Results[0], &one); err != nil || !now[one.Name] || len(now) != len(names)+1 {
				t.Errorf("%s%s: made %s, domains %v", what, query, a.raw, now)
			}
			if again := g.do(t, "POST", "/libvirt/domains"+query, jsonXML(t, doc)); again.status != 409 || again.code() != 106 || again.Errors[0].LibvirtCode != 0 {
				t.Errorf("%s%s made %q, and the server does not see that it is there: %d %s", what, query, one.Name, again.status, again.raw)
			}
			if a := g.do(t, "DELETE", "/libvirt/domains/by-uuid/"+one.UUID+"?options=destroy", ""); a.status != 200 {
				t.Fatalf("%s: %s", what, a.raw)
			}
		}
	}
	if made == 0 || refused == 0 {
		t.Errorf("%d made, %d refused: nothing is shown", made, refused)
	}
	if !t.Failed() {
		t.Attr("case", "XML that is one domain to a parser of Go and another one to libvirt's")
		t.Attr("promised", "the domain that is there is never replaced; what is made is what was looked for")
		t.Attr("measured", fmt.Sprintf("%d documents, 3 ways each: %d refused, %d made as looked for, 0 replaced", len(bodies), refused, made))
	}
}

// jsonXML is a document as a JSON string; jsonString is Go's spelling, which is
// another one for what is not printable.
func jsonXML(t testing.TB, doc string) string {
	t.Helper()
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
