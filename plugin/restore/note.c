/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What is noted in the journal, and when. Each note is made where what it tells
 * of cannot be overtaken: calls of the engine under r->lock, before anybody can
 * claim by what they decided; fills inside the gate, so that they come before
 * the next message of their address space. A message needs no note before the
 * engine has it: until then it is in the zone.
 */
#include "restore/internal.h"
#include "restore/replay.h"

void note_begin(struct lp_restore *r)
{
	if (r->j && !r->replay)
		lp_journal_begin(r->j);
}

bool note_replays(struct lp_restore *r, int *answer)
{
	if (!r->replay)
		return false;
	*answer = replay_answer(r->replay);
	return true;
}

int note_answer(struct lp_restore *r, int answer)
{
	return r->j ? lp_journal_answer(r->j, answer) : answer;
}

/* Nothing that is filled from now on may be noted in a cell from before: addresses may mean something else. */
static void new_epoch(struct lp_mm *mm)
{
	mm->epoch++;
}

void note_call(struct lp_mm *mm, enum lp_jkind kind)
{
	struct lp_journal *j = mm->r->j;

	new_epoch(mm);
	if (!j)
		return;
	if (kind == LP_J_EXIT)
		lp_crash_point(exit_after);
	else
		lp_crash_point(settle_after);
	lp_journal_answers(j, mm->id);
	lp_journal_add(j, kind, 0, 0, mm->id, 0, 0, 0);
	if (kind == LP_J_EXIT)
		lp_crash_point(exit_noted);
	else
		lp_crash_point(settle_noted);
}

void note_book(struct lp_mm *mm, uint64_t name, uint64_t in_ledger)
{
	if (mm->r->j)
		lp_journal_add(mm->r->j, LP_J_BOOK, 0, 0, mm->id, name, in_ledger, 0);
}

void note_change(struct lp_mm *mm, const struct lp_change *c)
{
	struct lp_journal *j = mm->r->j;

	if (!j)
		return;
	if (c->to_len)
		lp_journal_add(j, LP_J_CHANGE_TO, 0, 0, mm->id, c->to_len, 0, 0);
	lp_crash_point(change_half_noted);
	lp_journal_add(j, LP_J_CHANGE, c->kind, c->flags, mm->id, c->from, c->len, c->to);
	lp_crash_point(change_noted);
}

void note_book_lost(struct lp_mm *mm)
{
	if (mm->r->j)
		lp_journal_add(mm->r->j, LP_J_BOOK_LOST, 0, 0, mm->id, 0, 0, 0);
}

void note_message(struct lp_mm *mm, const struct uffd_msg *m, unsigned idx, const struct lp_mm *child, uint64_t call)
{
	struct lp_journal *j = mm->r->j;
	unsigned gen = mm->r->zone->gen;

	new_epoch(mm);
	if (!j)
		return;
	lp_crash_point(event_after);
	lp_journal_answers(j, mm->id);
	switch (m->event) {
	case UFFD_EVENT_FORK:
		if (child)
			lp_journal_add(j, LP_J_FORK, idx, gen, mm->id, m->arg.fork.ufd, child->id, 0);
		else
			lp_journal_add(j, LP_J_SKIP, idx, gen, mm->id, (uint64_t)m->arg.fork.ufd + 1, 0, 0);
		lp_crash_point(fork_noted);
		break;
	case UFFD_EVENT_REMAP:
		lp_journal_add(j, LP_J_REMAP, idx, gen, mm->id, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		break;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		lp_journal_add(j, m->event == UFFD_EVENT_REMOVE ? LP_J_REMOVE : LP_J_UNMAP, idx, gen, mm->id,
			       m->arg.remove.start, m->arg.remove.end, call);
		break;
	default:
		lp_journal_add(j, LP_J_SKIP, idx, gen, mm->id, 0, 0, 0);
	}
	lp_crash_point(event_noted);
}

void note_space(const struct lp_mm *mm, uint32_t gen)
{
	if (mm->r->j)
		lp_journal_add(mm->r->j, LP_J_SPACE, 0, 0, mm->id, (uint32_t)mm->pid | (uint64_t)mm->host_pid << 32,
			       (uint32_t)mm->fd | (uint64_t)(uint32_t)mm->pidfd << 32, gen);
}

void note_filled(struct lp_mm *mm, uint64_t start, uint64_t len)
{
	if (mm->r->j)
		lp_journal_done(mm->r->j, mm->id, mm->epoch, start, start + len);
}

void note_close(const struct lp_mm *mm)
{
	if (!mm->r->j)
		return;
	lp_journal_add(mm->r->j, LP_J_CLOSE, 0, 0, mm->id, 0, 0, 0);
	lp_crash_point(close_noted);
}

void note_flag(struct lp_restore *r, uint32_t flag)
{
	if (r->j)
		lp_journal_flag(r->j, flag);
}
