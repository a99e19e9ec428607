/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The archive that images_fuzz.c takes and images_seeds.c writes: which
 * selector is which file. Parents lie within the checkpoint: p/, p/q/, p/q/r/.
 */
#ifndef LP_IMAGES_FUZZ_H
#define LP_IMAGES_FUZZ_H

#include <stdbool.h>
#include <string.h>

static const char *const if_names[] = {
	"inventory.img",	"pstree.img",	       "core-1.img",	    "core-2.img",	 "mm-1.img",
	"mm-2.img",		"pagemap-1.img",       "pagemap-2.img",	    "pages-1.img",	 "pages-2.img",
	"p/pagemap-1.img",	"p/pagemap-2.img",     "p/pages-1.img",	    "p/pages-2.img",	 "p/q/pagemap-1.img",
	"p/q/pagemap-2.img",	"p/q/pages-1.img",     "p/q/pages-2.img",   "pagemap-shmem-7.img", "pages-3.img",
	"p/pagemap-shmem-7.img", "p/pages-3.img",
};

#define IF_NFILES   22
/* Selectors of the links; the first byte of the contents is the target. */
#define IF_LINK	    200
#define IF_NTARGETS 6

static const char *const if_links[] = { "parent", "p/parent", "p/q/parent" };
static const char *const if_targets[] = { "p", "q", "r", ".", "..", "gone" };
static const char *const if_dirs[] = { "p", "p/q", "p/q/r" };

static inline bool if_is_pages(unsigned sel)
{
	return strstr(if_names[sel], "pages-") != NULL;
}

#endif
