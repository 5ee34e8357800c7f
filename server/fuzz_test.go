package server

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/auth"
	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/libvirtrpc/xdr"
)

// What the check lets through, Go's own decoder reads as well, and the actions
// that come out of it are whole.
func FuzzPatch(f *testing.F) {
	f.Add(`[{"power_mgt":{"request":"start","type":"ACPI_POWER_BTN"}},{"name":"x","depends":0}]`)
	f.Add(`{"memory":"2GiB"}`)
	f.Add(`{"autostart":true,"depends":[0,1]}`)
	f.Fuzz(func(t *testing.T, text string) {
		list, _, err := items([]byte(text), maxActions)
		if err != nil {
			return
		}
		for i, raw := range list {
			if !json.Valid(raw) {
				t.Fatalf("not JSON: %s", raw)
			}
			if a, err := decodeAction(raw, i); err == nil && (a.do == nil || a.permission == "" || a.message.Action == "") {
				t.Errorf("half an action of %s", raw)
			}
		}
	})
}

// What is sent to libvirt for a new domain is a domain of that name and UUID,
// whatever the object says; XML is sent as it came, without a document type.
func FuzzCreate(f *testing.F) {
	f.Add(`{"name":"x","os":"Linux"}`)
	f.Add(`{"name":"x","os":"windows","uuid":"6695EB01F6A4830479AA97F2502E193F","title":"<&\u0001","description":"]]>","memory":"2GiB","cpu":2,` +
		`"arch":"x86_64","machine":"q35","disks":[{"path":"/x.qcow2"},{"pool":"p","volume":"v","device":"cdrom","bus":"sata"}],` +
		`"interfaces":[{"network":"default","mac":"52:54:00:12:34:56"},{"bridge":"br0"}],"boot":["cdrom","hd"]}`)
	f.Add(`["<domain><name>a</name><uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid></domain>"]`)
	f.Add(`"<?xml version='1.0'?><!DOCTYPE domain [<!ENTITY a 'b'>]><domain><name>&a;</name></domain>"`)
	host := &libvirtrpc.Host{Arch: "x86_64", Guests: []libvirtrpc.Guest{{OSType: "hvm", Arch: "x86_64", Domains: []libvirtrpc.GuestDomain{
		{Type: "kvm", Emulator: "/usr/bin/qemu-system-x86_64", Machine: "pc", Machines: []string{"pc", "q35"}}}}}}
	f.Fuzz(func(t *testing.T, text string) {
		list, _, err := items([]byte(text), maxItems)
		if err != nil {
			return
		}
		for _, raw := range list {
			d, err := decodeNewDomain(raw)
			if err != nil {
				continue
			}
			if d.spec == nil {
				if d.name == "" || strings.Contains(d.xml, "<!DOCTYPE") && !strings.Contains(d.xml, "<!--") && !strings.Contains(d.xml, "CDATA") {
					t.Errorf("XML with the name %q: %s", d.name, d.xml)
				}
				continue
			}
			doc, err := d.spec.XML(host)
			if err != nil {
				continue
			}
			made := newDomain{xml: doc}
			if err := made.readXML(); err != nil || made.name != d.name || (made.uuid == nil) != (d.uuid == nil) || d.uuid != nil && *made.uuid != *d.uuid {
				t.Errorf("%s\nbecame %q, %v: %v\n%s", raw, made.name, made.uuid, err, doc)
			}
			if strings.ContainsRune(doc, '\uFFFD') {
				t.Errorf("%s\nlost a character:\n%s", raw, doc)
			}
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add("state=running,0&active=1&search=x&order=ram&direction=desc&page=2&per_page=3&fields=name")
	f.Add("name.contains=a&match=any&state=other")
	f.Fuzz(func(t *testing.T, raw string) {
		q, err := parseQuery(raw)
		if err != nil {
			return
		}
		var r listDomainsReq
		if q.read(r.params()) != nil || r.decode(&request{http: httptest.NewRequest("GET", "/", nil)}) != nil {
			return
		}
		ds := []*domain{{Name: "a"}, {Name: "b"}, {Name: "c"}}
		res := r.respond(ds)
		if res.Info.Count != len(res.Results) || res.Info.TotalCount != 3 || !json.Valid(res.Bytes()) {
			t.Errorf("%q: %+v", raw, res.Info)
		}
	})
}

// FuzzHTTP sends requests to a server whose libvirt answers by mood. Every
// response is an envelope with a documented code and status, and who is not
// authenticated reaches nothing.
func FuzzHTTP(f *testing.F) {
	seed := func(line, body string, headers ...string) {
		raw := line + " HTTP/1.1\r\n" + strings.Join(append(headers, ""), "\r\n")
		if body != "" {
			raw += fmt.Sprintf("Content-Length: %d\r\n", len(body))
		}
		raw += "\r\n" + body
		for _, mood := range []uint8{0, 1, 2, 5, 40} {
			f.Add([]byte(raw), true, mood)
		}
		f.Add([]byte(raw), false, uint8(1))
	}
	seed("GET /libvirt/domains?state=running&fields=name,status", "", "Accept-Encoding: gzip", "X-Packet-ID: 7")
	seed("GET /libvirt/domains?name.contains=a&match=any&order=ram&direction=desc&page=2&per_page=1&active=0", "")
	seed("HEAD /libvirt/version", "")
	seed("GET /readyz", "")
	seed("GET /libvirt/domains/by-name/a%2Fb", "", "X-Auth-Key: x", "X-Auth-Username: root")
	seed("GET /libvirt/domains/by-uuid/6695eb01-f6a4-8304-79aa-97f2502e193f/xml_desc?options=secure", "")
	seed("PATCH /libvirt/domains/by-name/vm", `[{"power_mgt":"start"},{"autostart":true,"depends":0},{"name":"x"}]`)
	seed("PATCH /libvirt/domains/by-name/vm?options=nvram", "")
	seed("POST /libvirt/domains?start=true&paused=1", `[{"name":"x","os":"Linux"},"<domain><name>a</name></domain>"]`)
	seed("POST /libvirt/domains", "", "Transfer-Encoding: chunked", "", "5", `"<x/>`, "1", `"`, "0", "")
	seed("DELETE /libvirt/domains/by-id/1?options=destroy,managed_save", "")
	seed("OPTIONS *", "")
	daemon := &moody{}
	d := rpctest.NewDaemon(daemon.answer)
	client, err := libvirtrpc.New(libvirtrpc.Options{Dial: d.Dial, URI: "test:///default", PingInterval: -1})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { client.Run(ctx) })
	f.Cleanup(func() { cancel(); wg.Wait(); d.Close() })
	key := auth.GenerateKey() // nobody guesses it
	a, err := auth.New(auth.Config{Required: true, ServiceKeys: []auth.ServiceKey{{Name: "all", Key: key, Allow: []string{"*"}}}})
	if err != nil {
		f.Fatal(err)
	}
	s := New(Options{Libvirt: client, Auth: a, Log: slog.New(slog.DiscardHandler), Version: "1", BodyLimit: 4096, RequestTimeout: 30 * time.Second})
	documented := documentedStatuses(f)
	f.Fuzz(func(t *testing.T, raw []byte, authenticated bool, mood uint8) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		// An address of its own for each request: failures are counted.
		sum := sha256.Sum256(raw)
		r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", sum[0], sum[1], sum[2])
		if authenticated {
			r.Header.Del("X-Auth-Key")
			r.Header.Del("X-Auth-Username")
			r.Header.Set("X-Auth-User-Service-Key", key)
			r.RemoteAddr = "192.0.2.1:1"
		}
		daemon.mood.Store(uint32(mood))
		before := daemon.calls.Load()
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if !authenticated && underBase(r.URL.Path) && (w.Code != 401 && w.Code != 429 || daemon.calls.Load() != before) {
			t.Errorf("not authenticated: %d, %d calls of libvirt", w.Code, daemon.calls.Load()-before)
		}
		checkResponse(t, r, w, documented)
	})
}

// moody is a daemon that finds domains or not, active or not, and refuses
// everything else with one error or with none, by its mood.
type moody struct{ mood, calls atomic.Uint32 }

func (m *moody) answer(r *rpctest.Request) {
	m.calls.Add(1)
	mood := m.mood.Load()
	codes := []int32{0, 1, 3, 8, 27, 38, 42, 55, 67, 68, 88}
	dom := libvirt.Domain{Name: "vm\xff\x01", UUID: libvirt.UUID{1}, ID: int32(mood&2) - 1}
	if mood&1 == 0 {
		switch r.Proc {
		case "DomainLookupByName", "DomainLookupByID":
			r.Error(42, "Domain not found")
			return
		}
	}
	if code := codes[int(mood>>2)%len(codes)]; code != 0 && !strings.HasPrefix(r.Proc, "DomainLookup") {
		r.Error(code, "no: \xff\x00\u2028\"")
		return
	}
	switch r.Proc {
	case "DomainLookupByName", "DomainLookupByID", "DomainLookupByUUID":
		r.Reply(libvirt.DomainLookupByNameRet{Dom: dom})
	case "ConnectGetCapabilities":
		r.Reply(libvirt.ConnectGetCapabilitiesRet{Capabilities: "<capabilities><host><cpu><arch>i686</arch></cpu></host><guest><os_type>hvm</os_type><arch name='i686'><domain type='test'/></arch></guest></capabilities>"})
	case "DomainGetXMLDesc":
		r.Reply(libvirt.DomainGetXMLDescRet{XML: "<domain><os><nvram>/x</nvram></os></domain>"})
	default:
		p, _ := xdr.Named(r.Proc)
		if p.Ret == nil {
			r.Reply(nil)
			return
		}
		r.Reply(xdr.Sample(p.Ret))
	}
}

// documentedStatuses are the statuses of each code in docs/api.md.
func documentedStatuses(t testing.TB) map[int][]int {
	doc, err := os.ReadFile("../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[int][]int{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9]+) \| ([^|]*) \|`).FindAllStringSubmatch(string(doc), -1) {
		code, _ := strconv.Atoi(m[1])
		if strings.Contains(m[2], "libvirt's") {
			out[code] = append(out[code], 404, 400, 409, 403, 501, 504, 503, 502)
		}
		for _, n := range regexp.MustCompile(`[0-9]+`).FindAllString(m[2], -1) {
			status, _ := strconv.Atoi(n)
			out[code] = append(out[code], status)
		}
	}
	if len(out) < 40 {
		t.Fatalf("docs/api.md has only %d codes", len(out))
	}
	return out
}

// checkResponse checks that the response is an envelope whose status is the one
// of its first error.
func checkResponse(t *testing.T, r *http.Request, w *httptest.ResponseRecorder, documented map[int][]int) {
	t.Helper()
	if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
		t.Errorf("Content-Type %q", got)
	}
	if r.Method == http.MethodHead {
		if w.Body.Len() > 0 {
			t.Error("HEAD with a body")
		}
		return
	}
	text := w.Body.Bytes()
	if w.Header().Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(w.Body)
		if err == nil {
			text, err = io.ReadAll(z)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var e struct {
		Results  []json.RawMessage
		Success  *bool
		Errors   []struct{ Code *int }
		Messages []any
	}
	keys := regexp.MustCompile(`^\{"results":\[.*\],"success":(true|false),"errors":\[.*\],"messages":\[.*\](,"result_info":\{[^{}]*\})?\}\n$`)
	if err := json.Unmarshal(text, &e); err != nil || !keys.Match(text) || e.Success == nil || e.Results == nil || e.Errors == nil || e.Messages == nil {
		t.Fatalf("%d is no envelope: %v\n%s", w.Code, err, text)
	}
	switch {
	case *e.Success != (len(e.Errors) == 0) || *e.Success != (w.Code < 300):
		t.Errorf("%d: %s", w.Code, text)
	case *e.Success && w.Code != 200 && w.Code != 201:
		t.Errorf("status %d of a success", w.Code)
	case !*e.Success && (e.Errors[0].Code == nil || !slices.Contains(documented[*e.Errors[0].Code], w.Code)):
		t.Errorf("status %d is not documented for %s", w.Code, text)
	}
}
