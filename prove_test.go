package main

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// A proof shows what the program does on its worst day. Its rows are the lines
// of the table in docs/reliability.md.

// proveSeed is what the random choices come from.
func proveSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("VIRTGATE_PROVE_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("VIRTGATE_PROVE_SEED=%d makes the same choices", seed)
	return seed
}

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

// slack is what a busy machine may add to any deadline.
const slack = 3 * time.Second

// percentile is the p-th percentile of the times.
func percentile(times []time.Duration, p int) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[(len(times)-1)*p/100]
}
