/* SPDX-License-Identifier: GPL-2.0-only */
/* Thin and whole pagemaps; see thin.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "images/internal.h"
#include "images/pmwrite.h"
#include "images/thin.h"

/*
 * CRIU copies a shadow stack from where it has mapped it before anything is
 * registered (restorer.c, shstk_vma_restore()), so its pages cannot be lazy, though
 * dumps call them so.
 */
int lp_thin_pieces(const struct lp_task *t, int (*fn)(void *arg, const struct lp_extent *piece, bool lazy), void *arg)
{
	size_t i, v = 0;
	int rc = 0;

	for (i = 0; !rc && i < t->nextents; i++) {
		struct lp_extent x = t->extents[i];
		uint64_t end = x.end;

		for (; !rc && x.start < end; x.off += x.end - x.start, x.start = x.end) {
			bool lazy = false, copied = false;

			while (v < t->nvmas && t->vmas[v].end <= x.start)
				v++;
			x.end = end;
			if (v < t->nvmas && t->vmas[v].start > x.start) {
				x.end = t->vmas[v].start < end ? t->vmas[v].start : end;
			} else if (v < t->nvmas) {
				x.end = t->vmas[v].end < end ? t->vmas[v].end : end;
				lazy = t->vmas[v].lazy;
				copied = t->vmas[v].status & LP_VMA_SHSTK && x.kind == LP_EXT_DATA;
			}
			rc = fn(arg, &x, (lazy || x.lazy) && !copied);
		}
	}
	return rc;
}

static int add_eager(void *arg, const struct lp_extent *piece, bool lazy)
{
	uint64_t *sum = arg;

	*sum += lazy ? 0 : piece->end - piece->start;
	return 0;
}

uint64_t lp_thin_eager(const struct lp_task *t)
{
	uint64_t sum = 0;

	(void)lp_thin_pieces(t, add_eager, &sum);
	return sum;
}

struct mixed {
	const struct lp_task *t;
	bool stacks; /* they may have huge pages */
	uint64_t addr;
	size_t v;
};

static int find_mixed(void *arg, const struct lp_extent *piece, bool lazy)
{
	struct mixed *m = arg;

	if (!lazy || piece->lazy)
		return 0;
	while (m->v < m->t->nvmas && m->t->vmas[m->v].end <= piece->start)
		m->v++;
	m->addr = piece->start;
	return m->stacks || m->v == m->t->nvmas || !(m->t->vmas[m->v].flags & MAP_GROWSDOWN);
}

/* CRIU maps a VMA with its pages in the parent and lets the child have it by fork, if it begins at the same place in both. */
static bool shares_vma(const struct lp_task *a, const struct lp_task *b)
{
	size_t i = 0, k = 0;

	while (i < a->nvmas && k < b->nvmas) {
		if (a->vmas[i].start == b->vmas[k].start && a->vmas[i].lazy && b->vmas[k].lazy)
			return true;
		if (a->vmas[i].start <= b->vmas[k].start)
			i++;
		else
			k++;
	}
	return false;
}

/* Has @t lazy pages, or a child that gets some of its memory by fork, or a child of that one? */
static bool lazy_by_fork(const struct lp_images *im, const struct lp_task *t, size_t depth)
{
	size_t i, n = lp_images_ntasks(im);

	if (t->lazy_bytes)
		return true;
	for (i = 0; depth < n && i < n; i++) {
		const struct lp_task *c = lp_images_task(im, i);

		if (c != t && c->ppid == t->pid && c->has_mm && shares_vma(t, c) && lazy_by_fork(im, c, depth + 1))
			return true;
	}
	return false;
}

/*
 * Has @t pages of a shadow stack? CRIU has them in anonymous memory like any
 * other first, side by side with lazy VMAs.
 */
static bool shadow_data(const struct lp_task *t, uint64_t *addr)
{
	size_t i;

	for (i = 0; i < t->nvmas; i++) {
		*addr = t->vmas[i].start;
		if (t->vmas[i].status & LP_VMA_SHSTK && lp_task_has_pages(t, &t->vmas[i]))
			return true;
	}
	return false;
}

bool lp_thin_mixed(const struct lp_images *im, const struct lp_task *t, uint64_t huge, uint64_t *addr)
{
	struct mixed m = { .t = t };
	uint64_t stacks = 0;
	size_t i;

	/* VMAs of this kind become one with none of another kind, and have a page more while CRIU is at it. */
	for (i = 0; i < t->nvmas; i++)
		if (t->vmas[i].flags & MAP_GROWSDOWN)
			stacks += t->vmas[i].end - t->vmas[i].start + LP_PAGE_SIZE;
	m.stacks = stacks >= huge;
	if (!shadow_data(t, &m.addr) && !lp_thin_pieces(t, find_mixed, &m))
		return false;
	if (!lazy_by_fork(im, t, 0))
		return false;
	*addr = m.addr;
	return true;
}

/* The VMA of @t that CRIU takes for the same as @v of a child: check_cow_vmas() in its mem.c. */
static const struct lp_vma *same_vma(const struct lp_task *t, const struct lp_vma *v)
{
	const struct lp_vma *p = lp_task_vma(t, v->start);

	return p && p->start == v->start && p->end == v->end && p->flags & MAP_PRIVATE &&
		       !((p->flags ^ v->flags) & (MAP_GROWSDOWN | MAP_ANONYMOUS)) && !(p->flags & MAP_HUGETLB) ?
		       p :
		       NULL;
}

/* The first byte of [@start, @end) that @t has nothing for, or @end. */
static uint64_t first_hole(const struct lp_task *t, uint64_t start, uint64_t end)
{
	const struct lp_extent *x;

	while (start < end && (x = lp_task_lookup(t, start, NULL)))
		start = x->end;
	return start < end ? start : end;
}

struct locked {
	const struct lp_task *by;
	const struct lp_vma *v;
	uint64_t addr;
};

static int find_locked(void *arg, const struct lp_extent *piece, bool lazy)
{
	struct locked *l = arg;

	if (!lazy || piece->start < l->v->start || piece->start >= l->v->end)
		return 0;
	l->addr = first_hole(l->by, piece->start, piece->end);
	return l->addr < piece->end;
}

bool lp_thin_locked(const struct lp_images *im, const struct lp_task *t, uint64_t *addr, int32_t *by)
{
	size_t i;

	for (i = 0; t->lazy_bytes && i < t->nvmas; i++) {
		struct locked l = { .v = &t->vmas[i] };
		const struct lp_task *p = t;

		/* Parents come first in pstree.img, so this ends. */
		while (l.v->lazy && (p = lp_images_find(im, p->ppid)) && p->has_mm) {
			const struct lp_vma *v = same_vma(p, l.v);

			if (!v)
				break;
			l.by = p;
			if (v->flags & MAP_LOCKED && lp_thin_pieces(t, find_locked, &l)) {
				*addr = l.addr;
				*by = p->pid;
				return true;
			}
		}
	}
	return false;
}

bool lp_thin_shadow(const struct lp_task *t, uint64_t *addr)
{
	size_t i, k;

	for (i = 0; i < t->nvmas; i++) {
		const struct lp_vma *v = &t->vmas[i];

		for (k = 0; v->status & LP_VMA_SHSTK && k < t->nextents; k++) {
			const struct lp_extent *x = &t->extents[k];

			*addr = v->start;
			if (x->lazy && x->start < v->end && x->end > v->start)
				return true;
		}
	}
	return false;
}

struct writer {
	struct lp_pmw b;
	bool whole;
	/* What is not written yet. */
	uint64_t start, end;
	uint32_t flags;
};

static int write_piece(void *arg, const struct lp_extent *piece, bool lazy)
{
	struct writer *w = arg;
	bool present = w->whole ? piece->kind == LP_EXT_DATA : !lazy;
	uint32_t flags = (lazy ? LP_PE_LAZY : 0) | (present ? LP_PE_PRESENT : 0);
	int rc = 0;

	/* Extents are also cut where their files change: that is over here. */
	if (piece->start != w->end || flags != w->flags) {
		rc = w->end ? lp_pmw_add(&w->b, w->start, w->end, w->flags) : 0;
		w->start = piece->start;
		w->flags = flags;
	}
	w->end = piece->end;
	return rc;
}

static int write_pagemap(const struct lp_images *im, const struct lp_task *t, bool whole, uint8_t **buf, size_t *len)
{
	struct writer w = { .whole = whole };
	int rc;

	rc = lp_pmw_head(&w.b, im->common == LP_COMMON_YES, t->pages_id);
	if (!rc)
		rc = lp_thin_pieces(t, write_piece, &w);
	if (!rc && w.end)
		rc = lp_pmw_add(&w.b, w.start, w.end, w.flags);
	if (rc) {
		free(w.b.p);
		return rc;
	}
	*buf = w.b.p;
	*len = w.b.n;
	return 0;
}

int lp_thin_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len)
{
	return write_pagemap(im, t, false, buf, len);
}

int lp_whole_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len)
{
	return write_pagemap(im, t, true, buf, len);
}

bool lp_thin_has(const struct lp_images *im, const char *name)
{
	char own[48];
	size_t i;

	if (strncmp(name, "pagemap-", 8) && strncmp(name, "pages-", 6))
		return false;
	for (i = 0; i < im->ntasks; i++) {
		const struct lp_task *t = &im->tasks[i];

		if (!t->has_mm)
			continue;
		snprintf(own, sizeof(own), "pagemap-%" PRId32 ".img", t->pid);
		if (!strcmp(name, own))
			return true;
		snprintf(own, sizeof(own), "pages-%" PRIu32 ".img", t->pages_id);
		if (!strcmp(name, own))
			return true;
	}
	return false;
}
