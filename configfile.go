package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/go-viper/encoding/ini"
	"github.com/spf13/viper"
)

// delimiter joins sections and keys inside viper. Its own, the dot, is a part
// of section names here.
const delimiter = "\x00"

// readINI reads the keys of each section, as text.
func readINI(r io.Reader) (map[string]map[string]string, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	n := 0
	for line := range bytes.Lines(text) {
		n++
		// The library puts the value of another key there: one key would show
		// another in an error, and two that name each other grow without end.
		if expansion.Match(line) {
			return nil, fmt.Errorf("cannot read the configuration: line %d: %%(name)s is not accepted", n)
		}
	}
	v, err := parseINI(text)
	if err != nil {
		// Not err: it shows the line, which may be half of a key.
		return nil, fmt.Errorf("cannot read the configuration: line %d is no [section], no key=value and no comment", badLine(text))
	}
	out := map[string]map[string]string{}
	for section, keys := range v.AllSettings() {
		m, ok := keys.(map[string]any)
		if !ok || section == "default" {
			return nil, errors.New("cannot read the configuration: a key stands before the first [section]")
		}
		out[section] = map[string]string{}
		for k, v := range m {
			out[section][k] = iniValue(fmt.Sprint(v))
		}
	}
	return out, nil
}

// expansion is what the library replaces in values.
var expansion = regexp.MustCompile(`^[^#;].*%\([^)]+\)s`)

// badLine is the number of the first line that cannot be read by itself.
func badLine(text []byte) int {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if _, err := parseINI(line); err != nil {
			break
		}
	}
	return n
}

func parseINI(text []byte) (*viper.Viper, error) {
	reg := viper.NewCodecRegistry()
	err := reg.RegisterCodec("ini", ini.Codec{KeyDelimiter: delimiter, LoadOptions: ini.LoadOptions{
		// Quotes and comments are iniValue's: the library cuts a comment off
		// before it looks for quotes, and takes one alone for a value.
		IgnoreInlineComment:     true,
		PreserveSurroundedQuote: true,
		IgnoreContinuation:      true,
	}})
	if err != nil {
		return nil, err
	}
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter), viper.WithCodecRegistry(reg))
	v.SetConfigType("ini")
	return v, v.ReadConfig(bytes.NewReader(text))
}

// iniValue is a value without the quotes around it and the comment behind it. A
// comment begins with ; or # at the value's begin or after a space: a key may
// hold both.
func iniValue(v string) string {
	comment := func(s string) bool { return s != "" && (s[0] == ';' || s[0] == '#') }
	v = strings.TrimSpace(v)
	if v != "" && (v[0] == '"' || v[0] == '\'') {
		inner, rest, ok := strings.Cut(v[1:], v[:1])
		if after := strings.TrimLeft(rest, " \t"); ok && (after == "" || after != rest && comment(after)) {
			return inner
		}
	}
	for i := range v {
		if comment(v[i:]) && (i == 0 || v[i-1] == ' ' || v[i-1] == '\t') {
			return strings.TrimSpace(v[:i])
		}
	}
	return v
}

// namedKeys are the keys of the sections that have a name in theirs. One that
// ends as another one does comes before it.
var namedKeys = map[string][]string{
	servicePrefix: {"key", "allow"},
	userPrefix:    {"next_key", "key", "allow"},
}

// overlay puts the environment over what the file says. A variable that names
// a section of ours but no key of it is an error; others (Kubernetes makes
// VIRTGATE_PORT for a service of that name) are left alone.
func overlay(sections map[string]map[string]string, env []string) error {
	put := func(section, k, v string) {
		if sections[section] == nil {
			sections[section] = map[string]string{}
		}
		sections[section][k] = v
	}
	variable := func(s string) string { return strings.ToUpper(strings.NewReplacer("-", "_", ".", "_").Replace(s)) }
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		rest, ok := strings.CutPrefix(name, "VIRTGATE_")
		if !ok {
			continue
		}
		known, ours := false, false
		for prefix, keys := range namedKeys {
			named, ok := strings.CutPrefix(rest, variable(prefix))
			if !ok {
				continue
			}
			ours = true
			for _, k := range keys {
				who, ok := strings.CutSuffix(named, "_"+variable(k))
				if !ok || who == "" || known {
					continue
				}
				section := prefix + strings.ToLower(who)
				for _, s := range sorted(sections) { // the file's spelling, when it has that one
					if variable(s) == variable(section) {
						section = s
					}
				}
				put(section, k, value)
				known = true
			}
		}
		for _, s := range settings {
			ours = ours || strings.HasPrefix(rest, variable(s.section)+"_")
			if rest == variable(s.section)+"_"+variable(s.key) {
				put(s.section, s.key, value)
				known = true
			}
		}
		if ours && !known {
			return fmt.Errorf("environment: %s names no key of the configuration", name)
		}
	}
	return nil
}
