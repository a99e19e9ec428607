/* SPDX-License-Identifier: GPL-2.0-only */
/* CRIU's page-server headers: both layouts, the inference of the layout, hostile lengths. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/criu_ps.h"

#define ADDR UINT64_C(0x7f1234567000)

static const enum lp_ps_layout layouts[] = { LP_PS_24, LP_PS_32 };

/* A GET as CRIU's compiled code sends it: bytes written by hand, padding from the stack. */
static void test_bytes(void **state)
{
	static const uint8_t old[] = { 7, 0, 0, 0, 16, 0, 0, 0, 0x00, 0x70, 0x56, 0x34, 0x12, 0x7f, 0, 0,
				       0xe9, 3, 0, 0, 0, 0, 0, 0 };
	static const uint8_t new[] = { 7, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef, 16, 0, 0, 0, 0, 0, 0, 0,
				       0x00, 0x70, 0x56, 0x34, 0x12, 0x7f, 0, 0, 0xe9, 3, 0, 0, 0, 0, 0, 0 };
	struct lp_ps m;
	enum lp_ps_layout l;
	uint8_t buf[LP_PS_MAX];

	assert_int_equal(lp_ps_infer(old, sizeof(old), &l), 0);
	assert_int_equal(l, LP_PS_24);
	assert_int_equal(lp_ps_get(old, l, &m), 0);
	assert_int_equal(m.cmd, LP_PS_GET);
	assert_int_equal(m.pages, 16);
	assert_int_equal(m.addr, ADDR);
	assert_int_equal(m.dst, 1001);
	assert_int_equal(lp_ps_put(buf, l, &m), sizeof(old));
	assert_memory_equal(buf, old, sizeof(old));

	assert_int_equal(lp_ps_infer(new, sizeof(new), &l), 0);
	assert_int_equal(l, LP_PS_32);
	/* The first 24 bytes are enough: a server reads no more before it knows. */
	assert_int_equal(lp_ps_infer(new, LP_PS_MIN, &l), 0);
	assert_int_equal(l, LP_PS_32);
	assert_int_equal(lp_ps_get(new, l, &m), 0);
	assert_int_equal(m.pages, 16);
	assert_int_equal(m.addr, ADDR);
	assert_int_equal(m.dst, 1001);
	assert_int_equal(lp_ps_put(buf, l, &m), sizeof(new));
	assert_memory_equal(buf + 8, new + 8, sizeof(new) - 8);
	assert_memory_equal(buf + 4, "\0\0\0\0", 4);
}

static void test_round(void **state)
{
	static const struct lp_ps all[] = {
		{ LP_PS_GET, 0, 1, ADDR, 1 },
		{ LP_PS_GET, 0, 1024, 0x10000, 4096 }, /* a pid that looks like an address */
		{ LP_PS_OPEN, 0, 0, 0, 0x3e901 },
		{ LP_PS_OPEN2, 0, 0, 0, 0x3e901 },
		{ LP_PS_PARENT, 0, 0, 0, 0x10002 },
	};
	uint8_t buf[LP_PS_MAX];
	enum lp_ps_layout l;
	struct lp_ps m;
	size_t i, k;

	for (k = 0; k < 2; k++) {
		for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
			memset(buf, 0xa5, sizeof(buf));
			assert_int_equal(lp_ps_put(buf, layouts[k], &all[i]), layouts[k]);
			if (layouts[k] == LP_PS_32)
				memset(buf + 4, 0xff, 4);
			assert_int_equal(lp_ps_infer(buf, LP_PS_MIN, &l), 0);
			assert_int_equal(l, layouts[k]);
			assert_int_equal(lp_ps_get(buf, l, &m), 0);
			assert_int_equal(m.cmd, all[i].cmd);
			assert_int_equal(m.flags, 0);
			assert_int_equal(m.pages, all[i].pages);
			assert_int_equal(m.addr, all[i].addr);
			assert_int_equal(m.dst, all[i].dst);
		}
	}
}

static void test_flags(void **state)
{
	struct lp_ps m = { LP_PS_ADD_F, LP_PS_LAZY_FLAG | LP_PS_PRESENT_FLAG, 3, ADDR, 0x3e901 }, got;
	uint8_t buf[LP_PS_MAX];
	size_t k;

	for (k = 0; k < 2; k++) {
		lp_ps_put(buf, layouts[k], &m);
		assert_int_equal(lp_ps_get(buf, layouts[k], &got), 0);
		assert_int_equal(got.flags, m.flags);
		assert_int_equal(got.cmd, LP_PS_ADD_F);
		buf[0] = LP_PS_GET; /* flags mean something for ADD_F only */
		assert_int_equal(lp_ps_get(buf, layouts[k], &got), -EBADMSG);
	}
}

static void test_hostile(void **state)
{
	static const struct lp_ps bad[] = {
		{ LP_PS_GET, 0, 0, ADDR, 1 },
		{ LP_PS_GET, 0, 1, ADDR + 1, 1 },
		{ LP_PS_GET, 0, 1, UINT64_C(1) << 63, 1 },
		{ LP_PS_GET, 0, 2, (UINT64_C(1) << 63) - 4096, 1 },
		{ LP_PS_ADD_F, LP_PS_PRESENT_FLAG, UINT32_MAX, (UINT64_C(1) << 63) - 4096, 1 },
		{ LP_PS_ADD, 0, 0, 0, 1 },
		{ 0, 0, 1, ADDR, 1 },
		{ 8, 0, 1, ADDR, 1 },
		{ 0x1022, 0, 0, 0, 1 },
		{ 0x1025, 0, 0, 0, 1 },
	};
	struct lp_ps huge = { LP_PS_GET, 0, UINT64_MAX, ADDR, 1 }, m;
	uint8_t buf[LP_PS_MAX];
	enum lp_ps_layout l;
	size_t i, k;

	for (k = 0; k < 2; k++) {
		for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
			assert_int_equal(lp_ps_put(buf, layouts[k], &bad[i]), layouts[k]);
			assert_int_equal(lp_ps_get(buf, layouts[k], &m), -EBADMSG);
		}
	}
	assert_int_equal(lp_ps_put(buf, LP_PS_24, &huge), 0);
	assert_int_equal(lp_ps_put(buf, LP_PS_32, &huge), 32);
	assert_int_equal(lp_ps_get(buf, LP_PS_32, &m), -EBADMSG);
	huge.pages = UINT64_C(1) << 52; /* times the page size it would wrap */
	lp_ps_put(buf, LP_PS_32, &huge);
	assert_int_equal(lp_ps_get(buf, LP_PS_32, &m), -EBADMSG);
	for (i = 0; i < LP_PS_MIN; i++)
		assert_int_equal(lp_ps_infer(buf, i, &l), -EAGAIN);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(lp_ps_infer(buf, sizeof(buf), &l), -EBADMSG);
	memset(buf, 'G', sizeof(buf)); /* some other protocol */
	assert_int_equal(lp_ps_infer(buf, sizeof(buf), &l), -EBADMSG);
	memcpy(buf, "\7\0\0\0\0\0\0\0", 8); /* GET of no pages, old */
	assert_int_equal(lp_ps_infer(buf, sizeof(buf), &l), -EBADMSG);
}

static void test_close(void **state)
{
	struct lp_ps m = { .cmd = LP_PS_CLOSE };
	uint8_t buf[LP_PS_MAX];
	enum lp_ps_layout l;

	lp_ps_put(buf, LP_PS_32, &m);
	assert_int_equal(lp_ps_infer(buf, 24, &l), 0);
	assert_int_equal(l, LP_PS_24);
	assert_int_equal(lp_ps_infer(buf, 32, &l), 0);
	assert_int_equal(l, LP_PS_32);
	assert_int_equal(lp_ps_get(buf, l, &m), 0);
	assert_int_equal(m.cmd, LP_PS_CLOSE);
}

static void test_object(void **state)
{
	enum lp_ps_type t;
	uint64_t id;

	assert_int_equal(lp_ps_object(lp_ps_dst(LP_PS_TASK, 1001), &t, &id), 0);
	assert_int_equal(t, LP_PS_TASK);
	assert_int_equal(id, 1001);
	assert_int_equal(lp_ps_object(lp_ps_dst(LP_PS_SHMEM, UINT32_MAX), &t, &id), 0);
	assert_int_equal(t, LP_PS_SHMEM);
	assert_int_equal(id, UINT32_MAX);
	assert_int_equal(lp_ps_object(5 << 8 | 11, &t, &id), 0); /* CRIU 3.0 */
	assert_int_equal(t, LP_PS_TASK);
	assert_int_equal(lp_ps_object(5 << 8 | 34, &t, &id), 0);
	assert_int_equal(t, LP_PS_SHMEM);
	assert_int_equal(lp_ps_object(5 << 8, &t, &id), -EBADMSG);
	assert_int_equal(lp_ps_object(5 << 8 | 3, &t, &id), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bytes), cmocka_unit_test(test_round), cmocka_unit_test(test_flags),
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_close), cmocka_unit_test(test_object),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
