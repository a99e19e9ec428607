/* SPDX-License-Identifier: GPL-2.0-only */
/* The codec of records, see record.h. Owns nothing; every length is distrusted. */
#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "trace/record.h"

#define SPACE { "space", LP_K_SPACE }
#define FLIGHT { "flight", LP_K_FLIGHT }
#define START { "start", LP_K_ADDR }
#define END { "end", LP_K_ADDR }
#define ADDR { "addr", LP_K_ADDR }
#define LEN { "len", LP_K_LEN }
#define IMG { "img", LP_K_IMG }
#define OBJ { "obj", LP_K_OBJ }
#define RC { "rc", LP_K_RC }

static const struct lp_rec_info infos[] = {
	[LP_REC_BEGIN] = { "begin", 6, { { "page", LP_K_LEN }, { "seed", LP_K_BITS }, { "clock", LP_K_CLOCK },
					 { "pid", LP_K_PID }, { "workers", LP_K_COUNT }, { "flags", LP_K_BITS } } },
	[LP_REC_END] = { "end", 1, { RC } },
	[LP_REC_MARK] = { "mark", 2, { { "what", LP_K_MARK }, { "value", LP_K_COUNT } } },

	[LP_REC_SPACE] = { "space", 3, { SPACE, { "pid", LP_K_PID }, { "host_pid", LP_K_PID } } },
	[LP_REC_EXTENT] = { "extent", 3, { SPACE, START, END } },
	[LP_REC_MISSING] = { "missing", 5, { SPACE, START, END, IMG, OBJ } },
	[LP_REC_WIPED] = { "wiped", 3, { SPACE, START, END } },
	[LP_REC_DONTFORK] = { "dontfork", 3, { SPACE, START, END } },
	[LP_REC_FREE] = { "free", 3, { SPACE, { "dead", LP_K_COUNT }, { "complete", LP_K_COUNT } } },

	[LP_REC_PAGEFAULT] = { "pagefault", 4, { SPACE, ADDR, { "flags", LP_K_BITS }, { "tid", LP_K_PID } } },
	[LP_REC_FORK] = { "fork", 3, { SPACE, { "child", LP_K_SPACE }, RC } },
	[LP_REC_REMAP] = { "remap", 5, { SPACE, { "from", LP_K_ADDR }, { "to", LP_K_ADDR }, LEN, RC } },
	[LP_REC_REMOVE] = { "remove", 4, { SPACE, START, END, RC } },
	[LP_REC_UNMAP] = { "unmap", 4, { SPACE, START, END, RC } },
	[LP_REC_UNKNOWN] = { "unknown", 2, { SPACE, { "event", LP_K_BITS } } },
	[LP_REC_EXIT] = { "exit", 1, { SPACE } },
	[LP_REC_THERE] = { "there", 4, { SPACE, START, LEN, RC } },
	[LP_REC_SETTLED] = { "settled", 2, { SPACE, RC } },
	[LP_REC_NEXT_WAKE] = { "next_wake", 3, { SPACE, { "more", LP_K_COUNT }, ADDR } },

	[LP_REC_BOOK] = { "book", 2, { SPACE, { "name", LP_K_BITS } } },
	[LP_REC_CHANGE] = { "change", 6, { SPACE, { "what", LP_K_BITS }, { "from", LP_K_ADDR }, LEN, { "to", LP_K_ADDR },
					   { "to_len", LP_K_LEN } } },
	[LP_REC_CALL] = { "call", 2, { SPACE, { "number", LP_K_BITS } } },
	[LP_REC_BOOK_LOST] = { "book_lost", 1, { SPACE } },

	[LP_REC_FAULT] = { "fault", 6, { SPACE, ADDR, { "readahead", LP_K_LEN }, { "verdict", LP_K_VERDICT }, FLIGHT, RC } },
	[LP_REC_EARLY] = { "early", 6, { SPACE, ADDR, { "readahead", LP_K_LEN }, { "own", LP_K_FLIGHT }, FLIGHT, RC } },
	[LP_REC_ANSWERED] = { "answered", 2, { SPACE, ADDR } },
	[LP_REC_DEFER] = { "defer", 3, { SPACE, ADDR, RC } },
	[LP_REC_NEXT_DEFERRED] = { "next_deferred", 3, { SPACE, { "more", LP_K_COUNT }, ADDR } },

	[LP_REC_NEXT] = { "next", 6, { { "max_len", LP_K_LEN }, { "max_pieces", LP_K_COUNT }, SPACE, FLIGHT,
				       { "when", LP_K_TIME }, RC } },
	[LP_REC_PIECE] = { "piece", 5, { FLIGHT, ADDR, LEN, IMG, OBJ } },
	[LP_REC_ADVANCE] = { "advance", 3, { SPACE, FLIGHT, LEN } },
	[LP_REC_FINISH] = { "finish", 3, { SPACE, FLIGHT, RC } },
	[LP_REC_STALL] = { "stall", 2, { SPACE, { "until", LP_K_TIME } } },

	[LP_REC_COPY] = { "copy", 6, { SPACE, FLIGHT, ADDR, LEN, { "done", LP_K_LEN }, RC } },
	[LP_REC_ZEROPAGE] = { "zeropage", 4, { SPACE, ADDR, LEN, RC } },
	[LP_REC_WAKE] = { "wake", 4, { SPACE, ADDR, LEN, RC } },
	[LP_REC_PROBE] = { "probe", 2, { SPACE, RC } },
	[LP_REC_SOURCE] = { "source", 5, { { "how", LP_K_HOW }, OBJ, IMG, LEN, RC } },
};

const struct lp_rec_info *lp_rec_info(unsigned type)
{
	return type < sizeof(infos) / sizeof(infos[0]) && infos[type].name ? &infos[type] : NULL;
}

unsigned lp_rec_by_name(const char *name)
{
	unsigned t;

	for (t = 0; t < sizeof(infos) / sizeof(infos[0]); t++)
		if (infos[t].name && !strcmp(infos[t].name, name))
			return t;
	return 0;
}

int lp_rec_find(unsigned type, enum lp_rec_kind kind)
{
	const struct lp_rec_info *t = lp_rec_info(type);
	unsigned i;

	for (i = 0; t && i < t->n; i++)
		if (t->f[i].kind == kind)
			return i;
	return -1;
}

/* Signed values small: 0, -1, 1, -2, ... are 0, 1, 2, 3, ... */
static uint64_t zigzag(uint64_t v)
{
	return v << 1 ^ (v >> 63 ? UINT64_MAX : 0);
}

static uint64_t unzigzag(uint64_t v)
{
	return v >> 1 ^ (v & 1 ? UINT64_MAX : 0);
}

static bool in_bounds(enum lp_rec_kind kind, uint64_t v)
{
	switch (kind) {
	case LP_K_SPACE:
	case LP_K_OBJ:
	case LP_K_PID:
		return v <= UINT32_MAX;
	case LP_K_RC:
		return (int64_t)v >= -4095 && (int64_t)v <= 1;
	case LP_K_VERDICT:
		return v <= 3;
	case LP_K_MARK:
		return v >= LP_MARK_ARMED && v <= LP_MARK_LOST;
	case LP_K_HOW:
		return v >= LP_HOW_TRY && v <= LP_HOW_MAP;
	default:
		return true;
	}
}

static uint8_t *put_leb(uint8_t *p, uint64_t v)
{
	while (v > 0x7f) {
		*p++ = v | 0x80;
		v >>= 7;
	}
	*p++ = v;
	return p;
}

/* NULL: it does not end before @end, is longer than it need be, or does not fit. */
static const uint8_t *get_leb(const uint8_t *p, const uint8_t *end, uint64_t *v)
{
	unsigned shift;

	*v = 0;
	for (shift = 0; p < end && shift < 64; shift += 7) {
		uint8_t b = *p++;

		if (shift == 63 && b > 1)
			return NULL;
		*v |= (uint64_t)(b & 0x7f) << shift;
		if (!(b & 0x80))
			return b || !shift ? p : NULL;
	}
	return NULL;
}

static uint32_t check_of(const uint8_t *buf, size_t len, uint64_t number)
{
	return (uint32_t)XXH3_64bits_withSeed(buf + 4, len - 4, number);
}

size_t lp_rec_encode(const struct lp_rec *r, uint64_t number, uint8_t buf[LP_REC_MAX])
{
	const struct lp_rec_info *t = lp_rec_info(r->type);
	uint8_t *p = buf + LP_REC_HEAD;
	uint32_t check;
	size_t len;
	unsigned i;

	if (!t)
		return 0;
	p = put_leb(p, r->time);
	for (i = 0; i < t->n; i++) {
		if (!in_bounds(t->f[i].kind, r->v[i]))
			return 0;
		p = put_leb(p, t->f[i].kind == LP_K_RC ? zigzag(r->v[i]) : r->v[i]);
	}
	len = p - buf;
	buf[4] = r->type;
	buf[5] = len;
	buf[6] = r->thread;
	buf[7] = r->thread >> 8;
	check = check_of(buf, len, number);
	for (i = 0; i < 4; i++)
		buf[i] = check >> 8 * i;
	return len;
}

int lp_rec_decode(const uint8_t *buf, size_t len, uint64_t number, struct lp_rec *r)
{
	const struct lp_rec_info *t;
	const uint8_t *p, *end;
	size_t own;
	unsigned i;

	if (len < LP_REC_HEAD)
		return -EAGAIN;
	own = buf[5];
	if (own <= LP_REC_HEAD || own > LP_REC_MAX)
		return -EBADMSG;
	if (own > len)
		return -EAGAIN;
	if (check_of(buf, own, number) !=
	    ((uint32_t)buf[0] | (uint32_t)buf[1] << 8 | (uint32_t)buf[2] << 16 | (uint32_t)buf[3] << 24))
		return -EBADMSG;
	t = lp_rec_info(buf[4]);
	if (!t)
		return -EPROTO;
	*r = (struct lp_rec){ .type = buf[4], .thread = buf[6] | buf[7] << 8 };
	end = buf + own;
	p = get_leb(buf + LP_REC_HEAD, end, &r->time);
	for (i = 0; p && i < t->n; i++) {
		p = get_leb(p, end, &r->v[i]);
		if (t->f[i].kind == LP_K_RC)
			r->v[i] = unzigzag(r->v[i]);
		if (p && !in_bounds(t->f[i].kind, r->v[i]))
			return -EPROTO;
	}
	return p == end ? (int)own : -EPROTO;
}

/* ---- The head of a file ------------------------------------------------------ */

static const char magic[LP_TRACE_HEAD - 1] = "LPTRACE";

void lp_trace_head(uint8_t buf[LP_TRACE_HEAD])
{
	memcpy(buf, magic, sizeof(magic));
	buf[sizeof(magic)] = LP_TRACE_VERSION;
}

int lp_trace_head_check(const uint8_t *buf, size_t len, unsigned *version)
{
	size_t n = len < sizeof(magic) ? len : sizeof(magic);

	*version = 0;
	if (memcmp(buf, magic, n))
		return -EBADMSG;
	if (len < LP_TRACE_HEAD)
		return -EAGAIN;
	*version = buf[sizeof(magic)];
	return *version >= 1 && *version <= LP_TRACE_VERSION ? 0 : -EPROTO;
}
