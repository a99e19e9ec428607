/* SPDX-License-Identifier: GPL-2.0-only */
/* The replay: a run as it was shows no difference; whatever is altered in it is found where it is, or later. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "trace/replay.h"
#include "trace/words.h"

#define NO ((uint64_t)-EAGAIN)
#define K UINT64_C(0x1000)

/* What a daemon may have written: 16 pages, a fault, the background, a REMOVE under way, a fork. */
static const struct lp_rec run[] = {
	{ LP_REC_BEGIN, 0, 0, { 4096, 7, 1, 100, 2, 1 } },
	{ LP_REC_SPACE, 0, 10, { 0, 1000, 2000 } },
	{ LP_REC_EXTENT, 0, 11, { 0, 0x10000, 0x20000 } },
	{ LP_REC_MISSING, 0, 12, { 0, 0x10000, 0x20000, 0x70000, 3 } },
	{ LP_REC_PAGEFAULT, 0, 13, { 0, 0x11123, 1, 0 } },
	{ LP_REC_FAULT, 0, 14, { 0, 0x11000, 0x10000, LP_FILL, 1, 0 } },
	{ LP_REC_PIECE, 0, 15, { 1, 0x11000, K, 0x71000, 3 } },
	{ LP_REC_COPY, 0, 16, { 0, 1, 0x11000, K, K, 0 } },
	{ LP_REC_ADVANCE, 0, 17, { 0, 1, K } },
	{ LP_REC_FINISH, 0, 18, { 0, 1, 0 } },
	{ LP_REC_STALL, 0, 19, { 0, 500 } },
	{ LP_REC_NEXT, 0, 20, { 0x100000, 64, 0, 0, 500, NO } },
	{ LP_REC_NEXT, 0, 600, { 0x100000, 64, 0, 2, 0, 0 } },
	{ LP_REC_PIECE, 0, 601, { 2, 0x12000, 0xe000, 0x72000, 3 } },
	{ LP_REC_COPY, 0, 602, { 0, 2, 0x12000, K, K, 0 } },
	{ LP_REC_ADVANCE, 0, 603, { 0, 2, K } },
	{ LP_REC_REMOVE, 0, 604, { 0, 0x14000, 0x15000, 0 } },
	{ LP_REC_NEXT_WAKE, 0, 605, { 0, 0, 0 } },
	{ LP_REC_COPY, 0, 606, { 0, 2, 0x13000, K, K, 0 } },
	{ LP_REC_ADVANCE, 0, 607, { 0, 2, K } },
	{ LP_REC_FAULT, 0, 608, { 0, 0x14000, 0x10000, LP_ZERO, 0, 0 } },
	{ LP_REC_ZEROPAGE, 0, 609, { 0, 0x14000, K, 0 } },
	{ LP_REC_ANSWERED, 0, 610, { 0, 0x14000 } },
	{ LP_REC_FINISH, 0, 611, { 0, 2, 0 } },
	{ LP_REC_THERE, 0, 612, { 1, 0x10000, 0x10000, 1 } },
	{ LP_REC_FORK, 0, 613, { 0, 1, 0 } },
	{ LP_REC_FAULT, 0, 614, { 0, 0x10000, 0x10000, LP_LATER, 0, 0 } },
	{ LP_REC_DEFER, 0, 615, { 0, 0x10000, 0 } },
	{ LP_REC_SETTLED, 0, 616, { 0, 0 } },
	{ LP_REC_NEXT_DEFERRED, 0, 617, { 0, 1, 0x10000 } },
	{ LP_REC_FAULT, 0, 618, { 0, 0x10000, 0x10000, LP_FILL, 3, 0 } },
	{ LP_REC_PIECE, 0, 619, { 3, 0x10000, K, 0x70000, 3 } },
	{ LP_REC_FAULT, 0, 620, { 0, 0x10000, 0x10000, LP_WAIT, 0, 0 } },
	{ LP_REC_ADVANCE, 0, 621, { 0, 3, K } },
	{ LP_REC_FINISH, 0, 622, { 0, 3, 0 } },
	{ LP_REC_EXIT, 0, 623, { 1 } },
	{ LP_REC_FREE, 0, 624, { 1, 1, 1 } },
	{ LP_REC_EXIT, 0, 625, { 0 } },
	{ LP_REC_FREE, 0, 626, { 0, 1, 1 } },
	{ LP_REC_END, 0, 627, { 0 } },
};
#define N (sizeof(run) / sizeof(run[0]))

/* What the replay says, and at which record. @skip: leave that one out. */
static int replay(const struct lp_rec *recs, size_t skip, size_t *at, char why[256])
{
	struct lp_replay *p = lp_replay_new();
	int rc = 0;
	size_t i;

	assert_non_null(p);
	*why = 0;
	for (i = 0; i < N && !rc; i++)
		if (i != skip)
			rc = lp_replay_step(p, &recs[i], why, 256);
	*at = i - 1;
	lp_replay_free(p);
	return rc;
}

static void test_same(void **state)
{
	char why[256];
	size_t at;
	int rc = replay(run, N, &at, why);

	if (rc)
		print_message("record %zu: %s\n", at, why);
	assert_int_equal(rc, 0);
}

/* Answers of the engine, by kind of field and type of record. */
static bool is_answer(unsigned type, const struct lp_rec_field *f, unsigned i)
{
	switch (type) {
	case LP_REC_FAULT:
		return i >= 3;
	case LP_REC_NEXT:
		return i >= 2;
	case LP_REC_PIECE:
		return true;
	case LP_REC_NEXT_WAKE:
	case LP_REC_NEXT_DEFERRED:
	case LP_REC_FREE:
		return i == 1;
	case LP_REC_FORK:
	case LP_REC_REMOVE:
	case LP_REC_SETTLED:
	case LP_REC_FINISH:
	case LP_REC_DEFER:
		return f->kind == LP_K_RC;
	default:
		return false;
	}
}

static void test_altered(void **state)
{
	struct lp_rec recs[N];
	unsigned k, answers = 0;
	char why[256];
	size_t i, at;
	int rc;

	for (i = 0; i < N; i++) {
		const struct lp_rec_info *t = lp_rec_info(run[i].type);

		for (k = 0; k < t->n; k++) {
			memcpy(recs, run, sizeof(run));
			switch (t->f[k].kind) {
			case LP_K_RC:
				recs[i].v[k] = recs[i].v[k] == NO ? 0 : NO;
				break;
			case LP_K_ADDR:
			case LP_K_LEN:
			case LP_K_IMG:
				recs[i].v[k] += K;
				break;
			case LP_K_VERDICT:
				recs[i].v[k] = (recs[i].v[k] + 1) % 4;
				break;
			default:
				recs[i].v[k] ^= 1;
			}
			rc = replay(recs, N, &at, why);
			if (rc)
				assert_true(at >= i && *why);
			if (!is_answer(run[i].type, &t->f[k], k))
				continue;
			/* Fields that say nothing after an error, and the flight of what is no FILL. */
			if ((run[i].type == LP_REC_NEXT && (run[i].v[5] ? k == 2 || k == 3 : k == 4)) ||
			    (run[i].type == LP_REC_FAULT && run[i].v[3] != LP_FILL && k == 4))
				continue;
			answers++;
			if (!rc || (at != i && at != i + 1))
				print_message("record %zu (%s), field %s: %d at %zu\n", i, t->name, t->f[k].name, rc, at);
			assert_true(rc == LP_REPLAY_DIFFERS || rc == -EINVAL);
			assert_true(at == i || at == i + 1);
		}
	}
	assert_true(answers > 40);
}

/* Without one of these the rest cannot have been. */
static void test_left_out(void **state)
{
	static const uint8_t types[] = { LP_REC_BEGIN, LP_REC_SPACE, LP_REC_MISSING, LP_REC_EXTENT, LP_REC_PIECE, LP_REC_ADVANCE,
					 LP_REC_REMOVE, LP_REC_THERE, LP_REC_FORK, LP_REC_SETTLED, LP_REC_STALL, LP_REC_EXIT };
	char why[256];
	size_t i, k, at;

	for (k = 0; k < sizeof(types); k++) {
		for (i = 0; run[i].type != types[k]; i++)
			;
		if (!replay(run, i, &at, why))
			print_message("without %s (%zu) nothing is found\n", lp_rec_info(types[k])->name, i);
		assert_true(replay(run, i, &at, why) != 0);
		assert_true(at > i && *why);
	}
}

static void test_no_memory(void **state)
{
	struct lp_rec recs[N];
	char why[256];
	size_t at;

	memcpy(recs, run, sizeof(run));
	recs[9].v[2] = (uint64_t)-ENOMEM;
	assert_int_equal(replay(recs, N, &at, why), LP_REPLAY_NO_MEMORY);
	assert_int_equal(at, 9);
}

/* What no daemon does is refused before the engine sees it. */
static void test_senseless(void **state)
{
	static const struct {
		size_t at;
		struct lp_rec rec;
	} cases[] = {
		{ 2, { LP_REC_EXTENT, 0, 1, { 0, 0x10000, 0x10000 } } },
		{ 2, { LP_REC_EXTENT, 0, 1, { 0, 0x10001, 0x20000 } } },
		{ 2, { LP_REC_EXTENT, 0, 1, { 0, 0x10000, UINT64_MAX - 4095 } } },
		{ 2, { LP_REC_EXTENT, 0, 1, { 9, 0x10000, 0x20000 } } },
		{ 1, { LP_REC_SPACE, 0, 1, { 1000000, 1, 1 } } },
		{ 3, { LP_REC_EXTENT, 0, 1, { 0, 0x18000, 0x28000 } } },
		{ 3, { LP_REC_MISSING, 0, 1, { 0, 0x10000, 0x20000, UINT64_MAX, 0 } } },
		{ 10, { LP_REC_MISSING, 0, 1, { 0, 0x20000, 0x30000, 0, 0 } } },
		{ 8, { LP_REC_ADVANCE, 0, 1, { 0, 1, 2 * K } } },
		{ 8, { LP_REC_ADVANCE, 0, 1, { 0, 1, 1 } } },
		{ 8, { LP_REC_ADVANCE, 0, 1, { 0, 77, K } } },
		{ 8, { LP_REC_ADVANCE, 0, 1, { 1, 1, K } } },
		{ 9, { LP_REC_FREE, 0, 1, { 0, 0, 0 } } },
		{ 11, { LP_REC_NEXT, 0, 20, { 0x100000, 1u << 31, 0, 2, 0, 0 } } },
		{ 11, { LP_REC_NEXT, 0, 20, { 0, 1, 0, 2, 0, 0 } } },
		{ 16, { LP_REC_REMAP, 0, 1, { 0, 0x10000, 0x11000, 0x2000, 0 } } },
		{ 16, { LP_REC_REMAP, 0, 1, { 0, 0x10000, UINT64_C(1) << 62, 0x2000, 0 } } },
		{ 26, { LP_REC_UNMAP, 0, 1, { 1, 0x10000, 0x20000, 0 } } },
		{ 12, { LP_REC_BEGIN, 0, 1, { 4096, 1, 1, 1, 1, 1 } } },
		{ 0, { LP_REC_BEGIN, 0, 1, { 4097, 1, 1, 1, 1, 1 } } },
		{ 0, { LP_REC_BEGIN, 0, 1, { 0, 1, 1, 1, 1, 1 } } },
	};
	struct lp_rec recs[N];
	char why[256];
	size_t i, at;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(recs, run, sizeof(run));
		recs[cases[i].at] = cases[i].rec;
		if (replay(recs, N, &at, why) != -EINVAL)
			print_message("case %zu: at %zu: %s\n", i, at, why);
		assert_int_equal(replay(recs, N, &at, why), -EINVAL);
		assert_int_equal(at, cases[i].at);
	}
}

static void test_words(void **state)
{
	char buf[LP_WORDS_MAX];

	lp_rec_words(&run[7], buf);
	assert_string_equal(buf, "ioctl(uffd, UFFDIO_COPY, {dst=0x11000, len=4096, mode=DONTWAKE, copy=4096}) = 0; flight 1");
	lp_rec_words(&run[4], buf);
	assert_string_equal(buf, "read(uffd) = {UFFD_EVENT_PAGEFAULT, address=0x11123, flags=WRITE, ptid=0}");
	lp_rec_words(&run[11], buf);
	assert_string_equal(buf, "engine: nothing for the background before 0.000000: EAGAIN");
	assert_true(lp_rec_about(&run[7], 0x11fff));
	assert_false(lp_rec_about(&run[7], 0x12000));
	assert_true(lp_rec_about(&run[4], 0x11000));
	assert_false(lp_rec_about(&run[1], 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same),	  cmocka_unit_test(test_altered),   cmocka_unit_test(test_left_out),
		cmocka_unit_test(test_no_memory), cmocka_unit_test(test_senseless), cmocka_unit_test(test_words),
	};

	return cmocka_run_group_tests_name("replay", tests, NULL, NULL);
}
