/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The measured memory, shared by the benchmark's programs.
 *
 * One reservation, low to high: guard hole, big buffer, guard hole, second
 * buffer, guard hole. The second buffer lies above the big one so that a
 * manager that drains by ascending address reaches it last. In the layout
 * "many" the big buffer is cut into BENCH_MANY adjacent VMAs by alternating
 * protections, so one run of dumped pages spans many VMAs.
 *
 * Page contents and the random order are functions of the page's index: no
 * table has to be in memory, where it would be lazy itself.
 */
#ifndef LP_BENCH_BUFFER_H
#define LP_BENCH_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BENCH_PAGE	4096UL
#define BENCH_WORDS	(BENCH_PAGE / sizeof(uint64_t))
#define BENCH_SECOND	2048UL	/* pages of the second buffer */
#define BENCH_MANY	10000UL /* VMAs of the layout "many" */
#define BENCH_FAULT_NS	3000	/* a touch that took longer was a fault */

struct bench_buf {
	char *base;
	uint64_t npages;
	uint64_t nvmas;
	char *second; /* BENCH_SECOND pages, numbered from npages on */
};

/* What touching saw. @lat belongs to the caller and has room for each touch. */
struct bench_touch {
	uint32_t *lat; /* ns, faults only; sorted by bench_touch_sort() */
	uint64_t nfaults;
	uint64_t wrong;
};

static inline uint64_t bench_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* "512M", "4G", "65536"; 0 if it is not a size in whole pages. */
static inline uint64_t bench_size(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 10);

	if (*end == 'G')
		v <<= 30, end++;
	else if (*end == 'M')
		v <<= 20, end++;
	return *end || v % BENCH_PAGE ? 0 : v;
}

static inline uint64_t bench_seed(uint64_t page)
{
	uint64_t x = (page + 1) * 0x9e3779b97f4a7c15ULL;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
	return x ^ (x >> 31);
}

static inline uint64_t bench_word(uint64_t page, unsigned int word)
{
	return bench_seed(page) + word * 0xda942042e4dd58b5ULL;
}

static inline void bench_fill(char *base, uint64_t first, uint64_t npages)
{
	for (uint64_t i = 0; i < npages; i++) {
		uint64_t *p = (uint64_t *)(base + i * BENCH_PAGE);

		for (unsigned int w = 0; w < BENCH_WORDS; w++)
			p[w] = bench_word(first + i, w);
	}
}

/* Number of pages in which any word is wrong. */
static inline uint64_t bench_verify(const char *base, uint64_t first, uint64_t npages)
{
	uint64_t wrong = 0;

	for (uint64_t i = 0; i < npages; i++) {
		const uint64_t *p = (const uint64_t *)(base + i * BENCH_PAGE);
		uint64_t diff = 0;

		for (unsigned int w = 0; w < BENCH_WORDS; w++)
			diff |= p[w] ^ bench_word(first + i, w);
		wrong += diff != 0;
	}
	return wrong;
}

/* A fixed permutation of 0 .. @n - 1: rounds of xorshift and multiply, walking while out of range. */
static inline uint64_t bench_permute(uint64_t k, uint64_t n)
{
	unsigned int bits = n > 2 ? 64 - (unsigned int)__builtin_clzll(n - 1) : 1;
	unsigned int shift = (bits + 1) / 2;
	uint64_t mask = (1ULL << bits) - 1;

	do {
		for (int round = 0; round < 3; round++) {
			k ^= k >> shift;
			k = (k * 0x9e3779b97f4a7c15ULL + 0x7f4a7c15) & mask;
		}
		k ^= k >> shift;
	} while (k >= n);
	return k;
}

/* First page of VMA @i of the big buffer; @i may be nvmas. */
static inline uint64_t bench_vma_start(const struct bench_buf *b, uint64_t i)
{
	return b->npages * i / b->nvmas;
}

/* Reserve everything, read-write. Returns 0 or -1 with errno. */
static inline int bench_map(struct bench_buf *b, uint64_t size, bool many)
{
	uint64_t pages = size / BENCH_PAGE + BENCH_SECOND + 3;
	char *p;

	p = mmap(NULL, pages * BENCH_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -1;
	b->npages = size / BENCH_PAGE;
	b->nvmas = many ? BENCH_MANY : 1;
	b->base = p + BENCH_PAGE;
	b->second = b->base + size + BENCH_PAGE;
	return munmap(p, BENCH_PAGE) || munmap(b->base + size, BENCH_PAGE) ||
	       munmap(b->second + BENCH_SECOND * BENCH_PAGE, BENCH_PAGE) ? -1 : 0;
}

/* Cut the big buffer into its VMAs: after filling, since every second one becomes read-only. */
static inline int bench_cut(const struct bench_buf *b)
{
	for (uint64_t i = 1; i < b->nvmas; i += 2) {
		uint64_t from = bench_vma_start(b, i), to = bench_vma_start(b, i + 1);

		if (mprotect(b->base + from * BENCH_PAGE, (to - from) * BENCH_PAGE, PROT_READ))
			return -1;
	}
	return 0;
}

/* Room for the latencies of @n touches, present already. NULL on failure. */
static inline uint32_t *bench_lat_alloc(uint64_t n)
{
	void *p = mmap(NULL, n * sizeof(uint32_t), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/*
 * Touch @count of @npages pages at @base, in order or in the random order, one
 * word each, and compare it with the contents numbered from @first if @check.
 * One clock reading a page: a touch's end is the next one's begin.
 */
static inline void bench_touch(struct bench_touch *t, const char *base, uint64_t first, uint64_t npages,
			       uint64_t count, bool randomly, bool check)
{
	uint64_t before = bench_now();

	for (uint64_t k = 0; k < count; k++) {
		uint64_t i = randomly ? bench_permute(k, npages) : k;
		unsigned int w = i % BENCH_WORDS;
		uint64_t seen, after, ns;

		seen = ((const volatile uint64_t *)(base + i * BENCH_PAGE))[w];
		after = bench_now();
		if (check && seen != bench_word(first + i, w))
			t->wrong++;
		ns = after - before;
		if (ns > BENCH_FAULT_NS)
			t->lat[t->nfaults++] = ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
		before = after;
	}
}

static inline int bench_lat_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static inline void bench_touch_sort(struct bench_touch *t)
{
	qsort(t->lat, t->nfaults, sizeof(*t->lat), bench_lat_cmp);
}

/* Latency of rank @permille after bench_touch_sort(); 1000 is the maximum, 0 without faults. */
static inline uint32_t bench_touch_rank(const struct bench_touch *t, unsigned int permille)
{
	uint64_t i = t->nfaults * permille / 1000;

	if (!t->nfaults)
		return 0;
	return t->lat[i < t->nfaults ? i : t->nfaults - 1];
}

#endif
