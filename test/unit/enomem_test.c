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
#include "plugin/engine/view.c"
#include "plugin/engine/log.c"
#include "plugin/engine/book.c"
#include "plugin/engine/epoch.c"
#include "plugin/engine/young.c"
#include "plugin/engine/space.c"
#undef malloc
#undef calloc
#undef realloc

#define PG UINT64_C(0x1000)
#define PAGES 128
#define FLIGHTS 3

struct world {
	struct lp_engine *e;
	struct lp_space *s, *child, *twin;
	struct lp_flight *f[FLIGHTS];
};

/*
 * Of the parent's kernel and its children's: the changes of read_messages() came
 * before the fork, but for the last move. The twin changes its layout.
 */
static int in_kernel(void *host, uint64_t start, uint64_t len)
{
	static const unsigned vma[][2] = { { 0, 1 }, { 31, 41 }, { 44, 62 }, { 82, 100 }, { 120, 150 }, { 160, 180 } };
	uint64_t end = start + len;
	size_t i;

	if (*(const char *)host == 't')
		return -EAGAIN;
	for (i = 0; i < sizeof(vma) / sizeof(vma[0]); i++)
		if (start >= vma[i][0] * PG && end <= vma[i][1] * PG)
			return 1;
	return *(const char *)host == 'p' && start >= 200 * PG && end <= 203 * PG;
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
	assert_int_equal(lp_space_new(w->e, "parent", &w->s), 0);
	assert_int_equal(lp_space_add_extent(w->s, 0, 100 * PG), 0);
	assert_int_equal(lp_space_add_wiped(w->s, 33 * PG, 36 * PG), 0);
	for (i = 0; i < 96; i += 3)
		assert_int_equal(lp_space_add_missing(w->s, i * PG, (i + 2) * PG, i * PG, 1), 0);
	for (i = 0; i < FLIGHTS - 1; i++)
		assert_int_equal(lp_engine_next(w->e, 12 * PG, 4, 0, &w->f[i], &when), 0);
	assert_int_equal(lp_space_fault(w->s, 60 * PG, PG, &v, &w->f[FLIGHTS - 1]), 0);
	assert_int_equal(v, LP_FILL);
	for (i = 0; i < 15; i++)
		assert_int_equal(lp_space_defer(w->s, (2 + 3 * i) * PG), 0);
}

/* Not in the order of the changes, with a fork among them. */
static int read_messages(struct world *w)
{
	int rc = lp_space_remap(w->s, 62 * PG, 160 * PG, 20 * PG);

	if (!rc)
		rc = lp_space_unmap(w->s, 62 * PG, 82 * PG);
	if (!rc)
		rc = lp_space_remap(w->s, 41 * PG, 82 * PG, 3 * PG); /* after a munmap of 82 */
	if (!rc)
		rc = lp_space_fork(w->s, "child", &w->child);
	if (!rc)
		rc = lp_space_fork(w->s, "twin", &w->twin);
	if (!rc)
		rc = lp_space_remap(w->s, 1 * PG, 120 * PG, 30 * PG);
	if (!rc)
		rc = lp_space_remove(w->s, 95 * PG, 97 * PG);
	if (!rc)
		rc = lp_space_unmap(w->s, 1 * PG, 31 * PG);
	if (!rc)
		rc = lp_space_unmap(w->s, 82 * PG, 85 * PG);
	if (!rc)
		rc = lp_space_unmap(w->s, 41 * PG, 44 * PG);
	return rc ? rc : lp_space_remap(w->s, 45 * PG, 200 * PG, 3 * PG); /* MREMAP_DONTUNMAP, after the fork */
}

static void build_unsettled(struct world *w)
{
	build(w);
	assert_int_equal(read_messages(w), 0);
}

/* The same changes in the kernel's order, some with marks that nobody told. */
static int make_changes(struct world *w)
{
	static const struct lp_change made[] = {
		{ LP_CHANGE_WIPE, 0, 36 * PG, 2 * PG, 0, 0 },
		{ LP_CHANGE_REMAP, LP_REMAP_MAYMOVE | LP_REMAP_FIXED, 62 * PG, 20 * PG, 160 * PG, 20 * PG },
		{ LP_CHANGE_REMAP, LP_REMAP_MAYMOVE | LP_REMAP_FIXED, 41 * PG, 3 * PG, 82 * PG, 3 * PG },
		{ LP_CHANGE_KEEP, 0, 36 * PG, 2 * PG, 0, 0 },
		{ LP_CHANGE_REMAP, LP_REMAP_MAYMOVE | LP_REMAP_AREA, 1 * PG, 30 * PG, 120 * PG, 30 * PG },
		{ LP_CHANGE_REMAP, LP_REMAP_MAYMOVE | LP_REMAP_FIXED, 1 * PG, 30 * PG, 120 * PG, 30 * PG },
		{ LP_CHANGE_FORK, 0, 0, 0, 2, 0 },
		{ LP_CHANGE_GUARD, 0, 51 * PG, 1 * PG, 0, 0 },
		{ LP_CHANGE_FORK, 0, 0, 0, 3, 0 },
		{ LP_CHANGE_REMAP, LP_REMAP_MAYMOVE | LP_REMAP_FIXED | LP_REMAP_DONTUNMAP, 45 * PG, 3 * PG, 200 * PG, 3 * PG },
	};
	size_t i;
	int rc = 0;

	lp_space_book(w->s, 1);
	for (i = 0; i < sizeof(made) / sizeof(made[0]) && !rc; i++)
		rc = lp_space_changed(w->s, &made[i]);
	return rc;
}

static void build_booked(struct world *w)
{
	build(w);
	assert_int_equal(make_changes(w), 0);
	assert_int_equal(read_messages(w), 0);
	lp_space_book(w->child, 2);
	lp_space_book(w->twin, 3);
}

static void destroy(struct world *w)
{
	unsigned i;

	for (i = 0; i < FLIGHTS; i++)
		if (w->f[i])
			assert_int_equal(lp_flight_finish(w->f[i]), 0);
	if (w->child)
		lp_space_free(w->child);
	if (w->twin)
		lp_space_free(w->twin);
	lp_space_free(w->s);
	assert_int_equal(lp_engine_nodes(w->e), 0);
	lp_engine_free(w->e);
}

struct seen {
	uint64_t img[2 * PAGES];
	bool registered[2 * PAGES];
	uint64_t missing, heads[FLIGHTS], left[FLIGHTS];
	size_t flights, waiters, messages, wakes;
	bool dead, unsettled, young, due;
};

static void look_at(const struct lp_space *s, struct seen *v)
{
	unsigned i;
	uint32_t obj;

	memset(v, 0, sizeof(*v));
	if (!s)
		return;
	for (i = 0; i < 2 * PAGES; i++) {
		if (!lp_space_peek(s, i * PG, &v->img[i], &obj))
			v->img[i] = LP_NEVER;
		v->registered[i] = lp_space_registered(s, i * PG, (i + 1) * PG);
	}
	v->missing = lp_space_missing(s);
	v->flights = lp_space_flights(s);
	v->waiters = s->nwaiters;
	v->messages = s->nlog;
	v->wakes = s->nwakes;
	v->dead = lp_space_dead(s);
	v->unsettled = lp_space_unsettled(s);
	v->young = lp_space_young(s);
	v->due = s->due;
	lp_map_check(&s->v.missing);
	lp_map_check(&s->v.extents);
	lp_map_check(&s->v.wiped);
}

/* The space, and its children. */
static void look(const struct world *w, struct seen v[3])
{
	unsigned i;

	look_at(w->s, &v[0]);
	for (i = 0; i < FLIGHTS; i++) {
		if (!w->f[i])
			continue;
		v[0].left[i] = lp_flight_left(w->f[i]);
		if (lp_flight_head(w->f[i]))
			v[0].heads[i] = lp_flight_head(w->f[i])->addr + 1;
	}
	look_at(w->child, &v[1]);
	look_at(w->twin, &v[2]);
}

static int do_remap(struct world *w)
{
	return lp_space_remap(w->s, 1 * PG, 120 * PG, 30 * PG);
}

static int do_unmap(struct world *w)
{
	return lp_space_unmap(w->s, 1 * PG, 50 * PG);
}

static int do_remove(struct world *w)
{
	return lp_space_remove(w->s, 1 * PG, 50 * PG);
}

/* At rest, and when something is under way. */
static int do_guard(struct world *w)
{
	const struct lp_change c = { LP_CHANGE_GUARD, 0, 1 * PG, 49 * PG, 0, 0 };

	lp_space_book(w->s, 1);
	return lp_space_changed(w->s, &c);
}

static int do_fork(struct world *w)
{
	struct lp_space *c;
	int rc = lp_space_fork(w->s, "child", &c);

	if (!rc)
		lp_space_free(c);
	return rc;
}

static int do_settled(struct world *w)
{
	return lp_space_settled(w->s);
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

static int do_early_fault(struct world *w)
{
	struct lp_flight *f;
	int rc = lp_space_early_fault(w->s, 75 * PG, 4 * PG, w->f[0], &f);

	return rc || !f ? rc : finish(f);
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

/* The pool keeps what it got: let the calls see an empty one. */
static void drain(struct world *w)
{
	while (w->e->pool.free) {
		w->e->pool.free = w->e->pool.free->left;
		w->e->pool.nfree--;
	}
}

/* @call leaves everything as it was when it fails, and works when it is tried again. */
static void each(void (*make)(struct world *), int (*call)(struct world *))
{
	struct seen before[3], after[3];
	struct world w;
	long n;
	int rc;

	for (n = 1;; n++) {
		bool failed;

		make(&w);
		drain(&w);
		look(&w, before);
		fail_at = n;
		rc = call(&w);
		failed = !fail_at;
		fail_at = 0;
		assert_false(lp_space_broken(w.s));
		if (rc) {
			assert_true(failed);
			assert_int_equal(rc, -ENOMEM);
			look(&w, after);
			/* A fault that was kept as deferred is fine. */
			if (after[0].waiters == before[0].waiters + 1)
				after[0].waiters--;
			assert_memory_equal(before, after, sizeof(before));
			assert_int_equal(call(&w), 0);
		}
		destroy(&w);
		if (!failed)
			break;
	}
	assert_true(n > 1);
}

static void test_messages(void **state)
{
	each(build, do_remap);
	each(build, do_unmap);
	each(build, do_remove);
	each(build, do_guard);
	each(build_unsettled, do_guard);
	each(build, do_fork);
	each(build_unsettled, do_fork);
}

static void test_claims(void **state)
{
	each(build, do_next);
	each(build, do_fault_missing);
	each(build, do_early_fault);
	each(build, do_fault_stolen);
	each(build, do_finish);
	each(build_unsettled, do_finish);
}

/* What read_messages() is when it is put in order. */
static void check_settled(const struct world *w)
{
	static const struct {
		unsigned page;
		int parent, child;
	} want[] = {
		{ 0, 0, 0 },	  { 1, -1, -1 },   { 30, -1, -1 },  { 33, 33, -1 },  { 36, 36, 36 },   { 41, -1, -1 },
		{ 45, -1, 45 },	  { 48, 48, 48 },  { 62, -1, -1 },  { 82, -1, -1 },  { 83, 42, 42 },   { 85, 85, 85 },
		{ 96, -1, -1 },	  { 120, 1, 1 },   { 122, 3, 3 },   { 149, 30, 30 }, { 160, -1, -1 },  { 161, 63, 63 },
		{ 179, 81, 81 },  { 200, 45, -1 }, { 201, 46, -1 },
	};
	uint64_t img;
	uint32_t obj;
	size_t i;

	for (i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
		if (want[i].parent >= 0) {
			assert_true(lp_space_peek(w->s, want[i].page * PG, &img, &obj));
			assert_int_equal(img, want[i].parent * PG);
		} else {
			assert_false(lp_space_peek(w->s, want[i].page * PG, &img, &obj));
		}
		if (want[i].child >= 0) {
			assert_true(lp_space_peek(w->child, want[i].page * PG, &img, &obj));
			assert_int_equal(img, want[i].child * PG);
		} else {
			assert_false(lp_space_peek(w->child, want[i].page * PG, &img, &obj));
		}
	}
	assert_false(lp_space_young(w->child));
	assert_false(lp_space_young(w->twin));
	assert_true(lp_space_missing(w->twin) > 0);
}

static void test_settled(void **state)
{
	struct world w;

	build_unsettled(&w);
	assert_int_equal(do_settled(&w), 0);
	check_settled(&w);
	assert_true(lp_space_unsettled(w.twin)); /* its kernel could not be asked */
	destroy(&w);
	each(build_unsettled, do_settled);
}

static void test_booked(void **state)
{
	uint64_t booked, guessed;
	struct world w;
	uint64_t img;
	uint32_t obj;

	build_booked(&w);
	assert_int_equal(do_settled(&w), 0);
	check_settled(&w);
	assert_false(lp_space_peek(w.s, 51 * PG, &img, &obj)); /* a guard page, after the first fork */
	assert_true(lp_space_peek(w.child, 51 * PG, &img, &obj));
	assert_false(lp_space_peek(w.twin, 51 * PG, &img, &obj));
	lp_engine_settlings(w.e, &booked, &guessed);
	assert_int_equal(booked, 1);
	assert_int_equal(guessed, 0);
	assert_false(lp_space_unsettled(w.twin)); /* nor need it be */
	destroy(&w);
	each(build_booked, do_settled);
	each(build, make_changes);
}

/* Whichever allocation fails on the way, reading on and settling later leads to the same. */
static void test_sequence(void **state)
{
	struct world w;
	bool failed;
	long n;

	for (n = 1;; n++) {
		build(&w);
		drain(&w);
		fail_at = n;
		failed = read_messages(&w) != 0;
		fail_at = 0;
		assert_false(lp_space_broken(w.s));
		if (!failed || w.s->nlog)
			assert_true(lp_space_unsettled(w.s));
		assert_int_equal(do_settled(&w), 0);
		assert_false(lp_space_unsettled(w.s));
		if (!failed)
			check_settled(&w);
		destroy(&w);
		if (!failed)
			break;
	}
	assert_true(n > 1);
}

/* The end of a parent cannot fail: its children have what they have, or are broken and say so. */
static void test_parent_ends(void **state)
{
	struct lp_flight *f;
	enum lp_verdict v;
	struct world w;
	uint64_t when;
	bool failed;
	unsigned i;
	long n, broken = 0;

	for (n = 1;; n++) {
		build_unsettled(&w);
		drain(&w);
		fail_at = n;
		lp_space_exit(w.s);
		failed = !fail_at;
		fail_at = 0;
		assert_true(lp_space_dead(w.s));
		assert_false(lp_space_young(w.child));
		for (i = 0; i < FLIGHTS; i++)
			assert_null(lp_flight_head(w.f[i]));
		if (lp_space_broken(w.child)) {
			broken++;
			assert_true(failed);
			assert_false(lp_space_complete(w.child));
			assert_false(lp_space_unsettled(w.child));
			assert_int_equal(lp_space_fault(w.child, 0, PG, &v, &f), -ENOTRECOVERABLE);
			assert_int_equal(lp_space_unmap(w.child, 0, PG), -ENOTRECOVERABLE);
			assert_int_equal(lp_space_remove(w.child, 0, PG), -ENOTRECOVERABLE);
			assert_true(lp_space_broken(w.twin));
			assert_int_equal(lp_engine_next(w.e, PG, 1, 0, &f, &when), -EAGAIN);
		} else {
			uint64_t img;
			uint32_t obj;

			assert_true(lp_space_peek(w.child, 83 * PG, &img, &obj));
			assert_int_equal(img, 42 * PG);
			assert_false(lp_space_peek(w.child, 200 * PG, &img, &obj));
		}
		destroy(&w);
		if (!failed)
			break;
	}
	assert_true(broken > 0);
}

/* So many messages that they are put in order although nobody settles. */
static int overflow(struct world *w)
{
	unsigned i;
	int rc = 0;

	for (i = 0; i < 300 && !rc; i++)
		do
			rc = lp_space_unmap(w->s, (i % 90) * PG, (i % 90 + 1) * PG);
		while (rc == -ENOMEM && !fail_at);
	return rc;
}

static void test_overflow(void **state)
{
	struct world w;
	bool failed;
	long n;

	for (n = 1;; n++) {
		build(&w);
		drain(&w);
		fail_at = n;
		assert_int_equal(overflow(&w), 0);
		failed = !fail_at;
		fail_at = 0;
		assert_int_equal(do_settled(&w), 0);
		assert_false(lp_space_registered(w.s, 0, 90 * PG));
		assert_true(lp_space_registered(w.s, 90 * PG, 91 * PG));
		destroy(&w);
		if (!failed)
			break;
	}
	assert_true(n > 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages), cmocka_unit_test(test_claims),	      cmocka_unit_test(test_settled),
		cmocka_unit_test(test_booked),
		cmocka_unit_test(test_sequence), cmocka_unit_test(test_parent_ends), cmocka_unit_test(test_overflow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
