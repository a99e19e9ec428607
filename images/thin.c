/* SPDX-License-Identifier: GPL-2.0-only */
/* Thin and whole pagemaps; see thin.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "images/internal.h"
#include "images/pmwrite.h"
#include "images/thin.h"

static uint32_t thin_flags(const struct lp_extent *x)
{
	return x->lazy ? LP_PE_LAZY : LP_PE_PRESENT;
}

static uint32_t whole_flags(const struct lp_extent *x)
{
	return (x->lazy ? LP_PE_LAZY : 0) | (x->kind == LP_EXT_DATA ? LP_PE_PRESENT : 0);
}

static int write_pagemap(const struct lp_images *im, const struct lp_task *t, uint32_t (*flags)(const struct lp_extent *),
			 uint8_t **buf, size_t *len)
{
	struct lp_pmw b = { 0 };
	size_t i, k;
	int rc;

	rc = lp_pmw_head(&b, im->common == LP_COMMON_YES, t->pages_id);
	for (i = 0; !rc && i < t->nextents; i = k) {
		/* Extents are also cut where their files change: that is over here. */
		for (k = i + 1; k < t->nextents; k++)
			if (t->extents[k].start != t->extents[k - 1].end ||
			    flags(&t->extents[k]) != flags(&t->extents[i]))
				break;
		rc = lp_pmw_add(&b, t->extents[i].start, t->extents[k - 1].end, flags(&t->extents[i]));
	}
	if (rc) {
		free(b.p);
		return rc;
	}
	*buf = b.p;
	*len = b.n;
	return 0;
}

int lp_thin_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len)
{
	return write_pagemap(im, t, thin_flags, buf, len);
}

int lp_whole_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len)
{
	return write_pagemap(im, t, whole_flags, buf, len);
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
