/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A new worker goes on where a dead one was. The engine is given all that it was
 * given then, in the same order, with the same answers of the kernel: so it comes
 * to the same views. Then what had landed in the zones but was not noted yet is
 * handled like any message; and all threads that wait for pages are woken: those
 * whose faults the dead worker had read fault again.
 *
 * Descriptors are left alone until the log is read to its end: one that was
 * closed may have its number again, as something else.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "restore/internal.h"
#include "restore/replay.h"

struct lp_replay {
	struct lp_restore *r;
	struct lp_mm **mms; /* by number; NULL: closed */
	size_t nmms;
	int8_t *answers; /* not taken yet: [at, n) */
	size_t at, n, cap;
	bool short_of; /* an answer was asked for that is not there */
	unsigned zone_gen, zone_idx; /* of the last message noted */
	bool any_message;
	uint32_t hand_gen; /* of the last task noted */
	uint64_t filled;
	uint64_t to_len; /* of the next change */
};

int replay_answer(struct lp_replay *p)
{
	if (p->at < p->n)
		return p->answers[p->at++];
	p->short_of = true;
	return -EAGAIN;
}

static int push_answers(struct lp_replay *p, const struct lp_jcell *c, unsigned n)
{
	const uint64_t v[3] = { c->x, c->y, c->z };
	unsigned i;

	if (p->n + n > p->cap) {
		size_t cap = 2 * (p->n + n);
		int8_t *a = realloc(p->answers, cap);

		if (!a)
			return -ENOMEM;
		p->answers = a;
		p->cap = cap;
	}
	for (i = 0; i < n && i < LP_J_ANSWERS_MAX; i++) {
		unsigned a = v[i / 32] >> i % 32 * 2 & 3;

		p->answers[p->n++] = a == 2 ? -EAGAIN : (int)a;
	}
	return 0;
}

static struct lp_mm *find(struct lp_replay *p, uint32_t id)
{
	return id < p->nmms ? p->mms[id] : NULL;
}

static int enlist(struct lp_replay *p, struct lp_mm *mm, uint32_t id)
{
	if (id >= p->nmms) {
		size_t n = 2 * ((size_t)id + 8);
		struct lp_mm **v = realloc(p->mms, n * sizeof(*v));

		if (!v)
			return -ENOMEM;
		memset(v + p->nmms, 0, (n - p->nmms) * sizeof(*v));
		p->mms = v;
		p->nmms = n;
	}
	mm->id = id;
	if (id >= p->r->next_id)
		p->r->next_id = id + 1;
	p->mms[id] = mm;
	mm_list(mm);
	return 0;
}

static int on_space(struct lp_replay *p, const struct lp_jcell *c, uint32_t id, struct lp_err *err)
{
	struct lp_mm *mm = mm_new(p->r, (int32_t)c->y, (int32_t)c->x);
	int rc;

	if (!mm)
		return -ENOMEM;
	mm->host_pid = c->x >> 32;
	mm->pidfd = (int32_t)(c->y >> 32);
	p->hand_gen = c->z;
	rc = handoff_space(p->r, mm, err);
	if (!rc)
		return enlist(p, mm, id);
	free(mm);
	return rc;
}

static int on_fork(struct lp_replay *p, struct lp_mm *mm, const struct lp_jcell *c)
{
	struct lp_mm *child = mm_new(p->r, c->x, mm->pid);
	int rc = child ? eng_fork(mm->space, child, &child->space) : -ENOMEM;

	if (!rc) {
		p->r->forks++;
		return enlist(p, child, c->y);
	}
	free(child);
	return rc;
}

static int on_cell(struct lp_replay *p, const struct lp_jcell *c, uint64_t word, struct lp_err *err)
{
	struct lp_restore *r = p->r;
	enum lp_jkind kind = lp_jkind(word);
	struct lp_mm *mm = find(p, lp_jmm(word));
	uint64_t addr, x = c->x, y = c->y, z = c->z;
	int rc = 0;

	if (kind == LP_J_RESTART) { /* answers without a call were of one that was not noted */
		p->at = p->n = 0;
		p->to_len = 0;
		return 0;
	}
	if (kind == LP_J_ANSWERS)
		return push_answers(p, c, lp_ja(word));
	if (kind == LP_J_SPACE)
		return on_space(p, c, lp_jmm(word), err);
	if (kind >= LP_J_FORK && kind <= LP_J_SKIP) {
		p->any_message = true;
		p->zone_idx = lp_ja(word);
		p->zone_gen = lp_jb(word);
	}
	if (!mm) /* filled by a thread that was about to see that all of it is closed: cannot be */
		return lp_err(err, -EBADMSG, "the journal names address space %u, which it does not know", lp_jmm(word));
	switch (kind) {
	case LP_J_FORK:
		rc = on_fork(p, mm, c);
		break;
	case LP_J_REMAP:
		rc = eng_remap(mm->space, x, y, z);
		r->remaps++;
		break;
	case LP_J_REMOVE:
		if (z)
			eng_call(mm->space, z);
		rc = eng_remove(mm->space, x, y);
		r->removes++;
		break;
	case LP_J_UNMAP:
		rc = eng_unmap(mm->space, x, y);
		r->unmaps++;
		break;
	case LP_J_SKIP: /* what a FORK asked that failed is of no use */
		r->orphans += x != 0;
		p->at = p->n;
		break;
	case LP_J_BOOK:
		book_named(mm, x, y);
		break;
	case LP_J_CHANGE_TO:
		p->to_len = x;
		return 0;
	case LP_J_CHANGE:
		rc = eng_changed(mm->space, &(struct lp_change){ lp_ja(word), lp_jb(word), x, y, z, p->to_len });
		p->to_len = 0;
		break;
	case LP_J_BOOK_LOST:
		eng_book_lost(mm->space);
		break;
	case LP_J_SETTLED:
		rc = eng_settled(mm->space);
		break;
	case LP_J_EXIT:
		eng_exit(mm->space);
		break;
	case LP_J_CLOSE:
		p->mms[mm->id] = NULL;
		mm_forget(mm);
		return 0;
	case LP_J_DONE:
		p->filled += y - x;
		return lp_space_filled(mm->space, x, y);
	default:
		return lp_err(err, -EBADMSG, "the journal has a cell of kind %d, which this version does not know", kind);
	}
	if (!rc && (p->short_of || p->at < p->n))
		rc = lp_err(err, -EBADMSG,
			    "%d.%u: the engine asks otherwise than when the journal was written: another version? "
			    "(cell %td, %s than %zu questions)",
			    mm->pid, mm->id, c - p->r->j->cells, p->short_of ? "more" : "fewer", p->n);
	p->at = p->n = 0;
	p->short_of = false;
	while (eng_next_wake(mm->space, &addr))
		; /* all are woken in the end */
	return rc;
}

static int read_log(struct lp_replay *p, struct lp_err *err)
{
	struct lp_journal *j = p->r->j;
	uint64_t i, n = lp_journal_count(j);
	int rc = 0;

	p->r->replay = p;
	for (i = 0; !rc && i < n; i++) {
		uint64_t word = atomic_load_explicit(&j->cells[i].word, memory_order_acquire);

		if (lp_jkind(word) != LP_J_NONE)
			rc = on_cell(p, &j->cells[i], word, err);
	}
	p->r->replay = NULL;
	return rc;
}

/* What was read from a userfaultfd, but is not in the log. */
static int handle_zone(struct lp_replay *p, struct lp_reader *rd)
{
	struct lp_restore *r = p->r;
	struct lp_mm *mm = find(p, r->zone->mm);
	unsigned i, n = 0, first = 0;

	/* Messages of this generation that are noted. */
	if (p->any_message && p->zone_gen == (r->zone->gen & 0xffff))
		first = p->zone_idx + 1;
	/* What was changed before a message was sent, before that; as read_mm() does. */
	if (mm) {
		lp_gate_enter_alone(&mm->gate);
		mm->alone = true;
		pthread_mutex_lock(&r->lock);
		book_read(r);
		pthread_mutex_unlock(&r->lock);
		mm->alone = false;
		lp_gate_leave_alone(&mm->gate);
	}
	for (i = 0; i < LP_J_MESSAGES; i++) {
		const struct uffd_msg *m = &r->zone->msgs[i];

		if (!m->event || m->event == UFFD_EVENT_PAGEFAULT || i < first)
			continue;
		if (!mm)
			return -EBADMSG;
		lp_gate_enter_alone(&mm->gate);
		reader_event(rd, mm, m, i);
		lp_gate_leave_alone(&mm->gate);
		n++;
	}
	/* So that the next message cannot be taken for one that is noted. */
	reader_clear_zone(r, LP_J_MESSAGES);
	if (n)
		pr_info("%u layout messages had been read and not handled", n);
	return 0;
}

/* Poll what is to be polled, and have everybody fault again. */
static int revive(struct lp_restore *r)
{
	struct lp_mm *mm;
	uint64_t end = 0;
	int rc = 0;

	for (mm = r->mms; mm && !rc; mm = mm->next) {
		mm->check = true;
		if (!mm->polled && !lp_space_young(mm->space) && !lp_space_dead(mm->space))
			rc = mm_poll(mm);
		lp_uffd_wake_all(mm->fd, &end);
	}
	return rc;
}

/* A task that was noted as the last thing its worker did: it is not to be taken again. */
static void count_task(struct lp_replay *p)
{
	struct lp_jhand *h = p->r->hand;
	struct lp_jhand_state *now = &h->state[h->cur], *next = &h->state[!h->cur];

	if (!p->hand_gen || p->hand_gen != now->gen)
		return;
	*next = (struct lp_jhand_state){ .gen = now->gen + 1, .left = now->left - 1 };
	atomic_store(&h->cur, !h->cur);
}

/* The dead worker may not have come to it, see prime_protected(). */
static int first_pages(struct lp_restore *r)
{
	struct lp_mm *mm;
	int rc = 0;

	for (mm = r->mms; mm && !rc; mm = mm->next)
		if (mm->handed && !lp_space_dead(mm->space))
			rc = prime_protected(mm);
	return rc;
}

int replay(struct lp_restore *r, struct lp_err *err)
{
	struct lp_replay p = { .r = r };
	struct lp_reader *rd = calloc(1, sizeof(*rd));
	uint64_t t0 = lp_now(), now;
	int rc;

	if (!rd)
		return lp_err(err, -ENOMEM, "out of memory");
	rd->r = r;
	if (lp_journal_has(r->j, LP_JF_LAST) && lp_journal_count(r->j))
		rc = lp_err(err, -ENODATA, "the journal is not complete");
	else
		rc = read_log(&p, err);
	if (rc && !*err->msg)
		lp_err_sys(err, rc, "cannot go on from the journal");
	lp_crash_point(restart_replayed);
	if (!rc) {
		r->armed = lp_journal_has(r->j, LP_JF_ARMED);
		r->failed = lp_journal_has(r->j, LP_JF_FAILED);
		r->hurry = lp_journal_has(r->j, LP_JF_HURRY);
		r->t_first = r->j->h->t_first;
		rc = r->armed ? first_pages(r) : 0;
		atomic_store(&r->filled_bulk, p.filled);
		count_task(&p);
		lp_journal_add(r->j, LP_J_RESTART, 0, 0, 0, 0, 0, 0);
		book_resume(r);
		if (!rc)
			rc = handle_zone(&p, rd);
		lp_crash_point(restart_zone);
		if (!rc)
			rc = revive(r);
		if (rc)
			lp_err_sys(err, rc, "cannot go on from the journal");
		atomic_store(&r->probe_all, true);
		kick_reader(r);
	}
	if (!rc && atomic_load(&r->j->h->up.state) == LP_J_UP_REPLACING)
		atomic_store(&r->j->h->up.state, LP_J_UP_DONE);
	lp_crash_point(restart_woken);
	now = lp_now();
	if (!rc && r->j->h->died_at && now - r->j->h->died_at > r->j->h->longest_ns)
		r->j->h->longest_ns = now - r->j->h->died_at;
	if (!rc && r->j->h->workers > 1)
		pr_warn("worker %u goes on with %zu address spaces, %.3f ms after the death of the last one "
			"(journal: %" PRIu64 " cells, read in %.3f ms)",
			r->j->h->workers, r->nmms, r->j->h->died_at ? (now - r->j->h->died_at) / 1e6 : 0.0,
			lp_journal_count(r->j), (now - t0) / 1e6);
	free(p.answers);
	free(p.mms);
	free(rd);
	return rc;
}

int lp_restore_rehearse(const struct lp_images *im, struct lp_journal *j, struct lp_err *err)
{
	const struct lp_engine_conf ec = { .page = LP_PAGE_SIZE, .seed = lp_now(), .there = mm_there,
					     .old_shrink = lp_uffd_old_shrink() };
	const struct lp_restore_conf conf = { .images = im, .journal = j };
	struct lp_restore *r = calloc(1, sizeof(*r));
	struct lp_replay p = { .r = r };
	int rc;

	*err->msg = 0;
	if (!r)
		return lp_err(err, -ENOMEM, "out of memory");
	r->conf = &conf;
	r->j = j;
	r->engine = lp_engine_new(&ec);
	r->urgent_tail = &r->urgent_head;
	pthread_mutex_init(&r->lock, NULL);
	if (!r->engine)
		return lp_err(err, -ENOMEM, "out of memory");
	if (lp_journal_has(j, LP_JF_LAST))
		return lp_err(err, -ENODATA, "the journal is not complete");
	rc = read_log(&p, err);
	return rc && !*err->msg ? lp_err_sys(err, rc, "cannot go on from the journal") : rc;
}
