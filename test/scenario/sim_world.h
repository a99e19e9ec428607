/* SPDX-License-Identifier: GPL-2.0-only */
/* The simulated kernel of sim_run.c and the random programs that run on it. Included once. */
#ifndef LP_TEST_SIM_WORLD_H
#define LP_TEST_SIM_WORLD_H

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "test/lib/model.h"

#define PAGES 48
#define TASKS 6
#define THREADS 2
#define WORKERS 3
#define URGENT 2
#define OPS 40
#define PRIV UINT32_MAX
#define PATIENCE 400000 /* steps that a thread may wait */
#define BASE UINT64_C(0x10000000)
#define QUEUE 64
#define ENTRIES 256 /* made by a task's kernel and not entered yet; threads wait for their messages to be read */

enum rule { R_NONE, R_GATE, R_ENOENT, R_WAKES, R_FORK, R_REMOVE, R_EAGAIN, R_DEFER, R_SHORT, R_MATCH, R_EXIT,
	    R_SETTLED, R_ORDER, R_PROBE, R_YOUNG, R_BOOK, R_ENTER };

static const struct {
	const char *name, *help;
} rules[] = {
	[R_GATE] = { "gate", "no fill is under way while messages are read" },
	[R_ENOENT] = { "enoent", "a page is dropped only when ENOENT is said twice" },
	[R_WAKES] = { "wakes", "waiting threads are woken after a layout event" },
	[R_FORK] = { "fork-flights", "what flights hold is missing in a child too" },
	[R_REMOVE] = { "remove-flights", "REMOVE takes pages out of flights" },
	[R_EAGAIN] = { "eagain", "EAGAIN is not an answer" },
	[R_DEFER] = { "defer", "a fault that was refused is asked again" },
	[R_SHORT] = { "short", "what a source did not give goes back" },
	[R_MATCH] = { "match", "an answer fills only what was asked for" },
	[R_SETTLED] = { "settled", "after layout events a settled moment is looked for" },
	[R_ORDER] = { "order", "messages wait for a settled moment and are put in order then" },
	[R_PROBE] = { "probe", "a moment is settled only when the kernel says so, too" },
	[R_YOUNG] = { "young", "nothing is read from young children" },
	[R_BOOK] = { "book", "changes that race are entered in the order of the kernel" },
	[R_ENTER] = { "enter", "what was made is entered before the next message is given, not only for a settled moment" },
	[R_EXIT] = { "exit", "the end of a task is noticed" },
};

#define NRULES (sizeof(rules) / sizeof(rules[0]))

enum ev_kind { EV_FORK, EV_REMAP, EV_REMOVE, EV_UNMAP };

struct event {
	enum ev_kind kind;
	unsigned a, len, to; /* to: of FORK the child, of REMOVE the number of the change */
};

struct page {
	uint32_t want, content;
	bool reg, present;
	uint8_t home;	/* vm_pgoff: what was moved keeps it, and is one mapping only with what fits to it */
	uint8_t owner;	/* the thread that may change it, if it is registered */
	bool reused;	/* of the address: vacated since the last settled moment */
};

struct thread {
	enum { RUN, BLOCKED, FAULT, DONE } state;
	struct event q[3];
	unsigned n, i;
	bool read, fault_unread, again;
	unsigned page, ops;
	uint64_t since;
};

struct task {
	bool used, ended, gone, closed; /* gone: the host knows; closed: complete, the host has left it */
	struct page pg[PAGES];
	struct thread th[THREADS];
	unsigned changing;
	struct lp_space *space;
	unsigned fills; /* holding the gate */
	struct task *parent;
	bool announced;
	bool hasty; /* the kernel is asked although its layout is changing */
	uint64_t retry_at;
	uint64_t book; /* its name, or 0; then its threads may race in all ways */
	struct lp_change entries[ENTRIES]; /* in the kernel's order */
	unsigned nentries;
};

struct worker {
	enum { IDLE, LOOK, ASK, FILL } phase;
	struct lp_flight *f;
	struct lp_piece at; /* asked for, or being filled */
	uint64_t ready, stall;
	uint32_t have_obj, filling; /* pages that the source gave; pages of this fill */
	uint64_t have_img, have_len;
	int rc;
};

struct sim {
	uint64_t rng, now;
	enum rule without;
	unsigned vacated;
	struct lp_engine *engine;
	struct task task[TASKS];
	struct worker w[WORKERS + URGENT];
	struct lp_flight *queue[QUEUE];
	unsigned nqueue;
	struct task *reading; /* whose gate the reader wants */
	uint64_t books, calls; /* names and numbers given out */
	char error[200];
};

static unsigned pick(struct sim *m, unsigned n)
{
	return (uint64_t)(uint32_t)(md_random(&m->rng) >> 32) * n >> 32;
}

static void __attribute__((format(printf, 2, 3))) fail(struct sim *m, const char *fmt, ...)
{
	va_list ap;

	if (m->error[0])
		return;
	va_start(ap, fmt);
	vsnprintf(m->error, sizeof(m->error), fmt, ap);
	va_end(ap);
}

static uint64_t addr_of(unsigned page)
{
	return BASE + page * MD_PAGE;
}

static struct task *task_of(const struct lp_flight *f)
{
	return lp_space_host(lp_flight_space(f));
}

/* ---- Kernel -------------------------------------------------------------- */

static void k_wake(struct task *t, unsigned page)
{
	unsigned i;

	for (i = 0; i < THREADS; i++) {
		if (t->th[i].state == FAULT && t->th[i].page == page) {
			t->th[i].state = RUN;
			t->th[i].again = true;
			t->th[i].fault_unread = false;
		}
	}
}

static int k_changing(const struct task *t)
{
	return t->ended ? -ESRCH : t->changing ? -EAGAIN : 0;
}

/*
 * The second half of UFFDIO_COPY and ZEROPAGE: find the VMA (ENOENT may be said
 * while a message is unread), then look for changes once more.
 */
static int k_put(struct task *t, uint64_t addr, uint32_t content)
{
	unsigned i = (addr - BASE) / MD_PAGE;

	if (t->ended)
		return -ESRCH;
	if (i >= PAGES || !t->pg[i].reg)
		return -ENOENT;
	if (t->changing)
		return -EAGAIN;
	if (t->pg[i].present)
		return -EEXIST;
	t->pg[i].present = true;
	t->pg[i].content = content;
	k_wake(t, i);
	return 0;
}

static void post(struct task *t, struct thread *th, enum ev_kind kind, unsigned a, unsigned len, unsigned to)
{
	if (th->state != BLOCKED) {
		th->state = BLOCKED;
		th->n = th->i = 0;
		th->read = false;
	}
	th->q[th->n++] = (struct event){ kind, a, len, to };
	t->changing++;
}

static void k_made(struct sim *m, struct task *t, struct lp_change c)
{
	if (!t->book)
		return;
	if (t->nentries == ENTRIES)
		fail(m, "task %d: nobody enters its changes", (int)(t - m->task));
	else
		t->entries[t->nentries++] = c;
}

static void k_run_on(struct task *t, struct thread *th)
{
	const struct event *e = &th->q[th->i];
	unsigned i;

	for (i = e->a; e->kind == EV_REMOVE && i < e->a + e->len; i++) {
		if (t->pg[i].reg) {
			t->pg[i].want = t->pg[i].content = 0;
			t->pg[i].present = false;
		}
	}
	th->read = false;
	t->changing--;
	if (++th->i == th->n)
		th->state = RUN;
}

/*
 * ---- Programs: each thread changes its own pages, and takes free ones --------
 *
 * What one thread has left another may take before the first one's messages
 * were read; until the next settled moment that stays as it is: messages cannot
 * tell more. Only a book can.
 */

static void touch(struct sim *m, struct task *t, struct thread *th, unsigned page)
{
	struct page *p = &t->pg[page];

	th->page = page;
	th->again = false;
	if (!p->reg)
		return;
	if (t->closed && !p->present) { /* unregistered by now: anonymous memory */
		p->present = true;
		p->content = 0;
	}
	if (!p->present) {
		th->state = FAULT;
		th->fault_unread = true;
		return;
	}
	/* Somebody else's: it may see the page before or after a change, but it must go on. */
	if (p->owner != th - t->th && (p->content == p->want || t->th[p->owner].state == BLOCKED))
		return;
	if (p->content != p->want)
		fail(m, "task %d page %u reads %u, must read %u", (int)(t - m->task), page, p->content, p->want);
	if (!pick(m, 4))
		p->content = p->want = PRIV;
}

/* A child in the middle of a DONTNEED, or of what was moved over unread messages, may have either. */
static bool may_fork(const struct task *t)
{
	unsigned i;

	for (i = 0; i < THREADS; i++)
		if (t->th[i].state == BLOCKED && t->th[i].q[t->th[i].i].kind == EV_REMOVE)
			return false;
	for (i = 0; i < PAGES; i++)
		if (t->pg[i].reg && t->pg[i].reused && !t->book)
			return false;
	return true;
}

static void start_fork(struct sim *m, struct task *t, struct thread *th)
{
	struct task *c = NULL;
	unsigned i;

	for (i = 0; i < TASKS && !c; i++)
		if (!m->task[i].used)
			c = &m->task[i];
	if (!c || !may_fork(t))
		return;
	*c = (struct task){ .used = true, .hasty = t->hasty };
	if (t->book)
		c->book = ++m->books;
	k_made(m, t, (struct lp_change){ .kind = LP_CHANGE_FORK, .to = c->book });
	memcpy(c->pg, t->pg, sizeof(c->pg));
	for (i = 0; i < PAGES; i++)
		c->pg[i].reused = false;
	for (i = 0; i < THREADS; i++)
		c->th[i].ops = 10 + pick(m, OPS);
	post(t, th, EV_FORK, 0, 0, c - m->task);
}

static bool fork_unread(const struct task *t)
{
	unsigned i;

	for (i = 0; i < THREADS; i++)
		if (t->th[i].state == BLOCKED && t->th[i].q[0].kind == EV_FORK)
			return true;
	return false;
}

static void vacate(struct sim *m, struct task *t, unsigned a, unsigned len)
{
	m->vacated = a;
	for (; len; a++, len--)
		t->pg[a] = (struct page){ .reused = true };
}

/* How many of the @len pages from @a on are one mapping? */
static unsigned one_mapping(const struct task *t, unsigned a, unsigned len)
{
	unsigned n = 1;

	while (n < len && t->pg[a + n].reg && t->pg[a + n].home == t->pg[a + n - 1].home + 1)
		n++;
	return n;
}

/* From @a to where there is room, or over something of its own. As the kernel does: one mapping, or a part. */
static void start_move(struct sim *m, struct task *t, struct thread *th, unsigned a, unsigned len)
{
	unsigned to, i, tid = th - t->th;
	bool fixed = false;

	len = one_mapping(t, a, len);
	to = pick(m, PAGES - len + 1);
	if (pick(m, 2) && m->vacated + len <= PAGES) /* the kernel likes to hand out what has just become free */
		to = m->vacated;
	if (to < a + len && a < to + len)
		return;
	for (i = to; i < to + len; i++) {
		if (t->pg[i].reg && (t->pg[i].owner != tid || (t->pg[i].reused && !t->book)))
			return;
		fixed = fixed || t->pg[i].reg;
	}
	for (i = to; i < to + len; i++)
		if ((fork_unread(t) || fixed) && t->pg[i].reused && !t->book)
			return;
	if (fork_unread(t) && fixed && !t->book)
		return;
	k_made(m, t, (struct lp_change){ LP_CHANGE_REMAP, LP_REMAP_MAYMOVE | LP_REMAP_FIXED, addr_of(a), len * MD_PAGE,
					 addr_of(to), len * MD_PAGE });
	if (fixed)
		post(t, th, EV_UNMAP, to, len, 0);
	post(t, th, EV_REMAP, a, len, to);
	post(t, th, EV_UNMAP, a, len, 0);
	for (i = 0; i < len; i++) {
		bool reused = fixed || t->pg[to + i].reused;

		t->pg[to + i] = t->pg[a + i];
		t->pg[to + i].reused = reused;
	}
	vacate(m, t, a, len);
}

/* In place: no message. */
static void grow(struct sim *m, struct task *t, struct thread *th, unsigned a, unsigned len)
{
	unsigned n = 0;

	for (; n < len && a + n < PAGES && !t->pg[a + n].reg; n++)
		t->pg[a + n] = (struct page){ .reg = true, .home = t->pg[a + n - 1].home + 1, .owner = th - t->th };
	if (n)
		k_made(m, t, (struct lp_change){ .kind = LP_CHANGE_REMAP, .flags = LP_REMAP_GREW | LP_REMAP_MAYMOVE,
						 .from = addr_of(a - 1), .len = MD_PAGE, .to_len = (n + 1) * MD_PAGE });
}

static void thread_step(struct sim *m, struct task *t, struct thread *th)
{
	unsigned tid = th - t->th, a = pick(m, PAGES), len = 1 + pick(m, 8), i;

	if (th->state == BLOCKED && th->read)
		k_run_on(t, th);
	if (th->state != RUN)
		return;
	th->since = m->now;
	if (th->again) {
		touch(m, t, th, th->page);
		return;
	}
	if (!th->ops) {
		th->state = DONE;
		for (i = 0; i < THREADS; i++)
			if (t->th[i].state != DONE)
				return;
		if (pick(m, 2) && !t->changing)
			t->ended = true;
		return;
	}
	th->ops--;
	for (i = 0; i < 8 && (!t->pg[a].reg || t->pg[a].owner != tid); i++)
		a = pick(m, PAGES);
	for (i = 0; i < len && a + i < PAGES; i++)
		if (!t->pg[a + i].reg || t->pg[a + i].owner != tid || (t->pg[a + i].reused && !t->book))
			break;
	len = i;
	switch (t->closed || !len ? 0 : pick(m, 12)) {
	case 0:
	case 1:
	case 2:
		touch(m, t, th, a);
		break;
	case 3:
		touch(m, t, th, pick(m, PAGES));
		break;
	case 4:
	case 5:
		touch(m, t, th, (th->page + 1) % PAGES);
		break;
	case 6:
	case 7:
		if (fork_unread(t) && !t->book) /* was it before or after the fork? */
			break;
		k_made(m, t, (struct lp_change){ .kind = LP_CHANGE_REMOVE, .from = addr_of(a), .len = len * MD_PAGE,
						 .to = ++m->calls });
		post(t, th, EV_REMOVE, a, len, m->calls);
		break;
	case 8:
		k_made(m, t, (struct lp_change){ .kind = LP_CHANGE_UNMAP, .from = addr_of(a), .len = len * MD_PAGE });
		post(t, th, EV_UNMAP, a, len, 0);
		vacate(m, t, a, len);
		break;
	case 9:
		start_fork(m, t, th);
		break;
	case 10:
		if (t->book) {
			grow(m, t, th, a + len, 1 + pick(m, 4));
			break;
		}
		/* fallthrough */
	default:
		start_move(m, t, th, a, len);
	}
}

#endif
