/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A program for test/criu/lost: fills memory with a pattern, makes the file
 * DIR/ready, waits for DIR/go to say more than 0, touches as many of its pages as that file says,
 * spread over all of them, and writes to DIR/result how many were right, wrong,
 * or raised SIGBUS. With --fork a child does the touching and its parent waits.
 *
 * While it waits it goes through all of that with no page and makes DIR/tick each
 * time: so when a tick has come after a restore, all other memory that it needs
 * (stack, C library) is there, and only the pattern's pages can be missing.
 *
 *   lost_prog DIR PAGES [--fork]
 */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/lib/result.h"

#define PAGE 4096

static sigjmp_buf here;

static void on_sigbus(int sig)
{
	siglongjmp(here, sig);
}

static uint64_t pattern(size_t i)
{
	return (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
}

/* @touch pages of the @n at @p; the outcome is the file @name in @dir. */
static void touch_pages(volatile uint64_t *p, size_t n, size_t touch, const char *dir, const char *name)
{
	volatile size_t i, right = 0, wrong = 0, bus = 0; /* across siglongjmp() */

	if (!touch && !sigsetjmp(here, 1))
		raise(SIGBUS);
	for (i = 0; i < touch; i++) {
		if (sigsetjmp(here, 1))
			bus++;
		else if (p[i * (n / touch) * PAGE / 8] == pattern(i * (n / touch)))
			right++;
		else
			wrong++;
	}
	result_put(dir, name, "right %zu wrong %zu bus %zu\n", right, wrong, bus);
}

/* How many pages the file says; 0: not yet. */
static size_t told(const char *path)
{
	FILE *f = fopen(path, "r");
	size_t touch = 0;

	if (f && fscanf(f, "%zu", &touch) != 1)
		touch = 0;
	if (f)
		fclose(f);
	return touch;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_sigbus };
	size_t n, i, touch;
	volatile uint64_t *p;

	if (argc < 3)
		return 2;
	n = strtoul(argv[2], NULL, 10);
	p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	for (i = 0; i < n; i++)
		p[i * PAGE / 8] = pattern(i);
	sigaction(SIGBUS, &sa, NULL);
	result_put(argv[1], "ready", "%s", "");
	while (!(touch = told(result_path(argv[1], "go")))) {
		if (argc > 3) {
			if (!fork())
				_exit(0);
			wait(NULL);
		}
		touch_pages(p, n, 0, argv[1], "tick");
		usleep(20000);
	}
	if (argc > 3 && fork()) {
		wait(NULL);
		for (;;)
			usleep(20000);
	}
	touch_pages(p, n, touch, argv[1], "result");
	/* Nothing that was not called before: its first call would need pages of the loader. */
	for (;;)
		usleep(20000);
}
