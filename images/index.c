/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The page index of a task: pagemaps of a directory and its parents become
 * one sorted list of extents, which belongs to the task.
 *
 * Parents are resolved from the oldest to the newest. Each step merges two
 * sorted lists, so it is linear and needs no recursion, and the result is
 * never longer than both lists together.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "images/internal.h"

struct extvec {
	struct lp_extent *x;
	size_t n, cap;
};

static int push(struct extvec *v, const struct lp_extent *e)
{
	struct lp_extent *last = v->n ? &v->x[v->n - 1] : NULL, *p;
	size_t cap;

	if (last && last->end == e->start && last->kind == e->kind && last->lazy == e->lazy &&
	    (e->kind == LP_EXT_SOURCE ||
	     (last->file == e->file && last->off + (last->end - last->start) == e->off))) {
		last->end = e->end;
		return 0;
	}
	if (v->n == v->cap) {
		cap = v->cap ? v->cap * 2 : 16;
		p = realloc(v->x, cap * sizeof(*p));
		if (!p)
			return -ENOMEM;
		v->x = p;
		v->cap = cap;
	}
	v->x[v->n++] = *e;
	return 0;
}

/* What @pm is resolved against: the flat list of the parent directory. */
struct below {
	const struct extvec *flat;
	size_t at; /* first extent that may still matter: entries come sorted */
	bool missing;
	char name[LP_NAME_MAX]; /* of its pagemap; empty: no parent directory */
};

static int no_parent_page(const struct lp_pagemap *pm, size_t i, uint64_t addr, const struct below *b, bool source,
			  struct lp_err *err)
{
	if (!b->name[0])
		return lp_err(err, -EINVAL,
			      "%s: entry %zu (0x%" PRIx64
			      ") is in the parent, but there is no parent directory: restore the symlink `parent`",
			      pm->name, i, pm->ents[i].start);
	if (b->missing)
		return lp_err(err, -EINVAL,
			      "%s: entry %zu (0x%" PRIx64 ") is in the parent, but %s is missing: copy the parent again",
			      pm->name, i, pm->ents[i].start, b->name);
	return lp_err(err, -EINVAL, "%s: entry %zu (0x%" PRIx64 "): %s %s page 0x%" PRIx64 ": copy the parent again",
		      pm->name, i, pm->ents[i].start, b->name, source ? "has no data for" : "lacks", addr);
}

static int push_parent(struct extvec *out, const struct lp_pagemap *pm, size_t i, bool lazy, struct below *b,
		       struct lp_err *err)
{
	const struct lp_pm_entry *e = &pm->ents[i];
	uint64_t pos = e->start;

	while (pos < e->end) {
		const struct lp_extent *s;
		struct lp_extent piece;

		while (b->at < b->flat->n && b->flat->x[b->at].end <= pos)
			b->at++;
		s = b->at < b->flat->n ? &b->flat->x[b->at] : NULL;
		if (!s || s->start > pos || s->kind != LP_EXT_DATA)
			return no_parent_page(pm, i, pos, b, s && s->start <= pos, err);
		piece = *s;
		piece.start = pos;
		piece.end = s->end < e->end ? s->end : e->end;
		piece.off = s->off + (pos - s->start);
		piece.lazy = lazy;
		if (push(out, &piece))
			return lp_err(err, -ENOMEM, "%s: no memory for %zu extents", pm->name, out->n);
		pos = piece.end;
	}
	return 0;
}

static int flatten(const struct lp_pagemap *pm, uint32_t file, bool top, struct below *b, struct extvec *out,
		   struct lp_err *err)
{
	struct lp_extent x;
	size_t i;
	int rc;

	for (i = 0; i < pm->nents; i++) {
		const struct lp_pm_entry *e = &pm->ents[i];
		/* What a parent was to be restored as means nothing now. */
		bool lazy = top && (e->flags & LP_PE_LAZY);

		if (e->flags & LP_PE_PARENT) {
			rc = push_parent(out, pm, i, lazy, b, err);
			if (rc)
				return rc;
			continue;
		}
		memset(&x, 0, sizeof(x));
		x.start = e->start;
		x.end = e->end;
		x.lazy = lazy;
		x.kind = LP_EXT_SOURCE;
		if (e->flags & LP_PE_PRESENT) {
			x.kind = LP_EXT_DATA;
			x.off = e->off;
			x.file = file;
		}
		if (push(out, &x))
			return lp_err(err, -ENOMEM, "%s: no memory for %zu extents", pm->name, out->n);
	}
	return 0;
}

/*
 * Each entry lies in VMAs of the task, one or several without gaps. What is lazy
 * lies in lazy VMAs: CRIU would leave it out, and nobody would ask us for it.
 */
static int check_cover(const struct lp_task *t, const struct lp_pagemap *pm, struct lp_err *err)
{
	size_t i, v = 0;

	for (i = 0; i < pm->nents; i++) {
		const struct lp_pm_entry *e = &pm->ents[i];
		uint64_t pos = e->start;

		while (pos < e->end) {
			while (v < t->nvmas && t->vmas[v].end <= pos)
				v++;
			if (v < t->nvmas && t->vmas[v].start <= pos) {
				if (e->flags & LP_PE_LAZY && !t->vmas[v].lazy)
					return lp_err(err, -EINVAL,
						      "%s: entry %zu (0x%" PRIx64 "-0x%" PRIx64 ") is lazy, but the VMA at 0x%" PRIx64
						      " is not of a kind that can be: the image is damaged, dump again",
						      pm->name, i, e->start, e->end, t->vmas[v].start);
				pos = t->vmas[v].end;
				continue;
			}
			if (pos == e->start)
				return lp_err(err, -EINVAL,
					      "%s: entry %zu (0x%" PRIx64 "-0x%" PRIx64
					      ") is in no VMA: the image is damaged, dump again",
					      pm->name, i, e->start, e->end);
			return lp_err(err, -EINVAL,
				      "%s: entry %zu (0x%" PRIx64 "-0x%" PRIx64 ") ends past its VMA (0x%" PRIx64
				      "): the image is damaged, dump again",
				      pm->name, i, e->start, e->end, pos);
		}
	}
	return 0;
}

/* Load, check and flatten the pagemap of @t in directory @d; @b and @flat move one level up. */
static int add_level(struct lp_images *im, struct lp_task *t, const char *name, bool cover, const struct lp_imgdir *d,
		     struct extvec *flat, struct below *b, struct lp_err *err)
{
	struct extvec out = { 0 };
	struct lp_pagemap pm;
	uint32_t file = 0;
	int rc;

	rc = lp_pagemap_load(im, d, name, &pm, err);
	if (rc)
		return rc;
	if (!d->depth) {
		t->pages_id = pm.pages_id;
		im->wide |= pm.wide;
		rc = cover ? check_cover(t, &pm, err) : 0;
	}
	if (!rc && pm.data_bytes)
		rc = lp_get_pages_file(im, d, &pm, &file, err);
	b->flat = flat;
	b->at = 0;
	if (!rc)
		rc = flatten(&pm, file, !d->depth, b, &out, err);
	free(flat->x);
	*flat = out;
	b->missing = pm.missing;
	memcpy(b->name, pm.name, sizeof(b->name));
	lp_pagemap_free(&pm);
	return rc;
}

/* From the pagemaps @file; @cover: they name places in VMAs. */
static int build(struct lp_images *im, struct lp_task *t, const char *file, bool cover, struct lp_err *err)
{
	struct extvec flat = { 0 };
	struct below b = { 0 };
	struct lp_extent *p;
	unsigned i;
	size_t k;
	int rc = 0;

	for (i = im->ndirs; !rc && i-- > 0;)
		rc = add_level(im, t, file, cover, &im->dirs[i], &flat, &b, err);
	if (rc) {
		free(flat.x);
		return rc;
	}
	p = flat.n ? realloc(flat.x, flat.n * sizeof(*p)) : NULL;
	t->extents = p ? p : flat.x;
	t->nextents = flat.n;
	for (k = 0; k < flat.n; k++) {
		if (t->extents[k].lazy)
			t->lazy_bytes += t->extents[k].end - t->extents[k].start;
		else
			t->eager_bytes += t->extents[k].end - t->extents[k].start;
	}
	return 0;
}

int lp_build_index(struct lp_images *im, struct lp_task *t, struct lp_err *err)
{
	char file[32];

	snprintf(file, sizeof(file), "pagemap-%" PRId32 ".img", t->pid);
	return build(im, t, file, true, err);
}

int lp_build_index_of(struct lp_images *im, struct lp_task *t, const char *file, struct lp_err *err)
{
	return build(im, t, file, false, err);
}

const struct lp_extent *lp_task_lookup(const struct lp_task *t, uint64_t addr, const struct lp_extent **next)
{
	size_t lo = 0, hi = t->nextents, mid;

	/* The first extent that ends after @addr. */
	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (t->extents[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	if (lo < t->nextents && t->extents[lo].start <= addr)
		return &t->extents[lo];
	if (next)
		*next = lo < t->nextents ? &t->extents[lo] : NULL;
	return NULL;
}

const struct lp_vma *lp_task_vma(const struct lp_task *t, uint64_t addr)
{
	size_t lo = 0, hi = t->nvmas, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (t->vmas[mid].end <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < t->nvmas && t->vmas[lo].start <= addr ? &t->vmas[lo] : NULL;
}

bool lp_task_has_pages(const struct lp_task *t, const struct lp_vma *v)
{
	const struct lp_extent *next = NULL, *x = lp_task_lookup(t, v->start, &next);

	return x || (next && next->start < v->end);
}

int lp_task_lazy_ranges(const struct lp_task *t,
			int (*fn)(void *arg, uint64_t start, uint64_t end, const struct lp_vma *vma,
				  const struct lp_extent *ext),
			void *arg)
{
	size_t v = 0, x = 0;
	uint64_t start, end;
	int rc;

	while (v < t->nvmas && x < t->nextents) {
		const struct lp_vma *vma = &t->vmas[v];
		const struct lp_extent *ext = &t->extents[x];

		start = vma->start > ext->start ? vma->start : ext->start;
		end = vma->end < ext->end ? vma->end : ext->end;
		if (start < end && vma->lazy && ext->lazy) {
			rc = fn(arg, start, end, vma, ext);
			if (rc)
				return rc;
		}
		if (vma->end <= ext->end)
			v++;
		else
			x++;
	}
	return 0;
}
