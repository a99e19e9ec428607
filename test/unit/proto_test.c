/* SPDX-License-Identifier: GPL-2.0-only */
/* The protocol's codec: what goes in comes out, every limit holds, and no flipped bit passes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/proto.h"

#define PG 4096u

static struct lp_str str(const char *s)
{
	return (struct lp_str){ s, strlen(s) };
}

static void test_hello(void **state)
{
	struct lp_hello in = { .vmin = 1, .vmax = 3, .role = LP_ROLE_BULK, .encodings = 0x37, .features = 9,
			       .ident = { 1, 2, 3, [15] = 16 }, .name = str("redis-1.a") };
	struct lp_hello out;
	uint8_t buf[256];
	ssize_t n, k;

	n = lp_put_hello(buf, sizeof(buf), &in);
	assert_true(n > 0);
	assert_int_equal(lp_get_hello(buf, n, &out), 0);
	assert_int_equal(out.vmin, 1);
	assert_int_equal(out.vmax, 3);
	assert_int_equal(out.role, LP_ROLE_BULK);
	assert_int_equal(out.encodings, 0x37);
	assert_int_equal(out.features, 9);
	assert_memory_equal(out.ident, in.ident, LP_IDENT_LEN);
	assert_int_equal(out.name.n, 9);
	assert_memory_equal(out.name.p, "redis-1.a", 9);
	for (k = 0; k < n; k++) {
		assert_int_equal(lp_get_hello(buf, k, &out), -EBADMSG);
		assert_int_equal(lp_put_hello(buf, k, &in), -ENOSPC);
	}
	assert_int_equal(lp_get_hello(buf, n + 1, &out), -EBADMSG);
	in.vmin = 4;
	n = lp_put_hello(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_hello(buf, n, &out), -EBADMSG);
	in.vmin = 1;
	in.name.n = 0;
	n = lp_put_hello(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_hello(buf, n, &out), -EBADMSG);
	in.role = LP_ROLE_CONTROL;
	n = lp_put_hello(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_hello(buf, n, &out), 0);
}

static void test_names(void **state)
{
	static const char *const good[] = { "a", "A-b_c.d@e+f", "0" };
	static const char *const bad[] = { "", ".", "..", ".hidden", "-x", "a/b", "a b", "a\n", "\xc3\xa4", "a:b" };
	char longest[LP_CKPT_NAME_MAX + 2];
	size_t i;

	for (i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(lp_ckpt_name_ok(good[i], strlen(good[i])));
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(lp_ckpt_name_ok(bad[i], strlen(bad[i])));
	assert_false(lp_ckpt_name_ok("a\0b", 3));
	memset(longest, 'a', sizeof(longest));
	assert_true(lp_ckpt_name_ok(longest, LP_CKPT_NAME_MAX));
	assert_false(lp_ckpt_name_ok(longest, LP_CKPT_NAME_MAX + 1));
	assert_true(lp_file_name_ok("pages-1.img", 11));
	assert_false(lp_file_name_ok("../x", 4));
	assert_false(lp_file_name_ok("..", 2));
	assert_false(lp_file_name_ok("a\0b", 3));
	assert_false(lp_file_name_ok("a\nb", 3));
}

static void test_frame(void **state)
{
	uint8_t buf[LP_FRAME_HEADER + 8] = { 0 }, copy[sizeof(buf)];
	struct lp_frame f;
	size_t bit;

	memcpy(buf + LP_FRAME_HEADER, "12345678", 8);
	assert_int_equal(lp_frame_close(buf, LP_MSG_GET, 0, 77, 8, 0), sizeof(buf));
	assert_int_equal(lp_frame_get(buf, true, &f), 0);
	assert_int_equal(f.type, LP_MSG_GET);
	assert_int_equal(f.id, 77);
	assert_int_equal(f.meta, 8);
	assert_int_equal(lp_frame_check(buf, buf + LP_FRAME_HEADER), 0);
	/* Any bit that flips on the way is found, in the header or by the sum. */
	for (bit = 0; bit < sizeof(buf) * 8; bit++) {
		memcpy(copy, buf, sizeof(buf));
		copy[bit / 8] ^= 1 << bit % 8;
		if (!lp_frame_get(copy, true, &f) && f.meta <= 8)
			assert_int_equal(lp_frame_check(copy, copy + LP_FRAME_HEADER), -EBADMSG);
	}
	lp_frame_close(buf, LP_MSG_GET, 0, 77, 8, 1);
	assert_int_equal(lp_frame_get(buf, true, &f), -EBADMSG);
	assert_int_equal(lp_frame_get(buf, false, &f), 0);
	lp_frame_put(buf, &(struct lp_frame){ .data = LP_DATA_MAX + 1 }, buf);
	assert_int_equal(lp_frame_get(buf, false, &f), -EBADMSG);
}

static void test_get(void **state)
{
	static const struct {
		struct lp_get m;
		int rc;
	} cases[] = {
		{ { .obj = 1, .len = PG, .addr = 0x7f0000000000, .urgency = 3 }, 0 },
		{ { .len = LP_GET_MAX }, 0 },
		{ { .len = 0 }, -EBADMSG },
		{ { .len = 1 }, -EBADMSG },
		{ { .len = LP_GET_MAX + PG }, -EBADMSG },
		{ { .len = PG, .addr = 1 }, -EBADMSG },
		{ { .len = PG, .addr = UINT64_MAX - PG + 1 }, -EBADMSG },
		{ { .len = PG, .addr = (UINT64_C(1) << 63) - PG }, 0 },
		{ { .len = 2 * PG, .addr = (UINT64_C(1) << 63) - PG }, -EBADMSG },
	};
	struct lp_get out;
	uint8_t buf[64];
	size_t i;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ssize_t n = lp_put_get(buf, sizeof(buf), &cases[i].m);

		assert_int_equal(lp_get_get(buf, n, &out), cases[i].rc);
		if (!cases[i].rc)
			assert_true(out.obj == cases[i].m.obj && out.len == cases[i].m.len &&
				    out.addr == cases[i].m.addr && out.urgency == cases[i].m.urgency);
	}
}

static void test_pages(void **state)
{
	static const uint32_t backs[] = { 0, 1, PG / 2, 2 * PG, UINT32_MAX };
	struct lp_pages in = { .obj = 5, .nruns = 3 }, out;
	uint8_t buf[4096];
	size_t i;
	ssize_t n;

	in.runs[0] = (struct lp_run){ .addr = PG, .len = PG, .stored = PG, .sum = 7, .enc = LP_ENC_RAW };
	in.runs[1] = (struct lp_run){ .addr = 2 * PG, .len = 4 * PG, .enc = LP_ENC_ZERO };
	in.runs[2] = (struct lp_run){ .addr = 6 * PG, .len = PG, .stored = 9, .enc = LP_ENC_LZ4 };
	n = lp_put_pages(buf, sizeof(buf), &in);
	assert_int_equal(n, 8 + 3 * 32);
	assert_int_equal(lp_get_pages(buf, n, PG + 9, &out), 0);
	assert_int_equal(out.obj, 5);
	assert_int_equal(out.nruns, 3);
	assert_int_equal(out.runs[2].stored, 9);
	assert_int_equal(lp_get_pages(buf, n, PG + 8, &out), -EBADMSG);
	in.runs[1].len = 3 * PG; /* a gap */
	n = lp_put_pages(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_pages(buf, n, PG + 9, &out), -EBADMSG);
	in.runs[1].len = 4 * PG;
	in.runs[1].stored = 1; /* zeros that store something */
	n = lp_put_pages(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_pages(buf, n, PG + 10, &out), -EBADMSG);
	in.runs[1].stored = 0;
	in.runs[1].back = PG; /* only SAME looks back */
	n = lp_put_pages(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_pages(buf, n, PG + 9, &out), -EBADMSG);
	in.runs[1].enc = LP_ENC_SAME;
	n = lp_put_pages(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_pages(buf, n, PG + 9, &out), 0);
	assert_int_equal(out.runs[1].back, PG);
	for (i = 0; i < sizeof(backs) / sizeof(backs[0]); i++) {
		in.runs[1].back = backs[i];
		n = lp_put_pages(buf, sizeof(buf), &in);
		assert_int_equal(lp_get_pages(buf, n, PG + 9, &out), -EBADMSG);
	}
	in.runs[1].back = PG;
	in.runs[1].stored = 1;
	n = lp_put_pages(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_pages(buf, n, PG + 10, &out), -EBADMSG);
	assert_int_equal(lp_get_pages(buf, 7, 0, &out), -EBADMSG);
	in.nruns = 0;
	n = lp_put_pages(buf, sizeof(buf), &in);
	assert_int_equal(lp_get_pages(buf, n, 0, &out), -EBADMSG);
}

static void test_list(void **state)
{
	struct lp_list m = { .total = 1000, .first = 10 };
	uint64_t size = 5, got;
	struct lp_str name;
	uint8_t buf[128];
	ssize_t n, k;

	n = lp_put_list(buf, sizeof(buf), &m);
	while ((k = lp_put_item(buf + n, sizeof(buf) - n, &size, "mm-1.img")) > 0) {
		n += k;
		m.n++;
		size++;
	}
	assert_int_equal(k, -ENOSPC);
	lp_put_list(buf, sizeof(buf), &m);
	assert_int_equal(m.n, 6);
	assert_int_equal(lp_get_list(buf, n, &m), 0);
	for (k = 0; k < 6; k++) {
		assert_int_equal(lp_get_item(&m, &got, &name), 0);
		assert_int_equal(got, 5 + k);
		assert_int_equal(name.n, 8);
	}
	assert_int_equal(lp_get_item(&m, &got, &name), -EBADMSG);
	m = (struct lp_list){ .total = 3, .first = 2, .n = 2 };
	n = lp_put_list(buf, sizeof(buf), &m);
	assert_int_equal(lp_get_list(buf, n, &m), -EBADMSG);
}

static void test_welcome_error(void **state)
{
	struct lp_welcome w = { .version = 1, .encodings = 7, .max_get = LP_GET_MAX, .max_requests = 64,
				.idle_ms = 60000, .tasks = 3 }, o;
	struct lp_error_msg e;
	char text[400];
	uint8_t buf[512];
	ssize_t n;

	n = lp_put_welcome(buf, sizeof(buf), &w);
	assert_int_equal(lp_get_welcome(buf, n, &o), 0);
	assert_int_equal(o.tasks, 3);
	w.max_requests = 0;
	n = lp_put_welcome(buf, sizeof(buf), &w);
	assert_int_equal(lp_get_welcome(buf, n, &o), -EBADMSG);
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	n = lp_put_error(buf, sizeof(buf), LP_ERROR_BUSY, text);
	assert_int_equal(lp_get_error(buf, n, &e), 0);
	assert_int_equal(e.code, LP_ERROR_BUSY);
	assert_int_equal(e.text.n, LP_TEXT_MAX);
	assert_int_equal(lp_get_error(buf, n - 1, &e), -EBADMSG);
	assert_string_equal(lp_error_name(LP_ERROR_IO), "io");
	assert_string_equal(lp_error_name(99), "?");
}

static struct lp_codec *codec;

static void one_run(uint32_t encodings, const uint8_t *page, size_t len, bool shrinks)
{
	uint8_t *out = malloc(len), *stored = malloc(len);
	struct lp_run r = { .addr = 16 * PG, .len = len }, bad;
	const uint8_t *from = stored;
	size_t n, i;

	n = lp_run_compress(codec, encodings, page, len, stored, len, &r.enc);
	assert_int_equal(!!n, shrinks);
	r.stored = n;
	if (!n) {
		r.enc = LP_ENC_RAW;
		r.stored = len;
		from = page;
	}
	r.sum = lp_run_sum(3, &r, page);
	assert_int_equal(lp_run_decode(codec, 3, &r, from, out), 0);
	assert_memory_equal(out, page, len);
	/* The place is part of the sum. */
	bad = r;
	bad.addr += PG;
	assert_int_equal(lp_run_decode(codec, 3, &bad, from, out), -EBADMSG);
	assert_int_equal(lp_run_decode(codec, 4, &r, from, out), -EBADMSG);
	memcpy(stored, from, r.stored);
	for (i = 0; i < r.stored * 8; i += 1 + i / 64) {
		stored[i / 8] ^= 1 << i % 8;
		if (!lp_run_decode(codec, 3, &r, stored, out))
			assert_memory_equal(out, page, len); /* a bit that means nothing to the decoder */
		stored[i / 8] ^= 1 << i % 8;
	}
	free(out);
	free(stored);
}

static void test_runs(void **state)
{
	const uint32_t both = 1u << LP_ENC_LZ4 | 1u << LP_ENC_ZSTD;
	struct lp_run zero = { .addr = PG, .len = PG, .enc = LP_ENC_ZERO };
	uint8_t noise[4 * PG], text[4 * PG], out[PG];
	size_t i;

	for (i = 0; i < sizeof(noise); i++) {
		noise[i] = rand() >> 7;
		text[i] = "lazy pages "[i % 11];
	}
	one_run(0, text, sizeof(text), false);
	one_run(1u << LP_ENC_LZ4, text, sizeof(text), true);
	one_run(1u << LP_ENC_ZSTD, text, sizeof(text), true);
	one_run(both, noise, sizeof(noise), false);
	assert_false(lp_is_zero(noise, sizeof(noise)));
	memset(out, 0, sizeof(out));
	assert_true(lp_is_zero(out, sizeof(out)));
	for (i = 0; i < sizeof(out); i += 63) {
		out[i] = 1;
		assert_false(lp_is_zero(out, sizeof(out)));
		out[i] = 0;
	}
	out[0] = 1;
	zero.sum = lp_run_sum(0, &zero, NULL);
	assert_int_equal(lp_run_decode(codec, 0, &zero, NULL, out), 0);
	assert_true(lp_is_zero(out, sizeof(out)));
	zero.addr += PG;
	assert_int_equal(lp_run_decode(codec, 0, &zero, NULL, out), -EBADMSG);
}

/* Runs that repeat what is in front of them, themselves too. */
static void test_same(void **state)
{
	struct lp_run r = { .addr = 18 * PG, .len = 3 * PG, .enc = LP_ENC_SAME, .back = 2 * PG };
	uint8_t frame[5 * PG], want[5 * PG];
	size_t i;

	for (i = 0; i < sizeof(want); i++)
		want[i] = i < 2 * PG ? rand() >> 7 : want[i - 2 * PG];
	memcpy(frame, want, 2 * PG);
	r.sum = lp_run_sum(3, &r, want + 2 * PG);
	assert_int_equal(lp_run_decode(codec, 3, &r, NULL, frame + 2 * PG), 0);
	assert_memory_equal(frame, want, sizeof(want));
	r.back = PG; /* something else */
	assert_int_equal(lp_run_decode(codec, 3, &r, NULL, frame + 2 * PG), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hello), cmocka_unit_test(test_names), cmocka_unit_test(test_frame),
		cmocka_unit_test(test_get),   cmocka_unit_test(test_pages), cmocka_unit_test(test_list),
		cmocka_unit_test(test_welcome_error), cmocka_unit_test(test_runs), cmocka_unit_test(test_same),
	};

	int rc;

	codec = lp_codec_new();
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	lp_codec_free(codec);
	return rc;
}
