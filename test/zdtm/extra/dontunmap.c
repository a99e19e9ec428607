/* SPDX-License-Identifier: GPL-2.0-only */
#include "extra.h"

const char *test_doc = "mremap(MREMAP_DONTUNMAP) while memory is restored";
const char *test_author = "lazypages maintainers";

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define PAGES 49152ul

static int once(void)
{
	unsigned long i;
	char *old, *new;

	old = map_private(NULL, PAGES);
	for (i = 0; i < PAGES; i++)
		fill_page(old, i, 1);
	wait_restore();
	new = mremap(old, PAGES * PSIZE, PAGES * PSIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
	if (new == MAP_FAILED) {
		fail("mremap");
		return 1;
	}
	/* From both ends: the old place is empty, can be used again, and the data are at the new one. */
	for (i = 0; i < PAGES; i++) {
		unsigned long p = i % 2 ? PAGES - 1 - i / 2 : i / 2;

		if (!page_is_zero(old, p)) {
			fail("page %lu of the old place is not empty", p);
			return 1;
		}
		fill_page(old, p, 2);
		if (!page_is(new, p, 1)) {
			fail("page %lu of the new place is wrong", p);
			return 1;
		}
	}
	for (i = 0; i < PAGES; i++)
		if (!page_is(old, i, 2) || !page_is(new, i, 1)) {
			fail("page %lu has changed", i);
			return 1;
		}
	return munmap(old, PAGES * PSIZE) || munmap(new, PAGES * PSIZE);
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
