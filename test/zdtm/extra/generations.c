/* SPDX-License-Identifier: GPL-2.0-only */
#include "extra.h"

const char *test_doc = "Memory that changes between pre-dumps: pages from parents, holes in them, and new ones";
const char *test_author = "lazypages maintainers";

#define PAGES 8192ul

static char *mem;
/* What each page was last filled with; 0 is nothing. */
static uint16_t seeds[PAGES];

static int verify(void)
{
	unsigned long i;

	for (i = 0; i < PAGES; i++)
		if (seeds[i] ? !page_is(mem, i, seeds[i]) : !page_is_zero(mem, i)) {
			fail("page %lu is not of generation %u", i, seeds[i]);
			return 1;
		}
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long i, at = 0;
	unsigned int round = 1;
	uint64_t last, now;

	test_init(argc, argv);
	mem = map_private(NULL, PAGES);
	for (i = 0; i < PAGES; i++) {
		seeds[i] = i % 5 ? 1 : 0;
		if (seeds[i])
			fill_page(mem, i, 1);
	}
	test_daemon();
	last = ms_now();
	while (test_go()) {
		/* About a tenth of the memory between two pre-dumps. */
		at = (at + 4099) % PAGES;
		if (++round % 4) {
			seeds[at] = round % 65535 + 1;
			fill_page(mem, at, seeds[at]);
		} else {
			seeds[at] = 0;
			madvise(mem + at * PSIZE, PSIZE, MADV_DONTNEED);
		}
		usleep(500);
		now = ms_now();
		/* After a restore, and after pre-dumps. */
		if (now - last > 50 && verify())
			return 1;
		last = ms_now();
	}
	if (verify())
		return 1;
	pass();
	return 0;
}
