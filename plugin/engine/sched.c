/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The order of the background: first the space in which the last fault was,
 * from that fault on, since programs touch neighbours; then the tasks of the
 * checkpoint in turn; then children of forks, which often live shorter than
 * their memory takes to fill (and filling them unshares it).
 */
#include <errno.h>

#include "engine/internal.h"

void ring_add(struct lp_space *s)
{
	struct lp_engine *e = s->engine;

	if (!e->ring) {
		s->next = s->prev = s;
		e->ring = s;
		return;
	}
	s->next = e->ring;
	s->prev = e->ring->prev;
	s->prev->next = s;
	s->next->prev = s;
}

void ring_del(struct lp_space *s)
{
	struct lp_engine *e = s->engine;
	struct lp_space *other = s->next != s ? s->next : NULL;

	s->prev->next = s->next;
	s->next->prev = s->prev;
	if (e->ring == s)
		e->ring = other;
	if (e->turn == s)
		e->turn = other;
	if (e->hot == s)
		e->hot = NULL;
}

/* The first missing range from @pos on that no message in the log names, cut to that. */
static bool next_quiet(const struct lp_space *s, uint64_t pos, struct lp_range *r)
{
	struct lp_range n;

	while (lp_map_next(&s->v.missing, pos, r)) {
		if (r->start < pos) {
			r->img += pos - r->start;
			r->start = pos;
		}
		if (!lp_map_next(&s->named, r->start, &n) || n.start >= r->end)
			return true;
		if (n.start > r->start) {
			r->end = n.start;
			return true;
		}
		pos = n.end;
	}
	return false;
}

static bool has_work(const struct lp_space *s)
{
	struct lp_range r;

	return !s->dead && !s->broken && !frozen(s) && next_quiet(s, 0, &r);
}

static bool ready(const struct lp_space *s, uint64_t now)
{
	return s->stalled_until <= now && has_work(s);
}

static struct lp_space *pick(struct lp_engine *e, uint64_t now, uint64_t *when)
{
	struct lp_space *s, *child = NULL, *first;

	*when = LP_NEVER;
	if (e->hot && ready(e->hot, now))
		return e->hot;
	first = e->turn ? e->turn : e->ring;
	if (!first)
		return NULL;
	s = first;
	do {
		if (ready(s, now)) {
			if (!s->generation) {
				e->turn = s->next;
				return s;
			}
			if (!child || s->generation < child->generation)
				child = s;
		} else if (s->stalled_until < *when && s->stalled_until > now && has_work(s)) {
			*when = s->stalled_until;
		}
		s = s->next;
	} while (s != first);
	if (child)
		e->turn = child->next;
	return child;
}

int lp_engine_next(struct lp_engine *e, uint64_t max_bytes, unsigned max_pieces, uint64_t now,
		   struct lp_flight **out, uint64_t *when)
{
	struct lp_space *s = pick(e, now, when);
	struct lp_flight *f;
	struct lp_range r;
	uint64_t start, end, left = max_bytes, quiet = LP_NEVER;
	unsigned pieces = 0;
	struct lp_range n;
	int rc;

	if (!s)
		return -EAGAIN;
	if (!next_quiet(s, s->cursor, &r)) {
		s->cursor = 0;
		next_quiet(s, 0, &r);
	}
	rc = lp_pool_reserve(&e->pool, 1);
	if (!rc)
		rc = flight_new(s, max_pieces + 2, &f);
	if (rc)
		return rc;

	start = end = r.start;
	if (lp_map_next(&s->named, start, &n))
		quiet = n.start;
	do {
		uint64_t a = r.start > end ? r.start : end;
		uint64_t len = (r.end < quiet ? r.end : quiet) - a;

		if (len > left)
			len = left;
		flight_push(f, a, len, r.img + (a - r.start), r.obj);
		left -= len;
		end = a + len;
		pieces++;
	} while (left && pieces < max_pieces && lp_map_next(&s->v.missing, end, &r) && r.start < quiet && end < quiet);

	/* Everything missing between the first and the last piece is in the flight. */
	lp_map_cut(&e->pool, &s->v.missing, start, end, NULL);
	s->cursor = end;
	*out = f;
	return 0;
}

void lp_space_stall(struct lp_space *s, uint64_t until)
{
	s->stalled_until = until;
}
