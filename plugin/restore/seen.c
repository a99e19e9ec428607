/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Faults before their messages are read. To read messages, one has to be alone in
 * the gate, so each fault costs all who fill a pause, and waits for their chunks.
 * But the ledger tells of a fault in plain memory, and what it says is enough to
 * fill the page and wake its threads: the kernel drops the message then. So a
 * thread that fills looks there after each chunk, and messages are read for what
 * remains: pages that the checkpoint has not, spaces in doubt, changes.
 *
 * It is only a hint: one that comes twice, late or never changes nothing but the
 * order of fills, since the layout is that of the messages that were read, and the
 * kernel refuses a fill while others are there. A message that is never read still
 * stands for its thread.
 */
#include <errno.h>
#include <string.h>

#include "restore/internal.h"

#define TAKE_MAX 32

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* It may be in the flight of another: let that one look, if nobody has before. */
static bool leave_to_others(struct lp_restore *r, const struct lp_reader *rd, struct seen s)
{
	unsigned n = atomic_load_explicit(&r->nseen, memory_order_relaxed);

	if (s.by || n == ARRAY_SIZE(r->seen) || atomic_load(&r->busy) < 2)
		return false;
	s.by = rd;
	r->seen[n] = s;
	atomic_store_explicit(&r->nseen, n + 1, memory_order_relaxed);
	return true;
}

/* It is in an urgent flight of ours: filled soon, and woken then. */
static bool in_jobs(const struct lp_reader *rd, const struct lp_mm *mm, uint64_t addr)
{
	struct lp_piece p;
	unsigned i;
	uint32_t k;

	for (i = 0; i < rd->njobs; i++)
		if (lp_flight_space(rd->jobs[i]) == mm->space)
			for (k = 0; lp_flight_piece(rd->jobs[i], k, &p); k++)
				if (addr - p.addr < p.len)
					return true;
	return false;
}

/*
 * Nobody who has looked has it to fill. Most likely it was filled meanwhile, by one who saw no reason to wake: so its
 * thread is woken, once. If it comes again it is something else, a page that the checkpoint has not, and its message is read.
 */
static bool wake_once(struct lp_reader *rd, struct lp_mm *mm, const struct seen *s)
{
	struct lp_told *told = &mm->r->told[(s->addr / LP_PAGE_SIZE ^ s->in_ledger >> 6) % ARRAY_SIZE(mm->r->told)];

	if (rd->nwakes == ARRAY_SIZE(rd->wakes))
		return false;
	if (told->in_ledger == s->in_ledger && told->addr == s->addr) {
		told->addr = 1; /* no page: the next time is a first one */
		return false;
	}
	*told = (struct lp_told){ s->in_ledger, s->addr };
	rd->wakes[rd->nwakes++] = (struct wake){ mm->fd, mm->id, s->addr, LP_PAGE_SIZE };
	return true;
}

static void take_on(struct lp_reader *rd, struct lp_mm *mm, struct lp_flight *f, const struct seen *s)
{
	struct lp_restore *r = mm->r;
	struct lp_mm *whose = s->in_ledger == mm->book ? mm : book_find(r, s->in_ledger);
	struct lp_flight *u;

	if (!whose && book_stranger(r, s->in_ledger))
		return;
	/* Most memory of a task is none of ours. */
	if (whose && !lp_space_registered(whose->space, s->addr, s->addr + LP_PAGE_SIZE))
		return;
	atomic_store_explicit(&r->last_fault, lp_now(), memory_order_relaxed);
	if (whose != mm) {
		/* Nobody may look at it soon again, and the message may not be there yet. */
		pass_wanted(r, true);
	} else if (in_jobs(rd, mm, s->addr)) {
		return;
	} else if (rd->njobs == ARRAY_SIZE(rd->jobs) || eng_early_fault(mm->space, s->addr, READAHEAD, f, &u)) {
		pass_wanted(r, false);
	} else if (u) {
		rd->jobs[rd->njobs++] = u;
		atomic_fetch_add_explicit(&r->faults, 1, memory_order_relaxed);
	} else if (!leave_to_others(r, rd, *s) && !wake_once(rd, mm, s)) {
		pass_wanted(r, false);
	}
}

bool seen_any(const struct lp_restore *r)
{
	return lp_ledger_any_fault(r->ledger) || atomic_load_explicit(&r->nseen, memory_order_relaxed);
}

void seen_faults(struct lp_reader *rd, struct lp_mm *mm, struct lp_flight *f)
{
	struct lp_restore *r = mm->r;
	struct lp_ledger_fault told[TAKE_MAX];
	struct seen left[ARRAY_SIZE(r->seen)];
	unsigned i, n, nleft;

	if (!seen_any(r))
		return;
	/* Shared: nobody edits flights meanwhile but their owners, and us. */
	lp_gate_enter(&mm->gate);
	if (pthread_mutex_trylock(&r->lock)) {
		lp_gate_leave(&mm->gate);
		return;
	}
	nleft = atomic_load_explicit(&r->nseen, memory_order_relaxed);
	memcpy(left, r->seen, nleft * sizeof(left[0]));
	atomic_store_explicit(&r->nseen, 0, memory_order_relaxed);
	for (i = 0; i < nleft; i++)
		take_on(rd, mm, f, &left[i]);
	n = lp_ledger_faults(r->ledger, told, TAKE_MAX);
	for (i = 0; i < n; i++)
		take_on(rd, mm, f, &(struct seen){ .in_ledger = told[i].mm, .addr = told[i].addr });
	pthread_mutex_unlock(&r->lock);
	lp_gate_leave(&mm->gate);
	wake_flush(rd);
}
