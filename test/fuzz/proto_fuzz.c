/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: the codec of the lazypages protocol. The first byte picks
 * a decoder, the rest is its input. What decodes must encode to the same bytes
 * again; frames have their sum mended first, so that metas are reached.
 */
#include <stdlib.h>
#include <string.h>

#include "proto/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

static struct lp_codec *codec;

/* @n bytes were encoded at @buf: the same as what was decoded? */
static void same(const uint8_t *buf, ssize_t n, const uint8_t *p, size_t len)
{
	MUST(n == (ssize_t)len && !memcmp(buf, p, len));
}

static void pages(const uint8_t *p, size_t len, uint8_t *buf, size_t cap)
{
	static uint8_t out[LP_GET_MAX]; /* libFuzzer is one thread */
	size_t at = 0;
	struct lp_pages m;
	uint32_t stored = 0;
	size_t k, meta;

	if (len < 8)
		return;
	meta = 8 + (size_t)(p[4] | p[5] << 8) * 32;
	if (meta > len)
		meta = len;
	/* Data is what follows meta, if the runs agree. */
	if (lp_get_pages(p, meta, (uint32_t)(len - meta), &m))
		return;
	same(buf, lp_put_pages(buf, cap, &m), p, meta);
	for (k = 0; k < m.nruns; k++) {
		MUST(m.runs[k].len <= LP_GET_MAX && m.runs[k].stored <= m.runs[k].len);
		MUST(stored + m.runs[k].stored <= len - meta);
		MUST(m.runs[k].back <= at);
		/* More than one GET: a client refuses that. */
		if (m.runs[k].len > sizeof(out) - at)
			return;
		lp_run_decode(codec, m.obj, &m.runs[k], p + meta + stored, out + at);
		at += m.runs[k].len;
		stored += m.runs[k].stored;
	}
}

static void list(const uint8_t *p, size_t len, bool files)
{
	struct lp_list m;
	struct lp_str name;
	uint64_t size;
	unsigned i;

	if (lp_get_list(p, len, &m))
		return;
	for (i = 0; i < m.n && !lp_get_item(&m, files ? &size : NULL, &name); i++)
		MUST(name.n && (const uint8_t *)name.p >= p && (const uint8_t *)name.p + name.n <= p + len);
}

static void frame(const uint8_t *p, size_t len, bool to_server)
{
	uint8_t head[LP_FRAME_HEADER];
	struct lp_frame f;

	if (len < LP_FRAME_HEADER || lp_frame_get(p, to_server, &f))
		return;
	MUST(f.meta <= LP_META_TO_CLIENT && f.data <= (to_server ? 0 : LP_DATA_MAX));
	if (f.meta > len - LP_FRAME_HEADER)
		return;
	lp_frame_put(head, &f, p + LP_FRAME_HEADER);
	MUST(!lp_frame_check(head, p + LP_FRAME_HEADER));
	MUST(!lp_frame_check(p, p + LP_FRAME_HEADER) == !memcmp(head, p, sizeof(head)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t buf[LP_META_TO_CLIENT];
	union {
		struct lp_hello hello;
		struct lp_welcome welcome;
		struct lp_error_msg error;
		struct lp_file_read read;
		struct lp_file_data fdata;
		struct lp_get get;
		uint32_t from;
	} m;
	const uint8_t *p = data + 1;
	size_t n = size - 1;
	char text[256];

	if (!size)
		return 0;
	if (!codec)
		codec = lp_codec_new(); /* for good */
	switch (data[0] % 11) {
	case 0:
		if (!lp_get_hello(p, n, &m.hello))
			same(buf, lp_put_hello(buf, sizeof(buf), &m.hello), p, n);
		break;
	case 1:
		if (!lp_get_welcome(p, n, &m.welcome))
			same(buf, lp_put_welcome(buf, sizeof(buf), &m.welcome), p, n);
		break;
	case 2:
		if (lp_get_error(p, n, &m.error))
			break;
		memcpy(text, m.error.text.p, m.error.text.n);
		text[m.error.text.n] = 0;
		if (!memchr(text, 0, m.error.text.n))
			same(buf, lp_put_error(buf, sizeof(buf), m.error.code, text), p, n);
		break;
	case 3:
		if (!lp_get_file_read(p, n, &m.read))
			same(buf, lp_put_file_read(buf, sizeof(buf), &m.read), p, n);
		break;
	case 4:
		if (!lp_get_file_data(p, n, &m.fdata))
			same(buf, lp_put_file_data(buf, sizeof(buf), &m.fdata), p, n);
		break;
	case 5:
		if (!lp_get_get(p, n, &m.get))
			same(buf, lp_put_get(buf, sizeof(buf), &m.get), p, n);
		break;
	case 6:
		if (!lp_get_from(p, n, &m.from))
			same(buf, lp_put_from(buf, sizeof(buf), m.from), p, n);
		break;
	case 7:
		pages(p, n, buf, sizeof(buf));
		break;
	case 8:
		list(p, n, true);
		list(p, n, false);
		break;
	case 9:
		frame(p, n, true);
		break;
	default:
		frame(p, n, false);
	}
	return 0;
}
