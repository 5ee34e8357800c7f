package libvirtrpc_test

import (
	"testing"

	"virtgate/libvirtrpc"
	"virtgate/libvirtrpc/rpctest"
)

// What libvirt says is not there is a domain only when it says so.
func TestKindsOfMissing(t *testing.T) {
	for code, kind := range map[int32]libvirtrpc.Kind{
		42: libvirtrpc.NotFound, 43: libvirtrpc.Missing, 49: libvirtrpc.Missing, 50: libvirtrpc.Missing, 82: libvirtrpc.Invalid, 1: libvirtrpc.Failed,
	} {
		d := rpctest.NewDaemon(func(r *rpctest.Request) { r.Error(code, "no") })
		c := start(t, d, nil)
		wantKind(t, c.Start(t.Context(), vm1, 0), kind)
		_, err := c.Define(t.Context(), "<domain/>", false)
		if code == 1 { // a mistake in the document
			kind = libvirtrpc.Invalid
		}
		wantKind(t, err, kind)
	}
}
