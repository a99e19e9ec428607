/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What one change does to a view of an address space. A view owns its three
 * maps; the functions leave it half changed when they fail with -ENOMEM, so
 * callers that must not lose it work on a copy.
 */
#include <errno.h>

#include "engine/internal.h"

void view_clone(struct lp_view *dst, const struct lp_view *src)
{
	lp_map_clone(&dst->extents, &src->extents);
	lp_map_clone(&dst->missing, &src->missing);
	lp_map_clone(&dst->wiped, &src->wiped);
}

void view_clear(struct lp_pool *pool, struct lp_view *v)
{
	lp_map_clear(pool, &v->extents);
	lp_map_clear(pool, &v->missing);
	lp_map_clear(pool, &v->wiped);
}

int view_add_extent(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end)
{
	/* img follows the address so that neighbours merge. */
	struct lp_range r = { start, end, start, 0 };

	return lp_map_insert(pool, &v->extents, &r);
}

int view_unmap(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end)
{
	int rc = lp_map_cut(pool, &v->extents, start, end, NULL);

	if (!rc)
		rc = lp_map_cut(pool, &v->missing, start, end, NULL);
	return rc ? rc : lp_map_cut(pool, &v->wiped, start, end, NULL);
}

/* Move [from, from + len) of a map, which has nothing at @to. */
static int move(struct lp_pool *pool, struct lp_map *m, uint64_t from, uint64_t to, uint64_t len)
{
	struct lp_map part = { NULL };
	int rc = lp_map_cut(pool, m, from, from + len, &part);

	if (!rc)
		rc = lp_map_shift(pool, &part, to - from);
	if (!rc)
		rc = lp_map_join(pool, m, &part);
	lp_map_clear(pool, &part);
	return rc;
}

int view_remap(struct lp_pool *pool, struct lp_view *v, uint64_t from, uint64_t to, uint64_t len, bool vacates)
{
	struct lp_map old = { NULL }, kept = { NULL };
	struct lp_range r;
	uint64_t pos;
	int rc = view_unmap(pool, v, to, to + len);

	if (!rc)
		rc = move(pool, &v->missing, from, to, len);
	/* MREMAP_DONTUNMAP leaves the marks of what children lack where they were, too. */
	if (!rc && !vacates) {
		lp_map_clone(&old, &v->wiped);
		rc = lp_map_cut(pool, &old, from, from + len, &kept);
		lp_map_clear(pool, &old);
	}
	if (!rc)
		rc = move(pool, &v->wiped, from, to, len);
	for (pos = from; !rc && lp_map_next(&kept, pos, &r); pos = r.end)
		rc = lp_map_insert(pool, &v->wiped, &r);
	lp_map_clear(pool, &kept);
	if (!rc)
		rc = lp_map_cut(pool, &v->extents, from, from + len, NULL);
	/* All of it stays registered, with what had grown there, which no message tells. */
	if (!rc && !vacates)
		rc = view_add_extent(pool, v, from, from + len);
	return rc ? rc : view_add_extent(pool, v, to, to + len);
}

int view_mark(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end, uint32_t set, uint32_t clear)
{
	struct lp_map old = { NULL };
	struct lp_range r;
	uint64_t pos = start, stop;
	int rc;

	lp_map_clone(&old, &v->wiped);
	rc = lp_map_cut(pool, &v->wiped, start, end, NULL);
	for (; !rc && pos < end; pos = stop) {
		uint32_t bits = set;

		stop = end;
		if (lp_map_next(&old, pos, &r) && r.start < end) {
			if (r.start > pos) {
				stop = r.start;
			} else {
				stop = r.end < end ? r.end : end;
				bits = (r.obj | set) & ~clear;
			}
		}
		r = (struct lp_range){ pos, stop, pos, bits };
		if (bits)
			rc = lp_map_insert(pool, &v->wiped, &r);
	}
	lp_map_clear(pool, &old);
	return rc;
}

int view_grow(struct lp_pool *pool, struct lp_view *v, uint64_t start, uint64_t end)
{
	struct lp_range r;
	int rc = view_unmap(pool, v, start, end);

	if (!rc)
		rc = view_add_extent(pool, v, start, end);
	/* What children lack of a mapping, they lack of what it grows by. */
	if (rc || !start || !lp_map_find(&v->wiped, start - 1, &r))
		return rc;
	r = (struct lp_range){ start, end, start, r.obj };
	return lp_map_insert(pool, &v->wiped, &r);
}

/* MADV_WIPEONFORK and MADV_DONTFORK come true: @v becomes that of a child. */
int view_inherit(struct lp_pool *pool, struct lp_view *v)
{
	struct lp_range r;
	uint64_t pos = 0;
	int rc = 0;

	for (; !rc && lp_map_next(&v->wiped, pos, &r); pos = r.end) {
		if (r.obj & DONTFORK)
			rc = view_unmap(pool, v, r.start, r.end);
		else
			rc = lp_map_cut(pool, &v->missing, r.start, r.end, NULL);
	}
	return rc;
}
