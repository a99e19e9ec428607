/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A program for test/criu/huge_pages: threads whose stacks lie amid other memory,
 * as those of some languages do, and whose stack pointers are at the beginning of
 * a page, which CRIU took for a reason to make nothing lazy. Fills PAGES, makes
 * DIR/done; when there is DIR/go, compares them, and says how many are right and
 * wrong in DIR/result.
 *
 *   huge_prog DIR PAGES THREADS
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "test/lib/result.h"

#define PAGE  4096
#define STACK 32 /* pages */

static pthread_barrier_t ready;

static uint64_t pattern(size_t page) { return (page + 1) * UINT64_C(0x9E3779B97F4A7C15); }

static void *wait_here(void *arg)
{
	pthread_barrier_wait(&ready);
	/* pause() for ever. */
	__asm__ volatile("andq $-4096, %%rsp\n1:\tmovl %0, %%eax\n\tsyscall\n\tjmp 1b" : : "i"(SYS_pause) : "rax", "rcx", "r11", "memory");
	return arg;
}

int main(int argc, char **argv)
{
	size_t pages, threads, i, j, each, right = 0, wrong = 0;
	pthread_attr_t attr;
	pthread_t thread;
	char *p;

	if (argc != 4)
		return 2;
	pages = strtoul(argv[2], NULL, 10);
	threads = strtoul(argv[3], NULL, 10);
	p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || pthread_barrier_init(&ready, NULL, threads + 1))
		return 1;
	each = pages / (threads + 1);
	if (each <= STACK)
		return 2;
	for (i = 0; i < pages; i++)
		*(uint64_t *)(p + i * PAGE) = pattern(i);
	for (i = 1; i <= threads; i++) {
		pthread_attr_init(&attr);
		if (pthread_attr_setstack(&attr, p + i * each * PAGE, STACK * PAGE) ||
		    pthread_create(&thread, &attr, wait_here, NULL))
			return 1;
	}
	pthread_barrier_wait(&ready);
	result_put(argv[1], "done", "%zu %zu\n", pages, threads);
	while (access(result_path(argv[1], "go"), F_OK))
		usleep(20000);
	for (i = 0; i < pages; i++) {
		j = i / each;
		if (j >= 1 && j <= threads && i - j * each < STACK)
			continue;
		if (*(uint64_t *)(p + i * PAGE) == pattern(i))
			right++;
		else
			wrong++;
	}
	result_put(argv[1], "result", "%zu %zu\n", right, wrong);
	for (;;)
		pause();
}
