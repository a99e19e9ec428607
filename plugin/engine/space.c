/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Address spaces: their life, what they hold, and how layout messages come in.
 * What messages mean is decided in epoch.c. A space owns its maps and its log.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"

struct lp_engine *lp_engine_new(const struct lp_engine_conf *conf)
{
	struct lp_engine *e = calloc(1, sizeof(*e));

	if (!e)
		return NULL;
	e->page = conf->page;
	e->there = conf->there;
	e->old_shrink = conf->old_shrink;
	lp_pool_init(&e->pool, conf->seed);
	return e;
}

void lp_engine_free(struct lp_engine *e)
{
	if (!e)
		return;
	lp_pool_fini(&e->pool);
	free(e);
}

int lp_space_new(struct lp_engine *e, void *host, struct lp_space **out)
{
	struct lp_space *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->engine = e;
	s->host = host;
	s->seq_next = LP_NEVER;
	ring_add(s);
	*out = s;
	return 0;
}

void lp_space_free(struct lp_space *s)
{
	if (!s)
		return;
	if (s->nflights)
		abort();
	lp_space_exit(s);
	ring_del(s);
	free(s->log);
	free(s->book);
	free(s->waiters);
	free(s->wakes);
	free(s);
}

void *lp_space_host(const struct lp_space *s)
{
	return s->host;
}

int lp_space_add_extent(struct lp_space *s, uint64_t start, uint64_t end)
{
	return view_add_extent(&s->engine->pool, &s->v, start, end);
}

int lp_space_add_missing(struct lp_space *s, uint64_t start, uint64_t end, uint64_t img, uint32_t obj)
{
	struct lp_range r = { start, end, img, obj };

	return lp_map_insert(&s->engine->pool, &s->v.missing, &r);
}

int lp_space_filled(struct lp_space *s, uint64_t start, uint64_t end)
{
	return lp_map_cut(&s->engine->pool, &s->v.missing, start, end, NULL);
}

int lp_space_add_wiped(struct lp_space *s, uint64_t start, uint64_t end)
{
	return view_mark(&s->engine->pool, &s->v, start, end, WIPED, 0);
}

int lp_space_add_dontfork(struct lp_space *s, uint64_t start, uint64_t end)
{
	return view_mark(&s->engine->pool, &s->v, start, end, DONTFORK, 0);
}

/* ---- Layout messages --------------------------------------------------------- */

int lp_space_remap(struct lp_space *s, uint64_t from, uint64_t to, uint64_t len)
{
	struct lp_msg m = { .kind = MSG_REMAP, .from = from, .to = to, .len = len, .told = len };

	return s->dead || !len ? 0 : log_add(s, &m);
}

int lp_space_unmap(struct lp_space *s, uint64_t start, uint64_t end)
{
	struct lp_msg m = { .kind = MSG_UNMAP, .from = start, .len = end - start };

	return s->dead || start >= end ? 0 : log_add(s, &m);
}

/*
 * Read before the zap: from now on the range is zeros, whatever is in flight.
 * No settled moment is needed where no message in the log is about the place:
 * the zap comes after the reading, so it is newer than all that was read before,
 * and a place cannot have changed hands without a message that was read before;
 * unless something has grown there, which the book tells.
 */
int lp_space_remove(struct lp_space *s, uint64_t start, uint64_t end)
{
	struct lp_msg m = { .kind = MSG_REMOVE, .from = start, .len = end - start, .call = s->call };

	s->call = 0;
	if (s->dead || start >= end)
		return 0;
	if (frozen(s) || lp_map_overlaps(&s->named, start, end) || book_touches(s, start, end))
		return log_add(s, &m);
	if (s->broken)
		return -ENOTRECOVERABLE;
	if (lp_pool_reserve(&s->engine->pool, 1) || flights_reserve(s) || waiters_reserve(s))
		return -ENOMEM;
	/* None of it can fail: reserved. */
	lp_map_cut(&s->engine->pool, &s->v.missing, start, end, NULL);
	flights_cut(s, start, end);
	waiters_wake(s, start, end);
	return 0;
}

int lp_space_fork(struct lp_space *s, void *host, struct lp_space **child)
{
	struct lp_msg m = { .kind = MSG_FORK };
	struct lp_space *c;
	int rc;

	rc = log_reserve(s);
	if (!rc)
		rc = lp_space_new(s->engine, host, &c);
	if (rc)
		return rc;
	c->generation = s->generation + 1;
	c->cursor = s->v.missing.root ? s->cursor : 0;
	c->parent = s;
	m.child = c;
	rc = young_born(s, c);
	if (!rc)
		rc = log_add(s, &m);
	if (rc) {
		young_leave(c);
		lp_space_free(c);
		return rc;
	}
	*child = c;
	return 0;
}

void lp_space_exit(struct lp_space *s)
{
	struct lp_pool *pool = &s->engine->pool;
	size_t i;

	s->ending = true;
	/* Its children live on: no better moment will come to tell what they have. */
	if (s->forked && !s->broken && epoch_end(s, true)) {
		for (i = 0; i < s->nlog; i++) {
			if (!s->log[i].child)
				continue;
			s->log[i].child->broken = true;
			young_leave(s->log[i].child);
		}
	}
	s->nlog = s->nbook = 0;
	s->due = s->forked = s->guarded = false;
	lp_map_clear(pool, &s->named);
	s->dead = true;
	if (s->parent)
		young_orphan(s);
	view_clear(pool, &s->v);
	flights_drop_all(s);
	s->nwaiters = s->nwakes = s->ndeferred = 0;
	if (s->engine->hot == s)
		s->engine->hot = NULL;
}

/* ---- State ------------------------------------------------------------------- */

bool lp_space_complete(const struct lp_space *s)
{
	if (s->dead)
		return true;
	if (s->parent || in_epoch(s) || s->broken)
		return false;
	return lp_map_empty(&s->v.missing) && !s->nflights && !s->nwaiters && !s->nwakes;
}

bool lp_space_dead(const struct lp_space *s)
{
	return s->dead;
}

bool lp_space_broken(const struct lp_space *s)
{
	return s->broken;
}

size_t lp_space_flights(const struct lp_space *s)
{
	return s->nflights;
}

uint64_t lp_space_missing(const struct lp_space *s)
{
	return lp_map_bytes(&s->v.missing);
}

bool lp_space_registered(const struct lp_space *s, uint64_t start, uint64_t end)
{
	size_t i;

	for (i = 0; i < s->nlog; i++)
		if (s->log[i].kind == MSG_REMAP && s->log[i].to < end && start < s->log[i].to + s->log[i].len)
			return true;
	return lp_map_overlaps(&s->v.extents, start, end);
}

bool lp_space_peek(const struct lp_space *s, uint64_t addr, uint64_t *img, uint32_t *obj)
{
	struct lp_piece p;
	struct lp_range r;

	if (lp_map_find(&s->v.missing, addr, &r)) {
		*img = r.img + (addr - r.start);
		*obj = r.obj;
		return true;
	}
	if (flights_find(s, addr, &p)) {
		*img = p.img + (addr - p.addr);
		*obj = p.obj;
		return true;
	}
	return false;
}

bool lp_space_doubtful(const struct lp_space *s, uint64_t addr)
{
	struct lp_range r;

	return frozen(s) || lp_map_find(&s->named, addr, &r);
}

size_t lp_engine_nodes(const struct lp_engine *e)
{
	return e->pool.nused;
}
