package server

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"

	"virtgate/auth"
	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// The credentials that a server of onDaemon takes. The users besides are: half,
// who is in one of the two groups, and root.
const (
	testKey  = "a key for tests"
	testUser = "smith"
)

// onDaemon is a server on a scripted daemon without domains, and the number of
// calls that the daemon got.
func onDaemon(t testing.TB, change func(*Options, *auth.Config)) (*Server, *atomic.Int64) {
	t.Helper()
	calls := new(atomic.Int64)
	d := rpctest.NewDaemon(func(r *rpctest.Request) {
		calls.Add(1)
		switch r.Proc {
		case "ConnectListAllDomains":
			r.Reply(libvirt.ConnectListAllDomainsRet{})
		case "ConnectGetLibVersion":
			r.Reply(libvirt.ConnectGetLibVersionRet{LibVer: 9000000})
		case "ConnectGetType":
			r.Reply(libvirt.ConnectGetTypeRet{Type: "TEST"})
		case "ConnectGetVersion":
			r.Reply(libvirt.ConnectGetVersionRet{HvVer: 2})
		case "ConnectGetCapabilities":
			r.Reply(libvirt.ConnectGetCapabilitiesRet{Capabilities: `<capabilities><host><cpu><arch>i686</arch></cpu></host>` +
				`<guest><os_type>hvm</os_type><arch name="i686"><domain type="test"/></arch></guest></capabilities>`})
		default:
			r.Error(int32(libvirt.ErrNoDomain), "Domain not found")
		}
	})
	client, err := libvirtrpc.New(libvirtrpc.Options{Dial: d.Dial, URI: "test:///default", PingInterval: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { client.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		d.Close()
	})

	dir := t.TempDir()
	ac := auth.Config{Required: true, Key: testKey, GroupFile: filepath.Join(dir, "group"), PasswdFile: filepath.Join(dir, "passwd"),
		FailuresPerMinute: 1000}
	for path, text := range map[string]string{
		ac.GroupFile:  "libvirt:x:1:" + testUser + "\nkvm:x:2:" + testUser + ",half\n",
		ac.PasswdFile: "root:x:0:0::/:/bin/sh\n" + testUser + ":x:1000:1000::/:/bin/sh\nhalf:x:1001:1001::/:/bin/sh\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := Options{Libvirt: client, Log: slog.New(slog.DiscardHandler), Version: "1.2.3", BodyLimit: 1 << 20, RequestTimeout: 10 * time.Second}
	if change != nil {
		change(&o, &ac)
	}
	if o.Auth, err = auth.New(ac); err != nil {
		t.Fatal(err)
	}
	return New(o), calls
}

// ask sends a request with the credentials of testUser, or with the headers
// given, which are pairs; an empty value removes one.
func ask(s *Server, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("X-Auth-Key", testKey)
	r.Header.Set("X-Auth-Username", testUser)
	for i := 0; i < len(header); i += 2 {
		if r.Header.Del(header[i]); header[i+1] != "" {
			r.Header.Set(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}
