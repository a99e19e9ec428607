/* SPDX-License-Identifier: GPL-2.0-only */
/* `lazypages page-server --lazy-pages`: the drop-in for `criu page-server --lazy-pages`. Parses and runs it. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/background.h"
#include "cli/cli.h"
#include "cli/confine.h"
#include "cli/tls.h"
#include "serve/page_server.h"

struct opts {
	const char *images_dir, *work_dir, *log_file, *pidfile, *address, *port;
	int status_fd, verbosity;
	bool daemon, lazy_pages, anywhere;
	struct tls_opts tls;
	enum lp_verify verify;
};

static _Atomic bool stopped;

static void usage(FILE *f)
{
	fputs("Usage: lazypages page-server --lazy-pages -D DIR --port PORT [OPTIONS]\n"
	      "\n"
	      "Serves the pages of one checkpoint to one `criu lazy-pages --page-server` (CRIU's own\n"
	      "protocol) and ends with it: what `criu page-server --lazy-pages` does.\n"
	      "`lazypages serve` does it for many.\n"
	      "\n"
	      "      --lazy-pages       must be given: to receive dumps see `lazypages serve --criu-ingest`\n"
	      "  -D, --images-dir DIR   the checkpoint (default: .)\n"
	      "  -W, --work-dir DIR     log and pid file go here (default: images dir)\n"
	      "      --address HOST     listen here (default: 127.0.0.1)\n"
	      "      --port PORT        0: any that is free\n"
	      "      --verify WHAT      pages, by the checkpoint's seal: auto (default), require or no\n"
	      "      --insecure-listen-anywhere  listen beyond loopback although nothing is encrypted\n"
	      LP_TLS_USAGE
	      "  -d, --daemon           go to the background when listening\n"
	      "      --pidfile FILE     write the daemon's pid\n"
	      "      --status-fd N      write one zero byte there when listening\n"
	      "  -o, --log-file FILE    log here instead of to stderr\n"
	      "  -v[N], --verbosity[=N] 0 summary, 1 errors, 2 warnings (default), 3 steps, 4 everything\n"
	      "      --no-default-config  accepted for CRIU's sake\n"
	      "  -h, --help\n",
	      f);
}

static int parse(int argc, char **argv, struct opts *o)
{
	enum { PIDFILE = 256, STATUS, LAZY, ADDRESS, PORT, ANYWHERE, VERIFY, IGNORED };
	static const struct option longs[] = {
		{ "lazy-pages", no_argument, NULL, LAZY },
		{ "images-dir", required_argument, NULL, 'D' },
		{ "work-dir", required_argument, NULL, 'W' },
		{ "log-file", required_argument, NULL, 'o' },
		{ "verbosity", optional_argument, NULL, 'v' },
		{ "daemon", no_argument, NULL, 'd' },
		{ "pidfile", required_argument, NULL, PIDFILE },
		{ "status-fd", required_argument, NULL, STATUS },
		{ "address", required_argument, NULL, ADDRESS },
		{ "port", required_argument, NULL, PORT },
		{ "verify", required_argument, NULL, VERIFY },
		{ "insecure-listen-anywhere", no_argument, NULL, ANYWHERE },
		LP_TLS_OPTIONS,
		{ "no-default-config", no_argument, NULL, IGNORED },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	char *end;
	int c;

	while ((c = getopt_long(argc, argv, "D:W:o:v::dh", longs, NULL)) != -1) {
		if (tls_option(&o->tls, c, optarg))
			continue;
		switch (c) {
		case LAZY:
			o->lazy_pages = true;
			break;
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
			o->verbosity = !optarg ? o->verbosity + 1 : *optarg == 'v' ? 1 + (int)strspn(optarg, "v") : atoi(optarg);
			break;
		case 'd':
			o->daemon = true;
			break;
		case PIDFILE:
			o->pidfile = optarg;
			break;
		case STATUS:
			errno = 0;
			o->status_fd = (int)strtol(optarg, &end, 10);
			if (errno || *end || end == optarg || fcntl(o->status_fd, F_GETFD) < 0) {
				fprintf(stderr, "lazypages page-server: --status-fd %s: not an open descriptor\n", optarg);
				return -EINVAL;
			}
			break;
		case ADDRESS:
			o->address = optarg;
			break;
		case PORT:
			o->port = optarg;
			break;
		case ANYWHERE:
			o->anywhere = true;
			break;
		case VERIFY:
			if (lp_verify_parse(optarg, &o->verify))
				return fprintf(stderr, "lazypages page-server: --verify takes auto, require or no, not `%s`\n",
					       optarg),
				       -EINVAL;
			break;
		case IGNORED:
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			fputs("lazypages page-server: try `lazypages page-server --help`\n", stderr);
			return -EINVAL;
		}
	}
	if (optind < argc)
		return fprintf(stderr, "lazypages page-server: what is `%s`? try --help\n", argv[optind]), -EINVAL;
	if (!o->lazy_pages)
		return fputs("lazypages page-server: only with --lazy-pages; to receive a dump: lazypages serve "
			     "--criu-ingest NAME=HOST:PORT\n", stderr), -EINVAL;
	if (!o->port)
		return fputs("lazypages page-server: where? say --port PORT and perhaps --address HOST\n", stderr), -EINVAL;
	return 0;
}

static void on_signal(int sig)
{
	atomic_store(&stopped, true);
}

static int run(const struct opts *o, struct lp_page_server *p, int ready_fd, struct lp_err *err)
{
	struct sigaction sa = { .sa_handler = on_signal };
	int rc;

	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	rc = confine_page_server(err);
	if (rc)
		return rc;
	if (ready_fd >= 0) {
		if (write(ready_fd, "", 1) != 1)
			pr_warn("nobody waits for the start");
		close(ready_fd);
	}
	if (o->status_fd >= 0) {
		if (write(o->status_fd, "", 1) != 1)
			pr_warn("--status-fd %d: %s", o->status_fd, strerror(errno));
		close(o->status_fd);
	}
	return lp_page_server_run(p, &stopped, err);
}

int cmd_page_server(int argc, char **argv)
{
	struct opts o = { .images_dir = ".", .address = "127.0.0.1", .status_fd = -1, .verbosity = LP_LOG_WARN };
	struct lp_page_server p = { .listen_fd = -1 };
	struct lp_err err = { "" };
	struct lp_tls *tls = NULL;
	char addr[300], *dir;
	int rc, ready_fd = -1;
	pid_t pid = 0;

	if (parse(argc, argv, &o))
		return 2;
	/* Before chdir(): paths of certificates are the caller's. */
	rc = tls_load(&o.tls, &tls, &err);
	dir = realpath(o.images_dir, NULL);
	if (!rc && !dir)
		rc = lp_err_sys(&err, -errno, "%s", o.images_dir);
	if (!rc && chdir(o.work_dir ? o.work_dir : dir))
		rc = lp_err_sys(&err, -errno, "%s", o.work_dir ? o.work_dir : dir);
	if (!rc) {
		rc = lp_log_init(o.log_file, o.verbosity);
		if (rc)
			lp_err_sys(&err, rc, "%s", o.log_file);
	}
	if (!rc) {
		p.dir = dir;
		p.tls = tls;
		p.anywhere = o.anywhere;
		p.verify = o.verify;
		snprintf(addr, sizeof(addr), strchr(o.address, ':') ? "[%s]:%s" : "%s:%s", o.address, o.port);
		rc = lp_addr_parse(addr, &p.addr, &err);
	}
	if (!rc)
		rc = lp_page_server_open(&p, &err);
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
		rc = background_ready(ready_fd) ? 0 : lp_err(&err, -ECHILD, "it died at its start");
		free(dir);
		lp_page_server_close(&p);
		lp_tls_put(tls);
		return rc ? 1 : 0;
	}
	if (!rc)
		rc = run(&o, &p, ready_fd, &err);
	if (rc) {
		fprintf(stderr, "lazypages page-server: %s\n", err.msg);
		if (o.log_file && err.msg[0])
			pr_err("%s", err.msg);
	}
	lp_page_server_close(&p);
	lp_tls_put(tls);
	free(dir);
	return rc ? 1 : 0;
}
