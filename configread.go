package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-viper/encoding/ini"
	"github.com/spf13/viper"
)

func readINI(r io.Reader) (map[string]map[string]string, error) {
	reg := viper.NewCodecRegistry()
	err := reg.RegisterCodec("ini", ini.Codec{KeyDelimiter: delimiter, LoadOptions: ini.LoadOptions{
		SpaceBeforeInlineComment: true, // a key may hold # and ;
		IgnoreContinuation:       true,
	}})
	if err != nil {
		return nil, err
	}
	v := viper.NewWithOptions(viper.KeyDelimiter(delimiter), viper.WithCodecRegistry(reg))
	v.SetConfigType("ini")
	if err := v.ReadConfig(r); err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w", err)
	}
	out := map[string]map[string]string{}
	for section, keys := range v.AllSettings() {
		m, ok := keys.(map[string]any)
		if !ok || section == "default" {
			return nil, errors.New("cannot read the configuration: a key stands before the first [section]")
		}
		out[section] = map[string]string{}
		for k, v := range m {
			out[section][k] = fmt.Sprint(v)
		}
	}
	return out, nil
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
				if who, ok := strings.CutSuffix(named, "_"+variable(k)); ok && who != "" && !known {
					put(prefix+strings.ToLower(who), k, value)
					known = true
				}
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
