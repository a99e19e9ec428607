/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The image server: offers checkpoints, read-only, to any number of clients
 * over the lazypages protocol (doc/protocol.md).
 */
#ifndef LP_SERVE_H
#define LP_SERVE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "images/seal.h"
#include "net/addr.h"
#include "net/tls.h"

/* A checkpoint that CRIU itself gets from an address of its own. */
struct lp_serve_ps {
	char name[129];
	struct lp_addr addr;
	bool ingest; /* it brings the pages of a dump */
};

/* A checkpoint whose pages are with a live source: see relay.h. */
struct lp_serve_live {
	char name[129], text[300]; /* text: the URL, for messages */
	struct lp_addr addr;
	int layout; /* of CRIU's headers, 24 or 32 bytes; 0: as its images say */
	bool plain; /* although there is TLS */
};

/* Everything is borrowed until lp_serve_run() returns. */
struct lp_serve_conf {
	const char *const *roots; /* each subdirectory is a checkpoint */
	size_t nroots;
	const char *const *named; /* NAME=DIR */
	size_t nnamed;
	const char *list; /* a file of NAME=DIR lines, read again on SIGHUP; or NULL */
	const struct lp_addr *listen;
	size_t nlisten;
	const struct lp_serve_ps *ps;
	size_t nps;
	const struct lp_serve_live *live;
	size_t nlive;
	const char *ingest;    /* received checkpoints go there; also a root; or NULL */
	uint64_t ingest_limit; /* bytes of one, at most */
	bool anywhere;	     /* listen beyond loopback without TLS */
	const struct lp_tls_files *tls; /* on all TCP sockets; read again on SIGHUP; NULL: no TLS */
	const char *access;  /* a file, read again on SIGHUP: which client may have which checkpoint; or NULL */
	unsigned max_clients; /* urgent connections, and as many bulk ones */
	unsigned workers;     /* threads for bulk */
	unsigned idle_ms;     /* a silent or stuck client is closed after this */
	enum lp_verify verify; /* what checkpoints are held to that are here as a whole */
	/* Called when it listens, before it has threads and clients; or NULL. */
	int (*confine)(const struct lp_serve_conf *conf, struct lp_err *err);
	int status_fd;	      /* one zero byte when listening, then closed; -1: none */
};

/* Until SIGTERM or SIGINT. 0, or -errno with @err before anything was served. */
int lp_serve_run(const struct lp_serve_conf *conf, struct lp_err *err);

#endif
