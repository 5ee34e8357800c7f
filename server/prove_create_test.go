package server

import (
	"fmt"
	"strings"
	"testing"

	"virtgate/auth"
	"virtgate/envelope"
)

// XML that expands, that reads files or hosts, or from which libvirt could read
// another name or UUID than this server, never gets to libvirt.
func TestProveHostileXML(t *testing.T) {
	s, calls := onDaemon(t, func(o *Options, _ *auth.Config) { o.BodyLimit = 16 << 20 })
	const uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
	in := func(inner string) string { return "<domain type='test'>" + inner + "</domain>" }
	bomb := `<!ENTITY a0 "lol">`
	for i := range 9 {
		bomb += fmt.Sprintf(`<!ENTITY a%d "%s">`, i+1, strings.Repeat(fmt.Sprintf("&a%d;", i), 10))
	}
	wide := func(s string) string { // UTF-16, as far as JSON can hold it
		return "\ufeff" + strings.Join(strings.Split(s, ""), "\x00")
	}
	named := in("<name>a</name>")
	docs := []string{
		// Entities and document types, however written.
		"<!DOCTYPE domain [" + bomb + "]>" + in("<name>&a9;</name>"),
		"<!DOCTYPE domain [<!ENTITY a '" + strings.Repeat("x", 100_000) + "'>]>" + in("<name>"+strings.Repeat("&a;", 100_000)+"</name>"),
		`<!DOCTYPE domain [<!ENTITY a SYSTEM "file:///etc/passwd">]>` + in("<name>a</name><title>&a;</title>"),
		`<!DOCTYPE domain [<!ENTITY % a SYSTEM "http://127.0.0.1:1/a.dtd">%a;]>` + named,
		`<!DOCTYPE domain SYSTEM "http://127.0.0.1:1/a.dtd">` + named,
		`<!DOCTYPE domain PUBLIC "a" "file:///dev/zero">` + named,
		`<!DOCTYPE domain>` + named, `<!doctype domain>` + named, "<!DOCTYPE\tdomain\n>" + named, `<?xml version="1.0"?><!-- a --><!DOCTYPE domain>` + named,
		"\ufeff<!DOCTYPE domain>" + named, `<?a?><!DOCTYPE domain [<!ATTLIST domain type CDATA "kvm">]>` + named, named + `<!DOCTYPE domain>`,
		"<!ENTITY a 'b'>" + named, in("<!DOCTYPE domain><name>a</name>"), in("<name>&a;</name>"), in("<name>&#0;</name>"), in("<name>&#xfffe;</name>"),
		"<![CDATA[<!DOCTYPE domain>]]" + named, "<!" + named, "<!>" + named, "<![ INCLUDE [" + named + "]]>",
		// Encodings.
		wide(named), wide(`<?xml version="1.0" encoding="UTF-16"?>` + named), `<?xml version="1.0" encoding="UTF-16"?>` + named,
		`<?xml version="1.0" encoding='UTF-7'?>` + in("<name>+AHY-ictim</name>"), `<?xml version="1.0" encoding ="UTF-7"?>` + in("<name>+AHY-ictim</name>"),
		`<?xml version="1.0" encoding= "IBM037"?>` + named, "<?xml version='1.0'\nencoding\n=\n'ISO-2022-JP'?>" + named, `<?xml version = "1.1"?>` + named,
		`<?xml encoding="UTF-8"?>` + named, `<?xml version="1.0" a="encoding='utf-8'" encoding ="UTF-7"?>` + named, `<?XML version="1.0" encoding ="UTF-7"?>` + named,
		named + "\x00", named + "<!-- \x00 -->" + in("<name>b</name>"), "\x00" + named,
		// Two readings of one document.
		in("<name>victim</name><name>a</name>"), in("<name/><name>a</name>"), in("<name>vic<b>tim</b></name>"), in(`<name>a<x:b xmlns:x="u"/></name>`),
		in("<name>a</name>") + in("<name>b</name>"), in("<name>a</name><uuid>" + uuid + "</uuid><uuid/>"), in("<name>a</name><uuid>" + uuid[:8] + " " + uuid[8:] + "</uuid>"),
		in("<name>a</name><uuid>" + strings.ReplaceAll(uuid, "-", "--") + "</uuid>"), in("<name>a</name><uuid>{" + uuid + "}</uuid>"),
		in("<name>a</name><uuid>urn:uuid:" + uuid + "</uuid>"), in("<name>a</name><uuid>" + uuid[:35] + "</uuid>"), in("<name>a</name><uuid>" + uuid + "\u00a0</uuid>"),
		"<domainsnapshot>" + named + "</domainsnapshot>", "<domains>" + named + "</domains>", "<network><name>a</name></network>", "<DOMAIN><name>a</name></DOMAIN>",
		"<domain xmlns='u'><name>a</name></domain>", in("<x:name xmlns:x='u'>a</x:name>"), in("<os><name>a</name></os>"),
		// Sizes and what is no XML.
		in("<name>a</name>" + strings.Repeat("<a>", 300) + strings.Repeat("</a>", 300)), strings.Repeat("<domain>", 60_000),
		in("<name>" + strings.Repeat("a<!---->", 60_000) + "</name>"), in("<name>" + strings.Repeat("a", 254) + "</name>"),
		"", " ", "a", "<", "<domain", "<domain>", "<domain/>", "</domain>", in("<name></name>"), in("<name>a\nb</name>"), in("<name>a&#10;b</name>"), in("<name>a</nam>"),
		"<domain type=test><name>a</name></domain>", in("<name a='<'>a</name>"), in("<name>a]]></name>"), in("<name>a</name><!-- -- -->"),
	}
	for _, doc := range docs {
		for _, body := range []string{string(envelope.Raw(doc)), "[" + string(envelope.Raw(doc)) + "]"} {
			w := ask(s, "POST", "/libvirt/domains", body)
			if code, err := enveloped(w.Body.Bytes()); err != nil || w.Code != 400 || code != 105 || w.Body.Len() > 1000 {
				t.Errorf("%.300q: %d %.300s", body, w.Code, w.Body)
			}
		}
	}
	tooLong := string(envelope.Raw(in("<name>a</name><title>" + strings.Repeat("a", 4<<20) + "</title>")))
	if w := ask(s, "POST", "/libvirt/domains", tooLong); w.Code != 413 {
		t.Errorf("over 4 MiB: %d %.300s", w.Code, w.Body)
	}
	if n := calls.Load(); n != 0 {
		t.Errorf("%d libvirt calls", n)
	}
	if !t.Failed() {
		t.Attr("case", "XML with entities, document types, other encodings, two names, or of absurd depth and size")
		t.Attr("promised", "refused with 105 (over 4 MiB: 413), in an array too, and libvirt does not hear of it")
		t.Attr("measured", fmt.Sprintf("%d documents, 0 libvirt calls", len(docs)+1))
	}
}

// What XML cannot hold would become something else on the way to libvirt, which
// is asked for the name that the client gave.
func TestCreateTextThatXMLHasNot(t *testing.T) {
	s, calls := onDaemon(t, nil)
	for _, body := range []string{
		`{"name":"a\uffff","os":"Linux"}`,
		`{"name":"a","os":"Linux","description":"\u0001"}`,
		`{"name":"a","os":"Linux","disks":[{"path":"/a\u0008"}]}`,
	} {
		if w := ask(s, "POST", "/libvirt/domains", body); w.Code != 400 || !strings.Contains(w.Body.String(), `"code":105`) {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := ask(s, "PATCH", "/libvirt/domains/by-name/a", `{"name":"b\ufffe"}`); w.Code != 400 || !strings.Contains(w.Body.String(), `"code":103`) {
		t.Errorf("rename: %d %s", w.Code, w.Body)
	}
	if calls.Load() != 0 {
		t.Errorf("%d calls", calls.Load())
	}
}

// A description that fits into a body and not, escaped, into a libvirt message
// would end the connection with everything on it.
func TestCreateTooMuchXML(t *testing.T) {
	s, calls := onDaemon(t, func(o *Options, _ *auth.Config) { o.BodyLimit = 16 << 20 })
	for what, body := range map[string]string{
		"escaped": `{"name":"a","os":"Linux","description":"` + strings.Repeat("&", 1<<20) + `"}`,
		"plain":   `"` + strings.Repeat(" ", maxXML) + `<domain><name>a</name></domain>"`,
	} {
		calls.Store(0)
		// An object costs the question what the host can run.
		if w := ask(s, "POST", "/libvirt/domains", body); w.Code != 413 || !strings.Contains(w.Body.String(), `"code":15`) || calls.Load() > 1 {
			t.Errorf("%s: %d %.200s, %d calls", what, w.Code, w.Body, calls.Load())
		}
	}
}
