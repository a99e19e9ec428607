/* SPDX-License-Identifier: GPL-2.0-only */
/* The engine's layout events: what each does to what is missing, with flights out and without. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine/engine.h"

#define PG UINT64_C(0x1000)
#define GIB (UINT64_C(1) << 30)
#define IMG UINT64_C(0x7000000)

struct world {
	struct lp_engine *e;
	struct lp_space *s;
	uint64_t from, to; /* what the kernel has */
	int busy;
};

static int there(void *host, uint64_t addr)
{
	const struct world *w = host;

	return w->busy ? -EAGAIN : addr >= w->from && addr < w->to;
}

/* Registered: pages 16..48; of them in the images: 16..40, from IMG on. */
static int setup(void **state)
{
	const struct lp_engine_conf conf = { .page = PG, .seed = 1, .there = there };
	struct world *w = calloc(1, sizeof(*w));

	if (!w)
		return -1;
	w->e = lp_engine_new(&conf);
	if (!w->e || lp_space_new(w->e, w, &w->s) || lp_space_add_extent(w->s, 16 * PG, 48 * PG) ||
	    lp_space_add_missing(w->s, 16 * PG, 40 * PG, IMG, 1))
		return -1;
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;
	int rc;

	if (w->s)
		lp_space_free(w->s);
	rc = lp_engine_nodes(w->e) ? -1 : 0;
	lp_engine_free(w->e);
	free(w);
	return rc;
}

/* @page reads as image page @img of the fixture, or (-1) as zeros. */
static void sees(const struct lp_space *s, uint64_t page, int img)
{
	uint64_t at = 0;
	uint32_t obj = 0;

	assert_int_equal(lp_space_peek(s, page * PG, &at, &obj), img >= 0);
	if (img >= 0) {
		assert_int_equal(at, IMG + (unsigned)img * PG);
		assert_int_equal(obj, 1);
	}
}

static struct lp_flight *next(struct world *w, uint64_t bytes)
{
	struct lp_flight *f = NULL;
	uint64_t when;

	assert_int_equal(lp_engine_next(w->e, bytes, 64, 0, &f, &when), 0);
	return f;
}

static void test_basics(void **state)
{
	struct world *w = *state;

	assert_ptr_equal(lp_space_host(w->s), w);
	assert_int_equal(lp_space_missing(w->s), 24 * PG);
	assert_true(lp_space_registered(w->s, 47 * PG, 60 * PG));
	assert_false(lp_space_registered(w->s, 48 * PG, 60 * PG));
	assert_false(lp_space_complete(w->s));
	sees(w->s, 15, -1);
	sees(w->s, 16, 0);
	sees(w->s, 39, 23);
	sees(w->s, 40, -1);
}

static void test_remap(void **state)
{
	struct world *w = *state;

	assert_int_equal(lp_space_remap(w->s, 20 * PG, 100 * PG, 4 * PG), 0);
	sees(w->s, 100, 4);
	sees(w->s, 103, 7);
	sees(w->s, 20, -1);
	assert_true(lp_space_registered(w->s, 20 * PG, 24 * PG));
	assert_int_equal(lp_space_unmap(w->s, 20 * PG, 24 * PG), 0);
	assert_false(lp_space_registered(w->s, 20 * PG, 24 * PG));
	assert_true(lp_space_registered(w->s, 100 * PG, 104 * PG));
	assert_int_equal(lp_space_remap(w->s, 100 * PG, 20 * PG, 4 * PG), 0); /* and back */
	assert_int_equal(lp_space_unmap(w->s, 100 * PG, 104 * PG), 0);
	sees(w->s, 20, 4);
	sees(w->s, 23, 7);
	sees(w->s, 100, -1);
	assert_int_equal(lp_space_missing(w->s), 24 * PG);
}

/* MREMAP_DONTUNMAP: the old range stays and reads as zeros; it may be moved again. */
static void test_dontunmap(void **state)
{
	struct world *w = *state;

	assert_int_equal(lp_space_remap(w->s, 20 * PG, 100 * PG, 4 * PG), 0);
	sees(w->s, 20, -1);
	assert_int_equal(lp_space_remap(w->s, 20 * PG, 200 * PG, 4 * PG), 0);
	sees(w->s, 200, -1);
	sees(w->s, 100, 4);
	assert_int_equal(lp_space_unmap(w->s, 20 * PG, 24 * PG), 0);
	sees(w->s, 103, 7);
}

/* MREMAP_FIXED onto a missing range: UNMAP of it, REMAP, UNMAP of the old one. */
static void test_remap_onto_missing(void **state)
{
	struct world *w = *state;

	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 34 * PG), 0);
	assert_int_equal(lp_space_remap(w->s, 16 * PG, 30 * PG, 4 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 20 * PG), 0);
	sees(w->s, 30, 0);
	sees(w->s, 33, 3);
	sees(w->s, 34, 18);
	sees(w->s, 29, 13);
	sees(w->s, 16, -1);
}

/* One thread's munmap, another's mremap onto the same place; the UNMAP is read last. */
static void test_late_unmap(void **state)
{
	struct world *w = *state;

	assert_int_equal(lp_space_remap(w->s, 16 * PG, 30 * PG, 4 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 34 * PG), 0);
	sees(w->s, 30, 0);
	sees(w->s, 33, 3);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 20 * PG), 0);
	sees(w->s, 30, 0);
	assert_int_equal(lp_space_settled(w->s), 0);
	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 34 * PG), 0); /* now the new one */
	sees(w->s, 30, -1);
	assert_false(lp_space_registered(w->s, 30 * PG, 34 * PG));
}

/* Two moves, the later one is read first. */
static void test_late_remap(void **state)
{
	struct world *w = *state;

	assert_int_equal(lp_space_remap(w->s, 16 * PG, 30 * PG, 4 * PG), 0); /* second */
	assert_int_equal(lp_space_remap(w->s, 30 * PG, 100 * PG, 4 * PG), 0); /* first */
	sees(w->s, 100, 14);
	sees(w->s, 30, 0);
	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 34 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 20 * PG), 0);
	sees(w->s, 30, 0);
	sees(w->s, 103, 17);
}

/* Unmapped before or after something was moved there? The kernel is asked. */
static void doubt(struct world *w, bool is_there)
{
	struct lp_flight *f;
	enum lp_verdict v;

	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 34 * PG), 0);
	assert_int_equal(lp_space_remap(w->s, 16 * PG, 30 * PG, 4 * PG), 0);
	assert_false(lp_space_doubtful(w->s));
	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 34 * PG), 0);
	assert_true(lp_space_doubtful(w->s));
	assert_int_equal(lp_space_fault(w->s, 33 * PG, PG, &v, &f), 0);
	assert_int_equal(v, LP_LATER);
	assert_null(f);
	assert_int_equal(lp_space_defer(w->s, 33 * PG), 0);
	assert_int_equal(lp_space_remove(w->s, 34 * PG, 48 * PG), 0);
	w->busy = 1;
	assert_int_equal(lp_space_settled(w->s), -EAGAIN);
	assert_true(lp_space_unsettled(w->s));
	assert_false(lp_space_complete(w->s));
	w->busy = 0;
	w->from = is_there ? 30 * PG : 0;
	w->to = 34 * PG;
	if (!is_there)
		w->to = 0;
	assert_int_equal(lp_space_settled(w->s), 0);
	assert_false(lp_space_unsettled(w->s));
	sees(w->s, 33, is_there ? 3 : -1);
	assert_int_equal(lp_space_registered(w->s, 30 * PG, 34 * PG), is_there);
}

static void test_doubt_there(void **state)
{
	doubt(*state, true);
}

static void test_doubt_gone(void **state)
{
	doubt(*state, false);
}

/* A child is young until its parent is settled; then it has what its kernel has. */
static void young(struct world *w, bool moved)
{
	struct lp_space *c, *d;
	struct lp_flight *f;
	uint64_t when;

	assert_int_equal(lp_space_fork(w->s, w, &c), 0);
	assert_int_equal(lp_space_fork(w->s, w, &d), 0);
	assert_true(lp_space_young(c));
	assert_false(lp_space_unsettled(c));
	assert_true(lp_space_unsettled(w->s));
	assert_false(lp_space_complete(w->s));
	lp_space_free(d); /* young spaces may go at any time */
	w->from = (moved ? 100 : 16) * PG;
	w->to = (moved ? 104 : 48) * PG;
	assert_int_equal(lp_space_remap(w->s, 16 * PG, 100 * PG, 4 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 20 * PG), 0);
	assert_int_equal(lp_space_settled(c), 0); /* not for it to say */
	assert_true(lp_space_young(c));
	assert_int_equal(lp_space_settled(w->s), 0);
	assert_false(lp_space_young(c));
	sees(c, 100, moved ? 0 : -1);
	sees(c, 16, moved ? -1 : 0);
	sees(w->s, 100, 0);
	lp_space_exit(w->s);
	assert_int_equal(lp_engine_next(w->e, 0, 0, 0, &f, &when), 0); /* one page at least */
	assert_ptr_equal(lp_flight_space(f), c);
	assert_int_equal(lp_flight_head(f)->len, PG);
	assert_int_equal(lp_flight_finish(f), 0);
	lp_space_free(c);
}

static void test_young_moved(void **state)
{
	young(*state, true);
}

static void test_young_not_moved(void **state)
{
	young(*state, false);
}

/* Nobody ever settles: what is remembered is bounded, and nothing is lost. */
static void test_never_settled(void **state)
{
	struct world *w = *state;
	struct lp_space *c;
	uint64_t at = 16, to;
	unsigned i;

	w->busy = 1;
	for (i = 0; i < 1000; i++) {
		if (i == 500)
			assert_int_equal(lp_space_fork(w->s, w, &c), 0);
		to = at == 16 ? 100 : 16;
		assert_int_equal(lp_space_remap(w->s, at * PG, to * PG, 4 * PG), 0);
		assert_int_equal(lp_space_unmap(w->s, at * PG, (at + 4) * PG), 0);
		at = to;
	}
	sees(w->s, at, 0);
	assert_false(lp_space_young(c));
	assert_true(lp_engine_nodes(w->e) < 1000);
	lp_space_free(c);
}

static void test_remove(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 4 * PG);

	lp_flight_advance(f, PG);
	assert_int_equal(lp_space_remove(w->s, 17 * PG, 30 * PG), 0);
	assert_null(lp_flight_head(f));
	assert_int_equal(lp_flight_finish(f), 0);
	sees(w->s, 17, -1);
	sees(w->s, 30, 14);
	assert_true(lp_space_registered(w->s, 17 * PG, 18 * PG));
	assert_int_equal(lp_space_remove(w->s, 30 * PG, 30 * PG), 0);
	sees(w->s, 30, 14);
}

static void test_fork(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 4 * PG), *g;
	struct lp_space *c, *gc;
	const struct lp_piece *p;
	uint64_t when;

	lp_flight_advance(f, PG);
	assert_int_equal(lp_space_fork(w->s, w, &c), 0);
	assert_int_equal(lp_space_settled(w->s), 0);
	assert_int_equal(lp_space_missing(c), 23 * PG);
	sees(c, 16, -1);
	sees(c, 17, 1);
	assert_int_equal(lp_space_remap(c, 17 * PG, 60 * PG, PG), 0); /* the child's alone */
	sees(w->s, 17, 1);
	sees(w->s, 60, -1);
	sees(c, 60, 1);
	lp_flight_advance(f, 3 * PG);
	sees(c, 18, 2);
	assert_int_equal(lp_flight_finish(f), 0);
	assert_int_equal(lp_space_settled(c), 0);
	assert_int_equal(lp_space_fork(c, w, &gc), 0);
	assert_int_equal(lp_space_settled(c), 0);
	sees(gc, 60, 1);
	/* Tasks of the checkpoint come first, then children, then theirs. */
	f = next(w, 100 * PG);
	assert_ptr_equal(lp_flight_space(f), w->s);
	g = next(w, 100 * PG);
	assert_ptr_equal(lp_flight_space(g), c);
	while ((p = lp_flight_head(f)))
		lp_flight_advance(f, p->len);
	assert_int_equal(lp_flight_finish(f), 0);
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

static void test_wiped(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 4 * PG);
	struct lp_space *c;

	assert_int_equal(lp_space_add_wiped(w->s, 18 * PG, 22 * PG), 0);
	assert_int_equal(lp_space_remap(w->s, 20 * PG, 60 * PG, 8 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 20 * PG, 28 * PG), 0);
	assert_int_equal(lp_space_fork(w->s, w, &c), 0);
	sees(c, 17, 1);
	sees(c, 18, -1); /* although a flight has it */
	sees(c, 60, -1);
	sees(c, 61, -1);
	sees(c, 62, 6);
	sees(w->s, 60, 4);
	assert_int_equal(lp_flight_finish(f), 0);
	lp_space_free(c);
}

/* The mark goes with its generation: the late UNMAP is not about the newer one. */
static void test_wiped_late_unmap(void **state)
{
	struct world *w = *state;
	struct lp_space *c;

	assert_int_equal(lp_space_add_wiped(w->s, 16 * PG, 20 * PG), 0);
	assert_int_equal(lp_space_remap(w->s, 16 * PG, 30 * PG, 4 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 30 * PG, 34 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 20 * PG), 0);
	assert_int_equal(lp_space_fork(w->s, w, &c), 0);
	sees(w->s, 30, 0);
	sees(c, 30, -1);
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
	lp_space_exit(w->s);
	assert_true(lp_space_dead(w->s));
	assert_true(lp_space_complete(w->s));
	assert_null(lp_flight_head(f));
	assert_null(lp_flight_head(u));
	assert_int_equal(lp_space_flights(w->s), 2);
	assert_int_equal(lp_flight_finish(u), 0);
	assert_int_equal(lp_flight_finish(f), 0);
	assert_false(lp_space_next_wake(w->s, &a));
	assert_false(lp_space_has_deferred(w->s));
	/* Late messages mean nothing. */
	assert_int_equal(lp_space_remap(w->s, 16 * PG, 30 * PG, PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 16 * PG, 30 * PG), 0);
	assert_int_equal(lp_space_remove(w->s, 16 * PG, 30 * PG), 0);
	assert_int_equal(lp_space_fault(w->s, 30 * PG, PG, &v, &u), 0);
	assert_int_equal(v, LP_ZERO);
	assert_int_equal(lp_engine_nodes(w->e), 0);
}

static void test_flights_follow(void **state)
{
	struct world *w = *state;
	struct lp_flight *f = next(w, 8 * PG); /* 16..24 */
	const struct lp_piece *p;

	assert_int_equal(lp_space_remap(w->s, 18 * PG, 60 * PG, 2 * PG), 0);
	p = lp_flight_head(f);
	assert_int_equal(p->addr, 16 * PG);
	assert_int_equal(p->len, 2 * PG);
	lp_flight_advance(f, 2 * PG);
	p = lp_flight_head(f);
	assert_int_equal(p->addr, 20 * PG);
	assert_int_equal(p->img, IMG + 4 * PG);
	sees(w->s, 60, 2);
	assert_int_equal(lp_space_unmap(w->s, 18 * PG, 20 * PG), 0);
	assert_int_equal(lp_space_unmap(w->s, 21 * PG, 22 * PG), 0);
	p = lp_flight_head(f);
	assert_int_equal(p->len, PG);
	assert_int_equal(lp_flight_finish(f), 0);
	sees(w->s, 20, 4);
	sees(w->s, 21, -1);
	sees(w->s, 22, 6);
	sees(w->s, 61, 3);
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
	assert_null(lp_flight_head(f));
	assert_int_equal(lp_flight_finish(f), 0);
	assert_true(lp_space_peek(w->s, top - PG, &at, &obj));
	assert_int_equal(at, 11 * GIB - PG);
	assert_int_equal(lp_space_missing(w->s), 8 * GIB);
	assert_int_equal(lp_space_unmap(w->s, 0, top - PG), 0);
	assert_int_equal(lp_space_missing(w->s), PG);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_basics),	     T(test_remap),	  T(test_dontunmap), T(test_remap_onto_missing),
		T(test_late_unmap),  T(test_late_remap),  T(test_remove),    T(test_fork),
		T(test_wiped),	     T(test_wiped_late_unmap), T(test_exit), T(test_flights_follow),
		T(test_huge),	     T(test_doubt_there), T(test_doubt_gone), T(test_young_moved),
		T(test_young_not_moved), T(test_never_settled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
