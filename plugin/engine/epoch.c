/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Layout messages are collected until a settled moment and then put in order.
 *
 * Threads that change one address space at once send their messages after they
 * have let go of its lock, so the messages may be read in another order than
 * the changes were made: munmap(X) in one thread, mremap onto X in another, and
 * the REMAP is read first. At a settled moment all messages of all changes made
 * so far have been read; only then does it pay to ask for the order. Until then
 * the engine leaves alone what the messages name (log.c).
 *
 * The order is that of reading, except where that cannot have been: nothing can
 * be moved onto a place that is not free, nor from one where nothing is. Then
 * later messages that make it possible are drawn before, as few as possible,
 * and the kernel is asked which places are registered in the end.
 *
 * The children in a log belong to the caller, as all spaces.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "engine/internal.h"

#define SEARCH_MAX 20000 /* changes tried, a microsecond or two each; in a long log longer, and they count more */

#define COST_OCCUPIED 80 /* moved onto something */
#define COST_GHOST 5	  /* onto what may not be there at all */
#define COST_NOTHING 30	  /* moved from nothing that we know of; or from what has grown, which no message tells */
#define COST_VACATED 60	  /* moved or unmapped, where a message before has left nothing: it had to grow since */
#define COST_HOLE 90	  /* the same, and nothing is in front that can have grown */
#define COST_LATER 1	  /* a later message is about the same: is it older? */
#define COST_LATE 8	  /* was read late, after what came later */
#define COST_DEEP 8	  /* and what had come to its place meanwhile had been taken away again */
#define COST_KERNEL 100	  /* the kernel has something where nothing should be, or nothing */
#define COST_GROWN 10	  /* ... but it is one mapping with what is in front: that has grown there */
#define COST_REGROWN 5	  /* ... and that was moved there, has given a part away, and has grown again */
#define COST_JOINED 40	  /* moved there, but one mapping with what is in front: only what comes home may merge */

int apply_msg(struct lp_pool *pool, struct lp_view *v, const struct lp_msg *m)
{
	if (m->part)
		return 0;
	switch (m->kind) {
	case MSG_REMAP:
		return view_remap(pool, v, m->from, m->to, m->len, m->vacates);
	case MSG_UNMAP:
		return view_unmap(pool, v, m->from, m->from + m->len);
	case MSG_REMOVE:
		return lp_map_cut(pool, &v->missing, m->from, m->from + m->len, NULL);
	case MSG_FORK:
		break;
	}
	return 0;
}

unsigned msg_violation(const struct lp_view *v, const struct lp_msg *m)
{
	unsigned cost = 0;

	if (m->kind != MSG_REMAP)
		return 0;
	if (lp_map_overlaps(&v->extents, m->to, m->to + m->len))
		cost += m->ghosts ? COST_GHOST : COST_OCCUPIED;
	if (!m->grown && !lp_map_overlaps(&v->extents, m->from, m->from + m->len))
		cost += COST_NOTHING;
	return cost;
}

/* Pages at which the kernel can tell whether @m was before. At most LP_POINTS, into @at. */
unsigned msg_points(const struct lp_space *s, const struct lp_msg *m, uint64_t *at)
{
	uint64_t page = s->engine->page, pos = m->from, end = m->from + m->len;
	struct lp_range r;
	unsigned n = 0;
	size_t i;

	if (m->kind == MSG_REMAP) {
		at[n++] = m->from;
		at[n++] = end - page;
		at[n++] = m->to;
		at[n++] = m->to + m->len - page;
	} else if (m->kind == MSG_UNMAP) {
		for (; n < LP_POINTS / 2 && lp_map_next(&s->v.extents, pos, &r) && r.start < end; pos = r.end) {
			at[n++] = r.start > m->from ? r.start : m->from;
			at[n++] = (r.end < end ? r.end : end) - page;
		}
		for (i = 0; i < s->nlog && n + 2 <= LP_POINTS; i++) {
			const struct lp_msg *o = &s->log[i];

			if (o->kind != MSG_REMAP || !overlap(o->to, o->len, m->from, m->len))
				continue;
			at[n++] = o->to > m->from ? o->to : m->from;
			at[n++] = (o->to + o->len < end ? o->to + o->len : end) - page;
		}
	}
	return n;
}

int fact_ask(const struct lp_space *s, uint64_t addr, struct lp_fact *facts, size_t *n)
{
	size_t i;
	int rc;

	for (i = 0; i < *n; i++)
		if (facts[i].addr == addr && !facts[i].len)
			return 0;
	rc = s->engine->there ? s->engine->there(s->host, addr, s->engine->page) : -EAGAIN;
	if (rc >= 0)
		facts[(*n)++] = (struct lp_fact){ .addr = addr, .there = rc != 0 };
	return rc < 0 ? rc : 0;
}

/* ---- The order ------------------------------------------------------------- */

struct plan {
	struct lp_space *s;
	bool force, asked;
	size_t n; /* of the log */
	unsigned nodes, node, best_cost; /* node: what one counts */
	uint16_t *seq, *best; /* messages in order */
	size_t nbest;
	bool *done, *twice; /* of the log; see moves_on_twice() */
	struct lp_view best_view;
	struct lp_fact *facts;
	size_t nfacts;
	struct span {
		uint64_t start, end;
		bool one; /* mapping has all of it */
	} *spans; /* as asked so far */
	size_t nspans, max_spans;
};

/* Does @x make room for @m, or bring what it needs? */
static bool enables(const struct lp_msg *x, const struct lp_msg *m)
{
	if (m->kind != MSG_REMAP && m->kind != MSG_UNMAP)
		return false;
	if (x->kind == MSG_UNMAP)
		return m->kind == MSG_REMAP && overlap(x->from, x->len, m->to, m->len);
	if (x->kind != MSG_REMAP)
		return false;
	if (m->kind == MSG_UNMAP && overlap(x->from, x->len, m->from, m->len))
		return true;
	if (m->kind == MSG_REMAP && x->vacates && overlap(x->from, x->len, m->to, m->len))
		return true;
	return overlap(x->to, x->len, m->from, m->len);
}

/* Does it count when a later message is drawn before @i? */
static bool overtaken(const struct plan *p, size_t i)
{
	return !p->done[i] && !p->s->log[i].part && p->s->log[i].kind != MSG_FORK;
}

/* All that may have to be drawn before message @i, directly or not, and is not too late for that at @cost. */
static void find_enablers(const struct plan *p, size_t i, unsigned cost, bool *en)
{
	const struct lp_msg *log = p->s->log;
	bool more = true;
	size_t x, y, end;

	memset(en, 0, p->n);
	for (end = i; end < p->n && cost < p->best_cost; end++) /* at least 1 for each that it overtakes */
		cost += overtaken(p, end);
	while (more) {
		more = false;
		for (x = i + 1; x < end; x++) {
			if (p->done[x] || en[x] || log[x].part)
				continue;
			for (y = i; y < end && !en[x]; y++)
				if ((y == i || en[y]) && y != x && enables(&log[x], &log[y]))
					en[x] = more = true;
		}
	}
}

/*
 * What @i moves to its place, a message that was read later seems to unmap or
 * to move on; or to move away what @i unmaps. Was that older?
 */
static unsigned doubtful_later(const struct plan *p, size_t i)
{
	const struct lp_msg *log = p->s->log;
	size_t x;

	for (x = i + 1; log[i].kind == MSG_UNMAP && x < p->n; x++)
		if (log[x].kind == MSG_REMAP && !p->done[x] && overlap(log[x].from, log[x].len, log[i].from, log[i].len))
			return COST_LATER;

	for (x = i + 1; log[i].kind == MSG_REMAP && x < p->n; x++)
		if (!p->done[x] && !log[x].part && enables(&log[x], &log[i]) &&
		    (log[x].kind == MSG_UNMAP || overlap(log[x].from, log[x].len, log[i].to, log[i].len)))
			return COST_LATER;
	return 0;
}

/*
 * Two later messages move the same part of what @i moves to its place on, and
 * nothing comes there in between. Was one of them older than @i, and moved what
 * was there before?
 */
static bool moves_on_twice(const struct plan *p, size_t i)
{
	const struct lp_msg *log = p->s->log, *m = &log[i], *x, *y;

	for (x = m + 1; m->kind == MSG_REMAP && x < log + p->n; x++) {
		if (x->kind != MSG_REMAP)
			continue;
		if (overlap(x->to, x->len, m->to, m->len))
			break;
		if (!x->vacates || !overlap(x->from, x->len, m->to, m->len))
			continue;
		for (y = x + 1; y < log + p->n; y++) {
			if (y->kind != MSG_REMAP)
				continue;
			if (overlap(y->from, y->len, x->from, x->len) && overlap(y->from, y->len, m->to, m->len))
				return true;
			if (overlap(y->to, y->len, m->to, m->len))
				break;
		}
	}
	return false;
}

/*
 * If @x is older than what was read before it, has something come to the place
 * that @x left, and been taken away from there again, both read before @x? Then
 * its message was late for two rounds. It is likelier that @x came last and took
 * away what had come there, and that those who had made room were a little late.
 */
static bool deep(const struct plan *p, size_t x)
{
	const struct lp_msg *log = p->s->log, *l = &log[x], *m, *n;

	for (m = log; m < l; m++) {
		if (m->kind != MSG_REMAP || p->done[m - log] || !overlap(m->to, m->len, l->from, l->len))
			continue;
		for (n = m + 1; n < l; n++)
			if ((n->kind == MSG_REMAP || n->kind == MSG_UNMAP) && !n->part && !p->done[n - log] &&
			    overlap(n->from, n->len, m->to, m->len) && overlap(n->from, n->len, l->from, l->len))
				return true;
	}
	return false;
}

/*
 * Is UNMAP @x the rest of what the last of the @nseq messages in p->seq has moved
 * away, which shrank? The new place cannot have been in the old one, of which
 * the rest is a part.
 */
static bool tail_of_last(const struct plan *p, size_t x, size_t nseq)
{
	const struct lp_msg *l = &p->s->log[x], *m = nseq ? &p->s->log[p->seq[nseq - 1]] : NULL;

	return m && m < l && l->kind == MSG_UNMAP && m->kind == MSG_REMAP && m->vacates && l->from == m->from + m->len &&
	       !overlap(m->to, m->len, l->from, l->len);
}

/* How unlikely is it that @x comes before what was read earlier, after the @nseq messages in p->seq? */
static unsigned lateness(const struct plan *p, size_t x, size_t nseq)
{
	const struct lp_msg *log = p->s->log;
	unsigned n = tail_of_last(p, x, nseq) ? 0 : COST_LATE; /* one change, several messages */
	size_t i;

	/* With MREMAP_FIXED the place is unmapped first: one change, two messages. */
	for (i = x + 1; log[x].kind == MSG_UNMAP && i < p->n; i++)
		if (log[i].kind == MSG_REMAP && !p->done[i] && log[i].to == log[x].from && log[i].len == log[x].len)
			n = 0;

	for (i = 0; i < x; i++)
		n += overtaken(p, i);
	return n + (deep(p, x) ? COST_DEEP : 0);
}

static int ask_kernel(struct plan *p)
{
	uint64_t at[LP_POINTS];
	unsigned k, n;
	size_t i;
	int rc;

	p->asked = true;
	p->facts = malloc((p->n * LP_POINTS + 1) * sizeof(*p->facts));
	p->max_spans = p->n * 2 * (LP_POINTS + 1) + 64;
	p->spans = malloc(p->max_spans * sizeof(*p->spans));
	if (!p->facts || !p->spans)
		return -ENOMEM;
	for (i = 0; !p->force && i < p->n; i++) { /* forced: it may be dead by now, or changing */
		n = msg_points(p->s, &p->s->log[i], at);
		for (k = 0; k < n; k++) {
			rc = fact_ask(p->s, at[k], p->facts, &p->nfacts);
			if (rc && !p->force && p->s->engine->there)
				return rc;
		}
	}
	return 0;
}

/* Does one mapping have all of [start, end)? 0, 1 or -EAGAIN. */
static int one_mapping(struct plan *p, uint64_t start, uint64_t end)
{
	size_t i;
	int rc;

	for (i = 0; i < p->nspans; i++)
		if (p->spans[i].start == start && p->spans[i].end == end)
			return p->spans[i].one;
	rc = p->s->engine->there(p->s->host, start, end - start);
	if (rc >= 0 && p->nspans < p->max_spans)
		p->spans[p->nspans++] = (struct span){ start, end, rc != 0 };
	return rc;
}

/* The last page of @v in front of @addr. */
static bool front_of(const struct plan *p, const struct lp_view *v, uint64_t addr, uint64_t *front)
{
	struct lp_range r;

	if (!lp_map_prev(&v->extents, addr, &r))
		return false;
	*front = (r.end < addr ? r.end : addr) - p->s->engine->page;
	return true;
}

/* The kernel has @addr, @v does not. Has the mapping in front grown there, over what was moved there? */
static int grown_over(struct plan *p, const struct lp_view *v, uint64_t addr)
{
	uint64_t page = p->s->engine->page, front;
	size_t i;

	for (i = 0; i < p->n; i++) {
		const struct lp_msg *m = &p->s->log[i];

		if (m->kind == MSG_REMAP && addr - m->to < m->len)
			return front_of(p, v, m->to, &front) ? one_mapping(p, front, addr + page) : 0;
	}
	return 0;
}

/*
 * The kernel has @addr, @v does not. Was it a later part of something that one of
 * the @nseq messages in p->seq has moved there, which has given it away since (so
 * was it read, too), and has grown again? That it was taken away before all of it
 * came there, and that message was read late, looks the same. *by: the message
 * that has taken it away.
 */
static int regrown(struct plan *p, const struct lp_view *v, size_t nseq, uint64_t addr, const struct lp_msg **by)
{
	const struct lp_msg *log = p->s->log, *x = NULL;
	uint64_t page = p->s->engine->page;
	struct lp_range r;

	while (nseq) {
		const struct lp_msg *m = &log[p->seq[--nseq]];

		if (((m->kind == MSG_REMAP && m->vacates) || (m->kind == MSG_UNMAP && !m->part)) &&
		    addr - m->from < m->len)
			x = *by = m;
		if (m->kind != MSG_REMAP || addr - m->to >= m->len)
			continue;
		return x > m && x->from > m->to && x->from + x->len <= m->to + m->len &&
				       lp_map_find(&v->extents, x->from - page, &r) ?
			       one_mapping(p, x->from - page, addr + page) : 0;
	}
	return 0;
}

/* Is what REMAP @i has moved still at the beginning of its new place, after the @nseq messages in p->seq? */
static bool still_there(const struct plan *p, size_t i, size_t nseq)
{
	const struct lp_msg *log = p->s->log;
	uint64_t page = p->s->engine->page;

	while (nseq && p->seq[nseq - 1] != i) {
		const struct lp_msg *x = &log[p->seq[--nseq]];

		if ((x->kind == MSG_UNMAP || x->vacates) && overlap(x->from, x->len, log[i].to, page))
			return false;
	}
	return nseq != 0;
}

/*
 * What the kernel says against an order that leads to @v. Where something was
 * moved to and, as a message that was read later says, unmapped, that may be
 * older; then what was moved there is a mapping of its own. Or else the mapping
 * in front has grown into the hole: no message tells that, but it is one with
 * what is there now.
 */
static int answers_against(struct plan *p, const struct lp_view *v, size_t nseq, unsigned *cost)
{
	const struct lp_msg *log = p->s->log, *by = NULL, *last = NULL;
	uint64_t page = p->s->engine->page, front;
	struct lp_range r;
	size_t i, x;
	bool again;
	int rc;

	for (i = 0; i < p->nfacts; i++) {
		const struct lp_fact *f = &p->facts[i];

		if (f->there == lp_map_find(&v->extents, f->addr, &r))
			continue;
		rc = f->there ? regrown(p, v, nseq, f->addr, &by) : 0;
		again = rc > 0;
		/* Asked about in several places, grown once. */
		if (again && by == last)
			continue;
		last = again ? by : NULL;
		if (f->there && !rc)
			rc = grown_over(p, v, f->addr);
		if (rc < 0)
			return rc;
		*cost += again ? COST_REGROWN : rc ? COST_GROWN : COST_KERNEL;
	}
	for (i = 0; i < p->n && p->nfacts; i++) {
		for (x = i + 1; log[i].kind == MSG_REMAP && x < p->n; x++)
			if (log[x].kind == MSG_UNMAP && !log[x].part && overlap(log[x].from, log[x].len, log[i].to, page))
				break;
		if (log[i].kind != MSG_REMAP || x >= p->n || !still_there(p, i, nseq) ||
		    !front_of(p, v, log[i].to, &front))
			continue;
		rc = one_mapping(p, front, log[i].to + page);
		if (rc < 0)
			return rc;
		if (rc)
			*cost += COST_JOINED;
	}
	return 0;
}

/* An order is found; @v is what it leads to. */
static int found(struct plan *p, const struct lp_view *v, size_t nseq, unsigned cost)
{
	int rc;

	if (cost) { /* not simply that of reading */
		rc = p->asked ? 0 : ask_kernel(p);
		if (!rc)
			rc = answers_against(p, v, nseq, &cost);
		if (rc)
			return rc;
	}
	if (cost >= p->best_cost)
		return 0;
	p->best_cost = cost;
	p->nbest = nseq;
	memcpy(p->best, p->seq, nseq * sizeof(*p->seq));
	view_clear(&p->s->engine->pool, &p->best_view);
	view_clone(&p->best_view, v);
	return 0;
}

/* The REMAP with MREMAP_FIXED that UNMAP @x seems to be the beginning of, or the end of the log. */
static size_t fixed_pair(const struct plan *p, size_t x)
{
	const struct lp_msg *log = p->s->log;
	size_t i;

	for (i = x + 1; log[x].kind == MSG_UNMAP && i < p->n; i++)
		if (log[i].kind == MSG_REMAP && !p->done[i] && log[i].to == log[x].from && log[i].len == log[x].len)
			return i;
	return p->n;
}

/* One of the @n messages before took away a part of what UNMAP @m names, but was read later; not all has come back since. */
static bool takes_part_before(const struct plan *p, const struct lp_view *v, size_t n, const struct lp_msg *m)
{
	struct lp_range r;
	size_t i;

	for (i = 0; i < n; i++) {
		const struct lp_msg *x = &p->s->log[p->seq[i]];
		uint64_t start = x->from > m->from ? x->from : m->from;
		uint64_t end = x->from + x->len < m->from + m->len ? x->from + x->len : m->from + m->len;

		if (x > m && (x->kind == MSG_UNMAP || x->vacates) && start < end &&
		    (!lp_map_find(&v->extents, start, &r) || r.end < end))
			return true;
	}
	return false;
}

/*
 * The kernel moves one mapping as a whole, and UNMAP tells of something that
 * was registered. So where @m takes something away that is not in @v, it has
 * grown, which no message tells. Since one of the @n messages before has taken
 * away what was there? That is unlikely; more so when nothing is in front of the
 * hole that can have grown into it. How unlikely?
 */
static unsigned from_vacated(const struct plan *p, const struct lp_view *v, size_t n, const struct lp_msg *m)
{
	uint64_t page = p->s->engine->page, pos = m->from, end = m->from + m->len;
	struct lp_range r, front;
	size_t i;

	/* That is enough, unless the rest was taken away by what was read later. */
	if (m->kind == MSG_UNMAP && lp_map_overlaps(&v->extents, pos, end))
		return takes_part_before(p, v, n, m) ? COST_VACATED : 0;
	for (; pos < end; pos = r.end) {
		if (!lp_map_next(&v->extents, pos, &r) || r.start >= end)
			r.start = r.end = end;
		for (i = 0; pos < r.start && i < n; i++) {
			const struct lp_msg *x = &p->s->log[p->seq[i]];

			if (x->kind != MSG_UNMAP && !x->vacates)
				continue;
			if (m->kind == MSG_UNMAP ? x->from <= pos && x->from + x->len >= end :
						   overlap(x->from, x->len, pos, r.start - pos))
				return (lp_map_prev(&v->extents, pos + page, &front) && front.end >= x->from) ||
						       lp_map_find(&p->s->v.extents, x->from - page, &front) ?
					       COST_VACATED :
					       COST_HOLE;
		}
	}
	return 0;
}

/*
 * One of the @n messages in p->seq was read after REMAP @m but drawn before, and
 * has moved something into the middle of what @m moves, or to its end. But that is one
 * mapping, and what is moved somewhere is one of its own, unless it comes home.
 */
static bool across(const struct plan *p, size_t n, const struct lp_msg *m)
{
	const struct lp_msg *log = p->s->log;
	size_t i, k;

	for (i = 0; i < n; i++) {
		const struct lp_msg *x = &log[p->seq[i]], *y;

		if (x < m || x->kind != MSG_REMAP || x->to <= m->from || !overlap(x->to, x->len, m->from, m->len) ||
		    !still_there(p, p->seq[i], n))
			continue;
		for (k = 0; k < i; k++) {
			y = &log[p->seq[k]];
			if (y->kind == MSG_REMAP && overlap(y->from, y->len, x->to, x->len) &&
			    overlap(y->to, y->len, x->from, x->len))
				break;
		}
		if (k == i)
			return true;
	}
	return false;
}

/* As msg_violation(), after the @n messages in p->seq, which have led to @v. */
static unsigned violation(const struct plan *p, const struct lp_view *v, size_t n, const struct lp_msg *m)
{
	unsigned cost = msg_violation(v, m), hole = 0;

	if (m->kind == MSG_REMAP || m->kind == MSG_UNMAP)
		hole = from_vacated(p, v, n, m);
	if (m->kind == MSG_REMAP && across(p, n, m))
		hole += COST_JOINED;
	return cost > hole ? cost : hole;
}

/* From @v on, which @nseq messages have led to at @cost. Consumes @v. @pair: what must follow an UNMAP drawn before. */
static int search(struct plan *p, struct lp_view *v, size_t nseq, unsigned cost, size_t pair)
{
	const struct lp_msg *log = p->s->log;
	struct lp_pool *pool = &p->s->engine->pool;
	size_t first = nseq, i = 0, x;
	bool en[LOG_MAX], look;
	unsigned bad;
	int rc = 0;

	while (!rc) {
		while (i < p->n && (p->done[i] || log[i].part || log[i].kind == MSG_FORK))
			i++;
		if (i == p->n) {
			rc = found(p, v, nseq, cost);
			break;
		}
		bad = violation(p, v, nseq, &log[i]) + doubtful_later(p, i);
		look = p->nodes < SEARCH_MAX && (bad || (p->twice[i] && cost + COST_LATE < p->best_cost));
		if (look)
			find_enablers(p, i, cost, en);
		for (x = i + 1; look && !rc && x < p->n && p->nodes < SEARCH_MAX; x++) {
			struct lp_view w;
			unsigned c;

			if (!en[x])
				continue;
			c = cost + lateness(p, x, nseq) + violation(p, v, nseq, &log[x]);
			if (pair < p->n && x != pair)
				c += COST_LATE;
			if (c >= p->best_cost)
				continue;
			p->nodes += p->node;
			view_clone(&w, v);
			rc = apply_msg(pool, &w, &log[x]);
			p->done[x] = true;
			p->seq[nseq] = x;
			if (!rc)
				rc = search(p, &w, nseq + 1, c, fixed_pair(p, x));
			else
				view_clear(pool, &w);
			p->done[x] = false;
		}
		cost += bad;
		if (pair < p->n && i != pair)
			cost += COST_LATE;
		pair = p->n;
		if (rc || cost >= p->best_cost)
			break;
		p->nodes += p->node;
		rc = apply_msg(pool, v, &log[i]);
		p->done[i] = true;
		p->seq[nseq++] = i;
	}
	while (nseq > first)
		p->done[p->seq[--nseq]] = false;
	view_clear(pool, v);
	return rc;
}

/* What the space had at the last settled moment, with what is claimed: a child misses that, too. */
static int base_view(struct lp_space *s, struct lp_view *v)
{
	const struct lp_flight *f;
	uint32_t i;
	int rc = 0;

	view_clone(v, &s->v);
	for (f = s->flights; f && !rc; f = f->next) {
		for (i = f->head; i < f->n && !rc; i++) {
			const struct lp_piece *p = &f->pieces[i];
			struct lp_range r = { p->addr, p->addr + p->len, p->img, p->obj };

			rc = lp_map_insert(&s->engine->pool, &v->missing, &r);
		}
	}
	if (rc)
		view_clear(&s->engine->pool, v);
	return rc;
}

static int order(struct plan *p, const struct lp_view *base)
{
	struct lp_view v;
	size_t i;
	int rc;

	/* That of reading first: nothing is looked at that is less likely. */
	p->nodes = SEARCH_MAX;
	view_clone(&v, base);
	rc = search(p, &v, 0, 0, p->n);
	if (rc || !p->best_cost)
		return rc;
	for (i = 0; p->best_cost >= COST_VACATED && i < p->n; i++)
		p->twice[i] = moves_on_twice(p, i);
	p->nodes = 0;
	view_clone(&v, base);
	return search(p, &v, 0, 0, p->n);
}

/* Even in this order these moved from nothing: then it had grown, and that says nothing about children. */
static int find_grown(struct plan *p, const struct lp_view *base)
{
	struct lp_pool *pool = &p->s->engine->pool;
	struct lp_view v;
	size_t i;
	int rc = 0;

	view_clone(&v, base);
	for (i = 0; i < p->nbest && !rc; i++) {
		struct lp_msg *m = &p->s->log[p->best[i]];

		m->grown = m->kind == MSG_REMAP && !lp_map_overlaps(&v.extents, m->from, m->from + m->len);
		rc = apply_msg(pool, &v, m);
	}
	view_clear(pool, &v);
	return rc;
}

/* ---- The settled moment ---------------------------------------------------- */

/* Everything that an order leads to is known: nothing can fail any more. */
static void commit(struct lp_space *s, struct lp_view *v, bool booked)
{
	size_t i;

	view_clear(&s->engine->pool, &s->v);
	s->v = *v;
	for (i = 0; i < s->nlog; i++) {
		const struct lp_msg *m = &s->log[i];

		if (m->kind == MSG_FORK && m->child) {
			if (booked) /* what it has is known */
				m->child->due = false;
			young_leave(m->child);
		} else if (m->kind != MSG_FORK) {
			waiters_wake(s, m->from, m->from + m->len);
		}
		if (m->kind == MSG_REMAP) /* who faulted there before the message was read */
			waiters_wake(s, m->to, m->to + m->len);
	}
	book_guards_wake(s);
	/*
	 * MREMAP_DONTUNMAP takes the anon_vma from the old place: one page of it at
	 * once, see prime() in handoff.c. Without memory for that nothing is lost.
	 */
	for (i = 0; i < s->nlog; i++)
		if (s->log[i].kind == MSG_REMAP && !s->log[i].vacates)
			lp_space_defer(s, s->log[i].from);
	s->nlog = 0;
	s->forked = false;
	lp_map_clear(&s->engine->pool, &s->named);
}

/* The log in the likeliest order, into p->best_view and the children's views. */
static int guess(struct plan *p, const struct lp_view *base, const struct lp_view *claimed)
{
	struct lp_space *s = p->s;
	size_t i;
	int rc;

	log_pair(s->log, p->n, s->due, s->engine->old_shrink);
	rc = order(p, base);
	if (!rc)
		rc = find_grown(p, base);
	for (i = 0; i < p->n && !rc; i++)
		if (s->log[i].kind == MSG_FORK && s->log[i].child)
			rc = young_choose(s, i, claimed, p->best, p->nbest);
	return rc;
}

int epoch_end(struct lp_space *s, bool force)
{
	struct lp_pool *pool = &s->engine->pool;
	struct plan p = { .s = s, .force = force, .n = s->nlog, .node = 1 + s->nlog / 16,
			  .best_cost = UINT_MAX };
	struct lp_view base = { .extents.root = NULL }, claimed = { .extents.root = NULL };
	bool booked = false;
	size_t i;
	int rc;

	p.seq = malloc(2 * p.n * sizeof(*p.seq) + 2 * p.n + 1); /* no message at all: a due child */
	if (!p.seq)
		return -ENOMEM;
	p.best = p.seq + p.n;
	p.done = (bool *)(p.best + p.n);
	p.twice = p.done + p.n;
	memset(p.done, 0, 2 * p.n);
	rc = waiters_reserve(s);
	/* What is claimed no message has named: it stays where it is. */
	view_clone(&base, &s->v);
	if (!rc && s->forked)
		rc = base_view(s, &claimed);
	if (!rc)
		rc = book_explain(s, &base, &claimed, &p.best_view, &booked);
	if (!rc && !booked)
		rc = guess(&p, &base, &claimed);
	if (!rc && !booked && s->guarded)
		rc = book_guess_guards(s, p.best, p.nbest, &base, &p.best_view);
	if (!rc && s->due && !force)
		rc = young_catch_up(s, &p.best_view);
	if (!rc) {
		if (p.n)
			*(booked ? &s->engine->booked : &s->engine->guessed) += 1;
		commit(s, &p.best_view, booked);
		s->vague |= !booked && s->book_name;
		book_close(s);
		s->book_lost = force && s->book_name; /* what is entered from now on may be of messages from before */
		if (!force)
			s->due = false;
	} else {
		/* As if it had not been tried: who is given the same messages later (a new worker) must ask the same. */
		log_unpair(s->log, p.n);
		view_clear(pool, &p.best_view);
		for (i = 0; i < p.n; i++)
			if (s->log[i].kind == MSG_FORK && s->log[i].child)
				view_clear(pool, &s->log[i].child->v);
	}
	view_clear(pool, &base);
	view_clear(pool, &claimed);
	free(p.facts);
	free(p.spans);
	free(p.seq);
	return rc;
}

bool lp_space_unsettled(const struct lp_space *s)
{
	return in_epoch(s) && !s->parent && !s->broken;
}

int lp_space_settled(struct lp_space *s)
{
	return lp_space_unsettled(s) || lp_space_booked(s) ? epoch_end(s, false) : 0;
}
