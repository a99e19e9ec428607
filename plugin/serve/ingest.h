/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Checkpoints that are being received: DIR/.incoming-NAME until all is there,
 * which no name of a checkpoint can be. CRIU brings pages (ps_put.c), `lazypages
 * push` the rest (push.c) and the word that this was all; then everything is
 * checked, made durable, and renamed.
 *
 * What CRIU brings is in DIR/.receiving-NAME until it has brought all of it. The
 * tasks end then, so nobody else has their memory: it stays until it is pushed,
 * or another dump of that name is as complete.
 *
 * Of one name one thing at a time is received; whoever holds an ingest owns
 * that directory.
 */
#ifndef LP_SERVE_INGEST_H
#define LP_SERVE_INGEST_H

#include "serve/ps.h"

struct ingest {
	struct ingest *next;
	char name[LP_CKPT_NAME_MAX + 1];
	char dir[LP_CKPT_NAME_MAX + 16]; /* in --ingest */
	int dirfd;
	uint64_t left; /* bytes that may still come (--ingest-limit) */
	bool keep;     /* what is there stays when this ends */
};

/*
 * @fresh: CRIU's pages come; else go on with those that it has brought completely,
 * or begin. -EBUSY, -EROFS (the server takes nothing), ...
 */
int ingest_begin(struct server *srv, const char *name, bool fresh, struct ingest **out, struct lp_err *err);
/* A file of the directory for writing, created if need be. @name was checked (lp_file_name_ok()). */
int ingest_open(struct ingest *in, const char *name, bool fresh, struct lp_err *err);
/* Room for @n bytes more? -EFBIG. */
int ingest_take(struct ingest *in, uint64_t n, struct lp_err *err);
/* CRIU's part is complete: durable, and kept for the push. */
int ingest_pages_done(struct server *srv, struct ingest *in, struct lp_err *err);
/* All is there: check it, and serve it from now on. */
int ingest_seal(struct server *srv, struct ingest *in, bool replace, struct lp_err *err);
/* Remove what was not kept, forget it. */
void ingest_end(struct server *srv, struct ingest *in);

/*
 * ps_put.c: `criu dump --page-server` as @name, up to its CLOSE. The caller answers
 * that: CRIU may end the tasks then, so all is on the disk, and its user may push
 * the rest at once.
 */
int ps_receive(struct ps *s, struct server *srv, const char *name, struct lp_err *err);
/* push.c: a client has sent PUSH: takes the connection. */
void push_start(struct conn *c);

#endif
