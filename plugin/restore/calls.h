/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every call of the restore side that changes the engine, or a task, goes
 * through here, where it leaves a record when a trace is made. Nothing else in
 * this folder may say lp_space_remap() and the like: internal.h poisons them.
 *
 * A record is written before the lock (or gate) is left under which its call
 * was made. So records of one space are in the order of the calls, as far as
 * the order matters: calls on the engine are made under r->lock;
 * lp_flight_advance() and fills, which are not, are made under the gate, while
 * nobody can edit flights, and commute with what others do meanwhile. That is
 * why the trace can be replayed. What `there` was asked comes before the call
 * that asked.
 */
#ifndef LP_RESTORE_CALLS_H
#define LP_RESTORE_CALLS_H

#include <errno.h>

#include "restore/internal.h"
#include "restore/recorder.h"

#define RECORD_AT(r, type, ns, ...)                                                                           \
	do {                                                                                                  \
		if (__builtin_expect((r)->trace != NULL, 0))                                                  \
			lp_recorder_put((r)->trace, type, ns, (uint64_t[]){ __VA_ARGS__ },                    \
					sizeof((uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t));              \
	} while (0)
#define RECORD(r, type, ...) RECORD_AT(r, type, 0, __VA_ARGS__)

static inline struct lp_mm *mm_of(const struct lp_space *s)
{
	return lp_space_host(s);
}

/* Of the space of @mm; the fields that follow its number. */
#define RECORD_MM(mm, type, ...) RECORD((mm)->r, type, (mm)->id, __VA_ARGS__)

/* calls.c; only when a trace is made. */
void record_flight(struct lp_restore *r, const struct lp_flight *f);

/* ---- Spaces ---- */

static inline int eng_space_new(struct lp_engine *e, struct lp_mm *mm, struct lp_space **out)
{
	int rc = lp_space_new(e, mm, out);

	if (!rc)
		RECORD_MM(mm, LP_REC_SPACE, (uint32_t)mm->pid, (uint32_t)mm->host_pid);
	return rc;
}

static inline void eng_space_free(struct lp_space *s)
{
	if (s)
		RECORD_MM(mm_of(s), LP_REC_FREE, lp_space_dead(s), lp_space_complete(s));
	lp_space_free(s);
}

static inline int eng_add_extent(struct lp_space *s, uint64_t start, uint64_t end)
{
	int rc = lp_space_add_extent(s, start, end);

	if (!rc)
		RECORD_MM(mm_of(s), LP_REC_EXTENT, start, end);
	return rc;
}

static inline int eng_add_missing(struct lp_space *s, uint64_t start, uint64_t end, uint64_t img, uint32_t obj)
{
	int rc = lp_space_add_missing(s, start, end, img, obj);

	if (!rc)
		RECORD_MM(mm_of(s), LP_REC_MISSING, start, end, img, obj);
	return rc;
}

static inline int eng_add_wiped(struct lp_space *s, uint64_t start, uint64_t end)
{
	int rc = lp_space_add_wiped(s, start, end);

	if (!rc)
		RECORD_MM(mm_of(s), LP_REC_WIPED, start, end);
	return rc;
}

static inline int eng_add_dontfork(struct lp_space *s, uint64_t start, uint64_t end)
{
	int rc = lp_space_add_dontfork(s, start, end);

	if (!rc)
		RECORD_MM(mm_of(s), LP_REC_DONTFORK, start, end);
	return rc;
}

/* ---- Messages ---- */

static inline int eng_fork(struct lp_space *s, struct lp_mm *mm, struct lp_space **child)
{
	int rc = lp_space_fork(s, mm, child);

	RECORD_MM(mm_of(s), LP_REC_FORK, mm->id, (int64_t)rc);
	return rc;
}

static inline int eng_remap(struct lp_space *s, uint64_t from, uint64_t to, uint64_t len)
{
	int rc = lp_space_remap(s, from, to, len);

	RECORD_MM(mm_of(s), LP_REC_REMAP, from, to, len, (int64_t)rc);
	return rc;
}

static inline int eng_remove(struct lp_space *s, uint64_t start, uint64_t end)
{
	int rc = lp_space_remove(s, start, end);

	RECORD_MM(mm_of(s), LP_REC_REMOVE, start, end, (int64_t)rc);
	return rc;
}

static inline int eng_unmap(struct lp_space *s, uint64_t start, uint64_t end)
{
	int rc = lp_space_unmap(s, start, end);

	RECORD_MM(mm_of(s), LP_REC_UNMAP, start, end, (int64_t)rc);
	return rc;
}

static inline void eng_book(struct lp_space *s, uint64_t name)
{
	lp_space_book(s, name);
	RECORD_MM(mm_of(s), LP_REC_BOOK, name);
}

static inline int eng_changed(struct lp_space *s, const struct lp_change *c)
{
	RECORD_MM(mm_of(s), LP_REC_CHANGE, c->kind | (uint64_t)c->flags << 8, c->from, c->len, c->to, c->to_len);
	return lp_space_changed(s, c);
}

static inline void eng_call(struct lp_space *s, uint64_t number)
{
	lp_space_call(s, number);
	RECORD_MM(mm_of(s), LP_REC_CALL, number);
}

static inline void eng_book_lost(struct lp_space *s)
{
	lp_space_book_lost(s);
	RECORD_MM(mm_of(s), LP_REC_BOOK_LOST);
}

static inline void eng_exit(struct lp_space *s)
{
	lp_space_exit(s);
	RECORD(mm_of(s)->r, LP_REC_EXIT, mm_of(s)->id);
}

static inline int eng_settled(struct lp_space *s)
{
	int rc = lp_space_settled(s);

	RECORD_MM(mm_of(s), LP_REC_SETTLED, (int64_t)rc);
	return rc;
}

static inline bool eng_next_wake(struct lp_space *s, uint64_t *addr)
{
	bool more = lp_space_next_wake(s, addr);

	RECORD_MM(mm_of(s), LP_REC_NEXT_WAKE, more, more ? *addr : 0);
	return more;
}

/* ---- Faults ---- */

static inline int eng_fault(struct lp_space *s, uint64_t addr, uint64_t readahead, enum lp_verdict *verdict,
			    struct lp_flight **flight)
{
	int rc = lp_space_fault(s, addr, readahead, verdict, flight);
	bool fill = !rc && *verdict == LP_FILL;

	RECORD_MM(mm_of(s), LP_REC_FAULT, addr, readahead, *verdict, fill ? lp_flight_id(*flight) : 0, (int64_t)rc);
	if (fill)
		record_flight(mm_of(s)->r, *flight);
	return rc;
}

/* A record is made only of what led to something. */
static inline int eng_early_fault(struct lp_space *s, uint64_t addr, uint64_t readahead, struct lp_flight *own,
				  struct lp_flight **flight)
{
	int rc = lp_space_early_fault(s, addr, readahead, own, flight);

	if (rc || *flight)
		RECORD_MM(mm_of(s), LP_REC_EARLY, addr, readahead, lp_flight_id(own), rc ? 0 : lp_flight_id(*flight),
			  (int64_t)rc);
	if (*flight)
		record_flight(mm_of(s)->r, *flight);
	return rc;
}

static inline void eng_answered(struct lp_space *s, uint64_t addr)
{
	lp_space_answered(s, addr);
	RECORD_MM(mm_of(s), LP_REC_ANSWERED, addr);
}

static inline int eng_defer(struct lp_space *s, uint64_t addr)
{
	int rc = lp_space_defer(s, addr);

	RECORD_MM(mm_of(s), LP_REC_DEFER, addr, (int64_t)rc);
	return rc;
}

static inline bool eng_next_deferred(struct lp_space *s, uint64_t *addr)
{
	bool more = lp_space_next_deferred(s, addr);

	RECORD_MM(mm_of(s), LP_REC_NEXT_DEFERRED, more, more ? *addr : 0);
	return more;
}

/* ---- Flights ---- */

static inline int eng_next(struct lp_restore *r, uint64_t max_bytes, unsigned max_pieces, uint64_t now,
			   struct lp_flight **out, uint64_t *when)
{
	int rc = lp_engine_next(r->engine, max_bytes, max_pieces, now, out, when);

	/* Its time is the argument, so it is left out. */
	if (__builtin_expect(r->trace != NULL, 0)) {
		RECORD_AT(r, LP_REC_NEXT, now, max_bytes, max_pieces, rc ? 0 : mm_of(lp_flight_space(*out))->id,
			  rc ? 0 : lp_flight_id(*out), rc ? lp_recorder_time(r->trace, *when) : 0, (int64_t)rc);
		if (!rc)
			record_flight(r, *out);
	}
	return rc;
}

/* Under the gate, not r->lock. */
static inline void eng_advance(struct lp_flight *f, uint64_t bytes)
{
	lp_flight_advance(f, bytes);
	RECORD_MM(mm_of(lp_flight_space(f)), LP_REC_ADVANCE, lp_flight_id(f), bytes);
}

static inline int eng_finish(struct lp_flight *f)
{
	struct lp_mm *mm = mm_of(lp_flight_space(f));
	uint64_t id = lp_flight_id(f);
	int rc = lp_flight_finish(f);

	RECORD_MM(mm, LP_REC_FINISH, id, (int64_t)rc);
	return rc;
}

static inline void eng_stall(struct lp_space *s, uint64_t until)
{
	struct lp_mm *mm = mm_of(s);

	lp_space_stall(s, until);
	if (__builtin_expect(mm->r->trace != NULL, 0))
		RECORD_MM(mm, LP_REC_STALL, lp_recorder_time(mm->r->trace, until));
}

/* ---- The kernel ---- */

/*
 * userfaultfd fills over guard pages. So nothing is filled of which it is not known
 * that there are none: as if the layout was changing.
 */
static inline bool mm_fill_begin(struct lp_mm *mm, unsigned *slot)
{
	struct lp_ledger *l = mm->r->ledger;

	/* The gate is held, so it does not change. */
	*slot = l ? atomic_load_explicit(&mm->slot, memory_order_relaxed) : MM_UNWATCHED;
	lp_uffd_delay_outside();
	return *slot == MM_UNWATCHED || lp_ledger_fill_begin(l, *slot);
}

static inline void mm_fill_end(struct lp_mm *mm, unsigned slot)
{
	if (slot != MM_UNWATCHED)
		lp_ledger_fill_end(mm->r->ledger, slot);
	lp_uffd_delay_outside();
}

/* @f: what the bytes belong to. */
static inline int mm_copy(struct lp_mm *mm, const struct lp_flight *f, uint64_t dst, const void *src, uint64_t len,
			  uint64_t *done)
{
	uint64_t part;
	unsigned slot;
	int rc = -EAGAIN;

	*done = 0;
	while (mm_fill_begin(mm, &slot)) {
		part = len - *done;
		if (slot != MM_UNWATCHED && part > LP_PAGE_SIZE && lp_ledger_fill_pages(mm->r->ledger, slot))
			part = LP_PAGE_SIZE;
		rc = lp_uffd_copy(mm->fd, dst + *done, (const char *)src + *done, part, &part);
		mm_fill_end(mm, slot);
		*done += part;
		if (rc || *done == len)
			break;
		rc = -EAGAIN;
	}
	RECORD_MM(mm, LP_REC_COPY, lp_flight_id(f), dst, len, *done, (int64_t)rc);
	return rc;
}

static inline int mm_zero(struct lp_mm *mm, uint64_t dst, uint64_t len, uint64_t *done)
{
	unsigned slot;
	int rc = -EAGAIN;

	*done = 0;
	if (mm_fill_begin(mm, &slot)) {
		rc = lp_uffd_zero(mm->fd, dst, len, done);
		mm_fill_end(mm, slot);
	}
	RECORD_MM(mm, LP_REC_ZEROPAGE, dst, len, (int64_t)rc);
	return rc;
}

/* The mm may be gone by now, so it is told by descriptor and number. */
static inline void mm_wake(struct lp_restore *r, int fd, unsigned id, uint64_t start, uint64_t len)
{
	int rc = lp_uffd_wake(fd, start, len);

	RECORD(r, LP_REC_WAKE, id, start, len, (int64_t)rc);
}

static inline int mm_probe(struct lp_mm *mm, uint64_t unmapped)
{
	int rc = lp_uffd_probe(mm->fd, unmapped);

	RECORD_MM(mm, LP_REC_PROBE, (int64_t)rc);
	return rc;
}

/* ---- The source ---- */

static inline int record_source(struct lp_restore *r, enum lp_rec_how how, uint32_t obj, uint64_t img, uint64_t len,
				int rc)
{
	RECORD(r, LP_REC_SOURCE, how, obj, img, len, (int64_t)rc);
	return rc;
}

#endif
