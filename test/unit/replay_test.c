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
	{ LP_REC_EARLY, 0, 607, { 0, 0x18000, K, 2, 3, 0 } },
	{ LP_REC_PIECE, 0, 607, { 3, 0x18000, K, 0x78000, 3 } },
	{ LP_REC_COPY, 0, 607, { 0, 3, 0x18000, K, K, 0 } },
	{ LP_REC_ADVANCE, 0, 607, { 0, 3, K } },
	{ LP_REC_FINISH, 0, 607, { 0, 3, 0 } },
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
	{ LP_REC_FAULT, 0, 618, { 0, 0x10000, 0x10000, LP_FILL, 4, 0 } },
	{ LP_REC_PIECE, 0, 619, { 4, 0x10000, K, 0x70000, 3 } },
	{ LP_REC_FAULT, 0, 620, { 0, 0x10000, 0x10000, LP_WAIT, 0, 0 } },
	{ LP_REC_ADVANCE, 0, 621, { 0, 4, K } },
	{ LP_REC_FINISH, 0, 622, { 0, 4, 0 } },
	{ LP_REC_EXIT, 0, 623, { 1 } },
	{ LP_REC_FREE, 0, 624, { 1, 1, 1 } },
	{ LP_REC_EXIT, 0, 625, { 0 } },
	{ LP_REC_FREE, 0, 626, { 0, 1, 1 } },
	{ LP_REC_END, 0, 627, { 0 } },
};
#define N (sizeof(run) / sizeof(run[0]))

/* Changes as the flags in a record have them. */
#define WHAT(kind, flags) ((kind) | (flags) << 8)
#define FIXED (LP_REMAP_MAYMOVE | LP_REMAP_FIXED)
#define AREA (LP_REMAP_MAYMOVE | LP_REMAP_AREA)
#define GREW (AREA | LP_REMAP_GREW)

/*
 * The kernel's order: pages that read as zeros in children, then a fork, then what
 * makes room, a move there and a REMOVE. They are read in another order. Then
 * growth, and a book that is lost.
 */
static const struct lp_rec booked[] = {
	{ LP_REC_BEGIN, 0, 0, { 4096, 7, 1, 100, 2, 1 } },
	{ LP_REC_SPACE, 0, 10, { 0, 1000, 2000 } },
	{ LP_REC_EXTENT, 0, 11, { 0, 0x10000, 0x20000 } },
	{ LP_REC_MISSING, 0, 12, { 0, 0x10000, 0x20000, 0x70000, 3 } },
	{ LP_REC_BOOK, 0, 13, { 0, 0x100 } },
	{ LP_REC_CHANGE, 0, 14, { 0, LP_CHANGE_WIPE, 0x1e000, 2 * K, 0, 0 } }, /* 5 */
	{ LP_REC_CHANGE, 0, 15, { 0, LP_CHANGE_FORK, 0, 0, 0x101, 0 } },
	{ LP_REC_CHANGE, 0, 16, { 0, LP_CHANGE_UNMAP, 0x18000, K, 0, 0 } },
	{ LP_REC_CHANGE, 0, 17, { 0, WHAT(LP_CHANGE_REMAP, FIXED), 0x10000, K, 0x18000, K } },
	{ LP_REC_CHANGE, 0, 18, { 0, LP_CHANGE_REMOVE, 0x11000, K, 0x102, 0 } },
	{ LP_REC_REMAP, 0, 19, { 0, 0x10000, 0x18000, K, 0 } }, /* 10 */
	{ LP_REC_UNMAP, 0, 20, { 0, 0x10000, 0x11000, 0 } },
	{ LP_REC_CALL, 0, 21, { 0, 0x102 } },
	{ LP_REC_REMOVE, 0, 22, { 0, 0x11000, 0x12000, 0 } },
	{ LP_REC_UNMAP, 0, 23, { 0, 0x18000, 0x19000, 0 } },
	{ LP_REC_THERE, 0, 24, { 1, 0x10000, 0x10000, 1 } }, /* 15 */
	{ LP_REC_THERE, 0, 25, { 1, 0xf000, 3 * K, 0 } },
	{ LP_REC_THERE, 0, 26, { 1, 0xf000, 2 * K, 0 } },
	{ LP_REC_THERE, 0, 27, { 1, 0x17000, 3 * K, 1 } },
	{ LP_REC_THERE, 0, 28, { 1, 0x17000, 2 * K, 1 } },
	{ LP_REC_FORK, 0, 29, { 0, 1, 0 } }, /* 20 */
	{ LP_REC_BOOK, 0, 30, { 1, 0x101 } },
	{ LP_REC_SETTLED, 0, 31, { 0, 0 } },
	{ LP_REC_FAULT, 0, 32, { 1, 0x18000, K, LP_FILL, 1, 0 } },
	{ LP_REC_PIECE, 0, 33, { 1, 0x18000, K, 0x78000, 3 } },
	{ LP_REC_FINISH, 0, 34, { 1, 1, 0 } }, /* 25 */
	{ LP_REC_FAULT, 0, 35, { 1, 0x11000, K, LP_FILL, 2, 0 } },
	{ LP_REC_PIECE, 0, 36, { 2, 0x11000, K, 0x71000, 3 } },
	{ LP_REC_FINISH, 0, 37, { 1, 2, 0 } },
	{ LP_REC_FAULT, 0, 38, { 1, 0x1e000, K, LP_ZERO, 0, 0 } },
	{ LP_REC_FAULT, 0, 39, { 0, 0x18000, K, LP_FILL, 3, 0 } }, /* 30 */
	{ LP_REC_PIECE, 0, 40, { 3, 0x18000, K, 0x70000, 3 } },
	{ LP_REC_FINISH, 0, 41, { 0, 3, 0 } },
	{ LP_REC_FAULT, 0, 42, { 0, 0x11000, K, LP_ZERO, 0, 0 } },
	{ LP_REC_CHANGE, 0, 43, { 0, WHAT(LP_CHANGE_REMAP, GREW), 0x1f000, K, 0, 2 * K } },
	{ LP_REC_CHANGE, 0, 44, { 0, LP_CHANGE_UNMAP, 0x20000, K, 0, 0 } }, /* 35 */
	{ LP_REC_BOOK_LOST, 0, 45, { 0 } },
	{ LP_REC_UNMAP, 0, 46, { 0, 0x20000, 0x21000, 0 } },
	{ LP_REC_SETTLED, 0, 47, { 0, 0 } },
	{ LP_REC_EXIT, 0, 48, { 1 } },
	{ LP_REC_BOOK_LOST, 0, 49, { 1 } }, /* 40 */
	{ LP_REC_FREE, 0, 50, { 1, 1, 1 } },
	{ LP_REC_EXIT, 0, 51, { 0 } },
	{ LP_REC_FREE, 0, 52, { 0, 1, 1 } },
	{ LP_REC_END, 0, 53, { 0 } },
};
#define NBOOKED (sizeof(booked) / sizeof(booked[0]))

/* What the replay says, and at which record. @skip: leave that one out. */
static int replay_n(const struct lp_rec *recs, size_t n, size_t skip, size_t *at, char why[256])
{
	struct lp_replay *p = lp_replay_new();
	int rc = 0;
	size_t i;

	assert_non_null(p);
	*why = 0;
	for (i = 0; i < n && !rc; i++)
		if (i != skip)
			rc = lp_replay_step(p, &recs[i], why, 256);
	*at = i - 1;
	lp_replay_free(p);
	return rc;
}

static int replay(const struct lp_rec *recs, size_t skip, size_t *at, char why[256])
{
	return replay_n(recs, N, skip, at, why);
}

static void test_same(void **state)
{
	char why[256];
	size_t at;
	int rc = replay(run, N, &at, why);

	if (!rc)
		rc = replay_n(booked, NBOOKED, NBOOKED, &at, why);
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
	case LP_REC_EARLY:
		return i >= 4;
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

/* How many answers there were. */
static unsigned alter(const struct lp_rec *orig, size_t n)
{
	struct lp_rec recs[NBOOKED];
	unsigned k, answers = 0;
	char why[256];
	size_t i, at;
	int rc;

	assert_true(n <= NBOOKED);
	for (i = 0; i < n; i++) {
		const struct lp_rec_info *t = lp_rec_info(orig[i].type);

		for (k = 0; k < t->n; k++) {
			memcpy(recs, orig, n * sizeof(*orig));
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
			rc = replay_n(recs, n, n, &at, why);
			if (rc)
				assert_true(at >= i && *why);
			if (!is_answer(orig[i].type, &t->f[k], k))
				continue;
			/* Fields that say nothing after an error, and the flight of what is no FILL. */
			if ((orig[i].type == LP_REC_NEXT && (orig[i].v[5] ? k == 2 || k == 3 : k == 4)) ||
			    (orig[i].type == LP_REC_FAULT && orig[i].v[3] != LP_FILL && k == 4))
				continue;
			answers++;
			if (!rc || (at != i && at != i + 1))
				print_message("record %zu (%s), field %s: %d at %zu\n", i, t->name, t->f[k].name, rc, at);
			assert_true(rc == LP_REPLAY_DIFFERS || rc == -EINVAL);
			assert_true(at == i || at == i + 1);
		}
	}
	return answers;
}

static void test_altered(void **state)
{
	assert_true(alter(run, N) > 40);
	assert_true(alter(booked, NBOOKED) > 30);
}

/* What of the kernel's order decides. */
static void test_altered_book(void **state)
{
	static const struct {
		size_t at;
		unsigned field;
		uint64_t value;
		size_t found;
	} cases[] = {
		{ 4, 0, 0, 5 }, /* left out: as all that have field 0 */
		{ 5, 1, LP_CHANGE_KEEP, 29 },
		{ 5, 2, 0x1f000, 29 },
		{ 6, 0, 0, 22 },
		{ 6, 4, 0x103, 22 },
		{ 8, 0, 0, 22 },
		{ 8, 2, 0x12000, 22 },
		{ 12, 1, 0x103, 26 }, /* sent before anything was entered */
		{ 21, 1, 0x103, 22 },
		{ 34, 0, 0, 35 },
	};
	struct lp_rec recs[NBOOKED];
	char why[256];
	size_t i, at;
	int rc;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(recs, booked, sizeof(booked));
		if (cases[i].field)
			recs[cases[i].at].v[cases[i].field] = cases[i].value;
		rc = replay_n(recs, NBOOKED, cases[i].field ? NBOOKED : cases[i].at, &at, why);
		if (rc != LP_REPLAY_DIFFERS || at != cases[i].found)
			print_message("case %zu: %d at %zu: %s\n", i, rc, at, why);
		assert_int_equal(rc, LP_REPLAY_DIFFERS);
		assert_int_equal(at, cases[i].found);
	}
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

#define TOP (UINT64_C(1) << 62)
#define CHANGE(...) { LP_REC_CHANGE, 0, 1, { 0, __VA_ARGS__ } }

/* The same of the book. */
static void test_senseless_book(void **state)
{
	static const struct {
		size_t at;
		int rc;
		struct lp_rec rec;
	} cases[] = {
		{ 4, -EINVAL, { LP_REC_BOOK, 0, 1, { 0, 0 } } },
		{ 4, -EINVAL, { LP_REC_BOOK, 0, 1, { 9, 1 } } },
		{ 40, -EINVAL, { LP_REC_BOOK, 0, 1, { 1, 7 } } }, /* it is dead */
		{ 40, LP_REPLAY_DIFFERS, { LP_REC_CHANGE, 0, 1, { 1, LP_CHANGE_UNMAP, 0x10000, K } } },
		{ 5, LP_REPLAY_DIFFERS, CHANGE(LP_CHANGE_UNMAP, 0x20000, K) }, /* nothing is there */
		{ 5, LP_REPLAY_DIFFERS, CHANGE(LP_CHANGE_REMOVE, 0x10000, K, 7) }, /* nothing is under way */
		{ 5, -EINVAL, CHANGE(0, 0x10000, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_LAST + 1, 0x10000, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP, 0x10001, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP, 0x10000, 1) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP, TOP, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP, 0x10000, TOP) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP, 0x10000, -0x10000) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP, 0x10000, K, 0, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP, 0x10000, K, K) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_UNMAP, 1), 0x10000, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_UNMAP | UINT64_C(1) << 40, 0x10000, K) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_REMAP, 32), 0x10000, K, 0, K) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_REMAP, FIXED | AREA), 0x10000, K, 0x30000, K) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_REMAP, AREA), 0x10000, K, TOP, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_REMAP | UINT64_C(1) << 63, 0x10000, K, 0, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_REMAP, 0x10000, K, 0, 1) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_REMAP, 0x10000, K, 0, TOP) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_REMAP, LP_REMAP_MAYMOVE), 0x10000, K, 0x30000, K) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_REMAP, LP_REMAP_GREW), 0x10000, K, 0, K) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_REMAP, FIXED), 0x10000, K, 0x30001, K) },
		{ 5, -EINVAL, CHANGE(WHAT(LP_CHANGE_REMAP, FIXED), 0x10000, K, TOP, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_FORK) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_FORK, K, 0, 7) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_REMOVE, 0x10000, K) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_WIPE, 0x10000, K, 7) },
		{ 5, -EINVAL, CHANGE(LP_CHANGE_GUARD, 0x10000, K, 7) },
		{ 12, -EINVAL, { LP_REC_CALL, 0, 1, { 0, 0 } } },
		{ 21, -EINVAL, { LP_REC_CALL, 0, 1, { 1, 7 } } }, /* a young child */
		{ 13, -EINVAL, { LP_REC_UNMAP, 0, 1, { 0, 0x11000, 0x12000, 0 } } }, /* CALL came before */
		{ 13, -EINVAL, { LP_REC_CALL, 0, 1, { 0, 0x103 } } },
	};
	struct lp_rec recs[NBOOKED];
	char why[256];
	size_t i, at;
	int rc;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		memcpy(recs, booked, sizeof(booked));
		recs[cases[i].at] = cases[i].rec;
		rc = replay_n(recs, NBOOKED, NBOOKED, &at, why);
		if (rc != cases[i].rc || at != cases[i].at)
			print_message("case %zu: %d at %zu: %s\n", i, rc, at, why);
		assert_int_equal(rc, cases[i].rc);
		assert_int_equal(at, cases[i].at);
	}
}

/* A task may ask its kernel for anything, and it is entered before anybody knows what came of it. */
static void test_asked_for(void **state)
{
	static const struct lp_rec asked[] = {
		CHANGE(LP_CHANGE_UNMAP, TOP - K, TOP - K),
		CHANGE(LP_CHANGE_UNMAP, 0, TOP - K),
		CHANGE(LP_CHANGE_UNMAP, 0x10000, 0),
		CHANGE(LP_CHANGE_KEEP, 0, TOP - K),
		CHANGE(LP_CHANGE_DOFORK, 0x1e000, TOP - K),
		CHANGE(LP_CHANGE_GUARD, 0, TOP - K),
		CHANGE(LP_CHANGE_REMAP, 0x10000, TOP - K, 0, 0),
		CHANGE(WHAT(LP_CHANGE_REMAP, 15), 0x10000, 0, 0x10000, TOP - K),
		CHANGE(WHAT(LP_CHANGE_REMAP, 15), 0x10000, K, TOP - K, TOP - K),
		CHANGE(WHAT(LP_CHANGE_REMAP, 7), 0x10000, 8 * K, 0x14000, 8 * K),
		CHANGE(WHAT(LP_CHANGE_REMAP, 8), 0x10000, K, 0, TOP - K),
		CHANGE(WHAT(LP_CHANGE_REMAP, AREA | 4), 0x10000, 8 * K, 0x14000, 8 * K), /* a wish */
		CHANGE(WHAT(LP_CHANGE_REMAP, AREA), 0x10000, 8 * K, TOP - K, TOP - K),
		CHANGE(WHAT(LP_CHANGE_REMAP, GREW), 0x10000, 0, 0, TOP - K),
		CHANGE(WHAT(LP_CHANGE_REMAP, 1), TOP - K, TOP - K, 0, TOP - K),
	};
	struct lp_rec recs[NBOOKED];
	char why[256];
	size_t i, k, at;

	/* In front of the fork, and of its settled moment; also where that never comes. */
	for (i = 0; i < sizeof(asked) / sizeof(asked[0]); i++) {
		for (k = 7; k < 10; k++) {
			memcpy(recs, booked, sizeof(booked));
			recs[k] = asked[i];
			if (replay_n(recs, NBOOKED, NBOOKED, &at, why) == -EINVAL)
				print_message("case %zu: at %zu: %s\n", i, at, why);
			assert_true(replay_n(recs, NBOOKED, NBOOKED, &at, why) != -EINVAL);
			recs[22] = (struct lp_rec){ LP_REC_EXIT, 0, 31, { 0 } };
			assert_true(replay_n(recs, NBOOKED, NBOOKED, &at, why) != -EINVAL);
			assert_true(at >= 22);
		}
	}
}

static void says(const struct lp_rec *r, const char *words)
{
	char buf[LP_WORDS_MAX];

	lp_rec_words(r, buf);
	assert_string_equal(buf, words);
}

static void test_words_book(void **state)
{
	const struct lp_rec grew = CHANGE(WHAT(LP_CHANGE_REMAP, 9), 0x10000, K, 0, 2 * K),
			    moved = CHANGE(WHAT(LP_CHANGE_REMAP, 7), 0x10000, K, 0x30000, 2 * K),
			    odd = CHANGE(WHAT(LP_CHANGE_REMAP, UINT64_C(0x61)), 0x10000, K, 0, K),
			    room = CHANGE(WHAT(LP_CHANGE_REMAP, GREW), 0x10000, K, 0x30000, 2 * K),
			    kept = CHANGE(WHAT(LP_CHANGE_REMAP, AREA | LP_REMAP_DONTUNMAP), 0x10000, K, 0x30000, K),
			    guard = CHANGE(LP_CHANGE_GUARD, 0x10000, K), none = CHANGE(77, 0x10000, K, 0, 0);

	says(&booked[4], "book 0x100: from here on the kernel's order of changes is known");
	says(&booked[5], "madvise(0x1e000, 8192, MADV_WIPEONFORK)");
	says(&booked[6], "fork() = book 0x101");
	says(&booked[7], "munmap(0x18000, 4096)");
	says(&booked[8], "mremap(0x10000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_FIXED, 0x18000)");
	says(&booked[9], "madvise(0x11000, 4096, MADV_DONTNEED or its like), number 0x102");
	says(&booked[12], "the UFFD_EVENT_REMOVE that follows is of madvise() number 0x102");
	says(&booked[36], "the book lacks changes: until the next settled moment their order is guessed");
	says(&grew, "mremap(0x10000, 4096, 8192, MREMAP_MAYMOVE): grew");
	says(&moved, "mremap(0x10000, 4096, 8192, MREMAP_MAYMOVE|MREMAP_FIXED|MREMAP_DONTUNMAP, 0x30000)");
	says(&odd, "mremap(0x10000, 4096, 4096, MREMAP_MAYMOVE|0x60)");
	says(&room, "mremap(0x10000, 4096, 8192, MREMAP_MAYMOVE): grew, room at 0x30000");
	says(&kept, "mremap(0x10000, 4096, 4096, MREMAP_MAYMOVE|MREMAP_DONTUNMAP): room at 0x30000");
	says(&booked[34], "mremap(0x1f000, 4096, 8192, MREMAP_MAYMOVE): grew");
	says(&guard, "madvise(0x10000, 4096, MADV_GUARD_INSTALL)");
	says(&none, "unknown change 0x4d");

	assert_true(lp_rec_about(&booked[5], 0x1ffff));
	assert_false(lp_rec_about(&booked[5], 0x20000));
	assert_false(lp_rec_about(&booked[6], 0x101)); /* a name */
	assert_true(lp_rec_about(&booked[9], 0x11000));
	assert_false(lp_rec_about(&booked[9], 0x102)); /* a number */
	assert_true(lp_rec_about(&grew, 0x11000));
	assert_false(lp_rec_about(&grew, 0x12000));
	assert_false(lp_rec_about(&grew, 0));
	assert_true(lp_rec_about(&room, 0x31000));
	assert_false(lp_rec_about(&room, 0x11000));
	assert_true(lp_rec_about(&moved, 0x10fff));
	assert_false(lp_rec_about(&moved, 0x11000));
	assert_true(lp_rec_about(&moved, 0x31fff));
	assert_false(lp_rec_about(&moved, 0x32000));
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
		cmocka_unit_test(test_same),	      cmocka_unit_test(test_altered),
		cmocka_unit_test(test_altered_book),  cmocka_unit_test(test_left_out),
		cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_senseless),
		cmocka_unit_test(test_senseless_book), cmocka_unit_test(test_asked_for),
		cmocka_unit_test(test_words),	      cmocka_unit_test(test_words_book),
	};

	return cmocka_run_group_tests_name("replay", tests, NULL, NULL);
}
