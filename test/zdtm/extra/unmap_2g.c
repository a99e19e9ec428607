/* SPDX-License-Identifier: GPL-2.0-only */
#include "extra.h"

const char *test_doc = "Unmap and discard more than 2 GiB at once while memory is restored";
const char *test_author = "lazypages maintainers";

/* 8 GiB, of which one page in a MiB is used. */
#define GIB   (1ul << 18)
#define PAGES (8 * GIB)
#define STEP  256ul

static int check(const char *mem, unsigned long from, unsigned long to, int zero, const char *what)
{
	unsigned long i;

	for (i = from; i < to; i += STEP)
		if (zero ? !page_is_zero(mem, i) : !page_is(mem, i, 1)) {
			fail("%s: page %#lx is wrong", what, i);
			return 1;
		}
	return 0;
}

static int once(void)
{
	const unsigned long a = GIB / 2, b = 3 * GIB, c = 4 * GIB, d = 7 * GIB;
	unsigned long i;
	char *mem;

	mem = map_private(NULL, PAGES);
	for (i = 0; i < PAGES; i += STEP)
		fill_page(mem, i, 1);
	wait_restore();
	if (madvise(mem + a * PSIZE, (b - a) * PSIZE, MADV_DONTNEED)) {
		pr_perror("MADV_DONTNEED");
		return 1;
	}
	if (munmap(mem + c * PSIZE, (d - c) * PSIZE)) {
		pr_perror("munmap");
		return 1;
	}
	/* New memory at the same place has nothing of the old. */
	map_private(mem + c * PSIZE, d - c);
	if (check(mem, a, b, 1, "discarded") || check(mem, c, d, 1, "mapped anew") || check(mem, 0, a, 0, "in front") ||
	    check(mem, b, c, 0, "between") || check(mem, d, PAGES, 0, "behind"))
		return 1;
	return munmap(mem, PAGES * PSIZE);
}

int main(int argc, char **argv)
{
	test_init(argc, argv);
	test_daemon();
	do {
		if (once())
			return 1;
	} while (test_go());
	pass();
	return 0;
}
