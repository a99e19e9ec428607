/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared between the files of images/: not for others, see images.h.
 *
 * struct lp_images owns everything; the other structs live only while
 * lp_images_open() runs. Names of files in messages are "pagemap-17.img" or
 * "parent/pagemap-17.img".
 */
#ifndef LP_IMAGES_INTERNAL_H
#define LP_IMAGES_INTERNAL_H

#include <sys/types.h>

#include "images/images.h"
#include "images/pmwrite.h"

#define LP_MAGIC_COMMON	   0x54564319u
#define LP_MAGIC_INVENTORY 0x58313116u
#define LP_MAGIC_PSTREE	   0x50273030u
#define LP_MAGIC_CORE	   0x55053847u
#define LP_MAGIC_MM	   0x57492820u
#define LP_MAGIC_PAGEMAP   0x56084025u

/* vma_entry.status bits that matter here, CRIU's VMA_AREA_x. */
#define LP_VMA_REGULAR	(1u << 0)
#define LP_VMA_VSYSCALL (1u << 2)
#define LP_VMA_VDSO	(1u << 3)
#define LP_VMA_FILE_PRIVATE (1u << 6)
#define LP_VMA_ANON_PRIVATE (1u << 9)
#define LP_VMA_VVAR	(1u << 12)
#define LP_VMA_SHSTK	(1u << 15)
#define LP_VMA_GUARD	(1u << 16)

/* Below the usual soft limit of 1024 descriptors: each level holds one while opening. */
#define LP_MAX_DEPTH 256
/* User space ends below this, whatever the architecture. */
#define LP_ADDR_MAX (UINT64_C(1) << 63)

/* Threads of a task that are looked at; more need more pages than the daemon asks for at once. */
#define LP_MAX_THREADS 2048

#define LP_NAME_MAX 96

/* One directory of the chain: dirs[0] is the checkpoint, dirs[1] its parent. */
struct lp_imgdir {
	int fd;
	unsigned depth;
	dev_t dev;
	ino_t ino;
};

/* imgfile.c: one image file, read record by record. */
struct lp_imgfile {
	int fd;
	uint64_t left;	/* bytes of the file not yet handed out */
	uint8_t *buf;	/* [head, fill) is read from the file and not handed out */
	size_t cap, head, fill;
	uint64_t nrec;	/* records handed out */
	char name[LP_NAME_MAX];
};

enum lp_common_magic {
	LP_COMMON_NO,
	LP_COMMON_YES,
	LP_COMMON_MAYBE, /* the inventory: CRIU itself leaves it out */
};

/* Write how messages name @file of directory @d into @name (LP_NAME_MAX bytes). */
void lp_imgdir_name(const struct lp_imgdir *d, const char *file, char *name);

/* Open a regular file read-only; returns the descriptor, which is the caller's, or -errno. */
int lp_open_regular(const struct lp_imgdir *d, const char *file, const char *name, uint64_t *size,
		    struct lp_err *err);

/* Open @file and check its magic. On failure nothing is left to close. */
int lp_imgfile_open(struct lp_imgfile *f, const struct lp_imgdir *d, const char *file, uint32_t magic,
		    enum lp_common_magic common, struct lp_err *err);
/* 1: a record, borrowed until the next call; 0: the end; or -errno. */
int lp_imgfile_next(struct lp_imgfile *f, const uint8_t **data, size_t *len, struct lp_err *err);
/* The same for files of exactly one record: 0 or -errno. */
int lp_imgfile_only(struct lp_imgfile *f, const uint8_t **data, size_t *len, struct lp_err *err);
void lp_imgfile_close(struct lp_imgfile *f);

struct lp_images {
	struct lp_task *tasks;
	size_t ntasks;
	uint32_t *by_pid; /* indices of tasks, sorted by pid */

	struct lp_pages_file *files;
	uint32_t *file_ids; /* N of pages-N.img, parallel to files */
	size_t nfiles, files_cap;

	struct lp_imgdir *dirs; /* only while opening */
	unsigned ndirs;
	unsigned depth;
	bool wide; /* a pagemap of the top directory counts pages in 64 bits */
	enum lp_common_magic common;
};

/* tasks.c: fill im->common; im->tasks (pid, ppid, has_mm) and im->by_pid. */
int lp_read_inventory(struct lp_images *im, struct lp_err *err);
int lp_read_tasks(struct lp_images *im, struct lp_err *err);

/* early.c: fill t->early, t->nearly; the array belongs to the task. 0 or -ENOMEM. */
int lp_read_early(struct lp_images *im, struct lp_task *t);

/* mm.c: fill t->vmas, t->nvmas; the array belongs to the task. */
int lp_read_mm(struct lp_images *im, struct lp_task *t, struct lp_err *err);

/* pagemap.c: a checked pagemap, compat forms already translated. */
struct lp_pm_entry {
	uint64_t start, end;
	uint64_t off; /* in the pages file, when PRESENT */
	uint32_t flags;
};

struct lp_pagemap {
	struct lp_pm_entry *ents;
	size_t nents;
	uint64_t data_bytes; /* that the pages file must have */
	uint32_t pages_id;
	bool missing; /* no such file: fine in a parent, as long as nobody asks */
	bool wide;    /* it counts pages in 64 bits */
	char name[LP_NAME_MAX];
};

int lp_pagemap_load(struct lp_images *im, const struct lp_imgdir *d, const char *file, struct lp_pagemap *pm,
		    struct lp_err *err);
void lp_pagemap_free(struct lp_pagemap *pm);

/* files.c: the chain of directories and the pages files. */
int lp_open_dirs(struct lp_images *im, const char *dir, struct lp_err *err);
void lp_close_dirs(struct lp_images *im);
/* Find or open pages-@id.img of @d and check that it has the bytes @pm describes. */
int lp_get_pages_file(struct lp_images *im, const struct lp_imgdir *d, const struct lp_pagemap *pm, uint32_t *index,
		      struct lp_err *err);
/* Close the pages files that no extent points into, renumber the others. */
int lp_drop_unused_files(struct lp_images *im, struct lp_err *err);

/* index.c: fill t->extents and what belongs to them. */
int lp_build_index(struct lp_images *im, struct lp_task *t, struct lp_err *err);
/* The same from the pagemap @file, for what has no VMAs. */
int lp_build_index_of(struct lp_images *im, struct lp_task *t, const char *file, struct lp_err *err);

/* images.c: all that @im owns, not itself. */
void lp_images_release(struct lp_images *im);

#endif
