/* SPDX-License-Identifier: GPL-2.0-only */
/* Records of the trace: what goes in comes out, no flipped bit passes, none is lost unseen. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "trace/record.h"

/* A record of @type with the largest (or smallest) values that its fields bear. */
static struct lp_rec extreme(unsigned type, bool most)
{
	const struct lp_rec_info *t = lp_rec_info(type);
	struct lp_rec r = { .type = type, .thread = most ? UINT16_MAX : 0, .time = most ? UINT64_MAX : 0 };
	unsigned i;

	for (i = 0; i < t->n; i++) {
		switch (t->f[i].kind) {
		case LP_K_SPACE:
		case LP_K_OBJ:
		case LP_K_PID:
			r.v[i] = most ? UINT32_MAX : 0;
			break;
		case LP_K_RC:
			r.v[i] = most ? (uint64_t)-4095 : 1;
			break;
		case LP_K_VERDICT:
			r.v[i] = most ? 3 : 0;
			break;
		case LP_K_MARK:
			r.v[i] = most ? LP_MARK_LOST : LP_MARK_ARMED;
			break;
		case LP_K_HOW:
			r.v[i] = most ? LP_HOW_MAP : LP_HOW_TRY;
			break;
		default:
			r.v[i] = most ? UINT64_MAX : 0;
		}
	}
	return r;
}

static void assert_same(const struct lp_rec *a, const struct lp_rec *b)
{
	unsigned i;

	assert_int_equal(a->type, b->type);
	assert_int_equal(a->thread, b->thread);
	assert_true(a->time == b->time);
	for (i = 0; i < lp_rec_info(a->type)->n; i++)
		assert_true(a->v[i] == b->v[i]);
}

static void test_round_trip(void **state)
{
	uint8_t buf[LP_REC_MAX];
	unsigned type, types = 0;
	struct lp_rec in, out;
	size_t n, k;
	int most;

	for (type = 0; type < 300; type++) {
		if (!lp_rec_info(type))
			continue;
		types++;
		assert_int_equal(lp_rec_by_name(lp_rec_info(type)->name), type);
		for (most = 0; most < 2; most++) {
			in = extreme(type, most);
			n = lp_rec_encode(&in, 77, buf);
			assert_true(n > LP_REC_HEAD && n <= LP_REC_MAX);
			assert_int_equal(lp_rec_decode(buf, n, 77, &out), n);
			assert_same(&in, &out);
			/* Whatever follows is not looked at; what ends too early goes on behind. */
			assert_int_equal(lp_rec_decode(buf, sizeof(buf), 77, &out), n);
			for (k = 0; k < n; k++)
				assert_int_equal(lp_rec_decode(buf, k, 77, &out), -EAGAIN);
		}
	}
	assert_true(types > 20);
	assert_int_equal(lp_rec_by_name("no such"), 0);
}

static void test_small(void **state)
{
	/* What a copied chunk costs; the figure of doc/design.md. */
	struct lp_rec r = { .type = LP_REC_COPY, .thread = 3, .time = UINT64_C(5000000000),
			    .v = { 1, 20000, UINT64_C(0x7f1234567000), 65536, 65536, 0 } };
	uint8_t buf[LP_REC_MAX];

	assert_in_range(lp_rec_encode(&r, 1000000, buf), LP_REC_HEAD + 1, 32);
}

static void test_refused(void **state)
{
	struct lp_rec r = extreme(LP_REC_FAULT, false);
	uint8_t buf[LP_REC_MAX];

	r.v[0] = UINT64_C(1) << 32;
	assert_int_equal(lp_rec_encode(&r, 0, buf), 0);
	r = extreme(LP_REC_FAULT, false);
	r.v[3] = 4;
	assert_int_equal(lp_rec_encode(&r, 0, buf), 0);
	r = extreme(LP_REC_FAULT, false);
	r.v[5] = 2;
	assert_int_equal(lp_rec_encode(&r, 0, buf), 0);
	r.type = 0;
	assert_int_equal(lp_rec_encode(&r, 0, buf), 0);
	r.type = 255;
	assert_int_equal(lp_rec_encode(&r, 0, buf), 0);
}

static void test_damage(void **state)
{
	struct lp_rec in = extreme(LP_REC_REMAP, true), out;
	uint8_t buf[LP_REC_MAX];
	size_t n = lp_rec_encode(&in, 5, buf), bit;
	int rc;

	/* Another's number: one before it is missing, or it was moved. */
	assert_int_equal(lp_rec_decode(buf, n, 4, &out), -EBADMSG);
	assert_int_equal(lp_rec_decode(buf, n, 6, &out), -EBADMSG);
	for (bit = 0; bit < n * 8; bit++) {
		buf[bit / 8] ^= 1 << bit % 8;
		rc = lp_rec_decode(buf, n, 5, &out);
		/* A length that grew may look like a record that was cut off. */
		assert_true(rc == -EBADMSG || (rc == -EAGAIN && bit / 8 == 5));
		assert_int_equal(lp_rec_decode(buf, n, 5, &out) > 0, 0);
		buf[bit / 8] ^= 1 << bit % 8;
	}
	assert_int_equal(lp_rec_decode(buf, n, 5, &out), n);
}

/* The check that these @n bytes must have to be record 0. */
static void mend(uint8_t *buf, size_t n)
{
	uint64_t check;
	unsigned i;

	buf[5] = n;
	check = XXH3_64bits_withSeed(buf + 4, n - 4, 0);
	for (i = 0; i < 4; i++)
		buf[i] = check >> 8 * i;
}

/* With the right check, but not what this version writes. */
static void test_foreign(void **state)
{
	struct lp_rec in = extreme(LP_REC_SETTLED, false), out;
	uint8_t good[LP_REC_MAX], buf[LP_REC_MAX];
	size_t n = lp_rec_encode(&in, 0, good);

	/* time, space and rc: a byte each */
	assert_int_equal(n, LP_REC_HEAD + 3);
	memcpy(buf, good, n);
	mend(buf, n);
	assert_int_equal(lp_rec_decode(buf, n, 0, &out), n);
	buf[4] = 200; /* no such type */
	mend(buf, n);
	assert_int_equal(lp_rec_decode(buf, n, 0, &out), -EPROTO);
	buf[4] = LP_REC_EXIT; /* has a field less */
	mend(buf, n);
	assert_int_equal(lp_rec_decode(buf, n, 0, &out), -EPROTO);
	buf[4] = LP_REC_EXTENT; /* has one more */
	mend(buf, n);
	assert_int_equal(lp_rec_decode(buf, n, 0, &out), -EPROTO);
	memcpy(buf, good, n);
	buf[n - 1] = 4; /* rc 2 */
	mend(buf, n);
	assert_int_equal(lp_rec_decode(buf, n, 0, &out), -EPROTO);
	memcpy(buf, good, n);
	buf[n - 2] = 0x80; /* 0 in two bytes: rc is the second */
	buf[n - 1] = 0;
	buf[n] = 0;
	mend(buf, n + 1);
	assert_int_equal(lp_rec_decode(buf, n + 1, 0, &out), -EPROTO);
	memset(buf + LP_REC_HEAD, 0xff, 10); /* a time of more than 64 bits */
	memset(buf + LP_REC_HEAD + 10, 0, 2);
	mend(buf, LP_REC_HEAD + 12);
	assert_int_equal(lp_rec_decode(buf, LP_REC_HEAD + 12, 0, &out), -EPROTO);
	buf[LP_REC_HEAD + 9] = 1; /* 64 bits: the last time that there is */
	mend(buf, LP_REC_HEAD + 12);
	assert_int_equal(lp_rec_decode(buf, LP_REC_HEAD + 12, 0, &out), LP_REC_HEAD + 12);
	assert_true(out.time == UINT64_MAX);
}

static void test_head(void **state)
{
	uint8_t buf[LP_TRACE_HEAD];
	unsigned version, k;

	lp_trace_head(buf);
	assert_int_equal(lp_trace_head_check(buf, sizeof(buf), &version), 0);
	assert_int_equal(version, LP_TRACE_VERSION);
	for (k = 0; k < sizeof(buf); k++)
		assert_int_equal(lp_trace_head_check(buf, k, &version), -EAGAIN);
	buf[LP_TRACE_HEAD - 1]++;
	assert_int_equal(lp_trace_head_check(buf, sizeof(buf), &version), -EPROTO);
	assert_int_equal(version, LP_TRACE_VERSION + 1);
	buf[LP_TRACE_HEAD - 1] = 0;
	assert_int_equal(lp_trace_head_check(buf, sizeof(buf), &version), -EPROTO);
	/* Version 1 only lacks some types of records. */
	buf[LP_TRACE_HEAD - 1] = 1;
	assert_int_equal(lp_trace_head_check(buf, sizeof(buf), &version), 0);
	assert_int_equal(version, 1);
	buf[2] ^= 1;
	assert_int_equal(lp_trace_head_check(buf, sizeof(buf), &version), -EBADMSG);
	assert_int_equal(lp_trace_head_check(buf, 3, &version), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_small), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_damage),	   cmocka_unit_test(test_foreign), cmocka_unit_test(test_head),
	};

	return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
