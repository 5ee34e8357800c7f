package libvirtrpc

import (
	"sync"
	"testing"
)

// Who joins rounds gets the one under way, and never one that is over.
func TestJoinedRounds(t *testing.T) {
	r := rounds[int, int]{join: true}
	runs := 0
	var wg sync.WaitGroup
	for i := range 2000 {
		v, err := r.get(t.Context(), 0, wg.Go, func() (int, error) { runs++; return runs, nil })
		if v != i+1 || err != nil {
			t.Fatalf("the %d. round gave %d, %v", i+1, v, err)
		}
	}
	wg.Wait()
}
