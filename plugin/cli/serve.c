/* SPDX-License-Identifier: GPL-2.0-only */
/* `lazypages serve`: offer checkpoints to other hosts. Parses and runs the server. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/size.h"
#include "cli/cli.h"
#include "cli/confine.h"
#include "cli/tls.h"
#include "proto/proto.h"
#include "serve/serve.h"
#include "source/criu.h"

#define MANY 256

static void usage(FILE *f)
{
	fputs("Usage: lazypages serve --listen ADDRESS (--root DIR | --list FILE | NAME=DIR)... [OPTIONS]\n"
	      "\n"
	      "Offers checkpoints, read-only, to `lazypages daemon --from URL` on other hosts.\n"
	      "\n"
	      "      --root DIR         each subdirectory of DIR that holds a checkpoint, by its name (repeatable)\n"
	      "      NAME=DIR           one checkpoint\n"
	      "      --list FILE        lines NAME=DIR; read again on SIGHUP\n"
	      "      --criu NAME=ADDRESS  the pages of NAME for `criu lazy-pages --page-server` (repeatable)\n"
	      "      --ingest DIR       receive checkpoints into DIR (lazypages push), which is served like --root\n"
	      "      --criu-ingest NAME=ADDRESS  the pages of NAME from `criu dump --page-server` (repeatable)\n"
	      "      --ingest-limit SIZE  the most that one checkpoint may take (default 1T)\n"
	      "      --live NAME=criu:HOST:PORT[?layout=24|32][&tls=no]  the pages of NAME are still with a `criu dump\n"
	      "                         --lazy-pages`: fetch them once, keep them, serve them (repeatable)\n"
	      "      --verify WHAT      pages, by the seals of the checkpoints (lazypages seal): auto (default) where\n"
	      "                         there is one, require or no\n"
	      "      --listen ADDRESS   HOST:PORT, [IPV6]:PORT, unix:PATH or vsock:CID:PORT (repeatable)\n"
	      "      --insecure-listen-anywhere  listen beyond loopback although nothing is encrypted\n"
	      LP_TLS_USAGE
	      "      --access FILE      lines CLIENT NAME...: the checkpoints that a client may have, by the name in its\n"
	      "                         certificate; patterns as in the shell; read again on SIGHUP\n"
	      "      --max-clients N    that many restores at once (default 1024)\n"
	      "      --idle SECONDS     close clients that are silent or stuck so long (default 60)\n"
	      "      --workers N        threads for the background of restores (default: CPUs, at most 4)\n"
	      "      --user NAME        be that user once it listens\n"
	      "      --no-sandbox       keep all privileges and system calls after the start\n"
	      "      --status-fd N      write one zero byte there when listening\n"
	      "  -o, --log-file FILE    log here instead of to stderr\n"
	      "  -v[N], --verbosity[=N] 0 summary, 1 errors, 2 warnings (default), 3 steps, 4 everything\n"
	      "  -h, --help\n",
	      f);
}

struct args {
	const char *roots[MANY], *named[MANY], *log_file;
	struct lp_addr listen[16];
	struct lp_serve_ps ps[MANY];
	struct lp_serve_live live[MANY];
	struct lp_serve_conf conf; /* of confine() the argument, so it must be found from there */
	const char *user;
	struct tls_opts tls;
	int verbosity;
};

static int number(const char *opt, const char *s, long min, long max, long *v)
{
	char *end;

	errno = 0;
	*v = strtol(s, &end, 10);
	if (!errno && end != s && !*end && *v >= min && *v <= max)
		return 0;
	fprintf(stderr, "lazypages serve: %s takes %ld to %ld, not `%s`\n", opt, min, max, s);
	return -EINVAL;
}

/* NAME=ADDRESS */
static int add_ps(struct args *a, const char *opt, bool ingest, const char *s)
{
	struct lp_serve_ps *p = &a->ps[a->conf.nps];
	const char *eq = strchr(s, '=');
	struct lp_err err;

	if (a->conf.nps == MANY)
		return fprintf(stderr, "lazypages serve: more than %d addresses for CRIU\n", MANY), -EINVAL;
	if (!eq || !lp_ckpt_name_ok(s, eq - s))
		return fprintf(stderr, "lazypages serve: %s takes NAME=HOST:PORT, not `%s`\n", opt, s), -EINVAL;
	memcpy(p->name, s, eq - s);
	p->name[eq - s] = 0;
	if (lp_addr_parse(eq + 1, &p->addr, &err))
		return fprintf(stderr, "lazypages serve: %s: %s\n", opt, err.msg), -EINVAL;
	p->ingest = ingest;
	a->conf.nps++;
	return 0;
}

/* NAME=criu:HOST:PORT */
static int add_live(struct args *a, const char *s)
{
	struct lp_serve_live *l = &a->live[a->conf.nlive];
	struct lp_criu_conf c = { 0 };
	const char *eq = strchr(s, '=');
	struct lp_err err;

	if (a->conf.nlive == MANY)
		return fprintf(stderr, "lazypages serve: more than %d live sources\n", MANY), -EINVAL;
	if (!eq || !lp_ckpt_name_ok(s, eq - s))
		return fprintf(stderr, "lazypages serve: --live takes NAME=criu:HOST:PORT, not `%s`\n", s), -EINVAL;
	memcpy(l->name, s, eq - s);
	l->name[eq - s] = 0;
	snprintf(l->text, sizeof(l->text), "%s", eq + 1);
	if (lp_criu_url_parse(eq + 1, &c, &err))
		return fprintf(stderr, "lazypages serve: --live: %s\n", err.msg), -EINVAL;
	l->addr = c.addr;
	l->layout = c.layout;
	l->plain = c.plain;
	a->conf.nlive++;
	return 0;
}

static int parse(int argc, char **argv, struct args *a)
{
	enum { ROOT = 256, CRIU, CRIU_INGEST, LIVE, INGEST, INGEST_LIMIT, LIST, LISTEN, ANYWHERE, MAX, IDLE, WORKERS, STATUS,
	       ACCESS, VERIFY, USER, NO_SANDBOX };
	static const struct option longs[] = {
		{ "root", required_argument, NULL, ROOT },
		{ "criu", required_argument, NULL, CRIU },
		{ "criu-ingest", required_argument, NULL, CRIU_INGEST },
		{ "ingest", required_argument, NULL, INGEST },
		{ "ingest-limit", required_argument, NULL, INGEST_LIMIT },
		{ "live", required_argument, NULL, LIVE },
		{ "list", required_argument, NULL, LIST },
		{ "listen", required_argument, NULL, LISTEN },
		{ "insecure-listen-anywhere", no_argument, NULL, ANYWHERE },
		LP_TLS_OPTIONS,
		{ "access", required_argument, NULL, ACCESS },
		{ "user", required_argument, NULL, USER },
		{ "no-sandbox", no_argument, NULL, NO_SANDBOX },
		{ "verify", required_argument, NULL, VERIFY },
		{ "max-clients", required_argument, NULL, MAX },
		{ "idle", required_argument, NULL, IDLE },
		{ "workers", required_argument, NULL, WORKERS },
		{ "status-fd", required_argument, NULL, STATUS },
		{ "log-file", required_argument, NULL, 'o' },
		{ "verbosity", optional_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct lp_serve_conf *conf = &a->conf;
	struct lp_err err;
	long v = 0;
	int c;

	while ((c = getopt_long(argc, argv, "o:v::h", longs, NULL)) != -1) {
		if (tls_option(&a->tls, c, optarg))
			continue;
		switch (c) {
		case ROOT:
			if (conf->nroots == MANY)
				return fprintf(stderr, "lazypages serve: more than %d roots\n", MANY), -EINVAL;
			a->roots[conf->nroots++] = optarg;
			break;
		case CRIU:
			if (add_ps(a, "--criu", false, optarg))
				return -EINVAL;
			break;
		case CRIU_INGEST:
			if (add_ps(a, "--criu-ingest", true, optarg))
				return -EINVAL;
			break;
		case LIVE:
			if (add_live(a, optarg))
				return -EINVAL;
			break;
		case INGEST:
			if (conf->nroots == MANY || conf->ingest)
				return fputs("lazypages serve: --ingest: one directory\n", stderr), -EINVAL;
			conf->ingest = a->roots[conf->nroots++] = optarg;
			break;
		case INGEST_LIMIT:
			if (lp_size_parse(optarg, &conf->ingest_limit) || !conf->ingest_limit)
				return fprintf(stderr, "lazypages serve: --ingest-limit takes 1M, 20G, 1T, not `%s`\n",
					       optarg),
				       -EINVAL;
			break;
		case LIST:
			conf->list = optarg;
			break;
		case LISTEN:
			if (conf->nlisten == sizeof(a->listen) / sizeof(a->listen[0]))
				return fputs("lazypages serve: more than 16 addresses\n", stderr), -EINVAL;
			if (lp_addr_parse(optarg, &a->listen[conf->nlisten++], &err))
				return fprintf(stderr, "lazypages serve: --listen: %s\n", err.msg), -EINVAL;
			break;
		case ANYWHERE:
			conf->anywhere = true;
			break;
		case ACCESS:
			conf->access = optarg;
			break;
		case VERIFY:
			if (lp_verify_parse(optarg, &conf->verify))
				return fprintf(stderr, "lazypages serve: --verify takes auto, require or no, not `%s`\n", optarg),
				       -EINVAL;
			break;
		case USER:
			a->user = optarg;
			break;
		case NO_SANDBOX:
			conf->confine = NULL;
			break;
		case MAX:
			if (number("--max-clients", optarg, 1, 100000, &v))
				return -EINVAL;
			conf->max_clients = v;
			break;
		case IDLE:
			if (number("--idle", optarg, 1, 86400, &v))
				return -EINVAL;
			conf->idle_ms = v * 1000;
			break;
		case WORKERS:
			if (number("--workers", optarg, 1, 16, &v))
				return -EINVAL;
			conf->workers = v;
			break;
		case STATUS:
			if (number("--status-fd", optarg, 0, 1 << 20, &v))
				return -EINVAL;
			if (fcntl(v, F_GETFD) < 0)
				return fprintf(stderr, "lazypages serve: --status-fd %ld: not open\n", v), -EINVAL;
			conf->status_fd = v;
			break;
		case 'o':
			a->log_file = optarg;
			break;
		case 'v':
			if (!optarg)
				a->verbosity++;
			else if (number("-v", optarg, 0, 4, &v))
				return -EINVAL;
			else
				a->verbosity = v;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			fputs("lazypages serve: try `lazypages serve --help`\n", stderr);
			return -EINVAL;
		}
	}
	for (; optind < argc; optind++) {
		if (!strchr(argv[optind], '=') || conf->nnamed == MANY)
			return fprintf(stderr, "lazypages serve: what is `%s`? try `lazypages serve --help`\n",
				       argv[optind]),
			       -EINVAL;
		a->named[conf->nnamed++] = argv[optind];
	}
	if (a->user && !conf->confine)
		return fputs("lazypages serve: --user and --no-sandbox: take one of them\n", stderr), -EINVAL;
	if (tls_check(&a->tls, &err))
		return fprintf(stderr, "lazypages serve: %s\n", err.msg), -EINVAL;
	if (a->tls.on)
		conf->tls = &a->tls.files;
	if (conf->access && !a->tls.on)
		return fputs("lazypages serve: --access without --tls: clients have no names\n", stderr), -EINVAL;
	if (!conf->nlisten && !conf->nps)
		return fputs("lazypages serve: where? say --listen HOST:PORT or --listen unix:PATH\n", stderr), -EINVAL;
	for (v = 0; v < (long)conf->nps; v++)
		if (conf->ps[v].ingest && !conf->ingest)
			return fputs("lazypages serve: --criu-ingest: where to? say --ingest DIR\n", stderr), -EINVAL;
	if (!conf->nroots && !conf->nnamed && !conf->list)
		return fputs("lazypages serve: what? say --root DIR, NAME=DIR or --list FILE\n", stderr), -EINVAL;
	return 0;
}

static int confine(const struct lp_serve_conf *conf, struct lp_err *err)
{
	const struct args *a = (const struct args *)((const char *)conf - offsetof(struct args, conf));

	return confine_server(conf, a->user, err);
}

int cmd_serve(int argc, char **argv)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct args *a = calloc(1, sizeof(*a));
	struct lp_err err = { "" };
	size_t i;
	int rc = 0;

	if (!a)
		return 1;
	a->verbosity = LP_LOG_WARN;
	a->conf = (struct lp_serve_conf){
		.roots = a->roots, .named = a->named, .listen = a->listen, .ps = a->ps, .live = a->live, .max_clients = 1024, .idle_ms = 60000,
		.workers = cpus < 1 ? 1 : cpus > 4 ? 4 : cpus, .status_fd = -1,
		.ingest_limit = UINT64_C(1) << 40, .confine = confine,
	};
	if (parse(argc, argv, a)) {
		free(a);
		return 2;
	}
	for (i = 0; !rc && i < a->conf.nroots; i++)
		if (access(a->roots[i], R_OK | X_OK))
			rc = lp_err_sys(&err, -errno, "--root %s", a->roots[i]);
	if (!rc) {
		rc = lp_log_init(a->log_file, a->verbosity);
		if (rc)
			lp_err_sys(&err, rc, "%s", a->log_file);
	}
	if (!rc)
		rc = lp_serve_run(&a->conf, &err);
	if (rc)
		fprintf(stderr, "lazypages serve: %s\n", err.msg);
	free(a);
	return rc ? 1 : 0;
}
