package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"virtgate/libvirtrpc"
)

// What is wrong with a configuration, in the file or in the environment, is
// said with its place and without the keys.
func FuzzParseConfig(f *testing.F) {
	shipped, _ := os.ReadFile("config.ini")
	f.Add(string(shipped), "", "")
	f.Add("[a\n=\n[service_key.]\nkey=%(key)s", "VIRTGATE_HTTP_SERVER_PORT=x", "\"")
	f.Add("[http_server]\nport", "VIRTGATE_SERVICE_KEY_X_ALLOW=*:read", "sha256:")
	f.Add("[auth]\ngroups=a,b", "VIRTGATE_PORT=1\nVIRTGATE_AUTH_GROUPS=c", "`")
	f.Add("a=1\x00b\n[libvirtd\x00driver]\nx=1", "VIRTGATE_SERVICE_KEY__KEY=", "#")
	place := regexp.MustCompile(`^(\[|environment: VIRTGATE_|cannot read the configuration: (line [0-9]+[: ]|a key stands before))`)
	const mark = "7f3ac19e"
	f.Fuzz(func(t *testing.T, text, env, tail string) {
		// A key of its own in front, on one line; the rest may be anything.
		secret := mark + strings.NewReplacer("\n", "", "\r", "").Replace(tail)
		ini := "[http_server]\nauth-key=" + secret + "\n[service_key.own]\nkey=" + secret + "\nallow=*\n" + text
		c, err := parseConfig(strings.NewReader(ini), strings.Split(env, "\n"))
		if err != nil {
			if !place.MatchString(err.Error()) {
				t.Errorf("where? %v", err)
			}
			if strings.Contains(err.Error(), mark) && !strings.Contains(text+env, mark) {
				t.Errorf("a key in an error: %v", err)
			}
			return
		}
		c.listen()
		libvirtrpc.Dialer(c.Libvirtd.URI(), c.Libvirtd.Socket)
	})
}

// Arguments are read whole, or refused with the way to the help.
func FuzzFlags(f *testing.F) {
	f.Add("--config\n/etc/x.ini\n--check")
	f.Add("--listen=:1\n--uri\ntest:///default\n--hash-key=false")
	f.Add("-h\n--\nx")
	f.Add("--config")
	f.Fuzz(func(t *testing.T, text string) {
		args := strings.Split(text, "\n")
		fl, fs, err := parseFlags(args)
		switch {
		case err != nil && !strings.HasSuffix(err.Error(), "(see virtgate --help)"):
			t.Errorf("%q: %v", args, err)
		case err == nil && fs.NArg() > 0:
			t.Errorf("%q: %d arguments are left", args, fs.NArg())
		case err == nil && fl.config != "" && !strings.Contains(text, fl.config):
			t.Errorf("%q: the configuration file is %q", args, fl.config)
		}
	})
}
