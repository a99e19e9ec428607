/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pages that a frame has already: fill patterns, empty blocks of databases, what
 * was copied. A frame is small, so all of it is at hand and is compared; what
 * is the same but farther away compression does not find either. A loop owns the
 * table, and begins anew with each frame.
 */
#include <string.h>

#include "proto/xxh3.h"
#include "serve/internal.h"

uint32_t same_find(struct same *s, uint64_t addr, const uint8_t *p)
{
	uint64_t hash = XXH3_64bits(p, LP_PAGE_SIZE);
	unsigned i;

	/* The last place counts: a row of equal pages has one distance, a page each, and is one run. */
	for (i = s->n; i-- > 0;) {
		if (s->page[i].hash != hash || memcmp(s->page[i].p, p, LP_PAGE_SIZE))
			continue;
		hash = addr - s->page[i].addr;
		s->page[i].addr = addr;
		return (uint32_t)hash;
	}
	if (s->n < sizeof(s->page) / sizeof(s->page[0])) {
		s->page[s->n].hash = hash;
		s->page[s->n].addr = addr;
		s->page[s->n++].p = p;
	}
	return 0;
}
