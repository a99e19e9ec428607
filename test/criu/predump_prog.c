/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A program for test/criu/predump: private and shared memory that changes between
 * pre-dumps. Fills both, makes DIR/done (round 0). When DIR/round says N more than
 * before, changes each tenth page, those whose number ends in N, and DIR/done says
 * N. When it says 1000, compares all pages with what they must have and writes to
 * DIR/result how many are right and wrong, of both kinds.
 *
 *   predump_prog DIR PAGES
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test/lib/result.h"

#define PAGE 4096
#define END  1000

static uint64_t pattern(size_t i, unsigned round, unsigned kind)
{
	return (i + 1) * UINT64_C(0x9E3779B97F4A7C15) + round * 16 + kind;
}

static unsigned told(const char *dir)
{
	FILE *f = fopen(result_path(dir, "round"), "r");
	unsigned round = 0;

	if (f && fscanf(f, "%u", &round) != 1)
		round = 0;
	if (f)
		fclose(f);
	return round;
}

int main(int argc, char **argv)
{
	size_t n, i, right = 0, wrong = 0;
	unsigned done = 0, round, kind;
	volatile uint64_t *p[2];

	if (argc < 3)
		return 2;
	n = strtoul(argv[2], NULL, 10);
	for (kind = 0; kind < 2; kind++) {
		p[kind] = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, (kind ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS, -1, 0);
		if (p[kind] == MAP_FAILED)
			return 1;
		for (i = 0; i < n; i++)
			p[kind][i * PAGE / 8] = pattern(i, 0, kind);
	}
	result_put(argv[1], "done", "%u %zu\n", 0, n);
	while ((round = told(argv[1])) != END) {
		usleep(20000);
		if (round <= done || round > 9)
			continue;
		for (kind = 0; kind < 2; kind++)
			for (i = round; i < n; i += 10)
				p[kind][i * PAGE / 8] = pattern(i, round, kind);
		done = round;
		result_put(argv[1], "done", "%u %zu\n", done, n);
	}
	for (kind = 0; kind < 2; kind++)
		for (i = 0; i < n; i++)
			if (p[kind][i * PAGE / 8] == pattern(i, i % 10 <= done ? i % 10 : 0, kind)) {
				right++;
			} else {
				fprintf(stderr, "%s page %zu holds %#llx\n", kind ? "shared" : "private", i,
					(unsigned long long)(p[kind][i * PAGE / 8] - pattern(i, 0, kind)));
				wrong++;
			}
	result_put(argv[1], "result", "%zu %zu\n", right, wrong);
	for (;;)
		usleep(20000);
}
