package server

import (
	"slices"
	"strings"
)

// nameFilter is search and the name filters, which every collection has.
type nameFilter struct {
	find []string // lower-case; in name or identifier
	any  bool     // one of the tests is enough
	with [len(nameTests)][]string
}

// nameTests are the name filters: the words of one are ORed.
var nameTests = [...]struct {
	name, about string
	test        func(name, word string) bool
}{
	{"name", "the whole name", func(name, word string) bool { return name == word }},
	{"name.contains", "text in the name", strings.Contains},
	{"name.startswith", "text at the start of the name", strings.HasPrefix},
	{"name.endswith", "text at the end of the name", strings.HasSuffix},
}

func (f *nameFilter) params() []param {
	search := words("search", "text in name or UUID, in any letter case", &f.find)
	search.set = func(v string) error {
		f.find = split(strings.ToLower(v))
		return nil
	}
	out := []param{search}
	for i, t := range nameTests {
		out = append(out, words(t.name, t.about, &f.with[i]))
	}
	return append(out, choice("match", "whether all of the name filters have to fit, or any", []string{"all", "any"}, func(w string) { f.any = w == "any" }))
}

// fits tells whether an object of that name and identifier passes.
func (f *nameFilter) fits(name, id string) bool {
	if f.find != nil {
		lower := strings.ToLower(name)
		if !slices.ContainsFunc(f.find, func(w string) bool { return strings.Contains(lower, w) || strings.Contains(id, w) }) {
			return false
		}
	}
	all, any := true, false
	for i, t := range nameTests {
		if f.with[i] == nil {
			continue
		}
		fits := slices.ContainsFunc(f.with[i], func(w string) bool { return t.test(name, w) })
		all, any = all && fits, any || fits
	}
	return all || f.any && any
}

func (f *nameFilter) empty() bool {
	return f.find == nil && !slices.ContainsFunc(f.with[:], func(w []string) bool { return w != nil })
}
