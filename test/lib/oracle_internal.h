/* SPDX-License-Identifier: GPL-2.0-only */
/* What oracle.c and oracle_ops.c share. */
#ifndef LP_TEST_ORACLE_INTERNAL_H
#define LP_TEST_ORACLE_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

#include "test/lib/oracle.h"

#define ORACLE_OWN	  0xA00000u /* the "pid" of pages the oracle wrote: seeds 0xA... */
#define ORACLE_PATCH_WORD 300
#define MAX_SEGS	  64
#define MAX_CHILDREN	  3

enum pg_kind { PG_ZERO = 1, PG_IMG, PG_OWN };

/* What a page must hold. Zeroed bookkeeping has no valid checksum. */
struct pg {
	uint64_t id;	/* PG_IMG: address in the image; PG_OWN: serial number */
	uint32_t patch; /* not 0: one word was written over it */
	uint8_t kind;
	uint8_t maybe_zero; /* MADV_FREE: zeros are right, too */
	uint64_t check;
};

/* One mapping, or a part of one: after an eager restore it lies in a single VMA. */
struct seg {
	uint64_t addr;
	size_t n;
	struct pg *st;
	uint32_t flags; /* ORACLE_x, SEG_x */
	uint64_t check;
};

/*
 * What the kernel does not let a lazy restore hide (doc/design.md, "The first
 * page of each VMA"). SEG_NAKED: the kernel took the anon_vma, and nothing was
 * written since. SEG_TORN: a part was then mprotect()ed and back, so that it may
 * be more than one VMA for ever.
 */
#define SEG_NAKED 0x100u
#define SEG_TORN  0x200u

struct oracle;

struct thread {
	struct oracle *o;
	pthread_t tid;
	unsigned index, depth;
	uint64_t rng, serial;
	uint32_t patch;
	uint64_t done; /* operations */
	uint64_t excused;
	unsigned op;   /* the one under way */
	struct seg segs[MAX_SEGS];
	size_t nsegs;
	size_t npages, max_pages;
	uint64_t window, window_end; /* addresses that the kernel gives to nobody else */
	pid_t children[MAX_CHILDREN];
	unsigned nchildren;
	int pipe[2];
	bool has_pipe;
	char *buf, *copy;
};

struct oracle {
	struct oracle_conf conf;
	pthread_rwlock_t world; /* shared by each operation; alone: nobody changes anything */
	struct thread threads[ORACLE_MAX_THREADS];
};

/* oracle.c */
uint64_t oracle_mix(uint64_t x);
uint64_t oracle_rnd(struct thread *th, uint64_t n);
void pg_set(struct pg *p, enum pg_kind kind, uint64_t id);
void pg_patch(struct pg *p, uint32_t patch);
void pg_maybe_zero(struct pg *p);
uint64_t seg_check(const struct seg *s);
void oracle_record(struct thread *th, struct oracle_record rec);
void oracle_expect(struct thread *th, const struct pg *p, void *buf);
void oracle_patch_page(void *page, uint32_t patch);
void oracle_verify(struct thread *th, struct seg *s, size_t i, const void *seen);
/* All pages of @whose, or that many of each of its mappings. */
void oracle_verify_some(struct thread *th, struct thread *whose, size_t samples);
/* Any mapping of the thread, NULL: none (or its bookkeeping is wrong). */
struct seg *oracle_pick(struct thread *th);

/* oracle_ops.c */
void oracle_step(struct thread *th);
/* Wait for children: all, or until there is room for another. */
void oracle_reap(struct thread *th, bool all);

#endif
