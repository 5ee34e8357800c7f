package server

import (
	"net/http"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"
)

// metricsPath is where Prometheus looks by itself; it is guarded too.
const metricsPath = "/metrics"

// metrics answers a scrape, in Prometheus' own format.
func (s *Server) metrics(c echo.Context) error {
	s.opts.Metrics.Handler(s.libvirt).ServeHTTP(c.Response(), c.Request())
	return nil
}

// serviceKeys are the values of the service key as they came. Prometheus sends
// a secret as a bearer token, so that is another way to say it, for metrics
// only: everywhere else an Authorization header may be meant for a proxy in
// front of this server, and a credential that is there has to be right.
func serviceKeys(r *http.Request) []string {
	keys := r.Header.Values("X-Auth-User-Service-Key")
	if r.URL.Path != metricsPath {
		return keys
	}
	keys = slices.Clone(keys)
	for _, v := range r.Header.Values("Authorization") {
		scheme, token, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			token = "" // never right
		}
		keys = append(keys, token)
	}
	return keys
}
