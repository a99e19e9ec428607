/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Booking: what the ledger says of system calls becomes entries of the engine's
 * books. What the ledger calls an address space (lp_ledger_watch()) it may call
 * another one later, so each gets a name of its own here; children with the entry
 * of their fork(), which comes before they run. A task that is restored may run
 * before we have looked at its hand-off, so the kernel watches whoever registers
 * memory with a userfaultfd, and what cannot be assigned yet is kept for a while.
 *
 * Only the holder of the reader role reads the ledger, so that nothing is entered
 * between a probe and the settled moment that it has found.
 *
 * Guard pages take away what is missing, and no message says so: the entry does, and
 * whoever enters it is alone in the gate. Until then nothing is filled (mm_fill_begin()).
 */
#include <errno.h>
#include <linux/mman.h>
#include <stdlib.h>
#include <sys/syscall.h>

#include "restore/internal.h"

/* Entries of who has not been handed over yet, and of whoever else uses userfaultfd: at most, then the last ones. */
#define EARLY_MAX 8192

#ifndef MADV_GUARD_INSTALL /* Linux 6.13 */
#define MADV_GUARD_INSTALL 102
#endif

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static struct lp_mm **bucket(struct lp_restore *r, uint64_t in_ledger)
{
	/* Kernel addresses of objects of some 2 KiB. */
	return &r->books[(in_ledger >> 6 ^ in_ledger >> 14) % ARRAY_SIZE(r->books)];
}

struct lp_mm *book_find(struct lp_restore *r, uint64_t in_ledger)
{
	struct lp_mm *mm = *bucket(r, in_ledger);

	while (mm && mm->book != in_ledger)
		mm = mm->book_next;
	return mm;
}

void book_leave(struct lp_mm *mm)
{
	if (mm->r->ledger && mm->book && !lp_space_dead(mm->space))
		lp_ledger_unwatch(mm->r->ledger, mm->fd, mm_unmapped(mm), LP_PAGE_SIZE);
}

void book_forget(struct lp_mm *mm)
{
	struct lp_mm **p;

	mm->r->nbooks_due -= mm->book_due;
	mm->book_due = false;
	if (!mm->book)
		return;
	for (p = bucket(mm->r, mm->book); *p != mm; p = &(*p)->book_next)
		;
	*p = mm->book_next;
	mm->book = 0;
}

void book_named(struct lp_mm *mm, uint64_t name, uint64_t in_ledger)
{
	struct lp_mm **p = bucket(mm->r, in_ledger), *old = book_find(mm->r, in_ledger);

	/* That one has ended. */
	if (old)
		book_forget(old);
	mm->book = in_ledger;
	mm->slot = lp_ledger_slot(in_ledger);
	mm->book_next = *p;
	*p = mm;
	eng_book(mm->space, name);
}

/* ---- From system calls to changes --------------------------------------------- */

static uint64_t pages(uint64_t bytes)
{
	return (bytes + LP_PAGE_SIZE - 1) & ~(LP_PAGE_SIZE - 1);
}

/*
 * madvise() that discards is entered each time it lets go of the lock: as it
 * sends its message, and after the zap; in a range of several mappings that is
 * also when the message of the next one is sent. So the last entry of a thread may
 * be the one that a message belongs to, unless it has had its message.
 */
static bool to_removal(struct lp_mm *mm, const struct lp_ledger_entry *e, struct lp_change *c)
{
	struct removal *v = mm->removals, *oldest = v;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(mm->removals) && v[i].tid != e->tid; i++)
		if (v[i].number < oldest->number)
			oldest = &v[i];
	if (i < ARRAY_SIZE(mm->removals))
		oldest = &v[i];
	*oldest = (struct removal){ c->from, c->len, ++mm->r->numbers, e->tid, false };
	c->kind = LP_CHANGE_REMOVE;
	c->to = oldest->number;
	return true;
}

static bool to_madvise(struct lp_mm *mm, const struct lp_ledger_entry *e, struct lp_change *c)
{
	c->from = e->arg[0];
	c->len = pages(e->arg[1]);
	switch (e->arg[2]) {
	case MADV_DONTFORK:
		c->kind = LP_CHANGE_DONTFORK;
		return true;
	case MADV_DOFORK:
		c->kind = LP_CHANGE_DOFORK;
		return true;
	case MADV_WIPEONFORK:
		c->kind = LP_CHANGE_WIPE;
		return true;
	case MADV_KEEPONFORK:
		c->kind = LP_CHANGE_KEEP;
		return true;
	case MADV_GUARD_INSTALL:
		c->kind = LP_CHANGE_GUARD;
		return c->len != 0;
	default:
		return to_removal(mm, e, c);
	}
}

static bool to_mremap(const struct lp_ledger_entry *e, struct lp_change *c)
{
	c->kind = LP_CHANGE_REMAP;
	c->from = e->arg[0];
	c->len = pages(e->arg[1]);
	c->to_len = pages(e->arg[2]);
	c->flags = e->arg[3] & (LP_REMAP_MAYMOVE | LP_REMAP_FIXED | LP_REMAP_DONTUNMAP);
	if (c->flags & LP_REMAP_FIXED) {
		c->to = e->arg[4];
	} else {
		/* With DONTUNMAP the address may be a wish. */
		c->to = e->area || !(c->flags & LP_REMAP_DONTUNMAP) ? e->area : e->arg[4];
		c->flags |= LP_REMAP_AREA;
	}
	if (c->to_len > c->len && e->grew > 0 && (uint64_t)e->grew * LP_PAGE_SIZE == c->to_len - c->len)
		c->flags |= LP_REMAP_GREW;
	return true;
}

static bool in_bounds(const struct lp_change *c)
{
	const uint64_t max = UINT64_C(1) << 62;

	return c->from < max && c->len < max && c->to_len < max && !(c->from % LP_PAGE_SIZE) &&
	       (c->kind != LP_CHANGE_REMAP || (c->to < max && !(c->to % LP_PAGE_SIZE)));
}

/* False: it changes nothing. */
static bool to_change(struct lp_mm *mm, const struct lp_ledger_entry *e, uint64_t child, struct lp_change *c)
{
	*c = (struct lp_change){ .kind = LP_CHANGE_UNMAP };
	switch (e->nr) {
#ifdef __x86_64__
	case SYS_mmap:
	case SYS_munmap:
		c->from = e->arg[0];
		c->len = pages(e->arg[1]);
		return true;
	case SYS_brk:
		c->from = pages(e->arg[0]);
		c->len = pages(e->brk) - c->from;
		return e->arg[0] && pages(e->brk) > c->from;
	case SYS_mremap:
		return to_mremap(e, c);
	case SYS_madvise:
		return to_madvise(mm, e, c);
	case SYS_clone:
	case SYS_fork:
	case SYS_vfork:
	case SYS_clone3:
		c->kind = LP_CHANGE_FORK;
		c->to = child;
		return c->to != 0;
#endif
	}
	return false;
}

/* What guard pages change is changed at once, or at the next settled moment: that one soon. */
static void guarded(struct lp_mm *mm)
{
	struct lp_restore *r = mm->r;
	uint64_t addr;

	while (eng_next_wake(mm->space, &addr))
		mm_wake(r, mm->fd, mm->id, addr, LP_PAGE_SIZE);
	mm->check = true;
	mm->retry_at = 0;
	r->due = 0;
}

/* @child: the name of the one that it forked. False: only who is alone in the gate of @mm can take it. */
static bool enter(struct lp_mm *mm, const struct lp_ledger_entry *e, uint64_t child)
{
	struct lp_change c;

	if (!to_change(mm, e, child, &c) || !in_bounds(&c) || !lp_space_concerned(mm->space, &c))
		return true;
	if (c.kind == LP_CHANGE_GUARD && !mm->alone) {
		mm->r->gate_wanted = mm;
		return false;
	}
	/* First that, since the entry will not come again. */
	note_change(mm, &c);
	if (eng_changed(mm->space, &c))
		lose_tree(mm->r, mm, "out of memory for a change of its layout");
	if (c.kind == LP_CHANGE_GUARD)
		guarded(mm);
	return true;
}

/* ---- What cannot be assigned yet -------------------------------------------- */

static uint64_t bloom(uint64_t in_ledger)
{
	return UINT64_C(1) << (in_ledger >> 6 ^ in_ledger >> 12) % 64;
}

static bool is_expected(const struct lp_restore *r, uint64_t in_ledger)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(r->expected); i++)
		if (r->expected[i].in_ledger == in_ledger)
			return true;
	return false;
}

/* Who is not known when all have been handed over is none of ours. */
bool book_stranger(struct lp_restore *r, uint64_t in_ledger)
{
	return !book_find(r, in_ledger) && r->armed && !r->nbooks_due && !is_expected(r, in_ledger);
}

/* Take the name of a child, which the ledger calls @in_ledger, off the list; 0: it is not there. */
static uint64_t take_expected(struct lp_restore *r, uint64_t in_ledger)
{
	uint64_t name = 0;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(r->expected); i++) {
		if (r->expected[i].in_ledger != in_ledger)
			continue;
		name = r->expected[i].name;
		r->expected[i].in_ledger = 0;
	}
	return name;
}

/* Hand out, in order, what was kept for what the ledger calls @in_ledger (0: for all) to @mm; with NULL, forget it. */
static void take_early(struct lp_restore *r, uint64_t in_ledger, struct lp_mm *mm)
{
	struct early **p = &r->early, *e;

	while ((e = *p)) {
		if (in_ledger && e->e.mm != in_ledger) {
			p = &e->next;
			continue;
		}
		*p = e->next;
		r->nearly--;
		if (mm)
			enter(mm, &e->e, e->name);
		free(e);
	}
	r->early_tail = p;
}

static void keep_early(struct lp_restore *r, const struct lp_ledger_entry *e, uint64_t name)
{
	struct early *early = malloc(sizeof(*early)), *first = r->early;

	if (!early) {
		r->early_lost |= bloom(e->mm);
		return;
	}
	if (r->nearly == EARLY_MAX) {
		r->early_lost |= bloom(first->e.mm);
		r->early = first->next;
		r->nearly--;
		free(first);
	}
	*early = (struct early){ .e = *e, .name = name };
	*r->early_tail = early;
	r->early_tail = &early->next;
	r->nearly++;
}

/* From now on the ledger means another by @in_ledger. */
static void called_anew(struct lp_restore *r, uint64_t in_ledger)
{
	struct lp_mm *mm = book_find(r, in_ledger);

	if (mm)
		book_forget(mm);
	take_expected(r, in_ledger);
	take_early(r, in_ledger, NULL);
}

static bool on_entry(void *arg, const struct lp_ledger_entry *e)
{
	struct lp_restore *r = arg;
	uint64_t name = 0;
	struct lp_mm *mm;
	size_t i;

	/* Nor are its children. */
	if (book_stranger(r, e->mm))
		return true;
	mm = book_find(r, e->mm);
	/* Before anything of the child can come. */
	if (e->child) {
		called_anew(r, e->child);
		i = r->nexpected++ % ARRAY_SIZE(r->expected);
		r->expected[i].in_ledger = e->child;
		r->expected[i].name = name = ++r->numbers;
	}
	if (e->nr == SYS_ioctl) { /* the first that registers something */
		called_anew(r, e->mm);
		return true;
	}
	if (mm)
		return enter(mm, e, name);
	keep_early(r, e, name);
	return true;
}

/* Who has the role is alone in the gate of @mm. True: it was not before, so alone_no_more(). */
static bool alone(struct lp_mm *mm)
{
	if (mm->alone)
		return false;
	pthread_mutex_unlock(&mm->r->lock);
	lp_gate_enter_alone(&mm->gate);
	mm->alone = true;
	pthread_mutex_lock(&mm->r->lock);
	return true;
}

static void alone_no_more(struct lp_mm *mm)
{
	mm->alone = false;
	lp_gate_leave_alone(&mm->gate);
}

/* Only its holder frees mms, so they stay where they are while the lock is released. */
static void read_ledger(struct lp_restore *r)
{
	struct lp_mm *in = NULL, *mm;

	while (!lp_ledger_read(r->ledger)) {
		mm = r->gate_wanted;
		if (in)
			alone_no_more(in);
		in = alone(mm) ? mm : NULL;
	}
	if (in)
		alone_no_more(in);
}

/* ---- ------------------------------------------------------------------------------ */

void book_begin(struct lp_mm *mm)
{
	mm->book_due = true;
	mm->r->nbooks_due++;
}

/* Alone in its gate. */
static void begin_now(struct lp_mm *mm)
{
	struct lp_restore *r = mm->r;
	/* What a dead worker had kept has died with it. */
	bool resumed = r->j && r->j->h->workers > 1, whole;
	uint64_t in_ledger, name;

	in_ledger = lp_space_dead(mm->space) ? 0 : lp_ledger_watch(r->ledger, mm->fd, mm_unmapped(mm), LP_PAGE_SIZE);
	if (!in_ledger)
		goto out;
	/* Up to here the ledger may mean another by it, or say that it begins. */
	read_ledger(r);
	name = take_expected(r, in_ledger);
	/* Since when is it watched? A task of the checkpoint: since it registers memory, or from now on, before it does. */
	whole = (name || (mm->handed && !resumed)) && !(r->early_lost & bloom(in_ledger));
	if (!name)
		name = ++r->numbers;
	note_book(mm, name, in_ledger);
	book_named(mm, name, in_ledger);
	if (!whole) {
		note_book_lost(mm);
		eng_book_lost(mm->space);
	}
	take_early(r, in_ledger, mm);
out:
	if (!mm->slot)
		mm->slot = MM_UNWATCHED;
	/* Not before: nobody is a stranger who may be this one. */
	mm->book_due = false;
	r->nbooks_due--;
}

void book_read(struct lp_restore *r)
{
	struct lp_mm *mm;

	if (!r->ledger)
		return;
	r->ledger_at = lp_now();
	read_ledger(r);
	for (mm = r->mms; mm && r->nbooks_due; mm = mm->next) {
		bool mine;

		if (!mm->book_due)
			continue;
		mine = alone(mm);
		begin_now(mm);
		if (mine)
			alone_no_more(mm);
	}
	lp_ledger_heeded(r->ledger);
	if (lp_ledger_hasty(r->ledger) && !r->told_hasty) {
		r->told_hasty = true;
		pr_warn("guard pages (MADV_GUARD_INSTALL) were made while a fill had no CPU or no memory for 2 ms; if it "
			"was of the same pages they are no guards");
	}
	if (!lp_ledger_lost(r->ledger))
		return;
	pr_warn("the kernel's ring of changes was full: their order has to be guessed until all have settled");
	for (mm = r->mms; mm; mm = mm->next) {
		if (!mm->book)
			continue;
		note_book_lost(mm);
		eng_book_lost(mm->space);
	}
}

uint64_t book_removal(struct lp_mm *mm, uint64_t start, uint64_t end)
{
	struct removal *v = mm->removals, *last = NULL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(mm->removals); i++)
		if (v[i].number && !v[i].sent && start >= v[i].from && end - v[i].from <= v[i].len &&
		    (!last || v[i].number > last->number))
			last = &v[i];
	if (!last)
		return 0;
	last->sent = true;
	return last->number;
}

void booking_begin(struct lp_restore *r)
{
	const int *fds = r->conf->ledger;
	struct lp_err why;

	r->early_tail = &r->early;
	/* Of this worker alone: those of the last one may still be in the log. */
	r->numbers = r->j ? (uint64_t)r->j->h->workers << 40 : 0;
	if (fds && fds[LP_LEDGER_RING] >= 0 && lp_ledger_attach(fds, on_entry, r, &r->ledger, &why))
		pr_warn("%s: the order of changes has to be guessed", why.msg);
}

void booking_end(struct lp_restore *r)
{
	if (!r->ledger)
		return;
	take_early(r, 0, NULL);
	lp_ledger_detach(r->ledger);
	r->ledger = NULL;
}

void book_resume(struct lp_restore *r)
{
	struct lp_mm *mm;

	for (mm = r->mms; mm; mm = mm->next) {
		if (!mm->book) {
			book_begin(mm);
			continue;
		}
		note_book_lost(mm);
		eng_book_lost(mm->space);
	}
}
