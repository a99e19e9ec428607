/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The engine when memory runs out: the Nth allocation fails, for every N. A
 * call either works, or says -ENOMEM and leaves everything as it was, or says
 * that the space is broken. The engine's sources are included here, with
 * allocation functions that can fail, so that the linker needs no tricks.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static long fail_at; /* allocations until one fails; 0: none does */

static void *fail_malloc(size_t n)
{
	return fail_at && !--fail_at ? NULL : malloc(n);
}

static void *fail_calloc(size_t n, size_t size)
{
	return fail_at && !--fail_at ? NULL : calloc(n, size);
}

static void *fail_realloc(void *p, size_t n)
{
	return fail_at && !--fail_at ? NULL : realloc(p, n);
}

/* Seen all at once, the files are inlined so far that gcc loses track of who sets what. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define malloc fail_malloc
#define calloc fail_calloc
#define realloc fail_realloc
#include "plugin/engine/map.c"
#include "plugin/engine/fault.c"
#include "plugin/engine/flight.c"
#include "plugin/engine/sched.c"
#include "plugin/engine/settle.c"
#include "plugin/engine/space.c"
#undef malloc
#undef calloc
#undef realloc

#define PG UINT64_C(0x1000)
#define PAGES 128
#define FLIGHTS 3

struct world {
	struct lp_engine *e;
	struct lp_space *s, *child;
	struct lp_flight *f[FLIGHTS];
};

/* Of the child's kernel: the changes of do_young() came before the fork, but for the last. */
static int in_kernel(void *host, uint64_t addr)
{
	return addr < 1 * PG || (addr >= 31 * PG && addr < 60 * PG) || addr >= 110 * PG;
}

/* Without failures. Many pieces and waiters, little room in the arrays. */
static void build(struct world *w)
{
	const struct lp_engine_conf conf = { .page = PG, .seed = 5, .there = in_kernel };
	enum lp_verdict v;
	uint64_t when;
	unsigned i;

	*w = (struct world){ 0 };
	w->e = lp_engine_new(&conf);
	assert_non_null(w->e);
	assert_int_equal(lp_space_new(w->e, w, &w->s), 0);
	assert_int_equal(lp_space_add_extent(w->s, 0, 100 * PG), 0);
	for (i = 0; i < 96; i += 3)
		assert_int_equal(lp_space_add_missing(w->s, i * PG, (i + 2) * PG, i * PG, 1), 0);
	for (i = 0; i < FLIGHTS - 1; i++)
		assert_int_equal(lp_engine_next(w->e, 12 * PG, 4, 0, &w->f[i], &when), 0);
	assert_int_equal(lp_space_fault(w->s, 60 * PG, PG, &v, &w->f[FLIGHTS - 1]), 0);
	assert_int_equal(v, LP_FILL);
	for (i = 0; i < 15; i++)
		assert_int_equal(lp_space_defer(w->s, (2 + 3 * i) * PG), 0);
}

static void destroy(struct world *w)
{
	unsigned i;

	for (i = 0; i < FLIGHTS; i++)
		if (w->f[i])
			assert_int_equal(lp_flight_finish(w->f[i]), 0);
	if (w->child)
		lp_space_free(w->child);
	lp_space_free(w->s);
	assert_int_equal(lp_engine_nodes(w->e), 0);
	lp_engine_free(w->e);
}

struct view {
	uint64_t img[2 * PAGES];
	uint64_t missing, heads[FLIGHTS];
	size_t flights, waiters;
};

static void look(const struct world *w, struct view *v)
{
	unsigned i;
	uint32_t obj;

	memset(v, 0, sizeof(*v));
	for (i = 0; i < 2 * PAGES; i++)
		if (!lp_space_peek(w->s, i * PG, &v->img[i], &obj))
			v->img[i] = LP_NEVER;
	v->missing = lp_space_missing(w->s);
	for (i = 0; i < FLIGHTS; i++)
		if (w->f[i] && lp_flight_head(w->f[i]))
			v->heads[i] = lp_flight_head(w->f[i])->addr + 1;
	v->flights = lp_space_flights(w->s);
	v->waiters = w->s->nwaiters;
	lp_map_check(&w->s->missing);
	lp_map_check(&w->s->extents);
}

static int do_remap(struct world *w)
{
	return lp_space_remap(w->s, 1 * PG, 120 * PG, 30 * PG);
}

static int do_remap_onto(struct world *w)
{
	return lp_space_remap(w->s, 1 * PG, 40 * PG, 20 * PG);
}

/* Late messages of other threads lie in several generations. */
static int do_layers(struct world *w)
{
	int rc = lp_space_remap(w->s, 1 * PG, 40 * PG, 20 * PG);

	if (!rc)
		rc = lp_space_remap(w->s, 70 * PG, 41 * PG, 3 * PG);
	if (!rc)
		rc = lp_space_unmap(w->s, 38 * PG, 56 * PG);
	return rc;
}

/* Doubt, and children that are younger than some of the messages before and after their FORK. */
static int do_young(struct world *w)
{
	int rc = lp_space_remap(w->s, 1 * PG, 120 * PG, 30 * PG);

	if (!rc)
		rc = lp_space_unmap(w->s, 1 * PG, 40 * PG);
	if (!rc)
		rc = lp_space_unmap(w->s, 125 * PG, 135 * PG);
	if (!rc)
		rc = lp_space_fork(w->s, w, &w->child);
	if (!rc)
		rc = lp_space_remap(w->s, 62 * PG, 160 * PG, 20 * PG);
	if (!rc)
		rc = lp_space_unmap(w->s, 62 * PG, 82 * PG);
	if (!rc)
		rc = lp_space_remap(w->s, 45 * PG, 200 * PG, 3 * PG);
	return rc ? rc : lp_space_settled(w->s);
}

static int do_settled(struct world *w)
{
	return lp_space_settled(w->s);
}

static int do_remove(struct world *w)
{
	return lp_space_remove(w->s, 1 * PG, 50 * PG);
}

static int do_unmap(struct world *w)
{
	return lp_space_unmap(w->s, 1 * PG, 50 * PG);
}

static int do_fork(struct world *w)
{
	return lp_space_fork(w->s, w, &w->child);
}

/* Failures of this one are another test's business. */
static int finish(struct lp_flight *f)
{
	while (lp_flight_finish(f))
		;
	return 0;
}

static int do_next(struct world *w)
{
	struct lp_flight *f;
	uint64_t when;
	int rc = lp_engine_next(w->e, 5 * PG, 4, 0, &f, &when);

	return rc ? rc : finish(f);
}

static int do_fault(struct world *w, unsigned page)
{
	enum lp_verdict v;
	struct lp_flight *f;
	int rc = lp_space_fault(w->s, page * PG, 4 * PG, &v, &f);

	if (!rc && v == LP_FILL)
		rc = finish(f);
	return rc;
}

static int do_fault_missing(struct world *w)
{
	return do_fault(w, 75);
}

static int do_fault_stolen(struct world *w)
{
	return do_fault(w, 1);
}

static int do_finish(struct world *w)
{
	int rc = lp_flight_finish(w->f[0]);

	if (!rc)
		w->f[0] = NULL;
	return rc;
}

static void each(int (*call)(struct world *), bool keeps_state)
{
	struct view before, after;
	struct world w;
	long n;
	int rc;

	for (n = 1;; n++) {
		bool failed;

		build(&w);
		/* The pool keeps what it got: let the call see an empty one. */
		while (w.e->pool.free) {
			w.e->pool.free = w.e->pool.free->left;
			w.e->pool.nfree--;
		}
		look(&w, &before);
		fail_at = n;
		rc = call(&w);
		failed = !fail_at;
		fail_at = 0;
		look(&w, &after);
		if (rc) {
			assert_true(failed);
			assert_int_equal(rc, -ENOMEM);
			/* A fault that was kept as deferred is fine. */
			if (after.waiters == before.waiters + 1)
				after.waiters--;
			if (keeps_state && !lp_space_broken(w.s))
				assert_memory_equal(&before, &after, sizeof(before));
			if (!lp_space_broken(w.s))
				assert_int_equal(call(&w), 0);
		}
		destroy(&w);
		if (!failed)
			break;
	}
	assert_true(n > 1);
}

static void test_events(void **state)
{
	each(do_remap, true);
	each(do_remap_onto, true);
	each(do_remove, true);
	each(do_unmap, true);
	each(do_fork, true);
}

static void sequence(int (*calls)(struct world *))
{
	struct world w;
	long n;
	bool failed;

	for (n = 1;; n++) {
		build(&w);
		/* The pool keeps what it got: let the calls see an empty one. */
		w.e->pool.free = NULL;
		w.e->pool.nfree = 0;
		fail_at = n;
		(void)calls(&w);
		failed = !fail_at;
		fail_at = 0;
		assert_false(lp_space_broken(w.s));
		assert_true(!w.child || !lp_space_broken(w.child));
		lp_map_check(&w.s->missing);
		lp_map_check(&w.s->held);
		assert_int_equal(do_settled(&w), 0);
		assert_false(lp_space_unsettled(w.s));
		destroy(&w);
		if (!failed)
			break;
	}
}

static void test_generations(void **state)
{
	sequence(do_layers);
	sequence(do_young);
}

static void test_claims(void **state)
{
	each(do_next, true);
	each(do_fault_missing, true);
	each(do_fault_stolen, true);
	each(do_finish, false);
}

/* A flight in many pieces, cut by one event in more than two places. */
static void test_generations_cut_flights(void **state)
{
	struct world w;
	unsigned i;

	for (i = 1; i < 6; i++) {
		unsigned k;

		build(&w);
		assert_int_equal(lp_flight_finish(w.f[0]), 0);
		w.f[0] = NULL;
		assert_int_equal(lp_space_remove(w.s, 0, 200 * PG), 0);
		assert_int_equal(lp_space_add_extent(w.s, 200 * PG, 260 * PG), 0);
		assert_int_equal(lp_space_add_missing(w.s, 200 * PG, 260 * PG, 0, 1), 0);
		for (k = 0; k < i; k++) /* newer mappings on top, in pieces */
			assert_int_equal(lp_space_remap(w.s, (1 + k) * PG, (205 + 5 * k) * PG, PG), 0);
		w.s->cursor = 0;
		{
			uint64_t when;

			assert_int_equal(lp_engine_next(w.e, 100 * PG, 1, 0, &w.f[0], &when), 0);
		}
		assert_int_equal(lp_space_unmap(w.s, 200 * PG, 260 * PG), 0);
		assert_false(lp_space_broken(w.s));
		destroy(&w);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events),
		cmocka_unit_test(test_generations),
		cmocka_unit_test(test_claims),
		cmocka_unit_test(test_generations_cut_flights),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
