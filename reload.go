package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"

	"virtgate/auth"
	"virtgate/libvirtrpc"
	"virtgate/server"
	"virtgate/server/audit"
	"virtgate/server/listen"
	"virtgate/server/metrics"
	"virtgate/server/tracing"
)

// live is what a reload changes, and what it takes to do so.
type live struct {
	file    string // --config
	env     []string
	started config // with what the process was started
	ownKey  bool   // the key was made for this run
	where   places

	log      *slog.Logger
	level    *slog.LevelVar
	auth     *auth.Authenticator
	server   *server.Server
	client   *libvirtrpc.Client
	metrics  *metrics.Metrics
	traces   *tracing.Tracer // nil: none
	tls      *listen.TLS     // nil: none
	audit    *audit.Log
	notifier *notifier
}

// run reloads with every signal, until ctx ends.
func (l *live) run(ctx context.Context, reload <-chan os.Signal) error {
	for {
		select {
		case <-ctx.Done():
			l.notifier.stopping()
			return nil
		case <-reload:
		}
		l.notifier.reloading()
		but := ""
		if err := l.reload(); err != nil {
			l.log.Error("reload refused: everything stays as it was", "error", err)
			but = "the last reload was refused: " + err.Error()
		}
		l.notifier.ready(but)
	}
}

// reload reads the configuration again. Everything in it that can be wrong is
// found before anything is changed.
func (l *live) reload() error {
	next, file, err := readConfig(l.file, l.env)
	if err != nil {
		return err
	}
	if next.noKey(l.where.unix) {
		if !l.ownKey {
			return errors.New("no key is configured any more: nobody could call")
		}
		next.HTTP.Key = l.started.HTTP.Key
	}
	for _, host := range l.where.hosts {
		if err := next.checkExposed(host); err != nil {
			return err
		}
	}
	who, err := l.auth.Next(next.auth(l.where.unix, l.log))
	if err != nil {
		return err
	}
	use := []func(){}
	if l.tls != nil && next.HTTP.TLS.Cert != "" {
		useTLS, err := l.tls.Prepare(next.HTTP.TLS)
		if err != nil {
			return err
		}
		use = append(use, useTLS)
	}
	useAudit, err := l.audit.Prepare(next.Audit)
	if err != nil {
		return err
	}
	for _, f := range append(use, useAudit) {
		f()
	}
	l.auth = who
	l.server.Use(server.Settings{Auth: who, BodyLimit: next.HTTP.BodyLimit, RequestTimeout: next.HTTP.RequestTimeout})
	l.client.SetChangeTimeout(next.HTTP.RequestTimeout)
	l.level.Set(next.Log.level())
	l.log.Info("configuration reloaded", "config", file)
	if fixed := l.started.fixed(&next); fixed != nil {
		l.log.Warn("changed, and in use after a restart only", "keys", strings.Join(fixed, ", "))
	}
	return nil
}

// fixed are the keys in which next differs and that a reload does not change.
func (c *config) fixed(next *config) []string {
	var out []string
	for _, s := range settings {
		if !s.live && s.set.get(c) != s.set.get(next) {
			out = append(out, "["+s.section+"] "+s.key)
		}
	}
	if (c.HTTP.TLS.Cert == "") != (next.HTTP.TLS.Cert == "") {
		out = append(out, "[http_server] tls_cert")
	}
	return out
}
