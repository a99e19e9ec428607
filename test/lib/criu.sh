# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Dump and restore from shell: for tests and demonstrations. Source it:
#
#   . "$(dirname "$0")/../lib/criu.sh"
#
# Functions return 0 or 1 and print a reason on stderr; none of them exits, except lp_need and lp_reexec_in_pidns. Only
# processes started or restored here are ever killed. Works with `set -eu`.

LP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# CRIU as built by `make criu`, unless the caller says otherwise.
LP_CRIU=${LP_CRIU:-$LP_ROOT/build/bin/criu}

# ---- messages, prerequisites ----

# lp_say TEXT...: one line on stderr.
lp_say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# lp_need COMMAND...: skip the whole script (exit status 77) unless each command can be run. Root, and CRIU itself, are
# asked for by the names `root` and `criu`.
lp_need()
{
	local c

	for c; do
		case $c in
		root)
			[ "$(id -u)" = 0 ] || { lp_say "skipped: needs root"; exit 77; }
			;;
		criu)
			[ -x "$LP_CRIU" ] || { lp_say "skipped: no $LP_CRIU (make criu)"; exit 77; }
			;;
		*)
			command -v "$c" >/dev/null || { lp_say "skipped: needs $c"; exit 77; }
			;;
		esac
	done
}

# lp_tail FILE...: the last lines of logs, on stderr, after something failed.
lp_tail()
{
	local f

	for f; do
		if [ -s "$f" ]; then
			printf -- '--- %s\n' "$f" >&2
			tail -n 15 "$f" >&2
		fi
	done
}

# ---- waiting ----

# wait_for SECONDS COMMAND...: run the command every 20 ms until it succeeds; 1 if it never did. Its output is dropped.
wait_for()
{
	local end now

	end=$(($(date +%s%N) + $1 * 1000000000))
	shift
	until "$@" >/dev/null 2>&1; do
		now=$(date +%s%N)
		[ "$now" -lt "$end" ] || return 1
		sleep 0.02
	done
}

# lp_gone PID: there is no such process, or it is a zombie.
lp_gone()
{
	local stat

	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
	case ${stat##*) } in
	[ZX]*) return 0 ;;
	esac
	return 1
}

# lp_free PID: the pid is not in use, not even by a zombie.
lp_free() { [ ! -e "/proc/$1" ]; }

# lp_listening SOCKET: a process listens on this UNIX socket. A file left by a dead process does not count.
lp_listening()
{
	local inode

	# Column 4 holds __SO_ACCEPTCON. The kernel shows the path as it was bound, perhaps relative: compare the last part.
	[ -S "$1" ] && inode=$(awk -v n="${1##*/}" '$4 == "00010000" { p = $8; sub(".*/", "", p); if (p == n) print $7 }' \
		/proc/net/unix) && [ -n "$inode" ]
}

# ---- cleanup ----

LP_CLEANUP=()

# lp_cleanup_add COMMAND...: run it when the script ends, last added first.
lp_cleanup_add()
{
	LP_CLEANUP+=("$(printf '%q ' "$@")")
}

# lp_cleanup: run what was added and forget it. Runs by itself at exit; under bats call it from teardown(). Bats has
# EXIT for itself.
lp_cleanup()
{
	local i

	for ((i = ${#LP_CLEANUP[@]} - 1; i >= 0; i--)); do
		eval "${LP_CLEANUP[i]}" || :
	done
	LP_CLEANUP=()
}
if [ -z "${BATS_TEST_FILENAME:-}" ]; then
	trap lp_cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
fi

# lp_start_time PID: when it started, in ticks; with the pid it names a process for ever.
lp_start_time()
{
	local stat

	stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
	# Behind the name, which may hold anything, the start time is field 20.
	stat=${stat##*) }
	awk '{ print $20 }' <<< "$stat"
}

# lp_kill_same PID START_TIME [SIGNAL]: kill the process if it is still that one, and wait until it is gone.
lp_kill_same()
{
	if [ "$(lp_start_time "$1")" != "$2" ]; then
		return 0
	fi
	# Keeps bash from reporting the death of its job.
	disown "$1" 2>/dev/null || :
	kill "-${3:-KILL}" "$1" 2>/dev/null || :
	wait_for 10 lp_gone "$1" || lp_say "process $1 does not die"
}

# lp_own PID: it is ours, kill it in the end. Its children are not followed.
lp_own()
{
	local t

	t=$(lp_start_time "$1") || return 0
	lp_cleanup_add lp_kill_same "$1" "$t"
}

# lp_tmpdir: sets LP_TMP to a new directory that is removed in the end, or kept and named when LP_KEEP is not empty.
lp_tmpdir()
{
	LP_TMP=$(mktemp -d "${TMPDIR:-/tmp}/lazypages.XXXXXX")
	if [ -n "${LP_KEEP:-}" ]; then
		lp_cleanup_add lp_say "kept $LP_TMP"
	else
		lp_cleanup_add rm -rf "$LP_TMP"
	fi
}

# ---- processes and namespaces ----

# lp_exec PROGRAM...: become the program, with none but the standard descriptors. What a test runner leaves open would
# be dumped with the task, or (bats) keep the runner waiting. For subshells.
lp_exec()
{
	local f

	for f in "/proc/$BASHPID/fd/"*; do
		f=${f##*/}
		# 255 is bash's own and closes by itself.
		if [ "$f" -gt 2 ] && [ "$f" != 255 ]; then
			eval "exec $f>&-"
		fi
	done
	exec "$@"
}

# lp_spawn LOG PROGRAM...: start it in the background, in a session of its own and with no terminal, as a task that is
# to be dumped has to be. Sets LP_PID. Killed in the end.
lp_spawn()
{
	local out=$1

	shift
	(lp_exec setsid "$@") < /dev/null >> "$out" 2>&1 &
	LP_PID=$!
	disown "$LP_PID"
	lp_own "$LP_PID"
	# A dump before setsid has run would find our session.
	wait_for 5 lp_own_session "$LP_PID" || { lp_say "$1 did not start"; lp_tail "$out"; return 1; }
}

# lp_own_session PID: it leads its session (lp_spawn's own check).
lp_own_session()
{
	[ "$(awk '{ print $4 }' <<< "$(sed 's/.*) //' "/proc/$1/stat")")" = "$1" ]
}

# lp_in_pidns PROGRAM...: run it as process 1 of a new pid and mount namespace, with its own /proc. A restored task
# takes its old pids, which here are free unless very low: see lp_pid_gap. All of it dies with the program.
lp_in_pidns()
{
	unshare --pid --fork --kill-child --mount --mount-proc "$@"
}

# lp_reexec_in_pidns "$0" "$@": at the top of a script, run the whole script inside lp_in_pidns.
lp_reexec_in_pidns()
{
	if [ -z "${LP_PIDNS:-}" ]; then
		trap - EXIT HUP INT TERM
		LP_PIDNS=1 exec unshare --pid --fork --kill-child --mount --mount-proc "$@"
	fi
}

# lp_pid_gap [PID]: in our own pid namespace, give the next process a pid above PID (default 1000), so that a dump made
# here does not want the low pids that the restoring namespace uses itself.
lp_pid_gap()
{
	echo "${1:-1000}" > /proc/sys/kernel/ns_last_pid
}

# ---- dump and restore ----

# lp_dump PID DIR [OPTION...]: dump the tree of tasks into DIR (made if need be). The log is DIR/dump.log. Unless an
# option leaves them running or stopped the tasks are gone on return, so that their pids are free.
lp_dump()
{
	local pid=$1 dir=$2 o

	shift 2
	mkdir -p "$dir"
	"$LP_CRIU" dump --no-default-config -t "$pid" -D "$dir" -o dump.log -v4 "$@" < /dev/null ||
		{ lp_say "dump of $pid failed"; lp_tail "$dir/dump.log"; return 1; }
	for o; do
		case $o in
		-R|--leave-running|-s|--leave-stopped) return 0 ;;
		esac
	done
	wait_for 10 lp_free "$pid" || { lp_say "$pid is dumped but not gone"; return 1; }
}

# lp_restored DIR: reads the pid file of a restore into LP_PID and takes the task over.
lp_restored()
{
	LP_PID=$(cat "$1/restore.pid")
	lp_own "$LP_PID"
}

# lp_restore_eager DIR [OPTION...]: restore in the background with all memory in place. The log is DIR/restore.log.
# Sets LP_PID to the root task, which is killed in the end.
lp_restore_eager()
{
	local dir=$1

	shift
	rm -f "$dir/restore.pid"
	"$LP_CRIU" restore --no-default-config -d -D "$dir" -o restore.log -v4 --pidfile restore.pid "$@" < /dev/null ||
		{ lp_say "restore failed"; lp_tail "$dir/restore.log"; return 1; }
	lp_restored "$dir"
}

# Further options of `criu restore` in lp_restore_lazy, and how long its daemon may take to listen.
LP_RESTORE_OPTS=()
LP_LISTEN_TIMEOUT=${LP_LISTEN_TIMEOUT:-10}

# lp_restore_lazy DIR PROGRAM...: start this daemon, which has to listen on DIR/lazy-pages.socket and stay in the
# foreground; then restore lazily in the background. For stock CRIU it is `"$LP_CRIU" lazy-pages -D DIR`.
# Logs: DIR/daemon.out (the daemon's output) and DIR/restore.log. Sets LP_DAEMON and LP_PID; both are killed in the end,
# the restored task first. `lp_daemon_done SECONDS` waits for the daemon.
lp_restore_lazy()
{
	local dir=$1

	shift
	rm -f "$dir/lazy-pages.socket" "$dir/restore.pid" "$dir/daemon.out"
	(lp_exec "$@") < /dev/null > "$dir/daemon.out" 2>&1 &
	LP_DAEMON=$!
	lp_own "$LP_DAEMON"
	if ! wait_for "$LP_LISTEN_TIMEOUT" lp_listening_or_gone "$dir/lazy-pages.socket" "$LP_DAEMON" ||
	   lp_gone "$LP_DAEMON"; then
		lp_say "the daemon does not listen: $*"
		lp_tail "$dir/daemon.out" "$dir/lazy-pages.log"
		return 1
	fi
	"$LP_CRIU" restore --no-default-config -d --lazy-pages -D "$dir" -o restore.log -v4 --pidfile restore.pid \
		${LP_RESTORE_OPTS[@]+"${LP_RESTORE_OPTS[@]}"} < /dev/null ||
		{ lp_say "lazy restore failed"; lp_tail "$dir/restore.log" "$dir/daemon.out"; return 1; }
	lp_restored "$dir"
}

# lp_listening_or_gone SOCKET PID: there is nothing left to wait for (lp_restore_lazy's own condition).
lp_listening_or_gone() { lp_listening "$1" || lp_gone "$2"; }

# lp_worker: the process of our daemon that does its work; LP_DAEMON itself when it has no guardian.
lp_worker() { pgrep -x lazypages-work -P "$LP_DAEMON" || echo "$LP_DAEMON"; }

# lp_daemon_done SECONDS: wait until the daemon of lp_restore_lazy has ended by itself; its exit status, or 124 if it
# still runs then.
lp_daemon_done()
{
	wait_for "$1" lp_gone "$LP_DAEMON" || return 124
	wait "$LP_DAEMON"
}
