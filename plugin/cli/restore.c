/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages restore`: one command for what else takes three: look whether this
 * machine can, start `lazypages daemon` (which fetches the small images if they
 * are at a server), run `criu restore --lazy-pages`, and tell in one line which
 * of them failed, and why.
 *
 * Owns the two processes until it leaves: CRIU has ended by then, and the daemon
 * goes on by itself until all memory is there. Signals come as reads from a
 * descriptor and go on to whoever can do something about them.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/size.h"
#include "cli/cli.h"
#include "cli/tls.h"

#define ARGS_MAX 256
/* How long the daemon may take to see that a restore has failed: it kills what is left after 10 s. */
#define FAILED_MS 20000

struct restore {
	const char *images, *work, *pidfile, *log, *criu;
	bool from, wait_full, foreground;
	/* Of the daemon, and of CRIU, ended by NULL. */
	const char *dargs[ARGS_MAX], *cargs[ARGS_MAX];
	unsigned ndargs, ncargs;

	sigset_t old;
	int sig_fd;
	pid_t daemon, criu_pid, root;
	int daemon_status, criu_status, root_status; /* valid when the pid is 0 again */
	int said_fd;	/* what the daemon says on stderr */
	char said[512];
	size_t nsaid;
	int got; /* the signal that told us to stop, or 0 */
	bool began; /* there may be files to clean up */
	int lock_fd;
	char tmp_pidfile[64];
};

static void usage(FILE *f)
{
	fputs("Usage: lazypages restore [OPTIONS] DIR [-- CRIU-OPTIONS]\n"
	      "       lazypages restore [OPTIONS] URL... [-- CRIU-OPTIONS]\n"
	      "\n"
	      "Restores the checkpoint in DIR, or at a `lazypages serve`, lazily: the program runs at once,\n"
	      "its memory follows. URL: lazypages://HOST:PORT/NAME or unix:PATH:NAME; several are servers\n"
	      "with the same checkpoint.\n"
	      "\n"
	      "  -D, --images-dir DIR   with URL: the small images come here (made if need be; default: .)\n"
	      "  -W, --work-dir DIR     logs, socket and pid files (default: where the images are)\n"
	      "      --pidfile FILE     CRIU writes the pid of the restored program\n"
	      "      --wait-full        return when all its memory is there, not when it runs\n"
	      "      --foreground       return when the program has ended, with its status; signals go to it\n"
	      "      --criu-bin PATH    (default: $CRIU_BIN, then criu)\n"
	      "  -o, --log-file FILE    of the daemon (default: lazy-pages.log); CRIU's is restore.log\n"
	      "  -v[N], --workers N, --no-background, --compress WHAT, --timeout SECONDS,\n"
	      "  --on-lost-pages WHAT, --lost-after SECONDS, --verify WHAT: as for `lazypages daemon`\n"
	      LP_TLS_USAGE
	      "      --tls-no-cn-verify  do not ask whether the certificate is for the host in URL\n"
	      "  -h, --help\n",
	      f);
}

static int wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int wrong(const char *fmt, ...)
{
	va_list ap;

	fputs("lazypages restore: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs("; try `lazypages restore --help`\n", stderr);
	return -EINVAL;
}

static int daemon_arg(struct restore *r, const char *arg)
{
	if (r->ndargs == ARGS_MAX - 1)
		return wrong("too many arguments");
	r->dargs[r->ndargs++] = arg;
	return 0;
}

static int criu_arg(struct restore *r, const char *arg)
{
	if (r->ncargs == ARGS_MAX - 1)
		return wrong("too many arguments");
	r->cargs[r->ncargs++] = arg;
	return 0;
}

/* An option of the daemon, which looks at its value. */
static int pass_on(struct restore *r, const char *name, const char *value)
{
	int rc = daemon_arg(r, name);

	return rc || !value ? rc : daemon_arg(r, value);
}

/* What we say to CRIU ourselves must not be said twice. */
static int check_criu_args(int argc, char **argv)
{
	static const char *const ours[] = { "-D", "--images-dir", "-W", "--work-dir", "--pidfile" };
	size_t k, n;
	int i;

	for (i = 0; i < argc; i++)
		for (k = 0; k < sizeof(ours) / sizeof(ours[0]); k++) {
			n = strlen(ours[k]);
			if (!strncmp(argv[i], ours[k], n) && (!argv[i][n] || argv[i][n] == '=' || n == 2))
				return wrong("say %s before the --", ours[k]);
		}
	return 0;
}

static int parse(int argc, char **argv, struct restore *r)
{
	enum { PIDFILE = 256, WAIT_FULL, FOREGROUND, CRIU_BIN, PASS, PASS_VALUE };
	static const struct option longs[] = {
		{ "images-dir", required_argument, NULL, 'D' },
		{ "work-dir", required_argument, NULL, 'W' },
		{ "pidfile", required_argument, NULL, PIDFILE },
		{ "wait-full", no_argument, NULL, WAIT_FULL },
		{ "foreground", no_argument, NULL, FOREGROUND },
		{ "criu-bin", required_argument, NULL, CRIU_BIN },
		{ "log-file", required_argument, NULL, 'o' },
		{ "verbosity", optional_argument, NULL, 'v' },
		{ "workers", required_argument, NULL, PASS_VALUE },
		{ "no-background", no_argument, NULL, PASS },
		{ "compress", required_argument, NULL, PASS_VALUE },
		{ "timeout", required_argument, NULL, PASS_VALUE },
		{ "on-lost-pages", required_argument, NULL, PASS_VALUE },
		{ "lost-after", required_argument, NULL, PASS_VALUE },
		{ "verify", required_argument, NULL, PASS_VALUE },
		LP_TLS_OPTIONS,
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	const char *dir = NULL;
	static char name[64];
	struct tls_opts tls = { 0 };
	int own, at = 0, c, rc = 0;

	/* Behind `--` all is CRIU's. */
	for (own = 0; own < argc && strcmp(argv[own], "--"); own++)
		;
	rc = check_criu_args(argc - own, argv + own);
	while (!rc && (c = getopt_long(own, argv, "D:W:o:v::h", longs, &at)) != -1) {
		if (tls_option(&tls, c, optarg)) {
			snprintf(name, sizeof(name), "--%s", longs[at].name);
			rc = pass_on(r, strdup(name), optarg);
			continue;
		}
		switch (c) {
		case 'D':
			r->images = optarg;
			break;
		case 'W':
			r->work = optarg;
			break;
		case 'o':
			r->log = optarg;
			break;
		case 'v':
			snprintf(name, sizeof(name), "-v%s", optarg ? optarg : "");
			rc = daemon_arg(r, strdup(name));
			break;
		case PIDFILE:
			r->pidfile = optarg;
			break;
		case WAIT_FULL:
			r->wait_full = true;
			break;
		case FOREGROUND:
			r->foreground = true;
			break;
		case CRIU_BIN:
			r->criu = optarg;
			break;
		case PASS:
		case PASS_VALUE:
			snprintf(name, sizeof(name), "--%s", longs[at].name);
			rc = pass_on(r, strdup(name), optarg);
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			fputs("lazypages restore: try `lazypages restore --help`\n", stderr);
			return -EINVAL;
		}
	}
	for (; !rc && optind < own; optind++) {
		if (strstr(argv[optind], "://") || !strncmp(argv[optind], "unix:", 5)) {
			r->from = true;
			rc = pass_on(r, "--from", argv[optind]);
		} else if (dir) {
			return wrong("one directory, not `%s` too", argv[optind]);
		} else {
			dir = argv[optind];
		}
	}
	if (rc)
		return rc;
	if (!dir && !r->from)
		return wrong("what? say DIR or URL");
	if (dir && (r->from || r->images))
		return wrong("`%s`: with URL, say where the images go with -D; with DIR, no -D", dir);
	if (r->wait_full && r->foreground)
		return wrong("--wait-full or --foreground, not both");
	if (dir)
		r->images = dir;
	for (c = own + 1; !rc && c < argc; c++)
		rc = criu_arg(r, argv[c]);
	return rc;
}

/* ---- processes ---- */

static void child_signals(const struct restore *r)
{
	sigprocmask(SIG_SETMASK, &r->old, NULL);
}

/*
 * Start the daemon with @status_fd to say that it is ready. It shall outlive us
 * and our terminal.
 */
static int start_daemon(struct restore *r, int *status_fd, struct lp_err *err)
{
	int ready[2], said[2], null;
	char number[16];

	if (pipe2(ready, O_CLOEXEC))
		return lp_err_sys(err, -errno, "pipe");
	if (pipe2(said, O_CLOEXEC)) {
		close(ready[0]);
		close(ready[1]);
		return lp_err_sys(err, -errno, "pipe");
	}
	snprintf(number, sizeof(number), "%d", ready[1]);
	r->dargs[3] = number;
	r->daemon = fork();
	if (!r->daemon) {
		child_signals(r);
		setsid();
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		dup2(null, 0);
		dup2(null, 1);
		dup2(said[1], 2);
		fcntl(ready[1], F_SETFD, 0);
		execv("/proc/self/exe", (char **)r->dargs);
		_exit(127);
	}
	close(ready[1]);
	close(said[1]);
	*status_fd = ready[0];
	r->said_fd = said[0];
	fcntl(r->said_fd, F_SETFL, O_NONBLOCK);
	if (r->daemon < 0) {
		r->daemon = 0;
		return lp_err_sys(err, -errno, "cannot start the daemon");
	}
	return 0;
}

static int start_criu(struct restore *r, struct lp_err *err)
{
	r->criu_pid = fork();
	if (!r->criu_pid) {
		child_signals(r);
		execvp(r->criu, (char **)r->cargs);
		_exit(127);
	}
	if (r->criu_pid < 0) {
		r->criu_pid = 0;
		return lp_err_sys(err, -errno, "cannot start %s", r->criu);
	}
	return 0;
}

static void take_said(struct restore *r)
{
	char drop[256];
	ssize_t n;

	for (;;) {
		size_t room = sizeof(r->said) - 1 - r->nsaid;

		n = room ? read(r->said_fd, r->said + r->nsaid, room) : read(r->said_fd, drop, sizeof(drop));
		if (n <= 0)
			break;
		if (room)
			r->nsaid += n;
	}
	r->said[r->nsaid] = 0;
}

/* The first line, without the daemon's name for itself. */
static const char *daemon_says(struct restore *r)
{
	static const char prefix[] = "lazypages daemon: ";

	take_said(r);
	r->said[strcspn(r->said, "\n")] = 0;
	if (!strncmp(r->said, prefix, sizeof(prefix) - 1))
		return r->said + sizeof(prefix) - 1;
	return *r->said ? r->said : "it died, see its log";
}

static void reap(struct restore *r)
{
	int status;
	pid_t pid;

	if (r->daemon && waitpid(r->daemon, &r->daemon_status, WNOHANG) == r->daemon)
		r->daemon = 0;
	if (r->criu_pid && waitpid(r->criu_pid, &r->criu_status, WNOHANG) == r->criu_pid)
		r->criu_pid = 0;
	/* Orphans of the restored tree are ours, too; but not before we know who its root is. */
	while (r->root && (pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == r->root) {
			r->root = 0;
			r->root_status = status;
		} else if (pid == r->daemon) {
			r->daemon = 0;
			r->daemon_status = status;
		}
	}
}

/*
 * Wait for something to happen: a child's end, a signal, a byte from @fd (-1:
 * none), or @ms (-1: for ever). 1: there is something on @fd.
 */
static int turn(struct restore *r, int fd, int ms)
{
	struct pollfd p[3] = {
		{ .fd = r->sig_fd, .events = POLLIN }, { .fd = fd, .events = POLLIN },
		{ .fd = r->said_fd, .events = POLLIN },
	};
	struct signalfd_siginfo si;

	if (poll(p, r->daemon ? 3 : 2, ms) < 0)
		return 0;
	if (p[2].revents & POLLIN)
		take_said(r);
	while (read(r->sig_fd, &si, sizeof(si)) == sizeof(si)) {
		if (si.ssi_signo == SIGCHLD)
			continue;
		if (r->root)
			kill(r->root, (int)si.ssi_signo);
		else if (si.ssi_signo != SIGUSR1 && si.ssi_signo != SIGUSR2 && si.ssi_signo != SIGWINCH)
			r->got = (int)si.ssi_signo;
	}
	reap(r);
	/* The end of what it says, while it lives on: nothing to wait for. */
	if ((p[2].revents & (POLLHUP | POLLERR)) && !(p[2].revents & POLLIN) && r->daemon)
		usleep(10000);
	return p[1].revents != 0;
}

static bool ended_well(int status)
{
	return WIFEXITED(status) && !WEXITSTATUS(status);
}

static const char *how(int status, char *buf, size_t len)
{
	if (WIFSIGNALED(status))
		snprintf(buf, len, "killed by signal %d", WTERMSIG(status));
	else
		snprintf(buf, len, "status %d", WEXITSTATUS(status));
	return buf;
}

/* The daemon serves nobody: it leaves at once if CRIU has not come to it, else when the tasks are gone. */
static void stop_daemon(struct restore *r)
{
	uint64_t end = lp_now() + FAILED_MS * UINT64_C(1000000);

	if (r->daemon)
		kill(r->daemon, SIGTERM);
	while (r->daemon && lp_now() < end)
		turn(r, -1, 500);
	/* Tasks of a failed restore that are still there would read zeros; it has tried to kill them. */
	if (r->daemon)
		fprintf(stderr, "lazypages restore: the daemon (pid %d) is still there; see its log\n", r->daemon);
}

/* What only says that something else has gone wrong before. */
static bool is_echo(const char *line)
{
	return strstr(line, "Restoring FAILED") || strstr(line, " exited, status=") || strstr(line, " killed by signal ");
}

/*
 * What CRIU's log says was wrong; false: nothing. The last error that is none
 * but the consequence of another: earlier ones may have been harmless.
 */
static bool criu_says(const struct restore *r, const char *log, char *buf, size_t len)
{
	char line[1024], path[4400];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "%s%s%s", *log == '/' ? "" : r->work, *log == '/' ? "" : "/", log);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		char *at = strstr(line, "Error (");

		if (at && !is_echo(at)) {
			at[strcspn(at, "\n")] = 0;
			snprintf(buf, len, "%s", at);
			found = true;
		}
	}
	if (f)
		fclose(f);
	return found;
}

static const char *criu_log(const struct restore *r)
{
	const char *log = "restore.log";
	unsigned i;

	for (i = 0; i + 1 < r->ncargs; i++)
		if (!strcmp(r->cargs[i], "-o") || !strcmp(r->cargs[i], "--log-file"))
			log = r->cargs[i + 1];
	return log;
}

static int criu_failed(struct restore *r, struct lp_err *err)
{
	const char *log = criu_log(r);
	char why[32], text[300];

	if (WIFEXITED(r->criu_status) && WEXITSTATUS(r->criu_status) == 127)
		return lp_err(err, -ENOENT, "cannot run %s", r->criu);
	how(r->criu_status, why, sizeof(why));
	if (criu_says(r, log, text, sizeof(text)))
		return lp_err(err, -ECANCELED, "criu restore: %s: %s (%s/%s)", why, text, *log == '/' ? "" : r->work, log);
	return lp_err(err, -ECANCELED, "criu restore: %s; its log is %s/%s", why, *log == '/' ? "" : r->work, log);
}

/* ---- the steps ---- */

static int wait_ready(struct restore *r, int status_fd, struct lp_err *err)
{
	char byte;

	for (;;) {
		if (turn(r, status_fd, -1) && read(status_fd, &byte, 1) == 1)
			return 0;
		if (!r->daemon)
			return lp_err(err, -ECANCELED, "%s", daemon_says(r));
		if (r->got) {
			stop_daemon(r);
			return lp_err(err, -EINTR, "signal %d while the restore was being prepared", r->got);
		}
	}
}

static int run_criu(struct restore *r, struct lp_err *err)
{
	bool told = false, killed = false;
	int rc = start_criu(r, err);

	while (!rc && r->criu_pid) {
		turn(r, -1, 500);
		if (r->got && !told && r->criu_pid) {
			kill(r->criu_pid, r->got);
			told = true;
		}
		/* Without it the tasks would get zeros, or wait for ever. */
		if (!r->daemon && !ended_well(r->daemon_status) && r->criu_pid) {
			kill(r->criu_pid, SIGKILL);
			killed = true;
		}
	}
	/* When CRIU fails first, the daemon fails too, and has no more to tell. */
	if (!rc && !r->daemon && !ended_well(r->daemon_status) && (killed || ended_well(r->criu_status)))
		return lp_err(err, -ECANCELED, "daemon: %s", daemon_says(r));
	if (!rc && ended_well(r->criu_status))
		return 0;
	if (!rc)
		rc = criu_failed(r, err);
	stop_daemon(r);
	return rc;
}

static pid_t read_pid(const char *work, const char *file)
{
	char path[4400];
	long pid = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s%s%s", *file == '/' ? "" : work, *file == '/' ? "" : "/", file);
	f = fopen(path, "re");
	if (f && fscanf(f, "%ld", &pid) != 1)
		pid = 0;
	if (f)
		fclose(f);
	return (pid_t)pid;
}

static int wait_full(struct restore *r, struct lp_err *err)
{
	bool told = false;
	char why[32];

	while (r->daemon) {
		turn(r, -1, -1);
		if (r->got && !told && r->daemon) {
			/* The program needs its memory: the daemon fills the rest and leaves. */
			kill(r->daemon, SIGTERM);
			told = true;
		}
	}
	if (ended_well(r->daemon_status))
		return 0;
	return lp_err(err, -EIO, "daemon: %s: %s", how(r->daemon_status, why, sizeof(why)), daemon_says(r));
}

/* The exit status to leave with: that of the program, as shells have it. */
static int wait_root(struct restore *r)
{
	uint64_t end;

	reap(r); /* its end may have come already */
	while (r->root) {
		turn(r, -1, 1000);
		if (r->root && kill(r->root, 0) && errno == ESRCH)
			r->root = 0; /* not our child: its status is its parent's */
	}
	end = lp_now() + FAILED_MS * UINT64_C(1000000);
	while (r->daemon && lp_now() < end)
		turn(r, -1, 500);
	return WIFSIGNALED(r->root_status) ? 128 + WTERMSIG(r->root_status) : WEXITSTATUS(r->root_status);
}

static int block_signals(struct restore *r, struct lp_err *err)
{
	/* The latter only concern a program that we stand for. */
	static const int to_stop[] = { SIGTERM, SIGINT, SIGHUP, SIGQUIT }, others[] = { SIGUSR1, SIGUSR2, SIGWINCH };
	sigset_t set;
	size_t i;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	for (i = 0; i < sizeof(to_stop) / sizeof(to_stop[0]); i++)
		sigaddset(&set, to_stop[i]);
	for (i = 0; r->foreground && i < sizeof(others) / sizeof(others[0]); i++)
		sigaddset(&set, others[i]);
	/* Somebody may have told us to let children go by themselves. */
	signal(SIGCHLD, SIG_DFL);
	sigprocmask(SIG_BLOCK, &set, &r->old);
	r->sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (r->sig_fd < 0)
		return lp_err_sys(err, -errno, "signalfd");
	if (r->foreground && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
		return lp_err_sys(err, -errno, "PR_SET_CHILD_SUBREAPER");
	return 0;
}

/* Real paths: CRIU and the daemon change directories. */
static int find_dirs(struct restore *r, struct lp_err *err)
{
	char *images, *work;

	if (r->from && mkdir(r->images, 0700) && errno != EEXIST)
		return lp_err_sys(err, -errno, "%s", r->images);
	images = realpath(r->images, NULL);
	if (!images)
		return lp_err_sys(err, -errno, "%s", r->images);
	r->images = images;
	work = r->work ? realpath(r->work, NULL) : images;
	if (!work)
		return lp_err_sys(err, -errno, "--work-dir %s", r->work);
	r->work = work;
	if (access(work, W_OK))
		return lp_err_sys(err, -errno, "%s: socket and logs go there; name another directory with -W", work);
	/* Two daemons would listen on one socket, and one CRIU get the other's pages. */
	r->lock_fd = open(work, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->lock_fd < 0 || flock(r->lock_fd, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ?
			       lp_err(err, -EBUSY, "%s: another restore is under way there; name another directory with -W",
				      work) :
			       lp_err_sys(err, -errno, "%s: cannot lock it", work);
	return 0;
}

/* Both command lines as far as they do not depend on the user's words, which parse() puts behind. */
static void begin_args(struct restore *r)
{
	/* [3] is filled in by start_daemon(). */
	static const char *const daemon[] = { "lazypages", "daemon", "--status-fd", "", "-D", "", "-W", "", "-o", "" };
	static const char *const criu[] = { "criu", "restore", "--lazy-pages", "-d", "-D", "", "-W", "", "--pidfile", "",
					    "-o", "restore.log" };

	memcpy(r->dargs, daemon, sizeof(daemon));
	r->ndargs = sizeof(daemon) / sizeof(daemon[0]);
	memcpy(r->cargs, criu, sizeof(criu));
	r->ncargs = sizeof(criu) / sizeof(criu[0]);
}

static void end_args(struct restore *r)
{
	r->dargs[5] = r->images;
	r->dargs[7] = r->work;
	r->dargs[9] = r->log;
	r->cargs[0] = r->criu;
	r->cargs[5] = r->images;
	r->cargs[7] = r->work;
	r->cargs[9] = r->pidfile ? r->pidfile : r->tmp_pidfile;
}

static int run(struct restore *r, struct lp_err *err)
{
	int status_fd = -1, rc;

	rc = check_needs(r->criu, err);
	if (!rc)
		rc = find_dirs(r, err);
	if (rc)
		return rc;
	snprintf(r->tmp_pidfile, sizeof(r->tmp_pidfile), ".lazypages-restore.%d.pid", getpid());
	end_args(r);
	r->began = true;
	rc = block_signals(r, err);
	if (!rc)
		rc = start_daemon(r, &status_fd, err);
	if (!rc)
		rc = wait_ready(r, status_fd, err);
	if (status_fd >= 0)
		close(status_fd);
	if (!rc)
		rc = run_criu(r, err);
	return rc;
}

static void unlink_in(const char *dir, const char *name)
{
	char path[4400];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	unlink(path);
}

int cmd_restore(int argc, char **argv)
{
	static struct restore r = { .log = "lazy-pages.log", .images = ".", .sig_fd = -1, .said_fd = -1 };
	struct lp_err err = { "" };
	pid_t root = 0;
	int rc, code;

	r.images = NULL;
	begin_args(&r);
	if (parse(argc, argv, &r))
		return 2;
	if (!r.images)
		r.images = ".";
	if (!r.criu)
		r.criu = getenv("CRIU_BIN");
	if (!r.criu || !*r.criu)
		r.criu = "criu";
	rc = run(&r, &err);
	code = rc ? 1 : 0;
	if (r.began) {
		root = read_pid(r.work, r.cargs[9]);
		unlink_in(r.work, r.tmp_pidfile);
		unlink_in(r.work, "lazy-pages.socket");
		close(r.lock_fd);
	}
	if (!rc && r.foreground && root) {
		r.root = root;
		code = wait_root(&r);
	} else if (!rc && r.wait_full) {
		rc = wait_full(&r, &err);
		code = rc ? 1 : 0;
	}
	if (rc)
		fprintf(stderr, "lazypages restore: %s\n", err.msg);
	return code;
}
