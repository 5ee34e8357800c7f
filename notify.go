package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells the service manager how the server is (sd_notify), if there is
// one that wants to know (NOTIFY_SOCKET).
type notifier struct {
	log    *slog.Logger
	status string // in a person's words, when all is well
}

func (n *notifier) send(lines ...string) {
	if _, err := systemd.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		n.log.Warn("cannot notify the service manager", "error", err)
	}
}

// ready says that the server listens, or that a reload is over. but is what a
// person should know besides.
func (n *notifier) ready(but string) {
	status := n.status
	if but != "" {
		status += "; " + strings.ReplaceAll(but, "\n", "; ")
	}
	n.send(systemd.SdNotifyReady, "STATUS="+status)
}

func (n *notifier) reloading() {
	n.send(systemd.SdNotifyReloading, strings.TrimSpace(systemd.SdNotifyMonotonicUsec()))
}

func (n *notifier) stopping() {
	n.send(systemd.SdNotifyStopping, "STATUS=finishing the requests under way")
}

// watch tells the service manager again and again that the server is alive, as
// long as it is. When it is not, the manager ends the process (WatchdogSec=).
func (n *notifier) watch(ctx context.Context, alive func(context.Context) error) error {
	limit, err := systemd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("no watchdog", "error", err)
	}
	if limit <= 0 || err != nil {
		return nil
	}
	// Two checks may fail, or be late, before the manager loses patience.
	every := limit / 3
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		check, cancel := context.WithTimeout(ctx, every)
		err := alive(check)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			n.log.Error("not alive: the service manager is not told otherwise", "error", err)
		default:
			n.send(systemd.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
