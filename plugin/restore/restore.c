/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One restore from the hand-off to the last page: starts the threads, waits
 * for CRIU, signals, exits of the tree and the reader's word that all is done.
 * Owns struct lp_restore and everything in it.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/kernel.h"
#include "guard/guard.h"
#include "restore/internal.h"

/* A restore that failed: CRIU kills its tasks; those that outlive this are killed here. */
#define FAILED_GRACE_NS UINT64_C(10000000000)
#define READY_NS	UINT64_C(250000000) /* that CRIU is kept waiting for the first pages at most */
/* Descriptors for everything but tasks: sockets, images, logs, the standard ones. */
#define FEW_FILES 32

static void kick(int fd)
{
	uint64_t one = 1;

	/* The counter cannot overflow; EAGAIN would mean that the kick is there already. */
	if (write(fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		pr_err("eventfd: %s", strerror(errno));
}

void kick_reader(struct lp_restore *r)
{
	kick(r->kick_fd);
}

void kick_main(struct lp_restore *r)
{
	kick(r->done_fd);
}

struct threads {
	pthread_t reader, control, urgent[URGENT_THREADS], *bulk;
	unsigned nurgent, nbulk;
	bool has_reader, has_control;
};

static void threads_stop(struct lp_restore *r, struct threads *t)
{
	unsigned i;

	pthread_mutex_lock(&r->lock);
	r->stopping = true;
	pthread_cond_broadcast(&r->bulk_cond);
	pthread_cond_broadcast(&r->urgent_cond);
	pthread_cond_broadcast(&r->idle_cond);
	pthread_cond_broadcast(&r->ctl_cond);
	pthread_mutex_unlock(&r->lock);
	kick(r->ctl_kick);
	for (i = 0; i < t->nbulk; i++)
		pthread_join(t->bulk[i], NULL);
	for (i = 0; i < t->nurgent; i++)
		pthread_join(t->urgent[i], NULL);
	/* Last, since the others might take the kick for theirs. */
	kick_reader(r);
	if (t->has_reader)
		pthread_join(t->reader, NULL);
	if (t->has_control)
		pthread_join(t->control, NULL);
	free(t->bulk);
}

static int threads_start(struct lp_restore *r, struct threads *t, struct lp_err *err)
{
	unsigned i;
	int rc;

	t->bulk = calloc(r->conf->workers, sizeof(*t->bulk));
	if (!t->bulk)
		return lp_err(err, -ENOMEM, "out of memory");
	rc = -pthread_create(&t->reader, NULL, reader_main, r);
	t->has_reader = !rc;
	if (!rc && r->ctl->fd >= 0) {
		rc = -pthread_create(&t->control, NULL, control_main, r);
		t->has_control = !rc;
	}
	for (i = 0; !rc && i < URGENT_THREADS; i++) {
		rc = -pthread_create(&t->urgent[i], NULL, urgent_main, r);
		t->nurgent += !rc;
	}
	for (i = 0; !rc && i < r->conf->workers; i++) {
		rc = -pthread_create(&t->bulk[i], NULL, bulk_main, r);
		t->nbulk += !rc;
	}
	return rc ? lp_err_sys(err, rc, "cannot start threads") : 0;
}

static int init(struct lp_restore *r, const struct lp_restore_conf *conf, struct lp_err *err)
{
	struct lp_engine_conf ec = { .page = LP_PAGE_SIZE, .seed = lp_now(), .there = mm_there,
				       .old_shrink = lp_uffd_old_shrink() };
	struct epoll_event ev = { .events = EPOLLIN };
	pthread_condattr_t ca;
	struct rlimit rl;
	size_t ntasks;

	r->conf = conf;
	r->source = conf->source;
	r->j = conf->journal;
	r->zone = r->j ? &r->j->h->zone : &r->own_zone;
	r->hand = r->j ? &r->j->h->hand : &r->own_hand;
	r->own_ctl.fd = -1;
	r->accepted = r->j && lp_journal_has(r->j, LP_JF_ACCEPTED);
	r->ctl = r->j ? &r->j->h->ctl : conf->ctl ? conf->ctl : &r->own_ctl;
	r->lost = r->j ? &r->j->h->lost : &r->own_lost;
	r->trace = conf->trace;
	r->urgent_tail = &r->urgent_head;
	r->epfd = r->kick_fd = r->done_fd = r->ctl_kick = -1;
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_init(&r->role, NULL);
	r->due = LP_NEVER;
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&r->bulk_cond, &ca);
	pthread_cond_init(&r->urgent_cond, &ca);
	pthread_cond_init(&r->idle_cond, &ca);
	pthread_cond_init(&r->ctl_cond, &ca);
	pthread_condattr_destroy(&ca);
	/* One descriptor for every task and every child of a fork. */
	lp_raise_files();
	rl.rlim_cur = 0;
	getrlimit(RLIMIT_NOFILE, &rl);
	ntasks = lp_images_ntasks(conf->images);
	if (rl.rlim_cur < ntasks + FEW_FILES)
		return lp_err(err, -EMFILE,
			      "%zu tasks need a descriptor each, but the hard limit of open files is %llu: raise it "
			      "(ulimit -Hn %zu)",
			      ntasks, (unsigned long long)rl.rlim_cur, 2 * ntasks + RESERVE + FEW_FILES);
	/* The tasks come first, then the reserve, then the means to kill them if all is lost: else they would wait. */
	r->spare_files = rl.rlim_cur >= 2 * ntasks + RESERVE + FEW_FILES;
	while (r->nreserve < RESERVE && r->nreserve + ntasks + FEW_FILES < rl.rlim_cur) {
		int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

		if (fd < 0)
			break;
		r->reserve[r->nreserve++] = fd;
	}
	if (r->trace) {
		struct timespec ts;
		int rc = lp_recorder_start(r->trace);

		if (rc)
			return lp_err_sys(err, rc, "cannot start a thread for the trace");
		clock_gettime(CLOCK_REALTIME, &ts);
		RECORD(r, LP_REC_BEGIN, ec.page, ec.seed, ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec, getpid(),
		       conf->workers, (conf->background ? LP_REC_BACKGROUND : 0) | (ec.old_shrink ? LP_REC_OLD_SHRINK : 0));
	}
	r->engine = lp_engine_new(&ec);
	r->epfd = epoll_create1(EPOLL_CLOEXEC);
	r->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->ctl_kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!r->engine || r->epfd < 0 || r->kick_fd < 0 || r->done_fd < 0 || r->ctl_kick < 0 ||
	    epoll_ctl(r->epfd, EPOLL_CTL_ADD, r->kick_fd, &ev))
		return lp_err(err, -ENOMEM, "cannot set up the daemon: %s", strerror(errno));
	return 0;
}

static void fini(struct lp_restore *r)
{
	while (r->mms) /* only when the start failed: nothing was handed over, or it is dead */
		mm_free(r->mms);
	booking_end(r);
	lp_engine_free(r->engine);
	while (r->nreserve)
		close(r->reserve[--r->nreserve]);
	if (r->epfd >= 0)
		close(r->epfd);
	if (r->kick_fd >= 0)
		close(r->kick_fd);
	if (r->done_fd >= 0)
		close(r->done_fd);
	if (r->ctl_kick >= 0)
		close(r->ctl_kick);
	pthread_cond_destroy(&r->ctl_cond);
	pthread_cond_destroy(&r->bulk_cond);
	pthread_cond_destroy(&r->urgent_cond);
	pthread_cond_destroy(&r->idle_cond);
	pthread_mutex_destroy(&r->lock);
	pthread_mutex_destroy(&r->role);
}

static void progress(struct lp_restore *r, uint64_t now, bool last)
{
	uint64_t filled = atomic_load(&r->filled_bulk) + atomic_load(&r->filled_urgent), total, t0;
	char a[16], b[16], c[16];
	size_t n;

	pthread_mutex_lock(&r->lock);
	total = r->total_bytes;
	n = r->nmms;
	t0 = r->t_first;
	pthread_mutex_unlock(&r->lock);
	if (!t0 || now - t0 < UINT64_C(1000000000))
		return;
	fprintf(stderr, "\rlazypages: %s of %s filled, %zu address spaces, %s/s \033[K%s",
		lp_size_str(filled, a, sizeof(a)), lp_size_str(total, b, sizeof(b)), n,
		lp_size_str(filled * 1e9 / (now - t0), c, sizeof(c)), last ? "\n" : "");
}

/* The waiting of main: which descriptors, and what to do when one is ready. */
struct waiting {
	struct lp_restore *r;
	int listen_fd, sock, sig_fd; /* sock: of CRIU, when it has come */
	struct lp_exits *exits;
	bool accepted;
	uint64_t failed_at;
	uint64_t ready_by; /* not 0: CRIU has finished; when it may let the tasks run at the latest */
	bool orphan; /* the guardian is gone, and that was said */
};

/* From here on the journal does not name it: first that, since its number may be used again at once. */
static void close_listening(struct waiting *w)
{
	int fd = w->listen_fd;

	w->listen_fd = -1;
	if (w->r->j)
		w->r->j->h->listen_fd = -1;
	if (fd >= 0)
		close(fd);
}

static void close_socket(struct waiting *w)
{
	int fd = w->sock;

	w->sock = -1;
	if (w->r->j)
		w->r->j->h->hand_sock = -1;
	if (fd >= 0)
		close(fd);
}

static void set_failed(struct waiting *w, int *result, int rc)
{
	struct lp_restore *r = w->r;

	*result = rc;
	w->failed_at = lp_now();
	if (r->j)
		r->j->h->failed_at = w->failed_at;
	note_flag(r, LP_JF_FAILED);
	close_socket(w);
	pthread_mutex_lock(&r->lock);
	r->failed = true;
	RECORD(r, LP_REC_MARK, LP_MARK_FAILED, -rc);
	pthread_mutex_unlock(&r->lock);
	kick_reader(r);
}

/*
 * Pages can never be had any more, and the restored tasks do not run yet: better
 * no restore than one that waits for ever. The source's tasks go on, if the
 * source is still there and only the connection is not. Killed first: CRIU takes
 * the end of the connection for leave to let them run.
 */
static bool look_for_source(struct waiting *w, struct lp_err *err, int *result)
{
	struct lp_restore *r = w->r;
	int rc = 0;

	if (w->sock < 0)
		return true;
	if (r->source->ops->gone)
		rc = r->source->ops->gone(r->source);
	if (!rc)
		return true;
	pthread_mutex_lock(&r->lock);
	lose_all(r);
	pthread_mutex_unlock(&r->lock);
	set_failed(w, result,
		   lp_err(err, rc, "the source is lost (%s) before the restored tasks ran: the restore is given up; where "
			  "the source's tasks still exist, they go on", lp_source_strerror(rc)));
	return false;
}

static void on_signal(struct waiting *w, struct lp_err *err, int *result)
{
	struct lp_restore *r = w->r;
	struct signalfd_siginfo si;

	if (read(w->sig_fd, &si, sizeof(si)) != sizeof(si))
		return;
	RECORD(r, LP_REC_MARK, LP_MARK_SIGNAL, si.ssi_signo);
	if (!w->accepted) {
		set_failed(w, result, lp_err(err, -EINTR, "signal %u before CRIU came", si.ssi_signo));
		return;
	}
	if (atomic_load(&r->cancelled)) {
		pthread_mutex_lock(&r->lock);
		lose_all(r);
		pthread_cond_broadcast(&r->ctl_cond);
		pthread_mutex_unlock(&r->lock);
		atomic_store(&r->probe_all, true);
		kick_reader(r);
		return;
	}
	pthread_mutex_lock(&r->lock);
	if (!r->hurry)
		pr_warn("signal %u: the restored tasks need their pages; filling the rest first, then leaving",
			si.ssi_signo);
	r->hurry = true;
	/* The signal of the guardian's death is ours alone: who takes over has a guardian, and may be paused. */
	if (r->j && !lp_guard_orphan(r->j))
		note_flag(r, LP_JF_HURRY);
	pthread_cond_broadcast(&r->bulk_cond);
	pthread_cond_broadcast(&r->ctl_cond);
	pthread_mutex_unlock(&r->lock);
}

static void on_listen(struct waiting *w, struct lp_err *err, int *result)
{
	w->sock = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (w->sock < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			set_failed(w, result, lp_err_sys(err, -errno, "accept"));
		return;
	}
	lp_crash_point(accept);
	w->accepted = true;
	w->r->accepted = true;
	if (w->r->j)
		w->r->j->h->hand_sock = w->sock;
	note_flag(w->r, LP_JF_ACCEPTED);
	lp_crash_point(accept_noted);
	handoff_begin(w->r);
	handoff_greet(w->sock);
	close_listening(w);
	pr_info("CRIU is here, %zu tasks to come", handoff_left(w->r));
}

static void on_handoff(struct waiting *w, struct lp_err *err, int *result)
{
	struct lp_restore *r = w->r;
	int rc = handoff_read(r, w->sock, err);
	struct lp_mm *mm;

	if (rc == HANDOFF_DONE) {
		if (!look_for_source(w, err, result))
			return;
		lp_crash_point(armed);
		note_flag(r, LP_JF_ARMED);
		lp_crash_point(armed_noted);
		w->ready_by = lp_now() + READY_NS;
		pr_info("CRIU has finished its restore");
		pthread_mutex_lock(&r->lock);
		r->armed = true;
		RECORD(r, LP_REC_MARK, LP_MARK_ARMED, 0);
		if (r->fatal) /* tasks that were handed over after the others were killed */
			kill_tasks(r);
		for (mm = r->mms; mm; mm = mm->next) {
			if (mm->handed && !lp_space_dead(mm->space) && prime_protected(mm))
				lose_tree(r, mm, "out of memory for its first pages");
			mm->retry_at = 0; /* what was not registered yet */
			eng_stall(mm->space, 0);
		}
		pthread_cond_broadcast(&r->bulk_cond);
		pthread_mutex_unlock(&r->lock);
		kick_reader(r);
	} else if (rc) {
		set_failed(w, result, rc);
	}
}

/* Let the tasks run: their first pages are there, or have not come in time. */
static void look_if_ready(struct waiting *w, uint64_t now)
{
	struct lp_restore *r = w->r;
	bool ready;

	if (w->sock < 0 || !w->ready_by)
		return;
	pthread_mutex_lock(&r->lock);
	ready = handoff_ready(r);
	pthread_mutex_unlock(&r->lock);
	if (!ready && now < w->ready_by)
		return;
	pr_debug("the tasks may run%s", ready ? "" : ", though not all of their first pages are there");
	close_socket(w);
}

/* Where the dead worker was. */
static void resume(struct waiting *w, struct lp_err *err, int *result)
{
	struct lp_restore *r = w->r;
	struct lp_jhead *h = r->j->h;

	w->sock = h->hand_sock;
	w->accepted = lp_journal_has(r->j, LP_JF_ACCEPTED);
	if (w->accepted && w->listen_fd >= 0) { /* it died while it accepted */
		/* Nothing was taken before handoff_begin(). */
		if (!handoff_left(r) && !lp_journal_has(r->j, LP_JF_ARMED) && h->hand.state[h->hand.cur].gen == 1)
			handoff_begin(r);
		close_listening(w);
	}
	if (lp_journal_has(r->j, LP_JF_FAILED))
		close_socket(w);
	else if (lp_journal_has(r->j, LP_JF_ARMED))
		w->ready_by = lp_now() + READY_NS;
	else if (w->accepted && w->sock >= 0)
		handoff_greet(w->sock); /* the dead one may not have come to it; twice does no harm */
	if (lp_journal_has(r->j, LP_JF_FAILED)) {
		w->failed_at = h->failed_at;
		*result = lp_err(err, -ECANCELED, "the restore failed before its tasks ran, see the log");
	}
	if (lp_journal_has(r->j, LP_JF_FATAL)) {
		pthread_mutex_lock(&r->lock);
		r->fatal = true;
		kill_tasks(r);
		pthread_mutex_unlock(&r->lock);
	}
}

static void look_for_guardian(struct waiting *w)
{
	if (w->orphan || !w->r->j || !lp_guard_orphan(w->r->j))
		return;
	/* A SIGTERM comes with it (PR_SET_PDEATHSIG), so all is filled in a hurry. */
	w->orphan = true;
	pr_err("the guardian is gone: going on without; if this process (%d) dies, too, the tasks wait until "
	       "`lazypages daemon --take-over`",
	       getpid());
}

static int wait_all(struct waiting *w, struct lp_err *err)
{
	struct lp_restore *r = w->r;
	int result = 0;
	bool done = false;

	if (r->j)
		resume(w, err, &result);
	/* What the dead worker had taken from the socket does not make it readable again. */
	if (w->sock >= 0 && !w->ready_by)
		on_handoff(w, err, &result);
	while (!done) {
		struct pollfd p[5] = {
			{ .fd = w->listen_fd, .events = POLLIN },
			{ .fd = w->ready_by ? -1 : w->sock, .events = POLLIN },
			{ .fd = w->sig_fd, .events = POLLIN },
			{ .fd = w->exits ? lp_exits_fd(w->exits) : -1, .events = POLLIN },
			{ .fd = r->done_fd, .events = POLLIN },
		};
		uint64_t now, word;
		int ms = w->ready_by && w->sock >= 0					      ? 1 :
			 r->conf->progress || w->failed_at || (w->sock >= 0 && r->source->ops->gone) ? 200 :
												       -1;

		if (poll(p, 5, ms) < 0 && errno != EINTR)
			return lp_err_sys(err, -errno, "poll");
		if (p[0].revents && w->listen_fd >= 0)
			on_listen(w, err, &result);
		look_for_guardian(w);
		if (p[1].revents && w->sock >= 0)
			on_handoff(w, err, &result);
		if (p[2].revents)
			on_signal(w, err, &result);
		if (p[3].revents && lp_exits_read(w->exits)) {
			atomic_store(&r->probe_all, true);
			kick_reader(r);
		}
		if (p[4].revents && read(r->done_fd, &word, sizeof(word)) < 0)
			pr_debug("spurious wake-up");
		now = lp_now();
		look_for_source(w, err, &result);
		look_if_ready(w, now);
		if (w->failed_at && now - w->failed_at > FAILED_GRACE_NS) {
			pr_err("tasks of the failed restore are still there: killing those that CRIU started");
			pthread_mutex_lock(&r->lock);
			kill_tasks(r);
			pthread_mutex_unlock(&r->lock);
			w->failed_at = now;
		}
		if (r->conf->progress)
			progress(r, now, false);
		pthread_mutex_lock(&r->lock);
		done = r->done;
		if (r->fatal && !result)
			result = lp_err(err, -ENOTRECOVERABLE, "the restored tasks were killed, see above");
		pthread_mutex_unlock(&r->lock);
	}
	close_socket(w);
	return result;
}

int lp_restore_run(const struct lp_restore_conf *conf, int listen_fd, struct lp_restore_stats *stats,
		   struct lp_err *err)
{
	struct lp_restore *r = calloc(1, sizeof(*r));
	struct threads threads = { 0 };
	struct waiting w = { .r = r, .listen_fd = listen_fd, .sig_fd = -1, .sock = -1 };
	bool replayed = false;
	uint64_t booked, guessed;
	sigset_t set, old;
	int rc;

	if (!r) {
		if (conf->journal)
			return -EAGAIN;
		close(listen_fd);
		return lp_err(err, -ENOMEM, "out of memory");
	}
	/* Blocked before the threads start, so that they inherit it: signals arrive in main's poll. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	signal(SIGPIPE, SIG_IGN);

	rc = init(r, conf, err);
	if (rc)
		goto out;
	w.sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	rc = lp_exits_open(&w.exits);
	if (rc)
		pr_info("no reports of exits (%s): looking for them now and then", strerror(-rc));
	booking_begin(r);
	/* Also the first worker: the journal is empty then. */
	rc = r->j ? replay(r, err) : 0;
	replayed = !rc;
	if (!rc)
		rc = threads_start(r, &threads, err);
	if (!rc)
		rc = wait_all(&w, err);
	threads_stop(r, &threads);
	if (conf->progress)
		progress(r, lp_now(), true);

	lp_engine_settlings(r->engine, &booked, &guessed);
	*stats = (struct lp_restore_stats){
		.filled_bulk = atomic_load(&r->filled_bulk),
		.filled_urgent = atomic_load(&r->filled_urgent),
		.faults = atomic_load(&r->faults),
		.zero_faults = atomic_load(&r->zero_faults),
		.dropped = atomic_load(&r->dropped),
		.lost = atomic_load(r->lost),
		.refused = atomic_load(&r->refused),
		.spaces = r->spaces,
		.forks = r->forks,
		.remaps = r->remaps,
		.removes = r->removes,
		.unmaps = r->unmaps,
		.booked = booked,
		.guessed = guessed,
		.ns_handoff_to_full = r->t_first ? lp_now() - r->t_first : 0,
	};
out:
	/*
	 * Whoever closes a userfaultfd now makes its tasks read zeros. With a
	 * guardian the next worker tries again. Before the replay is done we do not
	 * even know of all of them.
	 */
	if (rc && r->j && (r->mms || (!replayed && lp_journal_has(r->j, LP_JF_ACCEPTED)))) {
		pr_err("%s", err->msg);
		return -EAGAIN;
	}
	lp_exits_close(w.exits);
	if (w.sig_fd >= 0)
		close(w.sig_fd);
	close_listening(&w);
	close_socket(&w);
	fini(r);
	if (r->trace) {
		RECORD(r, LP_REC_END, (int64_t)rc);
		lp_recorder_stop(r->trace); /* it says itself what went wrong */
	}
	free(r);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}
