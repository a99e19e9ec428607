/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guardian: starts anchor and worker, waits, starts the worker again. It
 * opens no descriptor while a worker lives: the table is shared, and a new worker
 * closes what it does not know. So it waits for signals, not for descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "guard/internal.h"

#define MS UINT64_C(1000000)
#define BACKOFF_MAX (1000 * MS)

struct guardian {
	const struct lp_guard_conf *conf;
	struct lp_journal *j;
	sigset_t waited, old;
	pid_t worker, anchor; /* 0: none */
	int oom_adj;	      /* that we were started with */
	bool announced;
	int signal;	      /* to be passed on to the next worker */
	int status;	      /* of the last worker's death */
	bool switched;	      /* it was ended for the sake of another source */
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

int guard_oom_adj(const int *set)
{
	int fd = open("/proc/self/oom_score_adj", (set ? O_WRONLY : O_RDONLY) | O_CLOEXEC), v = 0;
	char text[16] = "";

	if (fd < 0)
		return 0;
	if (set) {
		if (dprintf(fd, "%d", *set) < 0 && errno != EACCES && errno != EPERM)
			pr_warn("oom_score_adj: %s", strerror(errno));
	} else if (read(fd, text, sizeof(text) - 1) > 0) {
		v = atoi(text);
	}
	close(fd);
	return v;
}

static void worker_main(struct guardian *g)
{
	struct lp_jhead *h = g->j->h;
	sigset_t set = g->old;
	int code;

	/* Signals arrive in the restore's signalfd; before there is one they wait. */
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_SETMASK, &set, NULL);
	guard_oom_adj(&g->oom_adj);
	prctl(PR_SET_NAME, "lazypages-work");
	/* Without a guardian: fill the rest in a hurry, or leave if CRIU has not come. */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (lp_guard_orphan(g->j))
		kill(getpid(), SIGTERM);
	lp_journal_lock(g->j);
	code = g->conf->worker(g->conf->arg);
	if (code < 0)
		_exit(1);
	h->exit_code = code;
	lp_journal_flag(g->j, LP_JF_ENDED);
	if (lp_guard_orphan(g->j))
		lp_guard_end_anchor(g->j);
	exit(code);
}

/* Memory may be short just now: so as often as it takes. */
static void start_worker(struct guardian *g)
{
	const struct timespec pause = { .tv_nsec = 100 * MS };
	pid_t pid;

	atomic_fetch_add(&g->j->h->workers, 1);
	g->j->h->worker_start = 0;
	while ((pid = guard_clone()) < 0) {
		pr_err("cannot start a worker: %s; trying again", strerror(-pid));
		nanosleep(&pause, NULL);
	}
	if (!pid)
		worker_main(g);
	g->worker = pid;
	g->j->h->worker = pid;
	if (g->signal)
		kill(pid, g->signal);
}

/* Has the worker died, though nobody has looked yet? */
static bool worker_dead(const struct guardian *g)
{
	siginfo_t si = { 0 };

	return waitid(P_PID, g->worker, &si, WEXITED | WNOHANG | WNOWAIT) || si.si_pid;
}

/*
 * Who opens a descriptor in the guardian waits until the new worker has closed what
 * it does not know. That is the first thing it does; on a machine that is busy the
 * first thing may take a while.
 */
static void wait_swept(struct guardian *g)
{
	const struct timespec nap = { .tv_nsec = MS / 2 };
	uint64_t end = now_ns() + 60000 * MS;

	while (g->worker && g->j->h->swept != g->j->h->workers && !worker_dead(g) && now_ns() < end)
		nanosleep(&nap, NULL);
}

static void start_anchor(struct guardian *g)
{
	pid_t pid;

	wait_swept(g);
	pid = guard_anchor_start(g->j);

	if (pid < 0)
		pr_err("cannot start the anchor: %s: if guardian and worker die, the tasks would read zeros",
		       strerror(-pid));
	g->anchor = pid > 0 ? pid : 0;
}

void lp_guard_remove_ctl(const struct lp_jctl *ctl)
{
	struct stat st;

	if (ctl->fd >= 0 && !stat(LP_CTL_SOCKET, &st) && st.st_dev == ctl->dev && st.st_ino == ctl->ino)
		unlink(LP_CTL_SOCKET);
}

static void end_anchor(struct guardian *g)
{
	if (!g->anchor)
		return;
	kill(g->anchor, SIGKILL);
	waitpid(g->anchor, NULL, 0);
	g->anchor = 0;
	unlink(LP_ANCHOR_FILE);
	lp_guard_remove_ctl(&g->j->h->ctl);
}

static void on_signal(struct guardian *g, int sig)
{
	if (lp_journal_has(g->j, LP_JF_ACCEPTED))
		lp_journal_flag(g->j, LP_JF_HURRY);
	if (!g->worker) {
		g->signal = sig;
	} else if (lp_journal_has(g->j, LP_JF_LISTENING)) {
		g->signal = sig;
		kill(g->worker, sig);
	} else {
		/* It is reading images, or fetching them; nothing depends on it. */
		pr_err("signal %d before CRIU came", sig);
		g->j->h->exit_code = 1;
		lp_journal_flag(g->j, LP_JF_ENDED);
		kill(g->worker, SIGKILL);
	}
}

static void announce(struct guardian *g)
{
	wait_swept(g);
	if (!g->conf->ready(g->conf->arg))
		return;
	g->j->h->exit_code = 1;
	lp_journal_flag(g->j, LP_JF_ENDED);
	if (g->worker)
		kill(g->worker, SIGKILL);
}

/* Any moment is one at which another can go on. */
static void end_worker(struct guardian *g)
{
	if (!g->worker)
		return;
	kill(g->worker, SIGKILL);
	waitpid(g->worker, &g->status, 0);
	g->worker = 0;
	g->j->h->died_at = now_ns();
}

static void refuse_upgrade(struct guardian *g, const char *why)
{
	struct lp_jupgrade *up = &g->j->h->up;

	pr_err("upgrade to %s refused: %s", up->path, why);
	snprintf(up->msg, sizeof(up->msg), "%s", why);
	atomic_store(&up->state, LP_J_UP_REFUSED);
}

/* Does not return if it succeeds. */
static void upgrade(struct guardian *g)
{
	struct lp_jupgrade *up = &g->j->h->up;
	struct lp_err err = { "" };
	char what[sizeof(up->path) + 64];

	atomic_store(&up->state, LP_J_UP_CHECKING);
	wait_swept(g);
	up->path[sizeof(up->path) - 1] = 0;
	if (!g->conf->argv || !g->announced) {
		refuse_upgrade(g, "the daemon has not started yet, or its command line is too long");
		return;
	}
	snprintf(what, sizeof(what), "%s cannot go on from this journal: ", up->path);
	if (guard_ask(g->conf, up->path, GUARD_ASK_RESUME, what, &err)) {
		refuse_upgrade(g, err.msg);
		return;
	}
	pr_msg("upgrade: process %d becomes %s", getpid(), up->path);
	atomic_store(&up->state, LP_J_UP_REPLACING);
	end_worker(g);
	if (lp_journal_has(g->j, LP_JF_ENDED)) {
		refuse_upgrade(g, "the restore has just ended");
		return;
	}
	guard_upgrade_exec(g->conf, up->path, &err);
	refuse_upgrade(g, err.msg);
}

static void refuse_switch(struct guardian *g, const char *why)
{
	struct lp_jswitch *sw = &g->j->h->sw;

	pr_err("switch-source refused, pages come from where they did: %s", why);
	if (why != sw->msg)
		snprintf(sw->msg, sizeof(sw->msg), "%s", why);
	atomic_store(&sw->state, LP_J_SW_REFUSED);
}

/* The next worker opens the new source. Until it has, there is a way back: take_back(). */
static void switch_source(struct guardian *g)
{
	struct lp_jswitch *sw = &g->j->h->sw;
	struct lp_err err = { "" };

	atomic_store(&sw->state, LP_J_SW_CHECKING);
	wait_swept(g);
	if (!g->conf->argv || !g->announced) {
		refuse_switch(g, "the daemon has not started yet, or its command line is too long");
		return;
	}
	/* In a process that ends then: a guardian reads no images and speaks to no network. */
	if (guard_ask(g->conf, "/proc/self/exe", GUARD_ASK_SOURCE, "", &err)) {
		refuse_switch(g, err.msg);
		return;
	}
	if (lp_journal_has(g->j, LP_JF_LAST)) {
		refuse_switch(g, "nobody can go on after this worker: the journal was full");
		return;
	}
	end_worker(g);
	if (lp_journal_has(g->j, LP_JF_ENDED)) {
		refuse_switch(g, "the restore has just ended");
		return;
	}
	atomic_store(&sw->cur, 1 - (sw->cur & 1));
	atomic_store(&sw->state, LP_J_SW_REPLACING);
	g->switched = true;
}

/* The first worker with the new source has died before it had opened that. */
static void take_back(struct guardian *g)
{
	struct lp_jswitch *sw = &g->j->h->sw;

	if (atomic_load(&sw->state) != LP_J_SW_REPLACING)
		return;
	atomic_store(&sw->cur, 1 - (sw->cur & 1));
	sw->msg[sizeof(sw->msg) - 1] = 0;
	refuse_switch(g, *sw->msg ? sw->msg : "the worker died before it had opened the new source");
}

static void reap(struct guardian *g)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (pid == g->worker) {
			g->worker = 0;
			g->status = status;
			g->j->h->died_at = now_ns();
		} else if (pid == g->anchor) {
			pr_warn("the anchor is dead; starting another");
			start_anchor(g);
		}
	}
}

/* Handle signals until there is no worker any more, or until @end. */
static void wait_until(struct guardian *g, uint64_t end)
{
	while (g->worker || (end && now_ns() < end)) {
		uint64_t left = g->worker ? 10000 * MS : end - now_ns();
		struct timespec ts = { .tv_sec = left / 1000000000, .tv_nsec = left % 1000000000 };
		int sig = sigtimedwait(&g->waited, NULL, &ts);

		if (sig == SIGCHLD)
			reap(g);
		else if (sig > 0 && sig != SIGUSR1)
			on_signal(g, sig);
		if (atomic_load(&g->j->h->up.state) == LP_J_UP_ASKED)
			upgrade(g);
		if (atomic_load(&g->j->h->sw.state) == LP_J_SW_ASKED)
			switch_source(g);
		if (!g->announced && lp_journal_has(g->j, LP_JF_LISTENING)) {
			g->announced = true;
			announce(g);
		}
	}
}

static void describe(const struct guardian *g, char *buf, size_t len)
{
	uint32_t label = atomic_exchange(&g->j->h->crash.last, 0);

	if (WIFSIGNALED(g->status))
		snprintf(buf, len, "was killed by signal %d (%s)%s%s", WTERMSIG(g->status), strsignal(WTERMSIG(g->status)),
			 label ? " at test point " : "", label ? lp_crash_name(label - 1) : "");
	else
		snprintf(buf, len, "ended with status %d in the middle of its work", WEXITSTATUS(g->status));
}

/* The anchor stays, unless nothing depends on it. */
static int give_up(struct guardian *g, const char *why)
{
	if (!lp_journal_has(g->j, LP_JF_ACCEPTED)) {
		pr_err("the worker %s, before CRIU came", why);
		fprintf(stderr, "lazypages daemon: the worker %s\n", why);
		end_anchor(g);
		return 1;
	}
	if (lp_journal_has(g->j, LP_JF_LAST)) {
		pr_err("the worker %s, and no other can go on: %s. The restored tasks wait for their pages for ever: kill "
		       "them%s; process %d holds their descriptors until then",
		       why, lp_journal_has(g->j, LP_JF_ONCE) ? "its source gives pages only once" : "the journal was full",
		       lp_journal_has(g->j, LP_JF_BROKEN) ? ", then it" : "", g->anchor);
		return 1;
	}
	pr_err("the worker %s, again and again: giving up. The restored tasks wait for their pages: process %d holds "
	       "their descriptors; `lazypages daemon --take-over` goes on",
	       why, g->anchor);
	return 1;
}

int lp_guard_run(const struct lp_guard_conf *conf)
{
	struct guardian g = { .conf = conf, .j = conf->journal };
	const int never = -1000;
	unsigned failures = 0;
	uint64_t tail;
	char why[128];
	int sig;

	sigemptyset(&g.waited);
	sigaddset(&g.waited, SIGTERM);
	sigaddset(&g.waited, SIGINT);
	sigaddset(&g.waited, SIGHUP);
	sigaddset(&g.waited, SIGCHLD);
	sigaddset(&g.waited, SIGUSR1);
	signal(SIGCHLD, SIG_DFL); /* an inherited SIG_IGN would reap by itself */
	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_BLOCK, &g.waited, &g.old);
	if (conf->resumed) {
		/* The old program has blocked them, so that none was lost on the way. */
		for (sig = 1; sig < NSIG; sig++)
			if (sigismember(&g.waited, sig) == 1)
				sigdelset(&g.old, sig);
	} else {
		g.j->h->oom_adj = guard_oom_adj(NULL);
		/* One that died in the middle of it has asked in vain. */
		atomic_store(&g.j->h->up.state, LP_J_UP_NONE);
		if (g.j->h->sw.state == LP_J_SW_ASKED || g.j->h->sw.state == LP_J_SW_CHECKING)
			atomic_store(&g.j->h->sw.state, LP_J_SW_NONE);
	}
	g.oom_adj = g.j->h->oom_adj;
	guard_oom_adj(&never);
	g.j->h->guardian = getpid();
	g.j->h->guardian_start = guard_start_time(getpid());
	/* Nobody who takes over is told that we are ready: that was said. */
	g.announced = conf->resumed || (conf->old_anchor && lp_journal_has(g.j, LP_JF_LISTENING));
	if (g.announced && !conf->resumed && conf->ready(conf->arg))
		return 1; /* all is as it was, the old anchor too */
	start_anchor(&g);
	if (conf->old_anchor > 0 && g.anchor)
		kill(conf->old_anchor, SIGKILL);
	for (;;) {
		tail = g.j->h->tail;
		g.switched = false;
		start_worker(&g);
		wait_until(&g, 0);
		if (lp_journal_has(g.j, LP_JF_ENDED))
			break;
		if (g.switched) {
			pr_msg("switch-source: starting worker number %u", g.j->h->workers + 1);
			failures = 0;
			continue;
		}
		take_back(&g);
		describe(&g, why, sizeof(why));
		failures = g.j->h->tail > tail + 1 ? 0 : failures + 1; /* one cell is its RESTART */
		if (lp_journal_has(g.j, LP_JF_LAST) || failures > conf->restarts ||
		    (failures > 3 && !lp_journal_has(g.j, LP_JF_LISTENING)))
			return give_up(&g, why);
		pr_warn("the worker (process %d) %s; starting number %u", g.j->h->worker, why, g.j->h->workers + 1);
		if (failures > 1)
			wait_until(&g, now_ns() + (failures < 11 ? MS << (failures - 1) : BACKOFF_MAX));
	}
	end_anchor(&g);
	/* The signals stay blocked: one that comes now finds its work done, and shall not be the status. */
	return g.j->h->exit_code;
}

/* ---- The worker's side ------------------------------------------------------ */

void lp_guard_begin(struct lp_journal *j, const char *path)
{
	if (lp_crash_init(&j->h->crash)) {
		fprintf(stderr, "lazypages daemon: LAZYPAGES_TEST_CRASH=%s: cannot be understood; the labels are:\n",
			getenv("LAZYPAGES_TEST_CRASH"));
		lp_crash_list(stderr);
		j->h->exit_code = 2;
		lp_journal_flag(j, LP_JF_ENDED);
		_exit(2);
	}
	lp_crash_point(restart_begin);
	lp_journal_sweep(j, path);
	/*
	 * Not by the guardian: what it has open then is closed by the sweep, and its own
	 * close() would be of what has got the number since, the listening socket for example.
	 */
	j->h->worker_start = guard_start_time(getpid());
	j->h->swept = j->h->workers;
	lp_crash_point(restart_closed);
}

bool lp_guard_orphan(const struct lp_journal *j)
{
	return getppid() != j->h->guardian;
}

void lp_guard_tell(struct lp_journal *j)
{
	if (!lp_guard_orphan(j))
		kill(j->h->guardian, SIGUSR1);
}

void lp_guard_end_anchor(struct lp_journal *j)
{
	kill(j->h->anchor, SIGKILL);
	unlink(LP_ANCHOR_FILE);
	lp_guard_remove_ctl(&j->h->ctl);
}
