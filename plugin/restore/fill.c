/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fills: the threads that put pages into the restored tasks. Bulk threads
 * claim flights from the engine and copy them chunk by chunk, each chunk under
 * the gate; urgent threads read what the reader could not get without
 * sleeping. A flight keeps its mm alive, so nothing here counts references.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "restore/internal.h"
#include "base/prio.h"

#define MS UINT64_C(1000000)
#define BACKOFF_MIN (20 * MS / 1000)
#define BACKOFF_MAX (2 * MS)

/*
 * A fill that was refused because the layout is changing is tried again at once
 * for so long: the message is read, and then the kernel refuses until its task
 * has run, which takes some microseconds. A task that changes its layout all the
 * time gives no better moment than the one between two of its calls.
 */
#define AGAIN_NS (100 * MS / 1000)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void advance(struct lp_mm *mm, struct lp_flight *f, uint64_t addr, uint64_t len)
{
	lp_crash_point(copy_after);
	note_filled(mm, addr, len);
	lp_crash_point(copy_noted);
	eng_advance(f, len);
}

/*
 * Up to @len bytes of the head piece of @f from @src. The gate is held; the
 * caller of an urgent flight wakes what the flight has advanced over when it has
 * left the gate, whatever this returns.
 *
 * ENOENT means that no single registered VMA holds the range. Before CRIU is
 * done that is a range not registered yet. Later it is a VMA that the task has
 * split (mprotect, madvise: no event) or a place that is gone. The kernel looks
 * for a changing layout before it looks for the VMA; so when a second call for
 * one page says ENOENT again, every change that could have removed the page
 * before the first call has been read, and the place is gone for good
 * (MADV_DONTFORK in a child, for example).
 */
static int fill_chunk(struct lp_mm *mm, struct lp_flight *f, const uint8_t *src, uint64_t len,
		      _Atomic uint64_t *count)
{
	uint64_t n = len, done, step;
	int rc;

	while (len) {
		uint64_t addr = lp_flight_head(f)->addr;

		n = min_u64(n, len);
		lp_crash_point(copy_before);
		rc = mm_copy(mm, f, addr, src, n, &done);
		step = done;
		atomic_fetch_add_explicit(count, done, memory_order_relaxed);
		if (!rc) {
			n = CHUNK;
		} else if (rc == -EEXIST) {
			/* Filled by an urgent flight, or written by CRIU before it registered the VMA. */
			step += LP_PAGE_SIZE;
		} else if (rc == -ENOENT && atomic_load(&mm->r->armed)) {
			if (n - done > LP_PAGE_SIZE) {
				n = ((n - done) / 2 + LP_PAGE_SIZE - 1) & ~(LP_PAGE_SIZE - 1);
			} else {
				rc = mm_copy(mm, f, addr + done, src + done, LP_PAGE_SIZE, &done);
				if (rc == -ENOENT) {
					pr_debug("%d.%u: no place for 0x%" PRIx64 " any more", mm->pid, mm->id,
						 addr + step);
					atomic_fetch_add_explicit(&mm->r->dropped, LP_PAGE_SIZE,
								  memory_order_relaxed);
				} else if (rc && rc != -EEXIST) {
					goto stop;
				}
				step += LP_PAGE_SIZE;
				n = 2 * LP_PAGE_SIZE;
			}
		} else {
stop:
			if (step)
				advance(mm, f, addr, step);
			return rc;
		}
		if (step)
			advance(mm, f, addr, step);
		src += step;
		len -= step;
	}
	return 0;
}

void after_failure(struct lp_mm *mm, int why, uint64_t img, uint32_t obj)
{
	struct lp_restore *r = mm->r;
	uint64_t now = lp_now();
	char where[128];

	switch (why) {
	case 0:
		mm->backoff = 0;
		return;
	case -EAGAIN:
		atomic_fetch_add_explicit(&r->refused, 1, memory_order_relaxed);
		mm->backoff = min_u64(mm->backoff ? mm->backoff * 2 : BACKOFF_MIN, BACKOFF_MAX);
		break;
	case -ENOENT: /* not registered yet: when CRIU is done at the latest, see restore.c */
		mm->backoff = 5 * MS;
		break;
	case -ENOMEM:
		if (!mm->warned_nomem)
			pr_warn("%d.%u: no memory for its pages: its memory cgroup or the machine is full; "
				"going on as soon as some is free",
				mm->pid, mm->id);
		mm->warned_nomem = true;
		mm->backoff = min_u64(mm->backoff < 10 * MS ? 10 * MS : mm->backoff * 2, 1000 * MS);
		break;
	default:
		if (!mm->warned_source)
			pr_err("%d.%u: cannot fill from %s: %s; its tasks wait for their pages, trying again "
			       "at least every second",
			       mm->pid, mm->id, r->source->ops->where(r->source, obj, img, where, sizeof(where)),
			       lp_source_strerror(why));
		mm->warned_source = true;
		r->source_bad_at = now;
		r->source_error = why;
		r->source_errors++;
		mm->backoff = min_u64(mm->backoff < 50 * MS ? 50 * MS : mm->backoff * 2, 1000 * MS);
	}
	eng_stall(mm->space, now + mm->backoff);
	pthread_cond_signal(&r->bulk_cond); /* a sleeping worker may not know of what has come back */
	if (!mm->retry_at || mm->retry_at < now)
		mm->retry_at = now + mm->backoff;
}

void look_later(struct lp_mm *mm)
{
	mm->doubt = min_u64(mm->doubt ? mm->doubt * 2 : BACKOFF_MIN, BACKOFF_MAX);
	mm->retry_at = lp_now() + mm->doubt;
}

void mm_gone(struct lp_mm *mm)
{
	struct lp_restore *r = mm->r;
	/* Only who has the role may read the ledger; without, the order of its last changes may have to be guessed. */
	bool role = !pthread_mutex_trylock(&r->role);

	lp_gate_enter_alone(&mm->gate);
	pthread_mutex_lock(&r->lock);
	if (role) {
		mm->alone = true;
		book_read(r);
		mm->alone = false;
	}
	if (!lp_space_dead(mm->space)) {
		pr_info("%d.%u: its address space is gone", mm->pid, mm->id);
		note_begin(r);
		eng_exit(mm->space);
		note_call(mm, LP_J_EXIT);
	}
	pthread_mutex_unlock(&r->lock);
	lp_gate_leave_alone(&mm->gate);
	if (role)
		pthread_mutex_unlock(&r->role);
}

void flight_finish(struct lp_restore *r, struct lp_flight *f)
{
	const struct timespec pause = { .tv_nsec = 10 * MS };

	while (eng_finish(f)) {
		pthread_mutex_unlock(&r->lock);
		nanosleep(&pause, NULL);
		pthread_mutex_lock(&r->lock);
	}
}

/* r->lock is held and may be released for a while. The mm may be freed as soon as it is released after this. */
static void flight_end(struct lp_mm *mm, struct lp_flight *f, int why, uint64_t img, uint32_t obj)
{
	struct lp_restore *r = mm->r;

	flight_finish(r, f);
	if (!lp_space_dead(mm->space))
		after_failure(mm, why, img, obj);
	if (lp_space_has_deferred(mm->space) || lp_space_complete(mm->space) || lp_space_dead(mm->space)) {
		mm->check = true;
		kick_reader(r);
	}
}

void busy_begin(struct lp_restore *r)
{
	atomic_fetch_add(&r->busy, 1);
}

void busy_end(struct lp_restore *r)
{
	if (atomic_fetch_sub(&r->busy, 1) != 1)
		return;
	/* The last one: the waiting thread shall wait for messages again. */
	pthread_mutex_lock(&r->lock);
	if (r->ledger && !atomic_load(&r->busy))
		lp_ledger_want_faults(r->ledger, false);
	pthread_cond_signal(&r->idle_cond);
	pthread_mutex_unlock(&r->lock);
}

/* While threads fault, they shall not wait long for the end of a chunk. */
static uint64_t chunk_len(struct lp_restore *r)
{
	uint64_t now = atomic_load_explicit(&r->last_pass, memory_order_relaxed);
	uint64_t fault = atomic_load_explicit(&r->last_fault, memory_order_relaxed);

	/* The pass that found the fault began before. */
	return now < fault + FAULTS_RECENT_NS ? CHUNK_FAULTS : CHUNK;
}

/* Of the beginning of @p at least. */
static bool has_bytes(const struct lp_window *w, const struct lp_piece *p)
{
	return w->bytes && w->obj == p->obj && p->img >= w->img && p->img < w->end;
}

/* Is it the source's failure, not one of the fill? */
static bool of_source(int rc)
{
	return rc && rc != -EAGAIN && rc != -ENOENT && rc != -ENOMEM && rc != -ESRCH;
}

/*
 * The first page of what is left of @f was given up, perhaps because of another
 * one that the source wanted to give along with it: so once more, alone.
 */
static int lost_page(struct lp_mm *mm, struct lp_flight *f)
{
	struct lp_source *src = mm->r->source;
	uint8_t page[LP_PAGE_SIZE];
	const struct lp_piece *p;
	struct lp_piece at = { 0 };
	int rc;

	lp_gate_enter(&mm->gate);
	p = lp_flight_head(f);
	if (p)
		at = *p;
	lp_gate_leave(&mm->gate);
	if (!p)
		return 0;
	rc = src->ops->read(src, at.obj, at.img, page, sizeof(page));
	lp_gate_enter(&mm->gate);
	p = lp_flight_head(f);
	if (p && p->obj == at.obj && p->img == at.img)
		rc = rc ? lost_poison(mm, f) : fill_chunk(mm, f, page, sizeof(page), &mm->r->filled_bulk);
	else
		rc = 0;
	lp_gate_leave(&mm->gate);
	return rc;
}

/* Does anybody tell of faults before their messages do? */
static bool tells_faults(const struct lp_restore *r)
{
	return r->ledger && lp_ledger_tells_faults(r->ledger);
}

void pass_wanted(struct lp_restore *r, bool restless)
{
	atomic_store_explicit(&r->pass_due, true, memory_order_relaxed);
	if (restless)
		atomic_store_explicit(&r->restless_until, lp_now() + RESTLESS_NS, memory_order_relaxed);
}

uint64_t pass_ns(const struct lp_restore *r, uint64_t now)
{
	return tells_faults(r) && now >= atomic_load_explicit(&r->restless_until, memory_order_relaxed) ? PASS_TOLD_NS :
													   PASS_NS;
}

/* How often in a row faults come before the next chunk. */
#define ROUNDS 4

/* Between two chunks of @f: who waits for a page? */
static void look_for_faults(struct lp_mm *mm, struct lp_flight *f, struct lp_reader *rd)
{
	struct lp_restore *r = mm->r;
	bool told = tells_faults(r);
	unsigned rounds = 0;
	uint64_t last, now;

	if (told)
		lp_ledger_want_faults(r->ledger, true);
	do {
		if (told) {
			seen_faults(rd, mm, f);
			/* Its message may come later. */
			if (lp_ledger_any(r->ledger))
				pass_wanted(r, true);
		}
		do {
			/* Unless somebody else has just looked. */
			now = lp_now();
			last = atomic_load_explicit(&r->last_pass, memory_order_relaxed);
			if (atomic_load_explicit(&r->pass_due, memory_order_relaxed) || now - last > pass_ns(r, now))
				reader_pass(rd);
			else if (rd->njobs)
				jobs_round(rd);
		} while (rd->njobs);
		/* Whom we have woken may have had our CPU since, and touched the next page. But bulk must go on, too. */
	} while (told && ++rounds < ROUNDS && lp_ledger_any_fault(r->ledger));
}

static void bulk_fill(struct lp_mm *mm, struct lp_flight *f, struct lp_window *w, struct lp_reader *rd)
{
	struct lp_restore *r = mm->r;
	struct lp_source *src = r->source;
	const struct lp_piece *p;
	struct lp_piece at = { 0 }, bad = { 0 }; /* bad: where it stopped */
	uint64_t left, again = 0; /* since when it is refused */
	int rc = 0;

	busy_begin(r);
	rd->window = w;
	while (!rc) {
		if (control_held(r)) {
			/* As below: it may sleep. What it has claimed a fault can take from it. */
			bool go;

			busy_end(r);
			go = control_turn(r);
			busy_begin(r);
			if (!go)
				break;
		}
		lp_gate_enter(&mm->gate);
		p = lp_flight_head(f);
		if (!p) {
			lp_gate_leave(&mm->gate);
			break;
		}
		at = *p;
		if (has_bytes(w, &at)) {
			at.len = min_u64(min_u64(at.len, w->end - at.img), chunk_len(r));
			left = lp_flight_left(f);
			rc = fill_chunk(mm, f, w->bytes + (at.img - w->img), at.len, &r->filled_bulk);
			left -= lp_flight_left(f);
			p = lp_flight_head(f);
			bad = rc && p ? *p : at;
			lp_gate_leave(&mm->gate);
			if (!rc)
				lost_found(mm, at.obj, at.img, at.len);
			if (left) {
				control_charge(r, left);
				again = 0;
			}
			if (rc == -EAGAIN) {
				uint64_t now = lp_now();

				again = again ? again : now;
				if (now - again < AGAIN_NS) {
					reader_pass(rd);
					rc = 0;
					continue;
				}
			}
			/*
			 * A thread whose message was read has an owner that wakes it; this
			 * only wakes it sooner, so not when nobody faults.
			 */
			if (left && at.len <= CHUNK_FAULTS && (!tells_faults(r) || seen_any(r)))
				mm_wake(r, mm->fd, mm->id, at.addr, left);
			look_for_faults(mm, f, rd);
		} else {
			/* May sleep for the source: not in the gate, and not counted as busy. */
			bad = at;
			left = lp_flight_left(f);
			lp_gate_leave(&mm->gate);
			busy_end(r);
			rc = src->ops->map(src, w, at.obj, at.img, left);
			record_source(r, LP_HOW_MAP, at.obj, at.img, left, rc);
			busy_begin(r);
			if (rc == -EAGAIN || rc == -ENOENT || rc == -ENOMEM || rc == -ESRCH)
				rc = -EIO; /* these mean something else for a fill */
		}
		if (of_source(rc) && lost_given_up(mm, bad.obj, bad.img, rc, false))
			rc = lost_page(mm, f);
	}
	rd->window = NULL;
	if (rc == -ESRCH)
		mm_gone(mm);
	pthread_mutex_lock(&r->lock);
	flight_end(mm, f, rc, at.img, at.obj);
	pthread_mutex_unlock(&r->lock);
	busy_end(r);
}

static void wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, uint64_t when)
{
	struct timespec ts = { .tv_sec = when / 1000000000, .tv_nsec = when % 1000000000 };

	if (when == LP_NEVER)
		pthread_cond_wait(cond, lock);
	else
		pthread_cond_timedwait(cond, lock, &ts);
}

void *bulk_main(void *arg)
{
	struct lp_restore *r = arg;
	struct lp_reader *rd = malloc(sizeof(*rd));
	struct lp_window w = { 0 };
	struct lp_flight *f;
	uint64_t when;
	int rc;

	if (!rd) {
		pr_err("out of memory at start");
		abort();
	}
	rd->r = r;
	rd->nwakes = rd->njobs = 0;
	rd->window = NULL;
	/* Faults wait for who is in a gate: he must get his CPU back before those that bring the bytes. */
	if (r->source->ops->brought)
		lp_prio_urgent();
	else
		lp_prio_bulk();
	lp_recorder_thread(LP_BY_BULK);
	pthread_mutex_lock(&r->lock);
	while (!r->stopping) {
		when = LP_NEVER;
		rc = -EAGAIN;
		/* Before CRIU has registered everything it would only fight with CRIU for locks and CPUs. */
		if (control_background(r) && !r->failed && !r->fatal && atomic_load(&r->armed))
			rc = eng_next(r, FLIGHT_BYTES, FLIGHT_PIECES, lp_now(), &f, &when);
		if (rc == -ENOMEM)
			when = lp_now() + 10 * MS;
		if (rc) {
			wait_until(&r->bulk_cond, &r->lock, when);
			continue;
		}
		pthread_cond_signal(&r->bulk_cond);
		pthread_mutex_unlock(&r->lock);
		lp_crash_point(claim);
		bulk_fill(lp_space_host(lp_flight_space(f)), f, &w, rd);
		pthread_mutex_lock(&r->lock);
	}
	pthread_mutex_unlock(&r->lock);
	r->source->ops->unmap(r->source, &w);
	free(rd);
	return NULL;
}

int urgent_push(struct lp_restore *r, struct lp_flight *f)
{
	struct urgent *u = malloc(sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->flight = f;
	u->next = NULL;
	*r->urgent_tail = u;
	r->urgent_tail = &u->next;
	pthread_cond_signal(&r->urgent_cond);
	return 0;
}

static bool awaited(struct lp_restore *r, const struct lp_flight *f)
{
	bool yes;

	pthread_mutex_lock(&r->lock);
	yes = lp_flight_awaited(f);
	pthread_mutex_unlock(&r->lock);
	return yes;
}

/* A thread waits for the first page, and soon for the next: first a little; then more, so that it goes on for longer. */
static uint64_t urgent_len(const struct lp_flight *f, uint64_t addr)
{
	uint64_t first = lp_flight_fault_addr(f), done = addr > first ? addr - first : 0;

	return min_u64(done ? 2 * done : CHUNK_FAULTS, CHUNK);
}

/*
 * One chunk of an urgent flight, through @buf of CHUNK bytes; then the threads
 * that wait for it go on. True: the flight has ended, or @nowait and the urgent
 * threads have it, since its bytes are not at hand.
 */
static bool urgent_chunk(struct lp_mm *mm, struct lp_flight *f, uint8_t *buf, const struct lp_window *w, bool nowait)
{
	struct lp_restore *r = mm->r;
	struct lp_source *src = r->source;
	const struct lp_piece *p;
	struct lp_piece at = { 0 };
	uint64_t done = 0;
	bool more = false, lost = false, alone = false;
	const uint8_t *bytes = buf;
	int rc = 0;

	lp_gate_enter(&mm->gate);
	p = lp_flight_head(f);
	if (p)
		at = *p;
	lp_gate_leave(&mm->gate);
	if (!p)
		goto end;
	at.len = min_u64(at.len, urgent_len(f, at.addr));
	if (w && has_bytes(w, &at)) {
		bytes = w->bytes + (at.img - w->img);
		at.len = min_u64(at.len, w->end - at.img);
	} else {
		rc = (nowait ? src->ops->try_read : src->ops->read)(src, at.obj, at.img, buf, at.len);
		record_source(r, nowait ? LP_HOW_TRY : LP_HOW_READ, at.obj, at.img, at.len, rc);
	}
	/* An error takes a closer look, which may sleep. */
	if (nowait && rc) {
		pthread_mutex_lock(&r->lock);
		rc = urgent_push(r, f);
		pthread_mutex_unlock(&r->lock);
		if (!rc)
			return true;
		goto end;
	}
	/* Perhaps only what was to be read along with the page cannot be had. */
	if (rc && at.len > LP_PAGE_SIZE && rc != -ETIMEDOUT) {
		alone = true;
		at.len = LP_PAGE_SIZE;
		rc = src->ops->read(src, at.obj, at.img, buf, LP_PAGE_SIZE);
		record_source(r, LP_HOW_READ, at.obj, at.img, LP_PAGE_SIZE, rc);
	}
	if (rc) {
		if (rc == -EAGAIN || rc == -ENOENT || rc == -ENOMEM || rc == -ESRCH)
			rc = -EIO; /* these mean something else for a fill */
		if (!lost_given_up(mm, at.obj, at.img, rc, awaited(r, f)))
			goto end;
		at.len = LP_PAGE_SIZE;
		lost = true;
	} else {
		lost_found(mm, at.obj, at.img, at.len);
	}
	lp_crash_point(urgent);
	/* Layout events may have cut or moved it in the meantime. */
	lp_gate_enter(&mm->gate);
	p = lp_flight_head(f);
	if (lost) {
		if (p)
			at.addr = p->addr;
		rc = p && p->obj == at.obj && p->img == at.img ? lost_poison(mm, f) : 0;
		done = rc ? 0 : LP_PAGE_SIZE;
	} else if (p && p->obj == at.obj && p->img - at.img < at.len) {
		uint64_t skip = p->img - at.img;

		at.addr = p->addr;
		at.len = min_u64(p->len, at.len - skip);
		done = lp_flight_left(f);
		rc = fill_chunk(mm, f, bytes + skip, at.len, &r->filled_urgent);
		done -= lp_flight_left(f);
	}
	/* Nobody waits for what follows a page that is lost, or is followed by one. */
	more = !lost && !alone && lp_flight_head(f);
	lp_gate_leave(&mm->gate);
	/* Not what was refused: woken, its threads would fault again at once, and again. */
	if (done)
		mm_wake(r, mm->fd, mm->id, at.addr, done);
	if (!rc && more)
		return false;
	if (rc == -ESRCH)
		mm_gone(mm);
end:
	pthread_mutex_lock(&r->lock);
	flight_end(mm, f, rc, at.img, at.obj);
	pthread_mutex_unlock(&r->lock);
	return true;
}

void jobs_round(struct lp_reader *rd)
{
	unsigned i, n = 0;

	for (i = 0; i < rd->njobs; i++) {
		struct lp_flight *f = rd->jobs[i];

		if (!urgent_chunk(lp_space_host(lp_flight_space(f)), f, rd->buf, rd->window, true))
			rd->jobs[n++] = f;
	}
	rd->njobs = n;
}

void *urgent_main(void *arg)
{
	struct lp_restore *r = arg;
	uint8_t *buf = malloc(CHUNK);
	struct urgent *u;

	if (!buf) {
		pr_err("out of memory at start");
		abort();
	}
	lp_prio_urgent();
	lp_recorder_thread(LP_BY_URGENT);
	pthread_mutex_lock(&r->lock);
	while (!r->stopping) {
		u = r->urgent_head;
		if (!u) {
			pthread_cond_wait(&r->urgent_cond, &r->lock);
			continue;
		}
		r->urgent_head = u->next;
		if (!r->urgent_head)
			r->urgent_tail = &r->urgent_head;
		pthread_mutex_unlock(&r->lock);
		while (!urgent_chunk(lp_space_host(lp_flight_space(u->flight)), u->flight, buf, NULL, false))
			;
		free(u);
		pthread_mutex_lock(&r->lock);
	}
	pthread_mutex_unlock(&r->lock);
	free(buf);
	return NULL;
}
