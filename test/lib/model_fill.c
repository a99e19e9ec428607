/* SPDX-License-Identifier: GPL-2.0-only */
/* The model's host: fills, and what it answers to faults. Owns nothing. */
#include <inttypes.h>

#include "test/lib/model_int.h"

void md_wake_page(struct md *m, struct md_task *t, unsigned page)
{
	unsigned i;

	for (i = 0; i < m->conf.threads; i++)
		if (t->th[i].state == FAULT && t->th[i].page == page)
			t->th[i].state = AGAIN;
}

/* One page of the flight's head. False: EAGAIN or a difference. */
static bool fill_page(struct md *m, struct lp_flight *f)
{
	const struct lp_piece *h = lp_flight_head(f);
	struct md_task *t = lp_space_host(lp_flight_space(f));
	unsigned i = (h->addr - MD_BASE) / MD_PAGE;
	struct md_page *p;

	if (t->changing || md_guards_due(t))
		return false;
	if (h->addr < MD_BASE || i >= m->conf.pages || h->len < MD_PAGE || (h->addr | h->len | h->img) % MD_PAGE)
		return md_differ(m, md_task_no(m, t), "a piece at 0x%" PRIx64 "+0x%" PRIx64, h->addr, h->len);
	p = &t->pg[i];
	if (p->state == REG && !p->present) {
		if (p->want != h->img / MD_PAGE || !p->want || h->obj != md_obj(p->want))
			return md_differ(m, md_task_no(m, t), "fill of task %u page %u with image page %u, must read %u", md_task_no(m, t), i,
				      (unsigned)(h->img / MD_PAGE), p->want);
		p->present = true;
		m->fills++;
		md_wake_page(m, t, i);
	} else if (lp_flight_urgent(f)) {
		md_wake_page(m, t, i);
	}
	md_cell(m, CELL_DONE, t, h->addr, h->addr + MD_PAGE, 0, 0);
	lp_flight_advance(f, MD_PAGE);
	return true;
}

bool md_finish_flight(struct md *m, unsigned i)
{
	struct lp_flight *f = m->flight[i];
	struct lp_space *s = lp_flight_space(f);
	struct md_task *t = lp_space_host(s);

	m->flight[i] = m->flight[--m->nflights];
	if (lp_flight_finish(f))
		return md_differ(m, md_task_no(m, t), "finish says no memory");
	if (lp_space_dead(s) && !lp_space_flights(s)) {
		lp_space_free(s);
		md_cell(m, CELL_FREE, t, 0, 0, 0, 0);
		md_task_clear(t);
	}
	return true;
}

bool md_fill_some(struct md *m, unsigned i, unsigned pages)
{
	struct lp_flight *f = m->flight[i];

	while (pages-- && lp_flight_head(f))
		if (!fill_page(m, f))
			return !m->error[0];
	return true;
}

bool md_fault(struct md *m, struct md_task *t, unsigned page)
{
	struct md_page *p = &t->pg[page];
	enum lp_verdict v;
	struct lp_flight *f;
	const struct lp_piece *h;
	uint64_t a = md_addr(page);

	if (m->nflights == MD_MAX_FLIGHTS && !md_finish_flight(m, md_pick(m, m->nflights)))
		return false;
	if (!t->alive)
		return true;
	m->faults++;
	if (lp_space_fault(t->space, a, MD_PAGE << md_pick(m, 4), &v, &f))
		return md_differ(m, md_task_no(m, t), "fault says no memory");
	if (v == LP_FILL) {
		h = lp_flight_head(f);
		if (!h || h->addr != a || !lp_flight_urgent(f) || lp_flight_fault_addr(f) != a)
			return md_differ(m, md_task_no(m, t), "the flight of a fault does not begin with its page");
		m->flight[m->nflights++] = f;
		if (md_pick(m, 2))
			return true;
		return md_fill_some(m, m->nflights - 1, 1 + md_pick(m, 10)) &&
		       (md_pick(m, 2) || md_finish_flight(m, m->nflights - 1));
	}
	if (v == LP_WAIT)
		return true;
	if (v == LP_LATER && !lp_space_doubtful(t->space, a))
		return md_differ(m, md_task_no(m, t), "later, but not in doubt");
	if (t->changing || v == LP_LATER || md_guards_due(t))
		return !lp_space_defer(t->space, a) || md_differ(m, md_task_no(m, t), "defer says no memory");
	if (p->state == REG && !p->present) {
		if (p->want)
			return md_differ(m, md_task_no(m, t), "task %u page %u: zeros, must read image page %u", md_task_no(m, t), page, p->want);
		p->present = true;
	}
	md_wake_page(m, t, page);
	lp_space_answered(t->space, a);
	return true;
}

/*
 * Somebody who fills the space of @t is told that a thread has touched @page, before
 * there is a message, or although nobody has.
 */
static bool host_told(struct md *m, struct md_task *t, unsigned page)
{
	struct lp_flight *own = NULL, *f;
	const struct lp_piece *h;
	unsigned i;

	for (i = 0; i < m->nflights; i++)
		if (lp_flight_space(m->flight[i]) == t->space && !lp_flight_urgent(m->flight[i]))
			own = m->flight[i];
	if (!own || m->nflights == MD_MAX_FLIGHTS)
		return true;
	if (lp_space_early_fault(t->space, md_addr(page), MD_PAGE << md_pick(m, 4), own, &f))
		return md_differ(m, md_task_no(m, t), "an early fault says no memory");
	if (!f)
		return true;
	h = lp_flight_head(f);
	if (!h || h->addr != md_addr(page) || !lp_flight_urgent(f))
		return md_differ(m, md_task_no(m, t), "the flight of an early fault does not begin with its page");
	m->flight[m->nflights++] = f;
	return md_pick(m, 2) ||
	       (md_fill_some(m, m->nflights - 1, 1 + md_pick(m, 10)) && md_finish_flight(m, m->nflights - 1));
}

bool md_touch(struct md *m, struct md_task *t, struct md_thread *th, unsigned page)
{
	if (!md_pick(m, 4) && !host_told(m, t, md_pick(m, 8) ? page : md_pick(m, m->conf.pages)))
		return false;
	th->state = RUN;
	th->page = page;
	if (t->pg[page].state != REG || t->pg[page].present)
		return true;
	th->state = FAULT;
	md_note(m, "fault at", md_task_no(m, t), th - t->th, page, 1, 0);
	return md_fault(m, t, page);
}
