/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The oracle: threads that change the layout of their memory at random, know
 * what every page must hold and what every system call must return after an
 * eager restore, and compare.
 *
 * Every page of the image holds ib_fill_page(pid, address in the image, 0);
 * a page that the oracle writes holds ib_fill_page(ORACLE_OWN, serial number).
 * Each thread has memory of its own, so the program is free of races by itself.
 * Bookkeeping carries checksums: when it lies in lazily restored memory too, a
 * wrong byte in it is told apart from a wrong page.
 *
 * The caller owns the shared counters (so that they outlive the tasks) and the
 * oracle. Nothing here is freed before the program ends.
 */
#ifndef LP_TEST_ORACLE_H
#define LP_TEST_ORACLE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define ORACLE_PAGE ((size_t)4096)
#define ORACLE_MAX_THREADS 16
#define ORACLE_RECORDS 32

/* In the order of names[] in oracle.c. */
enum oracle_op {
	OP_READ, OP_WRITE, OP_PATCH, OP_SYSREAD, OP_SYSWRITE, OP_DONTNEED, OP_FREE, OP_MUNMAP, OP_MMAP, OP_MMAP_OVER,
	OP_MOVE, OP_MOVE_OVER, OP_MOVE_ANY, OP_GROW, OP_SHRINK, OP_DONTUNMAP, OP_MPROTECT, OP_FORK, OP_FORK_ALL,
	OP_VFORK, OP_EXEC, OP_DONTFORK, OP_WIPEONFORK, OP_GUARD, OP_VERIFY, OP_COUNT
};

enum oracle_found { FOUND_ZERO, FOUND_STALE, FOUND_OTHER, FOUND_TORN, FOUND_COUNT };

struct oracle_record {
	enum { REC_PAGE = 1, REC_CALL, REC_BOOK, REC_CHILD } what;
	uint32_t thread, depth, op, found;
	int32_t err;		  /* errno of a call, wait status of a child */
	uint64_t addr, len;	  /* of the page, or of the call */
	uint64_t expected, got;	  /* image address, serial number (bit 63) or 0 for zeros */
	uint64_t at_op;		  /* which operation of the thread it was */
	uint32_t still;		  /* is it still wrong 10 ms later? */
};

/* Zeroed memory that is shared with all children. */
struct oracle_shared {
	_Atomic uint64_t ops[OP_COUNT];
	_Atomic uint64_t seen; /* pages looked at: is there any progress? */
	_Atomic uint64_t longest_ns; /* one read, write or system call on memory: the longest pause that a thread saw */
	_Atomic uint64_t excused; /* refused, but see SEG_TORN in oracle_internal.h */
	_Atomic uint64_t refused, wrong, found[FOUND_COUNT], book, children, children_bad;
	_Atomic uint32_t nrecords;
	struct oracle_record records[ORACLE_RECORDS];
};

struct oracle_conf {
	uint32_t pid; /* of the page contents */
	unsigned threads;
	uint64_t seed;
	uint64_t ops;	/* per thread; 0: as many as fit into `seconds` */
	double seconds; /* 0: no limit */
	/*
	 * MADV_WIPEONFORK, MADV_DONTFORK at run time: no event tells the daemon.
	 * Off: only what the image says.
	 */
	int wipe, dontfork;
	int guard; /* MADV_GUARD_INSTALL, where the kernel has it; no event either */
	/* Called by each thread before its first operation; the result goes into its seed. NULL: at once. */
	uint64_t (*gate)(void *arg, unsigned thread);
	void *gate_arg;
	struct oracle_shared *shared;
};

#define ORACLE_WIPEONFORK 1u /* the mapping is set so already */
#define ORACLE_DONTFORK	  2u

struct oracle;

struct oracle *oracle_new(const struct oracle_conf *conf);
/*
 * [addr, addr + npages) is one mapping of @thread. All mappings of a thread
 * must lie in one window of address space that the kernel gives to nobody (low
 * addresses), with 64 GiB to those of the next thread. Pages are those of the
 * image, unless oracle_zeros() says otherwise.
 */
void oracle_add(struct oracle *o, unsigned thread, uint64_t addr, uint64_t npages, unsigned flags);
/* These pages are not in the image: zeros. */
void oracle_zeros(struct oracle *o, uint64_t addr, uint64_t npages);
/* Write all pages as the image has them (for a program that is to be dumped). */
void oracle_fill(struct oracle *o);
/* Run the threads to their end. Returns the number of things that were wrong. */
uint64_t oracle_run(struct oracle *o);

const char *oracle_op_name(unsigned op);
uint64_t oracle_ops(const struct oracle_shared *sh);
/* Wrong pages, refused calls, wrong bookkeeping, children that failed. */
uint64_t oracle_bad(const struct oracle_shared *sh);
/* The same as one line of JSON, and as text with one line a record. */
void oracle_json(FILE *f, const struct oracle_shared *sh);
void oracle_print(FILE *f, const struct oracle_shared *sh);

#endif
