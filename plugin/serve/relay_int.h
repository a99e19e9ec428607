/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared between relay.c and relay_dir.c only. */
#ifndef LP_SERVE_RELAY_INT_H
#define LP_SERVE_RELAY_INT_H

#include "serve/relay.h"

struct relay {
	struct server *srv;
	const struct lp_serve_live *conf;
	pthread_t thread;
	_Atomic int state;
	/* Set by the thread before it is DRAINING; they stay until the end. */
	char *from, *dir; /* ROOT/NAME, ROOT/.live-NAME */
	struct lp_images *thin, *full;
	uint8_t **maps; /* one a pages file of full, for writing */
	struct lp_live_range *ranges;
	size_t nranges;
	struct lp_live *live;
};

/* r->dir: a whole checkpoint like r->thin, with room for the pages that are not there yet. */
int relay_make_dir(struct relay *r, struct lp_err *err);
/* All has come: durable, and in the place of r->from. */
int relay_settle_dir(struct relay *r, struct lp_err *err);

#endif
