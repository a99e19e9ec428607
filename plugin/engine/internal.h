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

/* What lies where in an address space. Cheap to copy: the maps are persistent. */
struct lp_view {
	struct lp_map extents; /* registered; img and obj mean nothing */
	struct lp_map missing; /* not in the task; in a space's own view: and not claimed */
	struct lp_map wiped;   /* what children lack; obj: WIPED, DONTFORK or both */
};

enum { WIPED = 1, DONTFORK = 2 };

enum lp_msg_kind { MSG_REMAP, MSG_UNMAP, MSG_REMOVE, MSG_FORK };

/* A message that was read since the last settled moment, see epoch.c. */
struct lp_msg {
	enum lp_msg_kind kind;
	bool vacates;		/* REMAP: an UNMAP of the old place belongs to it ... */
	bool part;		/* ... and this is that UNMAP */
	bool ghosts;		/* its space may lack some of what we know of */
	bool grown;		/* REMAP: nothing that we knew of was at the old place */
	uint64_t from, to, len; /* to: of REMAP */
	uint64_t told;		/* REMAP: the length that the message tells, see log_pair() */
	uint64_t call;		/* of the change in the book, or 0: the number of a REMOVE, the name of FORK's child */
	struct lp_space *child; /* of FORK; NULL: has ended */
};

/* Was something registered there in a young child when its kernel was asked? */
struct lp_fact {
	uint64_t addr;
	/*
	 * 0: of a page; JOINED: is the page in front in the same mapping? Else of an
	 * UNMAP: is all of it, and a page on either side, one mapping?
	 */
	uint64_t len;
#define JOINED 1
	bool there;
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

	/* At the last settled moment, but for what was filled and claimed since, and removed where nothing is named. */
	struct lp_view v;

	struct lp_msg *log; /* read since, in that order */
	size_t nlog, cap_log;
	struct lp_map named; /* places that messages in the log are about; img and obj mean nothing */
	bool forked;	     /* there is a FORK in the log */

	/* The kernel's order, see book.c; 0: there is none. */
	uint64_t book_name;
	struct lp_change *book; /* entered since the last settled moment */
	size_t nbook, cap_book;
	bool book_lost; /* some of them were not */
	bool guarded;	/* there is a GUARD in the book */
	bool vague;	/* something was guessed or not entered: more may be registered than we know of */
	uint64_t call;	/* of the REMOVE that comes next */

	/* Of a young child: */
	struct lp_space *parent;
	struct lp_fact *facts;
	size_t nfacts, cap_facts;
	bool asked;	      /* for all that its parent had at its last settled moment */
	bool due;	      /* not so, it was changing its layout: its own settled moment shall tell (young or not) */
	struct lp_map ghosts; /* places of its parent's that its kernel does not have */

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
	bool ending; /* lp_space_exit(): no message will come any more */
};

struct lp_flight {
	struct lp_space *space;
	struct lp_flight *next, *prev;
	uint64_t fault_addr;
	uint64_t id;
	bool urgent;
	uint32_t head, n, cap;
	struct lp_piece *pieces;
};

struct lp_engine {
	struct lp_pool pool;
	uint64_t page;
	uint64_t nflights; /* claimed so far */
	int (*there)(void *host, uint64_t start, uint64_t len);
	bool old_shrink;
	uint64_t booked, guessed; /* settled moments */
	struct lp_space *ring; /* any space, or NULL */
	struct lp_space *turn; /* whose turn it is in the background */
	struct lp_space *hot;  /* where the last fault was, or NULL */
};

/* flight.c */
int flight_new(struct lp_space *s, unsigned cap, struct lp_flight **out);
void flight_push(struct lp_flight *f, uint64_t addr, uint64_t len, uint64_t img, uint32_t obj);
/* Room for two more pieces in each flight of @s, so that flights_cut() cannot fail twice. */
int flights_reserve(struct lp_space *s);
int flight_reserve(struct lp_flight *f);
/* Take [start, end) out of all flights of @s. */
void flights_cut(struct lp_space *s, uint64_t start, uint64_t end);
void flight_cut(struct lp_flight *f, uint64_t start, uint64_t end);
/* How many pieces of flights of @s lie in [start, end), or partly. */
unsigned flights_count(const struct lp_space *s, uint64_t start, uint64_t end);
/* What flights of @s have in [start, end) is missing again. For what flights_count() says, and flights, is reserved. */
void flights_return(struct lp_space *s, uint64_t start, uint64_t end);
struct lp_flight *flights_find(const struct lp_space *s, uint64_t addr, struct lp_piece *piece);
bool flight_find(const struct lp_flight *f, uint64_t addr, struct lp_piece *piece);
void flights_drop_all(struct lp_space *s);

/* Messages wait for a settled moment, or questions do. */
static inline bool in_epoch(const struct lp_space *s)
{
	return s->nlog || s->due || s->guarded;
}

/*
 * Nothing of it may be filled. Because of a FORK in the log: what is filled after
 * it the child does not inherit, so it would have to be told for each child. Because
 * of a GUARD in the book: no message names its place.
 */
static inline bool frozen(const struct lp_space *s)
{
	return s->due || s->parent || s->forked || s->guarded;
}

/* view.c: -ENOMEM leaves a view half changed. */
/* @dst must be empty. */
void view_clone(struct lp_view *dst, const struct lp_view *src);
void view_clear(struct lp_pool *pool, struct lp_view *v);
int view_add_extent(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end);
int view_unmap(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end);
/* @vacates: the old place is gone; else (MREMAP_DONTUNMAP) it reads as zeros. */
int view_remap(struct lp_pool *pool, struct lp_view *v, uint64_t from, uint64_t to, uint64_t len, bool vacates);
/* Set the bits @set of what children lack in [start, end), and clear @clear. */
int view_mark(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end, uint32_t set, uint32_t clear);
/* The mapping in front of @start has grown up to @end: that reads as zeros. */
int view_grow(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end);
int view_inherit(struct lp_pool *pool, struct lp_view *v);

/* The kernel of a child has something where nothing should be; or it has grown there. The others are in epoch.c. */
#define COST_THERE 100
#define COST_GREW 10
/* It has nothing where something should be: that may be MADV_DONTFORK. */
#define COST_ABSENT 20

static inline bool overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
	return a < b + blen && b < a + alen;
}

/* log.c */
/* Nobody settles: then what was read is put in order without. */
#define LOG_MAX 256
/* Room for one more message. */
int log_reserve(struct lp_space *s);
int log_add(struct lp_space *s, const struct lp_msg *m);
/*
 * Which UNMAP belongs to which REMAP? @ghosts: the space may lack some of what is
 * known of it. @old_shrink: as in struct lp_engine_conf.
 */
void log_pair(struct lp_msg *log, size_t n, bool ghosts, bool old_shrink);
void log_unpair(struct lp_msg *log, size_t n);

/* epoch.c */
#define LP_POINTS 16
/* Put the log in order and apply it. @force: although this is no settled moment. On failure nothing has changed. */
int epoch_end(struct lp_space *s, bool force);
int apply_msg(struct lp_pool *pool, struct lp_view *v, const struct lp_msg *m);
/* How unlikely is @m as the next change of @v? 0: nothing speaks against it. */
unsigned msg_violation(const struct lp_view *v, const struct lp_msg *m);
unsigned msg_points(const struct lp_space *s, const struct lp_msg *m, uint64_t *at);
/* Ask the kernel of @s, if it was not asked before; there is room for the answer. 0 or -EAGAIN. */
int fact_ask(const struct lp_space *s, uint64_t addr, struct lp_fact *facts, size_t *n);

/* book.c */
/*
 * Does the book of @s explain its log? Then *@explained, and @out and the views of
 * the children in the log are filled in. @base: what the space had at the last
 * settled moment; @claimed: the same, and what was in flight.
 */
int book_explain(struct lp_space *s, const struct lp_view *base, const struct lp_view *claimed, struct lp_view *out,
		 bool *explained);
/* May a change that was entered be newer than REMOVE of [start, end), or older, and does that matter? */
bool book_touches(const struct lp_space *s, uint64_t start, uint64_t end);
/* All that was entered is dealt with, or of no use any more. */
void book_close(struct lp_space *s);
/*
 * The order is a guess: @seq of @n messages leads from @base to *@out. The same with
 * what guard pages have taken away, each before the first message that was read after
 * it was entered; in the views of children, too, what was before their fork. -ENOMEM
 * leaves those half changed.
 */
int book_guess_guards(struct lp_space *s, const uint16_t *seq, size_t n, const struct lp_view *base, struct lp_view *out);
/* Who waits there looks again. Cannot fail: waiters_reserve(). */
void book_guards_wake(struct lp_space *s);

/* young.c */
/* FORK was read: ask the kernel of the new child @c about everything in the log, and for its mappings. */
int young_born(struct lp_space *s, struct lp_space *c);
/* Ask the kernels of all young children of @s about @m, which was just read. */
int young_ask_all(struct lp_space *s, const struct lp_msg *m);
/* Fill in the view of the child of message @at, given the parent's @base and the order of its messages. */
int young_choose(struct lp_space *s, size_t at, const struct lp_view *base, const uint16_t *seq, size_t n);
/* Take out of @v what the kernel of @c, which is settled, does not have. */
int young_catch_up(struct lp_space *c, struct lp_view *v);
/* It is young no more. */
void young_leave(struct lp_space *c);
/* It has ended: its parent shall forget it. */
void young_orphan(struct lp_space *c);

/* fault.c */
int waiters_reserve(struct lp_space *s);
/* Urgent flight @f ends: defer those who wait for what it did not fill, forget the others. */
void waiters_flight_ends(struct lp_space *s, const struct lp_flight *f);
/* Defer those who wait in [start, end) for a flight. */
void waiters_return(struct lp_space *s, uint64_t start, uint64_t end);
/* Threads that wait in [start, end) must look again. */
void waiters_wake(struct lp_space *s, uint64_t start, uint64_t end);

/* sched.c */
void ring_add(struct lp_space *s);
void ring_del(struct lp_space *s);

#endif
