/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A program for test/criu/small guard: guard pages (MADV_GUARD_INSTALL) take away
 * what was there, and userfaultfd sends no message of it. When they are removed
 * again the program must find zeros. Makes DIR/done; when there is DIR/go, puts
 * guard pages over a part of its memory, takes away half of them, and says in
 * DIR/result how many pages are wrong, or -1 if the kernel has no guard pages. A
 * child, which has the same memory, does so as well, and then its parent's part.
 * Another mapping has guard pages from the beginning: they must be there still. In
 * a third one some memory is locked, and gets none: the call ends there, refused.
 * All the time a thread makes guard pages and takes them away: nobody waits for ever.
 * In a fourth mapping pages become guard pages while another thread asks for them.
 *
 *   guard_prog DIR
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/lib/result.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE  103
#endif
#define PAGE  4096
#define PAGES 256

static uint64_t pattern(unsigned i) { return (i + 1) * UINT64_C(0x9E3779B97F4A7C15); }

/* Guards over pages [from, from + 64), gone again over the second half. */
static int change(char *p, unsigned from)
{
	return madvise(p + from * PAGE, 64 * PAGE, MADV_GUARD_INSTALL) ||
	       madvise(p + (from + 32) * PAGE, 32 * PAGE, MADV_GUARD_REMOVE);
}

/* @zero: from where 32 pages are zeros, after 32 that are guarded; 0: nowhere. */
static int wrong(const char *p, const unsigned zero[2])
{
	int n = 0;
	unsigned i, k;

	for (i = 0; i < PAGES; i++) {
		uint64_t want = pattern(i);
		int guarded = 0;

		for (k = 0; k < 2; k++) {
			guarded |= zero[k] && i >= zero[k] - 32 && i < zero[k];
			if (zero[k] && i >= zero[k] && i < zero[k] + 32)
				want = 0;
		}
		n += !guarded && *(const volatile uint64_t *)(p + i * PAGE) != want;
	}
	return n;
}

static int is_guarded(const char *p)
{
	int fd[2], yes;

	if (pipe(fd))
		exit(1);
	yes = write(fd[1], p, 1) < 0 && errno == EFAULT;
	close(fd[0]);
	close(fd[1]);
	return yes;
}

/* Of page @i of 16 in the other mapping. */
static int was_guard(unsigned i) { return i < 2 || i == 8 || i == 15; }

static int wrong_before(const char *p)
{
	int n = 0;
	unsigned i;

	for (i = 0; i < 16; i++) {
		int guarded = is_guarded(p + i * PAGE);

		n += guarded != was_guard(i) || (!guarded && *(const volatile uint64_t *)(p + i * PAGE) != pattern(i));
	}
	return n;
}

/* Guard pages for [4, 12), of which [8, 16) is locked. Says how many of its 24 pages are wrong. */
static int wrong_locked(char *p)
{
	int n = 0, refused;
	unsigned i;

	if (mlock2(p + 8 * PAGE, 8 * PAGE, MLOCK_ONFAULT))
		return 100;
	refused = madvise(p + 4 * PAGE, 8 * PAGE, MADV_GUARD_INSTALL) && errno == EINVAL;
	for (i = 0; i < 24; i++) {
		int guarded = is_guarded(p + i * PAGE);

		n += guarded != (i >= 4 && i < 8) ||
		     (!guarded && *(const volatile uint64_t *)(p + i * PAGE) != pattern(i));
	}
	return n + !refused;
}

static void *again_and_again(void *p)
{
	for (;;)
		if (madvise(p, 4 * PAGE, MADV_GUARD_INSTALL) || madvise(p, 4 * PAGE, MADV_GUARD_REMOVE))
			return NULL;
}

/* So far apart that a fault on one brings none of the others. */
#define RACES 100
#define APART (64 * PAGE)

struct race {
	char *at;
	atomic_uint begun, ended;
};

/* In a system call, which a guard page makes fail; the task itself would die of it. */
static void *ask(void *arg)
{
	struct race *x = arg;
	int fd[2];
	char c;

	if (pipe(fd))
		exit(1);
	while (x->begun < RACES) {
		if (write(fd[1], x->at + x->begun++ * APART, 1) == 1 && read(fd[0], &c, 1) != 1)
			exit(1);
		for (x->ended++; x->ended % 2; )
			sched_yield();
	}
	return NULL;
}

static int wrong_raced(char *p)
{
	struct race x = { .at = p };
	pthread_t asks;
	unsigned i;
	int n = 0;

	if (pthread_create(&asks, NULL, ask, &x))
		return RACES;
	for (i = 0; i < RACES; i++) {
		while (x.begun == i)
			sched_yield();
		usleep(i % 8 * 100);
		if (madvise(p + i * APART, PAGE, MADV_GUARD_INSTALL))
			n++;
		while (x.ended % 2 == 0)
			sched_yield();
		/* Nothing is on its way any more, as far as this program can know. */
		usleep(i % 2 * 10000);
		if (!is_guarded(p + i * APART) || madvise(p + i * APART, PAGE, MADV_GUARD_REMOVE) ||
		    *(const volatile uint64_t *)(p + i * APART))
			n++;
		x.ended++;
	}
	pthread_join(asks, NULL);
	return n;
}

int main(int argc, char **argv)
{
	unsigned i, zero[2] = { 64, 0 };
	long n;
	int status;
	pid_t child;
	char *p, *q, *r, *s;
	pthread_t busy;

	if (argc != 2)
		return 2;
	p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	for (i = 0; i < PAGES; i++)
		*(uint64_t *)(p + i * PAGE) = pattern(i);
	q = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (q == MAP_FAILED)
		return 1;
	for (i = 0; i < 16; i++) {
		*(uint64_t *)(q + i * PAGE) = pattern(i);
		if (was_guard(i))
			madvise(q + i * PAGE, PAGE, MADV_GUARD_INSTALL);
	}
	r = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (r == MAP_FAILED)
		return 1;
	for (i = 0; i < 64; i++)
		*(uint64_t *)(r + i * PAGE) = pattern(i);
	s = mmap(NULL, RACES * APART, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (s == MAP_FAILED)
		return 1;
	for (i = 0; i < RACES * APART / PAGE; i++)
		*(uint64_t *)(s + (size_t)i * PAGE) = pattern(i);
	result_put(argv[1], "done", "%d\n", 0);
	while (access(result_path(argv[1], "go"), F_OK))
		usleep(10000);
	if (pthread_create(&busy, NULL, again_and_again, r + 32 * PAGE))
		return 1;
	if (change(p, 32)) {
		result_put(argv[1], "result", "%d\n", -1);
		for (;;)
			pause();
	}
	child = fork();
	if (!child) {
		zero[1] = 192;
		if (change(p, 160))
			_exit(200);
		n = wrong(p, zero) + wrong_before(q);
		_exit(n < 100 ? n : 100);
	}
	n = wrong(p, zero) + wrong_before(q) * 1000000 + wrong_locked(r) * 10000000 +
	    wrong_raced(s) * 1000000000L;
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
		n += 1000;
	else
		n += WEXITSTATUS(status) * 1000;
	result_put(argv[1], "result", "%ld\n", n);
	for (;;)
		pause();
}
