/* SPDX-License-Identifier: GPL-2.0-only */
/* Frame headers: their layout, limits and checksum. */
#include <errno.h>

#include "proto/proto.h"
#include "proto/wire.h"
#include "proto/xxh3.h"

#define SUM_AT 24

static uint64_t sum_of(const uint8_t *header, const uint8_t *meta, size_t len)
{
	return XXH3_64bits_withSeed(meta, len, XXH3_64bits(header, SUM_AT));
}

void lp_frame_put(uint8_t *buf, const struct lp_frame *f, const uint8_t *meta)
{
	lp_store(buf, LP_FRAME_MAGIC, 4);
	lp_store(buf + 4, f->type, 2);
	lp_store(buf + 6, f->flags, 2);
	lp_store(buf + 8, f->id, 8);
	lp_store(buf + 16, f->meta, 4);
	lp_store(buf + 20, f->data, 4);
	lp_store(buf + SUM_AT, sum_of(buf, meta, f->meta), 8);
}

int lp_frame_get(const uint8_t *buf, bool to_server, struct lp_frame *f)
{
	f->type = lp_load(buf + 4, 2);
	f->flags = lp_load(buf + 6, 2);
	f->id = lp_load(buf + 8, 8);
	f->meta = lp_load(buf + 16, 4);
	f->data = lp_load(buf + 20, 4);
	f->sum = lp_load(buf + SUM_AT, 8);
	if (lp_load(buf, 4) != LP_FRAME_MAGIC || f->flags & ~LP_FLAG_MORE)
		return -EBADMSG;
	if (f->meta > (to_server ? LP_META_TO_SERVER : LP_META_TO_CLIENT) || f->data > (to_server ? 0 : LP_DATA_MAX))
		return -EBADMSG;
	return 0;
}

int lp_frame_check(const uint8_t *buf, const uint8_t *meta)
{
	return sum_of(buf, meta, lp_load(buf + 16, 4)) == lp_load(buf + SUM_AT, 8) ? 0 : -EBADMSG;
}

size_t lp_frame_close(uint8_t *buf, uint16_t type, uint16_t flags, uint64_t id, size_t meta, uint32_t data)
{
	struct lp_frame f = { .type = type, .flags = flags, .id = id, .meta = meta, .data = data };

	lp_frame_put(buf, &f, buf + LP_FRAME_HEADER);
	return LP_FRAME_HEADER + meta;
}
