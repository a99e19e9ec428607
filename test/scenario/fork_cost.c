/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What forks cost the engine: time and memory of a fork of a space in a million
 * ranges, and memory of a thousand children of a space of 1 GiB that fill a few
 * pages each. Prints lines.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/engine.h"
#include "test/lib/model.h"

#define RANGES 1000000
#define FORKS 100
#define CHILDREN 1000
#define TOUCHED 5
#define GIB (UINT64_C(1) << 30)

static void must(int rc)
{
	if (rc)
		abort();
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static size_t in_use(void)
{
	struct mallinfo2 m = mallinfo2();

	return m.uordblks + m.hblkhd;
}

/* A registered area of @pages; all but the last of each @step have bytes in the images. */
static struct lp_space *space(struct lp_engine *e, uint64_t pages, unsigned step)
{
	struct lp_space *s;
	uint64_t i;

	must(lp_space_new(e, NULL, &s));
	must(lp_space_add_extent(s, MD_BASE, MD_BASE + pages * MD_PAGE));
	for (i = 0; i + step <= pages; i += step)
		must(lp_space_add_missing(s, MD_BASE + i * MD_PAGE, MD_BASE + (i + step - 1) * MD_PAGE, i * MD_PAGE, 1));
	return s;
}

/* As a child that runs: faults on single pages, each filled at once. */
static void touch(struct lp_space *s, uint64_t pages, uint64_t *rng)
{
	enum lp_verdict v;
	struct lp_flight *f;
	unsigned i;

	for (i = 0; i < TOUCHED; i++) {
		uint64_t addr = MD_BASE + md_random(rng) % pages * MD_PAGE;

		must(lp_space_fault(s, addr, MD_PAGE, &v, &f));
		if (v == LP_FILL) {
			lp_flight_advance(f, MD_PAGE);
			must(lp_flight_finish(f));
		} else {
			lp_space_answered(s, addr);
		}
	}
}

static void forks(const char *what, uint64_t pages, unsigned step, unsigned n, bool run)
{
	const struct lp_engine_conf conf = { .page = MD_PAGE, .seed = 1 };
	struct lp_engine *e = lp_engine_new(&conf);
	struct lp_space *s, **child = calloc(n, sizeof(*child));
	size_t nodes, bytes, before = in_use();
	uint64_t rng = md_seed(1);
	double t, fork_s = 0, touch_s = 0;
	unsigned i;

	if (!e || !child)
		abort();
	s = space(e, pages, step);
	nodes = lp_engine_nodes(e);
	bytes = in_use();
	printf("%s: %.1f MiB, %zu nodes, %zu bytes\n", what, pages * 4.0 / 1024, nodes, bytes - before);
	for (i = 0; i < n; i++) {
		t = seconds();
		must(lp_space_fork(s, NULL, &child[i]));
		must(lp_space_settled(s));
		fork_s += seconds() - t;
		t = seconds();
		if (run)
			touch(child[i], pages, &rng);
		touch_s += seconds() - t;
	}
	printf("%s: a fork takes %.2f us, %.1f nodes, %.0f bytes (mean of %u)\n", what, fork_s / n * 1e6,
	       (double)(lp_engine_nodes(e) - nodes) / n, (double)(in_use() - bytes) / n, n);
	if (run)
		printf("%s: each child has filled %u pages, %.2f us a page; together %.1f MiB\n", what, TOUCHED,
		       touch_s / n / TOUCHED * 1e6, (in_use() - bytes) / 1048576.0);
	t = seconds();
	for (i = 0; i < n; i++)
		lp_space_free(child[i]);
	printf("%s: a child ends in %.2f us\n", what, (seconds() - t) / n * 1e6);
	lp_space_free(s);
	if (lp_engine_nodes(e))
		abort();
	lp_engine_free(e);
	free(child);
}

int main(void)
{
	forks("1,000,000 ranges", RANGES * UINT64_C(2), 2, FORKS, false);
	forks("1 GiB in one range", GIB / MD_PAGE, GIB / MD_PAGE, CHILDREN, true);
	forks("1 GiB in 16,384 ranges", GIB / MD_PAGE, 16, CHILDREN, true);
	return 0;
}
