package main

import (
	"fmt"
	"runtime/debug"
)

// What scripts/build and releases set by the linker. The date is the commit's,
// so that two builds of one commit have the same bytes.
var version, commit, date string

// built says what this program was built from. What the linker was not told, Go
// knows when it built in a git checkout. Unknown is empty.
func built() (v, rev, when string) {
	v, rev, when = version, commit, date
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return v, rev, when
	}
	if v == "" {
		v = b.Main.Version
	}
	if rev != "" {
		return v, rev, when
	}
	vcs := map[string]string{}
	for _, s := range b.Settings {
		vcs[s.Key] = s.Value
	}
	rev, when = vcs["vcs.revision"], vcs["vcs.time"]
	if vcs["vcs.modified"] == "true" {
		rev += ", changed"
	}
	return v, rev, when
}

func versionText() string {
	if v, _, _ := built(); v != "" {
		return v
	}
	return "(devel)"
}

// versionLine is --version.
func versionLine() string {
	_, rev, when := built()
	if rev == "" {
		return "virtgate " + versionText()
	}
	return fmt.Sprintf("virtgate %s (commit %s, %s)", versionText(), rev, when)
}
