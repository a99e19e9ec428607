/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The reader of checkpoints on good ones: forms old and new, parents, dead
 * tasks, sizes, and lookups against a model that knows every page by itself.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "images/images.h"
#include "test/lib/imgbuild.h"
#include "test/lib/imgfixture.h"

static void check_page(const struct lp_images *im, const struct lp_task *t, uint64_t addr, uint32_t gen)
{
	const struct lp_extent *x = lp_task_lookup(t, addr, NULL);
	uint64_t got[512], want[512];

	assert_non_null(x);
	assert_int_equal(x->kind, LP_EXT_DATA);
	assert_int_equal(pread(lp_images_file(im, x->file)->fd, got, sizeof(got), (off_t)(x->off + (addr - x->start))),
			 sizeof(got));
	ib_fill_page(want, (uint32_t)t->pid, addr, gen);
	assert_memory_equal(got, want, sizeof(got));
}

/* One task, two adjacent VMAs and one apart, an entry across the first two. */
static void test_simple(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 4), IB_ANON(PG(4), 4), IB_ANON(PG(16), 4) };
	const struct ib_ent ents[] = {
		{ .vaddr = PG(1), .nr = 6, .flags = IB_PRESENT | IB_LAZY },
		{ .vaddr = PG(7), .nr = 1, .flags = IB_PRESENT },
		{ .vaddr = PG(17), .nr = 2, .flags = IB_PRESENT | IB_LAZY },
	};
	const struct ib_task task = { .pid = 17, .pages_id = 3, .vmas = vmas, .nvmas = N(vmas), .ents = ents,
				      .nents = N(ents) };
	const struct ib_image ib = { .tasks = &task, .ntasks = 1, .gen = 5 };
	const struct lp_extent *next = (void *)1;
	const struct lp_task *t;
	struct lp_images *im;
	int i;

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_int_equal(lp_images_ntasks(im), 1);
	assert_int_equal(lp_images_depth(im), 0);
	assert_int_equal(lp_images_nfiles(im), 1);
	assert_string_equal(lp_images_file(im, 0)->name, "pages-3.img");
	assert_int_equal(lp_images_file(im, 0)->size, 9 * IB_PAGE);
	t = lp_images_find(im, 17);
	assert_ptr_equal(t, lp_images_task(im, 0));
	assert_null(lp_images_find(im, 16));
	assert_null(lp_images_find(im, 18));
	assert_true(t->has_mm);
	assert_int_equal(t->ppid, 0);
	assert_int_equal(t->pages_id, 3);
	assert_int_equal(t->nvmas, 3);
	assert_true(t->vmas[1].lazy);
	assert_int_equal(t->nextents, 3);
	assert_int_equal(t->lazy_bytes, 8 * IB_PAGE);
	assert_int_equal(t->eager_bytes, IB_PAGE);
	for (i = 1; i < 8; i++)
		check_page(im, t, PG(i), 5);
	check_page(im, t, PG(17), 5);
	check_page(im, t, PG(18), 5);
	assert_null(lp_task_lookup(t, PG(0), &next));
	assert_ptr_equal(next, &t->extents[0]);
	assert_null(lp_task_lookup(t, PG(8), &next));
	assert_ptr_equal(next, &t->extents[2]);
	assert_null(lp_task_lookup(t, PG(19), &next));
	assert_null(next);
	assert_null(lp_task_lookup(t, UINT64_MAX, NULL));
	lp_images_close(im);
}

/* Entries of each age next to each other merge where the file agrees. */
static void test_forms(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 64) };
	const struct ib_ent low[] = { { .vaddr = PG(0), .nr = 4, .form = IB_COMPAT } };
	const struct ib_ent ents[] = {
		{ .vaddr = PG(0), .nr = 2, .form = IB_COMPAT, .flags = IB_PARENT },
		{ .vaddr = PG(2), .nr = 3, .form = IB_COMPAT },
		{ .vaddr = PG(5), .nr = 2, .form = IB_FLAGS, .flags = IB_PRESENT },
		{ .vaddr = PG(7), .nr = 2, .form = IB_NEW, .flags = IB_PRESENT },
		{ .vaddr = PG(9), .nr = 2, .form = IB_NEW, .flags = IB_LAZY },
		{ .vaddr = PG(11), .nr = 2, .form = IB_FLAGS, .flags = IB_LAZY },
		{ .vaddr = PG(13), .nr = 1, .form = IB_NEW, .flags = IB_LAZY | IB_PRESENT },
	};
	struct ib_task task = { .pid = 9, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = low, .nents = N(low) };
	struct ib_image ib = { .tasks = &task, .ntasks = 1, .gen = 1, .version = 1, .predump = true };
	const struct lp_task *t;
	struct lp_images *im;
	int i;

	assert_int_equal(ib_write(f->path[1], &ib), 0);
	task.ents = ents;
	task.nents = N(ents);
	ib.gen = 0;
	ib.predump = false;
	ib.parent = "../1";
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	t = lp_images_find(im, 9);
	assert_int_equal(lp_images_depth(im), 1);
	assert_int_equal(t->nextents, 4);
	assert_int_equal(t->extents[1].end, PG(9));
	assert_int_equal(t->extents[2].kind, LP_EXT_SOURCE);
	assert_true(t->extents[2].lazy);
	assert_int_equal(t->extents[2].end, PG(13));
	assert_int_equal(t->extents[3].off, 7 * IB_PAGE);
	for (i = 0; i < 9; i++)
		check_page(im, t, PG(i), i < 2);
	check_page(im, t, PG(13), 0);
	assert_int_equal(lp_images_nfiles(im), 2);
	lp_images_close(im);
}

static void test_versions(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 1) };
	const struct ib_ent ents[] = { { .vaddr = PG(0), .nr = 1, .flags = IB_PRESENT } };
	const struct ib_task task = { .pid = 1, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = ents, .nents = 1 };
	struct ib_image ib = { .tasks = &task, .ntasks = 1 };
	int i;

	for (i = 0; i < 3; i++) {
		ib.version = i == 2 ? 1 : 2;
		ib.inv_common = i == 1;
		assert_int_equal(ib_write(f->path[i], &ib), 0);
		lp_images_close(open_ok(f->path[i]));
	}
}

static void test_two_parents(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 64) };
	/* LAZY in parents means nothing. */
	const struct ib_ent e2[] = { { .vaddr = PG(0), .nr = 16, .flags = IB_PRESENT | IB_LAZY },
				     { .vaddr = PG(40), .nr = 1, .flags = IB_PRESENT } };
	const struct ib_ent e1[] = { { .vaddr = PG(0), .nr = 4, .flags = IB_PARENT },
				     { .vaddr = PG(4), .nr = 4, .flags = IB_PRESENT | IB_LAZY },
				     { .vaddr = PG(8), .nr = 8, .flags = IB_PARENT } };
	const struct ib_ent e0[] = { { .vaddr = PG(2), .nr = 8, .flags = IB_PARENT },
				     { .vaddr = PG(10), .nr = 1, .flags = IB_PRESENT | IB_LAZY },
				     { .vaddr = PG(11), .nr = 2, .flags = IB_PARENT | IB_LAZY } };
	const struct ib_ent *e[] = { e0, e1, e2 };
	const size_t n[] = { N(e0), N(e1), N(e2) };
	const struct lp_task *t;
	struct lp_images *im;
	uint32_t i;

	for (i = 3; i-- > 0;) {
		const struct ib_task task = { .pid = 17, .pages_id = i + 1, .vmas = vmas, .nvmas = 1, .ents = e[i],
					      .nents = n[i] };
		const struct ib_image ib = { .tasks = &task, .ntasks = 1, .gen = i, .predump = i > 0,
					     .parent = i == 0 ? "../1" : i == 1 ? "../2" : NULL };

		assert_int_equal(ib_write(f->path[i], &ib), 0);
	}
	im = open_ok(f->path[0]);
	t = lp_images_task(im, 0);
	assert_int_equal(lp_images_depth(im), 2);
	assert_int_equal(lp_images_nfiles(im), 3);
	for (i = 2; i < 13; i++)
		check_page(im, t, PG(i), i == 10 ? 0 : i >= 4 && i < 8 ? 1 : 2);
	assert_int_equal(t->lazy_bytes, 3 * IB_PAGE);
	assert_int_equal(t->eager_bytes, 8 * IB_PAGE);
	assert_null(lp_task_lookup(t, PG(13), NULL));
	assert_null(lp_task_lookup(t, PG(40), NULL));
	assert_string_equal(lp_images_file(im, lp_task_lookup(t, PG(2), NULL)->file)->name, "parent/parent/pages-3.img");
	assert_int_equal(lp_images_file(im, lp_task_lookup(t, PG(4), NULL)->file)->depth, 1);
	lp_images_close(im);
}

/* Where the kernel looks and cannot wait: futexes that inherit priorities first, then what the ends of threads need. */
static void test_early(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 16) };
	const struct ib_ent ents[] = { { .vaddr = PG(0), .nr = 16, .flags = IB_PRESENT | IB_LAZY } };
	const struct ib_thread threads[] = {
		{ .tid = 17, .mtype = 1, .call = 202, .a0 = PG(1), .a1 = 0, .a4 = PG(9), .robust = PG(2) + 8 },
		{ .tid = 18, .mtype = 1, .call = 202, .a0 = PG(3), .a1 = 6 | 128, .robust = PG(4), .clear_tid = PG(5) },
		{ .tid = 19, .mtype = 1, .call = 202, .a0 = PG(6), .a1 = 13 },
		{ .tid = 20, .mtype = 1, .call = 202, .a0 = PG(7), .a1 = 11, .a4 = PG(8) },
		{ .tid = 21, .mtype = 1, .call = 202, .a0 = PG(9), .a1 = 6, .compat = true },
		{ .tid = 22, .mtype = 3, .call = 202, .a0 = PG(9), .a1 = 6, .robust = PG(9) },
		{ .tid = 23, .mtype = 1, .call = 200, .a0 = PG(9), .a1 = 6 },
	};
	const uint64_t want[] = { PG(3), PG(6), PG(7), PG(8), PG(10), PG(11), PG(12), PG(2) + 8, PG(4), PG(5) };
	struct ib_task task = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = ents, .nents = 1,
				.threads = threads, .nthreads = N(threads),
				.words = { PG(10) + 100, PG(11) + 10, PG(12) + 10, PG(12) + 11 } };
	struct ib_image ib = { .tasks = &task, .ntasks = 1 };
	struct lp_images *im;
	char path[1024];

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_int_equal(lp_images_task(im, 0)->nthreads, N(threads));
	assert_int_equal(lp_images_task(im, 0)->nearly, N(want));
	assert_memory_equal(lp_images_task(im, 0)->early, want, sizeof(want));
	lp_images_close(im);
	/* Nonsense ends, and no more than so many. */
	task.words[1] = UINT64_C(1) << 47;
	task.words[2] = UINT64_MAX - 100;
	task.words[3] = UINT64_MAX;
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_int_equal(lp_images_task(im, 0)->nearly, N(want) - 3 + 16);
	lp_images_close(im);
	memset(task.words, 0, sizeof(task.words));
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	/* Hints: without some of them it goes on. */
	snprintf(path, sizeof(path), "%s/core-18.img", f->path[0]);
	assert_int_equal(unlink(path), 0);
	im = open_ok(f->path[0]);
	assert_int_equal(lp_images_task(im, 0)->nearly, N(want) - 6);
	lp_images_close(im);
}

/* A task born after the pre-dump has nothing in the parent; unused files are dropped. */
static void test_born_later(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 4) };
	const struct ib_ent ents[] = { { .vaddr = PG(0), .nr = 1, .flags = IB_PRESENT } };
	struct ib_task task[] = {
		{ .pid = 30, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = ents, .nents = 1 },
		{ .pid = 20, .ppid = 30, .pages_id = 2, .vmas = vmas, .nvmas = 1, .ents = ents, .nents = 1 },
		{ .pid = 25, .ppid = 30, .state = IB_ZOMBIE },
		{ .pid = 24, .ppid = 30, .state = IB_DEAD },
		{ .pid = 23, .ppid = 30, .state = IB_STOPPED, .pages_id = 7, .vmas = vmas, .nvmas = 1 },
	};
	struct ib_image ib = { .tasks = task, .ntasks = 1, .gen = 1, .predump = true };
	struct lp_images *im;

	assert_int_equal(ib_write(f->path[1], &ib), 0);
	ib = (struct ib_image){ .tasks = task, .ntasks = N(task), .parent = "../1" };
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_int_equal(lp_images_ntasks(im), 5);
	assert_int_equal(lp_images_task(im, 1)->pid, 20);
	assert_int_equal(lp_images_nfiles(im), 2);
	assert_int_equal(lp_images_file(im, lp_images_find(im, 20)->extents[0].file)->depth, 0);
	check_page(im, lp_images_find(im, 20), PG(0), 0);
	check_page(im, lp_images_find(im, 30), PG(0), 0);
	assert_false(lp_images_find(im, 25)->has_mm);
	assert_false(lp_images_find(im, 24)->has_mm);
	assert_int_equal(lp_images_find(im, 25)->nextents, 0);
	assert_true(lp_images_find(im, 23)->has_mm);
	assert_null(lp_task_lookup(lp_images_find(im, 23), PG(0), NULL));
	assert_null(lp_task_lookup(lp_images_find(im, 25), PG(0), NULL));
	lp_images_close(im);
}

/* Which VMAs are lazy, and that guards and vsyscall are taken as they come. */
static void test_vmas(void **state)
{
	struct fixture *f = *state;
	const uint32_t anon = MAP_PRIVATE | MAP_ANONYMOUS;
	const struct ib_vma vmas[] = {
		{ .start = PG(0), .end = PG(1), .flags = anon, .status = IB_REGULAR | IB_ANON_PRIVATE, .madv = 1u << 14, .pgoff = 2,
		  .shmid = 3, .prot = PROT_READ },
		{ .start = PG(1), .end = PG(2), .flags = MAP_PRIVATE, .status = IB_REGULAR | IB_FILE_PRIVATE },
		{ .start = PG(2), .end = PG(3), .flags = MAP_SHARED | MAP_ANONYMOUS, .status = IB_REGULAR },
		{ .start = PG(3), .end = PG(4), .flags = anon | MAP_LOCKED, .status = IB_REGULAR | IB_ANON_PRIVATE },
		{ .start = PG(4), .end = PG(5), .flags = anon | MAP_HUGETLB, .status = IB_REGULAR | IB_ANON_PRIVATE },
		{ .start = PG(5), .end = PG(6), .flags = anon, .status = IB_REGULAR | IB_ANON_PRIVATE | IB_VDSO },
		{ .start = PG(6), .end = PG(7), .flags = anon, .status = IB_REGULAR | IB_ANON_PRIVATE | IB_VVAR },
		/* CRIU maps none of these before it registers. */
		{ .start = PG(7), .end = PG(8), .flags = anon, .status = IB_REGULAR },
		{ .start = PG(8), .end = PG(9), .flags = anon, .status = IB_ANON_PRIVATE },
		{ .start = UINT64_C(0xffffffffff600000), .end = UINT64_C(0xffffffffff601000), .flags = anon,
		  .status = IB_VSYSCALL },
		{ .start = PG(0), .end = PG(1), .flags = anon, .status = IB_GUARD },
		{ .start = 7, .end = 3, .flags = anon, .status = IB_GUARD },
	};
	const struct ib_task task = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = N(vmas) };
	const struct ib_image ib = { .tasks = &task, .ntasks = 1 };
	const struct lp_task *t;
	struct lp_images *im;
	size_t i;

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	t = lp_images_task(im, 0);
	assert_int_equal(t->nvmas, 10);
	for (i = 0; i < 10; i++)
		assert_int_equal(t->vmas[i].lazy, i == 0);
	assert_int_equal(t->vmas[0].madv, 1u << 14);
	assert_int_equal(t->vmas[0].pgoff, 2);
	assert_int_equal(t->vmas[0].shmid, 3);
	assert_int_equal(t->vmas[0].prot, PROT_READ);
	assert_int_equal(t->nextents, 0);
	assert_int_equal(lp_images_nfiles(im), 0);
	lp_images_close(im);
}

/* More than 32 bits of bytes, in a file that takes no room. */
static void test_six_gib(void **state)
{
	struct fixture *f = *state;
	const uint64_t n = UINT64_C(6) << 18;
	const struct ib_vma vmas[] = { IB_ANON(BASE, n) };
	const struct ib_ent ents[] = { { .vaddr = BASE, .nr = n - 1, .flags = IB_PRESENT | IB_LAZY },
				       { .vaddr = PG(n - 1), .nr = 1, .flags = IB_PRESENT } };
	const struct ib_task task = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = ents, .nents = 2 };
	const struct ib_image ib = { .tasks = &task, .ntasks = 1, .sparse = true };
	const struct lp_task *t;
	struct lp_images *im;

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	t = lp_images_task(im, 0);
	assert_int_equal(lp_images_file(im, 0)->size, UINT64_C(6) << 30);
	assert_int_equal(t->lazy_bytes, (UINT64_C(6) << 30) - IB_PAGE);
	assert_int_equal(lp_task_lookup(t, PG(n - 1), NULL)->off, (UINT64_C(6) << 30) - IB_PAGE);
	assert_null(lp_task_lookup(t, PG(n), NULL));
	lp_images_close(im);
}

static void test_million_entries(void **state)
{
	struct fixture *f = *state;
	const size_t n = 1000000;
	struct ib_ent *ents = calloc(n, sizeof(*ents));
	const struct ib_vma vmas[] = { IB_ANON(BASE, 2 * n) };
	struct ib_task task = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = ents, .nents = n };
	const struct ib_image ib = { .tasks = &task, .ntasks = 1, .sparse = true };
	struct timespec a, b;
	struct lp_images *im;
	size_t i;
	double s;

	assert_non_null(ents);
	for (i = 0; i < n; i++)
		ents[i] = (struct ib_ent){ .vaddr = PG(2 * i), .nr = 1, .flags = IB_PRESENT | IB_LAZY };
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	im = open_ok(f->path[0]);
	clock_gettime(CLOCK_MONOTONIC, &b);
	s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
	print_message("1000000 entries opened in %.3f s\n", s);
	/* Generous: sanitizers and busy machines; quadratic would take hours. */
	assert_true(s < 20);
	for (i = 0; i < n; i++) {
		const struct lp_extent *x = lp_task_lookup(lp_images_task(im, 0), PG(2 * i), NULL);

		assert_true(x && x->off == i * IB_PAGE);
		assert_null(lp_task_lookup(lp_images_task(im, 0), PG(2 * i + 1), NULL));
	}
	lp_images_close(im);
	free(ents);
}

/* The model: each page of a small address space by itself. */
#define NPAGES 192

struct page {
	uint8_t kind; /* 0 nothing, 1 data, 2 source */
	bool lazy;
	uint32_t gen; /* level that holds the data */
};

struct model {
	struct page page[NPAGES];
	bool mapped[NPAGES], lazy_vma[NPAGES];
	struct ib_vma vmas[NPAGES];
	size_t nvmas;
};

static uint32_t rnd(uint32_t *s, uint32_t n)
{
	*s = *s * 1664525u + 1013904223u;
	return (*s >> 8) % n;
}

static void random_vmas(struct model *m, uint32_t *seed)
{
	size_t p = rnd(seed, 4), len, i;

	while (p < NPAGES) {
		bool lazy = rnd(seed, 3);

		len = 1 + rnd(seed, 24);
		if (len > NPAGES - p)
			len = NPAGES - p;
		m->vmas[m->nvmas] = (struct ib_vma)IB_ANON(PG(p), len);
		if (!lazy)
			m->vmas[m->nvmas].flags = MAP_PRIVATE;
		m->nvmas++;
		for (i = p; i < p + len; i++) {
			m->mapped[i] = true;
			m->lazy_vma[i] = lazy;
		}
		p += len + (rnd(seed, 3) ? 0 : rnd(seed, 9));
	}
}

/* One level on top of what @m holds; returns the number of entries. */
static size_t random_level(struct model *m, uint32_t level, bool bottom, struct ib_ent *ents, uint32_t *seed)
{
	struct page now[NPAGES] = { 0 };
	size_t n = 0, p = 0, len, i;

	while (p < NPAGES) {
		uint32_t flags = 0, what = rnd(seed, 10);
		bool lazy = rnd(seed, 2);

		len = 1 + rnd(seed, 12);
		if (what < 4)
			flags = IB_PRESENT | (lazy ? IB_LAZY : 0);
		else if (what < 8 && !bottom)
			flags = IB_PARENT | (lazy ? IB_LAZY : 0);
		else if (what == 8)
			flags = IB_LAZY;
		for (i = 0; i < len && p + i < NPAGES; i++) {
			if (flags && !m->mapped[p + i])
				break;
			if (flags & IB_LAZY && !m->lazy_vma[p + i])
				break;
			if ((flags & IB_PARENT) && m->page[p + i].kind != 1)
				break;
			if (!flags)
				continue;
			now[p + i].kind = flags == IB_LAZY ? 2 : 1;
			now[p + i].lazy = flags & IB_LAZY;
			now[p + i].gen = flags & IB_PARENT ? m->page[p + i].gen : level;
		}
		if (flags && i) {
			ents[n++] = (struct ib_ent){ .vaddr = PG(p), .nr = i, .flags = flags,
						     .form = rnd(seed, 2) ? IB_NEW : IB_FLAGS };
		}
		p += i ? i : 1;
	}
	memcpy(m->page, now, sizeof(now));
	return n;
}

struct walk {
	const struct model *m;
	uint64_t pos;
	size_t pages;
};

static int walk_range(void *arg, uint64_t start, uint64_t end, const struct lp_vma *vma, const struct lp_extent *ext)
{
	struct walk *w = arg;

	assert_true(start >= w->pos && start < end);
	assert_true(vma->lazy && ext->lazy);
	assert_true(start >= vma->start && end <= vma->end && start >= ext->start && end <= ext->end);
	for (w->pos = start; w->pos < end; w->pos += IB_PAGE) {
		size_t p = (w->pos - BASE) / IB_PAGE;

		assert_true(w->m->page[p].lazy && w->m->lazy_vma[p]);
		w->pages++;
	}
	return 0;
}

static int stop_at_once(void *arg, uint64_t start, uint64_t end, const struct lp_vma *vma, const struct lp_extent *ext)
{
	++*(int *)arg;
	return 42;
}

static void compare(const struct lp_images *im, const struct model *m)
{
	const struct lp_task *t = lp_images_task(im, 0);
	struct walk w = { .m = m };
	size_t p, q, lazy = 0, ranges = 0;
	uint64_t bytes[2] = { 0, 0 };
	int calls = 0;

	for (p = 0; p < NPAGES; p++) {
		const struct lp_extent *next = (void *)1, *x = lp_task_lookup(t, PG(p) + 123, &next);

		if (!m->page[p].kind) {
			assert_null(x);
			for (q = p; q < NPAGES && !m->page[q].kind;)
				q++;
			if (q == NPAGES)
				assert_null(next);
			else
				assert_int_equal(next->start, PG(q));
			continue;
		}
		assert_non_null(x);
		assert_int_equal(x->lazy, m->page[p].lazy);
		bytes[x->lazy] += IB_PAGE;
		if (m->page[p].kind == 1)
			check_page(im, t, PG(p), m->page[p].gen);
		else
			assert_int_equal(x->kind, LP_EXT_SOURCE);
		lazy += m->page[p].lazy && m->lazy_vma[p];
	}
	assert_int_equal(t->lazy_bytes, bytes[1]);
	assert_int_equal(t->eager_bytes, bytes[0]);
	for (p = 1; p < t->nextents; p++)
		assert_true(t->extents[p - 1].end <= t->extents[p].start);
	assert_int_equal(lp_task_lazy_ranges(t, walk_range, &w), 0);
	assert_int_equal(w.pages, lazy);
	ranges = lp_task_lazy_ranges(t, stop_at_once, &calls);
	assert_int_equal(ranges, lazy ? 42 : 0);
	assert_int_equal(calls, lazy ? 1 : 0);
}

static void test_random(void **state)
{
	struct fixture *f = *state;
	struct ib_ent ents[NPAGES];
	uint32_t seed, s, level, levels;

	for (seed = 1; seed <= 150; seed++) {
		struct model m;
		struct lp_images *im;

		memset(&m, 0, sizeof(m));
		s = seed;
		levels = 1 + rnd(&s, 3);
		random_vmas(&m, &s);
		for (level = levels; level-- > 0;) {
			size_t n = random_level(&m, level, level == levels - 1, ents, &s);
			const struct ib_task task = { .pid = 17, .pages_id = 1 + rnd(&s, 3), .vmas = m.vmas,
						      .nvmas = m.nvmas, .ents = ents, .nents = n };
			const struct ib_image ib = { .tasks = &task, .ntasks = 1, .gen = level, .predump = level > 0,
						     .parent = level == levels - 1 ? NULL :
							       level		   ? "../2" :
										     "../1" };

			assert_int_equal(ib_write(f->path[level], &ib), 0);
		}
		im = open_ok(f->path[0]);
		compare(im, &m);
		lp_images_close(im);
		for (level = 0; level < levels; level++)
			ib_remove(f->path[level]);
	}
}

/* A parent that comes later, or is oneself, or is not there: CRIU takes none of these either. */
static void test_parents_first(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 1) };
	struct ib_task tasks[] = { { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 1 },
				   { .pid = 18, .ppid = 17, .pages_id = 2, .vmas = vmas, .nvmas = 1 } };
	const struct ib_image ib = { .tasks = tasks, .ntasks = 2 };
	const uint32_t bad[][2] = { { 18, 17 }, { 0, 18 }, { 0, 99 }, { 18, 0 } };
	struct lp_images *im = NULL;
	struct lp_err err;
	size_t i;

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	lp_images_close(open_ok(f->path[0]));
	for (i = 0; i < N(bad); i++) {
		tasks[0].ppid = bad[i][0];
		tasks[1].ppid = bad[i][1];
		assert_int_equal(ib_write(f->path[0], &ib), 0);
		assert_int_equal(lp_images_open(f->path[0], &im, &err), -EINVAL);
		assert_non_null(strstr(err.msg, "is not before it"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_simple, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forms, setup, teardown),
		cmocka_unit_test_setup_teardown(test_versions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_parents, setup, teardown),
		cmocka_unit_test_setup_teardown(test_early, setup, teardown),
		cmocka_unit_test_setup_teardown(test_born_later, setup, teardown),
		cmocka_unit_test_setup_teardown(test_parents_first, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vmas, setup, teardown),
		cmocka_unit_test_setup_teardown(test_six_gib, setup, teardown),
		cmocka_unit_test_setup_teardown(test_million_entries, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random, setup, teardown),
	};

	return cmocka_run_group_tests_name("images", tests, NULL, NULL);
}
