/* SPDX-License-Identifier: GPL-2.0-only */
/* `lazypages push`: bring a checkpoint to a server. Parses and does it. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "cli/cli.h"
#include "cli/tls.h"
#include "proto/proto.h"
#include "source/push.h"

static void usage(FILE *f)
{
	fputs("Usage: lazypages push DIR URL [OPTIONS]\n"
	      "\n"
	      "Brings the images in DIR to a server (`lazypages serve --ingest`), under the name in URL:\n"
	      "lazypages://HOST:PORT/NAME or unix:PATH:NAME. Pages that `criu dump --page-server` has\n"
	      "brought before (serve --criu-ingest NAME=...) become a part of it, and what parents of DIR\n"
	      "(criu pre-dump) have. The server offers the checkpoint when all of it is there and makes\n"
	      "sense, and not before.\n"
	      "\n"
	      "      --replace          even if there is a checkpoint of that name\n"
	      "      --timeout SECONDS  give up when the server says nothing for so long (default 60)\n"
	      LP_TLS_USAGE
	      "      --tls-no-cn-verify  do not ask whether the certificate is for the host in URL\n"
	      "  -h, --help\n",
	      f);
}

int cmd_push(int argc, char **argv)
{
	enum { REPLACE = 256, TIMEOUT };
	static const struct option longs[] = {
		{ "replace", no_argument, NULL, REPLACE },
		{ "timeout", required_argument, NULL, TIMEOUT },
		LP_TLS_OPTIONS,
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct tls_opts tls_opts = { 0 };
	struct lp_tls *tls = NULL;
	struct lp_err err = { "" };
	unsigned long seconds = 60;
	bool replace = false;
	struct lp_url url;
	uint64_t bytes;
	char size[16], *end;
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		if (tls_option(&tls_opts, c, optarg))
			continue;
		switch (c) {
		case REPLACE:
			replace = true;
			break;
		case TIMEOUT:
			seconds = strtoul(optarg, &end, 10);
			if (*end || !seconds || seconds > 3600)
				return fprintf(stderr, "lazypages push: --timeout takes 1 to 3600, not `%s`\n", optarg), 2;
			break;
		case 'h':
			usage(stdout);
			return 0;
		default:
			fputs("lazypages push: try `lazypages push --help`\n", stderr);
			return 2;
		}
	}
	if (argc - optind != 2)
		return fputs("lazypages push: what, and where to? say `lazypages push DIR URL`\n", stderr), 2;
	if (lp_url_parse(argv[optind + 1], &url, &err))
		return fprintf(stderr, "lazypages push: %s\n", err.msg), 2;
	if (!lp_ckpt_name_ok(url.name, strlen(url.name)))
		return fprintf(stderr, "lazypages push: %s: no name of a checkpoint at its end (letters, digits, . _ @ + -)\n",
			       argv[optind + 1]),
		       2;
	if (tls_load(&tls_opts, &tls, &err))
		return fprintf(stderr, "lazypages push: %s\n", err.msg), 1;
	c = lp_push(&url, tls, argv[optind], replace, seconds * 1000, &bytes, &err);
	lp_tls_put(tls);
	if (c)
		return fprintf(stderr, "lazypages push: %s\n", err.msg), 1;
	printf("%s: %s pushed\n", url.text, lp_size_str(bytes, size, sizeof(size)));
	return 0;
}
