/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The whole restore in virtual time: random programs on a simulated kernel, a
 * source that answers late, short or not at all, and a host made like
 * plugin/restore/{fill,reader}.c, each actor a state machine that may stall
 * anywhere. What threads read is compared with what they must read; nobody may
 * wait for ever; in the end everything is there. `--without RULE` takes one
 * rule out of the host, to show that its absence would be seen; `--each-rule`
 * does so with one after the other. In every other run the host keeps a book of
 * each task; then threads race as they like.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "test/lib/model.h"
#include "test/scenario/sim_world.h"

/* ---- Host: fills --------------------------------------------------------- */

/* After the fact: say what became of @pages of the head, started with @at. */
static int land(struct sim *m, struct task *t, struct lp_flight *f, const struct lp_piece *at, unsigned pages)
{
	const struct lp_piece *h;
	unsigned i;
	int rc;

	for (i = 0; i < pages; i++) {
		uint64_t addr = at->addr + i * MD_PAGE;

		rc = k_put(t, addr, at->img / MD_PAGE + i);
		if (rc == -ENOENT && m->without != R_ENOENT) {
			rc = k_changing(t);
			if (!rc)
				rc = k_put(t, addr, at->img / MD_PAGE + i);
		}
		if (rc && rc != -ENOENT && rc != -EEXIST)
			return rc;
		if (rc && lp_flight_urgent(f))
			k_wake(t, (addr - BASE) / MD_PAGE);
		h = lp_flight_head(f);
		if (h) /* without the gate or with an old piece it need not be ours */
			lp_flight_advance(f, MD_PAGE);
	}
	return 0;
}

static void end_flight(struct sim *m, struct lp_flight *f, int why)
{
	struct task *t = task_of(f);
	const struct lp_piece *h;

	if (why == -EIO && m->without == R_SHORT)
		while ((h = lp_flight_head(f)))
			lp_flight_advance(f, h->len);
	if (why == -EAGAIN && m->without == R_EAGAIN)
		while ((h = lp_flight_head(f)))
			lp_flight_advance(f, h->len);
	if (lp_flight_finish(f))
		fail(m, "finish failed");
	if (why && !lp_space_dead(t->space)) {
		lp_space_stall(t->space, m->now + 100);
		t->retry_at = m->now + 100;
	}
}

/* Between two chunks of @own, in the gate but not alone: a fault is told of before its message, or none that there is. */
static void told(struct sim *m, struct task *t, struct lp_flight *own)
{
	unsigned page = pick(m, PAGES), i;
	struct lp_flight *f;

	for (i = 0; i < THREADS; i++)
		if (t->th[i].state == FAULT && pick(m, 8))
			page = t->th[i].page;
	if (m->nqueue == QUEUE)
		return;
	if (lp_space_early_fault(t->space, addr_of(page), 4 * MD_PAGE, own, &f))
		fail(m, "an early fault failed");
	else if (f)
		m->queue[m->nqueue++] = f;
}

static void worker_step(struct sim *m, struct worker *w, bool urgent)
{
	struct task *t = w->f ? task_of(w->f) : NULL;
	const struct lp_piece *h;
	uint64_t when;
	int rc;

	if (w->stall > m->now)
		return;
	if (!pick(m, 40)) {
		w->stall = m->now + pick(m, 2000);
		return;
	}
	switch (w->phase) {
	case IDLE:
		w->have_len = 0;
		if (urgent && m->nqueue) {
			w->f = m->queue[0];
			memmove(m->queue, m->queue + 1, --m->nqueue * sizeof(m->queue[0]));
			w->phase = LOOK;
		} else if (!urgent && !lp_engine_next(m->engine, (1 + pick(m, 16)) * MD_PAGE, 4, m->now, &w->f, &when)) {
			w->phase = LOOK;
		}
		break;
	case LOOK:
		if (t->announced && m->without != R_GATE)
			break;
		if (!urgent && !pick(m, 3))
			told(m, t, w->f);
		h = lp_flight_head(w->f);
		if (!h) {
			end_flight(m, w->f, 0);
			w->f = NULL;
			w->phase = IDLE;
		} else if (w->have_len && (m->without == R_MATCH ||
			   (h->obj == w->have_obj && h->img - w->have_img < w->have_len))) {
			if (m->without != R_REMOVE)
				w->at = *h;
			if (m->without == R_MATCH)
				w->at.img = w->have_img;
			w->filling = 1 + pick(m, 4);
			if (w->filling * MD_PAGE > h->len)
				w->filling = h->len / MD_PAGE;
			while (w->filling > 1 && w->at.img + w->filling * MD_PAGE > w->have_img + w->have_len)
				w->filling--;
			if (m->without == R_MATCH || m->without == R_REMOVE)
				w->have_len = 0;
			w->rc = k_changing(t);
			t->fills++;
			w->phase = FILL;
		} else {
			w->at = *h;
			w->ready = m->now + pick(m, pick(m, 4) ? 200 : 3000);
			w->phase = ASK;
		}
		break;
	case ASK:
		if (m->now < w->ready)
			break;
		w->phase = LOOK;
		if (!pick(m, 8)) { /* the source fails */
			end_flight(m, w->f, -EIO);
			w->f = NULL;
			w->phase = IDLE;
			break;
		}
		w->have_obj = w->at.obj;
		w->have_img = w->at.img;
		w->have_len = pick(m, 3) ? w->at.len : MD_PAGE; /* or answers short */
		break;
	case FILL:
		rc = w->rc ? w->rc : land(m, t, w->f, &w->at, w->filling);
		t->fills--;
		w->phase = LOOK;
		if (rc) {
			end_flight(m, w->f, rc);
			w->f = NULL;
			w->phase = IDLE;
		}
	}
}

/* ---- Host: the reader ---------------------------------------------------- */

static void answer(struct sim *m, struct task *t, uint64_t addr)
{
	enum lp_verdict v;
	struct lp_flight *f;
	struct lp_piece at;
	int rc;

	if (lp_space_fault(t->space, addr, 4 * MD_PAGE, &v, &f)) {
		fail(m, "fault failed");
	} else if (v == LP_LATER) {
		if (lp_space_defer(t->space, addr))
			fail(m, "defer failed");
		t->retry_at = m->now + 100;
	} else if (v == LP_ZERO) {
		rc = k_changing(t);
		if (!rc)
			rc = k_put(t, addr, 0);
		if (rc == -EEXIST || rc == -ENOENT) {
			k_wake(t, (addr - BASE) / MD_PAGE);
			rc = 0;
		}
		if (rc == -EAGAIN && m->without != R_DEFER) {
			if (lp_space_defer(t->space, addr))
				fail(m, "defer failed");
			t->retry_at = m->now + 100;
		} else {
			lp_space_answered(t->space, addr);
		}
	} else if (v == LP_FILL) {
		if (pick(m, 2) && m->nqueue < QUEUE) {
			m->queue[m->nqueue++] = f;
			return;
		}
		at = *lp_flight_head(f);
		rc = k_changing(t);
		if (!rc)
			rc = land(m, t, f, &at, at.len / MD_PAGE);
		end_flight(m, f, rc);
	}
}

static void settled(struct sim *m, struct task *t);

static void begin_book(struct sim *m, struct task *t)
{
	if (t->book && m->without != R_BOOK)
		lp_space_book(t->space, t->book);
}

/* What the kernel of @t has made so far. */
static void enter(struct sim *m, struct task *t)
{
	unsigned i;

	for (i = 0; i < t->nentries; i++)
		if (lp_space_changed(t->space, &t->entries[i]))
			fail(m, "a change failed");
	t->nentries = 0;
}

static void apply(struct sim *m, struct task *t, const struct event *e)
{
	uint64_t a = addr_of(e->a), addr;
	struct task *c;
	int rc = 0;

	if (m->without != R_ENTER)
		enter(m, t);
	switch (e->kind) {
	case EV_FORK:
		c = &m->task[e->to];
		rc = lp_space_fork(t->space, c, &c->space);
		if (!rc)
			begin_book(m, c);
		c->parent = t;
		break;
	case EV_REMAP:
		rc = lp_space_remap(t->space, a, addr_of(e->to), e->len * MD_PAGE);
		break;
	case EV_REMOVE:
		if (t->book)
			lp_space_call(t->space, e->to);
		rc = lp_space_remove(t->space, a, a + e->len * MD_PAGE);
		break;
	case EV_UNMAP:
		rc = lp_space_unmap(t->space, a, a + e->len * MD_PAGE);
	}
	if (rc)
		fail(m, "an event failed");
	while (lp_space_next_wake(t->space, &addr))
		if (m->without != R_WAKES)
			k_wake(t, (addr - BASE) / MD_PAGE);
	lp_space_stall(t->space, m->now);
	t->retry_at = m->now;
	if (m->without == R_ORDER)
		settled(m, t);
}

static bool has_message(const struct task *t)
{
	unsigned i;

	for (i = 0; i < THREADS; i++)
		if ((t->th[i].state == FAULT && t->th[i].fault_unread) || (t->th[i].state == BLOCKED && !t->th[i].read))
			return true;
	return false;
}

static void settled(struct sim *m, struct task *t)
{
	uint64_t addr;
	unsigned i, k;
	int rc;

	rc = lp_space_settled(t->space);
	if (rc && rc != -EAGAIN)
		fail(m, "settled failed");
	if (rc)
		return;
	while (lp_space_next_wake(t->space, &addr))
		if (m->without != R_WAKES)
			k_wake(t, (addr - BASE) / MD_PAGE);
	lp_space_stall(t->space, 0);
	t->retry_at = 0;
	for (i = 0; !t->changing && i < PAGES; i++)
		t->pg[i].reused = false;
	for (i = 0; i < TASKS; i++) {
		struct task *c = &m->task[i];

		if (!c->space || c->parent != t)
			continue;
		c->retry_at = 0;
		c->parent = NULL;
		for (k = 0; m->without == R_FORK && k < WORKERS + URGENT; k++)
			if (m->w[k].f && task_of(m->w[k].f) == t &&
			    lp_space_remove(c->space, m->w[k].at.addr, m->w[k].at.addr + m->w[k].at.len))
				fail(m, "remove failed");
	}
}

/* All messages are read; if a probe does not say EAGAIN this is a settled moment. */
static void settle(struct sim *m, struct task *t)
{
	enter(m, t);
	if (m->without == R_SETTLED || (!lp_space_unsettled(t->space) && !lp_space_booked(t->space)))
		return;
	if (k_changing(t) && m->without != R_PROBE)
		return;
	settled(m, t);
}

static void read_messages(struct sim *m, struct task *t)
{
	unsigned i, first = pick(m, THREADS);
	bool faults[THREADS];
	uint64_t addr;

	if (lp_space_young(t->space) && m->without != R_YOUNG)
		return;
	for (i = 0; i < THREADS; i++) { /* faults come before events, but are answered after them */
		faults[i] = t->th[i].state == FAULT && t->th[i].fault_unread;
		if (faults[i])
			t->th[i].fault_unread = false;
	}
	for (i = 0; i < THREADS; i++) {
		struct thread *th = &t->th[(i + first) % THREADS];

		if (th->state == BLOCKED && !th->read) {
			th->read = true;
			apply(m, t, &th->q[th->i]);
		}
	}
	if (pick(m, 4)) /* a look that comes too soon, or a full buffer */
		settle(m, t);
	for (i = 0; i < THREADS; i++)
		if (faults[i])
			answer(m, t, addr_of(t->th[i].page));
	for (i = 0; i < 8 && t->retry_at <= m->now && lp_space_next_deferred(t->space, &addr); i++)
		answer(m, t, addr);
}

static void close_task(struct sim *m, struct task *t)
{
	unsigned i;

	for (i = 0; i < PAGES && !t->ended; i++) {
		struct page *p = &t->pg[i];

		if (p->reg && (p->present ? p->content : 0) != p->want)
			fail(m, "task %d page %u holds %u at the end, must hold %u", (int)(t - m->task), i,
			     p->present ? p->content : 0, p->want);
	}
	lp_space_free(t->space);
	t->space = NULL;
	t->closed = true;
	for (i = 0; i < THREADS; i++) { /* nothing is registered any more: all waiters go on */
		struct thread *th = &t->th[i];

		if (th->state == FAULT && !th->fault_unread && !t->ended)
			fail(m, "task %d: the wait for page %u was forgotten", (int)(t - m->task), th->page);
		k_wake(t, th->page);
	}
}

static void reader_step(struct sim *m)
{
	struct task *t = m->reading;
	unsigned i;

	if (t) {
		if (t->fills && m->without != R_GATE)
			return;
		if (t->ended)
			enter(m, t);
		if (t->ended && m->without != R_EXIT)
			lp_space_exit(t->space);
		else if (!t->ended)
			read_messages(m, t);
		t->announced = false;
		m->reading = NULL;
		if (!lp_space_flights(t->space) && !t->fills && !t->changing && lp_space_complete(t->space))
			close_task(m, t);
		return;
	}
	t = &m->task[pick(m, TASKS)];
	if (!t->space)
		return;
	if (has_message(t) || lp_space_unsettled(t->space) || t->nentries || lp_space_booked(t->space) ||
	    (lp_space_has_deferred(t->space) && t->retry_at <= m->now) || t->ended || !pick(m, 50)) {
		for (i = 0; i < THREADS && t->ended; i++)
			t->th[i].state = DONE;
		t->announced = true;
		m->reading = t;
	}
}

/* ---- Runs ---------------------------------------------------------------- */

static void populate(struct sim *m, struct task *t, bool book)
{
	unsigned i = 0, k;
	uint32_t img = 1 + pick(m, 1000);
	int rc;

	t->used = true;
	t->hasty = m->without == R_ORDER || m->without == R_PROBE;
	rc = lp_space_new(m->engine, t, &t->space);
	if (!rc && book) {
		t->book = ++m->books;
		begin_book(m, t);
	}
	while (!rc && i < PAGES) {
		unsigned len = 1 + pick(m, 16), kind = pick(m, 6);

		if (i + len > PAGES)
			len = PAGES - i;
		if (kind)
			rc = lp_space_add_extent(t->space, addr_of(i), addr_of(i + len));
		if (!rc && kind > 1)
			rc = lp_space_add_missing(t->space, addr_of(i), addr_of(i + len), img * MD_PAGE, 1);
		for (k = 0; k < len; k++)
			t->pg[i + k] = (struct page){ .reg = kind, .want = kind > 1 ? img + k : 0,
						      .home = i + k, .owner = (i + k) * THREADS / PAGES };
		img += len + pick(m, 2) * 100;
		i += len;
	}
	for (k = 0; k < THREADS; k++)
		t->th[k].ops = 10 + pick(m, OPS);
	if (rc)
		fail(m, "no memory");
}

static bool all_closed(const struct sim *m)
{
	unsigned i, k;

	for (i = 0; i < TASKS; i++) {
		if (!m->task[i].used)
			continue;
		if (!m->task[i].closed)
			return false;
		for (k = 0; k < THREADS && !m->task[i].ended; k++)
			if (m->task[i].th[k].state != DONE)
				return false;
	}
	return true;
}

static void clean_up(struct sim *m)
{
	unsigned i;

	for (i = 0; i < m->nqueue; i++)
		lp_flight_finish(m->queue[i]);
	for (i = 0; i < WORKERS + URGENT; i++)
		if (m->w[i].f)
			lp_flight_finish(m->w[i].f);
	for (i = 0; i < TASKS; i++)
		if (m->task[i].space)
			lp_space_free(m->task[i].space);
	if (lp_engine_nodes(m->engine))
		fail(m, "nodes leaked");
	lp_engine_free(m->engine);
}

static int k_there(void *host, uint64_t start, uint64_t len)
{
	const struct task *t = host;
	unsigned i = (start - BASE) / MD_PAGE, n = len / MD_PAGE;

	if (t->ended)
		return 0;
	if (t->changing && !t->hasty)
		return -EAGAIN;
	return i < PAGES && i + n <= PAGES && t->pg[i].reg && one_mapping(t, i, n) == n;
}

static bool run(uint64_t seed, enum rule without, char *error, size_t len)
{
	struct lp_engine_conf conf = { .page = MD_PAGE, .seed = seed, .there = k_there };
	struct sim *m = calloc(1, sizeof(*m));
	bool ok, book;
	unsigned i;

	if (!m)
		abort();
	m->rng = md_seed(seed);
	m->without = without;
	m->engine = lp_engine_new(&conf);
	if (!m->engine)
		abort();
	book = pick(m, 2);
	for (i = 0; i < 2; i++)
		populate(m, &m->task[i], book);
	while (!m->error[0] && !all_closed(m)) {
		unsigned who = pick(m, 16);
		struct task *t = &m->task[pick(m, TASKS)];
		struct thread *th = &t->th[pick(m, THREADS)];

		m->now++;
		if (who < 5) {
			if ((t->space || t->closed) && !t->ended)
				thread_step(m, t, th);
		} else if (who < 5 + WORKERS + URGENT) {
			worker_step(m, &m->w[who - 5], who - 5 >= WORKERS);
		} else {
			reader_step(m);
		}
		if (t->used && !t->ended && (th->state == FAULT || th->state == BLOCKED) && m->now - th->since > PATIENCE)
			fail(m, "task %d: a thread waits for page %u for ever", (int)(t - m->task), th->page);
		if (m->now > 20 * PATIENCE)
			fail(m, "does not come to an end");
		if (m->now > 3 * PATIENCE && t->used && t->ended && !t->closed)
			fail(m, "task %d has ended, the host does not see it", (int)(t - m->task));
		if (m->now > 3 * PATIENCE && t->used && !t->closed)
			fail(m, "task %d does not become complete", (int)(t - m->task));
	}
	clean_up(m);
	ok = !m->error[0];
	snprintf(error, len, "%s (step %" PRIu64 ")", m->error, m->now);
	free(m);
	return ok;
}

/* Each rule is taken out; false when one of them is not missed in @runs runs. */
static bool each_rule(uint64_t runs, uint64_t seed)
{
	char error[256];
	bool ok = true;
	uint64_t i;
	size_t k;

	for (k = 1; k < NRULES; k++) {
		for (i = 0; i < runs && run(seed + i, k, error, sizeof(error)); i++)
			;
		if (i < runs)
			printf("sim: without %s: run %" PRIu64 " fails: %s\n", rules[k].name, i + 1, error);
		else
			printf("sim: without %s: NOT MISSED in %" PRIu64 " runs\n", rules[k].name, runs);
		ok = ok && i < runs;
	}
	return ok;
}

int main(int argc, char **argv)
{
	static const struct option opt[] = {
		{ "runs", required_argument, NULL, 'r' },    { "seed", required_argument, NULL, 's' },
		{ "without", required_argument, NULL, 'w' }, { "list-rules", no_argument, NULL, 'l' },
		{ "each-rule", no_argument, NULL, 'e' },     { 0 },
	};
	uint64_t runs = 2000, seed = 1, i;
	enum rule without = R_NONE;
	bool each = false;
	char error[256];
	size_t k;
	int c;

	while ((c = getopt_long(argc, argv, "", opt, NULL)) >= 0) {
		switch (c) {
		case 'r':
			runs = strtoull(optarg, NULL, 0);
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'w':
			for (k = 1; k < NRULES; k++)
				if (!strcmp(rules[k].name, optarg))
					without = k;
			if (without == R_NONE) {
				fprintf(stderr, "sim_run: no rule `%s`, see --list-rules\n", optarg);
				return 2;
			}
			break;
		case 'e':
			each = true;
			break;
		case 'l':
			for (k = 1; k < NRULES; k++)
				printf("%-15s %s\n", rules[k].name, rules[k].help);
			return 0;
		default:
			fprintf(stderr, "usage: sim_run [--runs N] [--seed S] [--without RULE | --each-rule] [--list-rules]\n");
			return 2;
		}
	}
	if (each)
		return each_rule(runs, seed) ? 0 : 1;
	for (i = 0; i < runs; i++) {
		if (run(seed + i, without, error, sizeof(error)))
			continue;
		printf("sim: FAILURE in run %" PRIu64 ", --seed %" PRIu64 "%s%s: %s\n", i + 1, seed + i,
		       without ? " --without " : "", without ? rules[without].name : "", error);
		return 1;
	}
	printf("sim: %" PRIu64 " runs, 0 failures\n", runs);
	return 0;
}
