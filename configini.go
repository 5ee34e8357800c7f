package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-viper/encoding/ini"
	"github.com/spf13/viper"
)

// delimiter joins sections and keys inside viper. Its own, the dot, is a part
// of section names here.
const delimiter = "\x00"

// readINI reads the text into its sections and their keys, in lower case.
func readINI(r io.Reader) (map[string]map[string]string, error) {
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
			out[section][k] = iniValue(fmt.Sprint(v))
		}
	}
	return out, nil
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
