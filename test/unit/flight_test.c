/* SPDX-License-Identifier: GPL-2.0-only */
/* Claims and faults: one owner a page, and no waiting thread is forgotten. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/engine.h"

#define PG UINT64_C(0x1000)
#define IMG UINT64_C(0x7000000)

struct world {
	struct lp_engine *e;
	struct lp_space *s;
};

static int setup(void **state)
{
	const struct lp_engine_conf conf = { .page = PG, .seed = 1 };
	struct world *w = calloc(1, sizeof(*w));

	if (!w)
		return -1;
	w->e = lp_engine_new(&conf);
	if (!w->e || lp_space_new(w->e, w, &w->s) || lp_space_add_extent(w->s, 16 * PG, 64 * PG) ||
	    lp_space_add_missing(w->s, 16 * PG, 48 * PG, IMG, 1))
		return -1;
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	int rc;

	lp_space_free(w->s);
	rc = lp_engine_nodes(w->e) ? -1 : 0;
	lp_engine_free(w->e);
	free(w);
	return rc;
}

static struct lp_flight *fault(struct world *w, uint64_t page, uint64_t readahead, enum lp_verdict want)
{
	struct lp_flight *f = NULL;
	enum lp_verdict v;

	assert_int_equal(lp_space_fault(w->s, page * PG, readahead * PG, &v, &f), 0);
	assert_int_equal(v, want);
	if (v == LP_FILL) {
		assert_true(lp_flight_urgent(f));
		assert_int_equal(lp_flight_fault_addr(f), page * PG);
		assert_int_equal(lp_flight_head(f)->addr, page * PG);
		assert_int_equal(lp_flight_head(f)->img, IMG + (page - 16) * PG);
	} else {
		assert_null(f);
	}
	return f;
}

static struct lp_flight *bulk(struct world *w, uint64_t pages)
{
	struct lp_flight *f = NULL;
	uint64_t when;

	assert_int_equal(lp_engine_next(w->e, pages * PG, 64, 0, &f, &when), 0);
	assert_false(lp_flight_urgent(f));
	return f;
}

static void fill(struct lp_flight *f)
{
	const struct lp_piece *p;

	while ((p = lp_flight_head(f)))
		lp_flight_advance(f, p->len);
	assert_int_equal(lp_flight_finish(f), 0);
}

static void expect_deferred(struct world *w, uint64_t page)
{
	uint64_t a = 0;

	assert_true(lp_space_has_deferred(w->s));
	assert_true(lp_space_next_deferred(w->s, &a));
	assert_int_equal(a, page * PG);
}

static void expect_wake(struct world *w, uint64_t page)
{
	uint64_t a = 0;

	assert_true(lp_space_next_wake(w->s, &a));
	assert_int_equal(a, page * PG);
}

static void test_leftovers(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = bulk(w, 8), *g = bulk(w, 8);

	assert_int_equal(lp_flight_head(g)->addr, 24 * PG);
	assert_int_equal(lp_space_missing(w->s), 16 * PG);
	assert_int_equal(lp_space_flights(w->s), 2);
	lp_flight_advance(f, 3 * PG);
	assert_int_equal(lp_flight_finish(f), 0);
	assert_int_equal(lp_space_missing(w->s), 21 * PG);
	fill(g);
	assert_int_equal(lp_space_missing(w->s), 21 * PG);
	fill(bulk(w, 16));
	fill(bulk(w, 100));
	assert_true(lp_space_complete(w->s));
}

static void test_steal(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = bulk(w, 8), *u = fault(w, 20, 4, LP_FILL);

	assert_int_equal(lp_flight_head(u)->len, PG); /* nothing more than the page */
	assert_int_equal(lp_flight_head(f)->len, 4 * PG);
	fault(w, 20, 4, LP_WAIT);
	lp_flight_advance(f, 4 * PG);
	assert_int_equal(lp_flight_head(f)->addr, 21 * PG);
	fill(f);
	fill(u);
	fill(bulk(w, 100));
	assert_true(lp_space_complete(w->s));
}

static struct lp_flight *early(struct world *w, uint64_t page, uint64_t readahead, struct lp_flight *own)
{
	struct lp_flight *f = NULL;

	assert_int_equal(lp_space_early_fault(w->s, page * PG, readahead * PG, own, &f), 0);
	if (f) {
		assert_true(lp_flight_urgent(f));
		assert_int_equal(lp_flight_head(f)->addr, page * PG);
		assert_int_equal(lp_flight_head(f)->img, IMG + (page - 16) * PG);
	}
	return f;
}

/* Told of before its message: out of what is missing and out of the own flight, not out of others. */
static void test_early(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = bulk(w, 8), *g = bulk(w, 8), *u, *v;

	assert_null(early(w, 5, 4, f)); /* nothing there */
	assert_null(early(w, 26, 4, f)); /* of g */
	assert_int_equal(lp_space_flights(w->s), 2);
	assert_false(lp_space_has_deferred(w->s));
	u = early(w, 26, 4, g);
	assert_non_null(u);
	assert_null(early(w, 26, 4, g));
	assert_int_equal(lp_flight_left(g), 7 * PG);
	v = early(w, 40, 4, f);
	assert_non_null(v);
	assert_int_equal(lp_space_missing(w->s), 15 * PG);
	/* Then the message comes. */
	fault(w, 40, 4, LP_WAIT);
	fill(v);
	assert_false(lp_space_has_deferred(w->s));
	fault(w, 40, 4, LP_ZERO); /* what is filled: EEXIST will tell */
	lp_space_answered(w->s, 40 * PG);
	/* What the source does not give: somebody waits if there was a message, and only then. */
	assert_false(lp_flight_awaited(u));
	assert_int_equal(lp_flight_finish(u), 0);
	assert_false(lp_space_has_deferred(w->s));
	u = early(w, 26, 4, f);
	fault(w, 26, 4, LP_WAIT);
	assert_true(lp_flight_awaited(u));
	assert_int_equal(lp_flight_finish(u), 0);
	/* Told of once more, it is deferred no longer. */
	assert_true(lp_space_has_deferred(w->s));
	u = early(w, 26, 4, f);
	assert_true(lp_flight_awaited(u));
	assert_false(lp_space_has_deferred(w->s));
	assert_int_equal(lp_flight_finish(u), 0);
	expect_deferred(w, 26);
	u = fault(w, 26, 4, LP_FILL);
	fill(u);
	fill(f);
	fill(g);
	fill(bulk(w, 100));
	assert_true(lp_space_complete(w->s));
}

/* In doubt, or gone: the message decides. */
static void test_early_in_doubt(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = bulk(w, 8);

	assert_int_equal(lp_space_remap(w->s, 40 * PG, 60 * PG, 2 * PG), 0);
	assert_null(early(w, 40, 4, f));
	assert_null(early(w, 60, 4, f));
	assert_int_equal(lp_space_settled(w->s), 0);
	assert_null(early(w, 40, 4, f));
	fill(f);
}

static uint64_t readahead_at(struct world *w, unsigned page, uint64_t readahead)
{
	struct lp_flight *f = fault(w, page, readahead, LP_FILL);
	uint64_t len = lp_flight_head(f)->len;

	fill(f);
	return len;
}

static void test_readahead(void **state)
{
	struct world *w = *state;
	static const unsigned want[] = { 1, 2, 4, 4 };
	unsigned i, page = 20;

	for (i = 0; i < 4; i++) {
		struct lp_flight *f = fault(w, page, 4, LP_FILL);

		assert_int_equal(lp_flight_head(f)->len, want[i] * PG);
		page += want[i];
		fill(f);
	}
	fill(fault(w, 47, 64, LP_FILL)); /* not beyond its range */
	assert_int_equal(readahead_at(w, 33, 4), PG); /* behind: not in sequence */
	assert_int_equal(readahead_at(w, 37, 4), 2 * PG); /* the background has been there before: still is */
	assert_int_equal(readahead_at(w, 44, 4), PG); /* too far */
	fill(fault(w, 16, 0, LP_FILL));	 /* always the page itself */
}

static void test_zero(void **state)
{
	struct world *w = *state;

	fault(w, 50, 4, LP_ZERO);
	lp_space_answered(w->s, 50 * PG);
	fault(w, 50, 4, LP_ZERO);
	assert_int_equal(lp_space_defer(w->s, 50 * PG), 0);
	expect_deferred(w, 50);
	assert_false(lp_space_has_deferred(w->s));
	fill(bulk(w, 100));
	assert_false(lp_space_complete(w->s)); /* somebody waits for the zeros */
	lp_space_answered(w->s, 50 * PG);
	assert_true(lp_space_complete(w->s));
}

static void test_unfilled_is_deferred(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = fault(w, 30, 1, LP_FILL);

	fault(w, 30, 1, LP_WAIT);
	assert_int_equal(lp_flight_finish(f), 0);
	expect_deferred(w, 30);
	fill(fault(w, 30, 1, LP_FILL));
	assert_false(lp_space_has_deferred(w->s));
}

/* A second thread waits for a page that the flight holds as readahead. */
static void test_wait_for_readahead(void **state)
{
	struct world *w = *state;
	struct lp_flight *f;

	fill(fault(w, 29, 1, LP_FILL));
	f = fault(w, 30, 2, LP_FILL);
	fault(w, 31, 1, LP_WAIT);
	lp_flight_advance(f, PG);
	assert_int_equal(lp_flight_finish(f), 0);
	expect_deferred(w, 31);
	fill(fault(w, 31, 1, LP_FILL));
	fill(bulk(w, 100));
	fill(bulk(w, 100));
	assert_true(lp_space_complete(w->s));
}

static void test_wait_for_readahead_filled(void **state)
{
	struct world *w = *state;
	struct lp_flight *f;

	fill(fault(w, 29, 1, LP_FILL));
	f = fault(w, 30, 2, LP_FILL);
	fault(w, 31, 1, LP_WAIT);
	fill(f);
	fill(bulk(w, 100));
	fill(bulk(w, 100));
	assert_true(lp_space_complete(w->s));
}

/* REMAP and UNMAP: at the settled moment, at the old place and the new one. REMOVE: at once. */
static void test_wakes(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = fault(w, 30, 1, LP_FILL);
	uint64_t a, woken = 0;

	assert_int_equal(lp_space_remap(w->s, 28 * PG, 100 * PG, 8 * PG), 0);
	fault(w, 101, 1, LP_LATER); /* kept, although nobody has deferred it yet */
	assert_int_equal(lp_space_unmap(w->s, 28 * PG, 36 * PG), 0);
	assert_false(lp_space_next_wake(w->s, &a));
	assert_int_equal(lp_space_settled(w->s), 0);
	while (lp_space_next_wake(w->s, &a))
		woken = woken * 1000 + a / PG;
	assert_true(woken == 30101 || woken == 101030);
	assert_int_equal(lp_flight_finish(f), 0);
	assert_false(lp_space_has_deferred(w->s));
	f = fault(w, 20, 1, LP_FILL);
	assert_int_equal(lp_space_remove(w->s, 20 * PG, 21 * PG), 0);
	expect_wake(w, 20);
	fill(f);
	f = fault(w, 21, 1, LP_FILL);
	assert_int_equal(lp_space_unmap(w->s, 21 * PG, 22 * PG), 0);
	assert_int_equal(lp_space_settled(w->s), 0);
	expect_wake(w, 21);
	fill(f);
	fault(w, 50, 1, LP_ZERO); /* deferred ones too */
	assert_int_equal(lp_space_defer(w->s, 50 * PG), 0);
	assert_int_equal(lp_space_remove(w->s, 50 * PG, 51 * PG), 0);
	expect_wake(w, 50);
	assert_false(lp_space_has_deferred(w->s));
}

/*
 * What a message names leaves the flights: it is missing again, and who waits for
 * it is asked again. What else they have they keep.
 */
static void test_emptied(void **state)
{
	struct world *w = *state;
	struct lp_flight *b = bulk(w, 8), *u = fault(w, 30, 1, LP_FILL);

	fault(w, 30, 1, LP_WAIT);
	lp_flight_advance(b, 2 * PG);
	assert_int_equal(lp_space_unmap(w->s, 60 * PG, 64 * PG), 0);
	assert_int_equal(lp_flight_left(b), 6 * PG);
	assert_int_equal(lp_flight_head(u)->addr, 30 * PG);
	assert_false(lp_space_has_deferred(w->s));
	assert_int_equal(lp_space_remap(w->s, 20 * PG, 28 * PG, 4 * PG), 0);
	assert_int_equal(lp_flight_left(b), 2 * PG);
	assert_int_equal(lp_flight_head(b)->addr, 18 * PG);
	assert_null(lp_flight_head(u));
	assert_int_equal(lp_space_missing(w->s), 28 * PG);
	assert_int_equal(lp_space_flights(w->s), 2);
	expect_deferred(w, 30);
	fault(w, 30, 1, LP_LATER);
	assert_int_equal(lp_space_defer(w->s, 30 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 20 * PG, 24 * PG), 0);
	assert_int_equal(lp_space_settled(w->s), 0);
	assert_int_equal(lp_flight_left(b), 2 * PG);
	expect_wake(w, 30);
	assert_false(lp_space_has_deferred(w->s));
	assert_int_equal(lp_flight_finish(u), 0); /* says nothing about the page any more */
	assert_int_equal(lp_flight_finish(b), 0);
	fill(bulk(w, 100));
	fill(bulk(w, 100));
	assert_true(lp_space_complete(w->s));
}

/* A flight that ends in between gives back what it had; what was named meanwhile the settled moment moves. */
static void test_end_while_unsettled(void **state)
{
	struct world *w = *state;
	struct lp_flight *b = bulk(w, 4), *u = fault(w, 30, 1, LP_FILL);
	uint64_t img;
	uint32_t obj;

	assert_int_equal(lp_space_remap(w->s, 16 * PG, 100 * PG, 4 * PG), 0);
	assert_int_equal(lp_flight_finish(b), 0);
	assert_int_equal(lp_flight_finish(u), 0);
	assert_int_equal(lp_space_missing(w->s), 32 * PG);
	expect_deferred(w, 30);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 20 * PG), 0);
	assert_int_equal(lp_space_settled(w->s), 0);
	assert_true(lp_space_peek(w->s, 102 * PG, &img, &obj));
	assert_int_equal(img, IMG + 2 * PG);
	fill(fault(w, 30, 1, LP_FILL));
}

/* A flight that lost its page to an event must not answer for a newer fault at the same place. */
static void test_end_of_an_old_flight(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = fault(w, 30, 1, LP_FILL);

	assert_int_equal(lp_space_remove(w->s, 30 * PG, 31 * PG), 0);
	expect_wake(w, 30);
	fault(w, 30, 1, LP_ZERO); /* refused: */
	assert_int_equal(lp_space_defer(w->s, 30 * PG), 0);
	assert_int_equal(lp_flight_finish(f), 0);
	expect_deferred(w, 30);
}

static void test_end_of_an_old_flight_moved(void **state)
{
	struct world *w = *state;
	struct lp_flight *old = fault(w, 30, 1, LP_FILL), *f;

	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 31 * PG), 0);
	assert_int_equal(lp_space_remap(w->s, 20 * PG, 30 * PG, PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 20 * PG, 21 * PG), 0);
	assert_int_equal(lp_space_settled(w->s), 0);
	expect_wake(w, 30);
	assert_int_equal(lp_space_defer(w->s, 30 * PG), 0);
	expect_deferred(w, 30);
	{
		enum lp_verdict v;

		assert_int_equal(lp_space_fault(w->s, 30 * PG, PG, &v, &f), 0);
		assert_int_equal(v, LP_FILL);
		assert_int_equal(lp_flight_head(f)->img, IMG + 4 * PG);
	}
	assert_int_equal(lp_flight_finish(old), 0);
	assert_int_equal(lp_flight_finish(f), 0); /* the source failed */
	expect_deferred(w, 30);
}

static void test_many_waiters(void **state)
{
	struct world *w = *state;
	uint64_t a, seen = 0;
	unsigned i;

	for (i = 16; i < 64; i++)
		assert_int_equal(lp_space_defer(w->s, i * PG), 0);
	assert_int_equal(lp_space_remap(w->s, 16 * PG, 100 * PG, 40 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 56 * PG), 0);
	assert_int_equal(lp_space_settled(w->s), 0);
	while (lp_space_next_wake(w->s, &a))
		seen |= UINT64_C(1) << (a / PG - 16);
	assert_int_equal(seen, (UINT64_C(1) << 40) - 1);
	for (i = 0; lp_space_next_deferred(w->s, &a); i++)
		assert_true(a >= 56 * PG);
	assert_int_equal(i, 8);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_leftovers), T(test_steal), T(test_early), T(test_early_in_doubt), T(test_readahead), T(test_zero), T(test_unfilled_is_deferred),
		T(test_wait_for_readahead), T(test_wait_for_readahead_filled), T(test_wakes),
		T(test_emptied), T(test_end_while_unsettled), T(test_end_of_an_old_flight), T(test_end_of_an_old_flight_moved), T(test_many_waiters),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
