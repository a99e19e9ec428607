/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The model's host is killed at any step, as a worker of the daemon is: the
 * engine with all flights is gone. What the journal of doc/design.md would have
 * is kept here: the calls that succeeded, the answers of the kernel, what was
 * filled. A new engine is given all that and must ask the same questions and
 * have the same views; then it takes the place of the old one.
 *
 * The journal belongs to the model and begins anew with each world.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "test/lib/model_int.h"

static void grow(void **v, size_t n, size_t *cap, size_t each)
{
	if (n < *cap)
		return;
	*cap = 2 * n + 256;
	*v = realloc(*v, *cap * each);
	if (!*v)
		abort();
}

void md_call(struct md *m)
{
	m->j.nanswers = m->j.used;
}

int md_answer(struct md *m, int answer)
{
	struct md_journal *j = &m->j;

	/* Its layout is changing already: as in the daemon, it is not a settled moment after all. */
	if (j->refuse && !--j->refuse)
		answer = -EAGAIN;
	grow((void **)&j->answers, j->nanswers, &j->cap_answers, sizeof(*j->answers));
	j->answers[j->nanswers++] = answer;
	return answer;
}

void md_cell(struct md *m, enum md_cell_kind kind, const struct md_task *t, uint64_t a, uint64_t b, uint64_t c,
	     uint32_t obj)
{
	struct md_journal *j = &m->j;

	grow((void **)&j->cells, j->n, &j->cap, sizeof(*j->cells));
	j->cells[j->n++] = (struct md_cell){ .kind = kind, .task = md_task_no(m, t), .obj = obj,
					      .nanswers = j->nanswers - j->used, .a = a, .b = b, .c = c };
	j->used = j->nanswers;
}

void md_change_cell(struct md *m, const struct md_task *t, const struct lp_change *c)
{
	md_cell(m, CELL_CHANGE, t, 0, 0, 0, 0);
	m->j.cells[m->j.n - 1].change = *c;
}

void md_journal_clear(struct md *m)
{
	m->j.n = m->j.nanswers = m->j.used = m->j.at = 0;
}

void md_journal_free(struct md *m)
{
	free(m->j.cells);
	free(m->j.answers);
}

/* ---- The new engine ------------------------------------------------------- */

int md_replayed_answer(struct md *m)
{
	struct md_journal *j = &m->j;

	if (j->at < j->end)
		return j->answers[j->at++];
	md_differ(m, -1, "after a kill the engine asks more");
	return -EAGAIN;
}

static int give(struct md *m, const struct md_cell *c, struct lp_space **sp)
{
	struct lp_space *s = sp[c->task];

	switch (c->kind) {
	case CELL_NEW:
		return lp_space_new(m->engine, &m->task[c->task], &sp[c->task]);
	case CELL_EXTENT:
		return lp_space_add_extent(s, c->a, c->b);
	case CELL_MISSING:
		return lp_space_add_missing(s, c->a, c->b, c->c, c->obj);
	case CELL_WIPED:
		return lp_space_add_wiped(s, c->a, c->b);
	case CELL_DONTFORK:
		return lp_space_add_dontfork(s, c->a, c->b);
	case CELL_FORK:
		return lp_space_fork(s, &m->task[c->a], &sp[c->a]);
	case CELL_REMAP:
		return lp_space_remap(s, c->a, c->b, c->c);
	case CELL_REMOVE:
		lp_space_call(s, c->c);
		return lp_space_remove(s, c->a, c->b);
	case CELL_UNMAP:
		return lp_space_unmap(s, c->a, c->b);
	case CELL_SETTLED:
		return lp_space_settled(s);
	case CELL_EXIT:
		lp_space_exit(s);
		return 0;
	case CELL_FREE:
		lp_space_free(s);
		sp[c->task] = NULL;
		return 0;
	case CELL_DONE:
		return lp_space_filled(s, c->a, c->b);
	case CELL_BOOK:
		lp_space_book(s, c->a);
		return 0;
	case CELL_CHANGE:
		return lp_space_changed(s, &c->change);
	}
	return -EINVAL;
}

static bool same(struct md *m, const struct md_task *t, const struct lp_space *s)
{
	unsigned no = md_task_no(m, t), i;

	if (lp_space_dead(s) != lp_space_dead(t->space) || lp_space_young(s) != lp_space_young(t->space) ||
	    lp_space_unsettled(s) != lp_space_unsettled(t->space))
		return md_differ(m, no, "after a kill task %u is dead, young or unsettled otherwise", no);
	for (i = 0; i < m->conf.pages && !lp_space_dead(s); i++) {
		uint64_t a = MD_BASE + i * MD_PAGE, img[2] = { 0 };
		uint32_t obj[2] = { 0 };
		bool has[2] = { lp_space_peek(t->space, a, &img[0], &obj[0]), lp_space_peek(s, a, &img[1], &obj[1]) };

		if (has[0] != has[1] || img[0] != img[1] || obj[0] != obj[1])
			return md_differ(m, no, "task %u page %u: after a kill the engine says image page %u, before %u", no,
					 i, (unsigned)(img[1] / MD_PAGE), (unsigned)(img[0] / MD_PAGE));
		if (lp_space_doubtful(s, a) != lp_space_doubtful(t->space, a) ||
		    lp_space_registered(s, a, a + MD_PAGE) != lp_space_registered(t->space, a, a + MD_PAGE))
			return md_differ(m, no, "task %u page %u: after a kill it is in doubt, or registered, otherwise", no,
					 i);
	}
	return true;
}

/* All that wait are woken, and fault again. */
static void fault_again(struct md *m)
{
	unsigned i, k;

	for (i = 0; i < MD_MAX_TASKS; i++)
		for (k = 0; k < m->conf.threads; k++)
			if (m->task[i].th[k].state == FAULT)
				m->task[i].th[k].state = AGAIN;
}

bool md_kill(struct md *m)
{
	struct lp_space *sp[MD_MAX_TASKS] = { NULL };
	struct lp_engine *old = m->engine;
	struct md_journal *j = &m->j;
	uint64_t addr, booked, guessed;
	size_t i;

	j->used = j->nanswers; /* of a call that failed */
	m->engine = md_new_engine(m);
	m->replaying = true;
	for (i = j->at = 0; i < j->n && !m->error[0]; i++) {
		const struct md_cell *c = &j->cells[i];

		j->end = j->at + c->nanswers;
		if (give(m, c, sp))
			md_differ(m, c->task, "after a kill the engine refuses what it took then");
		if (j->at < j->end)
			md_differ(m, c->task, "after a kill the engine asks less");
		while (sp[c->task] && lp_space_next_wake(sp[c->task], &addr))
			;
	}
	m->replaying = false;
	for (i = 0; i < MD_MAX_TASKS && !m->error[0]; i++)
		if (m->task[i].space)
			same(m, &m->task[i], sp[i]);
	/* The old one is gone. A space that only waited for its flights is so, too. */
	while (m->nflights)
		if (lp_flight_finish(m->flight[--m->nflights]))
			abort();
	for (i = 0; i < MD_MAX_TASKS; i++) {
		struct md_task *t = &m->task[i];

		if (t->space)
			lp_space_free(t->space);
		t->space = sp[i];
		if (t->space && lp_space_dead(t->space)) {
			lp_space_free(t->space);
			md_cell(m, CELL_FREE, t, 0, 0, 0, 0);
			md_task_clear(t);
		}
	}
	lp_engine_settlings(old, &booked, &guessed);
	m->booked += booked;
	m->guessed += guessed;
	lp_engine_settlings(m->engine, &booked, &guessed); /* those were the same */
	m->booked -= booked;
	m->guessed -= guessed;
	lp_engine_free(old);
	fault_again(m);
	m->kills++;
	return !m->error[0];
}
