/* SPDX-License-Identifier: GPL-2.0-only */
/* The range map: every rule of engine/map.h, and random work on many maps against arrays of bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/map.h"
#include "test/lib/model.h"

#define GIB (UINT64_C(1) << 30)
#define TOP (UINT64_C(1) << 47)
#define SPAN 256
#define MAPS 6

static int setup(void **state)
{
	struct lp_pool *p = calloc(1, sizeof(*p));

	if (!p)
		return -1;
	lp_pool_init(p, 1);
	*state = p;
	return 0;
}

/* Every test clears its maps: no node may be left. */
static int teardown(void **state)
{
	struct lp_pool *p = *state;
	int rc = p->nused ? -1 : 0;

	lp_pool_fini(p);
	free(p);
	return rc;
}

static void add(struct lp_pool *p, struct lp_map *m, uint64_t start, uint64_t end, uint64_t img, uint32_t obj)
{
	struct lp_range r = { start, end, img, obj };

	assert_int_equal(lp_map_insert(p, m, &r), 0);
	lp_map_check(m);
}

static void expect(const struct lp_map *m, uint64_t addr, uint64_t start, uint64_t end, uint64_t img)
{
	struct lp_range r;

	assert_true(lp_map_find(m, addr, &r));
	assert_int_equal(r.start, start);
	assert_int_equal(r.end, end);
	assert_int_equal(r.img, img);
}

static void test_merge(void **state)
{
	struct lp_pool *p = *state;
	struct lp_map m = { NULL };

	add(p, &m, 10, 20, 110, 1);
	add(p, &m, 30, 40, 130, 1);
	assert_int_equal(lp_map_count(&m), 2);
	add(p, &m, 20, 30, 120, 1); /* continues both */
	assert_int_equal(lp_map_count(&m), 1);
	expect(&m, 25, 10, 40, 110);
	add(p, &m, 40, 50, 140, 2); /* another object */
	add(p, &m, 50, 60, 151, 2); /* another place in the image */
	assert_int_equal(lp_map_count(&m), 3);
	add(p, &m, 5, 5, 0, 1); /* empty */
	assert_int_equal(lp_map_count(&m), 3);
	assert_int_equal(lp_map_bytes(&m), 50);
	lp_map_clear(p, &m);
	assert_true(lp_map_empty(&m));
}

static void test_find(void **state)
{
	struct lp_pool *p = *state;
	struct lp_map m = { NULL };
	struct lp_range r = { 0 };

	assert_false(lp_map_next(&m, 0, &r));
	add(p, &m, 10, 20, 0, 1);
	add(p, &m, 30, 40, 0, 1);
	assert_false(lp_map_find(&m, 9, &r));
	assert_true(lp_map_find(&m, 10, &r));
	assert_true(lp_map_find(&m, 19, &r));
	assert_false(lp_map_find(&m, 20, &r));
	assert_true(lp_map_next(&m, 20, &r));
	assert_int_equal(r.start, 30);
	assert_false(lp_map_next(&m, 40, &r));
	assert_true(lp_map_prev(&m, UINT64_MAX, &r));
	assert_true(r.end == 40);
	assert_false(lp_map_prev(&m, 0, &r));
	assert_false(lp_map_overlaps(&m, 20, 30));
	assert_true(lp_map_overlaps(&m, 20, 31));
	assert_true(lp_map_overlaps(&m, 19, 20));
	assert_false(lp_map_overlaps(&m, 0, 10));
	lp_map_clear(p, &m);
}

static void test_cut(void **state)
{
	struct lp_pool *p = *state;
	struct lp_map m = { NULL }, out = { NULL };

	add(p, &m, 0, 100, 1000, 1);
	assert_int_equal(lp_map_cut(p, &m, 40, 60, &out), 0);
	lp_map_check(&m);
	expect(&m, 39, 0, 40, 1000);
	expect(&m, 60, 60, 100, 1060);
	expect(&out, 50, 40, 60, 1040);
	assert_int_equal(lp_map_bytes(&m), 80);
	assert_int_equal(lp_map_bytes(&out), 20);
	assert_int_equal(lp_map_cut(p, &m, 45, 55, NULL), 0);
	assert_int_equal(lp_map_cut(p, &m, 60, 60, NULL), 0);
	assert_int_equal(lp_map_bytes(&m), 80);
	assert_int_equal(lp_map_join(p, &m, &out), 0);
	lp_map_check(&m);
	assert_true(lp_map_empty(&out));
	assert_int_equal(lp_map_bytes(&m), 100);
	assert_int_equal(lp_map_cut(p, &m, 0, UINT64_MAX, NULL), 0);
	assert_true(lp_map_empty(&m));
}

static void test_shift_and_clone(void **state)
{
	struct lp_pool *p = *state;
	struct lp_map m = { NULL }, c = { NULL };
	uint64_t i;

	for (i = 0; i < 1000; i++)
		add(p, &m, i * 10, i * 10 + 5, i, 1);
	i = p->nused;
	lp_map_clone(&c, &m);
	assert_int_equal(p->nused, i); /* shared */
	assert_int_equal(lp_map_shift(p, &c, TOP - 20000), 0);
	lp_map_check(&c);
	lp_map_check(&m);
	expect(&m, 5000, 5000, 5005, 500);
	expect(&c, TOP - 15000, TOP - 15000, TOP - 14995, 500);
	assert_int_equal(lp_map_shift(p, &c, -(TOP - 20000)), 0);
	assert_int_equal(lp_map_cut(p, &c, 4000, 6000, NULL), 0);
	expect(&m, 5000, 5000, 5005, 500);
	assert_false(lp_map_overlaps(&c, 4000, 6000));
	assert_int_equal(lp_map_count(&m), 1000);
	assert_int_equal(lp_map_count(&c), 800);
	lp_map_clear(p, &m);
	lp_map_check(&c);
	lp_map_clear(p, &c);
}

static void test_huge(void **state)
{
	static const uint64_t len[] = { 2 * GIB, 6 * GIB, TOP - 8 * GIB };
	struct lp_pool *p = *state;
	size_t i;

	for (i = 0; i < sizeof(len) / sizeof(len[0]); i++) {
		struct lp_map m = { NULL }, out = { NULL };

		add(p, &m, 4096, 4096 + len[i], 7 * GIB, 1);
		assert_int_equal(lp_map_bytes(&m), len[i]);
		assert_int_equal(lp_map_cut(p, &m, 4096, len[i], &out), 0);
		assert_int_equal(lp_map_bytes(&m), 4096);
		expect(&m, len[i], len[i], len[i] + 4096, 7 * GIB + len[i] - 4096);
		assert_int_equal(lp_map_shift(p, &out, 4096), 0);
		assert_int_equal(lp_map_cut(p, &m, len[i], len[i] + 4096, NULL), 0);
		assert_int_equal(lp_map_join(p, &m, &out), 0);
		expect(&m, 5 * GIB < len[i] ? 5 * GIB : GIB, 8192, len[i] + 4096, 7 * GIB);
		lp_map_clear(p, &m);
	}
}

static void test_pool(void **state)
{
	struct lp_pool *p = *state;
	size_t n;

	assert_int_equal(lp_pool_reserve(p, 3), 0);
	assert_true(p->nfree >= 3 * LP_POOL_RESERVE);
	n = p->nfree;
	assert_int_equal(lp_pool_reserve(p, 2), 0);
	assert_int_equal(p->nfree, n);
}

/* Cutting into ranges keeps the tree in order: lp_map_check() knows its rules. */
static void test_order(void **state)
{
	struct lp_pool *p = *state;
	struct lp_map m = { NULL };
	uint64_t i;

	for (i = 0; i < 200; i++)
		add(p, &m, i * 10, i * 10 + 8, i * 100, 1);
	for (i = 0; i < 200; i++) {
		assert_int_equal(lp_map_cut(p, &m, i * 7 % 200 * 10 + 3, i * 7 % 200 * 10 + 5, NULL), 0);
		lp_map_check(&m);
	}
	assert_int_equal(lp_map_count(&m), 400);
	lp_map_clear(p, &m);
}

struct ref {
	uint64_t at[SPAN]; /* image byte + 1, 0: nothing */
};

static void compare(const struct lp_map *m, const struct ref *ref)
{
	uint64_t bytes = 0;
	unsigned i;

	lp_map_check(m);
	for (i = 0; i < SPAN; i++) {
		struct lp_range r;
		bool has = lp_map_find(m, i, &r);

		assert_int_equal(has, ref->at[i] != 0);
		if (has)
			assert_int_equal(r.img + (i - r.start) + 1, ref->at[i]);
		bytes += has;
	}
	assert_int_equal(lp_map_bytes(m), bytes);
}

static void test_random(void **state)
{
	struct lp_pool *p = *state;
	struct lp_map map[MAPS] = { 0 };
	struct ref ref[MAPS] = { 0 };
	uint64_t rng = md_seed(3), img;
	unsigned step, i;

	for (step = 0; step < 40000; step++) {
		unsigned k = md_random(&rng) >> 40, a = k % SPAN, n = 1 + (k / SPAN) % 40, x, y;

		x = (md_random(&rng) >> 40) % MAPS;
		y = (md_random(&rng) >> 40) % MAPS;
		if (a + n > SPAN)
			n = SPAN - a;
		switch ((md_random(&rng) >> 40) % 4) {
		case 0: /* fill it anew */
			img = (md_random(&rng) >> 40) % 3 ? a + 1000 : (md_random(&rng) >> 40);
			assert_int_equal(lp_map_cut(p, &map[x], a, a + n, NULL), 0);
			add(p, &map[x], a, a + n, img, 1);
			for (i = 0; i < n; i++)
				ref[x].at[a + i] = img + i + 1;
			break;
		case 1:
			assert_int_equal(lp_map_cut(p, &map[x], a, a + n, NULL), 0);
			memset(&ref[x].at[a], 0, n * sizeof(ref[x].at[0]));
			break;
		case 2: /* move */ {
			unsigned to = (md_random(&rng) >> 40) % (SPAN - n + 1);
			struct lp_map out = { NULL };
			uint64_t tmp[SPAN];

			memcpy(tmp, &ref[x].at[a], n * sizeof(tmp[0]));
			memset(&ref[x].at[a], 0, n * sizeof(tmp[0]));
			memcpy(&ref[x].at[to], tmp, n * sizeof(tmp[0]));
			assert_int_equal(lp_map_cut(p, &map[x], a, a + n, &out), 0);
			assert_int_equal(lp_map_cut(p, &map[x], to, to + n, NULL), 0);
			assert_int_equal(lp_map_shift(p, &out, (uint64_t)to - a), 0);
			assert_int_equal(lp_map_join(p, &map[x], &out), 0);
			break;
		}
		default: /* fork */
			if (x == y || (step & 3))
				break;
			lp_map_clear(p, &map[y]);
			lp_map_clone(&map[y], &map[x]);
			ref[y] = ref[x];
		}
		if (step % 16 == 0)
			compare(&map[y], &ref[y]);
		compare(&map[x], &ref[x]);
	}
	for (i = 0; i < MAPS; i++)
		lp_map_clear(p, &map[i]);
}

/* Joins and cuts keep the tree flat: a million ranges work without deep recursion. */
static void test_many(void **state)
{
	struct lp_pool *p = *state;
	struct lp_map m = { NULL }, out = { NULL };
	struct lp_range r;
	uint64_t i;

	for (i = 0; i < 300000; i++) {
		r = (struct lp_range){ i * 2, i * 2 + 1, i, 1 };
		assert_int_equal(lp_map_insert(p, &m, &r), 0);
	}
	lp_map_check(&m);
	assert_int_equal(lp_map_cut(p, &m, 1000, 500001, &out), 0);
	assert_int_equal(lp_map_shift(p, &out, TOP), 0);
	assert_int_equal(lp_map_join(p, &m, &out), 0);
	lp_map_check(&m);
	assert_int_equal(lp_map_bytes(&m), 300000);
	lp_map_clear(p, &m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_merge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_find, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shift_and_clone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_huge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pool, setup, teardown),
		cmocka_unit_test_setup_teardown(test_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
