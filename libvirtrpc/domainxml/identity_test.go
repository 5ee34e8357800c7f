package domainxml

import (
	"strings"
	"testing"
)

const someUUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

func TestReadIdentity(t *testing.T) {
	for doc, want := range map[string]string{ // name and UUID
		`<domain><name>a</name></domain>`:                                                                  "a ",
		`<domain><name>a</name><uuid>` + someUUID + `</uuid></domain>`:                                     "a " + someUUID,
		`<domain><uuid> ` + strings.ToUpper(someUUID) + "\n</uuid><name/></domain>":                        " " + someUUID,
		`<domain><name>a</name><uuid/></domain>`:                                                           "a ",
		`<domain><name>a<!-- b -->b<?c d?><![CDATA[<c>]]>&#100;&amp;</name></domain>`:                      "ab<c>d& ",
		`<domain><x:name xmlns:x="u">b</x:name><name>a</name></domain>`:                                    "a ",
		`<domain><name xmlns="u">b</name><x:name>c</x:name><name>a</name></domain>`:                        "a ",
		`<domain xmlns="u"><name>b</name></domain>`:                                                        " ",
		`<domain><os><name>b</name></os><name>a</name><a><uuid>x</uuid></a></domain>`:                      "a ",
		`<domain>` + strings.Repeat("<a>", 255) + strings.Repeat("</a>", 255) + `<name>a</name></domain>`:  "a ",
		"\ufeff<?xml version = '1.0' encoding=\"Utf-8\" standalone='no' ?><domain><name>a</name></domain>": "a ",
	} {
		id, err := ReadIdentity(doc)
		got := id.Name + " "
		if id.UUID != nil {
			got += id.UUID.String()
		}
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", doc, got, err, want)
		}
	}
}

// What libvirt could read in another way than this package is refused.
func TestAmbiguousIdentity(t *testing.T) {
	in := func(s string) string { return "<domain>" + s + "</domain>" }
	for doc, want := range map[string]string{
		in(`<name>a</name><name>b</name>`):                                      "<name> is there twice",
		in(`<name/><name>b</name>`):                                             "<name> is there twice",
		in(`<name>a</name><name xmlns="">b</name>`):                             "<name> is there twice",
		in(`<name>a</name>`) + in(`<name>b</name>`):                             "<name> is there twice",
		in(`<uuid>` + someUUID + `</uuid><name>a</name><uuid/>`):                "<uuid> is there twice",
		in(`<name>a<b>c</b></name>`):                                            "text only",
		in(`<name><x:b xmlns:x="u"/>a</name>`):                                  "text only",
		in(`<name>a</name><uuid>6695 eb01f6a4830479aa97f2502e193f</uuid>`):      "<uuid>: a UUID has",
		in(`<name>a</name><uuid>66-95eb01f6a4830479aa97f2502e193f</uuid>`):      "<uuid>: a UUID has",
		in(`<name>a</name><uuid> </uuid>`):                                      "<uuid>: a UUID has",
		in(`<name>` + strings.Repeat("a<!---->", 2000) + `</name>`):             "too long",
		in(strings.Repeat("<a>", 256) + strings.Repeat("</a>", 256)):            "deeper than 256",
		in(`<name>a</name>`) + "<!-- \x00 -->":                                  "character that XML has not",
		in(`<name>a</name>`) + "<!-- \uffff -->":                                "character that XML has not",
		in("<name>a\x01</name>"):                                                "character that XML has not",
		`<domainsnapshot>` + in(`<name>a</name>`) + `</domainsnapshot>`:         "is not a <domain>",
		`<Domain><name>a</name></Domain>`:                                       "is not a <domain>",
		`<!DOCTYPE domain>` + in(`<name>a</name>`):                              "document type",
		`<!doctype domain [<!ENTITY a "b">]>` + in(`<name>&a;</name>`):          "document type",
		`<?xml version="1.0" encoding ="UTF-7"?>` + in(`<name>a</name>`):        "XML declaration",
		`<?xml version="1.0" encoding="UTF-16"?>` + in(`<name>a</name>`):        "not XML",
		"<?xml version=\"1.0\"\tencoding\n=\n'IBM037'?>" + in(`<name>a</name>`): "XML declaration",
		`<?xml version="1.0" x="encoding='utf-8'" encoding ='UTF-7'?>` + in(``): "XML declaration",
		`<?xml version ="1.1"?>` + in(`<name>a</name>`):                         "XML declaration",
		in(`<name>a</name>`) + `<?XML encoding ='UTF-7'?>`:                      "XML declaration",
		in(`<name>a</name>`) + `<![CDATA[`:                                      "not XML",
		in(`<name>&lol;</name>`):                                                "not XML",
		in(`<name>a</name`):                                                     "not XML",
	} {
		if id, err := ReadIdentity(doc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200s: %+v, %v, want %q", doc, id, err, want)
		}
	}
}
