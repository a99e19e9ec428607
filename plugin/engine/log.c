/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The log: layout messages that were read since the last settled moment, what
 * they name, and which of them are of one change. A space owns its log.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"

int log_reserve(struct lp_space *s)
{
	size_t cap = s->cap_log ? s->cap_log * 2 : 16;
	struct lp_msg *log;
	int rc;

	if (s->broken)
		return -ENOTRECOVERABLE;

	if (s->nlog == LOG_MAX) {
		rc = epoch_end(s, true);
		if (rc)
			return rc;
	}
	if (s->nlog == s->cap_log) {
		log = realloc(s->log, cap * sizeof(*log));
		if (!log)
			return -ENOMEM;
		s->log = log;
		s->cap_log = cap;
	}
	return 0;
}

/* From now on nothing in [start, end) is filled: its bytes may belong elsewhere. Cannot fail: reserved. */
static void name(struct lp_space *s, uint64_t start, uint64_t end)
{
	struct lp_range r = { start, end, start, 0 };

	if (start >= end)
		return;
	lp_map_cut(&s->engine->pool, &s->named, start, end, NULL);
	lp_map_insert(&s->engine->pool, &s->named, &r);
	flights_return(s, start, end);
}

int log_add(struct lp_space *s, const struct lp_msg *m)
{
	bool moves = m->kind == MSG_REMAP;
	unsigned n;
	int rc = log_reserve(s);

	if (!rc)
		rc = young_ask_all(s, m);
	if (rc)
		return rc;
	n = flights_count(s, m->from, m->from + m->len);
	if (moves)
		n += flights_count(s, m->to, m->to + m->len);
	if (m->kind != MSG_FORK && (lp_pool_reserve(&s->engine->pool, n + 4) || flights_reserve(s)))
		return -ENOMEM;
	name(s, m->from, m->from + m->len);
	if (moves)
		name(s, m->to, m->to + m->len);
	s->forked |= m->kind == MSG_FORK;
	s->log[s->nlog++] = *m;
	return 0;
}

/* Was the rest of what @log[i] moved, beyond @u, unmapped by itself? */
static bool tail_unmapped(const struct lp_msg *log, size_t n, size_t i, const struct lp_msg *u)
{
	const struct lp_msg *m = &log[i];

	for (i++; i < n; i++)
		if (log[i].kind == MSG_UNMAP && !log[i].part && log[i].from == u->from + u->len &&
		    log[i].len == m->len - u->len)
			return true;
	return false;
}

/* May UNMAP @u belong to @log[i], which has none yet? */
static bool may_belong(const struct lp_msg *log, size_t n, size_t i, const struct lp_msg *u, bool old_shrink)
{
	const struct lp_msg *m = &log[i];

	return m->kind == MSG_REMAP && !m->vacates && u->from == m->from && u->len <= m->len &&
	       (u->len == m->len || (old_shrink && tail_unmapped(log, n, i, u)));
}

/*
 * Between two moves away from a place, @log[a] and @log[b], something was moved
 * there, and no other message made room for it: so the first one did.
 */
static bool must_vacate(const struct lp_msg *log, size_t a, size_t b)
{
	const struct lp_msg *m = &log[a];

	while (++a < b) {
		if (log[a].kind == MSG_UNMAP && !log[a].part && overlap(log[a].from, log[a].len, m->from, m->len))
			return false;
		if (log[a].kind == MSG_REMAP && overlap(log[a].to, log[a].len, m->from, m->len))
			return true;
	}
	return false;
}

/*
 * Before UNMAP @u was read, something was moved of which the place that @log[i]
 * moved away is a part, and that was MREMAP_DONTUNMAP: then that place was still
 * there, and @u is not of @log[i].
 */
static bool was_there(const struct lp_msg *log, size_t n, size_t i, const struct lp_msg *u)
{
	const struct lp_msg *x, *y;

	for (x = &log[i] + 1; x < u; x++) {
		if (x->kind != MSG_REMAP)
			continue;
		if (overlap(x->to, x->len, u->from, u->len))
			break;
		if (x->from > u->from || x->from + x->len < u->from + u->len || x->len == u->len)
			continue;
		for (y = x + 1; y < log + n && (y->kind != MSG_UNMAP || y->from != x->from || y->len != x->len); y++)
			;
		if (y == log + n)
			return true;
	}
	return false;
}

void log_unpair(struct lp_msg *log, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		log[i].vacates = log[i].part = log[i].grown = log[i].ghosts = false;
		if (log[i].kind == MSG_REMAP)
			log[i].len = log[i].told;
	}
}

/*
 * One mremap() is one change but sends several messages: REMAP and, unless
 * MREMAP_DONTUNMAP, UNMAP of the old place. Before Linux 6.16 REMAP of a
 * shrinking move tells the old length, and the rest has an UNMAP of its own.
 */
void log_pair(struct lp_msg *log, size_t n, bool ghosts, bool old_shrink)
{
	size_t i, j, best;

	log_unpair(log, n);
	for (i = 0; i < n; i++)
		log[i].ghosts = ghosts;
	for (j = 0; j < n; j++) {
		struct lp_msg *u = &log[j];

		/* The last move that it can belong to: what was left there before stays (MREMAP_DONTUNMAP). */
		best = n;
		for (i = j; u->kind == MSG_UNMAP && !u->part && i-- > 0;)
			if (may_belong(log, n, i, u, old_shrink) && !was_there(log, n, i, u) &&
			    (best == n || must_vacate(log, i, best)))
				best = i;
		if (best < n) {
			log[best].len = u->len;
			log[best].vacates = u->part = true;
		}
	}
}
