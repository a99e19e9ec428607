/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A trace once more: what went into the engine is given to an engine of this
 * program, and what comes out is compared with what came out then. Pure.
 */
#ifndef LP_TRACE_REPLAY_H
#define LP_TRACE_REPLAY_H

#include "trace/record.h"

struct lp_replay;

struct lp_replay_stats {
	uint64_t calls;	   /* of the engine */
	uint64_t compared; /* answers of it, pieces of flights and places of fills */
	uint64_t spaces, flights;
};

/* What lp_replay_step() says beside 0 (the same as then) and -errno. */
#define LP_REPLAY_DIFFERS 1
/* The daemon had no memory there; what its engine did about it cannot be had again. */
#define LP_REPLAY_NO_MEMORY 2

/* NULL: no memory. */
struct lp_replay *lp_replay_new(void);
/* Any state of things may be left. */
void lp_replay_free(struct lp_replay *p);
/*
 * The next record. -EINVAL: no daemon can have written it here; -ENOMEM. With
 * anything but 0 @why tells in one line. To go on then is safe, but shows only
 * what comes of it.
 */
int lp_replay_step(struct lp_replay *p, const struct lp_rec *r, char *why, size_t len);
void lp_replay_stats(const struct lp_replay *p, struct lp_replay_stats *s);

#endif
