/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The byte-per-page model of the engine's world: what each task must see after
 * an eager restore (the kernel's truth, present pages included), the messages
 * that its threads leave in the userfaultfd, and a host that drives the engine
 * with claims, fills, faults and deferrals. Every fill and every answer of the
 * engine is held against the truth.
 *
 * A program of the model has no data races of its own: threads touch and change
 * only what belongs to them, but the kernel gives a range that one thread has
 * left to another one before the first message was read.
 */
#ifndef LP_TEST_MODEL_H
#define LP_TEST_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/engine.h"

#define MD_PAGE UINT64_C(4096)
#define MD_BASE UINT64_C(0x7f0000000000)
#define MD_MAX_PAGES 4096
#define MD_MAX_TASKS 12
#define MD_MAX_THREADS 8
#define MD_MAX_FLIGHTS 12

/*
 * What a run may contain, see `model_run --help`. What the engine gets right,
 * each world having one family of it:
 *  - changes of the layout that race, mappings that grow; forks at rest;
 *  - forks that race with changes, each place changing once at a time;
 *  - changes that race, children that lack mappings untold; forks at rest.
 */
#define MD_FORK_RACES 0x01  /* FORK and other threads' events in any order */
#define MD_PLAIN_RACES 0x02 /* a late UNMAP over memory that no event ever named */
#define MD_MOVED_RACES 0x40 /* moving on from where another thread has moved away, its UNMAP unread */
#define MD_DONTFORK 0x10    /* children miss some of the parent's mappings, and the images say so */
#define MD_UNTOLD 0x800	    /* and nobody says so */
#define MD_GROWTH 0x1000    /* mappings grow, without a message */
#define MD_DEFAULT (MD_FORK_RACES | MD_PLAIN_RACES | MD_MOVED_RACES | MD_DONTFORK | MD_UNTOLD | MD_GROWTH)
#define MD_MIXED 0x2000 /* all of it in the same world: then the same messages may mean different things */
/* And more of that: */
#define MD_DEEP_RACES 0x04  /* a range reused before its UNMAP was read is moved on at once */
#define MD_OLD_SHRINK 0x08  /* kernels before 6.16: REMAP tells the old length of a shrinking move */
#define MD_GROW_RACES 0x80  /* a neighbour grows over what was unmapped, before the next settled moment */
#define MD_FORK_DEEP 0x100  /* a fork overtaken by REMOVE or MREMAP_DONTUNMAP; young children change */
#define MD_GHOST_RACES 0x200 /* what was moved over a DONTFORK place moves on before a settled moment */
#define MD_HOLLOW_RACES 0x400 /* what MREMAP_DONTUNMAP left is moved too, another thread moves there */
#define MD_BOOK 0x4000 /* the host enters all changes in the order of the kernel: then nothing is a guess */
#define MD_ANYTHING                                                                                          \
	(MD_BOOK | MD_MIXED | MD_DEEP_RACES | MD_GROW_RACES | MD_FORK_DEEP | MD_GHOST_RACES | MD_HOLLOW_RACES)
#define MD_NO_RACES 0x20    /* one message at a time */

struct md_conf {
	unsigned pages, tasks, threads;
	unsigned epoch;	/* steps between fresh worlds, 0: 1500 */
	unsigned check; /* steps between full checks, 0: 64 */
	unsigned flags;
};

/* Where decisions come from: a generator, or the bytes of a fuzzer. */
struct md_choice {
	uint64_t rng;
	const uint8_t *p, *end; /* p == NULL: the generator */
};

struct md;

struct md *md_new(const struct md_conf *conf, const struct md_choice *choice);
void md_free(struct md *m);
/* One step; false on a difference. */
bool md_step(struct md *m);
/* Deliver, fill and answer everything: all must be complete and nobody may wait. Then a fresh world. */
bool md_settle(struct md *m);
/* The bytes of the fuzzer have run out. */
bool md_exhausted(const struct md *m);
const char *md_error(const struct md *m);
/* The last operations in words. */
void md_print_last(const struct md *m, FILE *out);
/* Messages delivered, pages filled, faults, deaths of the host: for the summary. */
void md_counts(const struct md *m, uint64_t *events, uint64_t *fills, uint64_t *faults, uint64_t *kills);
/* Settled moments that the book explained, and that were guessed. */
void md_settlings(const struct md *m, uint64_t *booked, uint64_t *guessed);

/* The generator of all scenario programs: repeatable by its seed. */
static inline uint64_t md_random(uint64_t *rng)
{
	*rng ^= *rng >> 12;
	*rng ^= *rng << 25;
	*rng ^= *rng >> 27;
	return *rng * UINT64_C(0x2545F4914F6CDD1D);
}

/* A usable start for md_random() from any number. */
static inline uint64_t md_seed(uint64_t seed)
{
	seed = (seed + UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xBF58476D1CE4E5B9);
	seed ^= seed >> 31;
	return seed ? seed : 1;
}

#endif
