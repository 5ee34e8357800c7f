package auth

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"virtgate/auth/reread"
)

// maxFile bounds what is read of a group or passwd file, in bytes.
const maxFile = 16 << 20

// members answers who is in all the groups, by the two files as they are now.
type members struct {
	groups              []string
	groupPath, passPath string
	warn                func(string, error)

	now atomic.Pointer[snapshot]
	mu  sync.Mutex // held to make the next snapshot
}

// snapshot is what one state of the two files says. It does not change.
type snapshot struct {
	group, passwd reread.File
	groups        map[string]group
	users         map[string]user
	names         map[uint32]string // of uids
	wanted        []string
	said          string // what was warned about
}

func newMembers(groups []string, groupPath, passPath string, warn func(string, error)) *members {
	if groupPath == "" {
		groupPath = "/etc/group"
	}
	if passPath == "" {
		passPath = "/etc/passwd"
	}
	if warn == nil {
		warn = func(string, error) {}
	}
	return &members{groups: append([]string(nil), groups...), groupPath: groupPath, passPath: passPath, warn: warn}
}

// current looks at both files (one stat each) and returns what they say now.
func (m *members) current() *snapshot {
	s := m.now.Load()
	if s != nil && s.group.Fresh() && s.passwd.Fresh() {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Another request may have read them while this one waited.
	s = m.now.Load()
	if s != nil && s.group.Fresh() && s.passwd.Fresh() {
		return s
	}

	next := &snapshot{group: reread.Read(m.groupPath, maxFile), passwd: reread.Read(m.passPath, maxFile), wanted: m.groups}
	if s != nil && s.readable() && (exhausted(next.group.Err) || exhausted(next.passwd.Err)) {
		return s // as they were, until there are descriptors again
	}
	var problem error
	msg := ""
	switch {
	case next.group.Err != nil:
		msg, problem = "cannot read the group file: nobody is a member", next.group.Err
	case next.passwd.Err != nil:
		msg, problem = "cannot read the passwd file: nobody is a member", next.passwd.Err
	default:
		next.groups = parseGroup(string(next.group.Data))
		next.users, next.names = parsePasswd(string(next.passwd.Data))
		var missing []string
		for _, g := range m.groups {
			if _, ok := next.groups[g]; !ok {
				missing = append(missing, g)
			}
		}
		if len(missing) > 0 {
			msg = fmt.Sprintf("no group %s in %s: only uid 0 is a member", strings.Join(missing, ", "), m.groupPath)
		}
	}
	next.group.Data, next.passwd.Data = nil, nil // parsed: no need to keep them
	next.said = msg
	if problem != nil {
		next.said += ": " + problem.Error()
	}
	if next.said != "" && (s == nil || s.said != next.said) {
		m.warn(msg, problem)
	}
	m.now.Store(next)
	return next
}

func (s *snapshot) readable() bool { return s.group.Err == nil && s.passwd.Err == nil }

// exhausted says whether a file could not be opened for want of descriptors,
// which says nothing about the file.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// has says whether name is a user who is in every group, or has uid 0. A name
// that the passwd file does not have is nobody, listed in groups or not.
func (s *snapshot) has(name string) bool {
	u, ok := s.users[name]
	if !ok {
		return false
	}
	if u.uid == 0 {
		return true
	}
	for _, w := range s.wanted {
		g, ok := s.groups[w]
		if !ok || (g.gid != u.gid && !g.members[name]) {
			return false
		}
	}
	return true
}

// overflowUID is what the kernel shows for a uid that the reader's user
// namespace does not have: it may be anybody's.
const overflowUID = 65534

// nameOf returns the user with the uid, "" for none.
func (s *snapshot) nameOf(uid uint32) string {
	if uid == overflowUID {
		return ""
	}
	return s.names[uid]
}

type user struct{ uid, gid uint32 }

type group struct {
	gid     uint32
	members map[string]bool
}

// parseGroup reads the form of group(5). As in the C library, the first line of
// a name counts. Comments, NIS lines (+, -) and malformed lines are skipped.
func parseGroup(text string) map[string]group {
	groups := map[string]group{}
	for line := range strings.Lines(text) {
		f := fields(line)
		if len(f) != 4 {
			continue
		}
		gid, ok := id(f[2])
		if _, dup := groups[f[0]]; dup || !ok {
			continue
		}
		g := group{gid: gid, members: map[string]bool{}}
		for m := range strings.SplitSeq(f[3], ",") {
			if m = strings.TrimSpace(m); m != "" {
				g.members[m] = true
			}
		}
		groups[f[0]] = g
	}
	return groups
}

// parsePasswd reads the form of passwd(5), by the same rules. As in the C
// library, a uid's name is that of its first line.
func parsePasswd(text string) (users map[string]user, names map[uint32]string) {
	users, names = map[string]user{}, map[uint32]string{}
	for line := range strings.Lines(text) {
		f := fields(line)
		// Shell and home may be missing, but a line that ends within the ids
		// may have lost digits of them.
		if len(f) < 6 || len(f) > 7 {
			continue
		}
		uid, ok1 := id(f[2])
		gid, ok2 := id(f[3])
		if _, dup := users[f[0]]; dup || !ok1 || !ok2 {
			continue
		}
		users[f[0]] = user{uid, gid}
		if _, dup := names[uid]; !dup {
			names[uid] = f[0]
		}
	}
	return users, names
}

// fields splits a line at its colons; nil for what is no entry.
func fields(line string) []string {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' || line[0] == '+' || line[0] == '-' || line[0] == ':' {
		return nil
	}
	f := strings.Split(line, ":")
	f[0] = strings.TrimSpace(f[0])
	if f[0] == "" {
		return nil
	}
	return f
}

// id reads a uid or gid. ParseUint takes no sign, so "+0" and "-0" are none.
func id(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}
