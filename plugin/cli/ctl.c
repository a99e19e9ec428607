/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages ctl`, `status` and `upgrade`: what an operator says to a running
 * daemon. One connection, one line, one answer; the daemon's side is
 * restore/control.c. A worker that dies meanwhile cuts the connection: all words
 * but `upgrade` and `switch-source` may be said twice, so they are. Those two
 * replace the worker: what became of them is asked for later.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/size.h"
#include "cli/cli.h"
#include "guard/guard.h"

#define ANSWER_MAX (1 << 20)
#define TRIES	   50

static uint64_t deadline; /* CLOCK_MONOTONIC, ns: of the whole command */

static void nap(unsigned ms)
{
	const struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

static bool wait_fd(int fd, short what)
{
	struct pollfd p = { .fd = fd, .events = what };
	uint64_t now = lp_now(), ms = now < deadline ? (deadline - now) / 1000000 + 1 : 0;

	return now < deadline && poll(&p, 1, ms < INT_MAX ? (int)ms : INT_MAX) == 1;
}

/* -ENOENT, -ECONNREFUSED: no daemon; -EPIPE: cut off; -ETIMEDOUT; else the answer, free() it. */
static int once(const char *line, char **answer)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = LP_CTL_SOCKET };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), rc = 0;
	size_t n = 0, cap = 8192;
	char *buf = malloc(cap);
	ssize_t got;

	if (fd < 0 || !buf)
		rc = fd < 0 ? -errno : -ENOMEM;
	else if (connect(fd, (void *)&sa, sizeof(sa)))
		rc = -errno;
	else if (dprintf(fd, "%s\n", line) < 0)
		rc = -EPIPE;
	while (!rc) {
		if (n == cap) {
			char *b = cap < ANSWER_MAX ? realloc(buf, cap *= 2) : NULL;

			if (!b) {
				rc = -EMSGSIZE;
				break;
			}
			buf = b;
		}
		if (!wait_fd(fd, POLLIN)) {
			rc = -ETIMEDOUT;
			break;
		}
		got = read(fd, buf + n, cap - n);
		if (got <= 0) {
			rc = -EPIPE;
			break;
		}
		n += got;
		if (buf[n - 1] == '\n') {
			buf[n - 1] = 0;
			break;
		}
	}
	if (fd >= 0)
		close(fd);
	if (rc)
		free(buf);
	else
		*answer = buf;
	return rc;
}

/* Say @line. The object of the answer, or NULL after a message, and *@rc why. */
static json_t *say(const char *line, bool again, int *rc)
{
	char *answer = NULL;
	json_t *j;
	unsigned i;

	for (i = 0;; i++) {
		*rc = once(line, &answer);
		if (*rc != -EPIPE || !again || i == TRIES)
			break;
		nap(20);
	}
	switch (*rc) {
	case 0:
		break;
	case -ENOENT:
	case -ECONNREFUSED:
		fputs("lazypages: no daemon runs here: its work directory (-W) has no living " LP_CTL_SOCKET "\n", stderr);
		return NULL;
	case -ETIMEDOUT:
		fputs(strcmp(line, "wait") ?
		      "lazypages: the daemon does not answer: its worker cannot start at the moment, see its log\n" :
		      "lazypages: pages are still missing: `lazypages status` tells how many\n",
		      stderr);
		return NULL;
	default:
		fprintf(stderr, "lazypages: " LP_CTL_SOCKET ": %s\n", strerror(-*rc));
		return NULL;
	}
	j = json_loads(answer, 0, NULL);
	if (!json_is_object(j)) {
		fputs("lazypages: the daemon's answer is not understood: another version?\n", stderr);
		json_decref(j);
		j = NULL;
		*rc = -EBADMSG;
	} else if (!json_is_true(json_object_get(j, "ok"))) {
		fprintf(stderr, "lazypages: the daemon refuses: %s\n",
			json_string_value(json_object_get(j, "error")) ?: "?");
		json_decref(j);
		j = NULL;
		*rc = -EPERM;
	}
	free(answer);
	return j;
}

static long long num(const json_t *j, const char *key)
{
	return json_integer_value(json_object_get(j, key));
}

static const char *str(const json_t *j, const char *key)
{
	return json_string_value(json_object_get(j, key)) ?: "?";
}

static void show_from(const json_t *source, const char *before)
{
	const json_t *s;
	size_t i;

	json_array_foreach(json_object_get(source, "from"), i, s)
		printf("%s%s", i ? ", " : before, json_string_value(s) ?: "?");
}

static void show(const json_t *j)
{
	const json_t *bytes = json_object_get(j, "bytes"), *bg = json_object_get(j, "background");
	const json_t *src = json_object_get(j, "source"), *up = json_object_get(j, "upgrade"), *s;
	const json_t *sw = json_object_get(j, "switch");
	char a[16], b[16], c[16], d[16];
	size_t i;

	printf("%s for %.1f s: %s missing; %s filled in the background, %s for %lld faults; %lld address spaces\n",
	       str(j, "state"), json_number_value(json_object_get(j, "seconds")),
	       lp_size_str(num(j, "missing"), a, sizeof(a)), lp_size_str(num(bytes, "background"), b, sizeof(b)),
	       lp_size_str(num(bytes, "urgent"), c, sizeof(c)), num(j, "faults"), num(j, "nspaces"));
	printf("background: %s", str(bg, "state"));
	if (num(bg, "rate"))
		printf(", at most %s/s", lp_size_str(num(bg, "rate"), d, sizeof(d)));
	printf("\nsource: %s, %s", str(src, "kind"), str(src, "state"));
	show_from(src, ": ");
	if (num(src, "errors"))
		printf("; %lld errors, the last one %.0f s ago: %s", num(src, "errors"),
		       json_number_value(json_object_get(src, "last_error_seconds_ago")), str(src, "last_error"));
	if (json_object_get(j, "workers"))
		printf("\nworkers: %lld, the last one process %lld; guardian: process %lld", num(j, "workers"),
		       num(j, "worker"), num(j, "guardian"));
	if (up && strcmp(str(up, "state"), "none"))
		printf("\nupgrade: %s %s", str(up, "state"), str(up, "message"));
	if (sw && strcmp(str(sw, "state"), "none"))
		printf("\nswitch of the source: %s %s", str(sw, "state"), str(sw, "message"));
	putchar('\n');
	json_array_foreach(json_object_get(j, "spaces"), i, s)
		printf("  %6lld.%-4lld process %-7lld %8s missing  %s\n", num(s, "pid"), num(s, "id"), num(s, "host_pid"),
		       lp_size_str(num(s, "missing"), a, sizeof(a)), str(s, "state"));
	if ((long long)i < num(j, "nspaces"))
		printf("  and %lld more\n", num(j, "nspaces") - (long long)i);
}

static void usage(FILE *f)
{
	fputs("Usage: lazypages ctl [-W WORKDIR] COMMAND\n"
	      "       lazypages status [-W WORKDIR] [--json]\n"
	      "\n"
	      "Speaks to the running `lazypages daemon -W WORKDIR`. What is set outlives its worker.\n"
	      "\n"
	      "  status [--json]        what is missing, where, and what the daemon does\n"
	      "  pause, resume          the background; faults are answered in any case\n"
	      "  throttle RATE          the background: bytes per second (64K, 2M, 1G), 0 for no limit\n"
	      "  wait                   until all is filled, however long (or --timeout): dump the tasks again after it\n"
	      "  cancel --kill          kill the restored tasks; the daemon ends with status 1\n"
	      "  cancel --finish        fill the rest, then leave: as SIGTERM\n"
	      "  switch-source --from URL [--from URL...]\n"
	      "                         pages from `lazypages serve` from now on, as `daemon --from`\n"
	      "  switch-source -D DIR   pages from another copy of the checkpoint, here (--images-dir)\n"
	      "\n"
	      "  -W, --work-dir DIR     of the daemon (default: .)\n"
	      "      --timeout SECONDS  for an answer (default: 10; switch-source: 60)\n"
	      "  -h, --help\n",
	      f);
}

static void upgrade_usage(FILE *f)
{
	fputs("Usage: lazypages upgrade [-W WORKDIR] [PROGRAM]\n"
	      "\n"
	      "The running `lazypages daemon -W WORKDIR` becomes PROGRAM (default: the one that says this), with\n"
	      "the same pid and options; the restored tasks only pause. PROGRAM must be able to read the daemon's\n"
	      "journal: it tries before anything is ended, and if it cannot, all stays as it is.\n"
	      "\n"
	      "  -W, --work-dir DIR     of the daemon (default: .)\n"
	      "      --timeout SECONDS  for the whole (default: 60)\n"
	      "  -h, --help\n",
	      f);
}

struct ctl_opts {
	const char *dir, *images;
	bool json, kill, finish;
	long timeout; /* 0: not said */
	char from[LP_J_SOURCE_MAX + 1]; /* all URLs, a tab before each; full: too long */
};

/* 0; -1: wrong; 1: --help was given. */
static int parse(int argc, char **argv, struct ctl_opts *o, void (*help)(FILE *))
{
	static const struct option longs[] = {
		{ "work-dir", required_argument, NULL, 'W' },
		{ "images-dir", required_argument, NULL, 'D' },
		{ "from", required_argument, NULL, 'F' },
		{ "json", no_argument, NULL, 'j' },
		{ "kill", no_argument, NULL, 'k' },
		{ "finish", no_argument, NULL, 'f' },
		{ "timeout", required_argument, NULL, 't' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	size_t n;
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "W:D:h", longs, NULL)) != -1) {
		switch (c) {
		case 'W':
			o->dir = optarg;
			break;
		case 'D':
			o->images = optarg;
			break;
		case 'F':
			n = strlen(o->from);
			snprintf(o->from + n, sizeof(o->from) - n, "\t%s", optarg);
			break;
		case 'j':
			o->json = true;
			break;
		case 'k':
			o->kill = true;
			break;
		case 'f':
			o->finish = true;
			break;
		case 't':
			o->timeout = strtol(optarg, &end, 10);
			if (end == optarg || *end || o->timeout < 1 || o->timeout > 86400) {
				fprintf(stderr, "lazypages %s: --timeout takes 1 to 86400, not `%s`\n", argv[0], optarg);
				return -1;
			}
			break;
		case 'h':
			help(stdout);
			return 1;
		default:
			fprintf(stderr, "lazypages %s: try `lazypages %s --help`\n", argv[0], argv[0]);
			return -1;
		}
	}
	return 0;
}

/* @patience: seconds for the whole, if --timeout was not given. */
static int enter(const struct ctl_opts *o, long patience)
{
	deadline = lp_now() + (o->timeout ?: patience) * UINT64_C(1000000000);
	if (!chdir(o->dir))
		return 0;
	fprintf(stderr, "lazypages: %s: %s\n", o->dir, strerror(errno));
	return 1;
}

static int do_status(const struct ctl_opts *o)
{
	int rc;
	json_t *j = say("status", true, &rc);

	if (!j)
		return 1;
	if (o->json) {
		json_dumpf(j, stdout, JSON_INDENT(1) | JSON_PRESERVE_ORDER);
		putchar('\n');
	} else {
		show(j);
	}
	json_decref(j);
	return 0;
}

/*
 * Wait for the end of what @line asks for, which is told in the status by @key.
 * The last status, or NULL after a message; @cmd is how that begins, @stays what remains true.
 */
static json_t *ask_and_wait(const char *line, const char *key, const char *cmd, const char *stays)
{
	const json_t *it;
	long long serial;
	json_t *j;
	int rc;

	j = say(line, false, &rc);
	if (!j)
		return NULL;
	serial = num(j, "serial");
	for (;;) {
		json_decref(j);
		nap(20);
		j = say("status", true, &rc);
		if (!j)
			return NULL;
		it = json_object_get(j, key);
		if (num(it, "serial") != serial || !strcmp(str(it, "state"), "done"))
			return j;
		if (!strcmp(str(it, "state"), "refused")) {
			fprintf(stderr, "%s: refused, %s: %s\n", cmd, stays, str(it, "message"));
			break;
		}
		if (lp_now() > deadline) {
			fprintf(stderr, "%s: still %s when the time was over, see the daemon's log\n", cmd,
				str(it, "state"));
			break;
		}
	}
	json_decref(j);
	return NULL;
}

static int do_switch(const struct ctl_opts *o)
{
	static const char cmd[] = "lazypages ctl switch-source";
	char line[LP_J_SOURCE_MAX + PATH_MAX], path[PATH_MAX], *source;
	json_t *j;
	size_t n;

	if (o->images && !realpath(o->images, path)) {
		fprintf(stderr, "%s: %s: %s\n", cmd, o->images, strerror(errno));
		return 1;
	}
	n = (size_t)snprintf(line, sizeof(line), "switch-source ");
	source = line + n;
	if (o->images)
		snprintf(source, sizeof(line) - n, "dir\t%s", path);
	else
		snprintf(source, sizeof(line) - n, "from%s", o->from);
	if (strlen(source) >= LP_J_SOURCE_MAX) {
		fprintf(stderr, "%s: too long: a source has %d characters at most\n", cmd, LP_J_SOURCE_MAX - 6);
		return 1;
	}
	if (strchr(source, '\n') || (o->images && strchr(path, '\t'))) {
		fprintf(stderr, "%s: a name with a tab or a line break in it cannot be told to the daemon\n", cmd);
		return 1;
	}
	if (enter(o, 60))
		return 1;
	j = ask_and_wait(line, "switch", cmd, "pages come from where they did");
	if (!j)
		return 1;
	fputs("pages come from ", stdout);
	show_from(json_object_get(j, "source"), "");
	puts(" now");
	json_decref(j);
	return 0;
}

/*
 * Until the daemon says that it has finished. Workers come and go meanwhile; if it
 * goes in just such a moment nobody has told us how it ended.
 */
static int do_wait(const struct ctl_opts *o)
{
	json_t *j;
	int rc;

	if (enter(o, 10))
		return 1;
	if (!o->timeout)
		deadline = UINT64_MAX;
	j = say("wait", true, &rc);
	json_decref(j);
	if (j)
		puts("all is filled");
	return j ? 0 : 1;
}

int cmd_ctl(int argc, char **argv)
{
	struct ctl_opts o = { .dir = "." };
	const char *word, *arg;
	char line[128];
	json_t *j;
	int rc = parse(argc, argv, &o, usage);

	if (rc)
		return rc < 0 ? 2 : 0;
	word = !strcmp(argv[0], "status") ? "status" : optind < argc ? argv[optind++] : "";
	arg = optind < argc ? argv[optind++] : NULL;
	if (optind < argc || !strcmp(word, "throttle") != !!arg || !strcmp(word, "cancel") != (o.kill != o.finish) ||
	    (o.kill && o.finish) || !strcmp(word, "switch-source") != (!o.images != !*o.from) || (o.images && *o.from)) {
		usage(stderr);
		return 2;
	}
	if (!strcmp(word, "status"))
		return enter(&o, 10) ?: do_status(&o);
	if (!strcmp(word, "switch-source"))
		return do_switch(&o);
	if (!strcmp(word, "wait"))
		return do_wait(&o);
	if (!strcmp(word, "pause") || !strcmp(word, "resume")) {
		snprintf(line, sizeof(line), "%s", word);
	} else if (!strcmp(word, "throttle")) {
		snprintf(line, sizeof(line), "throttle %s", arg);
	} else if (!strcmp(word, "cancel")) {
		snprintf(line, sizeof(line), "cancel %s", o.kill ? "kill" : "finish");
	} else {
		usage(stderr);
		return 2;
	}
	if (enter(&o, 10))
		return 1;
	j = say(line, true, &rc);
	json_decref(j);
	return j ? 0 : 1;
}

int cmd_upgrade(int argc, char **argv)
{
	struct ctl_opts o = { .dir = "." };
	char path[PATH_MAX], line[PATH_MAX + 16];
	json_t *j;
	int rc = parse(argc, argv, &o, upgrade_usage);

	if (rc)
		return rc < 0 ? 2 : 0;
	if (argc - optind > 1 || o.json || o.kill || o.finish || o.images || *o.from) {
		upgrade_usage(stderr);
		return 2;
	}
	if (!realpath(optind < argc ? argv[optind] : "/proc/self/exe", path)) {
		fprintf(stderr, "lazypages upgrade: %s: %s\n", optind < argc ? argv[optind] : "/proc/self/exe",
			strerror(errno));
		return 1;
	}
	if (enter(&o, 60))
		return 1;
	snprintf(line, sizeof(line), "upgrade %s", path);
	j = ask_and_wait(line, "upgrade", "lazypages upgrade", "the old program goes on");
	if (!j)
		return 1;
	printf("process %lld is %s now, version %s\n", num(j, "guardian"), path, str(j, "version"));
	json_decref(j);
	return 0;
}
