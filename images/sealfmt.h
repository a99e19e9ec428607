/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The sidecar of a sealed checkpoint, `lazypages.seal`: its bytes. Pure: byte
 * buffers only, and hostile ones are normal input.
 *
 * All numbers are little-endian; everything is fixed by what comes before it,
 * so there is one encoding of a seal and no room for anything else.
 *
 *   head, `head_len` bytes:
 *      0   8  "LPSEAL\r\n"
 *      8   4  version, 1
 *     12   4  page size, 4096
 *     16  16  identity of the checkpoint (images/thin.h)
 *     32   8  head_len
 *     40   4  number of pages files
 *     44   4  number of small files
 *     48   8  number of pages in all pages files
 *     56   8  XXH3-64 of the 56 bytes before
 *     64      pages files, 16 bytes each, sorted by depth and id, each once:
 *             4 depth (0: the checkpoint, 1: its parent, ...), 4 id (of pages-ID.img), 8 size in bytes
 *             small files, sorted by depth and name, each once:
 *             4 depth, 4 length of the name, 8 size in bytes, 16 XXH3-128 of the contents,
 *             the name, zeros up to a multiple of 8
 *             blocks, 8 bytes each: XXH3-64 of that block of the table of sums
 *             16 XXH3-128 of all that is before
 *   table of sums: 8 bytes for each page of the pages files, in their order: XXH3-64 of its 4096 bytes (the last
 *             page of a file: of as many as there are). A block is 512 of them (the last one: the rest).
 *
 * So who fills one page reads 4 KiB of the table, proves them by the head, which
 * was proved when it was opened, and needs no memory for the rest.
 */
#ifndef LP_IMAGES_SEALFMT_H
#define LP_IMAGES_SEALFMT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define LP_SEAL_FILE	 "lazypages.seal"
#define LP_SEAL_VERSION	 1u
#define LP_SEAL_PAGE	 4096u
#define LP_SEAL_FIXED	 64u  /* bytes of the head that every seal has */
#define LP_SEAL_BLOCK	 512u /* sums in a block */
#define LP_SEAL_NAME_MAX 255u
/* Of a head: 32 TiB of pages, and then some. */
#define LP_SEAL_HEAD_MAX (UINT64_C(128) << 20)

struct lp_seal_file {
	uint32_t depth, id;
	uint64_t size;	/* bytes */
	uint64_t first; /* number of its first page in the table; not stored, it follows */
};

struct lp_seal_small {
	uint32_t depth;
	uint32_t name_len;
	const char *name; /* not terminated; borrowed from the head when decoded */
	uint64_t size;	  /* bytes */
	uint8_t sum[16];
};

/* A head. Decoded: the arrays are its own, names and blocks point into the buffer, which must stay. */
struct lp_seal_head {
	uint8_t ident[16];
	struct lp_seal_file *files;
	uint32_t nfiles;
	struct lp_seal_small *small;
	uint32_t nsmall;
	uint64_t npages;
	const uint8_t *blocks; /* 8 bytes each */
	uint64_t nblocks;
	uint64_t len; /* of the head */
};

/* Pages that a file of @size bytes has; the last one may be a part. */
static inline uint64_t lp_seal_pages(uint64_t size)
{
	return size / LP_SEAL_PAGE + (size % LP_SEAL_PAGE != 0);
}

/*
 * How long is the head of which these are the first LP_SEAL_FIXED bytes?
 * -EBADMSG: damaged, -ENOTSUP: of another version.
 */
int lp_seal_head_len(const uint8_t fixed[LP_SEAL_FIXED], uint64_t *len, struct lp_err *err);
/*
 * Decode the @len bytes at @buf. @file_size: bytes of the whole sidecar.
 * -EBADMSG: damaged, -ENOTSUP, -ENOMEM; then nothing is left to free.
 */
int lp_seal_head_get(const uint8_t *buf, uint64_t len, uint64_t file_size, struct lp_seal_head *h,
		     struct lp_err *err);
void lp_seal_head_free(struct lp_seal_head *h);
/*
 * Encode: files and small files as given, which must be sorted, and @sums of
 * the h->nblocks blocks. h->first, npages, nblocks and len are filled in by
 * lp_seal_head_plan(). *buf is the caller's. -EINVAL, -ENOMEM.
 */
int lp_seal_head_plan(struct lp_seal_head *h);
int lp_seal_head_put(const struct lp_seal_head *h, const uint64_t *sums, uint8_t **buf);

uint64_t lp_seal_sum(const void *p, size_t len);
void lp_seal_put_u64(uint8_t *p, uint64_t v);
uint64_t lp_seal_get_u64(const uint8_t *p);

#endif
