/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared between the files of plugin/live only. pages.c: what is here, what is
 * on its way, who waits. wire.c: the connection and its thread.
 *
 * Pages are numbered through all ranges. One lock, never held while anything
 * sleeps; the thread writes into pages that are marked as asked for without it,
 * which nobody else touches.
 */
#ifndef LP_LIVE_INTERNAL_H
#define LP_LIVE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "base/size.h"
#include "live/live.h"
#include "net/stream.h"

#define PAGE UINT64_C(4096)
/* Pages of a block: what is pinned, and given back, together. */
#define BLOCK_PAGES 256
/* Requests without an answer. */
#define SENT_MAX 64
/* One bulk request; the short one while tasks wait for pages. */
#define CHUNK_PAGES 64
#define CHUNK_PAGES_FAULTS 16
#define FAULTS_RECENT_NS UINT64_C(5000000)
/* Bytes on their way for bulk, at most. */
#define WINDOW_MAX (UINT64_C(8) << 20)

struct request {
	size_t page;
	uint64_t n;
	bool bulk;
	uint64_t since;
};

/* Somebody who waits for a run of pages. */
struct waiter {
	struct waiter *next;
	size_t page, n;
	bool urgent;
};

struct lp_live {
	struct lp_live_conf conf;
	size_t *first;	/* number of the first page of each range; one more at the end */
	size_t npages;
	pthread_mutex_t lock;
	pthread_cond_t came; /* on CLOCK_MONOTONIC */
	uint64_t *have, *asked, *taken, *seen; /* bitmaps; seen: has come once */
	uint16_t *pins;	     /* of each block */
	size_t nhave, nseen, cursor;
	size_t nfresh; /* here and never taken */
	size_t hand;   /* the block to look at next for something to give back */
	struct waiter *waiters;
	bool started, closing, said_close;
	bool all_asked; /* nothing is left to fetch ahead */
	_Atomic bool broken; /* end the thread at once */
	int lost;
	pthread_t thread;

	/* wire.c */
	struct lp_stream s;
	struct request sent[SENT_MAX];
	unsigned sent_head, nsent;
	uint64_t bulk_out; /* bytes asked for in bulk and not received */
	uint8_t out[(SENT_MAX + 1) * LP_PS_MAX]; /* what the socket did not take at once */
	size_t nout;
	uint64_t last_urgent;
	uint64_t rtt, rate; /* ns at best; bytes a second lately */
	uint64_t last_done;
	uint64_t bytes, requests;
	char name[300];
};

static inline bool bit(const uint64_t *map, size_t i)
{
	return map[i / 64] >> (i % 64) & 1;
}

static inline void set_bit(uint64_t *map, size_t i)
{
	map[i / 64] |= UINT64_C(1) << (i % 64);
}

static inline void clear_bit(uint64_t *map, size_t i)
{
	map[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

/* ---- pages.c; the lock is held ---- */

/* The range with page @page. */
size_t live_range_of(const struct lp_live *l, size_t page);
uint8_t *live_mem(const struct lp_live *l, size_t page);
/* Pages [page, page + n) have come. */
void live_came(struct lp_live *l, size_t page, size_t n);
/*
 * The next run to ask for, within one range and at most @max pages: what urgent
 * waiters need, or with @bulk what bulk needs or will need. False: nothing.
 */
bool live_next(struct lp_live *l, bool bulk, size_t max, size_t *page, size_t *n);

/* ---- wire.c ---- */

/* Connect, and ask for the first page: a peer that is not what it was taken for shows before any task runs. */
int live_connect(struct lp_live *l, struct lp_err *err);
/* Send what is to be sent now; the lock is held. */
void live_pump(struct lp_live *l);
void *live_main(void *arg);

#endif
