// Command virtgate serves libvirt's domains over HTTP: see README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"virtgate/auth"
	"virtgate/libvirtrpc"
	"virtgate/server"
	"virtgate/server/listen"
	"virtgate/server/metrics"
	"virtgate/server/tracing"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := run(ctx, os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "virtgate:", err)
		os.Exit(1)
	}
}

// defaultConfigs are where the configuration is looked for without --config.
var defaultConfigs = []string{"config.ini", "/etc/virtgate/config.ini"}

type flags struct {
	config, listen, uri, completion                     string
	check, hashKey, openapi, man, showVersion, showHelp bool
}

func parseFlags(args []string) (flags, *pflag.FlagSet, error) {
	var f flags
	fs := pflag.NewFlagSet("virtgate", pflag.ContinueOnError)
	fs.SortFlags = false
	fs.Usage = func() {}
	fs.StringVar(&f.config, "config", "", "configuration `file` (default: "+strings.Join(defaultConfigs, ", else ")+")")
	fs.StringVar(&f.listen, "listen", "", "`address`:port to listen on, instead of the configuration's")
	fs.StringVar(&f.uri, "uri", "", "libvirt `URI`, instead of the configuration's: qemu:///system, test:///default, qemu+tls://host/system")
	fs.BoolVar(&f.check, "check", false, "check the configuration, call libvirt, print what was found, and end")
	fs.BoolVar(&f.hashKey, "hash-key", false, "read a key from standard input, print it hashed for the configuration, and end")
	fs.BoolVar(&f.openapi, "openapi", false, "print the description of the API (OpenAPI 3.1, JSON) and end")
	fs.BoolVar(&f.man, "man", false, "print the manual page (roff) and end")
	fs.StringVar(&f.completion, "completion", "", "print the completion of flags for `bash|zsh|fish` and end")
	fs.BoolVar(&f.showVersion, "version", false, "print the version, its commit and date, and end")
	fs.BoolVarP(&f.showHelp, "help", "h", false, "print this and end")
	if err := fs.Parse(args); err != nil {
		return f, fs, fmt.Errorf("%w (see virtgate --help)", err)
	}
	if fs.NArg() > 0 {
		return f, fs, fmt.Errorf("unexpected argument %q (see virtgate --help)", fs.Arg(0))
	}
	return f, fs, nil
}

func run(ctx context.Context, args, env []string, stdin io.Reader, stdout, stderr io.Writer) error {
	f, fs, err := parseFlags(args)
	switch {
	case err != nil:
		return err
	case f.showHelp:
		_, err := fmt.Fprint(stdout, "virtgate: "+synopsis+"\n\nUsage: virtgate [flags]\n\n", fs.FlagUsages(), "\n"+environmentText)
		return err
	case f.showVersion:
		_, err := fmt.Fprintln(stdout, versionLine())
		return err
	case f.man:
		return manual(stdout, fs)
	case f.completion != "":
		return completion(stdout, fs, f.completion)
	case f.hashKey:
		return hashKey(stdin, stdout)
	case f.openapi:
		d, err := server.New(server.Options{Version: versionText()}).Description()
		if err == nil {
			_, err = stdout.Write(d.JSON)
		}
		return err
	}

	cfg, file, err := readConfig(f.config, env)
	if err != nil {
		return err
	}
	uri := cfg.Libvirtd.URI()
	if f.uri != "" {
		uri = f.uri
	}
	inherited, err := listen.Inherited()
	if err != nil {
		return err
	}
	where, err := cfg.places(f.listen, inherited)
	if err != nil {
		return err
	}
	ownKey := cfg.noKey(where.unix)
	if ownKey {
		cfg.HTTP.Key = auth.GenerateKey()
		moved, err := where.onlyHere()
		if err != nil {
			return err
		}
		if moved != "" {
			fmt.Fprintf(stderr, "virtgate: no key is configured: listening on 127.0.0.1 instead of %s\n", moved)
		}
	}
	for _, host := range where.hosts {
		if err := cfg.checkExposed(host); err != nil {
			return err
		}
	}

	setThreads(cfg.HTTP.Threads)
	log, level := newLogger(cfg.Log, stderr)
	dial, remote, err := libvirtrpc.Dialer(uri, cfg.Libvirtd.Socket)
	if err != nil {
		return err
	}
	if u, err := url.Parse(uri); err == nil {
		uri = u.Redacted() // from here on it is only shown
	}
	figures := metrics.New(versionText())
	observe := figures.Call
	tracer, err := newTracer(cfg.TraceEndpoint, env, log)
	if err != nil {
		return err
	}
	if tracer != nil {
		observe = func(ctx context.Context, c libvirtrpc.Call) {
			figures.Call(ctx, c)
			tracer.Call(ctx, c)
		}
		defer func() {
			flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
			defer cancel()
			if err := tracer.Shutdown(flush); err != nil {
				log.Warn("the last traces were not sent", "error", err)
			}
		}()
	}
	client, err := libvirtrpc.New(libvirtrpc.Options{
		Dial:          dial,
		URI:           remote,
		Connections:   cfg.Libvirtd.Connections,
		CallTimeout:   cfg.Libvirtd.CallTimeout,
		ChangeTimeout: cfg.HTTP.RequestTimeout,
		Observe:       observe,
		Log:           log,
	})
	if err != nil {
		return err
	}
	figures.Watch(client)
	authenticator, err := auth.New(cfg.auth(where.unix, log))
	if err != nil {
		return err
	}

	if f.check {
		if cfg.HTTP.TLS.Cert != "" {
			if _, err := listen.NewTLS(cfg.HTTP.TLS, log); err != nil {
				return err
			}
		}
		return check(ctx, dial, client, stdout, file, where.String(), uri)
	}

	// The client outlives the server: requests that are under way need it.
	clientCtx, endClient := context.WithCancel(context.WithoutCancel(ctx))
	defer endClient()
	var g errgroup.Group
	g.Go(func() error { return client.Run(clientCtx) })

	err = serve(ctx, &live{
		file: f.config, env: env, started: cfg, ownKey: ownKey, where: where,
		log: log, level: level, auth: authenticator, client: client, metrics: figures, traces: tracer,
	}, stdout, file, uri)
	endClient()
	err = errors.Join(err, g.Wait())
	log.Info("stopped")
	return err
}

// flushTimeout is how long the end of the program waits for the last traces.
const flushTimeout = 5 * time.Second

// newTracer is nil when traces have nowhere to go.
func newTracer(endpoint string, env []string, log *slog.Logger) (*tracing.Tracer, error) {
	url, header := tracing.Endpoint(endpoint, env)
	if url == "" {
		return nil, nil
	}
	return tracing.New(tracing.Options{URL: url, Headers: header, Version: versionText(), Log: log})
}

// setThreads bounds the threads that run at the same time. Half of the CPUs is
// enough to keep libvirtd busy, and on two of them a request takes a tenth less
// time than with both (docs/performance.md): what it mostly does is to wait for
// libvirtd, which then need not move. Go's own variable wins.
func setThreads(n int) {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	if n == 0 {
		n = max(1, runtime.GOMAXPROCS(0)/2)
	}
	runtime.GOMAXPROCS(n)
}

// readConfig reads the configuration file and says which it was. Without one,
// the defaults hold.
func readConfig(file string, env []string) (config, string, error) {
	files := defaultConfigs
	if file != "" {
		files = []string{file}
	}
	for _, name := range files {
		r, err := os.Open(name)
		if errors.Is(err, os.ErrNotExist) && file == "" {
			continue
		}
		if err != nil {
			return config{}, "", fmt.Errorf("cannot read the configuration: %w", err)
		}
		defer r.Close()
		c, err := parseConfig(r, env)
		if err != nil {
			return c, "", fmt.Errorf("%s: %w", name, err)
		}
		return c, name, nil
	}
	c, err := parseConfig(strings.NewReader(""), env)
	return c, "", err
}

// checkTimeout is how long --check waits for the daemon's socket.
const checkTimeout = 10 * time.Second

// check is --check: it prints what was found, and its error says what is wrong.
func check(ctx context.Context, dial func(context.Context) (net.Conn, error), c *libvirtrpc.Client, w io.Writer, file, address, uri string) (err error) {
	if file == "" {
		file = "none, the defaults hold"
	}
	fmt.Fprintf(w, "configuration  %s\nlisten         %s\nlibvirt URI    %s\n", file, address, uri)
	// The first error says what is wrong; later ones may be consequences.
	dialCtx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	conn, err := dial(dialCtx)
	if err != nil {
		return err
	}
	conn.Close()
	ctx, end := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return c.Run(ctx) })
	defer func() {
		end()
		err = errors.Join(err, g.Wait())
	}()
	v, err := c.Version(ctx)
	if err != nil {
		return err
	}
	ds, err := c.ListDomains(ctx, libvirtrpc.ListQuery{})
	if err != nil {
		return err
	}
	active := 0
	for i := range ds {
		if ds[i].Active() {
			active++
		}
	}
	_, err = fmt.Fprintf(w, "libvirt        %s\nhypervisor     %s %s\ndomains        %d, %d of them active\n",
		v.Libvirt, v.Hypervisor, v.HypervisorVersion, len(ds), active)
	return err
}

// hashKey is --hash-key. The key comes by standard input, because arguments are
// visible to every user of the machine.
func hashKey(r io.Reader, w io.Writer) error {
	text, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return err
	}
	key := strings.TrimRight(string(text), "\r\n")
	if strings.HasPrefix(key, "sha256:") {
		return errors.New("cannot hash the key: it is hashed already")
	}
	if err := auth.CheckKey(key); err != nil {
		return fmt.Errorf("cannot hash the key: %w", err)
	}
	_, err = fmt.Fprintln(w, auth.HashKey(key))
	return err
}
