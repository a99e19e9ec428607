/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the engine share. Functions are grouped by the file that
 * defines them. The engine owns spaces; a space owns its maps, its list of
 * outstanding faults and the list (not the memory) of its flights, which
 * belong to whoever claimed them until lp_flight_finish().
 */
#ifndef LP_ENGINE_INTERNAL_H
#define LP_ENGINE_INTERNAL_H

#include "engine/engine.h"
#include "engine/map.h"

/*
 * A generation of the layout that newer mappings have displaced although the
 * event that ends it was not read yet. Events of different threads may be read
 * in another order than the changes were made: munmap(X) in one thread, mremap
 * onto X in another, and the REMAP is read first. The older generation waits
 * here for its own event, so that the late UNMAP does not hit the newer one.
 */
struct lp_layer {
	struct lp_layer *older;
	struct lp_map extents, missing, wiped;
};

struct lp_waiter {
	uint64_t addr;
	const struct lp_flight *flight; /* whose end answers it, or NULL */
	bool deferred;
};

struct lp_space {
	struct lp_engine *engine;
	struct lp_space *next, *prev; /* ring of all spaces, see sched.c */
	void *host;

	struct lp_map missing; /* unclaimed */
	struct lp_map extents; /* registered; img and obj mean nothing */
	struct lp_map wiped;   /* MADV_WIPEONFORK; img and obj mean nothing */
	struct lp_layer *layers; /* newest first */

	struct lp_flight *flights;
	size_t nflights;

	struct lp_waiter *waiters; /* pages that threads wait for */
	size_t nwaiters, cap_waiters, ndeferred;
	uint64_t *wakes;
	size_t nwakes, cap_wakes;

	uint64_t cursor;	/* where bulk goes on */
	uint64_t seq_next;	/* the page after the last fault's flight */
	uint64_t seq_len;	/* how far readahead has grown */
	uint64_t stalled_until;
	unsigned generation;	/* 0: a task of the checkpoint, else a child of a fork */
	bool dead, broken;
};

struct lp_flight {
	struct lp_space *space;
	struct lp_flight *next, *prev;
	uint64_t fault_addr;
	bool urgent;
	uint32_t head, n, cap;
	struct lp_piece *pieces;
};

struct lp_engine {
	struct lp_pool pool;
	uint64_t page;
	struct lp_space *ring; /* any space, or NULL */
	struct lp_space *turn; /* whose turn it is in the background */
	struct lp_space *hot;  /* where the last fault was, or NULL */
};

/* flight.c */
int flight_new(struct lp_space *s, unsigned cap, struct lp_flight **out);
void flight_push(struct lp_flight *f, uint64_t addr, uint64_t len, uint64_t img, uint32_t obj);
/* Room for one more piece in each flight of @s, so that flights_cut() cannot fail. */
int flights_reserve(struct lp_space *s);
/* Take [start, end) out of all flights of @s, into @out when not NULL. */
int flights_cut(struct lp_space *s, uint64_t start, uint64_t end, struct lp_map *out);
struct lp_flight *flights_find(const struct lp_space *s, uint64_t addr, struct lp_piece *piece);
void flights_drop_all(struct lp_space *s);

/* fault.c */
int waiters_reserve(struct lp_space *s);
/* Urgent flight @f ends: defer those who wait for what it did not fill, forget the others. */
void waiters_flight_ends(struct lp_space *s, const struct lp_flight *f);
/* Threads that wait in [start, end) must look again. */
void waiters_wake(struct lp_space *s, uint64_t start, uint64_t end);

/* sched.c */
void ring_add(struct lp_space *s);
void ring_del(struct lp_space *s);

#endif
