package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The alert rules and their tests, the scrape example, and the board's
// expressions, as Prometheus itself reads them.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool: scripts/test installs it")
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("deploy/prometheus")); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("virtgate.key", scrapeKey) // the example names it
	write("board.rules.yml", boardRules(t))
	for _, args := range []string{
		"check rules virtgate.rules.yml", "test rules virtgate.rules.test.yml", "check config prometheus.yml", "check rules board.rules.yml",
	} {
		cmd := exec.Command(promtool, strings.Fields(args)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "SUCCESS") {
			t.Errorf("promtool %s: %v\n%s", args, err, out)
		}
	}
	// Every alert has its test.
	rules, _ := os.ReadFile("deploy/prometheus/virtgate.rules.yml")
	tests, _ := os.ReadFile("deploy/prometheus/virtgate.rules.test.yml")
	for line := range strings.Lines(string(rules)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "- alert: "); ok && !strings.Contains(string(tests), "alertname: "+name+"\n") {
			t.Errorf("virtgate.rules.test.yml does not test %s", name)
		}
	}
}

// boardRules are the board's expressions as recording rules, with Grafana's
// variables filled in.
func boardRules(t *testing.T) string {
	b, err := os.ReadFile("deploy/grafana/virtgate.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(b, &board); err != nil {
		t.Fatal(err)
	}
	fill := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*", "$instance", ".*", "$domain", ".*")
	var rules strings.Builder
	rules.WriteString("groups:\n- name: board\n  rules:\n")
	for i, p := range board.Panels {
		for j, g := range p.Targets {
			expr, _ := json.Marshal(fill.Replace(g.Expr)) // JSON is YAML
			fmt.Fprintf(&rules, "  - record: panel:%d:%d\n    expr: %s\n", i, j, expr)
		}
	}
	return rules.String()
}
