/* SPDX-License-Identifier: GPL-2.0-only */
#include "extra.h"

const char *test_doc = "MADV_FREE and reclaim while memory is restored";
const char *test_author = "lazypages maintainers";

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define PAGES 49152ul

static int once(void)
{
	unsigned long i;
	char *mem;

	mem = map_private(NULL, PAGES);
	for (i = 0; i < PAGES; i++)
		fill_page(mem, i, 1);
	wait_restore();
	if (madvise(mem, PAGES / 2 * PSIZE, MADV_FREE)) {
		fail("MADV_FREE");
		return 1;
	}
	/* Pages that are written to are kept from then on. */
	for (i = 0; i < PAGES / 2; i += 3)
		fill_page(mem, i, 2);
	/* Memory pressure: reclaim takes freed pages, without swap only these. Kernels before 5.4 do not know it. */
	madvise(mem, PAGES * PSIZE, MADV_PAGEOUT);
	for (i = 0; i < PAGES; i++) {
		if (i >= PAGES / 2 ? page_is(mem, i, 1) : i % 3 == 0 ? page_is(mem, i, 2) :
		    page_is_zero(mem, i) || page_is(mem, i, 1))
			continue;
		fail("page %lu is wrong", i);
		return 1;
	}
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
