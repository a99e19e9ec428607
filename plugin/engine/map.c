/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The range map, see map.h: a treap with reference-counted nodes (a node with
 * more than one reference is copied before it is changed) and a pending shift
 * of addresses per subtree. The pool owns all nodes.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/map.h"

struct lp_node {
	uint64_t start, end, img;
	uint64_t shift; /* still to be added to the children's addresses */
	uint64_t bytes; /* of the subtree */
	struct lp_node *left, *right;
	uint32_t obj;
	uint32_t prio;
	uint32_t count; /* of the subtree */
	uint32_t refs;
};

#define SLAB_NODES 1000

struct lp_slab {
	struct lp_slab *next;
	struct lp_node nodes[SLAB_NODES];
};

void lp_pool_init(struct lp_pool *pool, uint64_t seed)
{
	*pool = (struct lp_pool){ .rng = seed ? seed : 1 };
}

void lp_pool_fini(struct lp_pool *pool)
{
	struct lp_slab *s, *next;

	for (s = pool->slabs; s; s = next) {
		next = s->next;
		free(s);
	}
	*pool = (struct lp_pool){ .rng = 1 };
}

int lp_pool_reserve(struct lp_pool *pool, unsigned calls)
{
	size_t want = (size_t)calls * LP_POOL_RESERVE;

	while (pool->nfree < want) {
		struct lp_slab *s = malloc(sizeof(*s));
		size_t i;

		if (!s)
			return -ENOMEM;
		s->next = pool->slabs;
		pool->slabs = s;
		for (i = 0; i < SLAB_NODES; i++) {
			s->nodes[i].left = pool->free;
			pool->free = &s->nodes[i];
		}
		pool->nfree += SLAB_NODES;
	}
	return 0;
}

static uint32_t next_prio(struct lp_pool *pool)
{
	/* xorshift64*: good enough to balance a tree, and repeatable. */
	pool->rng ^= pool->rng >> 12;
	pool->rng ^= pool->rng << 25;
	pool->rng ^= pool->rng >> 27;
	return (uint32_t)((pool->rng * UINT64_C(0x2545F4914F6CDD1D)) >> 32);
}

/* lp_pool_reserve() came before, so there is one. */
static struct lp_node *node_get(struct lp_pool *pool)
{
	struct lp_node *n = pool->free;

	if (!n)
		abort();
	pool->free = n->left;
	pool->nfree--;
	pool->nused++;
	return n;
}

static void node_put(struct lp_pool *pool, struct lp_node *n)
{
	/* Recurses to the left only; the depth of a treap is logarithmic. */
	while (n && --n->refs == 0) {
		struct lp_node *right = n->right;

		node_put(pool, n->left);
		n->left = pool->free;
		pool->free = n;
		pool->nfree++;
		pool->nused--;
		n = right;
	}
}

static uint64_t bytes_of(const struct lp_node *n)
{
	return n ? n->bytes : 0;
}

static uint32_t count_of(const struct lp_node *n)
{
	return n ? n->count : 0;
}

static void update(struct lp_node *n)
{
	n->bytes = n->end - n->start + bytes_of(n->left) + bytes_of(n->right);
	n->count = 1 + count_of(n->left) + count_of(n->right);
}

/* The caller's reference to @n becomes one to a node that it alone has. */
static struct lp_node *own(struct lp_pool *pool, struct lp_node *n)
{
	struct lp_node *c;

	if (n->refs == 1)
		return n;
	c = node_get(pool);
	*c = *n;
	c->refs = 1;
	if (c->left)
		c->left->refs++;
	if (c->right)
		c->right->refs++;
	n->refs--;
	return c;
}

static struct lp_node *shifted(struct lp_pool *pool, struct lp_node *n, uint64_t delta)
{
	if (!n || !delta)
		return n;
	n = own(pool, n);
	n->start += delta;
	n->end += delta;
	n->shift += delta;
	return n;
}

/* Own @n and hand its pending shift to its children. */
static struct lp_node *open_node(struct lp_pool *pool, struct lp_node *n)
{
	n = own(pool, n);
	if (n->shift) {
		n->left = shifted(pool, n->left, n->shift);
		n->right = shifted(pool, n->right, n->shift);
		n->shift = 0;
	}
	return n;
}

/* All of @l lies before all of @r. Takes both references, returns one. */
static struct lp_node *merge(struct lp_pool *pool, struct lp_node *l, struct lp_node *r)
{
	if (!l)
		return r;
	if (!r)
		return l;
	if (l->prio >= r->prio) {
		l = open_node(pool, l);
		l->right = merge(pool, l->right, r);
		update(l);
		return l;
	}
	r = open_node(pool, r);
	r->left = merge(pool, l, r->left);
	update(r);
	return r;
}

/*
 * Split @n at @addr into *@l and *@r. What lies behind @addr of a range over it
 * becomes *@tail, in neither: with a priority of its own it belongs on top of
 * *@r, not where the recursion met it.
 */
static void split_below(struct lp_pool *pool, struct lp_node *n, uint64_t addr, struct lp_node **l,
			struct lp_node **r, struct lp_node **tail)
{
	if (!n) {
		*l = *r = NULL;
		return;
	}
	n = open_node(pool, n);
	if (n->end <= addr) {
		split_below(pool, n->right, addr, &n->right, r, tail);
		*l = n;
	} else if (n->start >= addr) {
		split_below(pool, n->left, addr, l, &n->left, tail);
		*r = n;
	} else {
		*tail = node_get(pool);
		**tail = (struct lp_node){
			.start = addr,
			.end = n->end,
			.img = n->img + (addr - n->start),
			.obj = n->obj,
			.prio = next_prio(pool),
			.refs = 1,
		};
		update(*tail);
		n->end = addr;
		*r = n->right;
		n->right = NULL;
		*l = n;
	}
	update(n);
}

/* Split @n at @addr into *@l and *@r; a range over @addr becomes two. Takes the reference. */
static void split(struct lp_pool *pool, struct lp_node *n, uint64_t addr, struct lp_node **l, struct lp_node **r)
{
	struct lp_node *tail = NULL;

	split_below(pool, n, addr, l, r, &tail);
	*r = merge(pool, tail, *r);
}

void lp_map_clone(struct lp_map *dst, const struct lp_map *src)
{
	dst->root = src->root;
	if (dst->root)
		dst->root->refs++;
}

void lp_map_clear(struct lp_pool *pool, struct lp_map *m)
{
	node_put(pool, m->root);
	m->root = NULL;
}

uint64_t lp_map_bytes(const struct lp_map *m)
{
	return bytes_of(m->root);
}

size_t lp_map_count(const struct lp_map *m)
{
	return count_of(m->root);
}

/* Take the last (@last) or the first range off @m. */
static void take_end(struct lp_pool *pool, struct lp_node **m, bool last, struct lp_range *r)
{
	struct lp_node *n = open_node(pool, *m);
	struct lp_node **side = last ? &n->right : &n->left;

	if (*side) {
		take_end(pool, side, last, r);
		update(n);
		*m = n;
		return;
	}
	*r = (struct lp_range){ n->start, n->end, n->img, n->obj };
	*m = last ? n->left : n->right;
	n->left = n->right = NULL;
	node_put(pool, n);
}

static bool peek_end(const struct lp_node *n, bool last, struct lp_range *r)
{
	uint64_t shift = 0;

	if (!n)
		return false;
	for (;;) {
		const struct lp_node *next = last ? n->right : n->left;

		if (!next)
			break;
		shift += n->shift;
		n = next;
	}
	*r = (struct lp_range){ n->start + shift, n->end + shift, n->img, n->obj };
	return true;
}

static bool continues(const struct lp_range *a, const struct lp_range *b)
{
	return a->end == b->start && a->obj == b->obj && a->img + (a->end - a->start) == b->img;
}

int lp_map_insert(struct lp_pool *pool, struct lp_map *m, const struct lp_range *r)
{
	struct lp_node *l, *right, *n;
	struct lp_range all = *r, side;

	if (r->start >= r->end)
		return 0;
	if (lp_pool_reserve(pool, 1))
		return -ENOMEM;
	split(pool, m->root, r->start, &l, &right);
	if (peek_end(l, true, &side) && continues(&side, &all)) {
		take_end(pool, &l, true, &side);
		all.start = side.start;
		all.img = side.img;
	}
	if (peek_end(right, false, &side) && continues(&all, &side)) {
		take_end(pool, &right, false, &side);
		all.end = side.end;
	}
	n = node_get(pool);
	*n = (struct lp_node){
		.start = all.start,
		.end = all.end,
		.img = all.img,
		.obj = all.obj,
		.prio = next_prio(pool),
		.refs = 1,
	};
	update(n);
	m->root = merge(pool, merge(pool, l, n), right);
	return 0;
}

int lp_map_cut(struct lp_pool *pool, struct lp_map *m, uint64_t start, uint64_t end, struct lp_map *out)
{
	struct lp_node *l, *mid, *r;

	if (start >= end || !lp_map_overlaps(m, start, end))
		return 0;
	if (lp_pool_reserve(pool, 1))
		return -ENOMEM;
	split(pool, m->root, start, &l, &mid);
	split(pool, mid, end, &mid, &r);
	m->root = merge(pool, l, r);
	if (out)
		out->root = mid;
	else
		node_put(pool, mid);
	return 0;
}

int lp_map_shift(struct lp_pool *pool, struct lp_map *m, uint64_t delta)
{
	if (!m->root || !delta)
		return 0;
	if (lp_pool_reserve(pool, 1))
		return -ENOMEM;
	m->root = shifted(pool, m->root, delta);
	return 0;
}

int lp_map_join(struct lp_pool *pool, struct lp_map *m, struct lp_map *from)
{
	struct lp_node *l, *r;
	struct lp_range first;

	if (!peek_end(from->root, false, &first))
		return 0;
	if (lp_pool_reserve(pool, 1))
		return -ENOMEM;
	split(pool, m->root, first.start, &l, &r);
	m->root = merge(pool, merge(pool, l, from->root), r);
	from->root = NULL;
	return 0;
}

bool lp_map_next(const struct lp_map *m, uint64_t addr, struct lp_range *r)
{
	const struct lp_node *n = m->root;
	uint64_t shift = 0;
	bool found = false;

	while (n) {
		if (n->end + shift > addr) {
			*r = (struct lp_range){ n->start + shift, n->end + shift, n->img, n->obj };
			found = true;
			shift += n->shift;
			n = n->left;
		} else {
			shift += n->shift;
			n = n->right;
		}
	}
	return found;
}

bool lp_map_prev(const struct lp_map *m, uint64_t addr, struct lp_range *r)
{
	const struct lp_node *n = m->root;
	uint64_t shift = 0;
	bool found = false;

	while (n) {
		if (n->start + shift < addr) {
			*r = (struct lp_range){ n->start + shift, n->end + shift, n->img, n->obj };
			found = true;
			shift += n->shift;
			n = n->right;
		} else {
			shift += n->shift;
			n = n->left;
		}
	}
	return found;
}

bool lp_map_find(const struct lp_map *m, uint64_t addr, struct lp_range *r)
{
	return lp_map_next(m, addr, r) && r->start <= addr;
}

bool lp_map_overlaps(const struct lp_map *m, uint64_t start, uint64_t end)
{
	struct lp_range r = { 0 };

	return lp_map_next(m, start, &r) && r.start < end;
}

static void check(const struct lp_node *n, uint64_t shift, uint64_t *prev_end, uint64_t *bytes, uint32_t *cnt)
{
	uint64_t b = 0;
	uint32_t c = 0;

	if (!n) {
		*bytes = 0;
		*cnt = 0;
		return;
	}
	check(n->left, shift + n->shift, prev_end, &b, &c);
	*bytes = b;
	*cnt = c;
	if (!n->refs || n->start + shift >= n->end + shift || n->start + shift < *prev_end)
		abort();
	if ((n->left && n->left->prio > n->prio) || (n->right && n->right->prio > n->prio))
		abort();
	*prev_end = n->end + shift;
	check(n->right, shift + n->shift, prev_end, &b, &c);
	*bytes += b + n->end - n->start;
	*cnt += c + 1;
	if (*bytes != n->bytes || *cnt != n->count)
		abort();
}

void lp_map_check(const struct lp_map *m)
{
	uint64_t prev_end = 0, bytes;
	uint32_t cnt;

	check(m->root, 0, &prev_end, &bytes, &cnt);
}
