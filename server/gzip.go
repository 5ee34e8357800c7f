package server

import (
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"
)

var compress = middleware.GzipWithConfig(middleware.GzipConfig{
	Level:     1,    // libvirt's XML shrinks to a tenth at any level
	MinLength: 1400, // what fits into one packet gains nothing
	Skipper:   func(c echo.Context) bool { return refusesGzip(c.Request().Header.Values("Accept-Encoding")) },
})

// refusesGzip tells whether a client names gzip only to refuse it, with the
// weight 0: Echo looks for the name alone.
func refusesGzip(values []string) bool {
	for part := range strings.SplitSeq(strings.Join(values, ","), ",") {
		name, weight, _ := strings.Cut(part, ";")
		_, q, ok := strings.Cut(weight, "=")
		if n, err := strconv.ParseFloat(strings.TrimSpace(q), 64); strings.EqualFold(strings.TrimSpace(name), "gzip") && ok && err == nil && n == 0 {
			return true
		}
	}
	return false
}
