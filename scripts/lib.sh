# shellcheck shell=sh
# Sourced by the other scripts: packages, private libvirt daemons, their end.
#
# The daemons are private: they have sockets, state and configuration of their
# own, and never touch the machine's domains.

# shellcheck disable=SC2034 # for who sources this
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d /tmp/vg.XXXXXX) # short: the path of a unix socket has 108 bytes
started=''                       # process ids, the newest first

say() { printf '%s\n' "$*" >&2; }
die() {
	say "${0##*/}: $*"
	exit 1
}

# need_packages installs Debian packages that are missing.
need_packages() {
	missing=''
	for package in "$@"; do
		dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q 'ok installed$' || missing="$missing $package"
	done
	[ -n "$missing" ] || return 0
	command -v apt-get >/dev/null || die "please install:$missing"
	as_root=''
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || die "not root, and there is no sudo: please install$missing"
		as_root=sudo
	fi
	say "installing$missing"
	# The packages must not start the machine's own daemons for our sake.
	policy=/usr/sbin/policy-rc.d
	made_policy=''
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
		$as_root chmod 755 $policy
		made_policy=yes
	fi
	ok=''
	# shellcheck disable=SC2086 # the list is words
	if $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >"$work/apt.log" 2>&1 ||
		{ $as_root apt-get update -qq >>"$work/apt.log" 2>&1 &&
			$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >>"$work/apt.log" 2>&1; }; then
		ok=yes
	fi
	[ -z "$made_policy" ] || $as_root rm -f $policy
	if [ -z "$ok" ]; then
		cat "$work/apt.log" >&2
		die "cannot install$missing"
	fi
}

# until_ok TENTHS COMMAND: tries again every tenth of a second.
until_ok() {
	tries=$1
	shift
	while ! "$@" >/dev/null 2>&1; do
		tries=$((tries - 1))
		[ "$tries" -gt 0 ] || return 1
		sleep 0.1
	done
}

listens() { [ -S "$1" ] && accepts "$1"; }

# accepts tells whether somebody accepts connections on a unix socket.
accepts() { curl -s --max-time 2 --unix-socket "$1" http://localhost/; case $? in 7) return 1 ;; esac; }

# start_daemon DIR DRIVER: a libvirtd whose socket is DIR/libvirt-sock. Sets
# daemon_pid. The QEMU driver needs root.
start_daemon() {
	dir=$1
	mkdir -p "$dir"
	cat >"$dir/libvirtd.conf" <<-END
		unix_sock_dir = "$dir"
		auth_unix_rw = "none"
		auth_unix_ro = "none"
		log_outputs = "3:file:$dir/libvirtd.log"
	END
	if [ "$2" = qemu ]; then
		# Every program replaces the one before: the process becomes libvirtd.
		unshare --mount --propagation private "$root/scripts/private-qemu" "$dir" \
			libvirtd --config "$dir/libvirtd.conf" --pid-file "$dir/libvirtd.pid" >"$dir/out" 2>&1 &
	else
		# The daemon of a user who is not root keeps its state in the user's
		# directories, and needs nothing of the drivers that it does not use.
		as=''
		if [ "$(id -u)" = 0 ]; then
			chown 65534:65534 "$dir"
			chmod 755 "$work"
			as='setpriv --reuid 65534 --regid 65534 --clear-groups'
		fi
		# shellcheck disable=SC2086 # the command is words
		XDG_RUNTIME_DIR=$dir XDG_CACHE_HOME=$dir XDG_CONFIG_HOME=$dir HOME=$dir \
			$as libvirtd --config "$dir/libvirtd.conf" --pid-file "$dir/libvirtd.pid" >"$dir/out" 2>&1 &
	fi
	daemon_pid=$!
	started="$daemon_pid $started"
	if ! until_ok 300 listens "$dir/libvirt-sock"; then
		cat "$dir/out" "$dir/libvirtd.log" >&2 || true
		die "libvirtd did not start"
	fi
	readlink "/proc/$daemon_pid/ns/mnt" >"$dir/namespace"
}

# start_demo: virtgate on libvirt's test driver. Sets url, key, user and server,
# its process id.
start_demo() {
	CGO_ENABLED=0 go build -C "$root" -trimpath -o "$work/virtgate" .
	start_daemon "$work/test" test

	user=$(id -un)
	key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
	printf 'libvirt:x:1:%s\nkvm:x:2:%s\n' "$user" "$user" >"$work/group"
	id -u | sed "s/.*/$user:x:&:&::\/:\/bin\/sh/" >"$work/passwd"
	port=$(free_port 8081)
	(umask 077 && cat >"$work/config.ini") <<-END
		[libvirtd]
		driver=test
		socket=$work/test/libvirt-sock
		[http_server]
		port=$port
		auth-key=$key
		[auth]
		group_file=$work/group
		passwd_file=$work/passwd
		[wrapperd]
		quiet=true
	END
	"$work/virtgate" --config "$work/config.ini" &
	server=$!
	started="$server $started"
	url=http://127.0.0.1:$port
	until_ok 100 curl -sf "$url/readyz" || die "virtgate did not become ready"
}

# stop_all ends what was started, by process id, and removes its files.
stop_all() {
	status=$?
	trap - EXIT INT TERM HUP
	for pid in $started; do
		kill "$pid" 2>/dev/null || continue
		until_ok 100 gone "$pid" || kill -9 "$pid" 2>/dev/null || true
	done
	# virtlogd and guests outlive their libvirtd: they are what is left in its
	# mount namespace.
	own=$(readlink /proc/self/ns/mnt)
	for f in "$work"/*/namespace; do
		[ -e "$f" ] || continue
		namespace=$(cat "$f")
		[ "$namespace" != "$own" ] || continue
		for p in /proc/[0-9]*; do
			[ "$(readlink "$p/ns/mnt" 2>/dev/null)" != "$namespace" ] || kill -9 "${p#/proc/}" 2>/dev/null || true
		done
	done
	rm -rf "$work"
	exit $status
}

gone() { ! kill -0 "$1" 2>/dev/null; }

free_port() {
	port=$1
	while curl -s --max-time 1 "http://127.0.0.1:$port/" >/dev/null 2>&1 || [ "$?" != 7 ]; do
		port=$((port + 1))
	done
	echo "$port"
}

trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP # SIGHUP does not end virtgate
