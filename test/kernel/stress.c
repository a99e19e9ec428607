/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The daemon against a real userfaultfd, without CRIU: this program builds
 * images, starts the daemon on them, and then acts as `criu restore` does: tasks
 * map their memory, hand a userfaultfd over, register, and run the oracle.
 *
 *	build/test/kernel/stress [--seconds N | --runs N] [--seed S] [--threads LIST]
 *		[--workers LIST] [--delays LIST] [--size LIST] [--tasks LIST] ...
 *
 * Each run takes its choices from the lists by its own seed, S + number of the
 * run, so one run is repeated with `--runs 1 --seed THAT` and the same lists. What a
 * failed run left is kept in a directory that is named.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test/lib/hang.h"
#include "test/lib/imgbuild.h"
#include "test/lib/kills.h"
#include "test/lib/merges.h"
#include "test/lib/oracle.h"

#define MAX_TASKS 4
#define MAX_VMAS 24
#define MAX_ENTS 4096
#define BASE_PID 1000u
/* Low, where the kernel puts nothing by itself; threads are 64 GiB apart. */
#define BASE UINT64_C(0x200000000000)
#define THREAD_SPACE (UINT64_C(64) << 30)
#define FINISHED UINT32_C(0x52535446)

struct list {
	uint64_t v[8];
	unsigned n;
};

struct opts {
	struct list threads, workers, delays, size, tasks;
	uint64_t seconds, runs, seed, ops, deadline;
	const char *daemon, *keep, *trace, *trace_to, *crash;
	bool wipe, dontfork, guards, no_dontfork, merges, bare, eager, no_background, verbose, keep_going, no_ledger;
};

/* What the tasks and this program share. */
struct stage {
	_Atomic uint32_t handed, go, bad_setup;
	struct oracle_shared sh;
};

struct task {
	struct ib_vma vmas[MAX_VMAS];
	struct ib_ent ents[MAX_ENTS];
	unsigned owner[MAX_VMAS]; /* the oracle's thread */
	size_t nvmas, nents;
	pid_t pid; /* the real one */
	bool reaped;
	int status;
};

struct run {
	const struct opts *o;
	uint64_t seed, rng;
	unsigned threads, workers, ntasks;
	uint64_t delay, pages;
	bool zombie, background, logs;
	char dir[256];
	struct stage *st;
	struct task tasks[MAX_TASKS];
	pid_t daemon;
	bool daemon_reaped;
	int daemon_status, sock;
	char why[256]; /* not empty: the run failed */
};

static uint64_t rnd(struct run *r, uint64_t n)
{
	uint64_t x = r->rng += UINT64_C(0x9E3779B97F4A7C15);

	x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
	return (x ^ (x >> 31)) % n;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void nap_us(unsigned us)
{
	struct timespec ts = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };

	nanosleep(&ts, NULL);
}

__attribute__((format(printf, 2, 3))) static void failed(struct run *r, const char *fmt, ...)
{
	va_list ap;

	if (r->why[0])
		return; /* the first reason counts */
	va_start(ap, fmt);
	vsnprintf(r->why, sizeof(r->why), fmt, ap);
	va_end(ap);
}

/* ---- Images ---------------------------------------------------------------- */

/* The mappings of a task: a few for each thread, some next to each other, with holes in the pagemap. */
static void plan_task(struct run *r, struct task *t)
{
	unsigned th, k;

	t->nvmas = t->nents = 0;
	if (r->o->merges) {
		merges_plan(t->vmas, &t->nvmas, t->ents, &t->nents);
		return;
	}
	for (th = 0; th < r->threads; th++) {
		uint64_t addr = BASE + th * THREAD_SPACE, left = r->pages / r->threads;
		unsigned n = 1 + rnd(r, 5);

		for (k = 0; k < n && left; k++) {
			uint64_t len = k + 1 == n ? left : 1 + rnd(r, left), at;
			struct ib_vma *v = &t->vmas[t->nvmas];

			*v = (struct ib_vma)IB_ANON(addr, len);
			if (!rnd(r, 8))
				v->madv = r->o->no_dontfork ? 0 : UINT64_C(1) << MADV_DONTFORK;
			else if (!rnd(r, 8))
				v->madv = UINT64_C(1) << MADV_WIPEONFORK;
			t->owner[t->nvmas++] = th;
			for (at = 0; at < len && t->nents < MAX_ENTS - 64;) {
				uint64_t nr = 1 + rnd(r, rnd(r, 3) ? 2000 : 8);

				if (nr > len - at)
					nr = len - at;
				if (rnd(r, 6))
					t->ents[t->nents++] = (struct ib_ent){ .vaddr = addr + at * IB_PAGE, .nr = nr,
									       .flags = IB_LAZY | IB_PRESENT };
				at += nr;
			}
			left -= len;
			addr += len * IB_PAGE + (rnd(r, 2) ? 0 : (1 + rnd(r, 64)) * IB_PAGE);
		}
	}
}

static int write_images(struct run *r)
{
	struct ib_task its[MAX_TASKS + 1] = { 0 };
	struct ib_image im = { .tasks = its, .ntasks = r->ntasks };
	unsigned i;

	for (i = 0; i < r->ntasks; i++) {
		plan_task(r, &r->tasks[i]);
		its[i] = (struct ib_task){
			.pid = BASE_PID + i, .ppid = i ? BASE_PID : 0, .pages_id = i + 1,
			.vmas = r->tasks[i].vmas, .nvmas = r->tasks[i].nvmas,
			.ents = r->tasks[i].ents, .nents = r->tasks[i].nents,
		};
	}
	if (r->zombie)
		its[im.ntasks++] = (struct ib_task){ .pid = BASE_PID + i, .ppid = BASE_PID, .state = IB_ZOMBIE };
	return ib_write(r->dir, &im);
}

/* ---- A task ------------------------------------------------------------------ */

static uint64_t gate(void *arg, unsigned thread)
{
	struct stage *st = arg;

	while (!atomic_load(&st->go))
		nap_us(50);
	return 0;
}

static int send_fd(int sock, int fd)
{
	char byte = 'x';
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} ctl = { { 0 } };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof(ctl) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(sock, &m, 0) == 1 ? 0 : -1;
}

static int open_uffd(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP |
			    UFFD_FEATURE_EVENT_REMOVE,
	};
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	return fd >= 0 && ioctl(fd, UFFDIO_API, &api) ? -1 : fd;
}

static bool in_image(const struct task *t, uint64_t addr)
{
	size_t i;

	for (i = 0; i < t->nents; i++)
		if (addr >= t->ents[i].vaddr && addr < t->ents[i].vaddr + t->ents[i].nr * IB_PAGE)
			return true;
	return false;
}

/* As CRIU's restorer: memory, hand-off, registration; some pages are there before. */
static bool set_up(struct run *r, struct task *t, unsigned index)
{
	uint32_t pid = BASE_PID + index;
	uint64_t addr, e;
	size_t i, k;
	int fd = -1;

	for (i = 0; i < t->nvmas; i++) {
		const struct ib_vma *v = &t->vmas[i];

		e = 0;
		if (mmap((void *)v->start, v->end - v->start, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED)
			return false;
		/*
		 * Pages that CRIU restores by itself, as those under stack pointers.
		 * A mapping without any page has no anon_vma; when a part of it is
		 * then mprotect()ed and filled, the parts never merge again and
		 * mremap() is refused. --bare asks for that.
		 */
		for (k = r->o->merges ? 3 : rnd(r, r->o->bare ? 4 : 3); k < 3 || r->o->eager; k++) {
			addr = v->start + (r->o->eager ? e++ : rnd(r, (v->end - v->start) / IB_PAGE)) * IB_PAGE;
			if (addr >= v->end)
				break;
			if (in_image(t, addr))
				ib_fill_page((void *)addr, pid, addr, 0);
			else if (!r->o->bare)
				*(volatile char *)addr = 0;
		}
	}
	if (!r->o->eager) {
		fd = open_uffd();
		if (fd < 0 || write(r->sock, &pid, sizeof(pid)) != sizeof(pid) || send_fd(r->sock, fd))
			return false;
	}
	for (i = 0; i < t->nvmas; i++) {
		const struct ib_vma *v = &t->vmas[i];
		struct uffdio_register reg = {
			.range = { .start = v->start, .len = v->end - v->start },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};

		if (!rnd(r, 3))
			nap_us(rnd(r, 300));
		if (fd >= 0 && ioctl(fd, UFFDIO_REGISTER, &reg))
			return false;
		if (v->madv & (UINT64_C(1) << MADV_DONTFORK) &&
		    madvise((void *)v->start, v->end - v->start, MADV_DONTFORK))
			return false;
		if (v->madv & (UINT64_C(1) << MADV_WIPEONFORK) &&
		    madvise((void *)v->start, v->end - v->start, MADV_WIPEONFORK))
			return false;
	}
	if (fd >= 0)
		close(fd);
	return true;
}

static void tell_oracle(const struct task *t, struct oracle *or)
{
	uint64_t addr;
	size_t i;

	for (i = 0; i < t->nvmas; i++) {
		const struct ib_vma *v = &t->vmas[i];

		oracle_add(or, t->owner[i], v->start, (v->end - v->start) / IB_PAGE,
			   (v->madv & (UINT64_C(1) << MADV_DONTFORK) ? ORACLE_DONTFORK : 0) |
				   (v->madv & (UINT64_C(1) << MADV_WIPEONFORK) ? ORACLE_WIPEONFORK : 0));
		for (addr = v->start; addr < v->end; addr += IB_PAGE)
			if (!in_image(t, addr))
				oracle_zeros(or, addr, 1);
	}
}

static void task_main(struct run *r, unsigned index)
{
	struct task *t = &r->tasks[index];
	struct oracle_conf conf = {
		.pid = BASE_PID + index, .threads = r->threads, .seed = r->seed * 31 + index, .ops = r->o->ops,
		.wipe = r->o->wipe, .dontfork = r->o->dontfork, .guard = r->o->guards, .gate = gate, .gate_arg = r->st, .shared = &r->st->sh,
	};
	struct oracle *or;
	uint64_t page[IB_PAGE / 8], addr;
	unsigned i;

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	or = oracle_new(&conf);
	if (!or)
		_exit(9);
	tell_oracle(t, or);
	/*
	 * As CRIU does for lazy restores: a huge page of what is written before the
	 * registration would cover pages that are still to come, with zeros.
	 */
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	if (!set_up(r, t, index)) {
		perror("set-up of a task");
		atomic_store(&r->st->bad_setup, 1);
		_exit(9);
	}
	prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
	if (r->o->merges) {
		atomic_fetch_add(&r->st->handed, 1);
		if (r->sock >= 0)
			close(r->sock);
		gate(r->st, 0);
		_exit(merges_run(t->vmas) ? 1 : 0);
	}
	/* The restorer touches lazy pages, too. */
	for (i = rnd(r, 4); i; i--) {
		const struct ib_vma *v = &t->vmas[rnd(r, t->nvmas)];

		addr = v->start + rnd(r, (v->end - v->start) / IB_PAGE) * IB_PAGE;
		memset(page, 0, sizeof(page));
		if (in_image(t, addr))
			ib_fill_page(page, BASE_PID + index, addr, 0);
		if (memcmp(page, (void *)addr, IB_PAGE))
			atomic_fetch_add(&r->st->sh.wrong, 1);
	}
	atomic_fetch_add(&r->st->handed, 1);
	if (r->sock >= 0)
		close(r->sock);
	_exit(oracle_run(or) ? 1 : 0);
}

/* ---- The daemon ---------------------------------------------------------------- */

static void start_daemon(struct run *r)
{
	char workers[16], delays[64], path[300];
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int ready[2], fd, i;
	char byte;

	if (pipe2(ready, 0)) {
		failed(r, "pipe: %s", strerror(errno));
		return;
	}
	snprintf(workers, sizeof(workers), "%u", r->workers);
	snprintf(delays, sizeof(delays), "%" PRIu64 ",%" PRIu64, r->seed, r->delay);
	r->daemon = fork();
	if (!r->daemon) {
		char status_fd[16];
		const char *argv[] = { r->o->daemon, "daemon", "-D", r->dir, "-W", r->dir, "-o", "daemon.log",
				       r->logs ? "-v4" : "-v2", "--workers", workers, "--status-fd", status_fd,
				       r->background ? NULL : "--no-background", NULL, NULL, NULL, NULL };

		for (i = 0; argv[i];)
			i++;
		if (r->o->trace || r->o->trace_to) {
			argv[i++] = "--trace";
			argv[i++] = r->o->trace_to ? r->o->trace_to : "trace";
		}
		if (r->o->no_ledger)
			argv[i] = "--no-ledger";

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		close(ready[0]);
		snprintf(status_fd, sizeof(status_fd), "%d", ready[1]);
		if (r->delay)
			setenv("LAZYPAGES_TEST_DELAYS", delays, 1);
		if (r->o->crash)
			kills_order(r->o->crash, r->seed);
		snprintf(path, sizeof(path), "%s/daemon.err", r->dir);
		fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		dup2(fd, 1);
		dup2(fd, 2);
		execv(r->o->daemon, (char **)argv);
		_exit(127);
	}
	close(ready[1]);
	i = read(ready[0], &byte, 1);
	close(ready[0]);
	if (i != 1) {
		failed(r, "the daemon does not start");
		return;
	}
	r->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%.80s/lazy-pages.socket", r->dir);
	if (connect(r->sock, (void *)&sa, sizeof(sa)))
		failed(r, "%s: %s", sa.sun_path, strerror(errno));
}

static bool poll_child(pid_t pid, bool *reaped, int *status)
{
	if (!*reaped && pid > 0 && waitpid(pid, status, WNOHANG) == pid)
		*reaped = true;
	return *reaped || pid <= 0;
}

/* ---- A hang ------------------------------------------------------------------------ */

static void dump_all(struct run *r)
{
	char path[300];
	unsigned i;
	FILE *f;

	snprintf(path, sizeof(path), "%s/hang", r->dir);
	f = fopen(path, "we");
	if (!f)
		return;
	for (i = 0; i < r->ntasks; i++)
		if (r->tasks[i].pid > 0)
			hang_group(f, r->tasks[i].pid);
	if (r->daemon > 0 && !r->daemon_reaped)
		hang_process(f, r->daemon);
	fclose(f);
}

/* ---- A run ------------------------------------------------------------------------------ */

static void end_all(struct run *r)
{
	unsigned i;

	for (i = 0; i < r->ntasks; i++) {
		struct task *t = &r->tasks[i];

		if (t->pid <= 0)
			continue;
		kill(-t->pid, SIGKILL); /* a group of its own */
		if (!t->reaped)
			waitpid(t->pid, &t->status, 0);
		t->reaped = true;
	}
	if (r->daemon > 0 && !r->daemon_reaped) {
		kills_all(r->daemon, r->dir);
		waitpid(r->daemon, &r->daemon_status, 0);
		r->daemon_reaped = true;
	}
}

static bool wait_run(struct run *r)
{
	uint64_t seen = 0, now, end = 0;
	unsigned i;
	bool all;

	do {
		/* Anything that goes on is no hang, however slow the delays make it. */
		now = atomic_load(&r->st->sh.seen) + oracle_ops(&r->st->sh);
		if (now != seen || !end)
			end = now_ms() + r->o->deadline * 1000;
		seen = now;
		all = poll_child(r->daemon, &r->daemon_reaped, &r->daemon_status);
		for (i = 0; i < r->ntasks; i++)
			all &= poll_child(r->tasks[i].pid, &r->tasks[i].reaped, &r->tasks[i].status);
		if (all)
			return true;
		nap_us(1000);
	} while (now_ms() < end);
	return false;
}

/* A sanitizer's report, or anything else on the daemon's stderr. */
static void check_stderr(struct run *r)
{
	struct ib_buf b = { 0 };

	if (!ib_load(r->dir, "daemon.err", &b) && b.n) {
		ib_bytes(&b, "", 1);
		if (strstr((char *)b.p, "Sanitizer") || strstr((char *)b.p, "runtime error"))
			failed(r, "the daemon's sanitizer has something to say");
		else
			failed(r, "the daemon says: %.150s", (char *)b.p);
	}
	ib_free(&b);
}

/* The trace, replayed, shows no difference; the last one is kept in --trace FILE. */
static void check_trace(struct run *r)
{
	char cmd[1000];
	int rc;

	snprintf(cmd, sizeof(cmd), "'%s' trace --replay '%s/trace' > '%s/replay' 2>&1", r->o->daemon, r->dir, r->dir);
	rc = system(cmd);
	snprintf(cmd, sizeof(cmd), "cp '%s/trace' '%s'", r->dir, r->o->trace);
	if (system(cmd))
		failed(r, "cannot keep the trace as %s", r->o->trace);
	snprintf(cmd, sizeof(cmd), "%s/replay", r->dir);
	if (rc) {
		hang_copy(stderr, cmd);
		failed(r, "the replay of its trace, now %s, says otherwise", r->o->trace);
	} else if (r->o->verbose) {
		hang_copy(stderr, cmd);
	}
}

static void judge(struct run *r)
{
	struct oracle_shared *sh = &r->st->sh;
	unsigned i;

	if (oracle_bad(sh))
		failed(r, "%" PRIu64 " wrong pages, %" PRIu64 " refused calls, %" PRIu64 " of the bookkeeping, %" PRIu64
			  " children failed", atomic_load(&sh->wrong), atomic_load(&sh->refused), atomic_load(&sh->book),
		       atomic_load(&sh->children_bad));
	for (i = 0; i < r->ntasks; i++)
		if (r->tasks[i].status)
			failed(r, "task %u ended with wait status 0x%x", i, r->tasks[i].status);
	if (r->daemon > 0 && r->daemon_status)
		failed(r, "the daemon ended with wait status 0x%x", r->daemon_status);
	if (r->daemon > 0)
		check_stderr(r);
	if (r->daemon > 0 && r->o->trace)
		check_trace(r);
}

/* True if it hangs. */
static bool play(struct run *r)
{
	uint64_t end = now_ms() + r->o->deadline * 1000;
	int32_t word;
	unsigned i;
	bool hangs = false;

	if (write_images(r)) {
		failed(r, "cannot write images to %s", r->dir);
		return false;
	}
	if (!r->o->eager)
		start_daemon(r);
	for (i = 0; i < r->ntasks && !r->why[0]; i++) {
		r->tasks[i].pid = fork();
		if (!r->tasks[i].pid)
			task_main(r, i);
		/* CRIU's tasks take turns under a lock; the daemon sees the same. */
		while (atomic_load(&r->st->handed) <= i && !atomic_load(&r->st->bad_setup) && now_ms() < end &&
		       !poll_child(r->tasks[i].pid, &r->tasks[i].reaped, &r->tasks[i].status))
			nap_us(100);
		if (atomic_load(&r->st->handed) <= i) {
			hangs = now_ms() >= end;
			failed(r, hangs ? "hang before the restore was finished" : "set-up of task %u failed", i);
		}
	}
	if (r->zombie && r->sock >= 0 && !r->why[0]) {
		word = -(int32_t)(BASE_PID + r->ntasks);
		if (write(r->sock, &word, sizeof(word)) != sizeof(word))
			failed(r, "zombie: %s", strerror(errno));
	}
	/*
	 * Between the last registration and this word CRIU works for tens of
	 * milliseconds, in which the daemon gives each VMA its first page; on a slow
	 * machine the program would be at its mprotect() before.
	 */
	if (r->o->merges)
		nap_us(100000);
	word = FINISHED;
	if (r->sock >= 0 && !r->why[0] && write(r->sock, &word, sizeof(word)) != sizeof(word))
		failed(r, "finished: %s", strerror(errno));
	if (r->sock >= 0)
		close(r->sock);
	if (rnd(r, 2))
		nap_us(rnd(r, 2000));
	atomic_store(&r->st->go, 1);
	if (!r->why[0] && !wait_run(r)) {
		hangs = true;
		failed(r, "hang: nothing happens for %" PRIu64 " s", r->o->deadline);
	}
	if (hangs)
		dump_all(r);
	end_all(r);
	judge(r);
	return hangs;
}

static uint64_t pick(struct run *r, const struct list *l)
{
	return l->v[rnd(r, l->n)];
}

static void report_failure(struct run *r)
{
	char to[300], cmd[2000];
	FILE *f;

	fprintf(stderr, "run with seed %" PRIu64 " FAILED: %s (threads %u, workers %u, delays %" PRIu64 ", tasks %u, "
			"pages %" PRIu64 "%s)\n", r->seed, r->why, r->threads, r->workers, r->delay, r->ntasks, r->pages,
		r->background ? "" : ", no background");
	oracle_print(stderr, &r->st->sh);
	snprintf(to, sizeof(to), "%s/seed-%" PRIu64, r->o->keep, r->seed);
	mkdir(r->o->keep, 0700);
	snprintf(cmd, sizeof(cmd), "%s/report", r->dir);
	f = fopen(cmd, "we");
	if (f) {
		fprintf(f, "%s\n", r->why);
		oracle_print(f, &r->st->sh);
		oracle_json(f, &r->st->sh);
		fclose(f);
	}
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'; mkdir '%s' && cd '%s' && cp daemon.log daemon.err report '%s' && "
				   "{ [ ! -e hang ] || cp hang '%s'; }", to, to, r->dir, to, to);
	if (system(cmd))
		fprintf(stderr, "cannot keep %s\n", r->dir);
	fprintf(stderr, "kept in %s\n", to);
}

static void numbers(struct list *l, const char *s)
{
	char *end;

	l->n = 0;
	do {
		l->v[l->n++] = strtoull(s, &end, 0);
		if (*end == 'M' && end++)
			l->v[l->n - 1] <<= 20;
		if (end == s || (*end && *end != ',') || l->n == 8) {
			fprintf(stderr, "stress: not a list of at most 8 numbers: %s\n", s);
			exit(2);
		}
		s = end + 1;
	} while (*end);
}

static void parse(int argc, char **argv, struct opts *o)
{
	enum { SECONDS, RUNS, SEED, THREADS, WORKERS, SIZE, DELAYS, DAEMON, TASKS, OPS, DEADLINE, KEEP, WIPE, EAGER,
	       VERBOSE, NO_BACKGROUND, KEEP_GOING, DONTFORK, NO_DONTFORK, MERGES,
	       BARE, TRACE, TRACE_TO, CRASH, NO_LEDGER, GUARDS };
	static const struct option longs[] = {
		{ "seconds", 1, NULL, SECONDS }, { "runs", 1, NULL, RUNS }, { "seed", 1, NULL, SEED },
		{ "threads", 1, NULL, THREADS }, { "workers", 1, NULL, WORKERS }, { "size", 1, NULL, SIZE },
		{ "delays", 1, NULL, DELAYS }, { "daemon", 1, NULL, DAEMON }, { "tasks", 1, NULL, TASKS },
		{ "ops", 1, NULL, OPS }, { "deadline", 1, NULL, DEADLINE }, { "keep", 1, NULL, KEEP },
		{ "wipe", 0, NULL, WIPE }, { "eager", 0, NULL, EAGER }, { "verbose", 0, NULL, VERBOSE },
		{ "no-background", 0, NULL, NO_BACKGROUND }, { "keep-going", 0, NULL, KEEP_GOING },
		{ "dontfork", 0, NULL, DONTFORK }, { "guards", 0, NULL, GUARDS },
		{ "no-dontfork", 0, NULL, NO_DONTFORK },
		{ "crash", 1, NULL, CRASH }, { "no-ledger", 0, NULL, NO_LEDGER },
		{ "merges", 0, NULL, MERGES }, { "bare", 0, NULL, BARE }, { "trace", 1, NULL, TRACE },
		{ "trace-to", 1, NULL, TRACE_TO }, { NULL, 0, NULL, 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case SECONDS: o->seconds = strtoull(optarg, NULL, 0); break;
		case RUNS: o->runs = strtoull(optarg, NULL, 0); break;
		case SEED: o->seed = strtoull(optarg, NULL, 0); break;
		case THREADS: numbers(&o->threads, optarg); break;
		case WORKERS: numbers(&o->workers, optarg); break;
		case SIZE: numbers(&o->size, optarg); break;
		case DELAYS: numbers(&o->delays, optarg); break;
		case TASKS: numbers(&o->tasks, optarg); break;
		case DAEMON: o->daemon = optarg; break;
		case OPS: o->ops = strtoull(optarg, NULL, 0); break;
		case DEADLINE: o->deadline = strtoull(optarg, NULL, 0); break;
		case CRASH: o->crash = optarg; break;
		case KEEP: o->keep = optarg; break;
		case NO_LEDGER: o->no_ledger = true; break;
		case WIPE: o->wipe = true; break;
		case TRACE_TO: o->trace_to = optarg; break;
		case TRACE: o->trace = optarg; break;
		case EAGER: o->eager = true; break;
		case VERBOSE: o->verbose = true; break;
		case NO_BACKGROUND: o->no_background = true; break;
		case BARE: o->bare = true; break;
		case MERGES: o->merges = true; break;
		case NO_DONTFORK: o->no_dontfork = true; break;
		case DONTFORK: o->dontfork = true; break;
		case GUARDS: o->guards = true; break;
		case KEEP_GOING: o->keep_going = true; break;
		default:
			fputs("usage: stress [--seconds N | --runs N] [--seed S] [--threads LIST] [--workers LIST]\n"
			      "  [--delays LIST(us)] [--size LIST(e.g. 16M)] [--tasks LIST] [--ops N(per thread)]\n"
			      "  [--daemon PATH] [--deadline SECONDS] [--keep DIR] [--keep-going]\n"
			      "  [--no-background] [--wipe] [--dontfork] [--guards] [--no-dontfork (nor in the image)] [--bare]\n"
			      "  [--crash SPEC (as LAZYPAGES_TEST_CRASH, %% becomes the seed)]\n"
			      "  [--merges (a fixed program: do split mappings merge again?)]\n"
			      "  [--trace FILE (record and replay each run, keep the last)] [--trace-to FILE (only record)]\n"
			      "  [--no-ledger (the daemon has to guess)]\n"
			      "  [--eager (no daemon)] [--verbose (log of -v4)]\n", stderr);
			exit(2);
		}
	}
}

int main(int argc, char **argv)
{
	struct opts o = {
		.threads = { { 1, 2, 4 }, 3 }, .workers = { { 1, 2, 4 }, 3 }, .delays = { { 0, 200, 2000 }, 3 },
		.size = { { 4 << 20, 16 << 20, 48 << 20 }, 3 }, .tasks = { { 1, 1, 1, 2, 3 }, 5 }, .seconds = 10,
		.ops = 1500, .deadline = 20, .daemon = "build/bin/lazypages", .keep = "/tmp/lazypages-stress",
	};
	uint64_t end, t0, n, ops = 0, wrong = 0, refused = 0, excused = 0, hangs = 0,
		 bad = 0;
	struct kills kills = { 0 };
	uint64_t pause_us = 0, booked = 0, guessed = 0;
	static struct run r;

	o.seed = (uint64_t)time(NULL) * 1000;
	parse(argc, argv, &o);
	setenv("TMPDIR", "/dev/shm", 0);
	end = now_ms() + o.seconds * 1000;
	for (n = 0; (o.runs ? n < o.runs : now_ms() < end) && (!bad || o.keep_going); n++) {
		memset(&r, 0, sizeof(r));
		r.o = &o;
		r.seed = r.rng = o.seed + n;
		r.sock = -1;
		r.threads = pick(&r, &o.threads);
		r.workers = pick(&r, &o.workers);
		r.delay = pick(&r, &o.delays);
		r.pages = pick(&r, &o.size) / IB_PAGE;
		r.ntasks = pick(&r, &o.tasks);
		if (r.ntasks > MAX_TASKS || r.ntasks < 1 || r.threads < 1 || r.threads * 5 > MAX_VMAS) {
			fputs("stress: at most 4 tasks and 4 threads\n", stderr);
			return 2;
		}
		r.zombie = !rnd(&r, 4);
		r.background = !o.no_background && (r.delay > 1000 || rnd(&r, 8));
		r.logs = rnd(&r, 2) || o.verbose;
		r.st = mmap(NULL, sizeof(*r.st), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (r.st == MAP_FAILED || ib_tmpdir(r.dir)) {
			perror("stress");
			return 2;
		}
		t0 = now_ms();
		hangs += play(&r);
		if (o.verbose)
			fprintf(stderr, "seed %" PRIu64 ": %" PRIu64 " ms, threads %u, workers %u, delays %" PRIu64 ", tasks %u, "
					"pages %" PRIu64 "%s\n", r.seed, now_ms() - t0, r.threads, r.workers, r.delay,
				r.ntasks, r.pages, r.background ? "" : ", no background");
		ops += oracle_ops(&r.st->sh);
		wrong += atomic_load(&r.st->sh.wrong);
		refused += atomic_load(&r.st->sh.refused);
		excused += atomic_load(&r.st->sh.excused);
		kills_count(r.dir, &kills);
		kills_settlings(r.dir, &booked, &guessed);
		if (atomic_load(&r.st->sh.longest_ns) / 1000 > pause_us)
			pause_us = atomic_load(&r.st->sh.longest_ns) / 1000;
		if (r.why[0]) {
			bad++;
			report_failure(&r);
		}
		ib_remove(r.dir);
		munmap(r.st, sizeof(*r.st));
	}
	printf("stress: %" PRIu64 " settled moments in the kernel's order, %" PRIu64 " guessed\n", booked, guessed);
	printf("stress: %" PRIu64 " runs, %" PRIu64 " ops, %" PRIu64 " wrong pages, %" PRIu64 " refused calls, %" PRIu64
	       " hangs, %" PRIu64 " excused, seed %" PRIu64 "%s\n", n, ops, wrong, refused, hangs, excused, o.seed, bad ? ": FAILED" : "");
	if (o.crash)
		printf("stress: %" PRIu64 " workers killed, at most %.3f ms from a death until all were woken, longest pause of a "
		       "thread %.3f ms\n", kills.workers, kills.longest_us / 1e3, pause_us / 1e3);
	return bad ? 1 : 0;
}
