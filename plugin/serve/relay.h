/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Relays: checkpoints whose pages are still with a live source (`criu dump
 * --lazy-pages`). The server is the source's one client, drains it once, and
 * serves any number of its own meanwhile and afterwards; what they wait for is
 * asked for first.
 *
 * ROOT/NAME holds what the dump has written. The pages go to ROOT/.live-NAME, a
 * whole checkpoint whose pages files fill up; when all has come it is made
 * durable and takes the place of ROOT/NAME, and only then the source is told
 * that it may end. Both have the same identity, so clients notice nothing.
 *
 * Threads: one a relay, which lives until the server ends, as does the relay.
 */
#ifndef LP_SERVE_RELAY_H
#define LP_SERVE_RELAY_H

#include "live/live.h"
#include "serve/internal.h"

struct relay;

int relays_start(struct server *srv, struct lp_err *err);
/* All of them have ended, or shall end now (srv->leave). */
void relays_stop(struct server *srv);
/* Is some still draining? */
bool relays_busy(struct server *srv);

/* The relay that has @name now, *dir the directory that its pages go to (borrowed); NULL: an ordinary checkpoint. */
struct relay *relay_find(struct server *srv, const char *name, const char **dir);
/* Shall NAME have one? Then its images may lack pages. */
bool server_live(struct server *srv, const char *name);
/* It is to have a relay, which has no source yet. */
bool relay_pending(struct server *srv, const char *name);

/*
 * Has all of [addr, addr + len) of task @obj come? 1; 0: not yet; -EIO: it never
 * will. @want: somebody waits for it: fetch it first.
 */
int relay_has(struct relay *r, uint32_t obj, uint64_t addr, uint64_t len, bool want);
/* The same, sleeping. */
int relay_await(struct relay *r, uint32_t obj, uint64_t addr, uint64_t len, const _Atomic bool *stop);

#endif
