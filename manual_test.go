package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// printed is what the program prints for these arguments.
func printed(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(context.Background(), args, nil, strings.NewReader(""), &out, &out); err != nil {
		t.Fatalf("%s: %v", args, err)
	}
	return out.String()
}

// Every flag is in the page, in the completions and in the README.
func TestEveryFlagIsTold(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	page := printed(t, "--man")
	texts := map[string]string{
		"the README":    string(readme),
		"the page":      strings.NewReplacer(`\fB\-\-`, "`--", `\-`, "-", `\fR`, "`").Replace(page),
		"the usage":     strings.ReplaceAll(printed(t, "--help"), "--", "`--"),
		"bash and fish": printed(t, "--completion", "bash") + printed(t, "--completion", "fish"),
	}
	_, fs, err := parseFlags(nil)
	if err != nil {
		t.Fatal(err)
	}
	fs.VisitAll(func(f *pflag.Flag) {
		for name, text := range texts {
			want := "`--" + f.Name
			if name == "bash and fish" {
				want = " -l " + f.Name + " "
			}
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks --%s", name, f.Name)
			}
		}
	})
	if !strings.HasPrefix(page, ".TH VIRTGATE 8 ") {
		t.Errorf("the page begins with %.40q", page)
	}
	if got, want := roff(".so a-b\n'x \\fB"), "\\&.so a\\-b\n\\&'x \\efB\n"; got != want {
		t.Errorf("roff: %q, want %q", got, want)
	}
}

// bash itself completes.
func TestCompletionInBash(t *testing.T) {
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("there is no bash")
	}
	dir := t.TempDir()
	script := filepath.Join(dir, "virtgate")
	for _, name := range []string{script, filepath.Join(dir, "my config.ini")} {
		if err := os.WriteFile(name, []byte(printed(t, "--completion", "bash")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for line, want := range map[string]string{
		"--ope":           "--openapi",
		"--check --hash":  "--hash-key",
		"--config my":     "my config.ini",
		"--config = my":   "my config.ini",
		"--completion =":  "bash zsh fish",
		"--completion fi": "fish",
		"--uri te":        "",
	} {
		cmd := exec.Command(shell, "--norc", "-c", `. "$0"; compopt() { :; }
			COMP_WORDS=(virtgate "$@") COMP_CWORD=$#; _virtgate; echo "${COMPREPLY[*]}"`, script)
		cmd.Args = append(cmd.Args, strings.Fields(line)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("virtgate %s: %q, want %q (%v)", line, got, want, err)
		}
	}
}
