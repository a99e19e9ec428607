/* SPDX-License-Identifier: GPL-2.0-only */
#include <pthread.h>
#include "extra.h"

const char *test_doc = "Many threads touch the same pages while memory is restored";
const char *test_author = "lazypages maintainers";

#define PAGES	32768ul
#define THREADS 16

static char *mem;
static pthread_barrier_t barrier;
static int bad, end;

/* Every thread has one word of each page to itself; some of the rest are read by all. */
static void *walk(void *arg)
{
	unsigned long me = (unsigned long)arg, i, k;
	uint64_t round = 0;

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (__atomic_load_n(&end, __ATOMIC_RELAXED))
			return NULL;
		for (i = 0; i < PAGES; i++) {
			uint64_t *p = (uint64_t *)(mem + i * PSIZE);

			for (k = THREADS; k < WORDS; k += 31)
				if (p[k] != word_of(1, i, k))
					break;
			if (k < WORDS || p[me] != (round ? round * THREADS + me : word_of(1, i, me))) {
				pr_err("thread %lu, round %lu: page %lu is wrong\n", me, (unsigned long)round, i);
				__atomic_store_n(&bad, 1, __ATOMIC_RELAXED);
			}
			p[me] = (round + 1) * THREADS + me;
		}
		round++;
		pthread_barrier_wait(&barrier);
	}
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	unsigned long i;

	test_init(argc, argv);
	mem = map_private(NULL, PAGES);
	for (i = 0; i < PAGES; i++)
		fill_page(mem, i, 1);
	pthread_barrier_init(&barrier, NULL, THREADS + 1);
	for (i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, walk, (void *)i)) {
			pr_err("cannot create a thread\n");
			return 1;
		}
	test_daemon();
	do {
		wait_restore();
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	} while (test_go() && !bad);
	__atomic_store_n(&end, 1, __ATOMIC_RELAXED);
	pthread_barrier_wait(&barrier);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	if (bad) {
		fail("wrong memory");
		return 1;
	}
	pass();
	return 0;
}
