package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// docs/configuration.md is made of the settings and of config.ini, which says
// what each of them means; -update writes it anew.
func TestConfigurationReference(t *testing.T) {
	text, err := os.ReadFile("config.ini")
	if err != nil {
		t.Fatal(err)
	}
	type entry struct{ value, about string }
	entries := map[string]entry{}
	section, about := "", ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch name, value, isKey := strings.Cut(line, "="); {
		case line == "":
			about = ""
		case strings.HasPrefix(line, ";"):
			about += " " + strings.TrimSpace(strings.TrimPrefix(line, ";"))
		case strings.HasPrefix(line, "["):
			section, about = strings.Trim(line, "[]"), ""
		case isKey:
			entries[section+"."+name] = entry{value, strings.TrimSpace(about)}
			about = ""
		}
	}
	var b strings.Builder
	b.WriteString("# Configuration\n\nMade of the program's own table of settings and of [config.ini](../config.ini),\n" +
		"by `scripts/golden`. An empty value means the default. The environment wins over\nthe file. What can change while the server runs does so on SIGHUP; of the rest the\n" +
		"log says that it takes a restart.\n\nSections `[service_key.NAME]` (`key`, `allow`) and `[user.NAME]` (`key`, `next_key`,\n" +
		"`allow`) are described in [security.md](security.md); they are live.\n")
	section = ""
	for _, s := range settings {
		if s.section != section {
			section = s.section
			fmt.Fprintf(&b, "\n## [%s]\n\n| key | default | environment | live | meaning |\n|---|---|---|---|---|\n", section)
		}
		e := entries[s.section+"."+s.key]
		value, live := "", ""
		if e.value != "" {
			value = "`" + e.value + "`"
		}
		if s.live {
			live = "yes"
		}
		variable := strings.ToUpper(strings.NewReplacer("-", "_").Replace("VIRTGATE_" + s.section + "_" + s.key))
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s | %s |\n", s.key, value, variable, live, strings.ReplaceAll(e.about, "|", "\\|"))
	}
	const file = "docs/configuration.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(have), b.String()); diff != "" {
		t.Errorf("%s is not what the configuration is (-have +want); scripts/golden writes it:\n%s", file, diff)
	}
}
