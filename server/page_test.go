package server

import (
	"compress/gzip"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"virtgate/auth"
)

func withPage(t *testing.T, on bool) *Server {
	t.Helper()
	a, err := auth.New(auth.Config{Required: true, Key: "a key"})
	if err != nil {
		t.Fatal(err)
	}
	return New(Options{Auth: a, Log: slog.New(slog.DiscardHandler), Version: "1.2.3", BodyLimit: 1000, RequestTimeout: 5 * time.Second, Docs: on})
}

// The page is there for everybody, in both encodings, with a policy that lets it
// run nothing but its own files.
func TestPage(t *testing.T) {
	s := withPage(t, true)
	for path, mediaType := range map[string]string{
		"/docs/": "text/html; charset=utf-8", "/docs/page.js": "application/javascript", "/docs/page.css": "text/css; charset=utf-8",
		"/docs/swagger-ui.css": "text/css; charset=utf-8", "/docs/swagger-ui-bundle.js": "application/javascript", "/docs/favicon-32x32.png": "image/png",
	} {
		plain, text := body(t, s, "GET", path)
		policy := plain.Header().Values("Content-Security-Policy")
		if plain.Code != 200 || plain.Header().Get("Content-Type") != mediaType || plain.Header().Get("X-Content-Type-Options") != "nosniff" || text == "" {
			t.Errorf("%s: %d %v", path, plain.Code, plain.Header())
		}
		if len(policy) != 1 || !strings.HasPrefix(policy[0], "default-src 'none'; script-src 'self'; style-src 'self'; ") || strings.Contains(policy[0], "unsafe") {
			t.Errorf("%s: %q", path, policy)
		}
		packed, zipped := body(t, s, "GET", path, "Accept-Encoding", "gzip")
		if packed.Header().Get("Content-Encoding") == "gzip" {
			z, err := gzip.NewReader(strings.NewReader(zipped))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(z)
			if err != nil {
				t.Fatal(err)
			}
			zipped = string(b)
		}
		if zipped != text {
			t.Errorf("%s: compressed it is something else", path)
		}
		if again, b := body(t, s, "GET", path, "If-None-Match", plain.Header().Get("Etag")); again.Code != http.StatusNotModified || b != "" {
			t.Errorf("%s: %d the second time", path, again.Code)
		}
		if strings.Contains(text, "1.2.3") && !strings.Contains(path, "swagger-ui") {
			t.Errorf("%s tells the version", path)
		}
	}
	_, page := body(t, s, "GET", "/docs/")
	if found := regexp.MustCompile(`<script>|<style|\son[a-z]+=|\sstyle=|https?:`).FindString(page); found != "" {
		t.Errorf("the page has %q in it", found)
	}
	if w, _ := body(t, s, "GET", "/docs"); w.Code != http.StatusMovedPermanently || w.Header().Get("Location") != "docs/" {
		t.Errorf("/docs: %d %v", w.Code, w.Header())
	}
	if w, b := body(t, s, "POST", "/docs/"); w.Code != 405 || !strings.Contains(b, `"code":14`) {
		t.Errorf("POST: %d %s", w.Code, b)
	}
	if w, b := body(t, s, "GET", "/docs/swagger-ui.js"); w.Code != 400 || !strings.Contains(b, `"code":2`) {
		t.Errorf("a file that the page does not load: %d %s", w.Code, b)
	}
	// The reference itself takes a key.
	if w, b := body(t, s, "GET", "/libvirt/openapi.json"); w.Code != 401 || strings.Contains(b, "domains") {
		t.Errorf("without a key: %d %s", w.Code, b)
	}
}

func TestPageOff(t *testing.T) {
	s := withPage(t, false)
	for _, path := range []string{"/docs", "/docs/", "/docs/page.js"} {
		if w, b := body(t, s, "GET", path); w.Code != 400 || !strings.Contains(b, `"code":2`) {
			t.Errorf("%s: %d %s", path, w.Code, b)
		}
	}
}
