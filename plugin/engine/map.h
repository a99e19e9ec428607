/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Disjoint half-open ranges of one address space, each tied to image bytes.
 *
 * A map is a persistent treap: copies share nodes and cost O(1), which is what
 * a fork needs; changing one copies only the path it touches. Moving a million
 * ranges (mremap) is one cut, one shift, one join: O(log n).
 *
 * Nodes come from a pool that all maps of an engine share. Every changing
 * call wants LP_POOL_RESERVE free nodes and fails with -ENOMEM *before* it
 * changes anything; after lp_pool_reserve() succeeded a number of such calls
 * cannot fail, see the comment there.
 */
#ifndef LP_ENGINE_MAP_H
#define LP_ENGINE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* [start, end) in the address space holds the image bytes from `img` of object `obj` on. */
struct lp_range {
	uint64_t start, end;
	uint64_t img;
	uint32_t obj;
};

struct lp_node;

struct lp_pool {
	struct lp_node *free;	/* singly linked through ->left */
	size_t nfree, nused;
	struct lp_slab *slabs;
	uint64_t rng;
};

struct lp_map {
	struct lp_node *root;
};

/* Upper bound of nodes that one changing call takes from the pool. */
#define LP_POOL_RESERVE 1024

void lp_pool_init(struct lp_pool *pool, uint64_t seed);
/* All maps must be cleared before. */
void lp_pool_fini(struct lp_pool *pool);
/* Make sure that @calls changing calls cannot run out of nodes. 0 or -ENOMEM. */
int lp_pool_reserve(struct lp_pool *pool, unsigned calls);

/* O(1): @dst becomes a copy of @src; @dst must be empty. */
void lp_map_clone(struct lp_map *dst, const struct lp_map *src);
void lp_map_clear(struct lp_pool *pool, struct lp_map *m);

static inline bool lp_map_empty(const struct lp_map *m)
{
	return !m->root;
}

/* Sum of the lengths in bytes, O(1). */
uint64_t lp_map_bytes(const struct lp_map *m);
/* Number of ranges, O(1). */
size_t lp_map_count(const struct lp_map *m);

/*
 * Add @r. Nothing in [r->start, r->end) may be in the map (cut first). A
 * neighbour that continues @r in address, image and object is merged with it.
 */
int lp_map_insert(struct lp_pool *pool, struct lp_map *m, const struct lp_range *r);

/*
 * Remove [start, end). Ranges that reach over the bounds are split. What was
 * removed goes to @out (which must be empty) or, with NULL, is forgotten.
 */
int lp_map_cut(struct lp_pool *pool, struct lp_map *m, uint64_t start, uint64_t end, struct lp_map *out);

/* Add @delta (modulo 2^64) to the addresses of all ranges; images stay. */
int lp_map_shift(struct lp_pool *pool, struct lp_map *m, uint64_t delta);

/*
 * Move all of @from into @m; @from becomes empty. The hull of @from must be
 * free in @m.
 */
int lp_map_join(struct lp_pool *pool, struct lp_map *m, struct lp_map *from);

/* The range that holds @addr. */
bool lp_map_find(const struct lp_map *m, uint64_t addr, struct lp_range *r);
/* The first range that ends after @addr. */
bool lp_map_next(const struct lp_map *m, uint64_t addr, struct lp_range *r);
/* The last range that starts before @addr. */
bool lp_map_prev(const struct lp_map *m, uint64_t addr, struct lp_range *r);
/* Does anything lie in [start, end)? */
bool lp_map_overlaps(const struct lp_map *m, uint64_t start, uint64_t end);

/* For tests: order, disjointness, heap property, sums. Aborts with a message on damage. */
void lp_map_check(const struct lp_map *m);

#endif
