/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Flights: claims with one owner each. The ranges of a flight are not in the
 * map of missing ranges, so nobody else can claim them; layout events edit the
 * pieces in place, so the owner always finds the right addresses (or none).
 * The owner's reading and advancing is protected by the gate, see engine.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

int flight_new(struct lp_space *s, unsigned cap, struct lp_flight **out)
{
	struct lp_flight *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	f->pieces = malloc(cap * sizeof(*f->pieces));
	if (!f->pieces) {
		free(f);
		return -ENOMEM;
	}
	f->cap = cap;
	f->space = s;
	f->id = ++s->engine->nflights;
	f->next = s->flights;
	if (f->next)
		f->next->prev = f;
	s->flights = f;
	s->nflights++;
	*out = f;
	return 0;
}

/* The capacity was given to flight_new(). */
void flight_push(struct lp_flight *f, uint64_t addr, uint64_t len, uint64_t img, uint32_t obj)
{
	if (f->n == f->cap)
		abort();
	f->pieces[f->n++] = (struct lp_piece){ addr, len, img, obj };
}

int flight_reserve(struct lp_flight *f)
{
	struct lp_piece *p;
	uint32_t cap = f->cap * 2 + 2;

	if (f->n + 2 <= f->cap)
		return 0;
	p = realloc(f->pieces, cap * sizeof(*p));
	if (!p)
		return -ENOMEM;
	f->pieces = p;
	f->cap = cap;
	return 0;
}

int flights_reserve(struct lp_space *s)
{
	struct lp_flight *f;
	int rc = 0;

	for (f = s->flights; f && !rc; f = f->next)
		rc = flight_reserve(f);
	return rc;
}

void flight_cut(struct lp_flight *f, uint64_t start, uint64_t end)
{
	uint32_t i;

	for (i = f->head; i < f->n; i++) {
		struct lp_piece *p = &f->pieces[i], old = *p;
		uint64_t a = old.addr > start ? old.addr : start;
		uint64_t b = old.addr + old.len < end ? old.addr + old.len : end;

		if (a >= b)
			continue;
		/* What remains: the part before [a, b) in place, the part after behind it. */
		p->len = a - old.addr;
		if (b < old.addr + old.len) {
			struct lp_piece tail = { b, old.addr + old.len - b, old.img + (b - old.addr), old.obj };

			if (!p->len) {
				*p = tail;
				continue;
			}
			memmove(p + 2, p + 1, (f->n - i - 1) * sizeof(*p));
			p[1] = tail;
			f->n++;
			i++;
		} else if (!p->len) {
			memmove(p, p + 1, (f->n - i - 1) * sizeof(*p));
			f->n--;
			i--;
		}
	}
}

void flights_cut(struct lp_space *s, uint64_t start, uint64_t end)
{
	struct lp_flight *f;

	for (f = s->flights; f; f = f->next)
		flight_cut(f, start, end);
}

/* The part of @p in [start, end), or none. */
static bool part_of(const struct lp_piece *p, uint64_t start, uint64_t end, struct lp_range *r)
{
	r->start = p->addr > start ? p->addr : start;
	r->end = p->addr + p->len < end ? p->addr + p->len : end;
	r->img = p->img + (r->start - p->addr);
	r->obj = p->obj;
	return r->start < r->end;
}

unsigned flights_count(const struct lp_space *s, uint64_t start, uint64_t end)
{
	const struct lp_flight *f;
	struct lp_range r;
	unsigned n = 0;
	uint32_t i;

	for (f = s->flights; f; f = f->next)
		for (i = f->head; i < f->n; i++)
			n += part_of(&f->pieces[i], start, end, &r);
	return n;
}

void flights_return(struct lp_space *s, uint64_t start, uint64_t end)
{
	const struct lp_flight *f;
	struct lp_range r;
	uint32_t i;

	for (f = s->flights; f; f = f->next)
		for (i = f->head; i < f->n; i++)
			if (part_of(&f->pieces[i], start, end, &r))
				lp_map_insert(&s->engine->pool, &s->v.missing, &r);
	flights_cut(s, start, end);
	waiters_return(s, start, end);
}

bool flight_find(const struct lp_flight *f, uint64_t addr, struct lp_piece *piece)
{
	uint32_t i;

	for (i = f->head; i < f->n; i++) {
		if (addr - f->pieces[i].addr < f->pieces[i].len) {
			*piece = f->pieces[i];
			return true;
		}
	}
	return false;
}

struct lp_flight *flights_find(const struct lp_space *s, uint64_t addr, struct lp_piece *piece)
{
	struct lp_flight *f;

	for (f = s->flights; f; f = f->next)
		if (flight_find(f, addr, piece))
			return f;
	return NULL;
}

void flights_drop_all(struct lp_space *s)
{
	struct lp_flight *f;

	for (f = s->flights; f; f = f->next)
		f->head = f->n = 0;
}

struct lp_space *lp_flight_space(const struct lp_flight *f)
{
	return f->space;
}

uint64_t lp_flight_id(const struct lp_flight *f)
{
	return f->id;
}

bool lp_flight_piece(const struct lp_flight *f, uint32_t i, struct lp_piece *p)
{
	if (i >= f->n - f->head)
		return false;
	*p = f->pieces[f->head + i];
	return true;
}

bool lp_flight_urgent(const struct lp_flight *f)
{
	return f->urgent;
}

uint64_t lp_flight_fault_addr(const struct lp_flight *f)
{
	return f->fault_addr;
}

const struct lp_piece *lp_flight_head(const struct lp_flight *f)
{
	return f->head < f->n && !frozen(f->space) ? &f->pieces[f->head] : NULL;
}

uint64_t lp_flight_left(const struct lp_flight *f)
{
	uint64_t left = 0;
	uint32_t i;

	for (i = f->head; i < f->n; i++)
		left += f->pieces[i].len;
	return left;
}

void lp_flight_advance(struct lp_flight *f, uint64_t bytes)
{
	struct lp_piece *p = &f->pieces[f->head];

	p->addr += bytes;
	p->img += bytes;
	p->len -= bytes;
	if (!p->len)
		f->head++;
}

int lp_flight_finish(struct lp_flight *f)
{
	struct lp_space *s = f->space;
	const struct lp_piece *p;
	int rc = 0;

	/* One insertion a piece; the owner keeps the flight when that fails. */
	if (f->head < f->n && lp_pool_reserve(&s->engine->pool, f->n - f->head))
		return -ENOMEM;
	if (f->urgent)
		waiters_flight_ends(s, f);
	for (; f->head < f->n; f->head++) {
		p = &f->pieces[f->head];
		rc = lp_space_add_missing(s, p->addr, p->addr + p->len, p->img, p->obj);
		if (rc)
			return rc;
	}
	if (f->prev)
		f->prev->next = f->next;
	else
		s->flights = f->next;
	if (f->next)
		f->next->prev = f->prev;
	s->nflights--;
	free(f->pieces);
	free(f);
	return 0;
}
