# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Servers and bad networks from shell, on loopback only. Source it after lib/criu.sh; needs $LP_TMP and $LAZYPAGES.

# serve_start NAME OPTION...: `lazypages serve` on a free port and on the socket $LP_TMP/NAME.sock; its log is
# $LP_TMP/NAME.log. Sets SRV_PID and SRV_PORT. PORT=N takes that port. Killed in the end.
serve_start()
{
	local name=$1 want=${PORT:-0}

	shift
	(lp_exec "$LAZYPAGES" serve --listen "127.0.0.1:$want" --listen "unix:$LP_TMP/$name.sock" -v3 "$@") \
		< /dev/null > "$LP_TMP/$name.log" 2>&1 &
	SRV_PID=$!
	lp_own "$SRV_PID"
	if ! wait_for 20 lp_listening_or_gone "$LP_TMP/$name.sock" "$SRV_PID" || lp_gone "$SRV_PID"; then
		lp_say "the server does not listen"
		lp_tail "$LP_TMP/$name.log"
		return 1
	fi
	SRV_PORT=$want
	[ "$want" != 0 ] || SRV_PORT=$(sed -n 's/.*lazypages: port //p' "$LP_TMP/$name.log")
}

# serve_stop PID: with SIGTERM; 1 if it did not end well.
serve_stop()
{
	kill -TERM "$1"
	wait_for 20 lp_gone "$1" || { lp_say "the server does not stop"; return 1; }
	wait "$1" || { lp_say "the server: status $?"; return 1; }
}

# chaos_start NAME OPTION...: test/net/chaos.py; sets CHAOS_PID and CHAOS_PORT. Killed in the end.
chaos_start()
{
	local name=$1

	shift
	rm -f "$LP_TMP/$name.port"
	(lp_exec python3 "$LP_ROOT/test/net/chaos.py" --portfile "$LP_TMP/$name.port" "$@") < /dev/null \
		> "$LP_TMP/$name.log" 2>&1 &
	CHAOS_PID=$!
	lp_own "$CHAOS_PID"
	wait_for 10 test -s "$LP_TMP/$name.port" || { lp_say "no proxy"; lp_tail "$LP_TMP/$name.log"; return 1; }
	CHAOS_PORT=$(cat "$LP_TMP/$name.port")
}

# proc_kb PID FIELD: of /proc/PID/status, in KiB.
proc_kb() { awk -v f="$2:" '$1 == f { print $2 }' "/proc/$1/status"; }
