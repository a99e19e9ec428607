/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Address spaces and what layout events do to them. Rules are those of
 * doc/design.md, "Layout events"; the kernel facts behind each are cited at
 * the function that needs them. A space owns its maps.
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

static void layers_free(struct lp_space *s)
{
	struct lp_pool *pool = &s->engine->pool;
	struct lp_layer *l;

	while ((l = s->layers)) {
		s->layers = l->older;
		lp_map_clear(pool, &l->extents);
		lp_map_clear(pool, &l->missing);
		lp_map_clear(pool, &l->wiped);
		free(l);
	}
}

void lp_space_free(struct lp_space *s)
{
	if (!s)
		return;
	if (s->nflights)
		abort();
	lp_space_exit(s);
	ring_del(s);
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
	/* img follows the address so that neighbours merge. */
	struct lp_range r = { start, end, start, 0 };

	return lp_map_insert(&s->engine->pool, &s->extents, &r);
}

int lp_space_add_missing(struct lp_space *s, uint64_t start, uint64_t end, uint64_t img, uint32_t obj)
{
	struct lp_range r = { start, end, img, obj };

	return lp_map_insert(&s->engine->pool, &s->missing, &r);
}

int lp_space_add_wiped(struct lp_space *s, uint64_t start, uint64_t end)
{
	struct lp_range r = { start, end, start, 0 };

	return lp_map_insert(&s->engine->pool, &s->wiped, &r);
}

/*
 * Reserve whatever a layout event may need, before it changes anything. An
 * event touches a handful of maps per generation; generations beyond the
 * current one exist for microseconds, if at all.
 */
static int event_begin(struct lp_space *s)
{
	struct lp_layer *l;
	unsigned calls = 16;

	if (s->broken)
		return -ENOTRECOVERABLE;
	for (l = s->layers; l; l = l->older)
		calls += 8;
	if (lp_pool_reserve(&s->engine->pool, calls) || flights_reserve(s) || waiters_reserve(s))
		return -ENOMEM;
	return 0;
}

/* From here on a failure means that the layout is lost. */
static int event_end(struct lp_space *s, int rc)
{
	if (rc)
		s->broken = true;
	return rc;
}

/* Take the content (not the extents) of [start, end) in the current generation. */
static int take_current(struct lp_space *s, uint64_t start, uint64_t end, struct lp_map *out)
{
	struct lp_map part = { NULL };
	struct lp_range r;
	uint64_t pos = 0;
	int rc;

	rc = lp_map_cut(&s->engine->pool, &s->missing, start, end, &part);
	if (!rc)
		rc = flights_cut(s, start, end, &part);
	if (rc || !out || !out->root) {
		if (!rc && out)
			*out = part;
		else
			lp_map_clear(&s->engine->pool, &part);
		return rc;
	}
	for (; !rc && lp_map_next(&part, pos, &r); pos = r.end)
		rc = lp_map_insert(&s->engine->pool, out, &r);
	lp_map_clear(&s->engine->pool, &part);
	return rc;
}

static void layers_prune(struct lp_space *s)
{
	struct lp_layer **p = &s->layers, *l;

	while ((l = *p)) {
		if (!lp_map_empty(&l->extents)) {
			p = &l->older;
			continue;
		}
		*p = l->older;
		lp_map_clear(&s->engine->pool, &l->missing);
		lp_map_clear(&s->engine->pool, &l->wiped);
		free(l);
	}
}

static struct lp_layer *layer_oldest(struct lp_space *s, const struct lp_layer *newer_than)
{
	struct lp_layer *l = s->layers, *best = NULL;

	for (; l && l != newer_than; l = l->older)
		best = l;
	return best;
}

/*
 * Take the content of [start, end) for a REMAP or UNMAP: of each address, from
 * the oldest generation that has it, since that one's event must come first.
 * With @gone the extents go too.
 */
/* Move [start, end) of @from to @out (NULL: nowhere), which may hold other ranges. */
static int move_ranges(struct lp_pool *pool, struct lp_map *from, uint64_t start, uint64_t end, struct lp_map *out)
{
	struct lp_map part = { NULL };
	struct lp_range m;
	uint64_t q = 0;
	int rc = lp_map_cut(pool, from, start, end, &part);

	for (; !rc && out && lp_map_next(&part, q, &m); q = m.end)
		rc = lp_map_insert(pool, out, &m);
	lp_map_clear(pool, &part);
	return rc;
}

static int take_oldest(struct lp_space *s, uint64_t start, uint64_t end, bool gone, struct lp_map *out,
		       struct lp_map *wiped)
{
	struct lp_pool *pool = &s->engine->pool;
	struct lp_map todo = { NULL };
	struct lp_range want = { start, end, start, 0 }, r, ext;
	struct lp_layer *l = NULL;
	uint64_t pos;
	int rc = 0;

	if (!s->layers) {
		if (gone)
			rc = lp_map_cut(pool, &s->extents, start, end, NULL);
		if (!rc)
			rc = move_ranges(pool, &s->wiped, start, end, wiped);
		return rc ? rc : take_current(s, start, end, out);
	}

	rc = lp_map_insert(pool, &todo, &want);
	while (!rc && (l = layer_oldest(s, l))) {
		for (pos = start; !rc && lp_map_next(&l->extents, pos, &ext) && ext.start < end; pos = ext.end) {
			uint64_t a = ext.start > start ? ext.start : start;
			uint64_t b = ext.end < end ? ext.end : end;
			uint64_t at = a;

			/* Only what no older generation has answered for. */
			while (!rc && lp_map_next(&todo, at, &r) && r.start < b) {
				uint64_t x = r.start > a ? r.start : a, y = r.end < b ? r.end : b;

				rc = move_ranges(pool, &l->missing, x, y, out);
				if (!rc)
					rc = move_ranges(pool, &l->wiped, x, y, wiped);
				if (!rc && gone)
					rc = lp_map_cut(pool, &l->extents, x, y, NULL);
				if (!rc)
					rc = lp_map_cut(pool, &todo, x, y, NULL);
				at = y;
			}
		}
	}
	for (pos = start; !rc && lp_map_next(&todo, pos, &r); pos = r.end) {
		if (gone)
			rc = lp_map_cut(pool, &s->extents, r.start, r.end, NULL);
		if (!rc)
			rc = move_ranges(pool, &s->wiped, r.start, r.end, wiped);
		if (!rc)
			rc = take_current(s, r.start, r.end, out);
	}
	lp_map_clear(pool, &todo);
	layers_prune(s);
	return rc;
}

/* Something new lies at [start, end): what was there waits for its own event. */
static int displace(struct lp_space *s, uint64_t start, uint64_t end)
{
	struct lp_layer *l;
	int rc;

	if (!lp_map_overlaps(&s->extents, start, end)) {
		rc = lp_map_cut(&s->engine->pool, &s->wiped, start, end, NULL);
		return rc ? rc : take_current(s, start, end, NULL);
	}
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	rc = lp_map_cut(&s->engine->pool, &s->extents, start, end, &l->extents);
	if (!rc)
		rc = take_current(s, start, end, &l->missing);
	if (!rc)
		rc = lp_map_cut(&s->engine->pool, &s->wiped, start, end, &l->wiped);
	l->older = s->layers;
	s->layers = l;
	return rc;
}

/*
 * The kernel sends REMAP after the page tables have moved, then UNMAP for the
 * old range; with MREMAP_FIXED an UNMAP of the destination comes before. A
 * destination that is still occupied here therefore means that an event of
 * another thread is late (see struct lp_layer).
 */
int lp_space_remap(struct lp_space *s, uint64_t from, uint64_t to, uint64_t len)
{
	struct lp_pool *pool = &s->engine->pool;
	struct lp_map moved = { NULL }, wiped = { NULL };
	int rc;

	if (s->dead || !len)
		return 0;
	rc = event_begin(s);
	if (rc)
		return rc;
	rc = take_oldest(s, from, from + len, false, &moved, &wiped);
	if (!rc)
		rc = displace(s, to, to + len);
	if (!rc)
		rc = lp_space_add_extent(s, to, to + len);
	if (!rc)
		rc = lp_map_shift(pool, &moved, to - from);
	if (!rc)
		rc = lp_map_join(pool, &s->missing, &moved);
	if (!rc)
		rc = lp_map_shift(pool, &wiped, to - from);
	if (!rc)
		rc = lp_map_join(pool, &s->wiped, &wiped);

	lp_map_clear(pool, &moved);
	lp_map_clear(pool, &wiped);
	/* They wait at an address where nothing will be filled any more. */
	waiters_wake(s, from, from + len);
	return event_end(s, rc);
}

bool lp_space_unsettled(const struct lp_space *s)
{
	return s->layers != NULL;
}

void lp_space_settled(struct lp_space *s)
{
	layers_free(s);
}

/* Read before the zap: from now on the range is zeros, whatever is still in flight. */
int lp_space_remove(struct lp_space *s, uint64_t start, uint64_t end)
{
	int rc;

	if (s->dead || start >= end)
		return 0;
	rc = event_begin(s);
	if (rc)
		return rc;
	rc = take_current(s, start, end, NULL);
	waiters_wake(s, start, end);
	return event_end(s, rc);
}

int lp_space_unmap(struct lp_space *s, uint64_t start, uint64_t end)
{
	int rc;

	if (s->dead || start >= end)
		return 0;
	rc = event_begin(s);
	if (rc)
		return rc;
	rc = take_oldest(s, start, end, true, NULL, NULL);
	waiters_wake(s, start, end);
	return event_end(s, rc);
}

/*
 * The pages of flights are missing in the child: a fill of the parent that had
 * landed before the fork would have been advanced over, and none can land
 * between the fork and the event's reading (COPY says EAGAIN).
 */
int lp_space_fork(struct lp_space *s, void *host, struct lp_space **child)
{
	struct lp_pool *pool = &s->engine->pool;
	struct lp_space *c;
	struct lp_flight *f;
	struct lp_range r;
	uint64_t pos = 0;
	uint32_t i;
	int rc;

	if (s->broken)
		return -ENOTRECOVERABLE;
	rc = lp_space_new(s->engine, host, &c);
	if (rc)
		return rc;
	c->generation = s->generation + 1;
	c->cursor = s->cursor;
	lp_map_clone(&c->missing, &s->missing);
	lp_map_clone(&c->extents, &s->extents);
	lp_map_clone(&c->wiped, &s->wiped);
	for (f = s->flights; f && !rc; f = f->next) {
		for (i = f->head; i < f->n && !rc; i++) {
			const struct lp_piece *p = &f->pieces[i];

			rc = lp_space_add_missing(c, p->addr, p->addr + p->len, p->img, p->obj);
		}
	}
	for (; !rc && lp_map_next(&c->wiped, pos, &r); pos = r.end)
		rc = lp_map_cut(pool, &c->missing, r.start, r.end, NULL);
	if (rc) {
		lp_space_free(c);
		return rc;
	}
	*child = c;
	return 0;
}

void lp_space_exit(struct lp_space *s)
{
	struct lp_pool *pool = &s->engine->pool;

	s->dead = true;
	lp_map_clear(pool, &s->missing);
	lp_map_clear(pool, &s->extents);
	lp_map_clear(pool, &s->wiped);
	layers_free(s);
	flights_drop_all(s);
	s->nwaiters = s->nwakes = s->ndeferred = 0;
	if (s->engine->hot == s)
		s->engine->hot = NULL;
}

bool lp_space_complete(const struct lp_space *s)
{
	const struct lp_layer *l;

	for (l = s->layers; l; l = l->older)
		if (!lp_map_empty(&l->missing))
			return false;
	return s->dead || (lp_map_empty(&s->missing) && !s->nflights && !s->nwaiters && !s->nwakes && !s->broken);
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
	return lp_map_bytes(&s->missing);
}

bool lp_space_registered(const struct lp_space *s, uint64_t start, uint64_t end)
{
	const struct lp_layer *l;

	for (l = s->layers; l; l = l->older)
		if (lp_map_overlaps(&l->extents, start, end))
			return true;
	return lp_map_overlaps(&s->extents, start, end);
}

bool lp_space_next_extent(const struct lp_space *s, uint64_t pos, uint64_t *start, uint64_t *end)
{
	struct lp_range r;

	if (!lp_map_next(&s->extents, pos, &r))
		return false;
	*start = r.start;
	*end = r.end;
	return true;
}

bool lp_space_peek(const struct lp_space *s, uint64_t addr, uint64_t *img, uint32_t *obj)
{
	struct lp_piece p;
	struct lp_range r;

	if (lp_map_find(&s->missing, addr, &r)) {
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

size_t lp_engine_nodes(const struct lp_engine *e)
{
	return e->pool.nused;
}
