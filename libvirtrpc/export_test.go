package libvirtrpc

// Asking is how many lists wait for their round, the one under way included.
func (c *Client) Asking() int { return int(c.lists.waiting.Load()) }

// AskingReady is how many callers of Answers wait.
func (c *Client) AskingReady() int { return int(c.ready.waiting.Load()) }

// LibraryCalls are the procedures that this package calls.
var LibraryCalls = libraryCalls
