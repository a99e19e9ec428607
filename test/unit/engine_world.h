/* SPDX-License-Identifier: GPL-2.0-only */
/* One address space, its children and their kernels, for engine_test.c. Included once, after cmocka. */
#ifndef LP_TEST_ENGINE_WORLD_H
#define LP_TEST_ENGINE_WORLD_H

#include "engine/engine.h"

#define PG UINT64_C(0x1000)
#define GIB (UINT64_C(1) << 30)
#define IMG UINT64_C(0x7000000)
#define VMAS 8

/* What is registered in one address space, as its kernel would say. */
struct kernel {
	uint64_t a[VMAS], b[VMAS];
	unsigned n, asked;
	bool busy;
};

struct world {
	struct lp_engine *e;
	struct lp_space *s;
	struct kernel k[4]; /* of s, and of its children */
};

static int there(void *host, uint64_t start, uint64_t len)
{
	struct kernel *k = host;
	unsigned i;

	k->asked++;
	if (k->busy)
		return -EAGAIN;
	for (i = 0; i < k->n; i++)
		if (start >= k->a[i] && start + len <= k->b[i])
			return 1;
	return 0;
}

/* From now on it has these, in pages: "16-20 30-34". */
static void has(struct kernel *k, const char *vmas)
{
	unsigned a, b;
	int used;

	k->n = 0;
	k->busy = false;
	for (; sscanf(vmas, "%u-%u%n", &a, &b, &used) == 2; vmas += used) {
		assert_true(k->n < VMAS);
		k->a[k->n] = a * PG;
		k->b[k->n++] = b * PG;
	}
}

/* Registered: pages 16..48; of them in the images: 16..40, from IMG on. */
static int setup_conf(void **state, bool old_shrink)
{
	const struct lp_engine_conf conf = { .page = PG, .seed = 1, .there = there, .old_shrink = old_shrink };
	struct world *w = calloc(1, sizeof(*w));

	if (!w)
		return -1;
	w->e = lp_engine_new(&conf);
	if (!w->e || lp_space_new(w->e, &w->k[0], &w->s) || lp_space_add_extent(w->s, 16 * PG, 48 * PG) ||
	    lp_space_add_missing(w->s, 16 * PG, 40 * PG, IMG, 1))
		return -1;
	*state = w;
	return 0;
}

static int setup(void **state)
{
	return setup_conf(state, false);
}

static int setup_old(void **state)
{
	return setup_conf(state, true);
}

static int teardown(void **state)
{
	struct world *w = *state;
	int rc;

	if (w->s && lp_space_flights(w->s)) /* a test has failed */
		return -1;
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

static bool registered(const struct lp_space *s, uint64_t start, uint64_t end)
{
	return lp_space_registered(s, start * PG, end * PG);
}

static void remap(struct lp_space *s, uint64_t from, uint64_t to, uint64_t len)
{
	assert_int_equal(lp_space_remap(s, from * PG, to * PG, len * PG), 0);
}

static void unmap(struct lp_space *s, uint64_t start, uint64_t end)
{
	assert_int_equal(lp_space_unmap(s, start * PG, end * PG), 0);
}

static void settle(struct lp_space *s)
{
	assert_true(lp_space_unsettled(s));
	assert_int_equal(lp_space_settled(s), 0);
	assert_false(lp_space_unsettled(s));
}

static struct lp_flight *next(struct world *w, uint64_t bytes)
{
	struct lp_flight *f = NULL;
	uint64_t when;

	assert_int_equal(lp_engine_next(w->e, bytes, 64, 0, &f, &when), 0);
	return f;
}

static void fill(struct lp_flight *f)
{
	const struct lp_piece *p;

	while ((p = lp_flight_head(f)))
		lp_flight_advance(f, p->len);
	assert_int_equal(lp_flight_finish(f), 0);
}

static void fault(struct lp_space *s, uint64_t page, enum lp_verdict want)
{
	struct lp_flight *f;
	enum lp_verdict v;

	assert_int_equal(lp_space_fault(s, page * PG, PG, &v, &f), 0);
	assert_int_equal(v, want);
	if (f)
		assert_int_equal(lp_flight_finish(f), 0);
}

static struct lp_space *fork_of(struct world *w, struct lp_space *s, unsigned child, const char *vmas)
{
	struct lp_space *c = NULL;

	has(&w->k[child], vmas);
	assert_int_equal(lp_space_fork(s, &w->k[child], &c), 0);
	assert_true(lp_space_young(c));
	assert_false(lp_space_unsettled(c)); /* not for it to say */
	return c;
}

#endif
