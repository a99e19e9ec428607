/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The replay, see replay.h. Owns its engine, a table of spaces and a table of
 * flights by their numbers, and the answers of the kernel (`there`) that wait
 * for the call which asked.
 *
 * A trace may be anybody's, and the engine trusts its host. So each record is
 * looked at first: what no daemon does (ranges that overlap, a flight that is
 * advanced beyond its head, a message of a young child) ends the replay.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "trace/replay.h"
#include "trace/words.h"

/* Beyond any address of a task; sums of two do not overflow. */
#define ADDR_MAX (UINT64_C(1) << 62)
#define PIECES_MAX 4096

struct rspace {
	struct lp_replay *p;
	struct lp_space *s;
	uint64_t id;
	bool built; /* has met more than its hand-off */
	uint64_t extents_end, missing_end, wiped_end;
};

struct answer {
	uint64_t space, start, len;
	int rc;
};

/* By numbers that the daemon gives in turn, so neither is larger than the count of records. */
struct table {
	void **at;
	size_t n;
};

struct lp_replay {
	struct lp_engine *engine;
	uint64_t page, number;
	struct table spaces, flights;
	struct answer *answers;
	size_t nanswers, cap_answers, asked;
	const char *question; /* that the daemon's engine did not ask; NULL: none */
	uint64_t q_space, q_start, q_len;
	uint64_t call, call_space; /* the number of the REMOVE that must come next, and whose it is; 0: none */
	struct lp_flight *claimed; /* its pieces are due */
	uint32_t npieces;
	struct lp_replay_stats stats;
	char *why;
	size_t why_len;
};

static int say(struct lp_replay *p, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static int say(struct lp_replay *p, int rc, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->why, p->why_len, fmt, ap);
	va_end(ap);
	return rc;
}

static int no_memory(struct lp_replay *p)
{
	return say(p, -ENOMEM, "out of memory");
}

/* ---- Tables -------------------------------------------------------------------- */

static void *table_get(const struct table *t, uint64_t id)
{
	return id < t->n ? t->at[id] : NULL;
}

static int table_set(struct table *t, uint64_t id, void *what)
{
	if (id >= t->n) {
		size_t n = id < 64 ? 128 : id * 2;
		void **at = realloc(t->at, n * sizeof(*at));

		if (!at)
			return -ENOMEM;
		memset(at + t->n, 0, (n - t->n) * sizeof(*at));
		t->at = at;
		t->n = n;
	}
	t->at[id] = what;
	return 0;
}

static int space_add(struct lp_replay *p, uint64_t id, struct rspace **out)
{
	struct rspace *rs;

	if (id > p->number)
		return say(p, -EINVAL, "space #%" PRIu64 " cannot be: only %" PRIu64 " records came before", id, p->number);
	if (table_get(&p->spaces, id))
		return say(p, -EINVAL, "space #%" PRIu64 " is there already", id);
	rs = calloc(1, sizeof(*rs));
	if (!rs || table_set(&p->spaces, id, rs)) {
		free(rs);
		return no_memory(p);
	}
	rs->p = p;
	rs->id = id;
	p->stats.spaces++;
	*out = rs;
	return 0;
}

static void space_del(struct lp_replay *p, struct rspace *rs)
{
	p->spaces.at[rs->id] = NULL;
	free(rs);
}

/* ---- Questions to the kernel ---------------------------------------------------- */

static int there(void *host, uint64_t start, uint64_t len)
{
	struct rspace *rs = host;
	struct lp_replay *p = rs->p;
	const struct answer *a = p->asked < p->nanswers ? &p->answers[p->asked] : NULL;

	if (p->question)
		return -EAGAIN;
	p->stats.compared++;
	if (a && a->space == rs->id && a->start == start && a->len == len) {
		p->asked++;
		return a->rc;
	}
	p->question = a ? "another" : "no";
	p->q_space = rs->id;
	p->q_start = start;
	p->q_len = len;
	return -EAGAIN;
}

static int note_answer(struct lp_replay *p, const struct lp_rec *r)
{
	if (p->nanswers == p->cap_answers) {
		size_t cap = p->cap_answers ? p->cap_answers * 2 : 64;
		struct answer *a = realloc(p->answers, cap * sizeof(*a));

		if (!a)
			return no_memory(p);
		p->answers = a;
		p->cap_answers = cap;
	}
	p->answers[p->nanswers++] = (struct answer){ r->v[0], r->v[1], r->v[2], (int)(int64_t)r->v[3] };
	return 0;
}

/* After a call of the engine: did it ask what it asked then? */
static int check_answers(struct lp_replay *p)
{
	size_t n = p->nanswers, asked = p->asked;
	const struct answer *a = n ? &p->answers[asked] : NULL;
	const char *question = p->question;

	p->nanswers = p->asked = 0;
	p->question = NULL;
	if (question)
		return say(p, LP_REPLAY_DIFFERS,
			   "the engine asks whether space #%" PRIu64 " has 0x%" PRIx64 " len %" PRIu64
			   "; the trace has %s question there",
			   p->q_space, p->q_start, p->q_len, question);
	if (asked < n)
		return say(p, LP_REPLAY_DIFFERS,
			   "the trace has a question whether space #%" PRIu64 " has 0x%" PRIx64 " len %" PRIu64
			   "; the engine asks none",
			   a->space, a->start, a->len);
	return 0;
}

/* ---- Comparing -------------------------------------------------------------------- */

/* The engine says @got for what is field @i of @r. */
static int same(struct lp_replay *p, const struct lp_rec *r, unsigned i, uint64_t got)
{
	const struct lp_rec_field *f = &lp_rec_info(r->type)->f[i];

	p->stats.compared++;
	if (got == r->v[i])
		return 0;
	switch (f->kind) {
	case LP_K_RC:
		return say(p, LP_REPLAY_DIFFERS, "the engine says %s, the trace %s", lp_rec_rc(got), lp_rec_rc(r->v[i]));
	case LP_K_VERDICT:
		return say(p, LP_REPLAY_DIFFERS, "the engine says %s, the trace %s", lp_rec_verdict(got),
			   lp_rec_verdict(r->v[i]));
	case LP_K_ADDR:
	case LP_K_IMG:
		return say(p, LP_REPLAY_DIFFERS, "%s: the engine says 0x%" PRIx64 ", the trace 0x%" PRIx64, f->name, got,
			   r->v[i]);
	default:
		return say(p, LP_REPLAY_DIFFERS, "%s: the engine says %" PRIu64 ", the trace %" PRIu64, f->name, got, r->v[i]);
	}
}

static int same_rc(struct lp_replay *p, const struct lp_rec *r, int rc)
{
	int diff = same(p, r, lp_rec_find(r->type, LP_K_RC), (int64_t)rc);

	return diff && rc == -ENOMEM ? no_memory(p) : diff;
}

/* All pieces of the flight that was claimed last have been compared? Before the next call. */
static int check_pieces(struct lp_replay *p)
{
	struct lp_piece q;
	struct lp_flight *f = p->claimed;

	p->claimed = NULL;
	if (f && lp_flight_piece(f, p->npieces, &q))
		return say(p, LP_REPLAY_DIFFERS,
			   "flight %" PRIu64 ": the engine has a piece more than the trace: 0x%" PRIx64 " len %" PRIu64,
			   lp_flight_id(f), q.addr, q.len);
	return 0;
}

static int claim(struct lp_replay *p, struct lp_flight *f)
{
	p->stats.flights++;
	if (table_set(&p->flights, lp_flight_id(f), f))
		return no_memory(p);
	p->claimed = f;
	p->npieces = 0;
	return 0;
}

static int piece(struct lp_replay *p, const struct lp_rec *r)
{
	struct lp_piece q;
	int rc;

	if (!p->claimed || lp_flight_id(p->claimed) != r->v[0])
		return say(p, -EINVAL, "a piece of flight %" PRIu64 ", which was not claimed just before", r->v[0]);
	if (!lp_flight_piece(p->claimed, p->npieces, &q))
		return say(p, LP_REPLAY_DIFFERS, "flight %" PRIu64 ": the trace has a piece more than the engine", r->v[0]);
	p->npieces++;
	rc = same(p, r, 1, q.addr);
	if (!rc)
		rc = same(p, r, 2, q.len);
	if (!rc)
		rc = same(p, r, 3, q.img);
	return rc ? rc : same(p, r, 4, q.obj);
}

/* ---- What no daemon does -------------------------------------------------------------- */

static bool range_ok(const struct lp_replay *p, uint64_t start, uint64_t end)
{
	return start < end && end <= ADDR_MAX && !(start % p->page) && !(end % p->page);
}

static int bad_range(struct lp_replay *p, uint64_t start, uint64_t end)
{
	return say(p, -EINVAL, "0x%" PRIx64 "-0x%" PRIx64 " is no range of pages", start, end);
}

/* A record of the hand-off: in order of addresses, and nothing else was before. */
static int handed(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r, uint64_t *end)
{
	if (!range_ok(p, r->v[1], r->v[2]))
		return bad_range(p, r->v[1], r->v[2]);
	if (rs->built || r->v[1] < *end)
		return say(p, -EINVAL, "0x%" PRIx64 "-0x%" PRIx64 " is handed over too late", r->v[1], r->v[2]);
	*end = r->v[2];
	return 0;
}

static int extent(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	int rc = handed(p, rs, r, &rs->extents_end);

	if (!rc && lp_space_add_extent(rs->s, r->v[1], r->v[2]))
		rc = no_memory(p);
	return rc;
}

static int missing(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	int rc = handed(p, rs, r, &rs->missing_end);

	if (!rc && (r->v[3] > ADDR_MAX || r->v[3] % p->page))
		rc = say(p, -EINVAL, "0x%" PRIx64 " is no place in the images", r->v[3]);
	if (!rc && lp_space_add_missing(rs->s, r->v[1], r->v[2], r->v[3], r->v[4]))
		rc = no_memory(p);
	return rc;
}

static int marked(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	int rc = handed(p, rs, r, &rs->wiped_end);

	if (rc)
		return rc;
	if (r->type == LP_REC_WIPED ? lp_space_add_wiped(rs->s, r->v[1], r->v[2]) :
				      lp_space_add_dontfork(rs->s, r->v[1], r->v[2]))
		return no_memory(p);
	return 0;
}

static int message_ok(struct lp_replay *p, const struct rspace *rs)
{
	return lp_space_young(rs->s) ? say(p, -EINVAL, "a message of space #%" PRIu64 ", a young child", rs->id) : 0;
}

static int page_ok(struct lp_replay *p, uint64_t addr)
{
	return addr % p->page || addr >= ADDR_MAX ? say(p, -EINVAL, "0x%" PRIx64 " is no page", addr) : 0;
}

/*
 * As tasks ask the kernel for what it refuses, nearly anything may be entered;
 * but only what booking.c makes of system calls. @flags: all of those in the record.
 */
static bool change_ok(const struct lp_replay *p, const struct lp_change *c, uint64_t flags)
{
	uint64_t bits = c->from | c->len | c->to_len, where = flags & (LP_REMAP_FIXED | LP_REMAP_AREA);

	if (c->from >= ADDR_MAX || c->len >= ADDR_MAX || c->to_len >= ADDR_MAX || bits % p->page)
		return false;
	if (c->kind == LP_CHANGE_REMAP)
		return flags <= LP_REMAP_FLAGS && (!(flags & LP_REMAP_GREW) || c->to_len > c->len) &&
		       c->to < ADDR_MAX && !(c->to % p->page) && (where || !c->to) &&
		       where != (LP_REMAP_FIXED | LP_REMAP_AREA);
	if (c->kind < 1 || c->kind > LP_CHANGE_LAST || flags || c->to_len)
		return false;
	if (c->kind == LP_CHANGE_FORK)
		return c->to && !bits;
	return c->kind == LP_CHANGE_REMOVE ? c->to != 0 : !c->to;
}

/* ---- Calls ------------------------------------------------------------------------------ */

static int begin(struct lp_replay *p, const struct lp_rec *r)
{
	struct lp_engine_conf conf = { .page = r->v[0], .seed = r->v[1], .there = there,
				       .old_shrink = r->v[5] & LP_REC_OLD_SHRINK };

	if (p->engine)
		return say(p, -EINVAL, "a second beginning");
	if (conf.page < 4096 || conf.page > 65536 || conf.page & (conf.page - 1))
		return say(p, -EINVAL, "pages of %" PRIu64 " bytes", conf.page);
	p->page = conf.page;
	p->engine = lp_engine_new(&conf);
	return p->engine ? 0 : no_memory(p);
}

static int new_space(struct lp_replay *p, const struct lp_rec *r)
{
	struct rspace *rs;
	int rc = space_add(p, r->v[0], &rs);

	if (!rc && lp_space_new(p->engine, rs, &rs->s)) {
		space_del(p, rs);
		rc = no_memory(p);
	}
	return rc;
}

static int free_space(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	int rc = same(p, r, 1, lp_space_dead(rs->s));

	if (!rc)
		rc = same(p, r, 2, lp_space_complete(rs->s));
	if (!rc && lp_space_flights(rs->s))
		rc = say(p, -EINVAL, "space #%" PRIu64 " still has flights", rs->id);
	if (rc)
		return rc;
	lp_space_free(rs->s);
	space_del(p, rs);
	return 0;
}

static int fork_space(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	struct rspace *child;
	int rc = message_ok(p, rs), said;

	if (!rc)
		rc = space_add(p, r->v[1], &child);
	if (rc)
		return rc;
	child->built = true;
	said = lp_space_fork(rs->s, child, &child->s);
	rc = same_rc(p, r, said);
	if (said)
		space_del(p, child);
	return rc;
}

static int layout(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	const uint64_t *v = r->v;
	uint64_t number = p->call;
	int rc = message_ok(p, rs);

	p->call = 0;
	if (rc)
		return rc;
	if (r->type != LP_REC_REMAP) {
		if (!range_ok(p, v[1], v[2]))
			return bad_range(p, v[1], v[2]);
		if (number)
			lp_space_call(rs->s, number);
		rc = r->type == LP_REC_REMOVE ? lp_space_remove(rs->s, v[1], v[2]) : lp_space_unmap(rs->s, v[1], v[2]);
		return same_rc(p, r, rc);
	}
	if (v[3] > ADDR_MAX || v[1] > ADDR_MAX || v[2] > ADDR_MAX || !range_ok(p, v[1], v[1] + v[3]) ||
	    !range_ok(p, v[2], v[2] + v[3]))
		return bad_range(p, v[1], v[1] + v[3]);
	if (v[1] < v[2] + v[3] && v[2] < v[1] + v[3])
		return say(p, -EINVAL, "0x%" PRIx64 " moves onto a part of itself", v[1]);
	return same_rc(p, r, lp_space_remap(rs->s, v[1], v[2], v[3]));
}

static int book(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	if (!r->v[1] || lp_space_dead(rs->s))
		return say(p, -EINVAL, "space #%" PRIu64 " cannot have book 0x%" PRIx64, rs->id, r->v[1]);
	lp_space_book(rs->s, r->v[1]);
	return 0;
}

/* The daemon asks the engine whether it wants to know, too. */
static int change(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	const uint64_t *v = r->v;
	struct lp_change c = { v[1] & 0xff, (v[1] >> 8) & 0xff, v[2], v[3], v[4], v[5] };

	if (!change_ok(p, &c, v[1] >> 8))
		return say(p, -EINVAL, "a change of kind %u that no system call makes", (unsigned)c.kind);
	p->stats.compared++;
	if (!lp_space_concerned(rs->s, &c))
		return say(p, LP_REPLAY_DIFFERS, "the engine need not know of this change");
	return lp_space_changed(rs->s, &c) ? no_memory(p) : 0;
}

/* It comes with its REMOVE. */
static int note_call(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	int rc = message_ok(p, rs);

	if (!rc && !r->v[1])
		rc = say(p, -EINVAL, "madvise() without a number");
	if (rc)
		return rc;
	p->call = r->v[1];
	p->call_space = rs->id;
	return 0;
}

static int fault(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	enum lp_verdict verdict;
	struct lp_flight *f;
	int rc = page_ok(p, r->v[1]), said;

	if (!rc && (r->v[2] % p->page || !r->v[2] || r->v[2] > ADDR_MAX))
		rc = say(p, -EINVAL, "readahead of %" PRIu64 " bytes", r->v[2]);
	if (rc)
		return rc;
	said = lp_space_fault(rs->s, r->v[1], r->v[2], &verdict, &f);
	if (!said && verdict == LP_FILL)
		rc = claim(p, f);
	if (!rc)
		rc = same_rc(p, r, said);
	if (!rc && !said)
		rc = same(p, r, 3, verdict);
	if (!rc && !said && verdict == LP_FILL)
		rc = same(p, r, 4, lp_flight_id(f));
	return rc;
}

static int early_fault(struct lp_replay *p, struct rspace *rs, const struct lp_rec *r)
{
	struct lp_flight *own = table_get(&p->flights, r->v[3]), *f;
	int rc = page_ok(p, r->v[1]), said;

	if (!rc && (r->v[2] % p->page || !r->v[2] || r->v[2] > ADDR_MAX))
		rc = say(p, -EINVAL, "readahead of %" PRIu64 " bytes", r->v[2]);
	if (!rc && (!own || lp_flight_space(own) != rs->s || lp_flight_urgent(own)))
		rc = say(p, -EINVAL, "space #%" PRIu64 " has no bulk flight %" PRIu64, rs->id, r->v[3]);
	if (rc)
		return rc;
	said = lp_space_early_fault(rs->s, r->v[1], r->v[2], own, &f);
	if (!said && f)
		rc = claim(p, f);
	if (!rc)
		rc = same_rc(p, r, said);
	if (!rc && !said)
		rc = same(p, r, 4, f ? lp_flight_id(f) : 0);
	return rc;
}

static int next_flight(struct lp_replay *p, const struct lp_rec *r)
{
	struct lp_flight *f;
	uint64_t when;
	int rc = 0, said;

	if (!r->v[0] || r->v[0] % p->page || r->v[0] > ADDR_MAX || !r->v[1] || r->v[1] > PIECES_MAX)
		return say(p, -EINVAL, "a flight of at most %" PRIu64 " bytes in %" PRIu64 " pieces", r->v[0], r->v[1]);
	said = lp_engine_next(p->engine, r->v[0], r->v[1], r->time, &f, &when);
	if (!said)
		rc = claim(p, f);
	if (!rc)
		rc = same_rc(p, r, said);
	if (!rc && said)
		return same(p, r, 4, when);
	if (!rc) {
		struct rspace *rs = lp_space_host(lp_flight_space(f));

		rs->built = true;
		rc = same(p, r, 2, rs->id);
	}
	return rc ? rc : same(p, r, 3, lp_flight_id(f));
}

/* A call that hands out an address or says that there is none. */
static int hand_out(struct lp_replay *p, const struct lp_rec *r, bool more, uint64_t addr)
{
	int rc = same(p, r, 1, more);

	return rc || !more ? rc : same(p, r, 2, addr);
}

/* ---- Flights and fills ------------------------------------------------------------------ */

static struct lp_flight *flight(struct lp_replay *p, const struct lp_rec *r)
{
	struct lp_flight *f = table_get(&p->flights, r->v[1]);
	struct rspace *rs = f ? lp_space_host(lp_flight_space(f)) : NULL;

	if (rs && rs->id == r->v[0])
		return f;
	say(p, -EINVAL, "space #%" PRIu64 " has no flight %" PRIu64, r->v[0], r->v[1]);
	return NULL;
}

/* The daemon's fills go where the engine says. */
static int copy(struct lp_replay *p, const struct lp_rec *r)
{
	struct lp_flight *f = flight(p, r);
	const struct lp_piece *head = f ? lp_flight_head(f) : NULL;

	if (!f)
		return -EINVAL;
	p->stats.compared++;
	if (!head)
		return say(p, LP_REPLAY_DIFFERS, "flight %" PRIu64 " has nothing to copy", r->v[1]);
	if (r->v[2] < head->addr || r->v[2] - head->addr > head->len || r->v[3] > head->len - (r->v[2] - head->addr))
		return say(p, LP_REPLAY_DIFFERS, "flight %" PRIu64 " is to be copied to 0x%" PRIx64 " len %" PRIu64, r->v[1],
			   head->addr, head->len);
	return 0;
}

static int advance(struct lp_replay *p, const struct lp_rec *r)
{
	struct lp_flight *f = flight(p, r);
	const struct lp_piece *head = f ? lp_flight_head(f) : NULL;

	if (!f)
		return -EINVAL;
	if (!head || !r->v[2] || r->v[2] > head->len || r->v[2] % p->page)
		return say(p, head ? -EINVAL : LP_REPLAY_DIFFERS,
			   "flight %" PRIu64 ": the first piece of what is left has %" PRIu64 " bytes", r->v[1],
			   head ? head->len : 0);
	p->stats.calls++;
	lp_flight_advance(f, r->v[2]);
	return 0;
}

static int finish(struct lp_replay *p, const struct lp_rec *r)
{
	struct lp_flight *f = flight(p, r);
	int rc;

	if (!f)
		return -EINVAL;
	rc = lp_flight_finish(f);
	if (!rc)
		p->flights.at[r->v[1]] = NULL;
	return same_rc(p, r, rc);
}

/* ---- Steps ------------------------------------------------------------------------------------ */

static int call(struct lp_replay *p, const struct lp_rec *r)
{
	struct rspace *rs = NULL;
	uint64_t addr = 0;
	bool more;
	int rc;

	if (p->call && (r->type != LP_REC_REMOVE || r->v[0] != p->call_space)) {
		rc = say(p, -EINVAL, "madvise() number 0x%" PRIx64 " is followed by no REMOVE", p->call);
		p->call = 0;
		return rc;
	}
	if (r->type == LP_REC_NEXT)
		return next_flight(p, r);
	if (r->type == LP_REC_SPACE)
		return new_space(p, r);
	if (r->type == LP_REC_FINISH)
		return finish(p, r);
	rs = table_get(&p->spaces, r->v[0]);
	if (!rs)
		return say(p, -EINVAL, "there is no space #%" PRIu64, r->v[0]);
	switch (r->type) {
	case LP_REC_EXTENT:
		return extent(p, rs, r);
	case LP_REC_MISSING:
		return missing(p, rs, r);
	case LP_REC_WIPED:
	case LP_REC_DONTFORK:
		return marked(p, rs, r);
	case LP_REC_DEFER: /* the hand-off has some, too: the first page of each VMA */
		rc = page_ok(p, r->v[1]);
		return rc ? rc : same_rc(p, r, lp_space_defer(rs->s, r->v[1]));
	}
	rs->built = true;
	switch (r->type) {
	case LP_REC_FREE:
		return free_space(p, rs, r);
	case LP_REC_FORK:
		return fork_space(p, rs, r);
	case LP_REC_REMAP:
	case LP_REC_REMOVE:
	case LP_REC_UNMAP:
		return layout(p, rs, r);
	case LP_REC_BOOK:
		return book(p, rs, r);
	case LP_REC_CHANGE:
		return change(p, rs, r);
	case LP_REC_CALL:
		return note_call(p, rs, r);
	case LP_REC_BOOK_LOST:
		lp_space_book_lost(rs->s);
		return 0;
	case LP_REC_EXIT:
		lp_space_exit(rs->s);
		return 0;
	case LP_REC_SETTLED:
		return same_rc(p, r, lp_space_settled(rs->s));
	case LP_REC_FAULT:
		return fault(p, rs, r);
	case LP_REC_EARLY:
		return early_fault(p, rs, r);
	case LP_REC_ANSWERED:
		rc = page_ok(p, r->v[1]);
		if (!rc)
			lp_space_answered(rs->s, r->v[1]);
		return rc;
	case LP_REC_NEXT_WAKE:
		more = lp_space_next_wake(rs->s, &addr);
		return hand_out(p, r, more, addr);
	case LP_REC_NEXT_DEFERRED:
		more = lp_space_next_deferred(rs->s, &addr);
		return hand_out(p, r, more, addr);
	case LP_REC_STALL:
		lp_space_stall(rs->s, r->v[1]);
		return 0;
	}
	return say(p, -EINVAL, "a record of type %u that the replay does not know", r->type);
}

static int step(struct lp_replay *p, const struct lp_rec *r)
{
	int at = lp_rec_find(r->type, LP_K_RC), rc, answers;

	if (r->type == LP_REC_BEGIN)
		return begin(p, r);
	if (!p->engine)
		return say(p, -EINVAL, "no beginning");
	switch (r->type) {
	/* These are made without the lock of the engine, so they may lie between a call and its questions or pieces. */
	case LP_REC_MARK:
	case LP_REC_PAGEFAULT:
	case LP_REC_UNKNOWN:
	case LP_REC_ZEROPAGE:
	case LP_REC_WAKE:
	case LP_REC_PROBE:
	case LP_REC_SOURCE:
		return 0;
	case LP_REC_COPY:
	case LP_REC_ADVANCE:
		/* Of the same flight it is by the same thread, so its pieces are known. */
		rc = p->claimed && lp_flight_id(p->claimed) == r->v[1] ? check_pieces(p) : 0;
		if (rc)
			return rc;
		return r->type == LP_REC_COPY ? copy(p, r) : advance(p, r);
	case LP_REC_PIECE:
		return piece(p, r);
	}
	rc = check_pieces(p);
	if (rc)
		return rc;
	if (r->type == LP_REC_THERE)
		return note_answer(p, r);
	if (r->type == LP_REC_END)
		return check_answers(p);
	if (at >= 0 && (int64_t)r->v[at] == -ENOMEM)
		return say(p, LP_REPLAY_NO_MEMORY, "the daemon was out of memory");
	p->stats.calls++;
	rc = call(p, r);
	/* Asked something else, it answers something else: that comes first. */
	answers = rc < 0 ? 0 : check_answers(p);
	return answers ? answers : rc;
}

int lp_replay_step(struct lp_replay *p, const struct lp_rec *r, char *why, size_t len)
{
	int rc;

	p->why = why;
	p->why_len = len;
	rc = step(p, r);
	p->number++;
	return rc;
}

struct lp_replay *lp_replay_new(void)
{
	return calloc(1, sizeof(struct lp_replay));
}

void lp_replay_free(struct lp_replay *p)
{
	size_t i;

	if (!p)
		return;
	p->question = "no"; /* what is asked from here on is asked of nobody */
	/* The dead have no pieces, so that their flights can end. */
	for (i = 0; i < p->spaces.n; i++)
		if (p->spaces.at[i])
			lp_space_exit(((struct rspace *)p->spaces.at[i])->s);
	for (i = 0; i < p->flights.n; i++)
		if (p->flights.at[i])
			lp_flight_finish(p->flights.at[i]);
	for (i = 0; i < p->spaces.n; i++) {
		struct rspace *rs = p->spaces.at[i];

		if (rs)
			lp_space_free(rs->s);
		free(rs);
	}
	lp_engine_free(p->engine);
	free(p->spaces.at);
	free(p->flights.at);
	free(p->answers);
	free(p);
}

void lp_replay_stats(const struct lp_replay *p, struct lp_replay_stats *s)
{
	*s = p->stats;
}
