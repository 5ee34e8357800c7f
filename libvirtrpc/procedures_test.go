package libvirtrpc

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/digitalocean/go-libvirt"

	"virtgate/libvirtrpc/xdr"
)

// Every method of go-libvirt that this package uses has to have its layout in
// package xdr: a reply to any other call ends the connection, see checkReply.
func TestLayoutsOfAllCallsAreKnown(t *testing.T) {
	calls := libraryCalls(t)
	for method, file := range calls {
		if _, ok := xdr.Named(method); !ok {
			t.Errorf("%s uses %s, which has no layout in package xdr", file, method)
		}
	}
	if len(calls) < 20 {
		t.Errorf("found only %d calls of go-libvirt: this test looks at the wrong thing", len(calls))
	}
}

// libraryCalls are the methods of go-libvirt that this package uses, each with
// a file that does. ConnectToURI makes calls of its own.
func libraryCalls(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	methods := reflect.TypeFor[*libvirt.Libvirt]()
	calls := map[string]string{}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			method := sel.Sel.Name
			if _, ok := methods.MethodByName(method); ok && isLibrary(sel.X) && method != "ConnectToURI" {
				calls[method] = name
			}
			return true
		})
	}
	return calls
}

// isLibrary tells whether x is how this package writes go-libvirt's client:
// lv, c.lv or (*libvirt.Libvirt).
func isLibrary(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "lv"
	case *ast.SelectorExpr:
		return x.Sel.Name == "lv"
	case *ast.ParenExpr:
		_, ok := x.X.(*ast.StarExpr)
		return ok
	}
	return false
}
