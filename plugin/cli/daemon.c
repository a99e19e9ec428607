/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages daemon`: the drop-in for `criu lazy-pages`. Parses, opens the
 * images, listens, goes to the background if asked, serves one restore.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/kernel.h"
#include "base/log.h"
#include "base/size.h"
#include "cli/background.h"
#include "cli/cli.h"
#include "cli/confine.h"
#include "cli/pages.h"
#include "cli/refuse.h"
#include "cli/resume.h"
#include "cli/tls.h"
#include "guard/guard.h"
#include "images/thin.h"
#include "ledger/ledger.h"
#include "restore/control.h"
#include "restore/restore.h"
#include "restore/uffd.h"
#include "proto/proto.h"

struct opts {
	const char *images_dir, *work_dir, *log_file, *pidfile, *trace_file;
	int status_fd, verbosity;
	bool daemon, background, page_server, guardian, take_over, resume, check, check_source, sandbox, ledger;
	int resume_fd; /* after an upgrade: the journal; images_dir is absolute, and the work directory the current one */
	const char *resume_dir;
	unsigned workers;
	struct pages_conf pages;
	struct tls_opts tls;
	enum lp_lost on_lost;
	unsigned lost_after;
	const char *address, *port; /* of --page-server */
};

static void usage(FILE *f)
{
	fputs("Usage: lazypages daemon -D DIR [OPTIONS]\n"
	      "\n"
	      "Fills the memory of the tasks of one `criu restore --lazy-pages -D DIR -W WORKDIR`:\n"
	      "what they touch at once, the rest in the background. Ends with status 0 when nothing\n"
	      "of the checkpoint is missing any more.\n"
	      "\n"
	      "  -D, --images-dir DIR   the checkpoint (default: .)\n"
	      "  -W, --work-dir DIR     lazy-pages.socket, log and pid file go here (default: images dir)\n"
	      "  -o, --log-file FILE    log here instead of to stderr\n"
	      "  -v[N], --verbosity[=N] 0 summary, 1 errors, 2 warnings (default), 3 steps, 4 everything\n"
	      "  -d, --daemon           go to the background when ready\n"
	      "      --pidfile FILE     write the daemon's pid\n"
	      "      --status-fd N      write one zero byte there when ready\n"
	      "      --workers N        threads of the background fill (default: CPUs, at most 4)\n"
	      "      --trace FILE       record all that happens, for `lazypages trace`\n"
	      "      --no-background    fill only what the tasks touch\n"
	      "      --no-guardian      one process only: when it is killed, tasks read zeros\n"
	      "      --no-ledger        do not watch the order of changes with a BPF program, guess it\n"
	      "      --no-sandbox       keep all privileges and system calls after the start\n"
	      "      --take-over        go on for a daemon that was killed with its guardian in WORKDIR\n"
	      "      --from URL         pages from `lazypages serve`: lazypages://HOST:PORT/NAME or\n"
	      "                         unix:PATH:NAME; repeated: other servers with the same checkpoint.\n"
	      "                         Without images in DIR the small ones are fetched into it\n"
	      "                         criu:HOST:PORT: a `criu dump --lazy-pages` or `criu page-server`\n"
	      "      --page-server --address HOST --port PORT  the same as --from criu:HOST:PORT\n"
	      "      --compress WHAT    of what --from sends: none (default), lz4, zstd, or auto:\n"
	      "                         by the speed of the link\n"
	      "      --timeout SECONDS  ask another server after that (default 10)\n"
	      "      --on-lost-pages WHAT  pages that cannot be had: wait (default) for ever, poison (who touches\n"
	      "                         one gets SIGBUS) or kill the restored tasks\n"
	      "      --lost-after SECONDS  of trying in vain (default 60)\n"
	      "      --verify WHAT      local pages, by the checkpoint's seal (lazypages seal): auto (default) if\n"
	      "                         there is one, require or no\n"
	      LP_TLS_USAGE
	      "      --tls-no-cn-verify  do not ask whether the certificate is for the host in URL\n"
	      "      --no-default-config  accepted for CRIU's sake\n"
	      "  -h, --help\n",
	      f);
}

enum {
	OPT_PIDFILE = 256,
	OPT_STATUS_FD,
	OPT_WORKERS,
	OPT_NO_BACKGROUND,
	OPT_NO_GUARDIAN,
	OPT_NO_SANDBOX,
	OPT_NO_LEDGER,
	OPT_TAKE_OVER,
	OPT_RESUME,
	OPT_RESUME_CHECK,
	OPT_SOURCE_CHECK,
	OPT_NO_DEFAULT_CONFIG,
	OPT_PAGE_SERVER,
	OPT_FROM,
	OPT_COMPRESS,
	OPT_TIMEOUT,
	OPT_ON_LOST,
	OPT_LOST_AFTER,
	OPT_VERIFY,
	OPT_TRACE,
	OPT_ADDRESS,
	OPT_PORT,
};

static int parse_number(const char *s, long min, long max, long *v)
{
	char *end;

	errno = 0;
	*v = strtol(s, &end, 10);
	return errno || end == s || *end || *v < min || *v > max ? -EINVAL : 0;
}

/* --page-server --address HOST --port PORT, as CRIU has it. */
static int parse_page_server(struct opts *o)
{
	struct lp_err err;
	char addr[300];

	if (o->page_server) {
		if (pages_elsewhere(&o->pages) || !o->port) {
			fputs(o->port ? "lazypages daemon: --page-server and --from: take one of them\n" :
					"lazypages daemon: --page-server: say --port PORT and perhaps --address HOST\n",
			      stderr);
			return -EINVAL;
		}
		if (!o->address)
			o->address = "127.0.0.1";
		snprintf(addr, sizeof(addr), strchr(o->address, ':') ? "[%s]:%s" : "%s:%s", o->address, o->port);
		if (lp_addr_parse(addr, &o->pages.criu.addr, &err)) {
			fprintf(stderr, "lazypages daemon: --page-server: %s\n", err.msg);
			return -EINVAL;
		}
		o->pages.live = true;
	}
	if (pages_check(&o->pages, &err)) {
		fprintf(stderr, "lazypages daemon: %s\n", err.msg);
		return -EINVAL;
	}
	return 0;
}

static int parse(int argc, char **argv, struct opts *o)
{
	static const struct option longs[] = {
		{ "images-dir", required_argument, NULL, 'D' },
		{ "work-dir", required_argument, NULL, 'W' },
		{ "log-file", required_argument, NULL, 'o' },
		{ "verbosity", optional_argument, NULL, 'v' },
		{ "daemon", no_argument, NULL, 'd' },
		{ "pidfile", required_argument, NULL, OPT_PIDFILE },
		{ "status-fd", required_argument, NULL, OPT_STATUS_FD },
		{ "workers", required_argument, NULL, OPT_WORKERS },
		{ "no-background", no_argument, NULL, OPT_NO_BACKGROUND },
		{ "no-guardian", no_argument, NULL, OPT_NO_GUARDIAN },
		{ "no-sandbox", no_argument, NULL, OPT_NO_SANDBOX },
		{ "no-ledger", no_argument, NULL, OPT_NO_LEDGER },
		{ "take-over", no_argument, NULL, OPT_TAKE_OVER },
		{ "resume", required_argument, NULL, OPT_RESUME },
		{ "resume-check", required_argument, NULL, OPT_RESUME_CHECK },
		{ "source-check", required_argument, NULL, OPT_SOURCE_CHECK },
		{ "no-default-config", no_argument, NULL, OPT_NO_DEFAULT_CONFIG },
		{ "page-server", no_argument, NULL, OPT_PAGE_SERVER },
		{ "from", required_argument, NULL, OPT_FROM },
		{ "compress", required_argument, NULL, OPT_COMPRESS },
		{ "timeout", required_argument, NULL, OPT_TIMEOUT },
		{ "on-lost-pages", required_argument, NULL, OPT_ON_LOST },
		{ "lost-after", required_argument, NULL, OPT_LOST_AFTER },
		{ "verify", required_argument, NULL, OPT_VERIFY },
		{ "trace", required_argument, NULL, OPT_TRACE },
		{ "address", required_argument, NULL, OPT_ADDRESS },
		{ "port", required_argument, NULL, OPT_PORT },
		LP_TLS_OPTIONS,
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct lp_err err;
	long v;
	int c;

	while ((c = getopt_long(argc, argv, "D:W:o:v::dh", longs, NULL)) != -1) {
		if (tls_option(&o->tls, c, optarg))
			continue;
		switch (c) {
		case 'D':
			o->images_dir = optarg;
			break;
		case 'W':
			o->work_dir = optarg;
			break;
		case 'o':
			o->log_file = optarg;
			break;
		case 'v':
			if (!optarg) {
				o->verbosity++;
				break;
			}
			if (*optarg == 'v') { /* -vvv, as CRIU has it */
				o->verbosity = 1 + strspn(optarg, "v");
				break;
			}
			if (parse_number(optarg, 0, 4, &v)) {
				fprintf(stderr, "lazypages daemon: -v takes 0 to 4, not `%s`\n", optarg);
				return -EINVAL;
			}
			o->verbosity = v;
			break;
		case 'd':
			o->daemon = true;
			break;
		case OPT_PIDFILE:
			o->pidfile = optarg;
			break;
		case OPT_STATUS_FD:
			if (o->resume) /* the old program has told it */
				break;
			if (parse_number(optarg, 0, 1 << 20, &v) || fcntl(v, F_GETFD) < 0) {
				fprintf(stderr, "lazypages daemon: --status-fd %s: not an open descriptor\n", optarg);
				return -EINVAL;
			}
			o->status_fd = v;
			break;
		case OPT_WORKERS:
			if (parse_number(optarg, 1, 64, &v)) {
				fprintf(stderr, "lazypages daemon: --workers takes 1 to 64, not `%s`\n", optarg);
				return -EINVAL;
			}
			o->workers = v;
			break;
		case OPT_FROM:
			if (pages_add(&o->pages, optarg, &err)) {
				fprintf(stderr, "lazypages daemon: --from: %s\n", err.msg);
				return -EINVAL;
			}
			break;
		case OPT_COMPRESS:
			if (!strcmp(optarg, "auto")) {
				o->pages.encodings = LP_COMPRESS_AUTO | LP_ENC_PACKED;
			} else if (!strcmp(optarg, "none")) {
				o->pages.encodings = 0;
			} else if (!strcmp(optarg, "lz4")) {
				o->pages.encodings = 1u << LP_ENC_LZ4 | 1u << LP_ENC_SAME;
			} else if (!strcmp(optarg, "zstd")) {
				o->pages.encodings = 1u << LP_ENC_ZSTD | 1u << LP_ENC_SAME;
			} else {
				fprintf(stderr, "lazypages daemon: --compress takes auto, none, lz4 or zstd, not `%s`\n", optarg);
				return -EINVAL;
			}
			break;
		case OPT_TIMEOUT:
			if (parse_number(optarg, 1, 3600, &v)) {
				fprintf(stderr, "lazypages daemon: --timeout takes 1 to 3600, not `%s`\n", optarg);
				return -EINVAL;
			}
			o->pages.timeout_ms = v * 1000;
			break;
		case OPT_ON_LOST:
			if (!strcmp(optarg, "wait")) {
				o->on_lost = LP_LOST_WAIT;
			} else if (!strcmp(optarg, "poison")) {
				o->on_lost = LP_LOST_POISON;
			} else if (!strcmp(optarg, "kill")) {
				o->on_lost = LP_LOST_KILL;
			} else {
				fprintf(stderr, "lazypages daemon: --on-lost-pages takes wait, poison or kill, not `%s`\n",
					optarg);
				return -EINVAL;
			}
			break;
		case OPT_LOST_AFTER:
			if (parse_number(optarg, 0, 86400, &v)) {
				fprintf(stderr, "lazypages daemon: --lost-after takes 0 to 86400, not `%s`\n", optarg);
				return -EINVAL;
			}
			o->lost_after = v;
			break;
		case OPT_VERIFY:
			if (lp_verify_parse(optarg, &o->pages.verify)) {
				fprintf(stderr, "lazypages daemon: --verify takes auto, require or no, not `%s`\n", optarg);
				return -EINVAL;
			}
			break;
		case OPT_TRACE:
			o->trace_file = optarg;
			break;
		case OPT_NO_BACKGROUND:
			o->background = false;
			break;
		case OPT_NO_GUARDIAN:
			o->guardian = false;
			break;
		case OPT_NO_SANDBOX:
			o->sandbox = false;
			break;
		case OPT_NO_LEDGER:
			o->ledger = false;
			break;
		case OPT_TAKE_OVER:
			o->take_over = true;
			break;
		case OPT_RESUME:
		case OPT_RESUME_CHECK:
		case OPT_SOURCE_CHECK:
			if (resume_parse(optarg, &o->resume_fd, &o->resume_dir)) {
				fputs("lazypages daemon: --resume is for `lazypages upgrade` and `lazypages ctl switch-source` only\n", stderr);
				return -EINVAL;
			}
			o->resume = true;
			o->check = c == OPT_RESUME_CHECK;
			o->check_source = c == OPT_SOURCE_CHECK;
			break;
		case OPT_PAGE_SERVER:
			o->page_server = true;
			break;
		case OPT_ADDRESS:
			o->address = optarg;
			break;
		case OPT_PORT:
			o->port = optarg;
			break;
		case OPT_NO_DEFAULT_CONFIG:
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			fputs("lazypages daemon: try `lazypages daemon --help`\n", stderr);
			return -EINVAL;
		}
	}
	if (o->take_over && !o->guardian) {
		fputs("lazypages daemon: --take-over needs a guardian: leave out --no-guardian\n", stderr);
		return -EINVAL;
	}
	if (optind < argc) {
		fprintf(stderr, "lazypages daemon: what is `%s`? try `lazypages daemon --help`\n", argv[optind]);
		return -EINVAL;
	}
	return parse_page_server(o);
}

static void summary(const struct lp_restore_stats *s)
{
	char a[16], b[16], c[16];

	pr_msg("full after %.3f s: %s in the background, %s for %llu faults (%llu of them zeros), %s had no place any "
	       "more; %llu address spaces, %llu of them forked, %llu remaps, %llu removes, %llu unmaps, %llu fills "
	       "put off",
	       s->ns_handoff_to_full / 1e9, lp_size_str(s->filled_bulk, a, sizeof(a)),
	       lp_size_str(s->filled_urgent, b, sizeof(b)), (unsigned long long)s->faults,
	       (unsigned long long)s->zero_faults, lp_size_str(s->dropped, c, sizeof(c)),
	       (unsigned long long)s->spaces, (unsigned long long)s->forks, (unsigned long long)s->remaps,
	       (unsigned long long)s->removes, (unsigned long long)s->unmaps, (unsigned long long)s->refused);
	if (s->booked || s->guessed)
		pr_msg("%llu times the layout had changed: %llu in the kernel's order, %llu guessed",
			(unsigned long long)(s->booked + s->guessed), (unsigned long long)s->booked,
			(unsigned long long)s->guessed);
}

/* LAZYPAGES_TEST_DELAYS=SEED,MICROSECONDS: see lp_uffd_inject_delays(). */
static void test_delays(const int ledger[LP_LEDGER_FDS])
{
	const char *s = getenv("LAZYPAGES_TEST_DELAYS");
	unsigned long long seed;
	unsigned us;

	if (!s || sscanf(s, "%llu,%u", &seed, &us) != 2)
		return;
	pr_warn("LAZYPAGES_TEST_DELAYS=%s: fills are slowed down on purpose", s);
	lp_uffd_inject_delays(seed, us, ledger[0] < 0);
}

static unsigned default_workers(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > 4 ? 4 : n;
}

/* One run of the daemon, whichever process it is in. */
struct run {
	const struct opts *o;
	const char *dir;	/* of the images */
	int ready_fd;		/* tell the waiting parent of --daemon, -1 none */
	bool logging;		/* to a file */
	struct lp_journal *j;	/* NULL: no guardian */
	struct lp_jctl ctl;	/* then */
	int ledger[LP_LEDGER_FDS]; /* then, too; else they are in the journal */
	char **argv;		/* of who goes on after an upgrade */
};

static void complain(const struct run *run, const struct lp_err *err)
{
	fprintf(stderr, "lazypages daemon: %s\n", err->msg);
	if (run->logging)
		pr_err("%s", err->msg);
}

static void say_byte(struct run *run, int fd, const char *what)
{
	if (fd < 0)
		return;
	if (write(fd, "", 1) != 1)
		pr_warn("%s: %s", what, strerror(errno));
	if (run->j)
		lp_journal_unkeep(run->j, fd);
	close(fd);
}

/* The socket is listening: say so to all who want to know. */
static int ready(void *arg)
{
	struct run *run = arg;
	struct lp_err err;
	int rc;

	if (run->o->pidfile) {
		rc = write_pidfile(run->o->pidfile, getpid());
		if (rc) {
			lp_err_sys(&err, rc, "%s", run->o->pidfile);
			complain(run, &err);
			return rc;
		}
	}
	if (run->o->daemon)
		close_std();
	say_byte(run, run->ready_fd, "nobody waits for the daemon's start");
	say_byte(run, run->o->status_fd, "--status-fd");
	lp_notify("READY=1\nMAINPID=%d\nSTATUS=waiting for CRIU", getpid());
	return 0;
}

/* A new worker must see the checkpoint that its journal is about. */
static int same_checkpoint(struct run *run, const struct lp_images *im, struct lp_err *err)
{
	struct lp_jhead *h = run->j->h;
	uint8_t ident[LP_IMAGES_IDENT_LEN];
	int rc = lp_images_ident(im, run->dir, ident, err);

	if (rc)
		return rc;
	if (h->has_ident && memcmp(h->ident, ident, sizeof(ident)))
		return lp_err(err, -EINVAL, "%s: this is not the checkpoint whose tasks are to be filled", run->dir);
	memcpy(h->ident, ident, sizeof(ident));
	h->has_ident = 1;
	return 0;
}

_Static_assert(LP_LEDGER_FDS == LP_J_LEDGER, "the journal names the descriptors of the ledger");
_Static_assert(sizeof(((struct lp_jhead *)0)->ident) == LP_IMAGES_IDENT_LEN, "room for the identity");

/* The socket for CRIU, in its first worker; what became of it in later ones. */
static int listening(struct run *run, int *fd, struct lp_err *err)
{
	int rc = 0;

	if (run->j && lp_journal_has(run->j, LP_JF_LISTENING)) {
		*fd = run->j->h->listen_fd;
		return 0;
	}
	*fd = lp_restore_listen(err);
	if (*fd < 0)
		return *fd;
	if (lp_control_listen(run->j ? &run->j->h->ctl : &run->ctl, err))
		pr_warn("%s: `lazypages ctl` cannot reach this daemon", err->msg);
	if (run->j) {
		run->j->h->listen_fd = *fd;
		lp_journal_flag(run->j, LP_JF_LISTENING);
		lp_guard_tell(run->j);
	} else {
		rc = ready(run);
	}
	return rc ? lp_err(err, rc, "cannot start") : 0;
}

/* A trace is of one worker: what another one starts from is in the journal, not in the trace. */
static int open_trace(struct run *run, struct lp_recorder **trace, struct lp_err *err)
{
	if (!run->o->trace_file)
		return 0;
	if (!run->j || run->j->h->workers == 1)
		return lp_recorder_open(run->o->trace_file, trace, err);
	pr_warn("--trace: %s ends with the first worker", run->o->trace_file);
	return 0;
}

/*
 * The first worker after a switch has opened its source, or not (@rc). True: it
 * has not, and the guardian goes back to the old one.
 */
static bool switched(struct lp_jhead *h, int rc, const struct lp_err *err)
{
	if (atomic_load(&h->sw.state) != LP_J_SW_REPLACING)
		return false;
	lp_crash_point(switch_opened);
	if (rc)
		snprintf(h->sw.msg, sizeof(h->sw.msg), "%s", err->msg);
	else
		atomic_store(&h->sw.state, LP_J_SW_DONE);
	return rc != 0;
}

/* From images to the last page. Returns the exit status, -1: another worker must go on. */
static int work(void *arg)
{
	struct run *run = arg;
	const struct opts *o = run->o;
	int ledger[LP_LEDGER_FDS], i;
	struct lp_restore_conf conf = {
		.workers = o->workers,
		.background = o->background,
		.progress = !o->daemon && isatty(2),
		.on_lost = o->on_lost,
		.lost_after_ns = o->lost_after * UINT64_C(1000000000),
		.journal = run->j,
		.ctl = &run->ctl,
		.ledger = ledger,
	};
	struct lp_restore_stats stats = { 0 };
	struct pages_conf from = o->pages;
	struct pages pages = { NULL };
	char source[LP_J_SOURCE_MAX];
	struct lp_tls *tls = NULL;
	struct lp_err err = { "" };
	uint64_t huge = lp_kernel_huge_pages(); /* /sys is not readable in the sandbox */
	sigset_t set;
	char size[16];
	int listen_fd = -1, rc;

	for (i = 0; i < LP_LEDGER_FDS; i++)
		ledger[i] = run->j ? run->j->h->ledger[i] : run->ledger[i];
	if (run->j)
		lp_guard_begin(run->j, LP_RESTORE_SOCKET);
	/* It gives a page once. What the dead worker had taken and not filled is lost. */
	if (run->j && from.live)
		lp_journal_flag(run->j, LP_JF_ONCE);
	test_delays(ledger);
	rc = open_trace(run, &conf.trace, &err);
	if (!rc && run->j)
		rc = pages_follow(&from, run->j->h, &err);
	/* Local pages need none, whatever the caller says for CRIU's sake. */
	if (!rc && pages_elsewhere(&from))
		rc = tls_load(&o->tls, &tls, &err);
	/* Images and peers may be hostile: what reads them has nothing to give. */
	if (!rc && o->sandbox)
		rc = confine_worker(run->dir, from.dir, pages_elsewhere(&from), from.nfrom, run->j ? NULL : o->pidfile,
				    &err);
	if (!rc)
		rc = pages_open(&from, run->dir, tls, &pages, &err);
	if (!rc && !(run->j && lp_journal_has(run->j, LP_JF_ACCEPTED)))
		rc = refuse_images(pages.images, huge, &err);
	if (!rc && run->j)
		rc = same_checkpoint(run, pages.images, &err);
	if (!rc)
		rc = listening(run, &listen_fd, &err);
	if (run->j && switched(run->j->h, rc, &err))
		return -1;
	if (rc && run->j && lp_journal_has(run->j, LP_JF_ACCEPTED)) {
		/* Images that cannot be read now are no reason to let tasks read zeros. */
		pr_err("%s", err.msg);
		return -1;
	}
	pages_text(&from, run->dir, source);
	conf.source_text = source;
	/* lp_restore_run() takes them from here on; what comes after it is over must not cut off the last words. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (!rc) {
		conf.images = pages.images;
		conf.source = pages.src;
		rc = lp_restore_run(&conf, listen_fd, &stats, &err);
		if (rc == -EAGAIN && run->j)
			return -1;
		if (!rc)
			summary(&stats);
		if (!rc)
			pages_summary(&from, pages.src, !stats.lost);
		if (!rc && stats.lost)
			rc = lp_err(&err, -ENODATA,
				    "%s could not be had and are poisoned: the program gets SIGBUS when it touches them",
				    lp_size_str(stats.lost, size, sizeof(size)));
		if (run->j && run->j->h->workers > 1)
			pr_msg("%u workers died; from a death until all tasks were woken %.3f ms at most",
			       run->j->h->workers - 1, run->j->h->longest_ns / 1e6);
	}
	if (rc)
		complain(run, &err);
	lp_recorder_close(conf.trace);
	pages_close(&pages);
	lp_tls_put(tls);
	return rc ? 1 : 0;
}

/*
 * Before anything is given up: it needs capabilities. One that is there already
 * comes from an earlier daemon; after --take-over too, if the anchor had it.
 */
static void start_ledger(struct run *run)
{
	struct lp_err err;
	int i, rc;

	if (run->j && run->j->h->ledger[0] >= 0)
		return;
	rc = run->o->ledger && !run->o->resume ? lp_ledger_load(run->ledger, &err) : -ECANCELED;
	if (rc && rc != -ECANCELED)
		pr_warn("the kernel's order of changes cannot be watched: %s; where threads change the same places at once "
			"it is guessed from the messages of userfaultfd (see lazypages-daemon(1), --no-ledger)",
			err.msg);
	for (i = 0; run->j && i < LP_LEDGER_FDS; i++)
		run->j->h->ledger[i] = rc ? -1 : run->ledger[i];
}

/* In the process that is to be the daemon. */
static int guarded(struct run *run, pid_t old_anchor)
{
	const struct lp_guard_conf conf = {
		.journal = run->j, .worker = work, .ready = ready, .arg = run, .restarts = 30, .old_anchor = old_anchor,
		.path = LP_RESTORE_SOCKET, .argv = run->argv, .resumed = run->o->resume,
	};
	struct lp_err err;

	lp_journal_keep(run->j, run->ready_fd);
	lp_journal_keep(run->j, run->o->status_fd);
	lp_journal_keep(run->j, lp_log_fd());
	if (run->o->sandbox && confine_guardian(&err)) {
		complain(run, &err);
		return 1;
	}
	return lp_guard_run(&conf);
}

/* The parent of --daemon: wait until it serves. */
static int wait_ready(int ready_fd, pid_t pid)
{
	int status;
	char byte;

	if (read(ready_fd, &byte, 1) == 1)
		return 0;
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		fputs("lazypages daemon: the daemon was killed at its start\n", stderr);
	return 1;
}

int cmd_daemon(int argc, char **argv)
{
	struct opts o = {
		.images_dir = ".", .status_fd = -1, .verbosity = LP_LOG_WARN, .background = true, .guardian = true,
		.sandbox = true, .ledger = true,
		.workers = default_workers(), .pages.timeout_ms = 10000, .lost_after = 60,
	};
	struct run run = { .o = &o, .ready_fd = -1, .ctl.fd = -1, .ledger[0] = -1 };
	struct lp_err err = { "" };
	pid_t pid = 0, old_anchor = 0;
	char *dir = NULL;
	int rc, status = 1;

	if (parse(argc, argv, &o))
		return 2;
	lp_raise_files();
	(void)lp_kernel_min_addr();
	if (o.check)
		return resume_check(&o.pages, o.resume_fd, o.resume_dir);
	if (o.check_source)
		return source_check(&o.pages, &o.tls, o.sandbox, o.resume_fd, o.resume_dir);
	if (o.resume) {
		o.images_dir = o.resume_dir;
		o.work_dir = ".";
	}
	dir = realpath(o.images_dir, NULL);
	rc = dir ? 0 : lp_err_sys(&err, -errno, "%s", o.images_dir);
	if (!rc && chdir(o.work_dir ? o.work_dir : dir))
		rc = lp_err_sys(&err, -errno, "%s", o.work_dir ? o.work_dir : dir);
	/* In the process whose descriptors they will be, before it has any. */
	if (!rc && o.daemon && !o.resume) {
		rc = go_background(&run.ready_fd, &pid);
		if (rc)
			lp_err_sys(&err, rc, "cannot go to the background");
		if (!rc && pid) {
			free(dir);
			return wait_ready(run.ready_fd, pid);
		}
	}
	if (!rc && o.resume) {
		rc = lp_guard_resume(o.resume_fd, &run.j, &err);
		if (!rc)
			old_anchor = run.j->h->anchor;
	} else if (!rc && o.take_over)
		rc = lp_guard_take_over(&run.j, &old_anchor, (int *[]){ &run.ready_fd, &o.status_fd, NULL }, &err);
	if (!rc) {
		rc = (o.take_over || o.resume ? lp_log_append : lp_log_init)(o.log_file, o.verbosity);
		if (rc)
			lp_err_sys(&err, rc, "%s", o.log_file);
		run.logging = !rc && o.log_file;
	}
	if (!rc && o.guardian && !run.j)
		rc = lp_journal_create(&run.j, &err);
	if (!rc && run.j && !o.resume)
		pages_started(&o.pages, dir, o.take_over, run.j->h);
	if (!rc && !pages_elsewhere(&o.pages))
		o.pages.verify = verify_once(run.j ? run.j->h : NULL, dir, o.pages.verify);
	run.dir = dir;
	/* Too many arguments: then it cannot be upgraded, and says so when asked. */
	if (!rc && run.j && resume_argv(argc, argv, run.j->fd, dir, &run.argv))
		run.argv = NULL;
	if (!rc)
		start_ledger(&run);
	if (rc)
		complain(&run, &err);
	else
		status = run.j ? guarded(&run, old_anchor) : work(&run);
	lp_guard_remove_ctl(&run.ctl);
	lp_journal_free(run.j);
	resume_argv_free(run.argv);
	free(dir);
	return status;
}
