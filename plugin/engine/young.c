/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Young children: born by a FORK that was read since their parent's last
 * settled moment. Which of the parent's other changes were made before the
 * fork, messages do not tell; the child's kernel does, as long as it has not
 * run: so it is asked at once, and again whenever its parent's next message is
 * read. A young child owns the answers.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

/* So many questions whether a new child has its parent's mappings: one a mapping, more where they are split. */
#define GHOST_ASKS 20000

/* With up to so many changes every choice of them is looked at. */
#define ALL_CHOICES 10

void young_leave(struct lp_space *c)
{
	c->parent = NULL;
	free(c->facts);
	c->facts = NULL;
	c->nfacts = c->cap_facts = 0;
	lp_map_clear(&c->engine->pool, &c->ghosts);
}

void young_orphan(struct lp_space *c)
{
	struct lp_space *s = c->parent;
	size_t i;

	for (i = 0; s && i < s->nlog; i++)
		if (s->log[i].child == c)
			s->log[i].child = NULL;
	young_leave(c);
}

bool lp_space_young(const struct lp_space *s)
{
	return s->parent != NULL;
}

/* Was @addr asked about? */
static bool fact(const struct lp_space *c, uint64_t addr, bool *there)
{
	size_t i;

	for (i = 0; i < c->nfacts; i++) {
		if (c->facts[i].addr != addr || c->facts[i].len)
			continue;
		if (there)
			*there = c->facts[i].there;
		return true;
	}
	return false;
}

/* The kernel of @c has said that @addr is not there. */
static bool absent(const struct lp_space *c, uint64_t addr)
{
	bool there = true;

	return fact(c, addr, &there) && !there;
}

/* All that UNMAP @m names is there in @c, as one mapping with what is on either side. */
static bool spans(const struct lp_space *c, const struct lp_msg *m)
{
	size_t i;

	for (i = 0; i < c->nfacts; i++)
		if (c->facts[i].addr == m->from && c->facts[i].len == m->len)
			return c->facts[i].there;
	return false;
}

/* The page of @c in front of UNMAP @m is one mapping with the first that it names. */
static bool joined(const struct lp_space *c, const struct lp_msg *m)
{
	size_t i;

	for (i = 0; i < c->nfacts; i++)
		if (c->facts[i].addr == m->from && c->facts[i].len == JOINED)
			return c->facts[i].there;
	return false;
}

static void ask_span(struct lp_space *s, struct lp_space *c, const struct lp_msg *m)
{
	uint64_t page = s->engine->page;
	size_t i;
	int rc;

	if (m->kind != MSG_UNMAP || m->part || m->from < page || !s->engine->there)
		return;
	for (i = 0; i < c->nfacts; i++)
		if (c->facts[i].addr == m->from && c->facts[i].len == m->len)
			return;
	rc = s->engine->there(c->host, m->from - page, m->len + 2 * page);
	if (rc >= 0)
		c->facts[c->nfacts++] = (struct lp_fact){ .addr = m->from, .len = m->len, .there = rc != 0 };
	for (i = 0; i < c->nfacts; i++)
		if (c->facts[i].addr == m->from && c->facts[i].len == JOINED)
			return;
	rc = s->engine->there(c->host, m->from - page, 2 * page);
	if (rc >= 0)
		c->facts[c->nfacts++] = (struct lp_fact){ .addr = m->from, .len = JOINED, .there = rc != 0 };
}

/* Where UNMAP @m names more than we know of: the first such page, and its last. Into @at, how many. */
static unsigned unknown_points(const struct lp_space *s, const struct lp_msg *m, uint64_t *at)
{
	uint64_t pos = m->from, end = m->from + m->len;
	struct lp_range r;

	if (m->kind != MSG_UNMAP || m->part)
		return 0;
	while (pos < end && lp_map_next(&s->v.extents, pos, &r) && r.start < end)
		pos = r.end;
	if (pos == m->from || pos >= end)
		return 0;
	at[0] = pos;
	at[1] = end - s->engine->page;
	return 2;
}

static int ask(struct lp_space *s, struct lp_space *c, const struct lp_msg *m)
{
	uint64_t at[LP_POINTS + 2];
	unsigned n = msg_points(s, m, at), i;

	n += unknown_points(s, m, at + n);
	if (c->nfacts + n + 2 > c->cap_facts) {
		size_t cap = 2 * (c->nfacts + n) + 16;
		struct lp_fact *f = realloc(c->facts, cap * sizeof(*f));

		if (!f)
			return -ENOMEM;
		c->facts = f;
		c->cap_facts = cap;
	}
	for (i = 0; i < n; i++) {
		struct lp_range r;

		/* What its parent had at the last settled moment it was asked for when it was born. */
		if (c->asked && !fact(c, at[i], NULL) && lp_map_find(&s->v.extents, at[i], &r))
			c->facts[c->nfacts++] = (struct lp_fact){ .addr = at[i], .there = !lp_map_find(&c->ghosts, at[i], &r) };
		else /* -EAGAIN: it is changing its own layout already; what it would have said is not known. */
			fact_ask(c, at[i], c->facts, &c->nfacts);
	}
	ask_span(s, c, m);
	return 0;
}

int young_ask_all(struct lp_space *s, const struct lp_msg *m)
{
	size_t i;
	int rc = 0;

	for (i = 0; i < s->nlog && !rc; i++)
		if (s->log[i].kind == MSG_FORK && s->log[i].child)
			rc = ask(s, s->log[i].child, m);
	return rc;
}

/* Note in @out where in [start, end) the kernel of @c has no mapping (MADV_DONTFORK: no message tells). */
static int find_ghosts(struct lp_space *c, uint64_t start, uint64_t end, unsigned *asks, struct lp_map *out)
{
	uint64_t page = c->engine->page, mid;
	struct lp_range r = { start, end, start, 0 };
	int rc;

	if (!*asks)
		return 0;
	--*asks;
	rc = c->engine->there(c->host, start, end - start);
	if (rc)
		return rc < 0 ? rc : 0;
	if (end - start == page)
		return lp_map_insert(&c->engine->pool, out, &r);
	mid = start + (end - start) / 2 / page * page;
	rc = find_ghosts(c, start, mid, asks, out);
	return rc ? rc : find_ghosts(c, mid, end, asks, out);
}

static int find_all_ghosts(struct lp_space *c, const struct lp_map *extents, unsigned *asks, struct lp_map *out)
{
	struct lp_range r;
	uint64_t pos = 0;
	int rc = 0;

	for (; !rc && lp_map_next(extents, pos, &r); pos = r.end)
		rc = find_ghosts(c, r.start, r.end, asks, out);
	return rc;
}

int young_catch_up(struct lp_space *c, struct lp_view *v)
{
	struct lp_map ghosts = { NULL };
	unsigned asks = GHOST_ASKS;
	struct lp_range r;
	uint64_t pos = 0;
	int rc = find_all_ghosts(c, &v->extents, &asks, &ghosts);

	for (; !rc && lp_map_next(&ghosts, pos, &r); pos = r.end)
		rc = view_unmap(&c->engine->pool, v, r.start, r.end);
	lp_map_clear(&c->engine->pool, &ghosts);
	return rc;
}

int young_born(struct lp_space *s, struct lp_space *c)
{
	unsigned asks = GHOST_ASKS;
	size_t i;
	int rc = s->engine->there ? find_all_ghosts(c, &s->v.extents, &asks, &c->ghosts) : 0;

	c->asked = s->engine->there && asks && !rc;
	if (rc == -EAGAIN) { /* it runs, and changes its layout already */
		c->due = true;
		rc = 0;
	}
	for (i = 0; i < s->nlog && !rc; i++)
		rc = ask(s, c, &s->log[i]);
	return rc;
}

/* ---- Which changes does it have? ------------------------------------------- */

struct choice {
	struct lp_space *s, *c;
	const struct lp_view *base;
	const uint16_t *seq; /* the parent's messages in order */
	size_t n;
	size_t *open, nopen; /* those of seq that the child may have or not */
	bool *usual, *with;  /* of seq */
	bool *best;
	unsigned best_cost;
	struct lp_view best_view;
};

/* The mapping in front of UNMAP @m has grown over the hole and beyond; or, if @m was later, its own end had grown. */
static bool grew_beyond(const struct choice *k, const struct lp_view *v, const struct lp_msg *m)
{
	struct lp_range r;

	return m->kind == MSG_UNMAP && spans(k->c, m) && !lp_map_find(&v->extents, m->from + m->len, &r) &&
	       lp_map_find(&v->extents, m->from - k->s->engine->page, &r);
}

/*
 * @m is taken to have been made before the fork, and the child's kernel has the
 * beginning of what it unmapped, or moved away, but not the end. Was it made afterwards, and
 * the end is missing for another reason (MADV_DONTFORK)? Rather, the mapping in
 * front of it has grown into the hole before the fork, which no message tells:
 * then there are zeros. The same if it is one mapping, and has more than
 * messages know of: so it has grown, and most likely over the hole.
 */
static bool has_grown(const struct choice *k, const struct lp_view *v, const struct lp_msg *m)
{
	uint64_t page = k->s->engine->page;
	struct lp_range r;
	bool there;

	if (m->kind != MSG_UNMAP && !m->vacates)
		return false;
	if (m->from < page || lp_map_find(&v->extents, m->from, &r))
		return false;
	if (grew_beyond(k, v, m))
		return true;
	/* What is in front may have grown to here, too, and be unknown. */
	return m->len > page && fact(k->c, m->from, &there) && there && absent(k->c, m->from + m->len - page) &&
	       (lp_map_find(&v->extents, m->from - page, &r) || joined(k->c, m));
}

/*
 * @m is taken to have been made before the fork. Has something been moved into
 * the hole that it left, and grown there, up to @addr?
 */
static bool grown_in(const struct choice *k, const struct lp_view *v, const struct lp_msg *m, uint64_t addr)
{
	struct lp_range r;

	return m->kind == MSG_UNMAP && k->c->asked && lp_map_prev(&v->extents, addr, &r) && r.end > m->from &&
	       r.end <= addr && !lp_map_overlaps(&k->c->ghosts, r.end, addr + k->s->engine->page);
}

/* How much do the answers of the child's kernel speak against @v, which k->with leads to? */
static unsigned facts_against(const struct choice *k, const struct lp_view *v)
{
	const struct lp_msg *log = k->s->log;
	unsigned cost = 0;
	struct lp_range r;
	size_t i, j;

	for (i = 0; i < k->c->nfacts; i++) {
		const struct lp_fact *f = &k->c->facts[i];

		if (f->len || f->there == lp_map_find(&v->extents, f->addr, &r))
			continue;
		for (j = 0; f->there && j < k->n; j++) {
			const struct lp_msg *m = &log[k->seq[j]];

			if (f->addr - m->from >= m->len)
				continue;
			/* What is moved is one mapping: all of it was there before, though it may have grown untold. */
			if (k->with[j] ? has_grown(k, v, m) : m->kind == MSG_REMAP || grew_beyond(k, v, m))
				break;
			if (k->with[j] && grown_in(k, v, m, f->addr)) {
				cost += COST_GREW;
				break;
			}
		}
		if (!f->there || j == k->n)
			cost += f->there ? COST_THERE : COST_ABSENT;
	}
	for (j = 0; j < k->n; j++) {
		const struct lp_msg *m = &log[k->seq[j]];

		if (k->with[j] ? has_grown(k, v, m) : grew_beyond(k, v, m))
			cost += COST_GREW;
	}
	return cost;
}

static int consider(struct choice *k)
{
	struct lp_pool *pool = &k->s->engine->pool;
	struct lp_view v;
	unsigned cost = 0;
	size_t i;
	int rc = 0;

	view_clone(&v, k->base);
	for (i = 0; i < k->n && !rc && cost < k->best_cost; i++) {
		const struct lp_msg *m = &k->s->log[k->seq[i]];

		cost += k->with[i] != k->usual[i];
		if (!k->with[i])
			continue;
		cost += msg_violation(&v, m);
		rc = apply_msg(pool, &v, m);
	}
	if (!rc)
		rc = view_inherit(pool, &v);
	if (!rc)
		cost += facts_against(k, &v);
	if (!rc && cost < k->best_cost) {
		k->best_cost = cost;
		memcpy(k->best, k->with, k->n);
		view_clear(pool, &k->best_view);
		k->best_view = v;
	} else {
		view_clear(pool, &v);
	}
	return rc;
}

static int consider_all(struct choice *k)
{
	uint32_t mask;
	size_t i;
	int rc = 0;

	for (mask = 0; mask < 1U << k->nopen && !rc && k->best_cost; mask++) {
		for (i = 0; i < k->nopen; i++)
			k->with[k->open[i]] = mask >> i & 1;
		rc = consider(k);
	}
	return rc;
}

/* As long as it gets better: one or two that differ from the best so far. */
static int improve(struct choice *k)
{
	unsigned last = UINT_MAX;
	size_t i, j;
	int rc = 0;

	while (!rc && k->best_cost && k->best_cost < last) {
		last = k->best_cost;
		for (i = 0; i < k->nopen && !rc; i++) {
			for (j = i; j < k->nopen && !rc && (k->nopen < 32 || j < i + 2); j++) {
				memcpy(k->with, k->best, k->n);
				k->with[k->open[i]] = !k->with[k->open[i]];
				if (j != i)
					k->with[k->open[j]] = !k->with[k->open[j]];
				rc = consider(k);
			}
		}
	}
	return rc;
}

/* Too many for all choices. */
static int consider_some(struct choice *k)
{
	size_t i, j;
	int rc = improve(k);

	/* Nothing good near the order of reading: was the fork before or after some message? */
	for (i = 0; i <= k->n && !rc && k->best_cost >= k->n; i++) {
		for (j = 0; j < k->n; j++)
			k->with[j] = j < i;
		rc = consider(k);
	}
	return rc ? rc : improve(k);
}

/* What its kernel does not have, for no reason that messages know. */
static int drop_ghosts(struct choice *k)
{
	struct lp_pool *pool = &k->s->engine->pool;
	struct lp_view *v = &k->best_view;
	uint64_t page = k->s->engine->page, pos;
	struct lp_map gone = { NULL };
	struct lp_range r;
	size_t i;
	int rc = 0;

	lp_map_clone(&gone, &k->c->ghosts);
	for (i = 0; i < k->n && !rc; i++) { /* unless something was moved there before the fork */
		const struct lp_msg *m = &k->s->log[k->seq[i]];

		if (m->kind == MSG_REMAP && k->best[i])
			rc = lp_map_cut(pool, &gone, m->to, m->to + m->len, NULL);
	}
	for (pos = 0; !rc && lp_map_next(&gone, pos, &r); pos = r.end)
		rc = view_unmap(pool, v, r.start, r.end);
	lp_map_clear(pool, &gone);
	for (i = 0; i < k->n && !rc; i++) {
		const struct lp_msg *m = &k->s->log[k->seq[i]];

		if (m->kind == MSG_REMAP && k->best[i] && absent(k->c, m->to) &&
		    absent(k->c, m->to + m->len - page))
			rc = view_unmap(pool, v, m->to, m->to + m->len);
	}
	return rc;
}

int young_choose(struct lp_space *s, size_t at, const struct lp_view *base, const uint16_t *seq, size_t n)
{
	struct choice k = { .s = s, .c = s->log[at].child, .base = base, .seq = seq, .n = n, .best_cost = UINT_MAX };
	size_t i;
	int rc;

	k.open = malloc(n * sizeof(*k.open) + 3 * n + 1);
	if (!k.open)
		return -ENOMEM;
	k.usual = (bool *)(k.open + n);
	k.with = k.usual + n;
	k.best = k.with + n;
	for (i = 0; i < n; i++) {
		k.usual[i] = k.with[i] = seq[i] < at;
		if (s->log[seq[i]].kind != MSG_REMOVE)
			k.open[k.nopen++] = i;
	}
	rc = consider(&k);
	if (!rc && k.best_cost)
		rc = k.nopen <= ALL_CHOICES ? consider_all(&k) : consider_some(&k);
	if (!rc)
		rc = drop_ghosts(&k);
	if (!rc)
		k.c->v = k.best_view;
	else
		view_clear(&s->engine->pool, &k.best_view);
	free(k.open);
	return rc;
}
