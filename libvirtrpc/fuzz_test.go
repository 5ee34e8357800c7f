package libvirtrpc_test

import (
	"net/url"
	"strings"
	"testing"

	"virtgate/libvirtrpc"
)

// A URI is understood, or refused with a reason that does not show its
// password. What the daemon is asked for has neither host nor transport, unless
// name= of the URI says so.
func FuzzDialer(f *testing.F) {
	f.Add("qemu", "", "", "/system", "", "")
	f.Add("test", "", "", "/default", "socket=/run/x", "/run/y")
	f.Add("qemu+tls", "root", "[::1]:16514", "/system", "pkipath=/x&no_verify=1", "")
	f.Add("qemu+ssh", "", "h:22", "/session", "keyfile=/k&known_hosts=/h&name=qemu:///session", "")
	f.Add("qemu+pigeon", "a", "h:port", "%zz", "%zz", "")
	f.Add("xen+unix", "a", "h", "", "", "")
	f.Fuzz(func(t *testing.T, scheme, user, host, path, query, socket string) {
		const secret = "7f3ac19e"
		uri := scheme + "://"
		if user != "" {
			uri += user + ":" + secret + "@"
		}
		uri += host + path
		if query != "" {
			uri += "?" + query
		}
		_, remote, err := libvirtrpc.Dialer(uri, socket)
		if err != nil {
			// Behind one of these it is no password.
			if !strings.ContainsAny(scheme+user, "/?#") && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows the password: %v", uri, err)
			}
			return
		}
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatalf("%s is understood, and no URI: %v", uri, err)
		}
		r, rerr := url.Parse(remote)
		if u.Query().Get("name") == "" && (rerr != nil || r.Host != "" || r.User != nil || strings.Contains(r.Scheme, "+") || r.RawQuery != "") {
			t.Errorf("%s: the daemon is asked for %q", uri, remote)
		}
	})
}
