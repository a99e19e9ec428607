/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A checkpoint seen by somebody whose pages come over the network: who is it,
 * and what must the local directory have so that CRIU restores it lazily?
 *
 * The *thin* form of a checkpoint is what `criu dump --lazy-pages` leaves:
 * pagemaps that mark lazy pages as being elsewhere, and pages files with the
 * eager ones only. Parents are resolved in it.
 *
 * The *whole* form has all bytes, but no parents: of each task the bytes of its
 * extents one after the other.
 *
 * In both, all pages of VMAs that are lazy are lazy. In the checkpoint those that
 * are in a parent are not, as CRIU marks them so. But a page that CRIU puts into a
 * VMA before it registers it may come as a huge page, zeros and all, and then there
 * is no fault for its neighbours. So CRIU does without huge pages, but only if it
 * sees a parent (maybe_disable_thp() in its mem.c).
 */
#ifndef LP_IMAGES_THIN_H
#define LP_IMAGES_THIN_H

#include "images/images.h"

#define LP_IMAGES_IDENT_LEN 16

/*
 * Which checkpoint is this? The same for a checkpoint and its thin form: over
 * inventory, process tree, cores of the tasks, VMAs and the ranges that are lazy
 * in the thin form, but not over where the bytes are. @dir: where @im was opened.
 */
int lp_images_ident(const struct lp_images *im, const char *dir, uint8_t ident[LP_IMAGES_IDENT_LEN],
		    struct lp_err *err);

/* The contents of the thin pagemap-PID.img of @t, which has memory; *buf is the caller's, free() it. */
int lp_thin_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len);

/* The same in the whole form. */
int lp_whole_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len);

/*
 * The extents of @t, cut where lazy VMAs begin and end; @lazy: in these forms. One
 * call of @fn for each; a non-zero return stops and is handed back.
 */
int lp_thin_pieces(const struct lp_task *t, int (*fn)(void *arg, const struct lp_extent *piece, bool lazy), void *arg);
/* Bytes of @t that are not lazy then: the size of its thin pages file. */
uint64_t lp_thin_eager(const struct lp_task *t);

/*
 * Does CRIU put pages of @t, a task of @im, into lazy VMAs by itself, the first at
 * *@addr, where a huge page, of @huge bytes at least, could have lazy pages as
 * well, of @t or of a child that gets the memory by fork? It puts them where VMAs
 * lie side by side that are apart later.
 */
bool lp_thin_mixed(const struct lp_images *im, const struct lp_task *t, uint64_t huge, uint64_t *addr);

/*
 * Has @t a lazy page, the first at *@addr, that CRIU has as zeros before it registers the VMA: since a task that @t
 * gets the VMA from by fork, *@by, has it locked, so that it is populated as soon as it is mapped, and has no such
 * page? (A child throws away only what its parent has pages for.)
 */
bool lp_thin_locked(const struct lp_images *im, const struct lp_task *t, uint64_t *addr, int32_t *by);

/* Is @name, of the top directory, a file that is another in these forms: of the memory of a task? */
bool lp_thin_has(const struct lp_images *im, const char *name);

/* Has @t lazy pages in a shadow stack, the first in the VMA at *@addr? CRIU would restore them as zeros. */
bool lp_thin_shadow(const struct lp_task *t, uint64_t *addr);

#endif
