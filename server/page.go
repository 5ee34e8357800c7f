package server

import (
	"embed"
	"io/fs"
	"net/http"
	"path"

	"github.com/labstack/echo/v4"
	"github.com/swaggest/swgui/v5/static"
	"github.com/vearutop/statigz"
)

// pageBase is where the page for people is: outside of base, because a browser
// sends no key when it loads a page. What is there is the same in every
// installation; the reference comes from base, with the key that the person
// gives the page.
const pageBase = "/docs"

// pageFiles are our own. The viewer, Swagger UI, is embedded by package static,
// compressed.
//
//go:embed page
var pageFiles embed.FS

// viewerFiles are those of the viewer that the page loads.
var viewerFiles = []string{"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"}

// pagePolicy lets the page load its own files and call its own server, and
// nothing else. The viewer's style sheet has pictures in it, as data.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// addPage adds the page's files to the router.
func addPage(add func(method, path string, h echo.HandlerFunc)) {
	file := func(name string, h http.Handler) {
		add(http.MethodGet, path.Join(pageBase, name), pageHandler(h))
	}
	own := statigz.FileServer(pageFiles, statigz.EncodeOnInit, statigz.FSPrefix("page"))
	names, err := fs.ReadDir(pageFiles, "page")
	if err != nil {
		panic(err) // it is in the program
	}
	for _, f := range names {
		if f.Name() != "index.html" {
			file(f.Name(), own)
		}
	}
	viewer := statigz.FileServer(static.FS)
	for _, name := range viewerFiles {
		file(name, viewer)
	}
	add(http.MethodGet, pageBase+"/", pageHandler(own))
	add(http.MethodGet, pageBase, func(c echo.Context) error {
		c.Set(keyRoute, pageBase)
		return c.Redirect(http.StatusMovedPermanently, path.Base(pageBase)+"/")
	})
}

func pageHandler(files http.Handler) echo.HandlerFunc {
	files = http.StripPrefix(pageBase, files)
	return func(c echo.Context) error {
		c.Set(keyRoute, pageBase)
		h := c.Response().Header()
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache") // there is an ETag
		files.ServeHTTP(c.Response(), c.Request())
		return nil
	}
}
