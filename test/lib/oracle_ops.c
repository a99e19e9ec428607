/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the threads of the oracle do, see oracle.h. Each operation makes its
 * system call, compares the result, and then changes the bookkeeping.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/lib/oracle_internal.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#ifndef MADV_GUARD_INSTALL /* Linux 6.13 */
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

#define MAX_DEPTH 2

static void *at(const struct seg *s, size_t i)
{
	return (void *)(uintptr_t)(s->addr + i * ORACLE_PAGE);
}

/* A call was refused, or returned something else than it had to. */
static bool ok(struct thread *th, bool good, uint64_t addr, size_t npages, uint64_t detail)
{
	if (good)
		return true;
	atomic_fetch_add(&th->o->conf.shared->refused, 1);
	oracle_record(th, (struct oracle_record){ .what = REC_CALL, .err = errno, .addr = addr, .len = npages,
						  .expected = detail });
	return false;
}

/* ---- Mappings ------------------------------------------------------------ */

static struct pg *pages_new(size_t n)
{
	struct pg *st = malloc(n * sizeof(*st));
	size_t i;

	if (!st)
		abort();
	for (i = 0; i < n; i++)
		pg_set(&st[i], PG_ZERO, 0);
	return st;
}

static bool room(const struct thread *th)
{
	return th->nsegs + 5 <= MAX_SEGS;
}

static struct seg *seg_add(struct thread *th, uint64_t addr, size_t n, struct pg *st, uint32_t flags)
{
	struct seg *s;

	if (th->nsegs == MAX_SEGS)
		abort();
	s = &th->segs[th->nsegs++];
	*s = (struct seg){ .addr = addr, .n = n, .st = st, .flags = flags };
	s->check = seg_check(s);
	th->npages += n;
	return s;
}

static struct seg seg_del(struct thread *th, struct seg *s)
{
	struct seg old = *s;

	th->npages -= s->n;
	*s = th->segs[--th->nsegs];
	return old;
}

/* Forget [addr, addr + n pages). Needs room(). */
static void forget(struct thread *th, uint64_t addr, size_t n)
{
	uint64_t end = addr + n * ORACLE_PAGE;
	size_t i = 0;

	while (i < th->nsegs) {
		struct seg *s = &th->segs[i], old;
		uint64_t s_end = s->addr + s->n * ORACLE_PAGE;
		size_t head, tail;

		if (s->addr >= end || s_end <= addr) {
			i++;
			continue;
		}
		old = seg_del(th, s);
		head = old.addr < addr ? (addr - old.addr) / ORACLE_PAGE : 0;
		tail = s_end > end ? (s_end - end) / ORACLE_PAGE : 0;
		if (head) {
			struct pg *st = malloc(head * sizeof(*st));

			if (!st)
				abort();
			memcpy(st, old.st, head * sizeof(*st));
			seg_add(th, old.addr, head, st, old.flags);
		}
		if (tail) {
			struct pg *st = malloc(tail * sizeof(*st));

			if (!st)
				abort();
			memcpy(st, old.st + old.n - tail, tail * sizeof(*st));
			seg_add(th, end, tail, st, old.flags);
		}
		free(old.st);
		i = 0;
	}
}

/* Cut page @a on for @n pages out of the bookkeeping; the caller owns .st of the result. Needs room(). */
static struct seg take(struct thread *th, const struct seg *s, size_t a, size_t n)
{
	struct seg out = { .addr = s->addr + a * ORACLE_PAGE, .n = n, .flags = s->flags };

	out.st = malloc(n * sizeof(*out.st));
	if (!out.st)
		abort();
	memcpy(out.st, s->st + a, n * sizeof(*out.st));
	forget(th, out.addr, n);
	return out;
}

static void set_flags(struct seg *s, uint32_t set, uint32_t clear)
{
	s->flags = (s->flags & ~clear) | set;
	s->check = seg_check(s);
}

/* A write gives the VMA its anon_vma in the writer's own page fault, before the userfaultfd is asked. */
static void written(struct seg *s)
{
	if (!(s->flags & SEG_TORN))
		set_flags(s, 0, SEG_NAKED);
}

/* ok() for mremap() of a part of @s. Where EFAULT is excused, @s is unmapped and forgotten. */
static bool remap_ok(struct thread *th, struct seg *s, bool good, uint64_t addr, size_t npages, uint64_t detail)
{
	uint64_t start = s->addr;
	size_t n = s->n;

	if (good || errno != EFAULT || !(s->flags & SEG_TORN))
		return ok(th, good, addr, npages, detail);
	th->excused++;
	atomic_fetch_add(&th->o->conf.shared->excused, 1);
	if (ok(th, !munmap(at(s, 0), n * ORACLE_PAGE), start, n, 0))
		forget(th, start, n);
	return false;
}

static void put(struct thread *th, const struct seg *s)
{
	seg_add(th, s->addr, s->n, s->st, s->flags);
}

static void range(struct thread *th, const struct seg *s, size_t *a, size_t *n)
{
	static const unsigned most[] = { 1, 8, 64, 512 };
	size_t max = most[oracle_rnd(th, 4)];

	*a = 0;
	*n = s->n;
	if (!room(th) || !oracle_rnd(th, 5))
		return;
	*a = oracle_rnd(th, s->n);
	if (max > s->n - *a)
		max = s->n - *a;
	*n = 1 + oracle_rnd(th, max);
}

/* Does the address belong to this thread even while nothing is mapped there? */
static bool own(const struct thread *th, uint64_t addr)
{
	return addr >= th->window && addr < th->window_end;
}

/* A free place for @n pages in the thread's own window, 0: none found. */
static uint64_t place(struct thread *th, size_t n)
{
	size_t span = (th->window_end - th->window) / ORACLE_PAGE, i, tries;

	span += span / 4 + 256;
	if (n >= span)
		return 0;
	for (tries = 0; tries < 8; tries++) {
		uint64_t addr = th->window + oracle_rnd(th, span - n) * ORACLE_PAGE;

		/* Close to others, where late events hurt. */
		if (th->nsegs && oracle_rnd(th, 2)) {
			struct seg *s = &th->segs[oracle_rnd(th, th->nsegs)];

			if (own(th, s->addr))
				addr = s->addr + s->n * ORACLE_PAGE;
		}
		for (i = 0; i < th->nsegs; i++) {
			struct seg *s = &th->segs[i];

			if (s->addr < addr + n * ORACLE_PAGE && s->addr + s->n * ORACLE_PAGE > addr)
				break;
		}
		if (i == th->nsegs)
			return addr;
	}
	return 0;
}

/* ---- Contents ------------------------------------------------------------ */

static void do_read(struct thread *th, struct seg *s)
{
	size_t i = oracle_rnd(th, s->n);

	oracle_verify(th, s, i, at(s, i));
}

static void do_write(struct thread *th, struct seg *s, size_t i)
{
	pg_set(&s->st[i], PG_OWN, ++th->serial);
	oracle_expect(th, &s->st[i], at(s, i));
	written(s);
}

static void do_patch(struct thread *th, struct seg *s)
{
	size_t i = oracle_rnd(th, s->n);

	if (s->st[i].maybe_zero) {
		do_write(th, s, i);
		return;
	}
	pg_patch(&s->st[i], ++th->patch);
	oracle_patch_page(at(s, i), th->patch);
	written(s);
	if (oracle_rnd(th, 2))
		oracle_verify(th, s, i, at(s, i));
}

static bool open_pipe(struct thread *th)
{
	if (!th->has_pipe)
		th->has_pipe = ok(th, !pipe2(th->pipe, O_CLOEXEC), 0, 0, 0);
	return th->has_pipe;
}

/* The kernel reads the page, or writes it. */
static void do_sysread(struct thread *th, struct seg *s)
{
	size_t i = oracle_rnd(th, s->n);
	ssize_t n;

	if (!open_pipe(th))
		return;
	n = write(th->pipe[1], at(s, i), ORACLE_PAGE);
	if (!ok(th, n == (ssize_t)ORACLE_PAGE, s->addr, s->n, n))
		return;
	n = read(th->pipe[0], th->copy, ORACLE_PAGE);
	if (ok(th, n == (ssize_t)ORACLE_PAGE, s->addr, s->n, n))
		oracle_verify(th, s, i, th->copy);
}

static void do_syswrite(struct thread *th, struct seg *s)
{
	size_t i = oracle_rnd(th, s->n);
	ssize_t n;

	if (!open_pipe(th))
		return;
	pg_set(&s->st[i], PG_OWN, ++th->serial);
	oracle_expect(th, &s->st[i], th->buf);
	n = write(th->pipe[1], th->buf, ORACLE_PAGE);
	ok(th, n == (ssize_t)ORACLE_PAGE, s->addr, s->n, n);
	n = read(th->pipe[0], at(s, i), ORACLE_PAGE);
	if (ok(th, n == (ssize_t)ORACLE_PAGE, s->addr, s->n, n))
		written(s);
}

static void do_madvise(struct thread *th, struct seg *s, int advice)
{
	size_t a, n, i;

	range(th, s, &a, &n);
	if (!ok(th, !madvise(at(s, a), n * ORACLE_PAGE, advice), s->addr + a * ORACLE_PAGE, n, 0))
		return;
	for (i = a; i < a + n; i++) {
		if (advice == MADV_DONTNEED)
			pg_set(&s->st[i], PG_ZERO, 0);
		else
			pg_maybe_zero(&s->st[i]);
	}
	if (oracle_rnd(th, 2)) {
		i = a + oracle_rnd(th, n);
		oracle_verify(th, s, i, at(s, i));
	}
}

/* ---- Layout --------------------------------------------------------------- */

static void do_munmap(struct thread *th, struct seg *s)
{
	uint64_t addr;
	size_t a, n;

	range(th, s, &a, &n);
	addr = s->addr + a * ORACLE_PAGE;
	if (ok(th, !munmap(at(s, a), n * ORACLE_PAGE), addr, n, 0))
		forget(th, addr, n);
}

static void do_mmap(struct thread *th)
{
	size_t n = 1 + oracle_rnd(th, oracle_rnd(th, 2) ? 16 : 256);
	void *p;

	if (!room(th) || th->npages + n > th->max_pages)
		return;
	p = mmap(NULL, n * ORACLE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ok(th, p != MAP_FAILED, 0, n, 0))
		seg_add(th, (uintptr_t)p, n, pages_new(n), 0);
}

static void do_mmap_over(struct thread *th, struct seg *s)
{
	uint64_t addr;
	size_t a, n;
	void *p;

	range(th, s, &a, &n);
	addr = s->addr + a * ORACLE_PAGE;
	if (!room(th))
		return;
	p = mmap((void *)(uintptr_t)addr, n * ORACLE_PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (ok(th, p == (void *)(uintptr_t)addr, addr, n, (uintptr_t)p)) {
		forget(th, addr, n);
		seg_add(th, addr, n, pages_new(n), 0);
	}
}

static void look_at(struct thread *th)
{
	if (th->nsegs && oracle_rnd(th, 2))
		do_read(th, &th->segs[th->nsegs - 1]);
}

/* Move page @a on for @n pages of @s to @to, of which the caller owns what is there. */
static bool move_to(struct thread *th, struct seg *s, size_t a, size_t n, uint64_t to)
{
	uint64_t from = s->addr + a * ORACLE_PAGE, excused = th->excused;
	size_t had;
	struct seg m;
	void *p;

	p = mremap(at(s, a), n * ORACLE_PAGE, n * ORACLE_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)to);
	if (!remap_ok(th, s, p == (void *)(uintptr_t)to, from, n, to)) {
		/* Some kernels have unmapped the destination then, others have not. */
		had = th->npages;
		if (th->excused != excused)
			forget(th, to, n);
		if (th->npages != had)
			munmap((void *)(uintptr_t)to, n * ORACLE_PAGE);
		return false;
	}
	m = take(th, s, a, n);
	forget(th, to, n);
	m.addr = to;
	put(th, &m);
	return true;
}

static void do_move(struct thread *th, struct seg *s)
{
	uint64_t to, from;
	size_t a, n;

	range(th, s, &a, &n);
	to = place(th, n);
	from = s->addr + a * ORACLE_PAGE;
	if (!to || !room(th) || !move_to(th, s, a, n, to))
		return;
	if (oracle_rnd(th, 3) || !room(th)) {
		look_at(th);
		return;
	}
	/* There and back. */
	if (oracle_rnd(th, 2))
		look_at(th);
	if (own(th, from))
		move_to(th, &th->segs[th->nsegs - 1], 0, n, from);
	look_at(th);
}

static void do_move_over(struct thread *th, struct seg *s)
{
	struct seg *v = oracle_pick(th);
	size_t a, n;

	if (!v || v == s || !room(th))
		return;
	range(th, s, &a, &n);
	if (n > v->n)
		n = v->n;
	if (move_to(th, s, a, n, v->addr + oracle_rnd(th, v->n - n + 1) * ORACLE_PAGE))
		look_at(th);
}

/* To where the kernel likes: perhaps where another thread was a moment ago. */
static void do_move_any(struct thread *th, struct seg *s)
{
	size_t a, n;
	void *p;

	if (!room(th))
		return;
	range(th, s, &a, &n);
	p = mmap(NULL, n * ORACLE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!ok(th, p != MAP_FAILED, 0, n, 0))
		return;
	if (move_to(th, s, a, n, (uintptr_t)p))
		look_at(th);
	else
		munmap(p, n * ORACLE_PAGE);
}

static void do_grow(struct thread *th, struct seg *s)
{
	size_t more = 1 + oracle_rnd(th, oracle_rnd(th, 2) ? 4 : 128);
	struct seg m;
	void *p;

	if (th->npages + more > th->max_pages || !room(th))
		return;
	p = mremap(at(s, 0), s->n * ORACLE_PAGE, (s->n + more) * ORACLE_PAGE, MREMAP_MAYMOVE);
	if (!remap_ok(th, s, p != MAP_FAILED, s->addr, s->n, more))
		return;
	m = *s;
	m.st = pages_new(s->n + more);
	memcpy(m.st, s->st, s->n * sizeof(*s->st));
	forget(th, s->addr, s->n);
	m.addr = (uintptr_t)p;
	m.n += more;
	put(th, &m);
	look_at(th);
}

static void do_shrink(struct thread *th, struct seg *s)
{
	size_t n;
	void *p;

	if (s->n < 2)
		return;
	n = 1 + oracle_rnd(th, s->n - 1);
	if (s->n - n > 256)
		n = s->n - 1 - oracle_rnd(th, 256);
	p = mremap(at(s, 0), s->n * ORACLE_PAGE, n * ORACLE_PAGE, 0);
	if (remap_ok(th, s, p == at(s, 0), s->addr, s->n, n))
		forget(th, s->addr + n * ORACLE_PAGE, s->n - n);
}

static void do_dontunmap(struct thread *th, struct seg *s)
{
	int flags = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;
	bool whole;
	uint64_t to = 0;
	struct seg m, old;
	size_t a, n;
	void *p;

	range(th, s, &a, &n);
	if (th->npages + n > th->max_pages || !room(th))
		return;
	if (oracle_rnd(th, 2))
		to = place(th, n);
	if (to)
		flags |= MREMAP_FIXED;
	p = mremap(at(s, a), n * ORACLE_PAGE, n * ORACLE_PAGE, flags, (void *)(uintptr_t)to);
	if (!remap_ok(th, s, to ? p == (void *)(uintptr_t)to : p != MAP_FAILED, s->addr + a * ORACLE_PAGE, n, to))
		return;
	whole = n == s->n;
	m = take(th, s, a, n);
	old = m;
	if (whole)
		old.flags |= SEG_NAKED;
	old.st = pages_new(n);
	m.addr = (uintptr_t)p;
	put(th, &old);
	look_at(th);
	put(th, &m);
	look_at(th);
}

/* Guard pages, perhaps moved; then there are zeros. */
static void do_guard(struct thread *th, struct seg *s)
{
	size_t a, n, i;
	uint64_t addr, to;

	range(th, s, &a, &n);
	addr = s->addr + a * ORACLE_PAGE;
	if (!open_pipe(th) || (madvise(at(s, a), n * ORACLE_PAGE, MADV_GUARD_INSTALL) && errno == EINVAL))
		return;
	written(s); /* it gives the VMA its anon_vma, too */
	for (i = a; i < a + n; i++)
		pg_set(&s->st[i], PG_ZERO, 0);
	i = a + oracle_rnd(th, n);
	ok(th, write(th->pipe[1], at(s, i), 1) < 0 && errno == EFAULT, addr, n, i - a);
	if (!oracle_rnd(th, 3) && room(th) && (to = place(th, n)) && move_to(th, s, a, n, to)) {
		s = &th->segs[th->nsegs - 1];
		addr = to;
		a = 0;
	}
	if (!ok(th, !madvise((void *)addr, n * ORACLE_PAGE, MADV_GUARD_REMOVE), addr, n, 0))
		return;
	i = a + oracle_rnd(th, n);
	oracle_verify(th, s, i, at(s, i));
}

static void do_mprotect(struct thread *th, struct seg *s)
{
	bool none = !oracle_rnd(th, 3);
	size_t a, n, i;

	range(th, s, &a, &n);
	if (!ok(th, !mprotect(at(s, a), n * ORACLE_PAGE, none ? PROT_NONE : PROT_READ), s->addr, n, a))
		return;
	if (s->flags & SEG_NAKED && n < s->n)
		set_flags(s, SEG_TORN, 0);
	if (!none) {
		i = a + oracle_rnd(th, n);
		oracle_verify(th, s, i, at(s, i));
	}
	/* A neighbour, while the mapping is in pieces. */
	i = a ? a - 1 : n;
	if (i < s->n)
		oracle_verify(th, s, i, at(s, i));
	ok(th, !mprotect(at(s, a), n * ORACLE_PAGE, PROT_READ | PROT_WRITE), s->addr, n, a);
}

static void do_flag(struct thread *th, struct seg *s, uint32_t flag, int on, int off)
{
	bool set = s->flags & flag;

	if (!ok(th, !madvise(at(s, 0), s->n * ORACLE_PAGE, set ? off : on), s->addr, s->n, !set))
		return;
	s->flags ^= flag;
	s->check = seg_check(s);
}

/* ---- Processes -------------------------------------------------------------- */

void oracle_reap(struct thread *th, bool all)
{
	while (th->nchildren && (all || th->nchildren == MAX_CHILDREN)) {
		pid_t pid = th->children[0], got;
		int st = 0;

		do {
			got = waitpid(pid, &st, 0);
		} while (got < 0 && errno == EINTR);
		memmove(th->children, th->children + 1, --th->nchildren * sizeof(th->children[0]));
		if (ok(th, got == pid, pid, 0, 0) && st) {
			atomic_fetch_add(&th->o->conf.shared->children_bad, 1);
			oracle_record(th, (struct oracle_record){ .what = REC_CHILD, .addr = pid, .err = st });
		}
	}
}

/* What madvise() said about forks has come true. */
static void inherit(struct thread *th)
{
	size_t i = 0, k;

	while (i < th->nsegs) {
		struct seg *s = &th->segs[i];

		if (s->flags & ORACLE_DONTFORK) {
			seg_del(th, s); /* its place is free now; what it held leaks */
			continue;
		}
		if (s->flags & ORACLE_WIPEONFORK) {
			for (k = 0; k < s->n; k++)
				pg_set(&s->st[k], PG_ZERO, 0);
			set_flags(s, SEG_NAKED, 0);
		}
		i++;
	}
}

static void child_main(struct thread *th, bool all)
{
	struct oracle *o = th->o;
	unsigned n, i;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	th->depth++;
	th->nchildren = 0;
	if (th->has_pipe) {
		close(th->pipe[0]);
		close(th->pipe[1]);
		th->has_pipe = false;
	}
	th->rng = oracle_mix(th->rng ^ th->depth);
	th->serial ^= (uint64_t)(getpid() & 0xfff) << 28;
	if (all) {
		for (i = 0; i < o->conf.threads; i++) {
			inherit(&o->threads[i]);
			oracle_verify_some(th, &o->threads[i], oracle_rnd(th, 3) ? 16 : 0);
		}
	} else {
		inherit(th);
		if (oracle_rnd(th, 2))
			oracle_verify_some(th, th, 16);
	}
	n = oracle_rnd(th, 60);
	for (i = 0; i < n; i++)
		oracle_step(th);
	oracle_reap(th, true);
	th->op = OP_VERIFY;
	oracle_verify_some(th, th, oracle_rnd(th, 4) ? 32 : 0);
	_exit(0);
}

static void do_fork(struct thread *th, bool all)
{
	pid_t pid;

	oracle_reap(th, false);
	pid = fork();
	if (!pid)
		child_main(th, all);
	if (ok(th, pid > 0, 0, 0, 0)) {
		atomic_fetch_add(&th->o->conf.shared->children, 1);
		th->children[th->nchildren++] = pid;
	}
}

static void do_vfork(struct thread *th)
{
	int st = 0;
	pid_t pid = vfork();

	if (!pid)
		_exit(5);
	if (ok(th, pid > 0, 0, 0, 0))
		ok(th, waitpid(pid, &st, 0) == pid && WIFEXITED(st) && WEXITSTATUS(st) == 5, pid, 0, st);
}

static void do_exec(struct thread *th)
{
	pid_t pid;

	oracle_reap(th, false);
	pid = fork();
	if (!pid) {
		execl("/bin/true", "true", (char *)NULL);
		_exit(6);
	}
	if (ok(th, pid > 0, 0, 0, 0))
		th->children[th->nchildren++] = pid;
}

/* ---- The choice ---------------------------------------------------------------- */

static const uint16_t weights[OP_COUNT] = {
	[OP_READ] = 250, [OP_WRITE] = 90, [OP_PATCH] = 80, [OP_SYSREAD] = 30, [OP_SYSWRITE] = 20, [OP_DONTNEED] = 60,
	[OP_FREE] = 30, [OP_MUNMAP] = 40, [OP_MMAP] = 50, [OP_MMAP_OVER] = 15, [OP_MOVE] = 60, [OP_MOVE_OVER] = 15,
	[OP_MOVE_ANY] = 70, [OP_GROW] = 50, [OP_SHRINK] = 25, [OP_DONTUNMAP] = 30, [OP_MPROTECT] = 40, [OP_FORK] = 10,
	[OP_FORK_ALL] = 2, [OP_VFORK] = 3, [OP_EXEC] = 1, [OP_DONTFORK] = 10, [OP_WIPEONFORK] = 6, [OP_GUARD] = 20,
};

static unsigned choose(struct thread *th)
{
	unsigned total = 0, i, x;

	for (i = 0; i < OP_COUNT; i++)
		total += weights[i];
	x = oracle_rnd(th, total);
	for (i = 0; x >= weights[i]; i++)
		x -= weights[i];
	if ((i == OP_FORK || i == OP_FORK_ALL || i == OP_EXEC) && th->depth >= MAX_DEPTH)
		i = OP_READ;
	if (i == OP_FORK_ALL && th->depth)
		i = OP_FORK;
	if ((i == OP_WIPEONFORK && !th->o->conf.wipe) || (i == OP_DONTFORK && !th->o->conf.dontfork) ||
	    (i == OP_GUARD && !th->o->conf.guard))
		i = OP_READ;
	return i;
}

static void run_op(struct thread *th, unsigned op, struct seg *s)
{
	switch (op) {
	case OP_READ:
		do_read(th, s);
		break;
	case OP_WRITE:
		do_write(th, s, oracle_rnd(th, s->n));
		break;
	case OP_PATCH:
		do_patch(th, s);
		break;
	case OP_SYSREAD:
		do_sysread(th, s);
		break;
	case OP_SYSWRITE:
		do_syswrite(th, s);
		break;
	case OP_DONTNEED:
		do_madvise(th, s, MADV_DONTNEED);
		break;
	case OP_FREE:
		do_madvise(th, s, MADV_FREE);
		break;
	case OP_MUNMAP:
		do_munmap(th, s);
		break;
	case OP_MMAP_OVER:
		do_mmap_over(th, s);
		break;
	case OP_MOVE:
		do_move(th, s);
		break;
	case OP_MOVE_OVER:
		do_move_over(th, s);
		break;
	case OP_MOVE_ANY:
		do_move_any(th, s);
		break;
	case OP_GROW:
		do_grow(th, s);
		break;
	case OP_SHRINK:
		do_shrink(th, s);
		break;
	case OP_DONTUNMAP:
		do_dontunmap(th, s);
		break;
	case OP_MPROTECT:
		do_mprotect(th, s);
		break;
	case OP_GUARD:
		do_guard(th, s);
		break;
	case OP_DONTFORK:
		do_flag(th, s, ORACLE_DONTFORK, MADV_DONTFORK, MADV_DOFORK);
		break;
	case OP_WIPEONFORK:
		do_flag(th, s, ORACLE_WIPEONFORK, MADV_WIPEONFORK, MADV_KEEPONFORK);
		break;
	}
}

void oracle_step(struct thread *th)
{
	pthread_rwlock_t *world = &th->o->world;
	struct seg *s;

	th->op = choose(th);
	th->done++;
	atomic_fetch_add(&th->o->conf.shared->ops[th->op], 1);
	/* A child of a fork is alone with a copy of everything. */
	if (!th->depth) {
		if (th->op == OP_FORK_ALL)
			pthread_rwlock_wrlock(world);
		else
			pthread_rwlock_rdlock(world);
	}
	s = oracle_pick(th);
	if (!s || th->op == OP_MMAP)
		do_mmap(th);
	else if (th->op == OP_FORK || th->op == OP_FORK_ALL)
		do_fork(th, th->op == OP_FORK_ALL);
	else if (th->op == OP_VFORK)
		do_vfork(th);
	else if (th->op == OP_EXEC)
		do_exec(th);
	else
		run_op(th, th->op, s);
	if (!th->depth)
		pthread_rwlock_unlock(world);
}
