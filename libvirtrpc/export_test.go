package libvirtrpc

import "time"

// Asking is how many lists wait for their round, the one under way included.
func (c *Client) Asking() int { return int(c.lists.waiting.Load()) }

// Linger sets how long a replaced connection waits for its late answers.
func (c *Client) Linger(d time.Duration) { c.pool.linger = d }
