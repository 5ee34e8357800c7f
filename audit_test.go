package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"

	"virtgate/auth"
	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
	"virtgate/libvirtrpc/xdr"
	"virtgate/server"
	"virtgate/server/audit"
)

// audited is a server with an audit log, on a scripted daemon that has one
// domain, vm, which is off.
type audited struct {
	srv    *server.Server
	daemon *rpctest.Daemon
	path   string
	seen   int // lines
}

const (
	vmUUID = "01000000-0000-0000-0000-000000000000"
	secret = "correct horse battery staple"
)

func startAudited(t *testing.T, c audit.Config) *audited {
	t.Helper()
	vm := libvirt.Domain{Name: "vm", UUID: libvirt.UUID{1}, ID: -1}
	made := libvirt.Domain{Name: "new", UUID: libvirt.UUID{2}, ID: -1}
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		switch a := r.Args.(type) {
		case libvirt.DomainLookupByNameArgs:
			if a.Name != "vm" {
				r.Error(42, "Domain not found: no domain with matching name '"+a.Name+"' "+secret)
				return
			}
			r.Reply(libvirt.DomainLookupByNameRet{Dom: vm})
			return
		case libvirt.DomainLookupByUUIDArgs:
			switch a.UUID {
			case vm.UUID:
				r.Reply(libvirt.DomainLookupByUUIDRet{Dom: vm})
			case made.UUID:
				r.Reply(libvirt.DomainLookupByUUIDRet{Dom: made})
			default:
				r.Error(42, "Domain not found")
			}
			return
		case libvirt.DomainDefineXMLFlagsArgs:
			if strings.Contains(a.XML, "bad") {
				r.Error(1, "internal error: cannot parse "+a.XML)
				return
			}
			r.Reply(libvirt.DomainDefineXMLFlagsRet{Dom: made})
			return
		case libvirt.DomainGetXMLDescArgs:
			r.Reply(libvirt.DomainGetXMLDescRet{XML: "<domain>" + secret + "</domain>"})
			return
		case libvirt.DomainSuspendArgs:
			r.Error(55, "Requested operation is not valid: domain is not running")
			return
		case libvirt.DomainGetStateArgs:
			r.Reply(libvirt.DomainGetStateRet{State: 5})
			return
		case libvirt.DomainIsPersistentArgs:
			r.Reply(libvirt.DomainIsPersistentRet{Persistent: 1})
			return
		}
		// Everything else succeeds, and says nothing.
		p, _ := xdr.Named(r.Proc)
		if p.Ret == nil {
			r.Reply(nil)
			return
		}
		r.Reply(reflect.New(p.Ret).Elem().Interface())
	})
	client, err := libvirtrpc.New(libvirtrpc.Options{Dial: d.Dial, URI: "test:///default", Connections: 1, PingInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { client.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); d.Close() })

	dir := t.TempDir()
	for name, text := range map[string]string{"group": "libvirt:x:1:smith\nkvm:x:2:smith\n", "passwd": "smith:x:1000:1::/:/bin/sh\neve:x:1001:3::/:/bin/sh\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	who, err := auth.New(auth.Config{
		Required: true, Key: "the key", GroupFile: filepath.Join(dir, "group"), PasswdFile: filepath.Join(dir, "passwd"),
		ServiceKeys: []auth.ServiceKey{{Name: "power", Key: "service", Allow: []string{"domains:power", "domains:read"}}},
		Users:       []auth.User{{Name: "smith", NextKey: "own"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	path := filepath.Join(dir, "audit")
	if c.File == "" {
		c.File = path
	} else if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	record, err := audit.Open(c, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(record.Close)
	return &audited{daemon: d, path: path, srv: server.New(server.Options{
		Libvirt: client, Auth: who, Audit: record, Log: log, BodyLimit: 4096, RequestTimeout: 30 * time.Second,
	})}
}

// ask sends a request and returns the lines that it left.
func (a *audited) ask(t *testing.T, method, path, body string, header ...string) (int, []audit.Entry) {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("X-Auth-Key", "the key")
	r.Header.Set("X-Auth-Username", "smith")
	r.Header.Set("X-Packet-ID", "77")
	for i := 0; i < len(header); i += 2 {
		if r.Header.Set(header[i], header[i+1]); header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	w := httptest.NewRecorder()
	a.srv.ServeHTTP(w, r)
	b, err := os.ReadFile(a.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{secret, "the key", `"own"`, "<domain"} {
		if strings.Contains(string(b), s) {
			t.Errorf("%q is in the audit log", s)
		}
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(b) == 0 {
		lines = nil
	}
	var out []audit.Entry
	for _, line := range lines[a.seen:] {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if time.Since(e.Time.Time) > time.Minute || e.RequestID != w.Header().Get("X-Request-ID") || e.PacketID != "77" || e.Method != method || e.Remote != "192.0.2.1" {
			t.Errorf("%s", line)
		}
		if e.Phase == "" && (e.Status != w.Code || e.DurationMs < 0) {
			t.Errorf("%s of a request with %d", line, w.Code)
		}
		e.Time, e.RequestID, e.PacketID, e.Method, e.Remote, e.Status, e.DurationMs = audit.Time{}, "", "", "", "", 0, 0
		out = append(out, e)
	}
	a.seen = len(lines)
	return w.Code, out
}

func TestAudit(t *testing.T) {
	a := startAudited(t, audit.Config{})
	const byName = "/libvirt/domains/by-name/:identifier"
	vm := []audit.Object{{Kind: "domain", Name: "vm", UUID: vmUUID}}
	smith := func(e audit.Entry) *audit.Entry { e.User, e.Proof = "smith", "key"; return &e }
	index := func(n int) *int { return &n }
	for _, c := range []struct {
		what, method, path, body string
		header                   []string
		status                   int
		want                     *audit.Entry // nil: no line
	}{
		{"a read", "GET", "/libvirt/domains/by-name/vm?fields=name", "", nil, 200, nil},
		{"not found", "GET", "/libvirt/domains/by-name/gone", "", nil, 404, nil},
		{"a refused method", "PUT", "/libvirt/domains", "", nil, 405, nil},
		{"outside", "POST", "/nothing", "", nil, 400, nil},
		{"a change", "PATCH", "/libvirt/domains/by-name/vm", `{"autostart":true}`, nil, 200,
			smith(audit.Entry{Route: byName, Actions: []string{"autostart"}, Objects: vm})},
		{"by uuid", "PATCH", "/libvirt/domains/by-uuid/" + strings.ToUpper(vmUUID), `{"autostart":true}`, nil, 200,
			smith(audit.Entry{Route: "/libvirt/domains/by-uuid/:identifier", Actions: []string{"autostart"}, Objects: vm})},
		{"half a change", "PATCH", "/libvirt/domains/by-name/vm", `[{"autostart":true},{"power_mgt":"suspend"},{"name":"other"}]`, nil, 409,
			smith(audit.Entry{Route: byName, Actions: []string{"autostart", "suspend", "name"}, Objects: vm, Errors: []audit.Error{{Code: 210, LibvirtCode: 55, Index: index(1)}}})},
		{"of what is not there", "PATCH", "/libvirt/domains/by-name/gone", `{"autostart":true}`, nil, 404,
			smith(audit.Entry{Route: byName, Actions: []string{"autostart"}, Objects: []audit.Object{{Kind: "domain", Name: "gone"}}, Errors: []audit.Error{{Code: 42, LibvirtCode: 42}}})},
		{"nonsense", "PATCH", "/libvirt/domains/by-id/3", secret, nil, 400,
			smith(audit.Entry{Route: "/libvirt/domains/by-id/:identifier", Objects: []audit.Object{{Kind: "domain", ID: "3"}}, Errors: []audit.Error{{Code: 0}}})},
		{"a creation", "POST", "/libvirt/domains?start=true", `["<domain><name>new</name><!--` + secret + `--></domain>","<domain><name>bad</name></domain>"]`, nil, 400,
			smith(audit.Entry{Route: "/libvirt/domains", Actions: []string{"define", "start"},
				Objects: []audit.Object{{Kind: "domain", Name: "new", UUID: "02000000-0000-0000-0000-000000000000"}, {Kind: "domain", Name: "bad"}},
				Errors:  []audit.Error{{Code: 105, LibvirtCode: 1, Index: index(1)}}})},
		{"a deletion", "DELETE", "/libvirt/domains/by-name/vm?options=destroy", "", nil, 200,
			smith(audit.Entry{Route: byName, Actions: []string{"destroy", "delete"}, Objects: vm})},
		{"a deletion by PATCH", "PATCH", "/libvirt/domains/by-name/vm?options=nvram", "", nil, 200,
			smith(audit.Entry{Route: byName, Actions: []string{"delete"}, Objects: vm})},
		{"a read of passwords", "GET", "/libvirt/domains/by-name/vm/xml_desc?options=secure", "", nil, 200,
			smith(audit.Entry{Route: byName + "/xml_desc", Actions: []string{"read_secure"}, Objects: vm})},
		{"a read of none", "GET", "/libvirt/domains/by-name/vm/xml_desc", "", nil, 200, nil},
		{"a key of his own", "DELETE", "/libvirt/domains/by-name/vm", "", []string{"X-Auth-Key", "own"}, 200,
			&audit.Entry{User: "smith", Proof: "next user key", Route: byName, Actions: []string{"delete"}, Objects: vm}},
		{"a service", "PATCH", "/libvirt/domains/by-name/vm", `{"power_mgt":"start"}`, []string{"X-Auth-Key", "", "X-Auth-Username", "", "X-Auth-User-Service-Key", "service"}, 200,
			&audit.Entry{Proof: "service key", Key: "power", Route: byName, Actions: []string{"start"}, Objects: vm}},

		{"a service that may not", "DELETE", "/libvirt/domains/by-name/vm", "", []string{"X-Auth-Key", "", "X-Auth-Username", "", "X-Auth-User-Service-Key", "service"}, 403,
			&audit.Entry{Proof: "service key", Key: "power", Route: byName, Objects: []audit.Object{{Kind: "domain", Name: "vm"}},
				Reason: "Not permitted with this key: it lacks domains:delete", Errors: []audit.Error{{Code: 11}}}},
		{"a service that may not do that", "PATCH", "/libvirt/domains/by-name/vm", `{"name":"x"}`, []string{"X-Auth-Key", "", "X-Auth-Username", "", "X-Auth-User-Service-Key", "service"}, 403,
			&audit.Entry{Proof: "service key", Key: "power", Route: byName, Actions: []string{"name"}, Objects: []audit.Object{{Kind: "domain", Name: "vm"}},
				Reason: "Not permitted with this key: it lacks domains:update", Errors: []audit.Error{{Code: 11}}}},
		{"a wrong key", "GET", "/libvirt/domains", "", []string{"X-Auth-Key", secret}, 401,
			&audit.Entry{Claimed: "smith", Reason: "bad key", Errors: []audit.Error{{Code: 1}}}},
		{"a key as a name", "GET", "/libvirt/domains", "", []string{"X-Auth-Key", "", "X-Auth-Username", secret}, 401,
			&audit.Entry{Reason: "bad key", Errors: []audit.Error{{Code: 1}}}},
		{"a key as a name, of letters only", "GET", "/libvirt/domains", "", []string{"X-Auth-Key", "", "X-Auth-Username", strings.Repeat("0f", 20)}, 401,
			&audit.Entry{Reason: "bad key", Errors: []audit.Error{{Code: 1}}}},
		{"not a member", "DELETE", "/libvirt/domains/by-name/vm", "", []string{"X-Auth-Username", "eve"}, 403,
			&audit.Entry{Claimed: "eve", Reason: "not a member", Errors: []audit.Error{{Code: 8}}}},
	} {
		status, got := a.ask(t, c.method, c.path, c.body, c.header...)
		var want []audit.Entry
		if c.want != nil {
			want = []audit.Entry{*c.want}
		}
		if diff := cmp.Diff(want, got); diff != "" || status != c.status {
			t.Errorf("%s: %d, want %d (-want +got):\n%s", c.what, status, c.status, diff)
		}
	}
	for range 27 {
		a.ask(t, "GET", "/libvirt/", "", "X-Auth-Key", "wrong")
	}
	status, got := a.ask(t, "GET", "/libvirt/", "", "X-Auth-Key", "wrong")
	if diff := cmp.Diff([]audit.Entry{{Claimed: "smith", Reason: "too many failures", Errors: []audit.Error{{Code: 13}}}}, got); diff != "" || status != 429 {
		t.Errorf("too many: %d %s", status, diff)
	}
}

// What has to be recorded and cannot be does not happen; what need not, does.
func TestAuditRequired(t *testing.T) {
	a := startAudited(t, audit.Config{Required: true})
	if status, got := a.ask(t, "PATCH", "/libvirt/domains/by-name/vm", `{"autostart":true}`); status != 200 || len(got) != 2 || got[0].Phase != "begin" || got[1].Phase != "" || got[0].Actions[0] != "autostart" {
		t.Errorf("%d, %+v", status, got)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0) // a disk without space
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	stdout := os.Stdout
	os.Stdout = full
	a = startAudited(t, audit.Config{File: "-", Required: true})
	os.Stdout = stdout
	for _, c := range []struct{ method, path, body string }{
		{"PATCH", "/libvirt/domains/by-name/vm", `{"autostart":true}`},
		{"DELETE", "/libvirt/domains/by-name/vm", ""},
		{"POST", "/libvirt/domains", `"<domain><name>new</name></domain>"`},
		{"GET", "/libvirt/domains/by-name/vm/xml_desc?options=secure", ""},
	} {
		if status, _ := a.ask(t, c.method, c.path, c.body); status != http.StatusInternalServerError {
			t.Errorf("%s %s: %d", c.method, c.path, status)
		}
	}
	for _, proc := range []string{"DomainSetAutostart", "DomainUndefineFlags", "DomainDefineXMLFlags", "DomainGetXMLDesc"} {
		if n := a.daemon.Calls(proc); n != 0 {
			t.Errorf("%s was called without a record", proc)
		}
	}
	if status, _ := a.ask(t, "GET", "/libvirt/domains/by-name/vm?fields=name", ""); status != 200 {
		t.Errorf("a read: %d", status)
	}
	os.Stdout = full
	a = startAudited(t, audit.Config{File: "-"})
	os.Stdout = stdout
	if status, _ := a.ask(t, "PATCH", "/libvirt/domains/by-name/vm", `{"autostart":true}`); status != 200 {
		t.Errorf("a change whose record is not required: %d", status)
	}
}
