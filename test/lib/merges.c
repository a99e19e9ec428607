/* SPDX-License-Identifier: GPL-2.0-only */
/* See merges.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "test/lib/merges.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define BASE  UINT64_C(0x200000000000)
#define PAGES UINT64_C(64)
#define BYTES (PAGES * IB_PAGE)

enum { EMPTY, FULL, SOURCE, HOLE, MAPPINGS };

void merges_plan(struct ib_vma *vmas, size_t *nvmas, struct ib_ent *ents, size_t *nents)
{
	uint64_t addr = BASE;
	unsigned k;

	*nvmas = *nents = 0;
	for (k = 0; k < MAPPINGS; k++, addr += 4 * BYTES) {
		uint64_t hole = k == HOLE ? PAGES / 2 : 0;

		vmas[(*nvmas)++] = (struct ib_vma)IB_ANON(addr, PAGES);
		if (k != EMPTY)
			ents[(*nents)++] = (struct ib_ent){ .vaddr = addr + hole * IB_PAGE, .nr = PAGES - hole,
							    .flags = IB_LAZY | IB_PRESENT };
	}
}

/* Until the daemon has filled the page of [addr, addr + BYTES) that it fills unasked; a slow guest takes its time. */
static void await_page(uint64_t addr)
{
	const struct timespec ts = { .tv_nsec = 5000000 };
	unsigned char in[PAGES];
	unsigned tries, k;

	for (tries = 0; tries < 2000; tries++) {
		if (mincore((void *)addr, BYTES, in))
			break;
		for (k = 0; k < PAGES; k++)
			if (in[k] & 1)
				return;
		nanosleep(&ts, NULL);
	}
	fprintf(stderr, "no page of 0x%" PRIx64 " came unasked\n", addr);
}

/* Splits the mapping at page @part, has the parts filled, and undoes it. */
static unsigned split(const char *what, uint64_t addr, unsigned part, int prot)
{
	volatile char *m = (char *)(addr + part * IB_PAGE);
	bool good;

	await_page(addr);
	good = !mprotect((void *)m, IB_PAGE, prot);
	if (prot != PROT_NONE)
		(void)m[0];
	(void)m[IB_PAGE];
	if (part)
		(void)m[-(ptrdiff_t)IB_PAGE];
	good = good && !mprotect((void *)m, IB_PAGE, PROT_READ | PROT_WRITE) &&
	       mremap((void *)addr, BYTES, BYTES + IB_PAGE, MREMAP_MAYMOVE) != MAP_FAILED;
	if (!good)
		fprintf(stderr, "%s does not merge again: %s\n", what, strerror(errno));
	return !good;
}

unsigned merges_run(const struct ib_vma *vmas)
{
	uint64_t from = vmas[SOURCE].start;
	unsigned bad = 0;

	bad += split("a mapping without pages", vmas[EMPTY].start, 5, PROT_READ);
	bad += split("a mapping with pages", vmas[FULL].start, 5, PROT_NONE);
	bad += split("a mapping with a hole", vmas[HOLE].start, 0, PROT_READ);
	if (mremap((void *)from, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL) == MAP_FAILED) {
		perror("MREMAP_DONTUNMAP");
		return bad + 1;
	}
	bad += split("the source of MREMAP_DONTUNMAP", from, 5, PROT_READ);
	return bad;
}
