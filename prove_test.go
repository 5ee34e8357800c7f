package main

import (
	"slices"
	"testing"
	"time"
)

// A proof shows what the program does on its worst day. Its rows are the lines
// of the table in docs/reliability.md.

// row is a line of the table: measure returns what was found, which stands
// there only if all that was promised held, here and in the test around it.
func row(around *testing.T, name, what, promised string, measure func(t *testing.T) string) {
	around.Helper()
	around.Run(name, func(t *testing.T) {
		t.Attr("case", what)
		t.Attr("promised", promised)
		measured := measure(t)
		if !t.Failed() && !around.Failed() {
			t.Logf("%s: %s", what, measured)
			t.Attr("measured", measured)
		}
	})
}

// percentile is the p-th percentile of the times.
func percentile(times []time.Duration, p int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[(len(times)-1)*p/100]
}
