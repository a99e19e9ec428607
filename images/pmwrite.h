/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Writing pagemap images, into memory. Both counts of pages are written, so
 * that CRIU before and after 4.2 reads them.
 */
#ifndef LP_IMAGES_PMWRITE_H
#define LP_IMAGES_PMWRITE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* pagemap_entry.flags, CRIU's PE_x. */
#define LP_PE_PARENT  1u
#define LP_PE_LAZY    2u
#define LP_PE_PRESENT 4u

/* Starts zeroed; @p is its owner's: free() it. */
struct lp_pmw {
	uint8_t *p;
	size_t n, cap;
};

/* Magic and head. @common: image version 2, as CRIU has written since 2015. All: 0 or -ENOMEM. */
int lp_pmw_head(struct lp_pmw *w, bool common, uint32_t pages_id);
/* Entries for [start, end), page aligned. */
int lp_pmw_add(struct lp_pmw *w, uint64_t start, uint64_t end, uint32_t flags);

#endif
