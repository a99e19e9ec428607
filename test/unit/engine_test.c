/* SPDX-License-Identifier: GPL-2.0-only */
/* The engine's layout messages: what they mean once they are put in order, for what is missing and for children. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "test/unit/engine_world.h"

static void test_basics(void **state)
{
	struct world *w = *state;

	assert_ptr_equal(lp_space_host(w->s), &w->k[0]);
	assert_int_equal(lp_space_missing(w->s), 24 * PG);
	assert_true(registered(w->s, 47, 60));
	assert_false(registered(w->s, 48, 60));
	assert_false(lp_space_complete(w->s));
	assert_false(lp_space_unsettled(w->s));
	assert_int_equal(lp_space_settled(w->s), 0);
	sees(w->s, 15, -1);
	sees(w->s, 16, 0);
	sees(w->s, 39, 23);
	sees(w->s, 40, -1);
}

/* Until a settled moment nothing is done where messages are about, nothing is claimed and nobody is answered there. */
static void test_unsettled(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 6 * PG), *g, *u;
	enum lp_verdict v;
	uint64_t a;

	remap(w->s, 20, 100, 4);
	assert_true(lp_space_unsettled(w->s));
	assert_true(lp_space_doubtful(w->s, 20 * PG));
	assert_true(lp_space_doubtful(w->s, 103 * PG));
	assert_false(lp_space_doubtful(w->s, 24 * PG));
	assert_int_equal(lp_flight_head(f)->addr, 16 * PG);
	assert_int_equal(lp_flight_left(f), 4 * PG); /* what moves is missing again */
	assert_true(registered(w->s, 20, 24));
	assert_true(registered(w->s, 100, 104)); /* either may be */
	fault(w->s, 100, LP_LATER);
	assert_int_equal(lp_space_defer(w->s, 100 * PG), 0);
	assert_int_equal(lp_space_fault(w->s, 30 * PG, PG, &v, &u), 0); /* no message is about it */
	assert_int_equal(v, LP_FILL);
	g = next(w, 2 * PG); /* likewise */
	assert_int_equal(lp_flight_head(g)->addr, 31 * PG);
	unmap(w->s, 20, 24);
	assert_false(lp_space_next_wake(w->s, &a));
	assert_false(lp_space_complete(w->s));

	settle(w->s);
	assert_int_equal(w->k[0].asked, 0); /* nothing spoke against the order of reading */
	sees(w->s, 100, 4);
	sees(w->s, 103, 7);
	sees(w->s, 20, -1);
	assert_false(registered(w->s, 20, 24));
	assert_true(registered(w->s, 100, 104));
	assert_int_equal(lp_space_missing(w->s), 17 * PG);
	assert_true(lp_space_next_wake(w->s, &a)); /* looks again */
	assert_int_equal(a, 100 * PG);
	assert_false(lp_space_next_wake(w->s, &a));
	assert_int_equal(lp_flight_head(u)->addr, 30 * PG); /* flights go on */
	fill(u);
	assert_int_equal(lp_flight_head(f)->addr, 16 * PG);
	assert_int_equal(lp_flight_finish(f), 0);
	assert_int_equal(lp_flight_finish(g), 0);
	assert_int_equal(lp_space_missing(w->s), 23 * PG);
}

static void test_there_and_back(void **state)
{
	struct world *w = *state;

	remap(w->s, 20, 100, 4);
	unmap(w->s, 20, 24);
	remap(w->s, 100, 20, 4);
	unmap(w->s, 100, 104);
	settle(w->s);
	sees(w->s, 20, 4);
	sees(w->s, 23, 7);
	sees(w->s, 100, -1);
	assert_false(registered(w->s, 100, 104));
	assert_int_equal(lp_space_missing(w->s), 24 * PG);
}

/* MREMAP_DONTUNMAP: the old range stays and reads as zeros; it may be moved again. */
static void test_dontunmap(void **state)
{
	struct world *w = *state;
	uint64_t a;

	remap(w->s, 20, 100, 4);
	settle(w->s);
	sees(w->s, 20, -1);
	sees(w->s, 100, 4);
	assert_true(registered(w->s, 20, 24));
	assert_true(lp_space_next_deferred(w->s, &a)); /* its first page is wanted at once */
	assert_int_equal(a, 20 * PG);
	fault(w->s, 20, LP_ZERO);
	lp_space_answered(w->s, 20 * PG);
	remap(w->s, 20, 200, 4);
	unmap(w->s, 20, 24);
	settle(w->s);
	sees(w->s, 200, -1);
	assert_true(registered(w->s, 200, 204));
	assert_false(registered(w->s, 20, 24));
	sees(w->s, 103, 7);
}

/* The same in one go: the UNMAP belongs to the later of the two moves. */
static void test_dontunmap_at_once(void **state)
{
	struct world *w = *state;

	remap(w->s, 20, 100, 4);
	remap(w->s, 20, 200, 4);
	unmap(w->s, 20, 24);
	settle(w->s);
	sees(w->s, 100, 4);
	sees(w->s, 103, 7);
	sees(w->s, 200, -1);
	assert_true(registered(w->s, 200, 204));
	assert_false(registered(w->s, 20, 24));
}

/* MREMAP_FIXED onto a missing range: UNMAP of it, REMAP, UNMAP of the old one. */
static void test_fixed(void **state)
{
	struct world *w = *state;

	unmap(w->s, 30, 34);
	remap(w->s, 16, 30, 4);
	unmap(w->s, 16, 20);
	settle(w->s);
	assert_int_equal(w->k[0].asked, 0);
	sees(w->s, 30, 0);
	sees(w->s, 33, 3);
	sees(w->s, 34, 18);
	sees(w->s, 29, 13);
	sees(w->s, 16, -1);
}

/* Before Linux 6.16 REMAP of a shrinking move tells the old length, and the rest is unmapped by itself. */
static void test_old_shrink(void **state)
{
	struct world *w = *state;

	remap(w->s, 16, 100, 8);
	unmap(w->s, 20, 24);
	unmap(w->s, 16, 20);
	settle(w->s);
	sees(w->s, 100, 0);
	sees(w->s, 103, 3);
	sees(w->s, 104, -1);
	assert_false(registered(w->s, 104, 108));
	assert_false(registered(w->s, 16, 24));
	assert_int_equal(lp_space_missing(w->s), 20 * PG);
}

/* One thread's munmap, another's mremap onto the same place; the UNMAP is read last. */
static void test_late_unmap(void **state)
{
	struct world *w = *state;

	remap(w->s, 16, 30, 4);
	unmap(w->s, 30, 34);
	unmap(w->s, 16, 20);
	has(&w->k[0], "20-48");
	settle(w->s);
	sees(w->s, 30, 0);
	sees(w->s, 33, 3);
	assert_true(registered(w->s, 30, 34));
	assert_false(registered(w->s, 16, 20));
	unmap(w->s, 30, 34); /* now the new one */
	settle(w->s);
	sees(w->s, 30, -1);
	assert_false(registered(w->s, 30, 34));
}

/*
 * Was something moved to a free place before the munmap of that place or after?
 * Messages are the same; the kernel is asked. It may be too late to ask.
 */
static void late_or_not(struct world *w, bool late)
{
	remap(w->s, 16, 50, 4);
	unmap(w->s, 16, 20);
	unmap(w->s, 46, 54); /* some of it was known, some a plain mapping */
	fault(w->s, 50, LP_LATER);
	assert_int_equal(lp_space_defer(w->s, 50 * PG), 0);
	w->k[0].busy = true;
	assert_int_equal(lp_space_settled(w->s), -EAGAIN);
	assert_true(lp_space_unsettled(w->s));
	fault(w->s, 50, LP_LATER);
	assert_int_equal(lp_space_defer(w->s, 50 * PG), 0);
	has(&w->k[0], late ? "20-46 50-54" : "20-46");
	settle(w->s);
	sees(w->s, 50, late ? 0 : -1);
	sees(w->s, 53, late ? 3 : -1);
	assert_int_equal(registered(w->s, 50, 54), late);
	assert_false(registered(w->s, 46, 50));
}

static void test_plain_late(void **state)
{
	late_or_not(*state, true);
}

static void test_plain_not_late(void **state)
{
	late_or_not(*state, false);
}

/* Two moves, the later one is read first. */
static void test_late_remap(void **state)
{
	struct world *w = *state;

	remap(w->s, 16, 30, 4);  /* second */
	remap(w->s, 30, 100, 4); /* first */
	unmap(w->s, 30, 34);
	unmap(w->s, 16, 20);
	has(&w->k[0], "20-48 100-104");
	settle(w->s);
	sees(w->s, 100, 14);
	sees(w->s, 103, 17);
	sees(w->s, 30, 0);
	sees(w->s, 33, 3);
	sees(w->s, 16, -1);
}

/* Each move makes room for the one that was read before it. */
static void test_chain(void **state)
{
	struct world *w = *state;

	remap(w->s, 16, 24, 4);	 /* third */
	remap(w->s, 24, 32, 4);	 /* second */
	remap(w->s, 32, 100, 4); /* first */
	unmap(w->s, 16, 20);
	unmap(w->s, 32, 36);
	unmap(w->s, 24, 28);
	has(&w->k[0], "20-48 100-104");
	settle(w->s);
	sees(w->s, 24, 0);
	sees(w->s, 32, 8);
	sees(w->s, 100, 16);
	sees(w->s, 103, 19);
	sees(w->s, 36, 20);
	assert_false(registered(w->s, 16, 20));
}

/* Moved twice; the second move is read first, when nothing is where it came from. */
static void test_moved_on(void **state)
{
	struct world *w = *state;

	remap(w->s, 100, 200, 4);
	remap(w->s, 16, 100, 4);
	unmap(w->s, 16, 20);
	unmap(w->s, 100, 104);
	has(&w->k[0], "20-48 200-204");
	settle(w->s);
	sees(w->s, 200, 0);
	sees(w->s, 203, 3);
	assert_false(registered(w->s, 100, 104));
}

/* At once when all is settled, in the order of reading else. */
static void test_remove(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 4 * PG);

	lp_flight_advance(f, PG);
	assert_int_equal(lp_space_remove(w->s, 17 * PG, 30 * PG), 0);
	assert_false(lp_space_unsettled(w->s));
	assert_null(lp_flight_head(f));
	assert_int_equal(lp_flight_finish(f), 0);
	sees(w->s, 17, -1);
	sees(w->s, 30, 14);
	assert_true(registered(w->s, 17, 18));
	assert_int_equal(lp_space_remove(w->s, 30 * PG, 30 * PG), 0);
	sees(w->s, 30, 14);

	remap(w->s, 30, 100, 4);
	assert_int_equal(lp_space_remove(w->s, 101 * PG, 103 * PG), 0);
	assert_int_equal(lp_space_remove(w->s, 38 * PG, 39 * PG), 0);
	unmap(w->s, 30, 34);
	settle(w->s);
	sees(w->s, 100, 14);
	sees(w->s, 101, -1);
	sees(w->s, 102, -1);
	sees(w->s, 103, 17);
	sees(w->s, 37, 21);
	sees(w->s, 38, -1);
}

static void test_fork(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 4 * PG), *g;
	struct lp_space *c, *gc;
	uint64_t when;

	lp_flight_advance(f, PG);
	c = fork_of(w, w->s, 1, "16-48");
	assert_int_equal(lp_space_missing(c), 0); /* holds nothing yet, and yet: */
	assert_false(lp_space_complete(c));
	fault(c, 17, LP_LATER);
	assert_int_equal(lp_space_defer(c, 17 * PG), 0);
	assert_int_equal(lp_space_settled(c), 0); /* not for it to say */
	assert_true(lp_space_young(c));
	settle(w->s);
	assert_false(lp_space_young(c));
	assert_false(lp_space_unsettled(c));
	assert_true(lp_space_next_deferred(c, &when));
	lp_space_answered(c, when);
	assert_int_equal(lp_flight_finish(f), 0);
	assert_int_equal(lp_space_missing(c), 23 * PG);
	sees(c, 16, -1);
	sees(c, 17, 1); /* although a flight had it */

	remap(c, 17, 60, 1); /* the child's alone */
	unmap(c, 17, 18);
	settle(c);
	sees(w->s, 17, 1);
	sees(w->s, 60, -1);
	sees(c, 60, 1);
	gc = fork_of(w, c, 2, "16-17 18-48 60-61");
	settle(c);
	sees(gc, 60, 1);
	/* Tasks of the checkpoint come first, then children, then theirs. */
	f = next(w, 100 * PG);
	assert_ptr_equal(lp_flight_space(f), w->s);
	g = next(w, 100 * PG);
	assert_ptr_equal(lp_flight_space(g), w->s); /* from the start */
	fill(f);
	fill(g);
	g = next(w, 100 * PG);
	assert_ptr_equal(lp_flight_space(g), c);
	assert_int_equal(lp_flight_finish(g), 0);
	lp_space_exit(c);
	f = next(w, 1000 * PG);
	assert_ptr_equal(lp_flight_space(f), gc);
	lp_space_exit(gc);
	assert_null(lp_flight_head(f));
	assert_int_equal(lp_flight_finish(f), 0);
	assert_int_equal(lp_engine_next(w->e, PG, 1, 0, &f, &when), -EAGAIN);
	lp_space_free(c);
	lp_space_free(gc);
	assert_true(lp_space_complete(w->s));
}

/*
 * A move and a munmap around a fork: the child has those that were made before
 * it, whichever messages were read first. Its kernel tells.
 */
static void young(struct world *w, unsigned read_before, bool moved, bool unmapped)
{
	const char *vmas = moved ? (unmapped ? "20-30 34-48 100-104" : "20-48 100-104") :
				   (unmapped ? "16-30 34-48" : "16-48");
	struct lp_space *c = NULL;
	unsigned i;

	for (i = 0; i < 4; i++) {
		if (i == read_before)
			c = fork_of(w, w->s, 1, vmas);
		if (i == 0)
			remap(w->s, 16, 100, 4);
		else if (i == 1)
			unmap(w->s, 16, 20);
		else if (i == 2)
			unmap(w->s, 30, 34);
	}
	settle(w->s);
	sees(w->s, 100, 0);
	sees(w->s, 16, -1);
	sees(w->s, 30, -1);
	sees(c, 100, moved ? 0 : -1);
	sees(c, 103, moved ? 3 : -1);
	sees(c, 16, moved ? -1 : 0);
	sees(c, 30, unmapped ? -1 : 14);
	sees(c, 34, 18);
	assert_int_equal(registered(c, 16, 20), !moved);
	assert_int_equal(registered(c, 100, 104), moved);
	assert_int_equal(registered(c, 30, 34), !unmapped);
	lp_space_free(c);
}

static void test_young(void **state)
{
	unsigned i;

	for (i = 0; i < 16; i++) {
		void *w;

		assert_int_equal(setup(&w), 0);
		young(w, i / 4, i & 1, i & 2);
		assert_int_equal(teardown(&w), 0);
	}
}

/* Several children of different moments; one of them leaves early. */
static void test_young_many(void **state)
{
	struct world *w = *state;
	struct lp_space *c, *d, *x;

	c = fork_of(w, w->s, 1, "16-48");
	x = fork_of(w, w->s, 3, "16-48");
	remap(w->s, 16, 100, 4);
	d = fork_of(w, w->s, 2, "20-48 100-104");
	unmap(w->s, 16, 20);
	lp_space_free(x); /* young spaces may go at any time */
	settle(w->s);
	sees(c, 16, 0);
	sees(c, 100, -1);
	sees(d, 16, -1);
	sees(d, 100, 0);
	lp_space_free(c);
	lp_space_free(d);
}

/* MADV_WIPEONFORK, told: moves with its pages, what DONTUNMAP leaves keeps it, and so do children. */
static void test_wiped(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 4 * PG);
	struct lp_space *c, *gc;

	assert_int_equal(lp_space_add_wiped(w->s, 18 * PG, 22 * PG), 0);
	remap(w->s, 20, 60, 8);
	unmap(w->s, 20, 28);
	c = fork_of(w, w->s, 1, "16-20 28-48 60-68");
	settle(w->s);
	sees(c, 17, 1);
	sees(c, 18, -1); /* although a flight had it */
	assert_true(registered(c, 18, 20));
	sees(c, 60, -1);
	sees(c, 61, -1);
	sees(c, 62, 6);
	sees(w->s, 60, 4);
	assert_int_equal(lp_flight_finish(f), 0);
	remap(c, 60, 17, 1); /* moved away: no longer in the way */
	remap(c, 62, 60, 1);
	settle(c);
	sees(c, 60, 6);
	gc = fork_of(w, c, 2, "16-20 28-48 60-68");
	settle(c);
	sees(gc, 60, 6);
	sees(gc, 19, -1);
	lp_space_free(gc);
	lp_space_free(c);
}

/* MADV_DONTFORK, told by the images or found out by asking the child's kernel. */
static void dontfork(struct world *w, bool told)
{
	struct lp_space *c;

	if (told)
		assert_int_equal(lp_space_add_dontfork(w->s, 24 * PG, 28 * PG), 0);
	c = fork_of(w, w->s, 1, "16-24 28-48");
	settle(w->s);
	sees(w->s, 24, 8);
	sees(c, 23, 7);
	sees(c, 24, -1);
	sees(c, 28, 12);
	assert_false(registered(c, 24, 28));
	assert_true(registered(c, 16, 24));
	assert_true(registered(c, 28, 48));
	lp_space_free(c);
}

static void test_dontfork(void **state)
{
	dontfork(*state, true);
}

static void test_dontfork_untold(void **state)
{
	dontfork(*state, false);
}

/* What children lack has been moved, before or after the fork: they lack it at either place. */
static void test_dontfork_moved(void **state)
{
	struct world *w = *state;
	struct lp_space *c, *d;

	assert_int_equal(lp_space_add_dontfork(w->s, 24 * PG, 28 * PG), 0);
	remap(w->s, 24, 60, 4);
	unmap(w->s, 24, 28);
	remap(w->s, 36, 70, 4); /* nobody told */
	unmap(w->s, 36, 40);
	c = fork_of(w, w->s, 1, "16-24 28-36 40-48");
	settle(w->s);
	sees(w->s, 60, 8);
	sees(w->s, 70, 20);
	sees(c, 24, -1);
	sees(c, 60, -1);
	sees(c, 36, -1);
	sees(c, 70, -1);
	assert_false(registered(c, 60, 74));
	sees(c, 35, 19);
	d = fork_of(w, w->s, 2, "16-24 28-36 40-48");
	settle(w->s);
	assert_false(registered(d, 60, 74));
	lp_space_free(c);
	lp_space_free(d);
}

/* How much does a FORK ask, @failed: after a settled moment that was none? */
static unsigned fork_asks(bool failed)
{
	struct lp_space *c;
	struct world *w;
	unsigned n;
	void *state;

	assert_int_equal(setup(&state), 0);
	w = state;
	/* Moved onto something: its kernel is asked for the order of these. */
	assert_int_equal(lp_space_remap(w->s, 16 * PG, 24 * PG, 4 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 20 * PG), 0);
	w->k[0].busy = true;
	if (failed)
		assert_int_equal(lp_space_settled(w->s), -EAGAIN);
	assert_true(!failed == !w->k[0].asked);
	has(&w->k[1], "20-48");
	assert_int_equal(lp_space_fork(w->s, &w->k[1], &c), 0);
	n = w->k[1].asked;
	assert_true(n > 2);
	has(&w->k[0], "20-48");
	assert_int_equal(lp_space_settled(w->s), 0);
	lp_space_free(c);
	assert_int_equal(teardown(&state), 0);
	return n;
}

/*
 * Of a settled moment that failed nothing is left: a new worker is not told of
 * it, and must ask what the dead one has asked.
 */
static void test_failed_settled(void **state)
{
	assert_int_equal(fork_asks(true), fork_asks(false));
}

/* A child whose kernel could not be asked, since it changes its layout already: its own settled moment tells. */
static void test_due(void **state)
{
	struct world *w = *state;
	struct lp_space *c = NULL;
	struct lp_flight *f;
	uint64_t when;

	w->k[1].busy = true;
	assert_int_equal(lp_space_fork(w->s, &w->k[1], &c), 0);
	assert_true(lp_space_young(c));
	settle(w->s);
	assert_false(lp_space_young(c));
	assert_true(lp_space_unsettled(c)); /* although no message of its own was read */
	assert_false(lp_space_complete(c));
	fault(c, 30, LP_LATER);
	assert_int_equal(lp_space_settled(c), -EAGAIN);
	lp_space_stall(w->s, LP_NEVER);
	assert_int_equal(lp_engine_next(w->e, PG, 1, 0, &f, &when), -EAGAIN);
	/* It lacks 16..20 (MADV_DONTFORK), and has moved something there. */
	remap(c, 30, 16, 4);
	unmap(c, 30, 34);
	assert_int_equal(lp_space_settled(c), -EAGAIN);
	has(&w->k[1], "16-24 28-30 34-48");
	settle(c);
	sees(c, 16, 14);
	sees(c, 19, 17);
	sees(c, 20, 4);
	sees(c, 24, -1); /* another one that it lacks */
	assert_false(registered(c, 24, 28));
	assert_false(registered(c, 30, 34));
	sees(w->s, 16, 0);
	sees(w->s, 24, 8);
	lp_space_free(c);
}

/* The parent ends before it was settled: its young children go on with what is known. */
static void test_parent_ends(void **state)
{
	struct world *w = *state;
	struct lp_space *c, *d, *x;
	struct lp_flight *f;
	uint64_t when;

	c = fork_of(w, w->s, 1, "20-48 100-104");
	d = fork_of(w, w->s, 2, "16-48");
	x = fork_of(w, w->s, 3, "16-48");
	remap(w->s, 16, 100, 4);
	lp_space_exit(x);
	assert_false(lp_space_young(x));
	assert_true(lp_space_complete(x));
	unmap(w->s, 16, 20);
	w->k[0].busy = true;
	lp_space_exit(w->s);
	assert_false(lp_space_unsettled(w->s));
	assert_false(lp_space_young(c));
	assert_false(lp_space_broken(c));
	sees(c, 100, 0);
	sees(c, 16, -1);
	sees(d, 100, -1);
	sees(d, 16, 0);
	lp_space_free(d);
	assert_int_equal(lp_engine_next(w->e, PG, 1, 0, &f, &when), 0);
	assert_ptr_equal(lp_flight_space(f), c);
	assert_int_equal(lp_flight_head(f)->len, PG);
	assert_int_equal(lp_flight_finish(f), 0);
	lp_space_free(c);
	lp_space_free(x);
}

/* A young child ends after its parent, or is freed after it: neither remembers the other. */
static void test_orphans(void **state)
{
	struct world *w = *state;
	struct lp_space *c = fork_of(w, w->s, 1, "16-48");

	lp_space_free(w->s);
	w->s = NULL;
	assert_false(lp_space_young(c));
	sees(c, 16, 0);
	lp_space_exit(c);
	lp_space_free(c);
}

/* Nobody ever settles: what is remembered is bounded, and nothing is lost. */
static void test_never_settled(void **state)
{
	struct world *w = *state;
	struct lp_space *c = NULL;
	uint64_t at = 16, to;
	unsigned i;

	w->k[0].busy = true;
	for (i = 0; i < 1000; i++) {
		if (i == 500)
			c = fork_of(w, w->s, 1, "16-48");
		to = at == 16 ? 100 : 16;
		remap(w->s, at, to, 4);
		unmap(w->s, at, at + 4);
		at = to;
	}
	assert_true(lp_space_unsettled(w->s));
	assert_false(lp_space_young(c));
	assert_true(lp_engine_nodes(w->e) < 1000);
	has(&w->k[0], "16-48");
	settle(w->s);
	sees(w->s, at, 0);
	sees(w->s, at + 3, 3);
	sees(w->s, 20, 4);
	sees(c, 20, 4);
	lp_space_free(c);
}

static void test_exit(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 4 * PG), *u;
	enum lp_verdict v;
	uint64_t a;

	assert_int_equal(lp_space_fault(w->s, 30 * PG, PG, &v, &u), 0);
	assert_int_equal(v, LP_FILL);
	remap(w->s, 20, 100, 4);
	lp_space_exit(w->s);
	assert_true(lp_space_dead(w->s));
	assert_true(lp_space_complete(w->s));
	assert_false(lp_space_unsettled(w->s));
	assert_null(lp_flight_head(f));
	assert_null(lp_flight_head(u));
	assert_int_equal(lp_space_flights(w->s), 2);
	assert_int_equal(lp_flight_finish(u), 0);
	assert_int_equal(lp_flight_finish(f), 0);
	assert_false(lp_space_next_wake(w->s, &a));
	assert_false(lp_space_has_deferred(w->s));
	/* Late messages mean nothing. */
	remap(w->s, 16, 30, 1);
	unmap(w->s, 16, 30);
	assert_int_equal(lp_space_remove(w->s, 16 * PG, 30 * PG), 0);
	assert_false(lp_space_unsettled(w->s));
	assert_int_equal(lp_space_settled(w->s), 0);
	fault(w->s, 30, LP_ZERO);
	assert_int_equal(lp_engine_nodes(w->e), 0);
}

/* A task asked for what its kernel refuses, and has ended before anybody can tell: that was no change. */
static void refused(struct world *w, unsigned flags)
{
	const struct lp_change onto_itself = { LP_CHANGE_REMAP, LP_REMAP_MAYMOVE | LP_REMAP_DONTUNMAP | flags, 16 * PG,
					       8 * PG, 20 * PG, 8 * PG },
			       fork = { .kind = LP_CHANGE_FORK, .to = 2 };
	struct lp_space *c;

	has(&w->k[0], "16-48");
	has(&w->k[1], "16-48");
	lp_space_book(w->s, 1);
	assert_int_equal(lp_space_changed(w->s, &onto_itself), 0);
	assert_int_equal(lp_space_changed(w->s, &fork), 0);
	assert_int_equal(lp_space_fork(w->s, &w->k[1], &c), 0);
	lp_space_book(c, 2);
	lp_space_exit(w->s);
	lp_space_book_lost(w->s);
	assert_false(lp_space_booked(w->s));
	assert_int_equal(lp_space_missing(c), 24 * PG);
	sees(c, 20, 4);
	sees(c, 27, 11);
	lp_space_free(c);
}

static void test_refused(void **state)
{
	refused(*state, LP_REMAP_FIXED);
}

static void test_refused_wish(void **state)
{
	refused(*state, LP_REMAP_AREA);
}

static void test_huge(void **state)
{
	struct world *w = *state;
	struct lp_flight *f;
	uint64_t top = (UINT64_C(1) << 47) - PG, at;
	uint32_t obj;

	assert_int_equal(lp_space_remove(w->s, 0, 100 * PG), 0);
	assert_int_equal(lp_space_add_extent(w->s, GIB, 9 * GIB), 0);
	assert_int_equal(lp_space_add_missing(w->s, GIB, 9 * GIB, 5 * GIB, 3), 0);
	f = next(w, 6 * GIB);
	assert_int_equal(lp_flight_head(f)->len, 6 * GIB);
	assert_int_equal(lp_space_remap(w->s, GIB, top - 6 * GIB, 6 * GIB), 0);
	settle(w->s);
	assert_null(lp_flight_head(f));
	assert_int_equal(lp_flight_finish(f), 0);
	assert_true(lp_space_peek(w->s, top - PG, &at, &obj));
	assert_int_equal(at, 11 * GIB - PG);
	assert_int_equal(lp_space_missing(w->s), 8 * GIB);
	assert_int_equal(lp_space_unmap(w->s, 0, top - PG), 0);
	settle(w->s);
	assert_int_equal(lp_space_missing(w->s), PG);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_basics),
		T(test_unsettled),
		T(test_there_and_back),
		T(test_dontunmap),
		T(test_dontunmap_at_once),
		T(test_fixed),
		cmocka_unit_test_setup_teardown(test_old_shrink, setup_old, teardown),
		T(test_late_unmap),
		T(test_plain_late),
		T(test_plain_not_late),
		T(test_late_remap),
		T(test_chain),
		T(test_moved_on),
		T(test_remove),
		T(test_fork),
		cmocka_unit_test(test_young),
		T(test_young_many),
		T(test_wiped),
		T(test_dontfork),
		T(test_dontfork_untold),
		T(test_dontfork_moved),
		T(test_due),
		cmocka_unit_test(test_failed_settled),
		T(test_parent_ends),
		T(test_orphans),
		T(test_never_settled),
		T(test_exit),
		T(test_refused),
		T(test_refused_wish),
		T(test_huge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
