/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef EXTRA_H
#define EXTRA_H

#include <stdint.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "zdtmtst.h"

/* What zdtmtst.h calls PAGE_SIZE is a system call. */
#define PSIZE 4096ul
#define WORDS (PSIZE / sizeof(uint64_t))

static inline uint64_t ms_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ull + ts.tv_nsec / 1000000;
}

/*
 * Wait until this process has stood still for a while: it has been dumped and restored just now. What callers have in
 * memory takes longer to fill than it takes them to come here, which was 0.1 s. A busy machine looks the same now and
 * then, so they have to be able to go on.
 */
static inline void wait_restore(void)
{
	uint64_t last = ms_now(), now;

	while (test_go()) {
		usleep(1000);
		now = ms_now();
		if (now - last > 50)
			return;
		last = now;
	}
}

static inline uint64_t word_of(uint64_t seed, unsigned long page, unsigned long word)
{
	return (seed << 48 | page << 16 | word) * 0x9e3779b97f4a7c15ull;
}

static inline void fill_page(void *mem, unsigned long page, uint64_t seed)
{
	uint64_t *p = mem + page * PSIZE;
	unsigned long i;

	for (i = 0; i < WORDS; i++)
		p[i] = word_of(seed, page, i);
}

/* Whether it holds what fill_page() put there, or only zeros. */
static inline int page_is(const void *mem, unsigned long page, uint64_t seed)
{
	const uint64_t *p = mem + page * PSIZE;
	unsigned long i;

	for (i = 0; i < WORDS; i++)
		if (p[i] != word_of(seed, page, i))
			return 0;
	return 1;
}

static inline int page_is_zero(const void *mem, unsigned long page)
{
	const uint64_t *p = mem + page * PSIZE;
	unsigned long i;

	for (i = 0; i < WORDS; i++)
		if (p[i])
			return 0;
	return 1;
}

static inline void *map_private(void *at, unsigned long pages)
{
	void *p = mmap(at, pages * PSIZE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);

	if (p == MAP_FAILED) {
		pr_perror("mmap of %lu pages", pages);
		exit(1);
	}
	return p;
}

#endif
