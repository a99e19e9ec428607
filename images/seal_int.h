/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared between seal.c, sealmake.c and sealverify.c: not for others, see seal.h. */
#ifndef LP_IMAGES_SEAL_INT_H
#define LP_IMAGES_SEAL_INT_H

#include "images/internal.h"
#include "images/seal.h"
#include "images/sealfmt.h"
#include "images/thin.h"

struct lp_seal {
	int fd;
	uint8_t *buf; /* the head as it is in the file */
	struct lp_seal_head h;
	uint32_t *map; /* of files of the images to h.files; lp_seal_fit() */
	size_t nmap;
};

/* All or nothing, -EIO when the file is shorter; @nowait: -EAGAIN. */
int seal_pread(int fd, void *buf, uint64_t len, uint64_t off, bool nowait);
/* Load the seal of the directory @dirfd: its head. -ENOENT: there is none. */
int seal_load(int dirfd, struct lp_seal **out, struct lp_err *err);
/* The block of sums that page number @page is in, proved: *n of them into @sums. -EUCLEAN: damaged. */
int seal_block(const struct lp_seal *s, uint64_t page, bool nowait, uint8_t sums[LP_SEAL_BLOCK * 8], uint64_t *n);
/* XXH3-128 of the file @name of @d, and its size. */
int seal_sum_file(const struct lp_imgdir *d, const char *name, const char *shown, uint8_t sum[16], uint64_t *size,
		  struct lp_err *err);
/* Is @name pages-ID.img? */
bool seal_is_pages(const char *name, uint32_t *id);
/* Of one directory: call @fn for each file that a seal is about. Stops when it returns non-zero, and returns that. */
int seal_list(const struct lp_imgdir *d, int (*fn)(void *arg, const struct lp_imgdir *d, const char *name), void *arg,
	      struct lp_err *err);

#endif
