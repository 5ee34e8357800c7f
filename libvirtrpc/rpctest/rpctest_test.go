package rpctest

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/tools/txtar"

	"virtgate/libvirtrpc/xdr"
)

func payload(t *testing.T, v any) []byte {
	t.Helper()
	b, err := xdr.Encode(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Text gives back exactly the bytes it was made of.
func TestTextRoundTrip(t *testing.T) {
	dom := libvirt.Domain{Name: "a \"b\"\n", UUID: libvirt.UUID{1, 2, 3}, ID: -1}
	for name, m := range map[string]Message{
		"strings":  {Proc: "DomainLookupByName", Payload: payload(t, libvirt.DomainLookupByNameArgs{Name: "ü\\\x00"})},
		"uuid":     {Proc: "DomainLookupByUUID", Payload: payload(t, libvirt.DomainLookupByUUIDArgs{UUID: dom.UUID})},
		"optional": {Proc: "DomainRename", Payload: payload(t, libvirt.DomainRenameArgs{Dom: dom, NewName: []string{"x"}})},
		"absent":   {Proc: "DomainRename", Payload: payload(t, libvirt.DomainRenameArgs{Dom: dom})},
		"list":     {Kind: Reply, Proc: "ConnectListAllDomains", Payload: payload(t, libvirt.ConnectListAllDomainsRet{Domains: []libvirt.Domain{dom, {}}, Ret: 2})},
		"no list":  {Kind: Reply, Proc: "ConnectListAllDomains", Payload: payload(t, libvirt.ConnectListAllDomainsRet{})},
		"xml":      {Kind: Reply, Proc: "DomainGetXMLDesc", Payload: payload(t, libvirt.DomainGetXMLDescRet{XML: "<a>\n\n\t<b/>\n</a>\n"})},
		"no end":   {Kind: Reply, Proc: "DomainGetXMLDesc", Payload: payload(t, libvirt.DomainGetXMLDescRet{XML: "<a>\n</a>"})},
		"two ends": {Kind: Reply, Proc: "DomainGetXMLDesc", Payload: payload(t, libvirt.DomainGetXMLDescRet{XML: "<a>\n</a>\n\n"})},
		"return":   {Kind: Reply, Proc: "DomainGetXMLDesc", Payload: payload(t, libvirt.DomainGetXMLDescRet{XML: "<a>\r\n</a>"})},
		"params": {Kind: Reply, Proc: "ConnectGetAllDomainStats", Payload: payload(t, libvirt.ConnectGetAllDomainStatsRet{RetStats: []libvirt.DomainStatsRecord{{Dom: dom, Params: []libvirt.TypedParam{
			{Field: "a", Value: libvirt.TypedParamValue{D: 1, I: int32(-1)}}, {Field: "b", Value: libvirt.TypedParamValue{D: 4, I: uint64(1) << 63}}, {Field: "c", Value: libvirt.TypedParamValue{D: 7, I: "x"}}}}}})},
		"garbage": {Kind: Reply, Proc: "DomainGetXMLDesc", Payload: []byte{1, 2, 3}},
		"error":   {Kind: Error, Proc: "DomainReset", Payload: payload(t, xdr.Error{Code: 42, Message: []string{"no"}})},
	} {
		text := Format([]Message{m})
		back, err := Parse(text)
		if err != nil || len(back) != 1 || back[0].Kind != m.Kind || back[0].Proc != m.Proc || !bytes.Equal(back[0].Payload, m.Payload) {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
		if hexed := strings.Contains(text, "hex = "); hexed != (name == "garbage") {
			t.Errorf("%s as hex: %v\n%s", name, hexed, text)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"nonsense\n":                                   "line 1",
		"> NoSuchProcedure\n":                          `no procedure "NoSuchProcedure"`,
		"> DomainLookupByName\nnonsense\n":             "is no field",
		"> DomainLookupByName\nColour = \"red\"\n":     "no such field",
		"> DomainLookupByName\nName = red\n":           "Name",
		"> DomainLookupByUUID\nUUID = 1\n":             "no UUID",
		"> ConnectGetLibVersion\nName = \"x\"\n":       "no payload",
		"\n\n> DomainRename\nNewName[1] = \"x\"\n":     "no such element",
		"< ConnectListAllDomains\nRet = 99999999999\n": "out of range",
		"! explode\n":                                  "is no message",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("../../testdata/*.txtar")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, part := range txtar.Parse(b).Files {
			if part.Name == "rpc" && len(part.Data) < 2000 {
				f.Add(string(part.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		ms, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(Format(ms))
		if err != nil || len(again) != len(ms) {
			t.Fatalf("%v\n%s", err, Format(ms))
		}
		for i := range ms {
			if !bytes.Equal(ms[i].Payload, again[i].Payload) || ms[i].Kind != again[i].Kind {
				t.Errorf("message %d changed:\n%s", i, Format(ms))
			}
		}
	})
}

func TestScrub(t *testing.T) {
	r := Recorder{ms: []Message{{Kind: Reply, Proc: "DomainGetInfo", Payload: payload(t, libvirt.DomainGetInfoRet{CPUTime: 4711})}}}
	if text := r.Take(); strings.Contains(text, "4711") || !strings.Contains(text, "CPUTime = 1500000000") {
		t.Error(text)
	}
	if KnownVersion("9.0.0") != nil || KnownVersion("1.0.0") == nil {
		t.Error("KnownVersion")
	}
}
