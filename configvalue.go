package main

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"virtgate/auth"
)

// The functions here make the set function of a setting: they read a value
// that is not empty, check it and put it into the configuration.

func text(to func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		*to(c) = v
		return nil
	}
}

func key(to func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		*to(c) = v
		return auth.CheckKey(v)
	}
}

func webURL(to func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return errors.New("want http://host:port or https://host:port")
		}
		*to(c) = v
		return nil
	}
}

func choice(to func(*config) *string, words ...string) func(*config, string) error {
	return func(c *config, v string) error {
		v = strings.ToLower(v)
		if !slices.Contains(words, v) {
			return fmt.Errorf("want one of %s", strings.Trim(strings.Join(words, ", "), ", "))
		}
		*to(c) = v
		return nil
	}
}

func number(to func(*config) *int, least, most int) func(*config, string) error {
	return func(c *config, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return fmt.Errorf("want a number from %d to %d", least, most)
		}
		*to(c) = n
		return nil
	}
}

func boolean(to func(*config) *bool) func(*config, string) error {
	return func(c *config, v string) error {
		switch strings.ToLower(v) {
		case "true", "yes", "on", "1":
			*to(c) = true
		case "false", "no", "off", "0":
			*to(c) = false
		default:
			return errors.New("want true or false")
		}
		return nil
	}
}

func duration(to func(*config) *time.Duration, least, most time.Duration) func(*config, string) error {
	return func(c *config, v string) error {
		d, err := time.ParseDuration(v)
		if n, nerr := strconv.ParseUint(v, 10, 31); nerr == nil {
			d, err = time.Duration(n)*time.Second, nil
		}
		if err != nil || d < least || d > most {
			return fmt.Errorf("want a time from %s to %s: a number of seconds, or one with a unit such as 1500ms or 2m", least, most)
		}
		*to(c) = d
		return nil
	}
}

func size(to func(*config) *int64, least, most int64) func(*config, string) error {
	return func(c *config, v string) error {
		digits, shift := v, 0
		for suffix, s := range map[string]int{"KiB": 10, "MiB": 20} {
			if cut, ok := strings.CutSuffix(v, suffix); ok {
				digits, shift = strings.TrimSpace(cut), s
			}
		}
		n, err := strconv.ParseInt(digits, 10, 32)
		if n <<= shift; err != nil || n < least || n > most {
			return fmt.Errorf("want a number of bytes from %d to %d, or one with KiB or MiB", least, most)
		}
		*to(c) = n
		return nil
	}
}

func words(v string) []string {
	out := strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
	return slices.Compact(out)
}

func sorted[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
