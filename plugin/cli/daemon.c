/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages daemon`: the drop-in for `criu lazy-pages`. Parses, opens the
 * images, listens, goes to the background if asked, serves one restore.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/size.h"
#include "cli/background.h"
#include "cli/cli.h"
#include "cli/tls.h"
#include "restore/restore.h"
#include "restore/uffd.h"
#include "images/thin.h"
#include "proto/proto.h"
#include "source/criu.h"
#include "source/remote.h"

struct opts {
	const char *images_dir, *work_dir, *log_file, *pidfile, *trace_file;
	struct lp_recorder *trace;
	int status_fd, verbosity;
	bool daemon, background, page_server;
	unsigned workers;
	struct lp_url from[LP_REMOTE_MAX];
	size_t nfrom;
	uint32_t encodings;
	unsigned timeout_ms;
	struct tls_opts tls;
	enum lp_lost on_lost;
	unsigned lost_after;
	/* CRIU's own page server: by --page-server, or by --from criu: */
	const char *address, *port, *from_criu;
	struct lp_criu_conf criu;
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
	      "      --from URL         pages from `lazypages serve`: lazypages://HOST:PORT/NAME or\n"
	      "                         unix:PATH:NAME; repeated: other servers with the same checkpoint.\n"
	      "                         Without images in DIR the small ones are fetched into it\n"
	      "                         criu:HOST:PORT: a `criu dump --lazy-pages` or `criu page-server`\n"
	      "      --page-server --address HOST --port PORT  the same as --from criu:HOST:PORT\n"
	      "      --compress WHAT    of what --from sends: none (default), lz4 or zstd\n"
	      "      --timeout SECONDS  ask another server after that (default 10)\n"
	      "      --on-lost-pages WHAT  pages that cannot be had: wait (default) for ever, poison (who touches\n"
	      "                         one gets SIGBUS) or kill the restored tasks\n"
	      "      --lost-after SECONDS  of trying in vain (default 60)\n"
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
	OPT_NO_DEFAULT_CONFIG,
	OPT_PAGE_SERVER,
	OPT_FROM,
	OPT_COMPRESS,
	OPT_TIMEOUT,
	OPT_ON_LOST,
	OPT_LOST_AFTER,
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

static int add_from(struct opts *o, const char *s)
{
	struct lp_err err;

	if (lp_criu_url_is(s)) {
		if (o->from_criu) {
			fputs("lazypages daemon: a live source is one: --from criu: can be given once\n", stderr);
			return -EINVAL;
		}
		o->from_criu = s;
		if (lp_criu_url_parse(s, &o->criu, &err)) {
			fprintf(stderr, "lazypages daemon: --from: %s\n", err.msg);
			return -EINVAL;
		}
		return 0;
	}
	if (o->nfrom == LP_REMOTE_MAX) {
		fprintf(stderr, "lazypages daemon: more than %d --from\n", LP_REMOTE_MAX);
		return -EINVAL;
	}
	if (lp_url_parse(s, &o->from[o->nfrom], &err)) {
		fprintf(stderr, "lazypages daemon: --from: %s\n", err.msg);
		return -EINVAL;
	}
	if (!lp_ckpt_name_ok(o->from[o->nfrom].name, strlen(o->from[o->nfrom].name))) {
		fprintf(stderr,
			"lazypages daemon: --from %s: no name of a checkpoint at its end (letters, digits, . _ @ + -)\n", s);
		return -EINVAL;
	}
	o->nfrom++;
	return 0;
}

/* --page-server --address HOST --port PORT, as CRIU has it. */
static int parse_page_server(struct opts *o)
{
	struct lp_err err;
	char addr[300];

	if (o->page_server) {
		if (o->from_criu || o->nfrom || !o->port) {
			fputs(o->port ? "lazypages daemon: --page-server and --from: take one of them\n" :
					"lazypages daemon: --page-server: say --port PORT and perhaps --address HOST\n",
			      stderr);
			return -EINVAL;
		}
		if (!o->address)
			o->address = "127.0.0.1";
		snprintf(addr, sizeof(addr), strchr(o->address, ':') ? "[%s]:%s" : "%s:%s", o->address, o->port);
		if (lp_addr_parse(addr, &o->criu.addr, &err)) {
			fprintf(stderr, "lazypages daemon: --page-server: %s\n", err.msg);
			return -EINVAL;
		}
	}
	if (o->from_criu && o->nfrom) {
		fputs("lazypages daemon: --from: pages come from a live source or from servers, not from both\n", stderr);
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
		{ "no-default-config", no_argument, NULL, OPT_NO_DEFAULT_CONFIG },
		{ "page-server", no_argument, NULL, OPT_PAGE_SERVER },
		{ "from", required_argument, NULL, OPT_FROM },
		{ "compress", required_argument, NULL, OPT_COMPRESS },
		{ "timeout", required_argument, NULL, OPT_TIMEOUT },
		{ "on-lost-pages", required_argument, NULL, OPT_ON_LOST },
		{ "lost-after", required_argument, NULL, OPT_LOST_AFTER },
		{ "trace", required_argument, NULL, OPT_TRACE },
		{ "address", required_argument, NULL, OPT_ADDRESS },
		{ "port", required_argument, NULL, OPT_PORT },
		LP_TLS_OPTIONS,
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
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
			if (add_from(o, optarg))
				return -EINVAL;
			break;
		case OPT_COMPRESS:
			if (!strcmp(optarg, "none")) {
				o->encodings = 0;
			} else if (!strcmp(optarg, "lz4")) {
				o->encodings = 1u << LP_ENC_LZ4;
			} else if (!strcmp(optarg, "zstd")) {
				o->encodings = 1u << LP_ENC_ZSTD;
			} else {
				fprintf(stderr, "lazypages daemon: --compress takes none, lz4 or zstd, not `%s`\n", optarg);
				return -EINVAL;
			}
			break;
		case OPT_TIMEOUT:
			if (parse_number(optarg, 1, 3600, &v)) {
				fprintf(stderr, "lazypages daemon: --timeout takes 1 to 3600, not `%s`\n", optarg);
				return -EINVAL;
			}
			o->timeout_ms = v * 1000;
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
		case OPT_TRACE:
			o->trace_file = optarg;
			break;
		case OPT_NO_BACKGROUND:
			o->background = false;
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
}

static void remote_summary(struct lp_source *src)
{
	struct lp_remote_stats s;
	char a[16];

	lp_source_remote_stats(src, &s);
	pr_msg("from servers: %s received, %llu connections lost, %llu changes of server, %llu answers damaged",
	       lp_size_str(s.bytes, a, sizeof(a)), (unsigned long long)s.reconnects, (unsigned long long)s.failovers,
	       (unsigned long long)s.corrupt);
}

/* The tasks need the live source no more. */
static void take_leave(struct lp_source *src)
{
	uint64_t bytes, requests;
	char a[16];
	int rc;

	lp_source_criu_stats(src, &bytes, &requests);
	pr_msg("from the live source: %s received with %llu requests", lp_size_str(bytes, a, sizeof(a)),
	       (unsigned long long)requests);
	rc = lp_source_criu_done(src);
	if (rc)
		pr_warn("all pages have come, but their source did not take leave (%s): see to its tasks",
			strerror(-rc));
}

static bool is_live(const struct opts *o)
{
	return o->page_server || o->from_criu;
}

/* LAZYPAGES_TEST_DELAYS=SEED,MICROSECONDS: see lp_uffd_inject_delays(). */
static void test_delays(void)
{
	const char *s = getenv("LAZYPAGES_TEST_DELAYS");
	unsigned long long seed;
	unsigned us;

	if (!s || sscanf(s, "%llu,%u", &seed, &us) != 2)
		return;
	pr_warn("LAZYPAGES_TEST_DELAYS=%s: fills are slowed down on purpose", s);
	lp_uffd_inject_delays(seed, us);
}

/* From images to the last page. @ready_fd: tell the waiting parent, -1 none. */
static int serve(const struct opts *o, const struct lp_images *im, struct lp_source *src, int listen_fd, int ready_fd,
		 struct lp_err *err)
{
	struct lp_restore_conf conf = {
		.images = im,
		.source = src,
		.workers = o->workers,
		.background = o->background,
		.progress = !o->daemon && isatty(2),
		.on_lost = o->on_lost,
		.lost_after_ns = o->lost_after * UINT64_C(1000000000),
		.trace = o->trace,
	};
	struct lp_restore_stats stats = { 0 };
	sigset_t set;
	char size[16];
	int rc;

	/* lp_restore_run() takes them from here on; what comes after it is over must not cut off the last words. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);

	if (ready_fd >= 0) {
		if (write(ready_fd, "", 1) != 1)
			pr_warn("nobody waits for the daemon's start");
		close(ready_fd);
	}
	if (o->status_fd >= 0) {
		if (write(o->status_fd, "", 1) != 1)
			pr_warn("--status-fd %d: %s", o->status_fd, strerror(errno));
		close(o->status_fd);
	}
	test_delays();
	rc = lp_restore_run(&conf, listen_fd, &stats, err);
	if (!rc)
		summary(&stats);
	if (!rc && o->nfrom)
		remote_summary(src);
	if (!rc && stats.lost)
		rc = lp_err(err, -ENODATA, "%s could not be had and are poisoned: the program gets SIGBUS when it touches them",
			    lp_size_str(stats.lost, size, sizeof(size)));
	if (!rc && is_live(o))
		take_leave(src);
	return rc;
}

/* Images and the source of their pages: from the directory, or with --from from servers. */
static int open_source(const struct opts *o, const char *dir, struct lp_tls *tls, struct lp_images **im,
		       struct lp_source **src, struct lp_err *err)
{
	struct lp_remote_conf conf = {
		.urls = o->from, .nurls = o->nfrom, .tls = tls, .encodings = o->encodings,
		.timeout_ms = o->timeout_ms,
	};
	uint8_t told[LP_IMAGES_IDENT_LEN] = { 0 };
	char path[4096];
	bool fetched = false;
	int rc = 0;

	if (o->nfrom) {
		snprintf(path, sizeof(path), "%s/inventory.img", dir);
		if (access(path, F_OK) && errno == ENOENT) {
			rc = lp_remote_fetch(o->from, o->nfrom, tls, dir, o->timeout_ms, told, err);
			fetched = true;
		}
	}
	if (!rc)
		rc = lp_images_open(dir, im, err);
	if (!rc && is_live(o)) {
		struct lp_criu_conf cc = o->criu;

		cc.timeout_ms = o->timeout_ms;
		return lp_source_criu_open(*im, &cc, src, err);
	}
	if (rc || !o->nfrom)
		return rc ? rc : lp_source_local_open(*im, src, err);
	rc = lp_images_ident(*im, dir, conf.ident, err);
	if (!rc && fetched && memcmp(conf.ident, told, sizeof(told)))
		rc = lp_err(err, -EINVAL, "%s: the fetched images are not what %s has: remove them and try again", dir,
			    o->from[0].text);
	return rc ? rc : lp_source_remote_open(*im, &conf, src, err);
}

static unsigned default_workers(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > 4 ? 4 : n;
}

int cmd_daemon(int argc, char **argv)
{
	struct opts o = {
		.images_dir = ".", .status_fd = -1, .verbosity = LP_LOG_WARN, .background = true,
		.workers = default_workers(), .timeout_ms = 10000, .lost_after = 60,
	};
	struct lp_images *im = NULL;
	struct lp_source *src = NULL;
	struct lp_tls *tls = NULL;
	struct lp_err err = { "" };
	int listen_fd, ready_fd = -1, rc;
	bool logging = false;
	pid_t pid = 0;
	char *dir = NULL;

	if (parse(argc, argv, &o))
		return 2;
	dir = realpath(o.images_dir, NULL);
	rc = dir ? 0 : lp_err_sys(&err, -errno, "%s", o.images_dir);
	if (!rc && chdir(o.work_dir ? o.work_dir : dir))
		rc = lp_err_sys(&err, -errno, "%s", o.work_dir ? o.work_dir : dir);
	if (!rc) {
		rc = lp_log_init(o.log_file, o.verbosity);
		if (rc)
			lp_err_sys(&err, rc, "%s", o.log_file);
		logging = !rc && o.log_file;
	}
	/* Local pages need none, whatever the caller says for CRIU's sake. */
	if (!rc && o.nfrom)
		rc = tls_load(&o.tls, &tls, &err);
	if (!rc && o.trace_file)
		rc = lp_recorder_open(o.trace_file, &o.trace, &err);
	if (!rc)
		rc = open_source(&o, dir, tls, &im, &src, &err);
	if (!rc) {
		listen_fd = lp_restore_listen(&err);
		rc = listen_fd < 0 ? listen_fd : 0;
	}
	if (!rc && o.daemon) {
		rc = go_background(&ready_fd, &pid);
		if (rc)
			lp_err_sys(&err, rc, "cannot go to the background");
		if (!rc && !pid)
			close_std();
	}
	if (!rc && o.pidfile && (pid || !o.daemon)) {
		rc = write_pidfile(o.pidfile, pid ? pid : getpid());
		if (rc) {
			lp_err_sys(&err, rc, "%s", o.pidfile);
			if (pid)
				kill(pid, SIGKILL);
		}
	}
	if (!rc && pid) {
		rc = background_ready(ready_fd) ? 0 : lp_err(&err, -ECHILD, "the daemon died at its start");
		goto out;
	}
	if (!rc)
		rc = serve(&o, im, src, listen_fd, ready_fd, &err);
out:
	if (rc) {
		fprintf(stderr, "lazypages daemon: %s\n", err.msg);
		if (logging)
			pr_err("%s", err.msg);
	}
	lp_recorder_close(o.trace);
	if (src)
		src->ops->close(src);
	lp_tls_put(tls);
	lp_images_close(im);
	free(dir);
	return rc ? 1 : 0;
}
