# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Live migration from shell, source and destination in pid namespaces of their own on one machine. Source it after
# lib/criu.sh and lib/net.sh, for live_tls lib/pki.sh too.

LIVE_LOCK=/run/lock/lazypages-zdtm
CRIU_OLD=${CRIU_OLD:-$LP_ROOT/build/bin/criu-4.1.1}

# live_setup: sets $LAZYPAGES, $LP_TMP, $work (of the oracle). CRIU keeps the pages in pipes.
live_setup()
{
	local f

	LIVE_TLS_SRC=() LIVE_TLS_DST=()
	LAZYPAGES=${LAZYPAGES:-$LP_ROOT/build/bin/lazypages}
	PROG=$LP_ROOT/build/test/criu/oracle_prog
	lp_need root criu python3 nsenter
	for f in "$LAZYPAGES" "$PROG"; do
		[ -x "$f" ] || { lp_say "no $f: run make, make progs"; exit 1; }
	done
	[ -n "${TMPDIR:-}" ] || [ ! -d /dev/shm ] || export TMPDIR=/dev/shm
	lp_tmpdir
	work=$LP_TMP/work SRC=$LP_TMP/src DST=$LP_TMP/dst
	live_alone
	live_limit /proc/sys/fs/pipe-user-pages-soft 0
	live_limit /proc/sys/fs/pipe-max-size 4194304
}

# live_alone: not beside CRIU's suite. What its dumps have in pipes cannot be sent any more when the limits go back. The lock
# (of test/zdtm/run, too) is held by a process of its own, since a dump fails for a program that has it open.
live_alone()
{
	[ -z "${LP_NOT_ALONE:-}" ] || return 0
	(lp_exec flock --nonblock --no-fork "$LIVE_LOCK" sleep 100000) < /dev/null > /dev/null 2>&1 &
	disown $!
	lp_own $!
	wait_for 5 live_locked $! || { lp_say "skipped: test/zdtm/run has the lock $LIVE_LOCK: wait for it"; exit 77; }
}
live_locked() { [ "$(cat "/proc/$1/comm" 2>/dev/null)" = sleep ]; }

# live_tls NAME OPTION...: into LIVE_TLS_SRC and LIVE_TLS_DST, what the source's and the destination's commands get.
# Certificates are in $LP_TMP/pki (lib/pki.sh). CRIU wants those of clients too to be for the address that it listens on.
live_tls()
{
	[ -d "$LP_TMP/pki" ] || pki_make "$LP_TMP/pki"
	LIVE_TLS_SRC=(--tls --tls-cacert "$LP_TMP/pki/ca.pem" --tls-cert "$LP_TMP/pki/server.pem"
		--tls-key "$LP_TMP/pki/server.key" --tls-no-cn-verify)
	LIVE_TLS_DST=(--tls --tls-cacert "$LP_TMP/pki/ca.pem" --tls-cert "$LP_TMP/pki/client.pem"
		--tls-key "$LP_TMP/pki/client.key")
}

# live_limit FILE VALUE: for as long as this script runs.
live_limit()
{
	local old

	old=$(cat "$1")
	[ "$old" != "$2" ] || return 0
	echo "$2" > "$1" || { lp_say "skipped: cannot set $1 to $2, which CRIU's page server needs"; exit 77; }
	lp_cleanup_add live_put "$1" "$old"
}
live_put() { echo "$2" > "$1"; }

live_need_old() { [ -x "$CRIU_OLD" ] || return 77; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# live_ns NAME: a pid namespace with its own /proc, kept by a sleeping process; sets NS to that process. All in it dies
# with it. LIVE_NETNS: in this network namespace.
live_ns()
{
	rm -f "$LP_TMP/$1.ns"
	(lp_exec ${LIVE_NETNS:+ip netns exec "$LIVE_NETNS"} unshare --pid --fork --kill-child --mount --mount-proc sleep 1000) < /dev/null > "$LP_TMP/$1.ns" 2>&1 &
	local unshare=$!

	disown "$unshare"
	lp_own "$unshare"
	wait_for 5 live_child "$unshare" || { lp_say "no pid namespace"; return 1; }
	NS=$(live_child "$unshare")
	lp_own "$NS"
	# Those who enter it, until its processes' pids are out of the way of a restore.
	live_in "$NS" sh -c 'echo 1000 > /proc/sys/kernel/ns_last_pid'
}
live_child()
{
	local c

	c=$(cat "/proc/$1/task/$1/children") && c=${c% } && [ -n "$c" ] && [ "$(cat "/proc/$c/comm")" = sleep ] && echo "$c"
}

# live_in NS PROGRAM...: run it there.
live_in()
{
	local ns=$1

	shift
	nsenter --target "$ns" --pid --mount --net --wd="$PWD" "$@"
}

# live_program: start the oracle in a fresh source namespace; sets SRC_NS and SRC_PID (its pid there).
live_program()
{
	rm -rf "$work" "$SRC" "$DST"
	mkdir "$work" "$SRC" "$SRC/img" "$DST"
	live_ns src
	SRC_NS=$NS
	live_in "$SRC_NS" bash -c 'echo 2000 > /proc/sys/kernel/ns_last_pid
		(exec setsid "$0" --dir "$1" --size "$2" --threads 1 --ops "$3" --seed 7 10>&-) < /dev/null > "$1/log" 2>&1 &
		echo $! > "$1/pid"' \
		"$PROG" "$work" "$SIZE" "${OPS:-1000}"
	wait_for 60 test -e "$work/ready" || { lp_say "no oracle"; lp_tail "$work/log"; return 1; }
	SRC_PID=$(cat "$work/pid")
}

# live_dump CRIU: `criu dump --lazy-pages` of a fresh oracle. Returns when it serves pages; its status goes to
# $SRC/status. Sets SRC_PORT.
live_dump()
{
	live_program
	live_dump_task "$1" 127.0.0.1
}

# live_dump_task CRIU ADDRESS: of the task SRC_PID in SRC_NS.
live_dump_task()
{
	SRC_PORT=$(free_port)
	(
		lp_exec nsenter --target "$SRC_NS" --pid --mount --net --wd="$PWD" sh -c '
			criu=$1 pid=$2 d=$3 port=$4 address=$5
			shift 5
			"$criu" dump --no-default-config -t "$pid" -D "$d/img" -o dump.log -v4 --lazy-pages \
				--address "$address" --port "$port" --status-fd 1 "$@" > "$d/serving"
			echo $? > "$d/status.tmp"
			mv "$d/status.tmp" "$d/status"' sh "$1" "$SRC_PID" "$SRC" "$SRC_PORT" "$2" "${LIVE_TLS_SRC[@]}"
	) < /dev/null 2>> "$SRC/dump.err" &
	disown $!
	wait_for 60 live_serving || { lp_say "the dump failed"; lp_tail "$SRC/img/dump.log"; return 1; }
	[ ! -e "$SRC/status" ] || { lp_say "the dump ended at once"; lp_tail "$SRC/img/dump.log"; return 1; }
}
live_serving() { [ -s "$SRC/serving" ] || [ -e "$SRC/status" ]; }

# live_store CRIU: an ordinary dump of a fresh oracle into $SRC/img.
live_store()
{
	local try

	# Now and then CRIU dumps it without any lazy page, for a reason not found yet: that is no test of who serves them.
	for try in 1 2 3; do
		live_program
		live_in "$SRC_NS" "$1" dump --no-default-config -t "$SRC_PID" -D "$SRC/img" -o dump.log -v4 ||
			{ lp_say "the dump failed"; lp_tail "$SRC/img/dump.log"; return 1; }
		"$LAZYPAGES" inspect --json "$SRC/img" | jq -e '[.. | objects | .lazy_bytes? // empty] | add > 0' > /dev/null && return
		lp_say "dump $try has no lazy pages"
		lp_tail "$SRC/img/dump.log"
	done
	return 1
}

# live_serve PROGRAM...: a page server on $SRC_PORT, which leaves its status in $SRC/status.
live_serve()
{
	SRC_PORT=$(free_port)
	rm -f "$SRC/serving" "$SRC/status"
	(
		lp_exec nsenter --target "$SRC_NS" --pid --mount --net --wd="$PWD" sh -c '
			d=$1
			shift
			"$@" > "$d/serving"
			echo $? > "$d/status.tmp"
			mv "$d/status.tmp" "$d/status"' sh "$SRC" "$@" --port "$SRC_PORT" --status-fd 1 "${LIVE_TLS_SRC[@]}"
	) < /dev/null 2>> "$SRC/serve.err" &
	disown $!
	wait_for 30 live_serving || { lp_say "no server"; lp_tail "$SRC/serve.err" "$SRC"/*.log; return 1; }
	[ ! -e "$SRC/status" ] || { lp_say "the server ended at once"; lp_tail "$SRC/serve.err" "$SRC"/*.log; return 1; }
}

# live_client PROGRAM...: a daemon in a fresh destination namespace with $DST as its directory. Sets LP_DAEMON, DST_NS.
live_client()
{
	live_ns dst
	DST_NS=$NS
	rm -f "$DST/lazy-pages.socket"
	(lp_exec "$@") < /dev/null > "$DST/daemon.out" 2>&1 &
	LP_DAEMON=$!
	lp_own "$LP_DAEMON"
	if ! wait_for 20 lp_listening_or_gone "$DST/lazy-pages.socket" "$LP_DAEMON" || lp_gone "$LP_DAEMON"; then
		lp_say "the daemon does not listen: $*"
		lp_tail "$DST/daemon.out" "$DST/lazy-pages.log"
		return 1
	fi
}

live_copy() { rm -rf "$DST"; cp -r "$SRC/img" "$DST"; rm -f "$DST"/*.log; }
live_ours()
{
	live_copy
	live_client "$LAZYPAGES" daemon -D "$DST" -W "$DST" -o lazy-pages.log -v3 --timeout 5 "${LIVE_TLS_DST[@]}" "$@"
}
# As callers of `criu lazy-pages` say it.
live_daemon() { live_ours --page-server --address 127.0.0.1 --port "$SRC_PORT"; }
# live_stock CRIU
live_stock()
{
	live_copy
	live_client "$1" lazy-pages --no-default-config -D "$DST" -W "$DST" -o lazy-pages.log -v4 \
		--page-server --address 127.0.0.1 --port "$SRC_PORT" "${LIVE_TLS_DST[@]}"
}

# live_restore [CRIU]: in the destination namespace; the oracle begins to change its memory at once.
live_restore()
{
	echo "$RANDOM" > "$work/go"
	live_in "$DST_NS" "${1:-$LP_CRIU}" restore --no-default-config -d --lazy-pages -D "$DST" -o restore.log -v4 ||
		{ lp_say "lazy restore failed"; lp_tail "$DST/restore.log" "$DST/lazy-pages.log" "$DST/daemon.out"; return 1; }
}

# The same when pages may never come, on which the restore itself may wait: does not wait for it.
live_restore_stuck()
{
	live_restore > "$LP_TMP/stuck" 2>&1 &
	disown $!
	lp_own $!
}

live_ended() { [ -e "$work/result" ] || lp_gone "$DST_NS"; }
live_field() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$work/result"; }
live_wait_program()
{
	wait_for 120 live_ended || { lp_say "hang"; lp_tail "$DST/lazy-pages.log"; return 1; }
}

# live_judge: what the oracle found.
live_judge()
{
	local w

	w=$(($(live_field wrong_pages) + $(live_field bookkeeping) + $(live_field children_bad) + $(live_field refused)))
	[ "$w" = 0 ] || { lp_say "$w wrong pages or refused calls"; head -n 5 "$work/report" >&2; return 1; }
}

# live_end: all pages right, daemon and source ended with status 0.
live_end()
{
	local rc=0

	live_wait_program
	[ -e "$work/result" ] || { lp_say "the program died"; lp_tail "$DST/lazy-pages.log"; return 1; }
	live_judge
	lp_daemon_done 60 || rc=$?
	[ "$rc" = 0 ] || { lp_say "daemon: $rc"; lp_tail "$DST/lazy-pages.log" "$DST/daemon.out"; return 1; }
	[ -n "${NO_SOURCE:-}" ] || live_source_done
	sed -n 's/.*lazypages: from the live source/    from the live source/p' "$DST/lazy-pages.log"
}
live_source_done()
{
	wait_for 20 test -e "$SRC/status" || { lp_say "the source does not end"; lp_tail "$SRC/img/dump.log"; return 1; }
	[ "$(cat "$SRC/status")" = 0 ] || { lp_say "the source: $(cat "$SRC/status")"; lp_tail "$SRC"/*.log "$SRC/img/dump.log"; return 1; }
}

# live_main [CASE...]: RUNS times the functions t_CASE, each in a subshell that cleans up after itself.
live_main()
{
	local c rc t run passed=0 failed=0 skipped=0 word cases=("$@")

	[ ${#cases[@]} != 0 ] || mapfile -t cases < <(declare -F | sed -n 's/^declare -f t_//p')
	for ((run = 0; run < RUNS; run++)); do
		for c in "${cases[@]}"; do
			rc=0
			t=$(date +%s%N)
			(
				# shellcheck disable=SC2034
				LP_CLEANUP=()
				trap lp_cleanup EXIT
				set -e
				"t_$c"
			) &
			wait $! || rc=$?
			case $rc in
			0) passed=$((passed + 1)) word=ok ;;
			77) skipped=$((skipped + 1)) word=skipped ;;
			*) failed=$((failed + 1)) word='NOT OK' ;;
			esac
			printf '%-8s%s (%s ms)\n' "$word" "$c" $((($(date +%s%N) - t) / 1000000))
		done
	done
	printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
	[ "$failed" = 0 ]
}
