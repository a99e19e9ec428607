/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sealed checkpoints: a sidecar in the checkpoint's directory has checksums of
 * all that the checkpoint consists of, parents too (format: images/sealfmt.h).
 * It finds what disks, copies and mistakes do to bytes. It is no signature: who
 * may write the checkpoint may write a seal.
 *
 * A seal is loaded once and never changes, so any number of threads may use it.
 */
#ifndef LP_IMAGES_SEAL_H
#define LP_IMAGES_SEAL_H

#include <stdbool.h>
#include <stdint.h>

#include "images/images.h"
#include "images/sealfmt.h"

/* Are pages verified before they are used? */
enum lp_verify {
	LP_VERIFY_AUTO,	   /* if there is a seal */
	LP_VERIFY_REQUIRE, /* there must be one */
	LP_VERIFY_NO,
};

struct lp_seal;

/* "auto", "require" or "no"; else -EINVAL. */
int lp_verify_parse(const char *s, enum lp_verify *v);

/*
 * The seal in @dir, proved in itself and against @im, which was opened there
 * and is borrowed: identity, sizes, contents of the small images of all
 * directories. *out is NULL if there is none and @v allows that, or @v is
 * LP_VERIFY_NO. -ENOENT: there is none, -EBADMSG: seal or images are damaged,
 * -EINVAL: it is of another checkpoint; -ENOTSUP, -ENOMEM, errors of reading.
 */
int lp_seal_open(const struct lp_images *im, const char *dir, enum lp_verify v, struct lp_seal **out,
		 struct lp_err *err);
void lp_seal_close(struct lp_seal *s);

/*
 * Are the @len bytes at @buf those that were at @off of lp_images_file(@file)
 * when it was sealed? @off and @len: whole pages. *good: how many bytes at the
 * beginning are, also on failure. -EBADMSG: they are not, -EUCLEAN: the seal
 * itself is damaged there; -EAGAIN: @nowait and it would have to sleep for the
 * disk; errors of reading the seal.
 */
int lp_seal_check(const struct lp_seal *s, uint32_t file, uint64_t off, const void *buf, uint64_t len, bool nowait,
		  uint64_t *good);
/*
 * The same for @len bytes from anywhere inside pages that are read here: @buf
 * gets those at @off, verified. @s NULL: read, not verified. May sleep. *bad:
 * with -EBADMSG and -EUCLEAN the offset of the page that is.
 */
int lp_seal_read(const struct lp_seal *s, const struct lp_images *im, uint32_t file, uint64_t off, void *buf,
		 uint64_t len, uint64_t *bad);

/*
 * The same for the file @name of the top directory, open at @fd; what is no
 * pages-N.img is read only: it was proved when the seal was opened. -EBADMSG also
 * for what the seal does not know.
 */
int lp_seal_read_name(const struct lp_seal *s, const char *name, int fd, uint64_t off, void *buf, uint64_t len, uint64_t *bad);
/*
 * @s for the files of @im, other images of the same directories, for example
 * those of shared memory. Borrows @s; lp_seal_view_end() (NULL: nothing). -EINVAL,
 * -EBADMSG as for lp_seal_open().
 */
int lp_seal_view(const struct lp_seal *s, const struct lp_images *im, struct lp_seal **out, struct lp_err *err);
void lp_seal_view_end(struct lp_seal *v);

/* Bytes done so far of all. */
typedef void (*lp_seal_progress)(void *arg, uint64_t done, uint64_t total);

struct lp_seal_sums {
	uint64_t bytes;	 /* of pages files */
	uint64_t pages;
	uint32_t files;	 /* pages files */
	uint32_t small;	 /* other files */
	uint64_t flaws;	 /* lp_seal_verify(): times that flaw() was called */
};

/*
 * Seal the checkpoint @im, opened at @dir, which nobody may change meanwhile.
 * The old seal is there until the new one is on the disk. -ENODATA: some of its
 * pages stayed with a live source; -EBUSY: it was changed; errors of files.
 */
int lp_seal_make(const struct lp_images *im, const char *dir, lp_seal_progress progress, void *arg,
		 struct lp_seal_sums *sums, struct lp_err *err);

/* What is wrong with @file: with the @pages at @off if not 0, else with all of it. All strings are borrowed. */
typedef void (*lp_seal_flaw)(void *arg, const char *file, uint64_t off, uint64_t pages, const char *what);

/*
 * Compare all that is in @dir with its seal. @im: as lp_images_open() gave it,
 * or NULL if it could not be opened. Flaws are told one by one; -ENOENT: there
 * is no seal; else errors that leave nothing to compare.
 */
int lp_seal_verify(const struct lp_images *im, const char *dir, lp_seal_flaw flaw, lp_seal_progress progress,
		   void *arg, struct lp_seal_sums *sums, struct lp_err *err);

#endif
