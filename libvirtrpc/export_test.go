package libvirtrpc

import "time"

// Asking is how many lists wait for their round, the one under way included.
func (c *Client) Asking() int { return int(c.lists.waiting.Load()) }

// AskingReady is how many callers of Answers wait.
func (c *Client) AskingReady() int { return int(c.ready.waiting.Load()) }

// LibraryCalls are the procedures that this package calls.
var LibraryCalls = libraryCalls

// Linger sets how long a replaced connection waits for its late answers.
func (c *Client) Linger(d time.Duration) { c.pool.linger = d }

// BlameAfter sets how long a call to every QEMU has to hang before a domain's
// circuit is broken for it.
func (c *Client) BlameAfter(d time.Duration) { c.gate.blameAfter = d }

// Looking is how many wait for Stats.
func (c *Client) Looking() int { return int(c.stats.waiting.Load()) }
