/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Builds CRIU image directories for tests, good ones and broken ones.
 *
 * Nothing is checked on the way: what the caller describes is what is
 * written. All structs are the caller's and are only read. Functions return 0
 * or -errno.
 */
#ifndef LP_TEST_IMGBUILD_H
#define LP_TEST_IMGBUILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <protobuf-c/protobuf-c.h>

#define IB_PAGE UINT64_C(4096)

#define IB_MAGIC_COMMON	   0x54564319u
#define IB_MAGIC_INVENTORY 0x58313116u
#define IB_MAGIC_PSTREE	   0x50273030u
#define IB_MAGIC_CORE	   0x55053847u
#define IB_MAGIC_MM	   0x57492820u
#define IB_MAGIC_PAGEMAP   0x56084025u

/* VMA_AREA_x */
#define IB_REGULAR	1u
#define IB_VSYSCALL	(1u << 2)
#define IB_VDSO		(1u << 3)
#define IB_FILE_PRIVATE (1u << 6)
#define IB_ANON_PRIVATE (1u << 9)
#define IB_SHSTK	(1u << 15)
#define IB_VVAR		(1u << 12)
#define IB_GUARD	(1u << 16)

/* PE_x */
#define IB_PARENT  1u
#define IB_LAZY	   2u
#define IB_PRESENT 4u

enum { IB_ALIVE = 1, IB_DEAD = 2, IB_STOPPED = 3, IB_ZOMBIE = 6 };

struct ib_vma {
	uint64_t start, end;
	uint32_t prot, flags, status;
	uint64_t madv, pgoff, shmid;
};

/* A private anonymous mapping of @n pages, which restore makes lazy. */
#define IB_ANON(addr, n)                                                                                       \
	{                                                                                                      \
		.start = (addr), .end = (addr) + (n) * IB_PAGE, .prot = PROT_READ | PROT_WRITE,                \
		.flags = MAP_PRIVATE | MAP_ANONYMOUS, .status = IB_REGULAR | IB_ANON_PRIVATE                   \
	}

/* How a pagemap entry is written. */
enum ib_form {
	IB_NEW,	   /* CRIU 4.2: flags and nr_pages */
	IB_FLAGS,  /* before: flags and compat_nr_pages */
	IB_COMPAT, /* before flags: in_parent when flags has IB_PARENT, or nothing */
};

struct ib_ent {
	uint64_t vaddr, nr;
	uint32_t flags;
	enum ib_form form;
	uint32_t unknown; /* not 0: add a field of this number */
};

/* What a thread was at, on x86-64; its core is that of the task if the tid is the pid. */
struct ib_thread {
	uint32_t tid, mtype; /* 1: x86-64 */
	uint64_t call, a0, a1, a4; /* its number and arguments */
	uint64_t robust, clear_tid;
	bool compat; /* of 32 bits */
};

struct ib_task {
	uint32_t pid, ppid;
	const struct ib_thread *threads;
	size_t nthreads;
	uint64_t words[4]; /* arguments and environment: start and end */
	uint32_t state; /* 0: IB_ALIVE */
	uint32_t pages_id;
	uint32_t head_unknown; /* not 0: add a field of this number to the head */
	const struct ib_vma *vmas;
	size_t nvmas;
	const struct ib_ent *ents;
	size_t nents;
};

struct ib_image {
	const struct ib_task *tasks;
	size_t ntasks;
	const char *parent; /* target of the symlink "parent", or NULL */
	uint32_t version;   /* 0: 2, with the common magic */
	uint32_t gen;	    /* of the page contents, see ib_fill_page() */
	bool predump;	    /* a parent: only inventory, pagemaps and pages */
	bool sparse;	    /* pages files get their size but no contents */
	bool inv_common;    /* write a common magic into the inventory, too */
};

/* Write @im into the directory @dir, which is made when missing. */
int ib_write(const char *dir, const struct ib_image *im);

/* The contents of a page that ib_write() stored. */
void ib_fill_page(void *page, uint32_t pid, uint64_t addr, uint32_t gen);

/* A growing buffer, the caller's; start with { 0 }, end with ib_free(). */
struct ib_buf {
	uint8_t *p;
	size_t n, cap;
};

void ib_free(struct ib_buf *b);
int ib_bytes(struct ib_buf *b, const void *p, size_t n);
int ib_u32(struct ib_buf *b, uint32_t v);
/* A record: size, then @m packed. */
int ib_msg(struct ib_buf *b, const ProtobufCMessage *m);
/* Whole contents of dir/name, replacing the file. */
int ib_save(const char *dir, const char *name, const void *p, size_t n);
int ib_load(const char *dir, const char *name, struct ib_buf *b);
/* Replace dir/pagemap-PID.img. */
int ib_write_pagemap(const char *dir, const struct ib_image *im, const struct ib_task *t);

/* A new directory under $TMPDIR (or /tmp); @path has room for 256 bytes. */
int ib_tmpdir(char *path);
/* rm -rf */
void ib_remove(const char *dir);

#endif
