package main

import (
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
)

func (c *logConfig) level() slog.Level {
	switch {
	case c.Debug:
		return slog.LevelDebug
	case c.Quiet:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// newLogger also returns what changes its level.
func newLogger(c logConfig, w io.Writer) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	level.Set(c.level())
	o := &slog.HandlerOptions{Level: level}
	switch {
	case c.Format == "json":
		return slog.New(slog.NewJSONHandler(w, o)), level
	case c.Color && isTerminal(w):
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: level})), level
	}
	return slog.New(slog.NewTextHandler(w, o)), level
}

// isTerminal tells whether somebody looks: a file is to have no colours.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
