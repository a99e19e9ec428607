/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared memory whose pages are in parents too, for who offers a checkpoint
 * without them. CRIU restores shared memory eagerly, so in the page index it is
 * not; here it is made *whole*: pagemap-shmem-ID.img without parents, and the
 * bytes it describes one after the other.
 */
#ifndef LP_IMAGES_SHARED_H
#define LP_IMAGES_SHARED_H

#include "images/images.h"

struct lp_seal;

struct lp_shared;

/*
 * Of the checkpoint @im in @dir. *out is the caller's, lp_shared_close() it; NULL
 * if no parent has any shared memory of it. -EINVAL, -ENOENT: what a pagemap
 * names is not there; -ENOTSUP, -ENOMEM, errors of reading.
 */
int lp_shared_open(const struct lp_images *im, const char *dir, struct lp_shared **out, struct lp_err *err);
void lp_shared_close(struct lp_shared *s);

/* All of the following take NULL: there is none. */
size_t lp_shared_count(const struct lp_shared *s);
/* Names of files, the contents of the pagemap and the size of the pages file of number @i. Borrowed. */
struct lp_shared_mem {
	char pagemap[48], pages[32];
	const uint8_t *entries;
	size_t len;
	uint64_t bytes;
};
const struct lp_shared_mem *lp_shared_mem(const struct lp_shared *s, size_t i);
/* Is the file @name of the top directory another here? */
bool lp_shared_has(const struct lp_shared *s, const char *name);
/* Verify by @seal (borrowed until lp_shared_close(); NULL: not) what is read from now on: -EBADMSG, -EUCLEAN. */
int lp_shared_verify(struct lp_shared *s, const struct lp_seal *seal, struct lp_err *err);
/* @len bytes of the pages file of number @i, from @off on; all of them are in it. 0 or -errno. */
int lp_shared_read(const struct lp_shared *s, size_t i, uint64_t off, void *buf, size_t len);

#endif
