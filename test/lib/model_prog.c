/* SPDX-License-Identifier: GPL-2.0-only */
/* The programs of the model: what threads do, and the messages that it leaves. See model.h. */
#include <stdlib.h>
#include <string.h>

#include "test/lib/model_int.h"

void md_forget_reused(struct md *m, struct md_task *t)
{
	unsigned i;

	for (i = 0; i < m->conf.pages; i++)
		t->pg[i].reused = t->pg[i].raced = false;
}

static void md_post(struct md *m, struct md_task *t, struct md_thread *th, enum md_kind kind, unsigned a, unsigned len, unsigned to)
{
	if (th->state != BLOCKED) {
		th->state = BLOCKED;
		th->n = th->i = 0;
		th->read = false;
	}
	th->q[th->n++] = (struct md_event){ kind, a, len, to };
	t->changing++;
	t->unread++;
}

void md_made(struct md_task *t, struct lp_change c)
{
	if (!t->book)
		return;
	if (t->nentries == t->cap_entries) {
		t->cap_entries = 2 * t->cap_entries + 16;
		t->entries = realloc(t->entries, t->cap_entries * sizeof(*t->entries));
		if (!t->entries)
			abort();
	}
	t->entries[t->nentries++] = c;
}

static uint64_t at(unsigned page)
{
	return MD_BASE + page * MD_PAGE;
}

/* ---- What threads do ----------------------------------------------------- */

static bool range_is(const struct md_task *t, unsigned a, unsigned len, enum md_page_state state)
{
	for (; len; a++, len--)
		if (t->pg[a].state != state)
			return false;
	return true;
}

static bool any_reg(const struct md_task *t, unsigned a, unsigned len)
{
	for (; len; a++, len--)
		if (t->pg[a].state == REG)
			return true;
	return false;
}

/* A range that belongs to @th and that nobody waits in. 0: none found. */
static unsigned own_range(struct md *m, struct md_task *t, unsigned tid, bool reg_only, unsigned *start)
{
	unsigned a = md_pick(m, m->conf.pages), max = 1 + md_pick(m, md_pick(m, 4) ? 12 : 80), n, i;

	for (i = 0; i < 4 && (t->pg[a].owner != tid || t->pg[a].state != REG); i++)
		a = md_pick(m, m->conf.pages);

	for (n = 0; n < max && a + n < m->conf.pages; n++) {
		const struct md_page *p = &t->pg[a + n];

		if (p->owner != tid || (reg_only && p->state != REG))
			break;
		if (reg_only && n && p->dontfork != t->pg[a].dontfork) /* another VMA */
			break;
		if (p->state == FREE && (p->reused || !n))
			break;
		for (i = 0; i < m->conf.threads; i++)
			if ((t->th[i].state == FAULT || t->th[i].state == AGAIN) && t->th[i].page == a + n)
				break;
		if (i < m->conf.threads)
			break;
		/* Moving on what was put over unread messages: cannot be told from the older move. */
		if (p->reused && !(m->flags & MD_DEEP_RACES))
			break;
		if (p->ghost && !(m->flags & MD_GHOST_RACES))
			break;
	}
	*start = a;
	return n;
}

static unsigned free_range(struct md *m, struct md_task *t, unsigned len, unsigned *start)
{
	unsigned try, a;

	for (try = 0; try < 6; try++) {
		a = md_pick(m, m->conf.pages - len + 1);
		/* The kernel likes to hand out what has just become free. */
		if (try % 2 && m->vacated + len <= m->conf.pages)
			a = m->vacated;
		if (range_is(t, a, len, FREE)) {
			*start = a;
			return len;
		}
	}
	return 0;
}

static void vacate(struct md *m, struct md_task *t, unsigned a, unsigned len, bool moved)
{
	m->vacated = a;
	for (; len; a++, len--) {
		struct md_page *p = &t->pg[a];

		*p = (struct md_page){ .owner = p->owner, .reused = t->changing != 0,
				    .unnamed = p->state != REG || p->unnamed, .phantom = p->phantom, .vacated = true, .left = moved,
				    .hollow = p->hollow, .changed = p->changed + 1 };
	}
}

/* Silently something new may lie there: no message has left it that the host may not have put in its place. */
static bool may_grow(const struct md *m, const struct md_task *t, unsigned page)
{
	if (!(m->flags & MD_GROWTH))
		return false;
	return m->flags & MD_GROW_RACES ||
	       !(t->pg[page].phantom || lp_space_young(t->space) || t->pg[page].reused || t->pg[page].vacated || lp_space_unsettled(t->space));
}

static bool usable_dest(const struct md *m, const struct md_task *t, unsigned a, unsigned len)
{
	unsigned i;

	for (i = a; i < a + len; i++)
		if (t->pg[i].changed > 1 && !(m->flags & MD_DEEP_RACES))
			return false;
		else if (t->pg[i].hollow && (t->pg[i].reused || t->pg[i].state == REG) && !(m->flags & MD_HOLLOW_RACES))
			return false;
		else if (t->pg[i].state != REG && t->pg[i].reused && t->pg[i].unnamed &&
		    !(m->flags & (t->pg[i].left ? MD_GROW_RACES : MD_PLAIN_RACES)))
			return false;
	return true;
}

/* Everything unread about this page is the UNMAP of a move whose REMAP was read. */
static bool only_unmap_left(const struct md *m, const struct md_task *t, unsigned page)
{
	unsigned i, k, from;

	for (i = 0; i < m->conf.threads; i++) {
		const struct md_thread *th = &t->th[i];
		bool remap_read = false;

		if (th->state != BLOCKED)
			continue;
		from = th->i + th->read;
		for (k = 0; k < from; k++)
			if (th->q[k].kind == EV_REMAP && page - th->q[k].a < th->q[k].len)
				remap_read = true;
		for (k = from; k < th->n; k++)
			if (page - th->q[k].a < th->q[k].len && !remap_read)
				return false;
	}
	return true;
}

static bool fork_is_unread(const struct md *m, const struct md_task *t)
{
	unsigned i;

	for (i = 0; i < m->conf.threads; i++)
		if (t->th[i].state == BLOCKED && t->th[i].q[0].kind == EV_FORK && !t->th[i].read)
			return true;
	return false;
}

/* A child whose FORK is unread has something there. */
static bool child_has(const struct md *m, const struct md_task *t, unsigned a, unsigned len)
{
	unsigned i;

	for (i = 0; i < m->conf.threads; i++) {
		const struct md_thread *th = &t->th[i];

		if (th->state == BLOCKED && th->q[0].kind == EV_FORK && !th->read &&
		    !range_is(&m->task[th->q[0].to], a, len, FREE))
			return true;
	}
	return false;
}

/*
 * Where forks race each place changes once between two settled moments: else
 * what is there at the fork would not tell which changes were made before it.
 */
static bool once(const struct md *m, const struct md_task *t, unsigned a, unsigned len)
{
	if (!(m->flags & MD_FORK_RACES) || m->flags & (MD_MIXED | MD_FORK_DEEP))
		return true;
	for (; len; a++, len--)
		if (t->pg[a].changed)
			return false;
	return true;
}

/* Something came to [a, a + len) since a fork that is unread. */
static bool fork_arrived(const struct md *m, const struct md_task *t, unsigned a, unsigned len)
{
	unsigned i, k;

	for (i = 0; i < m->conf.threads; i++) {
		const struct md_thread *th = &t->th[i];

		if (th->state != BLOCKED || th->q[0].kind != EV_FORK || th->read)
			continue;
		for (k = a; k < a + len; k++)
			if (t->pg[k].state == REG && m->task[th->q[0].to].pg[k].state != REG)
				return true;
	}
	return false;
}

static bool has_young(const struct md *m, const struct md_task *t)
{
	unsigned i;

	for (i = 0; i < MD_MAX_TASKS; i++)
		if (m->task[i].used && m->task[i].child && m->task[i].parent == md_task_no(m, t) &&
		    (!m->task[i].alive || lp_space_young(m->task[i].space)))
			return true;
	return false;
}

/*
 * Was it moved there after an unread UNMAP, and is unmapped? Or was it something
 * else that was unmapped there before the move? Both would leave the same. And
 * did a child get some of it and lack the rest, or is the rest gone before?
 */
static bool may_unmap(const struct md *m, const struct md_task *t, unsigned a, unsigned len)
{
	bool lacks = false, has = false;

	for (; len; a++, len--) {
		const struct md_page *p = &t->pg[a];

		if (p->over && !(m->flags & MD_DEEP_RACES))
			return false;
		lacks = lacks || (p->dontfork && !p->told);
		has = has || (p->state == REG && !p->dontfork);
	}
	return !lacks || !has || m->flags & MD_FORK_DEEP || !has_young(m, t);
}

static void op_mremap(struct md *m, struct md_task *t, struct md_thread *th)
{
	unsigned tid = th - t->th, from, to, len = own_range(m, t, tid, true, &from), keep = len, grow = 0, i;
	bool dontunmap = false, fixed = false, dest_reg = false;
	unsigned flags;
	struct md_page tmp[MD_MAX_PAGES / 16];

	if (!len || len > MD_MAX_PAGES / 16)
		return;
	switch (md_pick(m, 8)) {
	case 0:
		dontunmap = true;
		break;
	case 1:
		grow = 1 + md_pick(m, 8);
		break;
	case 2:
		keep = 1 + md_pick(m, len); /* only with FIXED does shrinking move */
		/* fallthrough */
	case 3:
		fixed = true;
		break;
	}
	if (fixed) {
		unsigned n = own_range(m, t, tid, false, &to);

		if (n < keep || (to < from + len && from < to + keep))
			return;
	} else if (!free_range(m, t, len + grow, &to)) {
		return;
	}
	if (!usable_dest(m, t, to, keep + grow) || (fixed && !may_unmap(m, t, to, keep)) || (keep < len && !may_unmap(m, t, from, len)))
		return;
	if (!once(m, t, from, len) || !once(m, t, to, keep + grow))
		return;
	for (i = keep; i < keep + grow; i++)
		if (!may_grow(m, t, to + i))
			return;
	if (t->pg[from].dontfork && !t->pg[from].told && has_young(m, t) && !(m->flags & MD_FORK_DEEP))
		return;
	if (fork_arrived(m, t, fixed ? to : from, fixed ? keep : 0) && !(m->flags & MD_FORK_DEEP))
		return;
	if (keep < len && fork_arrived(m, t, from, len) && !(m->flags & MD_FORK_DEEP))
		return;
	if (child_has(m, t, to, keep + grow) && !(m->flags & MD_FORK_DEEP))
		return;
	if (dontunmap && t->pg[from].dontfork && !t->pg[from].told && !(m->flags & MD_GHOST_RACES))
		return;
	if (fork_is_unread(m, t) && !(m->flags & MD_FORK_DEEP))
		for (i = to; i < to + keep; i++)
			if (t->pg[i].reused)
				return;
	if (dontunmap && fork_is_unread(m, t) && !(m->flags & MD_FORK_DEEP))
		return;
	th->dontunmap = dontunmap;
	th->grown = false;
	th->dontfork = t->pg[from].dontfork && !t->pg[from].told;
	for (i = 0; i < keep; i++)
		th->grown = th->grown || t->pg[from + i].unnamed;
	md_note(m, dontunmap ? "mremap DONTUNMAP" : fixed ? "mremap FIXED" : "mremap", md_task_no(m, t), tid, from, keep, to);
	flags = LP_REMAP_MAYMOVE | (dontunmap ? LP_REMAP_DONTUNMAP : 0) | (grow ? LP_REMAP_GREW : 0);
	/* Without growing, only where it is told to. */
	if (fixed || (!grow && (!dontunmap || from & 1)))
		flags |= LP_REMAP_FIXED;
	else
		flags |= LP_REMAP_AREA;
	md_made(t, (struct lp_change){ LP_CHANGE_REMAP, flags, at(from), len * MD_PAGE, at(to), (keep + grow) * MD_PAGE });
	dest_reg = fixed && any_reg(t, to, keep);
	if (dest_reg)
		md_post(m, t, th, EV_UNMAP, to, keep, 0);
	md_post(m, t, th, EV_REMAP, from, m->flags & MD_OLD_SHRINK ? len : keep, to);
	if (keep < len)
		md_post(m, t, th, EV_UNMAP, from + keep, len - keep, 0);
	if (!dontunmap)
		md_post(m, t, th, EV_UNMAP, from, keep, 0);
	memcpy(tmp, &t->pg[from], keep * sizeof(tmp[0]));
	m->vmas++;
	for (i = 0; i < keep + grow; i++) {
		struct md_page *p = &t->pg[to + i];
		bool was_reused, reused = p->reused, phantom = p->phantom;
		unsigned changed = p->changed + 1;

		was_reused = reused;
		if (reused && (m->flags & MD_MOVED_RACES) && only_unmap_left(m, t, to + i))
			reused = false;
		*p = i < keep ? tmp[i] : (struct md_page){ .state = REG, .wiped = tmp[keep - 1].wiped,
											  .dontfork = t->book && tmp[keep - 1].dontfork };
		p->vma = m->vmas;
		p->unnamed = i >= keep;
		p->hollow = false;
		p->owner = tid;
		p->reused = reused || dest_reg;
		p->raced = was_reused;
		p->moved = true;
		p->changed = changed;
		p->over = was_reused;
		p->phantom = phantom;
		p->ghost = phantom;
	}
	if (dontunmap) {
		for (i = 0; i < keep; i++) {
			t->pg[from + i].present = false;
			t->pg[from + i].want = 0;
			t->pg[from + i].hollow = true;
			t->pg[from + i].changed++;
		}
	} else {
		vacate(m, t, from, len, true);
	}
}

static void op_unmap(struct md *m, struct md_task *t, struct md_thread *th)
{
	unsigned a, i, len = own_range(m, t, th - t->th, !(m->flags & MD_PLAIN_RACES), &a);
	bool map = !md_pick(m, 4);

	if (!len || !may_unmap(m, t, a, len) || !once(m, t, a, len) || (fork_arrived(m, t, a, len) && !(m->flags & MD_FORK_DEEP)))
		return;
	md_note(m, map ? "mmap FIXED" : "munmap", md_task_no(m, t), th - t->th, a, len, 0);
	md_made(t, (struct lp_change){ .kind = LP_CHANGE_UNMAP, .from = at(a), .len = len * MD_PAGE });
	if (any_reg(t, a, len))
		md_post(m, t, th, EV_UNMAP, a, len, 0);
	vacate(m, t, a, len, false);
	for (i = a; map && i < a + len; i++)
		t->pg[i].state = PLAIN;
}

static void op_dontneed(struct md *m, struct md_task *t, struct md_thread *th)
{
	unsigned a, len = own_range(m, t, th - t->th, true, &a);

	if (!len || (fork_is_unread(m, t) && !(m->flags & MD_FORK_DEEP)))
		return;
	md_note(m, "dontneed", md_task_no(m, t), th - t->th, a, len, 0);
	md_made(t, (struct lp_change){ .kind = LP_CHANGE_REMOVE, .from = at(a), .len = len * MD_PAGE, .to = ++m->calls });
	md_post(m, t, th, EV_REMOVE, a, len, m->calls);
}

/* Guard pages, and at once gone again, so that it can be touched: no message. */
static void op_guard(struct md *m, struct md_task *t, struct md_thread *th)
{
	unsigned a, i, len = own_range(m, t, th - t->th, true, &a);

	if (!len)
		return;
	md_note(m, "guard", md_task_no(m, t), th - t->th, a, len, 0);
	md_made(t, (struct lp_change){ .kind = LP_CHANGE_GUARD, .from = at(a), .len = len * MD_PAGE });
	for (i = a; i < a + len; i++) {
		t->pg[i].want = 0;
		t->pg[i].present = false;
	}
}

/* Growing in place and plain mappings: no messages. */
static void op_silent(struct md *m, struct md_task *t, struct md_thread *th)
{
	unsigned a, tid = th - t->th, i, n, len = own_range(m, t, tid, false, &a);
	unsigned want = 1 + md_pick(m, 8);

	if (!len)
		return;
	switch (md_pick(m, 4)) {
	case 0: /* another thread owns it from now on */
		n = md_pick(m, m->conf.threads);
		for (i = a; i < a + len; i++)
			t->pg[i].owner = n;
		break;
	case 1: /* write what is present */
		for (i = a; i < a + len; i++)
			if (t->pg[i].state == REG && t->pg[i].present)
				t->pg[i].want = MD_PRIV;
		break;
	case 2: /* a plain mapping */
		if (free_range(m, t, want, &a))
			for (i = a; i < a + want; i++)
				t->pg[i] = (struct md_page){ .state = PLAIN, .owner = tid, .reused = t->pg[i].reused,
							  .phantom = t->pg[i].phantom, .changed = t->pg[i].changed };
		break;
	default: /* grow in place */
		if (t->pg[a + len - 1].state != REG)
			break;
		md_note(m, "grow", md_task_no(m, t), tid, a + len, want, 0);
		for (i = a + len; i < m->conf.pages && i < a + len + want && t->pg[i].state == FREE; i++) {
			if (!may_grow(m, t, i))
				break;
			t->pg[i] = (struct md_page){ .state = REG, .vma = t->pg[i - 1].vma, .owner = tid,
						  .wiped = t->pg[i - 1].wiped, .reused = t->pg[i].reused, .unnamed = true,
						  .phantom = t->pg[i].phantom, .ghost = t->pg[i].phantom,
						  .dontfork = t->book && t->pg[i - 1].dontfork };
		}
		if (i > a + len)
			md_made(t, (struct lp_change){ LP_CHANGE_REMAP, LP_REMAP_GREW | LP_REMAP_AREA | (i & 1), at(a + len - 1), MD_PAGE, 0,
						       (i - (a + len) + 1) * MD_PAGE });
	}
}

/* madvise() about forks: no message tells. */
static void op_mark(struct md *m, struct md_task *t, struct md_thread *th)
{
	static const char *const names[] = { "dontfork", "dofork", "wipeonfork", "keeponfork" };
	unsigned a, i, len = own_range(m, t, th - t->th, true, &a), what = md_pick(m, 4);

	if (!len)
		return;
	md_note(m, names[what], md_task_no(m, t), th - t->th, a, len, 0);
	md_made(t, (struct lp_change){ .kind = LP_CHANGE_DONTFORK + what, .from = at(a), .len = len * MD_PAGE });
	for (i = a; i < a + len; i++) {
		if (what < 2)
			t->pg[i].dontfork = !what;
		else
			t->pg[i].wiped = what == 2;
	}
}

static void op_fork(struct md *m, struct md_task *t, struct md_thread *th)
{
	struct md_task *c = NULL;
	unsigned i, k;

	for (i = 0; i < MD_MAX_TASKS && !c; i++)
		if (!m->task[i].used)
			c = &m->task[i];
	if (!c || (!(m->flags & MD_FORK_RACES) && (t->changing || lp_space_unsettled(t->space))))
		return;
	if (md_task_no(m, c) >= m->conf.tasks + 3 && md_pick(m, 8))
		return;
	for (i = 0; i < m->conf.pages && t->changing && !(m->flags & MD_FORK_DEEP); i++)
		if (t->pg[i].raced)
			return;
	/* Moved, and something else to where it was: or both after the fork? */
	for (i = 0; i < m->conf.pages && !(m->flags & MD_GHOST_RACES); i++)
		if (t->pg[i].moved && t->pg[i].dontfork && !t->pg[i].told)
			return;
	for (i = 0; i < m->conf.threads; i++) { /* a child in the middle of a DONTNEED may see either */
		const struct md_thread *o = &t->th[i];

		if (o->state == BLOCKED && o->q[o->i].kind == EV_REMOVE)
			return;
		for (k = o->i + o->read; o->state == BLOCKED && k < o->n; k++)
			if (o->q[k].kind == EV_REMAP && ((o->dontunmap && !(m->flags & MD_FORK_DEEP)) ||
							 (o->dontfork && !(m->flags & MD_FORK_DEEP)) ||
							 (o->grown && !(m->flags & MD_GROW_RACES))))
				return;
	}
	md_task_clear(c);
	c->used = c->child = true;
	c->pages = m->conf.pages;
	c->parent = md_task_no(m, t);
	if (t->book) {
		c->book = ++m->books;
		md_made(t, (struct lp_change){ .kind = LP_CHANGE_FORK, .to = c->book });
	}
	memcpy(c->pg, t->pg, m->conf.pages * sizeof(*c->pg));
	md_forget_reused(m, c);
	for (i = 0; i < m->conf.pages; i++) {
		struct md_page *p = &c->pg[i];

		p->ghost = p->ghost || p->phantom;
		if (p->dontfork && p->state != FREE) {
			*p = (struct md_page){ .owner = p->owner, .phantom = !p->told };
		} else if (p->wiped) {
			p->present = false;
			p->want = 0;
		}
	}
	md_note(m, "fork", md_task_no(m, t), th - t->th, 0, 0, md_task_no(m, c));
	md_post(m, t, th, EV_FORK, 0, 0, md_task_no(m, c));
}

static bool op_exit(struct md *m, struct md_task *t)
{
	unsigned i;

	if (t->changing)
		return true;
	md_note(m, "exit", md_task_no(m, t), 0, 0, 0, 0);
	if (!md_enter(m, t))
		return false;
	md_call(m);
	lp_space_exit(t->space);
	md_cell(m, CELL_EXIT, t, 0, 0, 0, 0);
	t->alive = false;
	for (i = 0; i < m->conf.threads; i++)
		t->th[i].state = RUN;
	if (!lp_space_complete(t->space))
		return md_differ(m, md_task_no(m, t), "a dead space is not complete");
	if (!lp_space_flights(t->space)) {
		lp_space_free(t->space);
		md_cell(m, CELL_FREE, t, 0, 0, 0, 0);
		md_task_clear(t);
	}
	return true;
}

bool md_act(struct md *m, struct md_task *t, struct md_thread *th)
{
	unsigned op = md_pick(m, 64);

	if (t->changing && m->flags & MD_NO_RACES)
		return true;
	if (!(m->flags & MD_FORK_RACES) && has_young(m, t))
		return true;
	/* Its parent's messages may be older than it, and tell of what it has. */
	if (t->child && lp_space_young(t->space) && m->task[t->parent].changing && !(m->flags & MD_FORK_DEEP))
		return true;
	if (op < 24)
		op_mremap(m, t, th);
	else if (op < 34)
		op_unmap(m, t, th);
	else if (op < 48)
		op_dontneed(m, t, th);
	else if (op < 52)
		op_fork(m, t, th);
	else if (op > 60 && t->book)
		op_mark(m, t, th);
	else if (op > 57 && t->book)
		op_guard(m, t, th);
	else if (op < 53)
		return (md_task_no(m, t) < m->conf.tasks && md_pick(m, 8)) || op_exit(m, t);
	else
		op_silent(m, t, th);
	return true;
}

