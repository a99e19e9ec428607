/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * pagemap-PID.img of one directory: read, checked, old forms translated.
 *
 * A field we do not know may change what the entry means (compressed pages
 * do), so unlike elsewhere it is refused. struct lp_pagemap owns its array.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "images/internal.h"
#include "images/pagemap.pb-c.h"

static int check_unknown(const ProtobufCMessage *m, const char *name, const char *where, struct lp_err *err)
{
	if (!m->n_unknown_fields)
		return 0;
	return lp_err(err, -ENOTSUP,
		      "%s: %s has the unknown field %" PRIu32
		      " (compressed pages?): upgrade lazypages or dump without that feature",
		      name, where, m->unknown_fields[0].tag);
}

static int read_head(struct lp_imgfile *f, struct lp_pagemap *pm, struct lp_err *err)
{
	Lp__PagemapHead *h;
	const uint8_t *data;
	size_t len;
	int rc;

	rc = lp_imgfile_next(f, &data, &len, err);
	if (rc < 0)
		return rc;
	if (!rc)
		return lp_err(err, -EINVAL, "%s: truncated: it has no head: copy it again", f->name);
	h = lp__pagemap_head__unpack(NULL, len, data);
	if (!h)
		return lp_err(err, -EINVAL, "%s: its first record is not a head: the image is damaged, dump again", f->name);
	pm->pages_id = h->pages_id;
	rc = check_unknown(&h->base, f->name, "its head", err);
	lp__pagemap_head__free_unpacked(h, NULL);
	return rc;
}

/* The flags as they are written today, or -errno. */
static int real_flags(const Lp__PagemapEntry *e, size_t i, const char *name, uint32_t *flags, struct lp_err *err)
{
	const uint32_t known = LP_PE_PARENT | LP_PE_LAZY | LP_PE_PRESENT;
	uint32_t v = e->has_flags ? e->flags : 0;

	if (v & ~known)
		return lp_err(err, -ENOTSUP,
			      "%s: entry %zu (0x%" PRIx64 ") has unknown flags 0x%" PRIx32
			      ": upgrade lazypages or dump without that feature",
			      name, i, e->vaddr, v & ~known);
	if (e->has_in_parent && e->in_parent)
		v |= LP_PE_PARENT;
	else if (!e->has_flags)
		v = LP_PE_PRESENT;
	if (!v || (v & (LP_PE_PARENT | LP_PE_PRESENT)) == (LP_PE_PARENT | LP_PE_PRESENT))
		return lp_err(err, -EINVAL,
			      "%s: entry %zu (0x%" PRIx64 ") has flags 0x%" PRIx32
			      ", %s: the image is damaged, dump again",
			      name, i, e->vaddr, v, v ? "both here and in the parent" : "which name no place for its pages");
	*flags = v;
	return 0;
}

static int check_entry(const Lp__PagemapEntry *e, const struct lp_pagemap *pm, struct lp_pm_entry *out,
		       struct lp_err *err)
{
	const struct lp_pm_entry *prev = pm->nents ? &pm->ents[pm->nents - 1] : NULL;
	uint64_t nr = e->has_nr_pages ? e->nr_pages : e->compat_nr_pages;
	const char *what = NULL;
	char where[32];
	int rc;

	if (e->base.n_unknown_fields) {
		snprintf(where, sizeof(where), "entry %zu", pm->nents);
		return check_unknown(&e->base, pm->name, where, err);
	}
	rc = real_flags(e, pm->nents, pm->name, &out->flags, err);
	if (rc)
		return rc;
	if (e->vaddr % LP_PAGE_SIZE)
		what = "is not page aligned";
	else if (!nr)
		what = "has zero pages";
	else if (e->vaddr >= LP_ADDR_MAX || nr > (LP_ADDR_MAX - e->vaddr) / LP_PAGE_SIZE)
		what = "ends past 2^63";
	if (what)
		return lp_err(err, -EINVAL,
			      "%s: entry %zu (0x%" PRIx64 ", %" PRIu64 " pages) %s: the image is damaged, dump again",
			      pm->name, pm->nents, e->vaddr, nr, what);
	out->start = e->vaddr;
	out->end = e->vaddr + nr * LP_PAGE_SIZE;
	if (prev && out->start < prev->end)
		return lp_err(err, -EINVAL,
			      "%s: entry %zu (0x%" PRIx64 "-0x%" PRIx64 ") %s the one before it (0x%" PRIx64 "-0x%" PRIx64
			      "): the image is damaged, dump again",
			      pm->name, pm->nents, out->start, out->end,
			      out->end <= prev->start ? "is unsorted, it lies below" : "overlaps", prev->start, prev->end);
	return 0;
}

static int add_entry(struct lp_pagemap *pm, size_t *cap, const uint8_t *data, size_t len, struct lp_err *err)
{
	struct lp_pm_entry *p, new = { 0 };
	Lp__PagemapEntry *e;
	size_t n;
	int rc;

	e = lp__pagemap_entry__unpack(NULL, len, data);
	if (!e)
		return lp_err(err, -EINVAL, "%s: entry %zu cannot be parsed: the image is damaged, dump again", pm->name,
			      pm->nents);
	rc = check_entry(e, pm, &new, err);
	pm->wide |= e->has_nr_pages;
	lp__pagemap_entry__free_unpacked(e, NULL);
	if (rc)
		return rc;
	if (pm->nents == *cap) {
		n = *cap ? *cap * 2 : 16;
		p = realloc(pm->ents, n * sizeof(*p));
		if (!p)
			return lp_err(err, -ENOMEM, "%s: no memory for %zu entries", pm->name, n);
		pm->ents = p;
		*cap = n;
	}
	if (new.flags & LP_PE_PRESENT) {
		/* Cannot overflow: entries are disjoint and below 2^63. */
		new.off = pm->data_bytes;
		pm->data_bytes += new.end - new.start;
	}
	pm->ents[pm->nents++] = new;
	return 0;
}

int lp_pagemap_load(struct lp_images *im, const struct lp_imgdir *d, const char *file, struct lp_pagemap *pm,
		    struct lp_err *err)
{
	struct lp_imgfile f;
	const uint8_t *data;
	size_t len, cap = 0;
	int rc;

	memset(pm, 0, sizeof(*pm));
	lp_imgdir_name(d, file, pm->name);
	rc = lp_imgfile_open(&f, d, file, LP_MAGIC_PAGEMAP, im->common, err);
	if (rc == -ENOENT && d->depth) {
		/* The task was born after that pre-dump. */
		pm->missing = true;
		return 0;
	}
	if (rc)
		return rc;
	rc = read_head(&f, pm, err);
	if (rc)
		goto out;
	while ((rc = lp_imgfile_next(&f, &data, &len, err)) > 0) {
		rc = add_entry(pm, &cap, data, len, err);
		if (rc)
			break;
	}
out:
	lp_imgfile_close(&f);
	if (rc)
		lp_pagemap_free(pm);
	return rc;
}

void lp_pagemap_free(struct lp_pagemap *pm)
{
	free(pm->ents);
	pm->ents = NULL;
	pm->nents = 0;
}
