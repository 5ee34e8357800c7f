package server

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"virtgate/auth"
	"virtgate/envelope"
)

// base is the path under which everything takes authentication.
const base = "/libvirt"

// guarded tells whether a path takes authentication, whatever is there.
func guarded(path string) bool { return underBase(path) || path == metricsPath }

func underBase(path string) bool { return path == base || strings.HasPrefix(path, base+"/") }

// authenticate runs before the router, so that who may not ask does not learn
// what there is.
func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if guarded(r.URL.Path) {
			p := peer(r)
			shown := presented(r, p)
			now, _ := c.Get(keySettings).(*Settings)
			caller, err := now.Auth.Authenticate(shown, time.Now())
			recordCaller(entryOf(r.Context()), p, shown, caller, err)
			if err != nil {
				return s.respond(c, envelope.Failed(authError(err)))
			}
			// A browser shows its certificate for any page, and a proxy on the
			// socket is somebody for all that it passes on. No browser comes by
			// a unix socket itself.
			byItself := caller.Anonymous() || caller.Proof == auth.ProofCertificate || caller.Proof == auth.ProofPeer
			switch {
			case caller.Anonymous() && p.UID == nil && led(r):
				return s.respond(c, envelope.Failed(envelope.New(envelope.NotPermitted,
					"without credentials, only requests to an address or to localhost, and none from a page of another site")))
			case byItself && crossOrigin.Check(r) != nil:
				return s.respond(c, envelope.Failed(envelope.New(envelope.NotPermitted, "a page of another site sent it, and no key came along")))
			}
			c.Set(keyCaller, caller)
		}
		if e, ok := c.Get(keyError).(*envelope.Error); ok {
			return s.respond(c, envelope.Failed(e))
		}
		return next(c)
	}
}

// crossOrigin refuses changes that a browser makes for a page of another site.
var crossOrigin = http.NewCrossOriginProtection()

// led tells whether a browser may have been led here by somebody else's page.
// That only matters where requests need no credentials: any page can send
// requests to the reader's own machine, and give its own host name the address
// of this one to read the answers. So then a host name has to be localhost.
func led(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !strings.EqualFold(host, "localhost") {
		return true
	}
	return crossOrigin.Check(r) != nil
}
