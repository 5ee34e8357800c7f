package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"os/user"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"virtgate/server"
	"virtgate/server/audit"
	"virtgate/server/listen"
)

// maxIdle is how long nobody may have looked after the pool of libvirt
// connections; an attempt to open one takes a sixth of it at most.
const maxIdle = 30 * time.Second

// serve listens and answers until ctx ends. l has all that is needed and does
// not depend on listening; file is where the configuration came from.
func serve(ctx context.Context, l *live, stdout io.Writer, file, uri string) (err error) {
	// From here on SIGHUP does not end the process.
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)

	if l.audit, err = audit.Open(l.started.Audit, l.log); err != nil {
		return err
	}
	defer l.audit.Close()
	listeners, tls, err := l.where.open(&l.started, l.log)
	if err != nil {
		return err
	}
	l.tls = tls
	if l.ownKey {
		announceKey(stdout, l.started.HTTP.Key, listeners[0])
	}
	if l.tls == nil && slices.ContainsFunc(l.where.hosts, func(host string) bool { return !loopback(host) }) {
		l.log.Warn("listening without TLS where other machines are: keys cross the network as they are")
	}
	var addresses []string
	for _, at := range listeners {
		addresses = append(addresses, at.Addr().String())
		l.log.Info("listening", "address", at.Addr().String(), "tls", listen.IsTLS(at), "uri", uri, "config", file, "version", versionText())
	}
	l.notifier = &notifier{log: l.log, status: "listening on " + strings.Join(addresses, ", ")}
	l.server = server.New(server.Options{
		Libvirt:        l.client,
		Auth:           l.auth,
		Audit:          l.audit,
		Log:            l.log,
		Version:        versionText(),
		Metrics:        l.metrics,
		Traces:         l.traces,
		BodyLimit:      l.started.HTTP.BodyLimit,
		RequestTimeout: l.started.HTTP.RequestTimeout,
		Docs:           l.started.HTTP.Docs,
	})

	serving, stop := context.WithCancel(ctx)
	defer stop()
	// While the last requests finish, the server is alive.
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatching()
	var g errgroup.Group
	g.Go(func() error {
		defer stop()
		defer stopWatching()
		return l.server.Serve(serving, listeners...)
	})
	g.Go(func() error { return l.run(serving, reload) })
	g.Go(func() error { return l.notifier.watch(watching, l.alive) })
	l.notifier.ready("")
	return g.Wait()
}

// alive tells whether the server answers, and its pool is looked after.
func (l *live) alive(ctx context.Context) error {
	if err := l.server.Alive(ctx); err != nil {
		return err
	}
	return l.client.Alive(maxIdle)
}

// announceKey prints the key made for this run, the only time that it is shown.
func announceKey(w io.Writer, key string, l net.Listener) {
	name := "root"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	scheme := "http"
	if listen.IsTLS(l) {
		scheme = "https"
	}
	fmt.Fprintf(w, `No key is configured ([http_server] auth-key). For this run only, the key is
  %s
and a user in the groups of [auth] may call with it:
  curl -H "X-Auth-Key: %s" -H "X-Auth-Username: %s" %s://%s/libvirt/domains
`, key, key, name, scheme, l.Addr())
}
