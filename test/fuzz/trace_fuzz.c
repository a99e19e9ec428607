/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: records of the trace. What decodes must encode to the same
 * bytes again, can be said in words and replayed. The input is taken three times:
 * as it is; as records whose checks are mended first, so that their fields are
 * reached; and as a program of small numbers for the replay, which goes on
 * whatever the replay says, as far as its engine bears it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "engine/engine.h"
#include "trace/replay.h"
#include "trace/words.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

static void words(const struct lp_rec *r)
{
	char buf[LP_WORDS_MAX], thread[16];

	lp_rec_words(r, buf);
	lp_rec_thread(r, thread, sizeof(thread));
	MUST(*buf && strlen(buf) + 1 < sizeof(buf) && !strchr(buf, '\n') && *thread);
	lp_rec_about(r, 4096);
}

/* Decode record @number at @p; the bytes it has, or an error. */
static int one(const uint8_t *p, size_t len, uint64_t number)
{
	uint8_t again[LP_REC_MAX];
	struct lp_rec r;
	int n = lp_rec_decode(p, len, number, &r);

	if (n < 0) {
		MUST(n == -EAGAIN || n == -EBADMSG || n == -EPROTO);
		return n;
	}
	MUST(n > LP_REC_HEAD && (size_t)n <= len && n <= LP_REC_MAX);
	MUST(lp_rec_encode(&r, number, again) == (size_t)n && !memcmp(again, p, n));
	words(&r);
	return n;
}

/* ---- A program ------------------------------------------------------------------ */

struct bytes {
	const uint8_t *p, *end;
};

static uint8_t byte(struct bytes *b)
{
	return b->p < b->end ? *b->p++ : 0;
}

/* Often sensible, sometimes anything. */
static uint64_t value(struct bytes *b, enum lp_rec_kind kind)
{
	static const int64_t rcs[] = { 0, 0, 0, 1, -EAGAIN, -ENOMEM, -ENOENT, -ENOTRECOVERABLE };
	uint8_t x = byte(b);
	uint64_t v = 0;
	unsigned i;

	if (x == 0xff && kind != LP_K_RC && kind != LP_K_VERDICT && kind != LP_K_MARK && kind != LP_K_HOW) {
		for (i = 0; i < 8; i++)
			v = v << 8 | byte(b);
		return kind == LP_K_SPACE || kind == LP_K_OBJ || kind == LP_K_PID ? (uint32_t)v : v;
	}
	switch (kind) {
	case LP_K_SPACE:
		return x % 6;
	case LP_K_FLIGHT:
		return x % 24;
	case LP_K_ADDR:
	case LP_K_IMG:
	case LP_K_LEN:
		return (uint64_t)(x % 48) * 4096;
	case LP_K_RC:
		return rcs[x % 8];
	case LP_K_VERDICT:
		return x % 4;
	case LP_K_MARK:
		return 1 + x % 4;
	case LP_K_HOW:
		return 1 + x % 3;
	default:
		return x;
	}
}

/* Changes of which most would be refused by one look at them: those that there are, names and numbers that come again. */
static void tune(struct lp_rec *r)
{
	uint64_t *v = r->v;

	if (r->type == LP_REC_BOOK || r->type == LP_REC_CALL)
		v[1] = v[1] < 256 ? 1 + v[1] % 6 : v[1];
	if (r->type != LP_REC_CHANGE || v[1] > 255)
		return;
	v[1] = v[1] % (LP_CHANGE_LAST + 1) | (v[1] / 8 & LP_REMAP_FLAGS) << 8;
	if ((v[1] & 0xff) == LP_CHANGE_REMAP) {
		if (v[1] >> 8 & LP_REMAP_FIXED)
			v[1] &= ~((uint64_t)LP_REMAP_AREA << 8);
		else if (!(v[1] >> 8 & LP_REMAP_AREA))
			v[4] = 0;
		return;
	}
	v[1] &= 0xff;
	v[5] = 0;
	if (v[1] == LP_CHANGE_FORK)
		v[2] = v[3] = 0;
	v[4] = v[1] == LP_CHANGE_FORK || v[1] == LP_CHANGE_REMOVE ? 1 + v[4] / 4096 % 6 : 0;
}

/* A space with a book, so that its engine is soon reached. */
static const struct lp_rec begun[] = {
	{ LP_REC_SPACE, 0, 0, { 0, 1, 1 } },
	{ LP_REC_EXTENT, 0, 0, { 0, 0x2000, 0x18000 } },
	{ LP_REC_MISSING, 0, 0, { 0, 0x2000, 0x14000, 0x2000, 0 } },
	{ LP_REC_DONTFORK, 0, 0, { 0, 0x6000, 0x8000 } },
	{ LP_REC_BOOK, 0, 0, { 0, 1 } },
};

static void program(const uint8_t *data, size_t size)
{
	struct lp_rec r = { .type = LP_REC_BEGIN, .v = { 4096, 1 } };
	struct bytes b = { data, data + size };
	struct lp_replay *p = lp_replay_new();
	const struct lp_rec_info *t;
	char why[256];
	unsigned i, k, last = 0;

	MUST(p && !lp_replay_step(p, &r, why, sizeof(why)));
	for (i = 0; i < 8; i++) { /* so that numbers of spaces are large enough */
		r = (struct lp_rec){ .type = LP_REC_PROBE };
		MUST(!lp_replay_step(p, &r, why, sizeof(why)));
	}
	if (byte(&b) % 2)
		for (i = 0; i < sizeof(begun) / sizeof(begun[0]); i++)
			MUST(!lp_replay_step(p, &begun[i], why, sizeof(why)));
	for (i = 0; b.p < b.end && i < 2000; i++) {
		r = (struct lp_rec){ .type = byte(&b) % (LP_REC_SOURCE + 1), .time = i };
		if (last == LP_REC_CALL && r.type % 2)
			r.type = LP_REC_REMOVE; /* nothing else comes there */
		last = r.type;
		t = lp_rec_info(r.type);
		if (!t)
			continue;
		for (k = 0; k < t->n; k++)
			r.v[k] = value(&b, t->f[k].kind);
		tune(&r);
		words(&r);
		*why = 0;
		if (lp_replay_step(p, &r, why, sizeof(why)))
			MUST(*why);
	}
	lp_replay_free(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t number = 0, check;
	uint8_t buf[LP_REC_MAX];
	unsigned version;
	size_t pos;
	int n;

	lp_trace_head_check(data, size, &version);
	for (pos = 0; pos < size && (n = one(data + pos, size - pos, number)) > 0; pos += n)
		number++;

	for (pos = 0, number = 0; size - pos >= LP_REC_HEAD; pos += n, number++) {
		n = data[pos + 5];
		if (n <= LP_REC_HEAD || n > LP_REC_MAX || (size_t)n > size - pos)
			break;
		memcpy(buf, data + pos, n);
		check = XXH3_64bits_withSeed(buf + 4, n - 4, number);
		buf[0] = check;
		buf[1] = check >> 8;
		buf[2] = check >> 16;
		buf[3] = check >> 24;
		MUST(one(buf, n, number) != -EBADMSG);
	}
	program(data, size);
	return 0;
}
