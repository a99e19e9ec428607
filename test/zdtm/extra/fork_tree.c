/* SPDX-License-Identifier: GPL-2.0-only */
#include <sys/wait.h>
#include "extra.h"

const char *test_doc = "Trees of forks while memory is restored";
const char *test_author = "lazypages maintainers";

#define PAGES  49152ul
#define DEPTH  3
#define FANOUT 3
/* 3 + 9 + 27 children, each with pages of its own. */
#define SLICE  (PAGES / 40)

static char *mem;

static int check(unsigned long from, unsigned long n, uint64_t seed, const char *what)
{
	unsigned long i;

	for (i = from; i < from + n; i++)
		if (!page_is(mem, i, seed)) {
			pr_err("%s: page %lu is wrong\n", what, i);
			return 1;
		}
	return 0;
}

/* Node `me` of the tree: its children start at FANOUT * me + 1. */
static int tree(unsigned int me, unsigned int depth)
{
	unsigned long from = me * SLICE, i;
	int k, status, bad = 0;
	pid_t pids[FANOUT];

	for (k = 0; k < FANOUT && depth < DEPTH; k++) {
		pids[k] = fork();
		if (pids[k] < 0) {
			pr_perror("fork");
			return 1;
		}
		if (!pids[k])
			_exit(tree(FANOUT * me + 1 + k, depth + 1));
	}
	bad |= check(from, SLICE, 1, "before writing");
	for (i = from; i < from + SLICE; i++)
		fill_page(mem, i, 2 + me);
	bad |= check(from, SLICE, 2 + me, "after writing");
	/* Not what another node wrote. */
	bad |= check((from + SLICE) % (40 * SLICE), SLICE, 1, "of another node");
	for (k = 0; k < FANOUT && depth < DEPTH; k++)
		if (waitpid(pids[k], &status, 0) != pids[k] || status) {
			pr_err("a child of node %u: status %x\n", me, status);
			bad = 1;
		}
	return bad;
}

int main(int argc, char **argv)
{
	unsigned long i;
	pid_t pid;
	int status;

	test_init(argc, argv);
	mem = map_private(NULL, PAGES);
	for (i = 0; i < PAGES; i++)
		fill_page(mem, i, 1);
	test_daemon();
	do {
		wait_restore();
		pid = fork();
		if (pid < 0) {
			pr_perror("fork");
			return 1;
		}
		if (!pid)
			_exit(tree(0, 0));
		if (waitpid(pid, &status, 0) != pid || status || check(0, PAGES, 1, "at the end")) {
			fail("the tree ended with %x", status);
			return 1;
		}
	} while (test_go());
	pass();
	return 0;
}
