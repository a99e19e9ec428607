/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The reader role: reading all userfaultfds, applying layout events to the
 * engine and answering faults, at once when the bytes are at hand. Its holder
 * owns the mms: it alone closes their descriptors and frees them. And the
 * thread that waits for messages while nobody else is awake.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "restore/internal.h"
#include "base/kernel.h"
#include "base/prio.h"

#define MESSAGES LP_J_MESSAGES
#define EVENTS 64

/* Look for address spaces that are gone this often, in case a report of an exit was lost. */
#define PROBE_NS UINT64_C(250000000)

/* While there is no descriptor for the child of a fork, try again this often. */
#define FILES_NS UINT64_C(10000000)

/*
 * How long the waiting thread trusts busy bulk threads to look for messages; and
 * how long after it found that they had not, since tasks have taken the CPUs.
 */
#define WATCH_NS UINT64_C(500000)
#define WATCH_CLOSELY_NS UINT64_C(200000)

/*
 * A thread inside a gate may have lost its CPU to a task that was just woken,
 * and whoever waits for it wastes another. So this long, a little more than a
 * short chunk takes; then on with the own work, and once more after the next
 * chunk. But for no longer than INSIST_NS: then sleeping, until the gate is free.
 */
#define TRY_NS UINT64_C(8000)
#define INSIST_NS UINT64_C(100000)

/* What no message tells is read from the ledger this often. */
#define LEDGER_NS UINT64_C(20000000)

void wake_flush(struct lp_reader *rd)
{
	unsigned i;

	/*
	 * The mm may be closed by now: then the kernel has woken its threads. If
	 * its number was given to another userfaultfd, a thread there looks again,
	 * which is harmless; any other file refuses.
	 */
	if (rd->nwakes)
		lp_crash_point(wake);
	for (i = 0; i < rd->nwakes; i++)
		mm_wake(rd->r, rd->wakes[i].fd, rd->wakes[i].id, rd->wakes[i].addr, rd->wakes[i].len);
	rd->nwakes = 0;
}

static void wake_later(struct lp_reader *rd, struct lp_mm *mm, uint64_t addr, uint64_t len)
{
	if (rd->nwakes == sizeof(rd->wakes) / sizeof(rd->wakes[0]))
		wake_flush(rd);
	rd->wakes[rd->nwakes++] = (struct wake){ mm->fd, mm->id, addr, len };
}

struct lp_mm *mm_new(struct lp_restore *r, int fd, int32_t pid)
{
	struct lp_mm *mm = calloc(1, sizeof(*mm));

	if (!mm)
		return NULL;
	mm->r = r;
	mm->fd = fd;
	mm->pid = pid;
	mm->pidfd = -1;
	mm->id = r->next_id++;
	return mm;
}

int mm_poll(struct lp_mm *mm)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = mm };

	mm->polled = true;
	return epoll_ctl(mm->r->epfd, EPOLL_CTL_ADD, mm->fd, &ev) ? -errno : 0;
}

void mm_list(struct lp_mm *mm)
{
	struct lp_restore *r = mm->r;

	mm->next = r->mms;
	mm->pprev = &r->mms;
	if (mm->next)
		mm->next->pprev = &mm->next;
	r->mms = mm;
	r->nmms++;
	r->spaces++;
}

int mm_add(struct lp_mm *mm)
{
	mm_list(mm);
	pthread_cond_broadcast(&mm->r->bulk_cond);
	if (lp_space_young(mm->space)) {
		mm->check = true;
		return 0;
	}
	return mm_poll(mm);
}

int mm_there(void *host, uint64_t start, uint64_t len)
{
	struct lp_mm *mm = host;
	int rc;

	if (note_replays(mm->r, &rc))
		return rc;
	/* The engine may ask for each page of a child that has ended: not the kernel, each time. */
	rc = mm->ended ? -ESRCH : lp_uffd_there(mm->fd, start, len);
	/* Two in a row, as in fill_chunk(): a change may begin between the kernel's two looks. */
	if (!rc)
		rc = lp_uffd_there(mm->fd, start, len);
	if (rc == -ESRCH) {
		mm->ended = true;
		rc = 0;
	}
	RECORD_MM(mm, LP_REC_THERE, start, len, (int64_t)rc);
	return note_answer(mm->r, rc);
}

void mm_forget(struct lp_mm *mm)
{
	*mm->pprev = mm->next;
	if (mm->next)
		mm->next->pprev = mm->pprev;
	mm->r->nmms--;
	book_forget(mm);
	eng_space_free(mm->space);
	free(mm);
}

void mm_free(struct lp_mm *mm)
{
	int fd = mm->fd, pidfd = mm->pidfd;

	book_leave(mm);
	note_close(mm);
	/* It does not leave the set by itself while a check that the guardian has forked has it open, too. */
	if (mm->polled)
		epoll_ctl(mm->r->epfd, EPOLL_CTL_DEL, fd, NULL);
	mm_forget(mm);
	close(fd);
	if (pidfd >= 0)
		close(pidfd);
	lp_crash_point(close_after);
}

/* The functions below run with the gate of @mm held alone. r->lock is taken where the engine is asked. */

#define DOUBT 1 /* nothing was refused, but the engine says LATER */

static void defer(struct lp_mm *mm, uint64_t addr, int why, uint64_t img, uint32_t obj)
{
	pthread_mutex_lock(&mm->r->lock);
	if (eng_defer(mm->space, addr))
		lose_tree(mm->r, mm, "out of memory for a waiting fault");
	if (why == DOUBT)
		look_later(mm);
	else
		after_failure(mm, why, img, obj);
	pthread_mutex_unlock(&mm->r->lock);
}

static void gone(struct lp_mm *mm)
{
	pthread_mutex_lock(&mm->r->lock);
	if (!lp_space_dead(mm->space))
		pr_info("%d.%u: its address space is gone", mm->pid, mm->id);
	book_read(mm->r);
	note_begin(mm->r);
	eng_exit(mm->space);
	note_call(mm, LP_J_EXIT);
	mm->r->again = true; /* its children are young no more */
	pthread_mutex_unlock(&mm->r->lock);
}

static void answer_zero(struct lp_reader *rd, struct lp_mm *mm, uint64_t addr)
{
	struct lp_restore *r = mm->r;
	uint64_t done;
	int rc;

	rc = mm_zero(mm, addr, LP_PAGE_SIZE, &done);
	switch (rc) {
	case 0:
		atomic_fetch_add_explicit(&r->zero_faults, 1, memory_order_relaxed);
		break;
	case -ENOENT:
		/* Not registered yet: the first page of an empty VMA, see handoff.c. */
		if (!atomic_load(&r->armed)) {
			defer(mm, addr, rc, 0, 0);
			return;
		}
		break; /* unmapped in the meantime: the thread shall look again */
	case -EEXIST: /* came in the meantime */
		break;
	case -ESRCH:
		gone(mm);
		return;
	default:
		defer(mm, addr, rc, 0, 0);
		return;
	}
	wake_later(rd, mm, addr, LP_PAGE_SIZE);
	pthread_mutex_lock(&r->lock);
	eng_answered(mm->space, addr);
	pthread_mutex_unlock(&r->lock);
}

/* Filled when role and gate are left: the gate held alone would stop all others for a copy. */
static void answer_fill(struct lp_reader *rd, struct lp_mm *mm, struct lp_flight *f)
{
	struct lp_restore *r = rd->r;
	int rc;

	if (rd->njobs < sizeof(rd->jobs) / sizeof(rd->jobs[0])) {
		rd->jobs[rd->njobs++] = f;
		return;
	}
	pthread_mutex_lock(&r->lock);
	rc = urgent_push(r, f);
	if (rc) {
		flight_finish(r, f);
		after_failure(mm, rc, 0, 0);
	}
	pthread_mutex_unlock(&r->lock);
}

static void answer(struct lp_reader *rd, struct lp_mm *mm, uint64_t addr)
{
	struct lp_restore *r = rd->r;
	enum lp_verdict verdict;
	struct lp_flight *f;
	int rc;

	pthread_mutex_lock(&r->lock);
	rc = eng_fault(mm->space, addr, READAHEAD, &verdict, &f);
	if (rc && !lp_space_broken(mm->space)) {
		if (eng_defer(mm->space, addr))
			lose_tree(r, mm, "out of memory for a fault");
		after_failure(mm, -ENOMEM, 0, 0);
	}
	pthread_mutex_unlock(&r->lock);
	if (rc)
		return;
	pr_debug("%d.%u: fault at 0x%" PRIx64 ": %s", mm->pid, mm->id, addr,
		 verdict == LP_FILL ? "fill" : verdict == LP_ZERO ? "zero" : verdict == LP_WAIT ? "on its way" : "later");
	lp_crash_point(answer);
	if (verdict == LP_LATER)
		defer(mm, addr, DOUBT, 0, 0);
	else if (verdict == LP_ZERO)
		answer_zero(rd, mm, addr);
	else if (verdict == LP_FILL)
		answer_fill(rd, mm, f);
}

static int on_fork(struct lp_mm *mm, int fd, struct lp_mm **out)
{
	struct lp_restore *r = mm->r;
	struct lp_mm *child = mm_new(r, fd, mm->pid);
	int rc;

	lp_crash_point(fork_before);
	rc = child ? eng_fork(mm->space, child, &child->space) : -ENOMEM;
	if (rc) {
		/* @fd stays open, and this process with it: the child must wait, not read zeros. */
		r->orphans++;
		free(child);
		return rc;
	}
	pr_info("%d.%u: fork: the child is %d.%u", mm->pid, mm->id, child->pid, child->id);
	r->forks++;
	*out = child;
	return mm_add(child);
}

void reader_event(struct lp_reader *rd, struct lp_mm *mm, const struct uffd_msg *m, unsigned idx)
{
	struct lp_restore *r = mm->r;
	uint64_t addr, now = lp_now();
	struct lp_mm *child = NULL;
	uint64_t call = 0;
	int rc = 0;

	lp_crash_point(event_before);
	pthread_mutex_lock(&r->lock);
	note_begin(r);
	switch (m->event) {
	case UFFD_EVENT_FORK:
		rc = on_fork(mm, m->arg.fork.ufd, &child);
		break;
	case UFFD_EVENT_REMAP:
		pr_debug("%d.%u: remap 0x%" PRIx64 " -> 0x%" PRIx64 " len 0x%" PRIx64, mm->pid, mm->id,
			 (uint64_t)m->arg.remap.from, (uint64_t)m->arg.remap.to, (uint64_t)m->arg.remap.len);
		rc = eng_remap(mm->space, m->arg.remap.from, m->arg.remap.to, m->arg.remap.len);
		r->remaps++;
		break;
	case UFFD_EVENT_REMOVE:
		pr_debug("%d.%u: remove 0x%" PRIx64 "-0x%" PRIx64, mm->pid, mm->id, (uint64_t)m->arg.remove.start,
			 (uint64_t)m->arg.remove.end);
		call = book_removal(mm, m->arg.remove.start, m->arg.remove.end);
		if (call)
			eng_call(mm->space, call);
		rc = eng_remove(mm->space, m->arg.remove.start, m->arg.remove.end);
		r->removes++;
		break;
	case UFFD_EVENT_UNMAP:
		pr_debug("%d.%u: unmap 0x%" PRIx64 "-0x%" PRIx64, mm->pid, mm->id, (uint64_t)m->arg.remove.start,
			 (uint64_t)m->arg.remove.end);
		rc = eng_unmap(mm->space, m->arg.remove.start, m->arg.remove.end);
		r->unmaps++;
		break;
	default:
		RECORD_MM(mm, LP_REC_UNKNOWN, m->event);
		pr_warn("%d.%u: unknown userfaultfd event 0x%x, left alone: a newer kernel?", mm->pid, mm->id,
			m->event);
	}
	if (rc)
		lose_tree(r, mm, strerror(-rc));
	note_message(mm, m, idx, child, call);
	if (child)
		book_begin(child);
	while (eng_next_wake(mm->space, &addr))
		wake_later(rd, mm, addr, LP_PAGE_SIZE);
	/* What the change refused may go on as soon as the task has run. */
	eng_stall(mm->space, now);
	mm->retry_at = now;
	mm->backoff = mm->doubt = 0;
	/*
	 * Nobody is woken to fill: the kernel refuses until the task has run, and a
	 * stalled thread looks again within BACKOFF_MAX.
	 */
	pthread_mutex_unlock(&r->lock);
}

uint64_t mm_unmapped(const struct lp_mm *mm)
{
	uint64_t addr = lp_kernel_min_addr(); /* rarely mapped, never lazy */

	while (lp_space_registered(mm->space, addr, addr + LP_PAGE_SIZE))
		addr += LP_PAGE_SIZE;
	return addr;
}

/* Alive, at rest, or gone: see lp_uffd_probe(). */
static int probe_mm(struct lp_mm *mm)
{
	uint64_t addr;

	pthread_mutex_lock(&mm->r->lock);
	addr = mm_unmapped(mm);
	pthread_mutex_unlock(&mm->r->lock);
	return mm_probe(mm, addr);
}

/*
 * Is this a settled moment of @mm, all of whose messages are read? Then the
 * engine puts what was read since the last one in order. The kernel refuses
 * fills until the task has run after its message was read, so there is no hurry:
 * one look, the next when it is due.
 */
static void settle(struct lp_reader *rd, struct lp_mm *mm)
{
	struct lp_restore *r = mm->r;
	uint64_t addr;
	bool unsettled;
	int rc;

	pthread_mutex_lock(&r->lock);
	/* Before the probe: see "The book" in engine/engine.h. */
	book_read(r);
	unsettled = lp_space_unsettled(mm->space) || lp_space_booked(mm->space);
	pthread_mutex_unlock(&r->lock);
	if (!unsettled)
		return;
	rc = probe_mm(mm);
	if (rc == -ESRCH)
		gone(mm);
	if (rc)
		return;
	lp_crash_point(settle_before);
	pthread_mutex_lock(&r->lock);
	note_begin(r);
	rc = eng_settled(mm->space);
	if (!rc) {
		note_call(mm, LP_J_SETTLED);
		while (eng_next_wake(mm->space, &addr))
			wake_later(rd, mm, addr, LP_PAGE_SIZE);
		eng_stall(mm->space, 0);
		mm->retry_at = 0; /* faults to answer */
		mm->backoff = mm->doubt = 0;
		mm->check = true;
		r->again = true; /* children to look at */
		pthread_cond_signal(&r->bulk_cond); /* who finds something to fill wakes the next one */
	}
	pthread_mutex_unlock(&r->lock);
}

/*
 * No descriptor for the child of a fork: the forking task is blocked until there
 * is one, and fills of its address space are refused. The message stays with the
 * kernel (test/kernel/fork_nofile), so this comes again; not at once, since
 * other address spaces have better use for the role.
 */
static bool out_of_descriptors(struct lp_restore *r, struct lp_mm *mm)
{
	if (r->nreserve) {
		pr_warn("%d.%u: no descriptors left for its children: using the reserve (%u); raise the hard limit "
			"of open files",
			mm->pid, mm->id, r->nreserve);
		while (r->nreserve && r->nreserve % RESERVE_STEP)
			close(r->reserve[--r->nreserve]);
		if (r->nreserve)
			close(r->reserve[--r->nreserve]);
		return true;
	}
	if (!mm->warned_files)
		pr_err("%d.%u: no descriptors left for its children: it stays blocked in fork until others end; raise "
		       "the hard limit of open files",
		       mm->pid, mm->id);
	mm->warned_files = true;
	pthread_mutex_lock(&r->lock);
	if (mm->polled)
		epoll_ctl(r->epfd, EPOLL_CTL_DEL, mm->fd, NULL);
	mm->polled = false;
	mm->poll_at = lp_now() + FILES_NS;
	mm->check = true; /* the time is noted there */
	pthread_mutex_unlock(&r->lock);
	return false;
}

/* Something of @mm is to be tried again at mm->retry_at. r->lock held. */
static bool is_pending(const struct lp_mm *mm)
{
	return lp_space_has_deferred(mm->space) || lp_space_unsettled(mm->space);
}

void reader_clear_zone(struct lp_restore *r, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		r->zone->msgs[i].event = 0;
	atomic_signal_fence(memory_order_seq_cst);
	r->zone->gen++;
}

/*
 * All messages of @mm. They land in the journal, if there is one: what was read is
 * not lost when this process is killed. The gate is taken: once read() may return an event, no
 * fill may be under way. One read() returns faults and then events, and lets
 * the tasks of the events go on: so the events are applied before any of the
 * faults is answered. True when look_around() has something to do.
 */
static bool read_mm(struct lp_reader *rd, struct lp_mm *mm, bool insist, bool *left)
{
	struct lp_restore *r = rd->r;
	struct uffd_msg *msgs = r->zone->msgs;
	uint64_t faults[MESSAGES];
	bool look;
	ssize_t n;
	size_t i, nfaults;

	if (insist) {
		lp_gate_enter_alone(&mm->gate);
	} else if (!lp_gate_try_alone(&mm->gate, TRY_NS)) {
		*left = true;
		return false;
	}
	mm->alone = true;
	r->zone->mm = mm->id;
	do {
		lp_uffd_delay_point();
		lp_crash_point(read_before);
		n = read(mm->fd, msgs, sizeof(r->zone->msgs));
		lp_crash_point(read_after);
		lp_uffd_delay_point();
		if (n < 0) {
			if (errno == EINTR)
				continue;
			if ((errno == EMFILE || errno == ENFILE) && out_of_descriptors(r, mm))
				continue;
			if (errno != EAGAIN && errno != EMFILE && errno != ENFILE)
				pr_err("%d.%u: reading its userfaultfd: %s", mm->pid, mm->id, strerror(errno));
			break;
		}
		nfaults = 0;
		/* What was changed before a message was sent, before that. */
		pthread_mutex_lock(&r->lock);
		book_read(r);
		pthread_mutex_unlock(&r->lock);
		for (i = 0; i < n / sizeof(msgs[0]); i++) {
			if (msgs[i].event == UFFD_EVENT_PAGEFAULT) {
				RECORD_MM(mm, LP_REC_PAGEFAULT, msgs[i].arg.pagefault.address,
					  msgs[i].arg.pagefault.flags, msgs[i].arg.pagefault.feat.ptid);
				faults[nfaults++] = msgs[i].arg.pagefault.address & ~(LP_PAGE_SIZE - 1);
			} else {
				reader_event(rd, mm, &msgs[i], i);
			}
		}
		reader_clear_zone(r, i);
		if (n < (ssize_t)sizeof(r->zone->msgs))
			settle(rd, mm);
		if (nfaults) {
			atomic_fetch_add_explicit(&r->faults, nfaults, memory_order_relaxed);
			atomic_store_explicit(&r->last_fault, lp_now(), memory_order_relaxed);
		}
		for (i = 0; i < nfaults; i++)
			answer(rd, mm, faults[i]);
	} while (n < 0 || n == sizeof(r->zone->msgs));
	mm->alone = false;
	lp_gate_leave_alone(&mm->gate);

	pthread_mutex_lock(&r->lock);
	look = mm->check || is_pending(mm) || lp_space_complete(mm->space);
	pthread_mutex_unlock(&r->lock);
	return look;
}

/* Faults that could not be answered before: once each. And a settled moment, if one is due. */
static void retry_deferred(struct lp_reader *rd, struct lp_mm *mm)
{
	uint64_t addrs[MESSAGES];
	bool refused;
	size_t n, i;

	lp_gate_enter_alone(&mm->gate);
	mm->alone = true;
	settle(rd, mm);
	do {
		n = 0;
		pthread_mutex_lock(&rd->r->lock);
		while (n < MESSAGES && eng_next_deferred(mm->space, &addrs[n]))
			n++;
		mm->retry_at = 0;
		pthread_mutex_unlock(&rd->r->lock);
		for (i = 0; i < n; i++)
			answer(rd, mm, addrs[i]);
		/* Those refused again are deferred again: not in this round. */
		pthread_mutex_lock(&rd->r->lock);
		refused = mm->retry_at != 0;
		pthread_mutex_unlock(&rd->r->lock);
	} while (n == MESSAGES && !refused);
	pthread_mutex_lock(&rd->r->lock);
	if (lp_space_unsettled(mm->space) && !mm->retry_at)
		look_later(mm);
	pthread_mutex_unlock(&rd->r->lock);
	mm->alone = false;
	lp_gate_leave_alone(&mm->gate);
}

static void left_out(struct lp_mm *mm, const struct lp_vma *v)
{
	pr_err("%d.%u: CRIU has not registered its memory at 0x%" PRIx64 "-0x%" PRIx64 ", which would be zeros: killing the "
	       "restored tasks; restore with a CRIU that has criu-patches/0009, or without --lazy-pages",
	       mm->pid, mm->id, v->start, v->end);
	RECORD(mm->r, LP_REC_MARK, LP_MARK_LOST, mm->id);
	lose_all(mm->r);
}

/*
 * Look after all mms: retry what is due, close what is complete, drop what is
 * gone. Returns when to look again (ns), or LP_NEVER.
 */
static uint64_t look_around(struct lp_reader *rd, bool probe)
{
	struct lp_restore *r = rd->r;
	struct lp_mm *mm, *next;
	uint64_t now = lp_now(), due = LP_NEVER;
	bool armed, placing = false;

	pthread_mutex_lock(&r->lock);
	armed = r->armed || r->failed;
	for (mm = r->mms; mm; mm = next) {
		if (mm->task && (armed || mm_placed(mm))) {
			/* Its first pages, before it runs: see prime() in handoff.c. */
			mm->task = NULL;
			mm->retry_at = 0;
		} else if (mm->task) {
			placing = true;
		}
		if (r->armed && mm->handed && !mm->looked) {
			const struct lp_vma *v = lp_space_dead(mm->space) ? NULL : mm_left_out(mm);

			mm->looked = true;
			if (v)
				left_out(mm, v);
		}
		if ((is_pending(mm) && mm->retry_at <= now) || lp_space_booked(mm->space)) {
			/* Only this thread frees mms, so the list survives the unlocking. */
			pthread_mutex_unlock(&r->lock);
			retry_deferred(rd, mm);
			pthread_mutex_lock(&r->lock);
		}
		if (probe && !lp_space_dead(mm->space)) {
			bool gone_now;

			pthread_mutex_unlock(&r->lock);
			gone_now = probe_mm(mm) == -ESRCH;
			pthread_mutex_lock(&r->lock);
			if (gone_now)
				book_read(r);
			pthread_mutex_unlock(&r->lock);
			if (gone_now)
				mm_gone(mm);
			pthread_mutex_lock(&r->lock);
		}
		next = mm->next;
		mm->check = false;
		if (is_pending(mm) && mm->retry_at < due)
			due = mm->retry_at;
		if (!mm->polled && !lp_space_young(mm->space)) {
			if (mm->poll_at > now)
				due = mm->poll_at < due ? mm->poll_at : due;
			else if (mm_poll(mm))
				lose_tree(r, mm, "cannot poll its userfaultfd");
		}
		if (lp_space_flights(mm->space) || !armed)
			continue;
		/* A failed restore fills nothing: its spaces end with their tasks. */
		if (lp_space_dead(mm->space) || (r->armed && lp_space_complete(mm->space))) {
			pr_info("%d.%u: %s", mm->pid, mm->id,
				lp_space_dead(mm->space) ? "ended" : "complete, leaving it");
			mm_free(mm);
			r->again = true;
		}
	}
	if (placing) {
		/* At most a tenth of the time, however many tasks there are. */
		uint64_t soon = lp_now(), took = soon - now;

		soon += took * 10 > PLACED_NS ? took * 10 : PLACED_NS;
		due = soon < due ? soon : due;
	}
	if (r->again)
		due = now;
	r->again = false;
	if (armed && !r->mms && !r->orphans && !r->done) {
		r->done = true;
		kick_main(r);
	}
	pthread_mutex_unlock(&r->lock);
	return due;
}

/* Everything of reader_pass() that needs the role. */
static bool read_all(struct lp_reader *rd)
{
	struct lp_restore *r = rd->r;
	struct epoll_event ev[EVENTS];
	bool look = false, probe, left = false, insist, wanted;
	uint64_t now, word;
	int n, i;

	if (pthread_mutex_trylock(&r->role))
		return false; /* somebody else is at it */
	wanted = atomic_exchange(&r->pass_due, false);
	n = epoll_wait(r->epfd, ev, EVENTS, 0);
	now = lp_now();
	insist = now - atomic_load_explicit(&r->last_pass, memory_order_relaxed) > pass_ns(r, now) + INSIST_NS;
	for (i = 0; i < n; i++) {
		if (ev[i].data.ptr)
			look |= read_mm(rd, ev[i].data.ptr, insist, &left);
		else if (read(r->kick_fd, &word, sizeof(word)) > 0)
			look = true;
	}
	if (!left)
		atomic_store_explicit(&r->last_pass, now, memory_order_relaxed);
	else if (wanted)
		atomic_store_explicit(&r->pass_due, true, memory_order_relaxed);
	/* The ring must not run full of changes that no message tells; and who fills looks here while there are any. */
	if (r->ledger && (lp_ledger_any(r->ledger) || lp_ledger_guards_due(r->ledger) || now - r->ledger_at > LEDGER_NS)) {
		pthread_mutex_lock(&r->lock);
		book_read(r);
		pthread_mutex_unlock(&r->lock);
	}
	probe = atomic_exchange(&r->probe_all, false) || now - r->probed > PROBE_NS;
	if (probe)
		r->probed = now;
	if (look || probe || now >= r->due)
		r->due = look_around(rd, probe);
	pthread_mutex_unlock(&r->role);
	wake_flush(rd);
	return n > 0;
}

bool reader_pass(struct lp_reader *rd)
{
	uint64_t now;
	bool any;

	/* Those that the ledger has told of. */
	if (rd->njobs)
		jobs_round(rd);
	any = read_all(rd);
	while (rd->njobs) {
		jobs_round(rd);
		now = lp_now();
		if (now - atomic_load_explicit(&rd->r->last_pass, memory_order_relaxed) > pass_ns(rd->r, now))
			read_all(rd);
	}
	return any;
}

/* Sleep until there is a message, something is due, or PROBE_NS have passed. */
static void wait_messages(struct lp_restore *r)
{
	struct pollfd p = { .fd = r->epfd, .events = POLLIN };
	uint64_t now = lp_now(), ns = PROBE_NS, due;
	struct timespec ts;

	pthread_mutex_lock(&r->role);
	due = r->due;
	pthread_mutex_unlock(&r->role);
	if (due != LP_NEVER && due < now + ns)
		ns = due > now ? due - now : 0;
	ts = (struct timespec){ .tv_sec = 0, .tv_nsec = ns };
	ppoll(&p, 1, &ts, NULL);
}

void *reader_main(void *arg)
{
	struct lp_restore *r = arg;
	struct lp_reader *rd = malloc(sizeof(*rd));
	uint64_t watch = WATCH_NS;
	bool stop = false;

	if (!rd) {
		pr_err("out of memory at start");
		abort();
	}
	rd->r = r;
	rd->nwakes = rd->njobs = 0;
	rd->window = NULL;
	/* Refused fills are retried after microseconds; the default slack is 50 of them. */
	prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
	lp_recorder_thread(LP_BY_READER);
	lp_prio_urgent();
	while (!stop) {
		if (atomic_load(&r->busy)) {
			/*
			 * They look for messages every few microseconds, unless
			 * tasks have taken the CPUs from them: so watch.
			 */
			uint64_t when = lp_now() + watch;
			struct timespec ts = { .tv_sec = when / 1000000000, .tv_nsec = when % 1000000000 };

			pthread_mutex_lock(&r->lock);
			if (atomic_load(&r->busy) && !r->stopping)
				pthread_cond_timedwait(&r->idle_cond, &r->lock, &ts);
			pthread_mutex_unlock(&r->lock);
			if (atomic_load(&r->busy) &&
			    lp_now() - atomic_load_explicit(&r->last_pass, memory_order_relaxed) < watch) {
				watch = WATCH_NS;
				continue;
			}
			watch = WATCH_CLOSELY_NS;
		} else {
			wait_messages(r);
		}
		reader_pass(rd);
		pthread_mutex_lock(&r->lock);
		stop = r->stopping;
		pthread_mutex_unlock(&r->lock);
	}
	free(rd);
	return NULL;
}
