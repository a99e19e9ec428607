/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * CRIU image directories: a strict reader and the page index.
 *
 * lp_images_open() reads everything that names memory (inventory, process
 * tree, VMAs, pagemaps, the pagemaps of parents) and refuses anything that is
 * truncated, contradictory or not understood, with one line of explanation,
 * before any task runs. The result never changes afterwards, so any number of
 * threads may read it without a lock; it and everything it hands out live
 * until lp_images_close().
 */
#ifndef LP_IMAGES_H
#define LP_IMAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define LP_PAGE_SIZE UINT64_C(4096)

/* One VMA of a task as dumped; [start, end) in bytes. Fields as in vma_entry of CRIU. */
struct lp_vma {
	uint64_t start, end;
	uint64_t pgoff;
	uint64_t shmid;
	uint64_t madv;	 /* bitmap: 1 << MADV_x set on the VMA */
	uint32_t prot;	 /* PROT_x */
	uint32_t flags;	 /* MAP_x */
	uint32_t status; /* VMA_AREA_x bits of CRIU's image.h */
	bool lazy;	 /* CRIU registers it with userfaultfd (vma_entry_can_be_lazy) */
};

enum lp_extent_kind {
	LP_EXT_DATA,   /* bytes are in file `file` at `off` */
	LP_EXT_SOURCE, /* LAZY without PRESENT: the bytes stayed with the live source */
};

/*
 * The page index of a task: sorted by start, disjoint, parents already
 * resolved. An address in no extent reads as zeros. `lazy` tells whether the
 * top-level pagemap entry has PE_LAZY: then restore leaves the page to the
 * lazy-pages daemon; else CRIU has filled it before the VMA is registered.
 */
struct lp_extent {
	uint64_t start, end; /* bytes, half-open, page aligned */
	uint64_t off;	     /* LP_EXT_DATA: byte offset in the file */
	uint32_t file;	     /* LP_EXT_DATA: index for lp_images_file() */
	uint8_t kind;	     /* enum lp_extent_kind */
	bool lazy;
};

struct lp_task {
	int32_t pid, ppid; /* in the images' pid namespace */
	bool has_mm;	   /* false: a zombie (or dead) task, without memory */
	uint32_t pages_id; /* of the top-level pagemap */
	const int32_t *threads; /* their tids, with that of the leader; LP_MAX_THREADS at most */
	size_t nthreads;
	uint64_t words[4]; /* start and end of its arguments and of its environment; not checked */
	const uint64_t *early; /* addresses, anywhere, that must not wait for a fault: see early.c */
	size_t nearly;
	const struct lp_vma *vmas; /* sorted by start, disjoint; guards (VMA_AREA_GUARD) left out */
	size_t nvmas;
	const struct lp_extent *extents;
	size_t nextents;
	uint64_t lazy_bytes;  /* sum of lazy extents */
	uint64_t eager_bytes; /* sum of the others */
};

/* A pages-N.img that at least one extent points into. */
struct lp_pages_file {
	int fd;		  /* open read-only, owned by the images */
	uint64_t size;	  /* bytes, when opened */
	const char *name; /* for messages: "parent/pages-1.img" */
	unsigned depth;	  /* 0: the top directory, 1: its parent, ... */
};

struct lp_images;

/*
 * Open the checkpoint in directory @dir.
 * Errors: -ENOENT a file is missing, -EINVAL the content is not acceptable,
 * -ELOOP parents form a loop (or are too many), -ENOTSUP a format we do not
 * know (e.g. compressed pages), -ENOMEM, or what open/read said.
 */
int lp_images_open(const char *dir, struct lp_images **out, struct lp_err *err);
void lp_images_close(struct lp_images *im);

size_t lp_images_ntasks(const struct lp_images *im);
/* Tasks in the order of pstree.img; @i < lp_images_ntasks(). */
const struct lp_task *lp_images_task(const struct lp_images *im, size_t i);
/*
 * The first task with pages that are not in the files but stayed with the source
 * of a lazy dump, and *@at, where they begin; NULL: the checkpoint is whole.
 */
const struct lp_task *lp_images_elsewhere(const struct lp_images *im, uint64_t *at);
/* NULL when no task has @pid. */
const struct lp_task *lp_images_find(const struct lp_images *im, int32_t pid);

/*
 * Were the pagemaps written by CRIU 4.2 or later? Then its page server speaks
 * with 64-bit counts (plugin/proto/criu_ps.h). False if they have no entry.
 */
bool lp_images_wide(const struct lp_images *im);

size_t lp_images_nfiles(const struct lp_images *im);
const struct lp_pages_file *lp_images_file(const struct lp_images *im, size_t i);

/* Number of parent directories below the top one. */
unsigned lp_images_depth(const struct lp_images *im);

/*
 * The extent that holds @addr, or NULL; logarithmic. With NULL, *@next (when
 * not NULL) is the first extent after @addr, or NULL when there is none.
 */
const struct lp_extent *lp_task_lookup(const struct lp_task *t, uint64_t addr, const struct lp_extent **next);

/* The VMA that holds @addr, or NULL; logarithmic. */
const struct lp_vma *lp_task_vma(const struct lp_task *t, uint64_t addr);
/* Has the checkpoint anything for @v, a VMA of @t? */
bool lp_task_has_pages(const struct lp_task *t, const struct lp_vma *v);

/*
 * The lazy ranges of a task: its lazy extents cut at the bounds of its lazy
 * VMAs, sorted by start. One call of @fn for each; a non-zero return stops and
 * is handed back. @vma and @ext are borrowed.
 */
int lp_task_lazy_ranges(const struct lp_task *t,
			int (*fn)(void *arg, uint64_t start, uint64_t end, const struct lp_vma *vma,
				  const struct lp_extent *ext),
			void *arg);

#endif
