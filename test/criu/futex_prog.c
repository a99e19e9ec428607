/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A program for test/criu/small futex: a thread waits in the kernel for a futex
 * that inherits priorities, and nothing else touches its page. The kernel looks
 * at such a word where it must not sleep, and does not wait for userfaultfd after
 * that: after a lazy restore the call, begun anew, says EFAULT unless the page is
 * there. Makes DIR/done; when there is DIR/go, gives up the futex, and says in
 * DIR/result what the thread's call returned and whether it has the futex.
 *
 *   futex_prog DIR
 */
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test/lib/result.h"

#define PAGE 4096

static uint32_t *word; /* amid pages that nobody needs */
static atomic_int returned = -1;

static void *waiter(void *arg)
{
	/* No stack of ours, nor the thread's own memory, is near it. */
	long rc;
	register long timeout __asm__("r10") = 0;

	__asm__ volatile("syscall" : "=a"(rc)
			 : "0"((long)SYS_futex), "D"(word), "S"((long)(FUTEX_LOCK_PI | FUTEX_PRIVATE_FLAG)), "d"(0L), "r"(timeout)
			 : "rcx", "r11", "memory");
	atomic_store(&returned, (int)-rc);
	return arg;
}

/* The thread is in its call: the kernel has marked the word. */
static void wait_marked(void)
{
	while (!(*(volatile uint32_t *)word & FUTEX_WAITERS))
		usleep(1000);
}

int main(int argc, char **argv)
{
	pthread_t t;
	char *p;
	int i;

	if (argc != 2)
		return 2;
	p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	for (i = 0; i < 64; i++)
		p[i * PAGE + 8] = 1;
	word = (uint32_t *)(p + 32 * PAGE);
	*word = (uint32_t)syscall(SYS_gettid);
	if (pthread_create(&t, NULL, waiter, NULL))
		return 1;
	wait_marked();
	result_put(argv[1], "done", "%d %d\n", 0, 0);
	while (access(result_path(argv[1], "go"), F_OK))
		usleep(10000);
	i = atomic_load(&returned); /* nobody has given it the futex */
	if (i < 0) {
		syscall(SYS_futex, word, FUTEX_UNLOCK_PI | FUTEX_PRIVATE_FLAG);
		pthread_join(t, NULL);
		i = atomic_load(&returned);
	}
	result_put(argv[1], "result", "%d %d\n", i, (*word & FUTEX_TID_MASK) != 0 && (*word & FUTEX_TID_MASK) != (uint32_t)syscall(SYS_gettid));
	for (;;)
		pause();
}
