/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Faults: what a faulting thread is waiting for, and that it is never
 * forgotten. Every fault that was read stays in the space's list of waiters
 * until somebody says that the threads at that page were woken.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"

int waiters_reserve(struct lp_space *s)
{
	/* Every waiter may have to become a wake. */
	size_t want = s->nwakes + s->nwaiters;

	if (want > s->cap_wakes) {
		uint64_t *w = realloc(s->wakes, want * 2 * sizeof(*w));

		if (!w)
			return -ENOMEM;
		s->wakes = w;
		s->cap_wakes = want * 2;
	}
	return 0;
}

static struct lp_waiter *waiter_find(const struct lp_space *s, uint64_t addr)
{
	size_t i;

	for (i = 0; i < s->nwaiters; i++)
		if (s->waiters[i].addr == addr)
			return &s->waiters[i];
	return NULL;
}

static void waiter_del(struct lp_space *s, struct lp_waiter *w)
{
	if (w->deferred)
		s->ndeferred--;
	*w = s->waiters[--s->nwaiters];
}

static int waiter_add(struct lp_space *s, uint64_t addr, struct lp_waiter **out)
{
	struct lp_waiter *w = waiter_find(s, addr);

	if (!w) {
		if (s->nwaiters == s->cap_waiters) {
			size_t cap = s->cap_waiters ? s->cap_waiters * 2 : 16;

			w = realloc(s->waiters, cap * sizeof(*w));
			if (!w)
				return -ENOMEM;
			s->waiters = w;
			s->cap_waiters = cap;
		}
		w = &s->waiters[s->nwaiters++];
		*w = (struct lp_waiter){ .addr = addr };
	}
	*out = w;
	return 0;
}

/* Flight @f, or nobody yet, has its page; it is deferred no longer. */
static void waiter_goes_to(struct lp_space *s, struct lp_waiter *w, struct lp_flight *f)
{
	w->flight = f;
	if (w->deferred)
		s->ndeferred--;
	w->deferred = false;
}

void waiters_wake(struct lp_space *s, uint64_t start, uint64_t end)
{
	size_t i = 0;

	while (i < s->nwaiters) {
		struct lp_waiter *w = &s->waiters[i];

		if (w->addr < start || w->addr >= end) {
			i++;
			continue;
		}
		s->wakes[s->nwakes++] = w->addr;
		waiter_del(s, w);
	}
}

bool lp_space_next_wake(struct lp_space *s, uint64_t *addr)
{
	if (!s->nwakes)
		return false;
	*addr = s->wakes[--s->nwakes];
	return true;
}

void lp_space_answered(struct lp_space *s, uint64_t addr)
{
	struct lp_waiter *w = waiter_find(s, addr);

	if (w)
		waiter_del(s, w);
}

static bool flight_holds(const struct lp_flight *f, uint64_t addr)
{
	uint32_t i;

	for (i = f->head; i < f->n; i++)
		if (addr - f->pieces[i].addr < f->pieces[i].len)
			return true;
	return false;
}

void waiters_flight_ends(struct lp_space *s, const struct lp_flight *f)
{
	size_t i = 0;

	while (i < s->nwaiters) {
		struct lp_waiter *w = &s->waiters[i];

		if (w->flight != f) {
			i++;
		} else if (!flight_holds(f, w->addr)) {
			waiter_del(s, w);
		} else {
			w->flight = NULL;
			if (!w->deferred)
				s->ndeferred++;
			w->deferred = true;
			i++;
		}
	}
}

void waiters_return(struct lp_space *s, uint64_t start, uint64_t end)
{
	size_t i;

	for (i = 0; i < s->nwaiters; i++) {
		struct lp_waiter *w = &s->waiters[i];

		if (!w->flight || w->addr < start || w->addr >= end)
			continue;
		w->flight = NULL;
		if (!w->deferred)
			s->ndeferred++;
		w->deferred = true;
	}
}

int lp_space_defer(struct lp_space *s, uint64_t addr)
{
	struct lp_waiter *w;
	int rc;

	if (s->dead)
		return 0;
	rc = waiter_add(s, addr, &w);
	if (rc)
		return rc;
	w->flight = NULL;
	if (!w->deferred) {
		w->deferred = true;
		s->ndeferred++;
	}
	return 0;
}

bool lp_space_next_deferred(struct lp_space *s, uint64_t *addr)
{
	size_t i;

	if (!s->ndeferred)
		return false;
	for (i = 0; i < s->nwaiters; i++) {
		if (s->waiters[i].deferred) {
			s->waiters[i].deferred = false;
			s->ndeferred--;
			*addr = s->waiters[i].addr;
			return true;
		}
	}
	return false;
}

bool lp_space_waited_for(const struct lp_space *s)
{
	return s->nwaiters != 0;
}

bool lp_space_has_deferred(const struct lp_space *s)
{
	return s->ndeferred != 0;
}

/*
 * Readahead doubles while each fault comes soon after the end of the last
 * flight: not exactly there, since the background goes on from the same place.
 */
static uint64_t readahead_len(struct lp_space *s, uint64_t addr, uint64_t max)
{
	uint64_t page = s->engine->page;
	bool near = addr >= s->seq_next && addr - s->seq_next <= max;

	if (near && s->seq_len < max)
		s->seq_len *= 2;
	else if (!near)
		s->seq_len = page;
	if (s->seq_len < page)
		s->seq_len = page;
	return s->seq_len < max ? s->seq_len : (max > page ? max : page);
}

/*
 * A new urgent flight that begins at @addr, out of what is missing there (@r) or
 * out of bulk flight @owner, which has @p there. Other flights are not looked at.
 */
static int claim(struct lp_space *s, uint64_t addr, uint64_t readahead, const struct lp_range *r,
		 struct lp_flight *owner, const struct lp_piece *p, struct lp_flight **out)
{
	uint64_t len = readahead_len(s, addr, readahead);
	struct lp_pool *pool = &s->engine->pool;
	struct lp_flight *f;
	struct lp_range quiet;
	int rc;

	if (owner)
		len = len < p->addr + p->len - addr ? len : p->addr + p->len - addr;
	else
		len = len < r->end - addr ? len : r->end - addr;
	if (lp_map_next(&s->named, addr, &quiet) && len > quiet.start - addr)
		len = quiet.start - addr;

	rc = lp_pool_reserve(pool, 2);
	if (!rc && owner)
		rc = flight_reserve(owner);
	if (!rc)
		rc = flight_new(s, 4, &f);
	if (rc)
		return rc;
	f->urgent = true;
	f->fault_addr = addr;
	/* Neither can fail: reserved above. Bulk must not hold up a thread: its pages change their owner. */
	if (owner)
		flight_cut(owner, addr, addr + len);
	else
		lp_map_cut(pool, &s->v.missing, addr, addr + len, NULL);
	if (owner)
		flight_push(f, addr, len, p->img + (addr - p->addr), p->obj);
	else
		flight_push(f, addr, len, r->img + (addr - r->start), r->obj);

	s->seq_next = addr + len;
	s->cursor = addr + len;
	s->engine->hot = s;
	*out = f;
	return 0;
}

int lp_space_fault(struct lp_space *s, uint64_t addr, uint64_t readahead, enum lp_verdict *verdict,
		   struct lp_flight **flight)
{
	struct lp_flight *owner = NULL;
	struct lp_waiter *w;
	struct lp_piece p;
	struct lp_range r;
	int rc;

	*verdict = LP_ZERO;
	*flight = NULL;
	if (s->dead)
		return 0;
	if (s->broken)
		return -ENOTRECOVERABLE;
	rc = waiter_add(s, addr, &w);
	if (rc)
		return rc;
	waiter_goes_to(s, w, NULL);

	if (frozen(s) || lp_map_find(&s->named, addr, &r)) {
		*verdict = LP_LATER;
		return 0;
	}
	if (!lp_map_find(&s->v.missing, addr, &r)) {
		owner = flights_find(s, addr, &p);
		if (!owner)
			return 0;
		if (owner->urgent) {
			w->flight = owner;
			*verdict = LP_WAIT;
			return 0;
		}
	}
	rc = claim(s, addr, readahead, &r, owner, &p, flight);
	if (rc) {
		int again = lp_space_defer(s, addr);

		return again ? again : rc;
	}
	w->flight = *flight;
	*verdict = LP_FILL;
	return 0;
}

int lp_space_early_fault(struct lp_space *s, uint64_t addr, uint64_t readahead, struct lp_flight *own,
			 struct lp_flight **flight)
{
	struct lp_flight *owner = NULL;
	struct lp_waiter *w;
	struct lp_piece p;
	struct lp_range r;
	int rc;

	*flight = NULL;
	if (s->dead || s->broken || frozen(s) || lp_map_find(&s->named, addr, &r))
		return 0;
	if (!lp_map_find(&s->v.missing, addr, &r)) {
		if (!flight_find(own, addr, &p))
			return 0;
		owner = own;
	}
	rc = claim(s, addr, readahead, &r, owner, &p, flight);
	if (rc)
		return rc;
	/* No waiter of its own: perhaps nobody waits, and the message of who does has not been dropped. */
	w = waiter_find(s, addr);
	if (!w)
		return 0;
	waiter_goes_to(s, w, *flight);
	return 0;
}

bool lp_flight_awaited(const struct lp_flight *f)
{
	const struct lp_space *s = f->space;
	size_t i;

	for (i = 0; i < s->nwaiters; i++)
		if (s->waiters[i].flight == f)
			return true;
	return false;
}
