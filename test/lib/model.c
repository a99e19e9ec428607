/* SPDX-License-Identifier: GPL-2.0-only */
/* The model of the engine's world: worlds, host and comparison; see model.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "test/lib/model_int.h"

unsigned md_pick(struct md *m, unsigned n)
{
	unsigned v;

	if (n < 2)
		return 0;
	if (!m->ch.p)
		return (uint64_t)(uint32_t)(md_random(&m->ch.rng) >> 32) * n >> 32;
	if (m->ch.p == m->ch.end)
		return 0;
	v = *m->ch.p++;
	if (n > 256 && m->ch.p < m->ch.end)
		v |= (unsigned)*m->ch.p++ << 8;
	return v % n;
}

void md_task_clear(struct md_task *t)
{
	*t = (struct md_task){ .m = t->m, .pg = t->pg, .entries = t->entries, .cap_entries = t->cap_entries };
}

void md_note(struct md *m, const char *what, unsigned task, unsigned thread, unsigned a, unsigned b, unsigned c)
{
	m->last[m->nlast++ % MD_KEPT] = (struct md_note){ m->step, what, task, thread, a, b, c };
}

bool md_differ(struct md *m, int bad, const char *fmt, ...)
{
	va_list ap;

	if (!m->error[0]) {
		m->bad = bad;
		va_start(ap, fmt);
		vsnprintf(m->error, sizeof(m->error), fmt, ap);
		va_end(ap);
	}
	return false;
}

/* ---- What the task must see --------------------------------------------- */

static bool check_task(struct md *m, struct md_task *t)
{
	unsigned i;

	if (!t->alive || t->changing || md_guards_due(t))
		return true;
	for (i = 0; i < m->conf.pages; i++) {
		struct md_page *p = &t->pg[i];
		uint64_t img = 0;
		uint32_t obj = 0;
		bool has;

		if (lp_space_doubtful(t->space, md_addr(i)))
			continue;
		if (p->state != REG && !t->child && lp_space_registered(t->space, md_addr(i), md_addr(i + 1)))
			return md_differ(m, md_task_no(m, t), "task %u page %u: not there, the engine takes it for registered",
					  md_task_no(m, t), i);
		if (p->state == REG && p->present)
			continue;
		has = lp_space_peek(t->space, md_addr(i), &img, &obj);
		if (p->state != REG) {
			if (has && !t->child) /* a child's ENOENT drops it */
				return md_differ(m, md_task_no(m, t), "task %u page %u is not there, the engine would fill it with image page %u",
					      md_task_no(m, t), i, (unsigned)(img / MD_PAGE));
		} else if (has != (p->want != 0)) {
			return md_differ(m, md_task_no(m, t), "task %u page %u: must read %s%u, the engine says %s%u", md_task_no(m, t), i,
				      p->want ? "image page " : "zeros ", p->want, has ? "image page " : "zeros ",
				      (unsigned)(img / MD_PAGE));
		} else if (has && (img != p->want * MD_PAGE || obj != md_obj(p->want))) {
			return md_differ(m, md_task_no(m, t), "task %u page %u: must read image page %u, the engine says %u of object %u",
				      md_task_no(m, t), i, p->want, (unsigned)(img / MD_PAGE), obj);
		}
	}
	return true;
}

static void wake_all(struct md *m, struct md_task *t)
{
	uint64_t addr;

	while (lp_space_next_wake(t->space, &addr))
		md_wake_page(m, t, (addr - MD_BASE) / MD_PAGE);
}

bool md_guards_due(const struct md_task *t)
{
	size_t i;

	for (i = 0; i < t->nentries; i++)
		if (t->entries[i].kind == LP_CHANGE_GUARD)
			return true;
	return false;
}

bool md_enter(struct md *m, struct md_task *t)
{
	size_t i;

	for (i = 0; i < t->nentries; i++) {
		if (lp_space_concerned(t->space, &t->entries[i]))
			md_change_cell(m, t, &t->entries[i]);
		if (lp_space_changed(t->space, &t->entries[i]))
			return md_differ(m, md_task_no(m, t), "a change says no memory");
	}
	t->nentries = 0;
	wake_all(m, t);
	return true;
}

/* The host sees a settled moment, if it is one. */
static bool observe(struct md *m, struct md_task *t)
{
	unsigned i;
	int rc;

	if (!t->alive)
		return true;
	if ((!t->changing || !md_pick(m, 4)) && !md_enter(m, t))
		return false;
	if (t->changing || (!lp_space_unsettled(t->space) && !lp_space_booked(t->space)))
		return true;
	/* It may begin to change its layout in the middle of the questions: then nothing has happened. */
	if (!(md_random(&m->kill_rng) >> 32 & 3))
		m->j.refuse = 1 + (md_random(&m->kill_rng) >> 32 & 7);
	md_call(m);
	rc = lp_space_settled(t->space);
	if (rc == -EAGAIN && !m->j.refuse) {
		md_call(m);
		rc = lp_space_settled(t->space);
	}
	m->j.refuse = 0;
	if (!rc)
		md_cell(m, CELL_SETTLED, t, 0, 0, 0, 0);
	if (rc || lp_space_unsettled(t->space))
		return md_differ(m, md_task_no(m, t), "settled says %s", strerror(-rc));
	wake_all(m, t);
	md_note(m, "  settled", md_task_no(m, t), 0, 0, 0, 0);
	for (i = 0; i < m->conf.pages; i++) {
		struct md_page *p = &t->pg[i];

		p->ghost = p->vacated = p->hollow = p->moved = p->over = false;
		p->changed = 0;
	}
	return true;
}

static bool retry_deferred(struct md *m, struct md_task *t)
{
	uint64_t a;

	if (!observe(m, t))
		return false;
	if (!t->alive || !lp_space_next_deferred(t->space, &a))
		return true;
	return md_fault(m, t, (a - MD_BASE) / MD_PAGE);
}

static bool claim(struct md *m)
{
	struct lp_flight *f;
	const struct lp_piece *h;
	uint64_t when;
	int rc;

	if (m->nflights == MD_MAX_FLIGHTS)
		return md_finish_flight(m, md_pick(m, m->nflights));
	rc = lp_engine_next(m->engine, MD_PAGE * (1 + md_pick(m, 48)), 1 + md_pick(m, 6), m->now, &f, &when);
	if (rc == -EAGAIN)
		return true;
	if (rc)
		return md_differ(m, -1, "next says no memory");
	h = lp_flight_head(f);
	if (!h || lp_flight_urgent(f))
		return md_differ(m, -1, "an empty or urgent flight from the background");
	md_note(m, "claim from", md_task_no(m, lp_space_host(lp_flight_space(f))), 0, (h->addr - MD_BASE) / MD_PAGE,
	     h->len / MD_PAGE, 0);
	m->flight[m->nflights++] = f;
	return true;
}

/* ---- Messages ------------------------------------------------------------ */

static bool apply(struct md *m, struct md_task *t, struct md_thread *th)
{
	const struct md_event *e = &th->q[th->i];
	uint64_t a = md_addr(e->a), end = md_addr(e->a + e->len), addr;
	static const char *const names[] = { "  read FORK", "  read REMAP", "  read REMOVE", "  read UNMAP" };
	struct md_task *c;
	int rc = 0;

	md_note(m, names[e->kind], md_task_no(m, t), th - t->th, e->a, e->len, e->to);
	if (!md_enter(m, t))
		return false;
	md_call(m);
	switch (e->kind) {
	case EV_FORK:
		c = &m->task[e->to];
		rc = lp_space_fork(t->space, c, &c->space);
		c->alive = !rc;
		if (!rc)
			md_cell(m, CELL_FORK, t, e->to, 0, 0, 0);
		if (!rc && c->book) {
			lp_space_book(c->space, c->book);
			md_cell(m, CELL_BOOK, c, c->book, 0, 0, 0);
		}
		if (!rc && (!lp_space_young(c->space) || lp_space_unsettled(c->space)))
			return md_differ(m, e->to, "a new child is not young");
		break;
	case EV_REMAP:
		rc = lp_space_remap(t->space, a, md_addr(e->to), end - a);
		md_cell(m, CELL_REMAP, t, a, md_addr(e->to), end - a, 0);
		break;
	case EV_REMOVE:
		if (t->book)
			lp_space_call(t->space, e->to);
		rc = lp_space_remove(t->space, a, end);
		md_cell(m, CELL_REMOVE, t, a, end, t->book ? e->to : 0, 0);
		break;
	case EV_UNMAP:
		rc = lp_space_unmap(t->space, a, end);
		md_cell(m, CELL_UNMAP, t, a, end, 0, 0);
	}
	if (rc)
		return md_differ(m, md_task_no(m, t), "an event says %s", strerror(-rc));
	th->read = true;
	t->unread--;
	m->events++;
	while (lp_space_next_wake(t->space, &addr))
		md_wake_page(m, t, (addr - MD_BASE) / MD_PAGE);
	return true;
}

/* The thread runs after its message was read. */
static void run_on(struct md *m, struct md_task *t, struct md_thread *th)
{
	const struct md_event *e = &th->q[th->i];
	unsigned i;

	if (e->kind == EV_REMOVE) {
		for (i = e->a; i < e->a + e->len; i++) {
			if (t->pg[i].state == REG) {
				t->pg[i].want = 0;
				t->pg[i].present = false;
			}
		}
	}
	th->read = false;
	if (++th->i == th->n)
		th->state = RUN;
	if (!--t->changing)
		md_forget_reused(m, t);
}

/*
 * The host reads a message, then mostly waits for a settled moment: what it has
 * read is done, the UNMAP of a REMAP is read at once; other threads' unread
 * messages spoil it.
 */
static bool deliver(struct md *m, struct md_task *t, struct md_thread *th)
{
	enum md_kind kind;

	if (lp_space_young(t->space)) /* not read until its parent is settled */
		return true;
	for (;;) {
		kind = th->q[th->i].kind;
		if (!apply(m, t, th))
			return false;
		if (kind == EV_REMOVE || !md_pick(m, 10))
			return true;
		run_on(m, t, th);
		if (th->state != BLOCKED)
			break;
	}
	if (t->changing && md_pick(m, 2)) { /* others, whose messages were read, run too */
		unsigned i;

		for (i = 0; i < m->conf.threads; i++)
			if (t->th[i].state == BLOCKED && t->th[i].read)
				run_on(m, t, &t->th[i]);
	}
	return observe(m, t);
}

/* ---- Worlds -------------------------------------------------------------- */

static int registered(const struct md_task *t, uint64_t start, uint64_t len)
{
	uint64_t i = (start - MD_BASE) / MD_PAGE, n = len / MD_PAGE;

	if (t->changing)
		return -EAGAIN;
	if (start < MD_BASE || i + n > t->pages)
		return 0;
	for (; n; n--, i++)
		if (t->pg[i].state != REG || (n > 1 && t->pg[i].vma != t->pg[i + 1].vma))
			return 0;
	return 1;
}

static int is_there(void *host, uint64_t start, uint64_t len)
{
	struct md_task *t = host;

	return t->m->replaying ? md_replayed_answer(t->m) : md_answer(t->m, registered(t, start, len));
}

struct lp_engine *md_new_engine(struct md *m)
{
	const struct lp_engine_conf ec = { .page = MD_PAGE, .seed = md_random(&m->kill_rng), .there = is_there,
					   .old_shrink = m->conf.flags & MD_OLD_SHRINK };
	struct lp_engine *e = lp_engine_new(&ec);

	if (!e)
		abort();
	return e;
}

static bool populate(struct md *m, struct md_task *t)
{
	uint32_t img = 1 + md_pick(m, 64);
	unsigned i = 0, len, k;
	int rc = 0;

	md_task_clear(t);
	t->used = t->alive = true;
	t->pages = m->conf.pages;
	memset(t->pg, 0, m->conf.pages * sizeof(*t->pg));
	if (lp_space_new(m->engine, t, &t->space))
		return md_differ(m, -1, "no memory for a space");
	md_cell(m, CELL_NEW, t, 0, 0, 0, 0);
	if (m->flags & MD_BOOK) {
		t->book = ++m->books;
		lp_space_book(t->space, t->book);
		md_cell(m, CELL_BOOK, t, t->book, 0, 0, 0);
	}
	while (i < m->conf.pages) {
		bool wiped = !md_pick(m, 12), dontfork = !md_pick(m, 12) && m->flags & (MD_DONTFORK | MD_UNTOLD);
		bool told = dontfork && m->flags & MD_DONTFORK && (!(m->flags & MD_UNTOLD) || md_pick(m, 2));
		unsigned kind = md_pick(m, 8), start = i;

		len = 1 + md_pick(m, 40);
		if (i + len > m->conf.pages)
			len = m->conf.pages - i;
		m->vmas++;
		for (k = 0; k < len; k++)
			t->pg[i + k] = (struct md_page){ .vma = m->vmas, .state = kind < 2 ? FREE : kind < 3 ? PLAIN : REG,
						      .owner = (i + k) * m->conf.threads / m->conf.pages };
		i += len;
		if (kind < 3)
			continue;
		rc |= lp_space_add_extent(t->space, md_addr(start), md_addr(i));
		md_cell(m, CELL_EXTENT, t, md_addr(start), md_addr(i), 0, 0);
		if (dontfork && told) {
			rc |= lp_space_add_dontfork(t->space, md_addr(start), md_addr(i));
			md_cell(m, CELL_DONTFORK, t, md_addr(start), md_addr(i), 0, 0);
		} else if (dontfork) {
			md_made(t, (struct lp_change){ .kind = LP_CHANGE_DONTFORK, .from = md_addr(start),
						       .len = md_addr(i) - md_addr(start) });
		}
		if (wiped) {
			rc |= lp_space_add_wiped(t->space, md_addr(start), md_addr(i));
			md_cell(m, CELL_WIPED, t, md_addr(start), md_addr(i), 0, 0);
		}
		for (k = start; k < i; k++) {
			t->pg[k].wiped = wiped;
			t->pg[k].dontfork = dontfork;
			t->pg[k].told = dontfork && told;
		}
		if (dontfork) /* another object of the images, as it were */
			img += md_pick(m, 2) + 1;
		for (k = start; k < i;) { /* holes in the images, jumps in their order */
			unsigned n = 1 + md_pick(m, 12), j;

			if (k + n > i)
				n = i - k;
			if (md_pick(m, 5)) {
				if (!md_pick(m, 3) || ((img ^ (img + n)) & 0x8000))
					img = 1 + md_pick(m, 200) + (md_pick(m, 2) ? 0x8000 : 0);
				for (j = 0; j < n; j++)
					t->pg[k + j].want = img + j;
				rc |= lp_space_add_missing(t->space, md_addr(k), md_addr(k + n), img * MD_PAGE,
							   md_obj(img));
				md_cell(m, CELL_MISSING, t, md_addr(k), md_addr(k + n), img * MD_PAGE, md_obj(img));
				img += n;
			}
			k += n;
		}
	}
	return !rc || md_differ(m, -1, "no memory for the layout");
}

static void clear_world(struct md *m)
{
	unsigned i;

	while (m->nflights)
		md_finish_flight(m, 0);
	for (i = 0; i < MD_MAX_TASKS; i++) {
		if (m->task[i].space)
			lp_space_free(m->task[i].space);
		md_task_clear(&m->task[i]);
	}
}

static bool fresh_world(struct md *m)
{
	static const unsigned families[] = {
		MD_FORK_RACES | MD_UNTOLD, /* without these: */
		MD_PLAIN_RACES | MD_MOVED_RACES | MD_UNTOLD | MD_GROWTH,
		MD_FORK_RACES | MD_GROWTH,
	};
	unsigned i;

	clear_world(m);
	if (lp_engine_nodes(m->engine))
		return md_differ(m, -1, "%zu nodes leaked", lp_engine_nodes(m->engine));
	m->flags = m->conf.flags;
	i = md_pick(m, 3);
	if (!(m->flags & MD_MIXED))
		m->flags &= ~families[i];
	m->nlast = 0;
	md_journal_clear(m);
	m->epoch_end = m->step + (m->conf.epoch ? m->conf.epoch : 1500);
	for (i = 0; i < m->conf.tasks; i++)
		if (!populate(m, &m->task[i]))
			return false;
	return true;
}

bool md_settle(struct md *m)
{
	unsigned round, i, k;

	for (round = 0; round < MD_MAX_TASKS; round++) { /* young children after their parents */
		for (i = 0; i < MD_MAX_TASKS; i++) {
			struct md_task *t = &m->task[i];

			while (t->alive && t->unread && !lp_space_young(t->space))
				for (k = 0; k < m->conf.threads; k++) {
					struct md_thread *th = &t->th[k];

					if (th->state != BLOCKED)
						continue;
					if (!th->read && !deliver(m, t, th))
						return false;
					if (th->state == BLOCKED && th->read)
						run_on(m, t, th);
				}
			for (k = 0; k < m->conf.threads; k++)
				if (t->alive && t->th[k].state == BLOCKED && t->th[k].read)
					run_on(m, t, &t->th[k]);
			if (!observe(m, t) || !check_task(m, t))
				return false;
		}
	}
	for (round = 0; round < 4 * m->conf.pages * MD_MAX_TASKS; round++) {
		bool more = false;

		while (m->nflights)
			if (!md_fill_some(m, 0, m->conf.pages) || !md_finish_flight(m, 0))
				return false;
		for (i = 0; i < MD_MAX_TASKS; i++) {
			struct md_task *t = &m->task[i];

			if (t->alive && lp_space_has_deferred(t->space))
				more = true;
			if (!retry_deferred(m, t))
				return false;
			for (k = 0; t->alive && k < m->conf.threads; k++) {
				if (t->th[k].state == AGAIN) {
					more = true;
					if (!md_touch(m, t, &t->th[k], t->th[k].page))
						return false;
				}
			}
		}
		m->now = LP_NEVER - 1;
		if (!claim(m))
			return false;
		if (!more && !m->nflights)
			break;
	}
	m->now = 0;
	for (i = 0; i < MD_MAX_TASKS; i++) {
		struct md_task *t = &m->task[i];

		if (!t->alive)
			continue;
		for (k = 0; k < m->conf.threads; k++)
			if (t->th[k].state != RUN)
				return md_differ(m, i, "task %u thread %u waits for page %u for ever", i, k, t->th[k].page);
		if (!lp_space_complete(t->space))
			return md_differ(m, i, "task %u is not complete at the end", i);
	}
	return fresh_world(m);
}

bool md_step(struct md *m)
{
	struct md_task *t = &m->task[md_pick(m, 2) ? md_pick(m, m->conf.tasks) : md_pick(m, MD_MAX_TASKS)];
	struct md_thread *th = &t->th[md_pick(m, m->conf.threads)];
	unsigned what = md_pick(m, 64);
	bool ok = true;

	m->step++;
	m->now++;
	if (m->step >= m->epoch_end)
		return md_settle(m);
	/* Not by md_pick(): so that what a seed does is the same with and without. */
	if (!(md_random(&m->kill_rng) >> 32 & 2047) && !md_kill(m))
		return false;
	if (!t->alive) {
		t = &m->task[0];
		th = &t->th[0];
	}
	if (what < 3) {
		ok = claim(m);
	} else if (what < 9) {
		if (m->nflights)
			ok = md_fill_some(m, md_pick(m, m->nflights), 1 + md_pick(m, 8));
	} else if (what < 12) {
		if (m->nflights)
			ok = md_finish_flight(m, md_pick(m, m->nflights));
	} else if (what < 15) {
		ok = retry_deferred(m, t);
	} else if (!t->alive) {
		; /* nobody there */
	} else if (th->state == BLOCKED) {
		if (th->read)
			run_on(m, t, th);
		else
			ok = deliver(m, t, th);
	} else if (th->state == AGAIN) {
		ok = md_touch(m, t, th, th->page);
	} else if (th->state == RUN && what < 26) {
		unsigned page = md_pick(m, 2) ? (th->page + 1) % m->conf.pages : md_pick(m, m->conf.pages);

		/* What another thread is changing right now is none of this one's business. */
		if (t->pg[page].owner == th - t->th ||
		    (t->th[t->pg[page].owner].state != BLOCKED && !(t->pg[page].reused)))
			ok = md_touch(m, t, th, page);
	} else if (th->state == RUN && what < 27) {
		lp_space_stall(t->space, m->now + md_pick(m, 40));
	} else if (th->state == RUN) {
		ok = md_act(m, t, th);
	}
	if (ok && m->step % (m->conf.check ? m->conf.check : 64) == 0)
		ok = check_task(m, t);
	return ok && !m->error[0];
}

struct md *md_new(const struct md_conf *conf, const struct md_choice *choice)
{
	struct md *m = calloc(1, sizeof(*m));
	unsigned i;

	if (!m)
		return NULL;
	m->conf = *conf;
	m->ch = *choice;
	m->kill_rng = md_seed(choice->rng);
	m->engine = md_new_engine(m);
	for (i = 0; i < MD_MAX_TASKS; i++) {
		m->task[i].m = m;
		m->task[i].pg = calloc(conf->pages, sizeof(struct md_page));
		if (!m->task[i].pg)
			abort();
	}
	fresh_world(m);
	return m;
}

void md_free(struct md *m)
{
	unsigned i;

	clear_world(m);
	for (i = 0; i < MD_MAX_TASKS; i++) {
		free(m->task[i].pg);
		free(m->task[i].entries);
	}
	lp_engine_free(m->engine);
	md_journal_free(m);
	free(m);
}

bool md_exhausted(const struct md *m)
{
	return m->ch.p && m->ch.p == m->ch.end;
}

const char *md_error(const struct md *m)
{
	return m->error;
}

/* Does @e say something about the tasks and pages that count? Those that it leads to count from then on. */
static bool concerns(const struct md_note *e, uint32_t *tasks, unsigned *page, unsigned *npages)
{
	bool birth = strstr(e->what, "fork") || strstr(e->what, "FORK");
	bool moves = !strncmp(e->what, "mremap", 6) || strstr(e->what, "REMAP");
	bool hit = !*npages || !e->b;
	unsigned k, n = *npages;

	if (birth && *tasks >> e->c & 1)
		*tasks |= 1U << e->task; /* the parent's deeds count too */
	else if (birth || !(*tasks >> e->task & 1))
		return false;
	for (k = 0; k < n; k++) {
		if (page[k] - e->a < e->b)
			hit = true;
		if (!moves || page[k] - e->c >= e->b)
			continue;
		hit = true;
		if (*npages < MD_PAGES_SHOWN) /* where it came from */
			page[(*npages)++] = e->a + page[k] - e->c;
	}
	return hit;
}

void md_print_last(const struct md *m, FILE *out)
{
	unsigned i, show[MD_LAST], n = 0, page[MD_PAGES_SHOWN], npages = 0;
	unsigned oldest = m->nlast < MD_KEPT ? 0 : m->nlast - MD_KEPT;
	uint32_t tasks = m->bad >= 0 ? 1U << m->bad : UINT32_MAX;
	const char *at = strstr(m->error, " page ");

	if (at && sscanf(at, " page %u", &page[0]) == 1)
		npages = 1;
	for (i = m->nlast; i > oldest; i--)
		concerns(&m->last[(i - 1) % MD_KEPT], &tasks, page, &npages);
	for (i = m->nlast; i > oldest && n < MD_LAST; i--) {
		const struct md_note *e = &m->last[(i - 1) % MD_KEPT];
		bool settled = !strcmp(e->what, "  settled");

		if (!concerns(e, &tasks, page, &npages))
			continue;
		if (settled && n && !strcmp(m->last[show[n - 1]].what, e->what))
			n--; /* the first of several is enough */
		show[n++] = (i - 1) % MD_KEPT;
	}
	while (n--) {
		const struct md_note *e = &m->last[show[n]];

		fprintf(out, "  step %" PRIu64 ": task %u thread %u: %s page %u, %u pages -> %u\n", e->step, e->task,
			e->thread, e->what, e->a, e->b, e->c);
	}
}

void md_settlings(const struct md *m, uint64_t *booked, uint64_t *guessed)
{
	lp_engine_settlings(m->engine, booked, guessed);
	*booked += m->booked;
	*guessed += m->guessed;
}

void md_counts(const struct md *m, uint64_t *events, uint64_t *fills, uint64_t *faults, uint64_t *kills)
{
	*kills = m->kills;
	*events = m->events;
	*fills = m->fills;
	*faults = m->faults;
}
