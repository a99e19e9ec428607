/* SPDX-License-Identifier: GPL-2.0-only */
/* Pagemap images into memory; see pmwrite.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "images/internal.h"
#include "images/pagemap.pb-c.h"
#include "images/pmwrite.h"

/* An entry of CRIU 4.1 counts pages in 32 bits; both counts are written, so that any version reads it. */
#define ENTRY_PAGES (UINT64_C(1) << 31)

static int grow(struct lp_pmw *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 4096;
	uint8_t *p;

	while (cap - b->n < more)
		cap *= 2;
	if (cap == b->cap)
		return 0;
	p = realloc(b->p, cap);
	if (!p)
		return -ENOMEM;
	b->p = p;
	b->cap = cap;
	return 0;
}

static int put_u32(struct lp_pmw *b, uint32_t v)
{
	int rc = grow(b, sizeof(v));

	if (rc)
		return rc;
	memcpy(b->p + b->n, &v, sizeof(v));
	b->n += sizeof(v);
	return 0;
}

static int put_msg(struct lp_pmw *b, const ProtobufCMessage *m)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	int rc;

	rc = put_u32(b, (uint32_t)len);
	if (!rc)
		rc = grow(b, len);
	if (!rc)
		b->n += protobuf_c_message_pack(m, b->p + b->n);
	return rc;
}

int lp_pmw_add(struct lp_pmw *b, uint64_t start, uint64_t end, uint32_t flags)
{
	Lp__PagemapEntry e = LP__PAGEMAP_ENTRY__INIT;
	uint64_t n;
	int rc = 0;

	for (; !rc && start < end; start += n * LP_PAGE_SIZE) {
		n = (end - start) / LP_PAGE_SIZE;
		if (n > ENTRY_PAGES)
			n = ENTRY_PAGES;
		e.vaddr = start;
		e.compat_nr_pages = (uint32_t)n;
		e.has_nr_pages = true;
		e.nr_pages = n;
		e.has_flags = true;
		e.flags = flags;
		rc = put_msg(b, &e.base);
	}
	return rc;
}

int lp_pmw_head(struct lp_pmw *w, bool common, uint32_t pages_id)
{
	Lp__PagemapHead head = LP__PAGEMAP_HEAD__INIT;
	int rc = 0;

	if (common)
		rc = put_u32(w, LP_MAGIC_COMMON);
	if (!rc)
		rc = put_u32(w, LP_MAGIC_PAGEMAP);
	head.pages_id = pages_id;
	return rc ? rc : put_msg(w, &head.base);
}
