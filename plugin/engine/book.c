/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The book: changes of an address space in the order in which the kernel made
 * them, entered by a host that can watch it. What a change does follows from
 * mremap() and its like; which messages it sends, too. So the log is gone through
 * with the book in hand: each change takes the messages that are its own. If all
 * of them find their change, the order is known, and with it what children have.
 *
 * A change of which no message was read has changed nothing that was registered
 * (or was refused): all its messages have been read at a settled moment. Only
 * growth in place and guard pages send none at all.
 *
 * A space owns its book.
 */
#include <errno.h>
#include <stdlib.h>

#include "engine/internal.h"

/* Changes without a settled moment, at most: far more than the log can hold. */
#define BOOK_MAX 4096

void lp_space_book(struct lp_space *s, uint64_t name)
{
	size_t i;

	s->book_name = s->dead ? 0 : name;
	/* There, too, since the child may end before its parent is settled. */
	for (i = 0; s->parent && i < s->parent->nlog; i++)
		if (s->parent->log[i].child == s)
			s->parent->log[i].call = name;
}

void book_close(struct lp_space *s)
{
	s->nbook = 0;
	s->book_lost = s->guarded = false;
}

void lp_space_book_lost(struct lp_space *s)
{
	size_t i, n = 0;

	/* Of these there is nothing else. */
	for (i = 0; i < s->nbook; i++)
		if (s->book[i].kind == LP_CHANGE_GUARD)
			s->book[n++] = s->book[i];
	s->nbook = n;
	s->book_lost = s->vague = s->book_name != 0;
}

bool lp_space_booked(const struct lp_space *s)
{
	return (s->nbook || s->book_lost) && !s->parent && !s->broken && !s->dead;
}

void lp_space_call(struct lp_space *s, uint64_t number)
{
	s->call = number;
}

bool book_touches(const struct lp_space *s, uint64_t start, uint64_t end)
{
	uint64_t len = end - start;
	size_t i;

	for (i = 0; i < s->nbook; i++) {
		const struct lp_change *c = &s->book[i];

		if (c->kind == LP_CHANGE_FORK || overlap(c->from, c->len, start, len))
			return true;
		if (c->kind == LP_CHANGE_REMAP &&
		    (overlap(c->from, c->to_len, start, len) || !(c->flags & (LP_REMAP_FIXED | LP_REMAP_AREA)) ||
		     overlap(c->to, c->to_len + LP_REMAP_ALIGN, start, len)))
			return true;
	}
	return false;
}

/* Nothing that was entered or read waits for a settled moment. */
static bool at_rest(const struct lp_space *s)
{
	return !s->nlog && !s->nbook && !s->parent && !s->due;
}

bool lp_space_concerned(const struct lp_space *s, const struct lp_change *c)
{
	const struct lp_map *ext = &s->v.extents;

	if (!s->book_name || s->dead || s->broken)
		return false;
	if (c->kind == LP_CHANGE_GUARD)
		return !at_rest(s) || s->book_lost || s->nflights || lp_map_overlaps(&s->v.missing, c->from, c->from + c->len);
	if (s->book_lost)
		return false;
	if (!at_rest(s) || (s->vague && c->kind != LP_CHANGE_REMOVE))
		return true;
	if (c->kind == LP_CHANGE_REMOVE)
		return false;
	if (c->kind == LP_CHANGE_FORK)
		return true;
	return lp_map_overlaps(ext, c->from, c->from + c->len) ||
	       (c->kind == LP_CHANGE_REMAP && c->flags & LP_REMAP_FIXED && lp_map_overlaps(ext, c->to, c->to + c->to_len));
}

/* ---- What children lack ------------------------------------------------------ */

/* @c: one of the four kinds of madvise(). Only where something is registered. */
static int mark(struct lp_pool *pool, struct lp_view *v, const struct lp_change *c)
{
	uint64_t pos = c->from, end = c->from + c->len;
	uint32_t what = c->kind == LP_CHANGE_DONTFORK || c->kind == LP_CHANGE_DOFORK ? DONTFORK : WIPED;
	bool on = c->kind == LP_CHANGE_DONTFORK || c->kind == LP_CHANGE_WIPE;
	struct lp_range e;
	int rc = 0;

	for (; !rc && lp_map_next(&v->extents, pos, &e) && e.start < end; pos = e.end)
		rc = view_mark(pool, v, e.start > c->from ? e.start : c->from, e.end < end ? e.end : end, on ? what : 0,
			       on ? 0 : what);
	return rc;
}

static bool marks(const struct lp_change *c)
{
	return c->kind >= LP_CHANGE_DONTFORK && c->kind <= LP_CHANGE_KEEP;
}

/* Grown in place for certain. */
static bool grows(const struct lp_change *c)
{
	unsigned flags = c->flags & LP_REMAP_AREA && !c->to ? c->flags & ~(LP_REMAP_AREA | LP_REMAP_MAYMOVE) : c->flags;

	return c->kind == LP_CHANGE_REMAP && flags == LP_REMAP_GREW && c->to_len > c->len;
}

/* On a copy: one that fails must leave everything as it was. */
static int at_once(struct lp_space *s, const struct lp_change *c)
{
	struct lp_pool *pool = &s->engine->pool;
	struct lp_view v;
	int rc;

	view_clone(&v, &s->v);
	rc = grows(c) ? view_grow(pool, &v, c->from + c->len, c->from + c->to_len) : mark(pool, &v, c);
	if (rc) {
		view_clear(pool, &v);
		return rc;
	}
	view_clear(pool, &s->v);
	s->v = v;
	return 0;
}

static int append(struct lp_space *s, const struct lp_change *c)
{
	size_t cap = s->cap_book ? 2 * s->cap_book : 16;
	struct lp_change *book;

	if (s->nbook == s->cap_book) {
		book = realloc(s->book, cap * sizeof(*book));
		if (!book)
			return -ENOMEM;
		s->book = book;
		s->cap_book = cap;
	}
	s->book[s->nbook++] = *c;
	return 0;
}

/* However many there are: what one has taken away must not be filled. */
static int guard(struct lp_space *s, const struct lp_change *c)
{
	struct lp_change *last = s->nbook ? &s->book[s->nbook - 1] : NULL;
	uint64_t end = c->from + c->len;
	int rc = 0;

	if (at_rest(s) && !s->book_lost)
		return lp_space_remove(s, c->from, end);
	if (lp_pool_reserve(&s->engine->pool, flights_count(s, c->from, end)) || flights_reserve(s))
		return -ENOMEM;
	if (!last || last->kind != LP_CHANGE_GUARD || last->to != s->nlog || c->from - last->from > last->len)
		rc = append(s, &(struct lp_change){ c->kind, 0, c->from, c->len, s->nlog, 0 });
	else if (end > last->from + last->len)
		last->len = end - last->from;
	if (rc)
		return rc;
	s->guarded = true;
	/* As what a message names, see log_add(). */
	flights_return(s, c->from, end);
	return 0;
}

int lp_space_changed(struct lp_space *s, const struct lp_change *c)
{
	if (!lp_space_concerned(s, c))
		return 0;
	if (c->kind == LP_CHANGE_GUARD)
		return guard(s, c);
	if (at_rest(s) && (marks(c) || grows(c)))
		return at_once(s, c);
	if (s->nbook >= BOOK_MAX || append(s, c))
		lp_space_book_lost(s); /* nothing else is */
	return 0;
}

/* ---- Going through it ---------------------------------------------------------- */

struct reading {
	struct lp_space *s;
	struct lp_view v; /* of the space */
	struct lp_view w; /* with what was in flight: what children inherit. If there is a FORK in the log */
	bool *taken;	  /* of the log */
	size_t next;	  /* of the log: all before are taken */
	bool loose;	  /* a change may have had an effect where we know of nothing */
};

static int unmap_both(struct reading *t, uint64_t start, uint64_t end)
{
	struct lp_pool *pool = &t->s->engine->pool;
	int rc = view_unmap(pool, &t->v, start, end);

	return rc || !t->s->forked ? rc : view_unmap(pool, &t->w, start, end);
}

static int grow_both(struct reading *t, uint64_t start, uint64_t end)
{
	struct lp_pool *pool = &t->s->engine->pool;
	int rc = view_grow(pool, &t->v, start, end);

	return rc || !t->s->forked ? rc : view_grow(pool, &t->w, start, end);
}

static int remap_both(struct reading *t, uint64_t from, uint64_t to, uint64_t len, bool vacates)
{
	struct lp_pool *pool = &t->s->engine->pool;
	int rc = view_remap(pool, &t->v, from, to, len, vacates);

	return rc || !t->s->forked ? rc : view_remap(pool, &t->w, from, to, len, vacates);
}

static int mark_both(struct reading *t, const struct lp_change *c)
{
	struct lp_pool *pool = &t->s->engine->pool;
	int rc = mark(pool, &t->v, c);

	return rc || !t->s->forked ? rc : mark(pool, &t->w, c);
}

/* An UNMAP of the log that nobody has taken yet, or NULL. */
static struct lp_msg *find_unmap(const struct reading *t, uint64_t from, uint64_t len)
{
	struct lp_msg *m;
	size_t i;

	for (i = t->next; i < t->s->nlog; i++) {
		m = &t->s->log[i];
		if (!t->taken[i] && m->kind == MSG_UNMAP && m->from == from && m->len == len)
			return m;
	}
	return NULL;
}

static void take(struct reading *t, const struct lp_msg *m)
{
	t->taken[m - t->s->log] = true;
}

static int unmapping(struct reading *t, uint64_t from, uint64_t len)
{
	bool known = len && lp_map_overlaps(&t->v.extents, from, from + len);
	struct lp_msg *m;

	if (!known && !t->loose)
		return 0;
	m = find_unmap(t, from, len);
	if (m)
		take(t, m);
	/* Its messages will never be read. */
	return m || (known && t->s->ending) ? unmap_both(t, from, from + len) : 0;
}

/* REMAP of @c, the @len bytes of which were moved (after it has shrunk), and its UNMAP in @u if one belongs to it. */
static struct lp_msg *find_remap(const struct reading *t, const struct lp_change *c, uint64_t len, struct lp_msg **u)
{
	bool fixed = c->flags & LP_REMAP_FIXED;
	struct lp_msg *m, *near = NULL;
	size_t i;

	if (!fixed && c->flags & LP_REMAP_AREA && !c->to) /* it has stayed where it was */
		return *u = NULL;
	*u = c->flags & LP_REMAP_DONTUNMAP ? NULL : find_unmap(t, c->from, len);
	if (!*u && !(c->flags & LP_REMAP_DONTUNMAP) && !t->s->ending)
		return NULL;
	for (i = t->next; i < t->s->nlog; i++) {
		m = &t->s->log[i];
		/* Which length is told depends on the kernel: before 6.16 the old one. */
		if (t->taken[i] || m->kind != MSG_REMAP || m->from != c->from ||
		    (m->told != c->to_len && m->told != c->len && m->told != len))
			continue;
		if (fixed || c->flags & LP_REMAP_AREA ? m->to == c->to :
							!lp_map_overlaps(&t->v.extents, m->to, m->to + c->to_len))
			return m;
		if (!fixed && c->flags & LP_REMAP_AREA && !near && m->to - c->to < LP_REMAP_ALIGN)
			near = m;
	}
	return near;
}

/* Growing in place looks the same as moving until the message is read. May REMAP @m be of a later one than @c? */
static bool in_place(const struct reading *t, const struct lp_change *c, const struct lp_msg *m)
{
	const struct lp_change *x = c;

	if (c->flags & (LP_REMAP_FIXED | LP_REMAP_DONTUNMAP | LP_REMAP_AREA) || !(c->flags & LP_REMAP_GREW) ||
	    lp_map_overlaps(&t->v.extents, c->from + c->len, c->from + c->to_len))
		return false;
	while (++x < t->s->book + t->s->nbook)
		if (x->kind == LP_CHANGE_REMAP && x->from == c->from &&
		    (x->len < x->to_len ? x->len : x->to_len) == c->len &&
		    (!(x->flags & LP_REMAP_FIXED) || x->to == m->to))
			return true;
	return false;
}

static int remapping(struct reading *t, const struct lp_change *c)
{
	bool fixed = c->flags & LP_REMAP_FIXED, keeps = c->flags & LP_REMAP_DONTUNMAP;
	uint64_t len = c->len < c->to_len ? c->len : c->to_len, to;
	struct lp_msg *m, *u;
	int rc = 0;

	/* Onto a part of itself the kernel moves nothing; some see that late, with the lock held, so it is entered. */
	if ((fixed || c->to) && overlap(c->from, c->len, c->to, c->to_len))
		return 0;
	if (fixed)
		rc = unmapping(t, c->to, c->to_len);
	if (!rc && len < c->len)
		rc = unmapping(t, c->from + len, c->len - len);
	if (rc || (!fixed && !keeps && len == c->to_len))
		return rc;
	m = find_remap(t, c, len, &u);
	if (m && in_place(t, c, m))
		m = NULL;
	if (!m && t->s->ending && (fixed || (c->flags & LP_REMAP_AREA && c->to)) && lp_map_find(&t->v.extents, c->from, &(struct lp_range){ 0 }))
		to = c->to; /* as in unmapping() */
	else if (m)
		to = m->to;
	else if (c->flags & LP_REMAP_GREW && !fixed && !(c->flags & LP_REMAP_AREA && c->to) && lp_map_find(&t->v.extents, c->from + len - 1, &(struct lp_range){ 0 }))
		return grow_both(t, c->from + len, c->from + c->to_len);
	else
		return 0;
	if (m) {
		take(t, m);
		m->vacates = !keeps;
		m->len = len;
	}
	if (u && m) {
		take(t, u);
		u->part = true;
	}
	rc = remap_both(t, c->from, to, len, !keeps);
	return rc || len == c->to_len ? rc : grow_both(t, to + len, to + c->to_len);
}

static int forking(struct reading *t, const struct lp_change *c)
{
	struct lp_msg *log = t->s->log, *m = NULL;
	struct lp_space *child;
	size_t i;

	for (i = t->next; i < t->s->nlog; i++) {
		if (t->taken[i] || log[i].kind != MSG_FORK)
			continue;
		if (log[i].call == c->to) {
			m = &log[i];
			break;
		}
		/* It has ended so early that its book could not be begun. */
		if (!m && !log[i].call)
			m = &log[i];
	}
	if (!m)
		return 0;
	take(t, m);
	child = m->child;
	if (!child)
		return 0;
	view_clone(&child->v, &t->w);
	return view_inherit(&t->s->engine->pool, &child->v);
}

static int remove_both(struct reading *t, const struct lp_msg *m)
{
	struct lp_pool *pool = &t->s->engine->pool;
	int rc = apply_msg(pool, &t->v, m);

	take(t, m);
	return rc || !t->s->forked ? rc : apply_msg(pool, &t->w, m);
}

/* The REMOVE that was sent by @c. */
static int removing(struct reading *t, const struct lp_change *c)
{
	size_t i;

	for (i = t->next; i < t->s->nlog; i++)
		if (!t->taken[i] && t->s->log[i].kind == MSG_REMOVE && t->s->log[i].call == c->to)
			return remove_both(t, &t->s->log[i]);
	return 0;
}

static int guard_view(struct lp_pool *pool, struct lp_view *v, const struct lp_change *c)
{
	return lp_map_cut(pool, &v->missing, c->from, c->from + c->len, NULL);
}

static int guarding(struct reading *t, const struct lp_change *c)
{
	struct lp_pool *pool = &t->s->engine->pool;
	int rc = guard_view(pool, &t->v, c);

	return rc || !t->s->forked ? rc : guard_view(pool, &t->w, c);
}

/* Of those that were entered when the log had @from messages or more, but fewer than @to. */
static int guards_between(const struct lp_space *s, struct lp_view *v, size_t from, size_t to)
{
	size_t i;
	int rc = 0;

	for (i = 0; i < s->nbook && !rc; i++)
		if (s->book[i].kind == LP_CHANGE_GUARD && s->book[i].to >= from && s->book[i].to < to)
			rc = guard_view(&s->engine->pool, v, &s->book[i]);
	return rc;
}

int book_guess_guards(struct lp_space *s, const uint16_t *seq, size_t n, const struct lp_view *base, struct lp_view *out)
{
	struct lp_view v;
	size_t i, done = 0;
	int rc = 0;

	view_clone(&v, base);
	for (i = 0; i < n && !rc; i++) {
		if (seq[i] >= done) {
			rc = guards_between(s, &v, done, seq[i] + 1);
			done = seq[i] + 1;
		}
		if (!rc)
			rc = apply_msg(&s->engine->pool, &v, &s->log[seq[i]]);
	}
	if (!rc)
		rc = guards_between(s, &v, done, SIZE_MAX);
	view_clear(&s->engine->pool, rc ? &v : out);
	if (!rc)
		*out = v;
	for (i = 0; i < s->nlog && !rc; i++)
		if (s->log[i].kind == MSG_FORK && s->log[i].child)
			rc = guards_between(s, &s->log[i].child->v, 0, i + 1);
	return rc;
}

void book_guards_wake(struct lp_space *s)
{
	size_t i;

	for (i = 0; i < s->nbook; i++)
		if (s->book[i].kind == LP_CHANGE_GUARD)
			waiters_wake(s, s->book[i].from, s->book[i].from + s->book[i].len);
}

static bool in_book(const struct lp_space *s, uint64_t call)
{
	size_t i;

	for (i = 0; i < s->nbook; i++)
		if (s->book[i].kind == LP_CHANGE_REMOVE && s->book[i].to == call)
			return true;
	return false;
}

/* What was sent before anything was entered. */
static int removals_before(struct reading *t)
{
	int rc = 0;
	size_t i;

	for (i = 0; i < t->s->nlog && !rc; i++)
		if (t->s->log[i].kind == MSG_REMOVE && t->s->log[i].call && !in_book(t->s, t->s->log[i].call))
			rc = remove_both(t, &t->s->log[i]);
	return rc;
}

/*
 * The next messages that nobody has to take. The zap of a REMOVE comes after its
 * reading, hence after all changes whose messages were read before it.
 */
static int go_on(struct reading *t)
{
	int rc = 0;

	for (; !rc && t->next < t->s->nlog; t->next++) {
		const struct lp_msg *m = &t->s->log[t->next];

		if (t->taken[t->next])
			continue;
		if (m->kind != MSG_REMOVE || m->call)
			break;
		rc = remove_both(t, m);
	}
	return rc;
}

static int read_book(struct reading *t)
{
	struct lp_space *s = t->s;
	int rc = removals_before(t);
	size_t i;

	if (!rc)
		rc = go_on(t);
	for (i = 0; i < s->nbook && !rc; i++) {
		const struct lp_change *c = &s->book[i];

		if (c->kind == LP_CHANGE_UNMAP)
			rc = unmapping(t, c->from, c->len);
		else if (c->kind == LP_CHANGE_REMAP)
			rc = c->len ? remapping(t, c) : 0;
		else if (c->kind == LP_CHANGE_FORK)
			rc = forking(t, c);
		else if (c->kind == LP_CHANGE_REMOVE)
			rc = removing(t, c);
		else if (c->kind == LP_CHANGE_GUARD)
			rc = guarding(t, c);
		else
			rc = mark_both(t, c);
		if (!rc)
			rc = go_on(t);
	}
	return rc;
}

/* As if it had not been tried. */
static void forget(struct reading *t)
{
	struct lp_pool *pool = &t->s->engine->pool;
	size_t i;

	view_clear(pool, &t->v);
	view_clear(pool, &t->w);
	for (i = 0; i < t->s->nlog; i++) {
		t->taken[i] = false;
		if (t->s->log[i].kind == MSG_FORK && t->s->log[i].child)
			view_clear(pool, &t->s->log[i].child->v);
	}
	log_unpair(t->s->log, t->s->nlog);
	t->next = 0;
}

int book_explain(struct lp_space *s, const struct lp_view *base, const struct lp_view *claimed, struct lp_view *out,
		 bool *explained)
{
	struct reading t = { .s = s };
	size_t i;
	int rc = 0;

	*explained = false;
	if (!s->book_name || s->book_lost)
		return 0;
	t.taken = calloc(s->nlog + 1, sizeof(*t.taken));
	if (!t.taken)
		return -ENOMEM;
	/* First as if all that is registered were known. */
	for (i = 0; i < 2 && !rc && !*explained; i++) {
		t.loose = i;
		view_clone(&t.v, base);
		if (s->forked)
			view_clone(&t.w, claimed);
		rc = read_book(&t);
		*explained = !rc && t.next == s->nlog;
		if (!*explained)
			forget(&t);
	}
	if (*explained) {
		*out = t.v;
		view_clear(&s->engine->pool, &t.w);
	}
	free(t.taken);
	return rc;
}

void lp_engine_settlings(const struct lp_engine *e, uint64_t *booked, uint64_t *guessed)
{
	*booked = e->booked;
	*guessed = e->guessed;
}
