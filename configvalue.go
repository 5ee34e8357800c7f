package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"virtgate/auth"
)

// value is what a setting sets.
type value struct {
	// put reads a value that is not empty, checks it and puts it into the
	// configuration.
	put func(*config, string) error
	get func(*config) any // of a comparable type
}

// at makes a value out of its place in the configuration and what reads it.
func at[T any](to func(*config) *T, read func(string) (T, error)) value {
	return value{
		put: func(c *config, v string) (err error) {
			*to(c), err = read(v)
			return err
		},
		get: func(c *config) any { return *to(c) },
	}
}

// unused is the value of a key that means nothing here.
var unused = value{
	put: func(*config, string) error { return nil },
	get: func(*config) any { return nil },
}

func text(to func(*config) *string) value {
	return at(to, func(v string) (string, error) { return v, nil })
}

func key(to func(*config) *string) value {
	return at(to, func(v string) (string, error) { return v, auth.CheckKey(v) })
}

func webURL(to func(*config) *string) value {
	return at(to, func(v string) (string, error) {
		u, err := url.Parse(v)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return v, errors.New("want http://host:port or https://host:port")
		}
		return v, nil
	})
}

func choice(to func(*config) *string, words ...string) value {
	return at(to, func(v string) (string, error) {
		v = strings.ToLower(v)
		if !slices.Contains(words, v) {
			return v, fmt.Errorf("want one of %s", strings.Trim(strings.Join(words, ", "), ", "))
		}
		return v, nil
	})
}

// oneOf is choice for what is not text.
func oneOf[T any](to func(*config) *T, words map[string]T) value {
	return at(to, func(v string) (T, error) {
		t, ok := words[strings.ToLower(v)]
		if !ok {
			return t, fmt.Errorf("want one of %s", strings.Join(sorted(words), ", "))
		}
		return t, nil
	})
}

func wordList(to func(*config) *[]string) value {
	v := at(to, func(v string) ([]string, error) { return words(v), nil })
	v.get = func(c *config) any { return strings.Join(*to(c), ",") }
	return v
}

func absolutePath(to func(*config) *string) value {
	return at(to, func(v string) (string, error) { return v, wantAbsolute(v) })
}

func wantAbsolute(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("want a path from the root, /…")
	}
	return nil
}

func fileMode(to func(*config) *fs.FileMode) value {
	return at(to, func(v string) (fs.FileMode, error) {
		n, err := strconv.ParseUint(v, 8, 32)
		if err != nil || n > 0o777 {
			return 0, errors.New("want permissions in octal, such as 0660")
		}
		return fs.FileMode(n), nil
	})
}

func number(to func(*config) *int, least, most int) value {
	return at(to, func(v string) (int, error) {
		n, err := strconv.Atoi(v)
		if err != nil || n < least || n > most {
			return n, fmt.Errorf("want a number from %d to %d", least, most)
		}
		return n, nil
	})
}

func boolean(to func(*config) *bool) value {
	return at(to, func(v string) (bool, error) {
		switch strings.ToLower(v) {
		case "true", "yes", "on", "1":
			return true, nil
		case "false", "no", "off", "0":
			return false, nil
		}
		return false, errors.New("want true or false")
	})
}

func duration(to func(*config) *time.Duration, least, most time.Duration) value {
	return at(to, func(v string) (time.Duration, error) {
		d, err := time.ParseDuration(v)
		if n, nerr := strconv.ParseUint(v, 10, 31); nerr == nil {
			d, err = time.Duration(n)*time.Second, nil
		}
		if err != nil || d < least || d > most {
			return d, fmt.Errorf("want a time from %s to %s: a number of seconds, or one with a unit such as 1500ms or 2m", least, most)
		}
		return d, nil
	})
}

func size(to func(*config) *int64, least, most int64) value {
	return at(to, func(v string) (int64, error) {
		digits, shift := v, 0
		for suffix, s := range map[string]int{"KiB": 10, "MiB": 20} {
			if cut, ok := strings.CutSuffix(v, suffix); ok {
				digits, shift = strings.TrimSpace(cut), s
			}
		}
		n, err := strconv.ParseInt(digits, 10, 32)
		if n <<= shift; err != nil || n < least || n > most {
			return n, fmt.Errorf("want a number of bytes from %d to %d, or one with KiB or MiB", least, most)
		}
		return n, nil
	})
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
