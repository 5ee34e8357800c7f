package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"virtgate/libvirtrpc"
)

// exposedNames are all names that a scrape can have, and whether each is the
// server's or libvirt's own: not one of Go's or the process's.
func exposedNames(t *testing.T) map[string]bool {
	t.Helper()
	m := New("1")
	c, err := libvirtrpc.New(libvirtrpc.Options{URI: "test:///default", Dial: nobody})
	if err != nil {
		t.Fatal(err)
	}
	m.Watch(c)
	names := map[string]bool{"up": false} // Prometheus' own
	descs := make(chan *prometheus.Desc)
	go func() {
		m.registry.Describe(descs)
		close(descs)
	}()
	fqName := regexp.MustCompile(`fqName: "([^"]+)"`)
	for d := range descs {
		name := fqName.FindStringSubmatch(d.String())[1]
		own := strings.HasPrefix(name, "virtgate_") || strings.HasPrefix(name, "http_")
		names[name] = own
		if strings.HasSuffix(name, "_seconds") {
			names[name+"_bucket"], names[name+"_sum"], names[name+"_count"] = false, false, false
		}
	}
	b, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		name, _, _ := strings.Cut(line, " ")
		names[name] = true
	}
	return names
}

// Board and alerts ask for names that there are, and the docs have all of them.
func TestBoardAndAlerts(t *testing.T) {
	names := exposedNames(t)
	metric := regexp.MustCompile(`\b(?:libvirt|virtgate|http_server|process|go)_[a-z0-9_]+\b|\bup\b`)
	word := regexp.MustCompile(`"[^"]*"|'[^']*'`) // label values
	used := map[string]int{}
	check := func(where, expr string) {
		for _, name := range metric.FindAllString(word.ReplaceAllString(expr, `""`), -1) {
			used[where]++
			if _, ok := names[name]; !ok {
				t.Errorf("%s asks for %s, which is not exposed: %s", where, name, expr)
			}
		}
	}
	b, err := os.ReadFile("../../deploy/grafana/virtgate.json")
	if err != nil {
		t.Fatal(err)
	}
	type source struct{ Type, UID string }
	var board struct {
		Panels []struct {
			ID         int
			Title      string
			Type       string
			Datasource source
			Targets    []struct {
				Datasource source
				Expr       string
			}
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Type != "row" && (len(p.Targets) == 0 || p.Datasource != (source{"prometheus", "${datasource}"})) {
			t.Errorf("%s: %d targets, data source %v", p.Title, len(p.Targets), p.Datasource)
		}
		for _, g := range p.Targets {
			if g.Datasource != p.Datasource {
				t.Errorf("%s: data source %v", p.Title, g.Datasource)
			}
			check("board", g.Expr)
		}
	}
	for _, v := range board.Templating.List {
		check("board", v.Definition)
	}
	b, err = os.ReadFile("../../deploy/prometheus/virtgate.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var expr strings.Builder // only what is indented deeper than its key
	for line := range strings.Lines(string(b)) {
		switch text := strings.TrimSpace(line); {
		case strings.HasPrefix(text, "expr:"), strings.HasPrefix(line, "          ") && !strings.HasPrefix(text, "summary:"):
			expr.WriteString(line)
		}
	}
	check("alerts", expr.String())
	if used["board"] < 40 || used["alerts"] < 10 {
		t.Errorf("names found: %v: this test looks at the wrong thing", used)
	}
	b, err = os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, own := range names {
		if own && !strings.Contains(string(b), "`"+name+"`") {
			t.Errorf("docs/metrics.md lacks %s", name)
		}
	}
}
