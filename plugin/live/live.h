/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The client of CRIU's page server (doc/protocol.md): fetches the pages that
 * stayed with a source (`criu dump --lazy-pages`, `criu page-server
 * --lazy-pages`) over its one connection and keeps them until they were taken,
 * or for good. Two use it: the daemon's source (plugin/source/criu.c) and the
 * server's relay (plugin/serve/relay.c).
 *
 * The source answers in the order of the requests, so one for a waiting task
 * can be no faster than what was asked for before it. Bulk therefore keeps only
 * as much on its way as the link needs to stay busy.
 *
 * When the connection is lost, what has not come is lost: whatever answered at
 * that address afterwards could be another checkpoint, and the protocol has
 * nothing to tell them apart. What has come can still be taken.
 *
 * Threads: one of its own, from the first demand on. All functions may be
 * called by any thread at once, but for lp_live_close().
 */
#ifndef LP_LIVE_H
#define LP_LIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "net/addr.h"
#include "proto/criu_ps.h"

/* Pages that only the source has. Page aligned. */
struct lp_live_range {
	uint32_t obj;
	int32_t pid; /* of obj in the images: how the source names it */
	uint64_t start, end;
	uint8_t *mem; /* where they go: page aligned, stays until lp_live_close() */
};

struct lp_live_conf {
	struct lp_addr addr;
	struct lp_tls *tls;	  /* borrowed until lp_live_open() returns; NULL, or a UNIX socket: plain */
	enum lp_ps_layout layout; /* not LP_PS_UNKNOWN */
	unsigned timeout_ms;	  /* of connecting; a source that is not there yet is waited for */
	const struct lp_live_range *ranges; /* sorted by obj, then start; disjoint; borrowed until close */
	size_t nranges;
	/*
	 * The relay: fetch everything without being asked, and keep it. Else: fetch ahead of those who take as far as `ahead` bytes,
	 * and keep up to `cache` bytes of what was taken, for children of forks and
	 * fills that were refused; what is wanted once more after that is asked for
	 * once more (a source drops nothing before the connection ends).
	 */
	bool keep;
	uint64_t ahead, cache;
	/* Called by the thread, with no lock held, when pages have come or the source is lost; or NULL. */
	void (*arrived)(void *arg);
	void *arg;
};

struct lp_live;

/* Connect. -ECONNREFUSED and the like after the time-out. */
int lp_live_open(const struct lp_live_conf *conf, struct lp_live **out, struct lp_err *err);
/* Start the thread now and not with the first demand. */
int lp_live_start(struct lp_live *l);
/*
 * Everything that was needed has come: the source may end. Pages can still be
 * taken. 0, or why it did not take leave.
 */
int lp_live_finish(struct lp_live *l);
/*
 * @ok: everything that was needed has come; tell the source (lp_live_finish()), which ends well.
 * Else break the connection in a way that it takes for a failure: then a `criu
 * dump --lazy-pages` lets its tasks go on. 0, or why the source did not take leave.
 */
int lp_live_close(struct lp_live *l, bool ok);

/* Is all of [addr, addr + len) here? False where no range is. */
bool lp_live_has(struct lp_live *l, uint32_t obj, uint64_t addr, uint64_t len);
/* Copy without sleeping: -EAGAIN if not all of it is here. */
int lp_live_copy(struct lp_live *l, uint32_t obj, uint64_t addr, void *buf, uint64_t len);
/* Ask before everything else, and wait. -ETIMEDOUT, or what lp_live_lost() says. */
int lp_live_read(struct lp_live *l, uint32_t obj, uint64_t addr, void *buf, uint64_t len, unsigned ms);
/* The same without waiting. -ENODATA where no range is. */
int lp_live_want(struct lp_live *l, uint32_t obj, uint64_t addr, uint64_t len);

/* A run of pages that stays while it is pinned. */
struct lp_live_pin {
	const uint8_t *bytes;
	uint64_t len;
	size_t block;
};

/* Bulk: at least the page at @addr, as much after it (at most @want) as lies together. */
int lp_live_pin(struct lp_live *l, uint32_t obj, uint64_t addr, uint64_t want, unsigned ms, struct lp_live_pin *pin);
void lp_live_unpin(struct lp_live *l, struct lp_live_pin *pin);

/* 0, or why the source is lost. */
int lp_live_lost(struct lp_live *l);
/* Bytes that have never come; 0: keep mode has all of it. */
uint64_t lp_live_left(struct lp_live *l);
/* Bytes received; requests sent. */
void lp_live_stats(struct lp_live *l, uint64_t *bytes, uint64_t *requests);

#endif
