package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"
)

// The manual page and the completions are made of the flags, so that they never
// say anything else. A flag's value is called by what stands in `backquotes` in
// its description: a `file` is completed with files, words with | between them
// are all that it can be.

const synopsis = "libvirt over HTTP"

const environmentText = `Every key of the configuration can also come from the environment:
VIRTGATE_HTTP_SERVER_PORT=8082 is [http_server] port.
`

// manual is --man: a page for section 8 in the macros of man(7).
func manual(w io.Writer, fs *pflag.FlagSet) error {
	_, _, when := built()
	day, _, _ := strings.Cut(when, "T")
	var b strings.Builder
	fmt.Fprintf(&b, ".TH VIRTGATE 8 %q %q\n", day, "virtgate "+versionText())
	fmt.Fprintf(&b, ".SH NAME\nvirtgate \\- %s\n.SH SYNOPSIS\n.B virtgate\n[\\fIflags\\fR]\n", synopsis)
	b.WriteString(".SH DESCRIPTION\n" + roff(`virtgate serves the domains of a libvirt daemon over HTTP, in JSON. It speaks libvirt's own protocol over the daemon's socket.
Without a key in the configuration it makes one for this run, prints it once, and can be reached from this machine only.`))
	b.WriteString(".SH OPTIONS\n")
	fs.VisitAll(func(f *pflag.Flag) {
		value, usage := pflag.UnquoteUsage(f)
		b.WriteString(".TP\n")
		if f.Shorthand != "" {
			fmt.Fprintf(&b, "\\fB\\-%s\\fR, ", f.Shorthand)
		}
		fmt.Fprintf(&b, "\\fB\\-\\-%s\\fR", strings.ReplaceAll(f.Name, "-", `\-`))
		if value != "" {
			fmt.Fprintf(&b, " \\fI%s\\fR", value)
		}
		b.WriteString("\n" + roff(usage))
	})
	b.WriteString(".SH ENVIRONMENT\n" + roff(environmentText+
		"GOMAXPROCS wins over [http_server] threads. OTEL_EXPORTER_OTLP_ENDPOINT is where traces go when [trace] endpoint is empty.\n"))
	b.WriteString(".SH FILES\n")
	for _, name := range defaultConfigs {
		b.WriteString(".TP\n.I " + roff(name) + "The configuration; the first one of these that exists. Its comments describe every key.\n")
	}
	b.WriteString(".SH EXIT STATUS\n" + roff("0, or 1 when virtgate could not start, could not serve, or --check found something wrong."))
	b.WriteString(".SH SEE ALSO\n.BR libvirtd (8),\n.BR virtqemud (8),\n.BR virsh (1)\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// roff writes text so that no line is a command and every - can be copied.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(strings.TrimSpace(text))
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			b.WriteString(`\&`)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// completion is --completion: what a shell reads to complete the flags.
func completion(w io.Writer, fs *pflag.FlagSet, shell string) error {
	write, ok := map[string]func(*pflag.FlagSet) string{"bash": bash, "zsh": zsh, "fish": fish}[shell]
	if !ok {
		return fmt.Errorf("no completion for %q: want bash, zsh or fish", shell)
	}
	_, err := io.WriteString(w, write(fs))
	return err
}

func bash(fs *pflag.FlagSet) string {
	var names, cases strings.Builder
	fs.VisitAll(func(f *pflag.Flag) {
		names.WriteString(" --" + f.Name)
		value, _ := pflag.UnquoteUsage(f)
		reply := ""
		switch {
		case value == "":
			return
		case value == "file":
			reply = "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); "
		case strings.Contains(value, "|"):
			reply = fmt.Sprintf("mapfile -t COMPREPLY < <(compgen -W %q -- \"$cur\"); ", strings.ReplaceAll(value, "|", " "))
		}
		fmt.Fprintf(&cases, "\t--%s) %sreturn ;;\n", f.Name, reply)
	})
	// bash takes = for a word of its own.
	return fmt.Sprintf(`# bash completion for virtgate
_virtgate() {
	local cur=${COMP_WORDS[COMP_CWORD]} flag=${COMP_WORDS[COMP_CWORD-1]}
	COMPREPLY=()
	if [[ $cur == = ]]; then cur=; elif [[ $flag == = ]]; then flag=${COMP_WORDS[COMP_CWORD-2]}; fi
	case $flag in
%s	esac
	mapfile -t COMPREPLY < <(compgen -W %q -- "$cur")
}
complete -F _virtgate virtgate
`, cases.String(), strings.TrimSpace(names.String()))
}

func zsh(fs *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("#compdef virtgate\n_arguments")
	quote := strings.NewReplacer("'", `'\''`, "[", `\[`, "]", `\]`)
	fs.VisitAll(func(f *pflag.Flag) {
		value, usage := pflag.UnquoteUsage(f)
		action := ""
		switch {
		case value == "file":
			action = "=:file:_files"
		case strings.Contains(value, "|"):
			action = "=:word:(" + strings.ReplaceAll(value, "|", " ") + ")"
		case value != "":
			action = "=:" + value + ": "
		}
		mark, _, _ := strings.Cut(action, ":") // = stands before the description
		fmt.Fprintf(&b, " \\\n\t'--%s%s[%s]%s'", f.Name, mark, quote.Replace(usage), strings.TrimPrefix(action, mark))
	})
	return b.String() + "\n"
}

func fish(fs *pflag.FlagSet) string {
	var b strings.Builder
	b.WriteString("# fish completion for virtgate\ncomplete -c virtgate -f\n")
	quote := strings.NewReplacer(`\`, `\\`, "'", `\'`)
	fs.VisitAll(func(f *pflag.Flag) {
		value, usage := pflag.UnquoteUsage(f)
		fmt.Fprintf(&b, "complete -c virtgate -l %s", f.Name)
		if f.Shorthand != "" {
			b.WriteString(" -s " + f.Shorthand)
		}
		switch {
		case value == "file":
			b.WriteString(" -r -F")
		case strings.Contains(value, "|"):
			fmt.Fprintf(&b, " -x -a '%s'", strings.ReplaceAll(value, "|", " "))
		case value != "":
			b.WriteString(" -x")
		}
		fmt.Fprintf(&b, " -d '%s'\n", quote.Replace(usage))
	})
	return b.String()
}
