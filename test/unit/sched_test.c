/* SPDX-License-Identifier: GPL-2.0-only */
/* The order of the background. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/engine.h"

#define PG UINT64_C(0x1000)
#define TASKS 3

struct world {
	struct lp_engine *e;
	struct lp_space *s[TASKS];
};

static int setup(void **state)
{
	const struct lp_engine_conf conf = { .page = PG, .seed = 1 };
	struct world *w = calloc(1, sizeof(*w));
	unsigned i, k;

	if (!w)
		return -1;
	w->e = lp_engine_new(&conf);
	for (i = 0; i < TASKS; i++) {
		if (!w->e || lp_space_new(w->e, NULL, &w->s[i]) || lp_space_add_extent(w->s[i], 0, 100 * PG))
			return -1;
		for (k = 0; k < 100; k += 10) /* eight of ten pages */
			if (lp_space_add_missing(w->s[i], k * PG, (k + 8) * PG, k * PG, 1))
				return -1;
	}
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	unsigned i;
	int rc;

	for (i = 0; i < TASKS; i++)
		lp_space_free(w->s[i]);
	rc = lp_engine_nodes(w->e) ? -1 : 0;
	lp_engine_free(w->e);
	free(w);
	return rc;
}

/* The flight comes from @s and begins at @page; it is filled. */
static void take_at(struct world *w, uint64_t now, uint64_t bytes, unsigned pieces, const struct lp_space *s,
		    uint64_t page, uint64_t want_bytes)
{
	struct lp_flight *f = NULL;
	const struct lp_piece *p;
	uint64_t when, sum = 0;

	assert_int_equal(lp_engine_next(w->e, bytes, pieces, now, &f, &when), 0);
	assert_ptr_equal(lp_flight_space(f), s);
	assert_int_equal(lp_flight_head(f)->addr, page * PG);
	while ((p = lp_flight_head(f))) {
		assert_int_equal(p->addr, p->img);
		sum += p->len;
		lp_flight_advance(f, p->len);
	}
	assert_int_equal(sum, want_bytes);
	assert_int_equal(lp_flight_finish(f), 0);
}

static void take(struct world *w, uint64_t bytes, unsigned pieces, const struct lp_space *s, uint64_t page,
		 uint64_t want_bytes)
{
	take_at(w, 0, bytes, pieces, s, page, want_bytes);
}

static void test_turns(void **state)
{
	struct world *w = *state;

	take(w, 4 * PG, 64, w->s[0], 0, 4 * PG);
	take(w, 4 * PG, 64, w->s[1], 0, 4 * PG);
	take(w, 4 * PG, 64, w->s[2], 0, 4 * PG);
	take(w, 100 * PG, 2, w->s[0], 4, 12 * PG); /* rest of the first and a whole one */
	take(w, 10 * PG, 9, w->s[1], 4, 10 * PG);
}

static void test_hot(void **state)
{
	struct world *w = *state;
	struct lp_flight *f;
	enum lp_verdict v;

	assert_int_equal(lp_space_fault(w->s[2], 52 * PG, PG, &v, &f), 0);
	lp_flight_advance(f, PG);
	assert_int_equal(lp_flight_finish(f), 0);
	take(w, 2 * PG, 64, w->s[2], 53, 2 * PG); /* goes on behind the fault */
	take(w, 800 * PG, 64, w->s[2], 55, 35 * PG);
	take(w, 800 * PG, 64, w->s[2], 0, 42 * PG); /* and from the start */
	take(w, PG, 64, w->s[0], 0, PG);
}

static void test_stall(void **state)
{
	struct world *w = *state;
	struct lp_flight *f;
	uint64_t when;

	lp_space_stall(w->s[0], 50);
	take(w, PG, 64, w->s[1], 0, PG);
	lp_space_stall(w->s[1], 40);
	lp_space_stall(w->s[2], 60);
	assert_int_equal(lp_engine_next(w->e, PG, 1, 39, &f, &when), -EAGAIN);
	assert_int_equal(when, 40);
	assert_int_equal(lp_engine_next(w->e, PG, 1, 40, &f, &when), 0);
	assert_ptr_equal(lp_flight_space(f), w->s[1]);
	assert_int_equal(lp_flight_finish(f), 0);
}

static void test_nothing_left(void **state)
{
	struct world *w = *state;
	struct lp_flight *f;
	uint64_t when = 0;
	unsigned i;

	lp_space_exit(w->s[0]);
	for (i = 1; i < TASKS; i++)
		take(w, 1000 * PG, 1000, w->s[i], 0, 80 * PG);
	assert_int_equal(lp_engine_next(w->e, PG, 1, 0, &f, &when), -EAGAIN);
	assert_true(when == LP_NEVER);
}

/* Nothing is claimed from a space that waits for a settled moment, nor from a young child. */
static void test_unsettled(void **state)
{
	struct world *w = *state;
	struct lp_space *c;
	struct lp_flight *f;
	uint64_t when;

	lp_space_exit(w->s[1]);
	lp_space_exit(w->s[2]);
	assert_int_equal(lp_space_fork(w->s[0], NULL, &c), 0);
	lp_space_stall(w->s[0], 50);
	assert_int_equal(lp_engine_next(w->e, PG, 1, 0, &f, &when), -EAGAIN);
	assert_true(when == LP_NEVER); /* time alone does not help */
	assert_int_equal(lp_space_settled(w->s[0]), 0);
	take(w, PG, 1, c, 0, PG); /* the parent is stalled */
	take_at(w, 60, PG, 1, w->s[0], 0, PG);
	lp_space_free(c);
}

/* What comes back is found again, wherever the cursor is. */
static void test_returned(void **state)
{
	struct world *w = *state;
	struct lp_flight *f;
	uint64_t when;

	lp_space_exit(w->s[1]);
	lp_space_exit(w->s[2]);
	assert_int_equal(lp_engine_next(w->e, 8 * PG, 64, 0, &f, &when), 0);
	take(w, 1000 * PG, 1000, w->s[0], 10, 72 * PG);
	assert_int_equal(lp_flight_finish(f), 0);
	take(w, 1000 * PG, 1000, w->s[0], 0, 8 * PG);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_turns), T(test_hot), T(test_stall), T(test_nothing_left), T(test_unsettled), T(test_returned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
