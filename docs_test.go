package main

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"virtgate/envelope"
	"virtgate/server"
)

// docs/api.md has every code with its status, and every route.
func TestDocsAreComplete(t *testing.T) {
	b, err := os.ReadFile("docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for _, c := range envelope.Codes() {
		status := fmt.Sprint(c.Status())
		switch {
		case c == envelope.Internal:
			status = "500, or libvirt's"
		case c == envelope.CreateFailed:
			status = "400, or libvirt's"
		case c.Status() == http.StatusBadGateway:
			status = "libvirt's"
		case c == envelope.BadUsername:
			status = "401 missing, 403 not a member"
		}
		if row := fmt.Sprintf("| %d | %s | %s |\n", c, status, c.Message()); !strings.Contains(doc, row) {
			t.Errorf("docs/api.md lacks the row\n%s", row)
		}
	}
	for _, rt := range server.New(server.Options{}).Routes() {
		path := strings.NewReplacer("by-name/:identifier", "by-name/debian-vm", "by-uuid/:identifier", "by-uuid/", "by-id/:identifier", "by-id/").Replace(rt.Path)
		if !strings.Contains(rt.Path, "/by-uuid/") && !strings.Contains(rt.Path, "/by-id/") && !strings.Contains(doc, "$url"+path) {
			t.Errorf("docs/api.md has no curl for %s %s", rt.Method, rt.Path)
		}
		for _, p := range rt.Permissions {
			if !strings.Contains(doc, "`"+p+"`") {
				t.Errorf("docs/api.md lacks the permission %s", p)
			}
		}
	}
}

// docs/reliability.md has a row for each proof.
func TestReliabilityIsComplete(t *testing.T) {
	doc, err := os.ReadFile("docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	proof := regexp.MustCompile(`(?m)^func (TestProve\w+)`)
	err = fs.WalkDir(os.DirFS("."), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range proof.FindAllStringSubmatch(string(b), -1) {
			if !strings.Contains(string(doc), "`scripts/prove -run "+m[1]+"`") {
				t.Errorf("docs/reliability.md has no row of %s", m[1])
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// The import graph is the architecture: who may import which third party, and
// which of our packages.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}}: {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	const lib = "virtgate/libvirtrpc"
	const otel = "go.opentelemetry.io/otel"
	const prometheus = "github.com/prometheus/client_golang/prometheus"
	allowed := map[string][]string{
		"virtgate":                        {"virtgate/server/audit", "virtgate/auth", "virtgate/server/listen", "github.com/coreos/go-systemd/v22/daemon", "virtgate/server", "virtgate/server/metrics", "virtgate/server/tracing", lib, "github.com/spf13/viper", "github.com/spf13/pflag", "github.com/go-viper/encoding/ini", "github.com/lmittmann/tint", "golang.org/x/sync/errgroup"},
		"virtgate/server":                 {"virtgate/server/audit", "virtgate/auth", "virtgate/envelope", "virtgate/server/listen", "virtgate/server/openapi", "virtgate/server/metrics", "virtgate/server/tracing", lib, lib + "/domainxml", "github.com/labstack/echo/v4", "github.com/swaggest/swgui/v5/static", "github.com/vearutop/statigz"},
		"virtgate/server/metrics":         {lib, prometheus, prometheus + "/collectors", prometheus + "/promhttp"},
		"virtgate/server/tracing":         {lib, otel, otel + "/attribute", otel + "/codes", otel + "/exporters/otlp/otlptrace", otel + "/propagation", otel + "/sdk/resource", otel + "/sdk/trace", otel + "/trace", "go.opentelemetry.io/proto/otlp/trace/v1", "google.golang.org/protobuf/proto"},
		"virtgate/auth":                   {"virtgate/auth/reread"},
		"virtgate/server/audit":           {},
		"virtgate/auth/reread":            {},
		"virtgate/server/listen":          {"virtgate/auth/reread", "github.com/coreos/go-systemd/v22/activation"},
		"virtgate/server/listen/certtest": {}, // for tests
		"virtgate/envelope":               {},
		"virtgate/server/openapi":         {"go.yaml.in/yaml/v3"},
		lib:                               {lib + "/wire", lib + "/xdr", "github.com/digitalocean/go-libvirt", "github.com/skeema/knownhosts", "golang.org/x/crypto/ssh", "golang.org/x/crypto/ssh/agent", "golang.org/x/sync/errgroup"},
		lib + "/wire":                     {},
		lib + "/xdr":                      {"github.com/digitalocean/go-libvirt"},
		lib + "/domainxml":                {lib, "libvirt.org/go/libvirtxml"},
		lib + "/rpctest":                  {lib + "/wire", lib + "/xdr", "github.com/digitalocean/go-libvirt"},
		lib + "/bench":                    {"github.com/digitalocean/go-libvirt", "github.com/digitalocean/go-libvirt/socket/dialers"},
	}
	for line := range strings.Lines(string(out)) {
		pkg, imports, _ := strings.Cut(strings.TrimSpace(line), ":")
		may, known := allowed[pkg]
		if !known {
			t.Errorf("%s is a new package: say here what it may import", pkg)
		}
		for _, i := range strings.Fields(imports) {
			first, _, _ := strings.Cut(i, "/")
			if (strings.Contains(first, ".") || first == "virtgate") && !slices.Contains(may, i) {
				t.Errorf("%s must not import %s", pkg, i)
			}
		}
	}
}
