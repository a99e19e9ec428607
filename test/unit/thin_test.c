/* SPDX-License-Identifier: GPL-2.0-only */
/* Thin and whole pagemaps, and what CRIU cannot restore lazily because of what is there before it registers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "images/thin.h"
#include "test/lib/imgfixture.h"

/* The pagemap @buf, which is freed, in the place of that in the checkpoint @dir; @pages of its pages file are there. */
static struct lp_images *with_pagemap(const char *dir, uint8_t *buf, size_t len, size_t pages)
{
	uint8_t *zero = calloc(pages, IB_PAGE);

	assert_non_null(zero);
	assert_int_equal(ib_save(dir, "pagemap-17.img", buf, len), 0);
	assert_int_equal(ib_save(dir, "pages-1.img", zero, pages * IB_PAGE), 0);
	free(zero);
	free(buf);
	return open_ok(dir);
}

/*
 * Where CRIU would fill pages of a lazy VMA without seeing a parent, huge pages
 * would put zeros beside them: in the thin and the whole form these are lazy.
 * It stays the same checkpoint.
 */
static void test_thin(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 64),
				       { .start = PG(64), .end = PG(70), .flags = MAP_PRIVATE, .status = IB_REGULAR } };
	const struct ib_ent e1[] = { { .vaddr = PG(0), .nr = 70, .flags = IB_PRESENT } };
	const struct ib_ent e0[] = { { .vaddr = PG(2), .nr = 8, .flags = IB_PARENT },
				     { .vaddr = PG(10), .nr = 1, .flags = IB_PRESENT | IB_LAZY },
				     { .vaddr = PG(11), .nr = 2, .flags = IB_PARENT | IB_LAZY },
				     { .vaddr = PG(60), .nr = 8, .flags = IB_PARENT } };
	struct ib_task task = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 2, .ents = e1, .nents = 1 };
	struct ib_image ib = { .tasks = &task, .ntasks = 1, .predump = true };
	uint8_t ident[3][LP_IMAGES_IDENT_LEN], *thin, *whole;
	struct lp_err err = { "" };
	size_t nthin, nwhole;
	struct lp_images *im;
	uint64_t addr = 0;

	assert_int_equal(ib_write(f->path[1], &ib), 0);
	ib.predump = false;
	task.ents = e0;
	task.nents = N(e0);
	ib.parent = "../1";
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_int_equal(lp_images_task(im, 0)->eager_bytes, 16 * IB_PAGE);
	assert_int_equal(lp_thin_eager(lp_images_task(im, 0)), 4 * IB_PAGE);
	assert_int_equal(lp_thin_pagemap(im, lp_images_task(im, 0), &thin, &nthin), 0);
	assert_int_equal(lp_whole_pagemap(im, lp_images_task(im, 0), &whole, &nwhole), 0);
	assert_int_equal(lp_images_ident(im, f->path[0], ident[0], &err), 0);
	lp_images_close(im);
	/* The same tasks; CRIU would fill PG(0) by itself, and see no parent. */
	task.ents = e1;
	task.nents = 1;
	ib.parent = NULL;
	assert_int_equal(ib_write(f->path[2], &ib), 0);
	im = open_ok(f->path[2]);
	assert_false(lp_thin_mixed(im, lp_images_task(im, 0), 1 << 21, &addr)); /* nothing is lazy */
	lp_images_close(im);
	im = with_pagemap(f->path[2], thin, nthin, 4);
	assert_false(lp_thin_mixed(im, lp_images_task(im, 0), 1 << 21, &addr));
	assert_int_equal(lp_images_task(im, 0)->lazy_bytes, 15 * IB_PAGE);
	assert_int_equal(lp_task_lookup(lp_images_task(im, 0), PG(5), NULL)->kind, LP_EXT_SOURCE);
	assert_int_equal(lp_task_lookup(lp_images_task(im, 0), PG(64), NULL)->off, 0);
	assert_int_equal(lp_images_ident(im, f->path[2], ident[1], &err), 0);
	lp_images_close(im);
	im = with_pagemap(f->path[2], whole, nwhole, 19);
	assert_false(lp_thin_mixed(im, lp_images_task(im, 0), 1 << 21, &addr));
	assert_int_equal(lp_images_task(im, 0)->lazy_bytes, 15 * IB_PAGE);
	assert_int_equal(lp_images_task(im, 0)->eager_bytes, 4 * IB_PAGE);
	assert_int_equal(lp_task_lookup(lp_images_task(im, 0), PG(64), NULL)->off, 15 * IB_PAGE);
	assert_int_equal(lp_images_ident(im, f->path[2], ident[2], &err), 0);
	lp_images_close(im);
	assert_memory_equal(ident[0], ident[1], sizeof(ident[0]));
	assert_memory_equal(ident[0], ident[2], sizeof(ident[0]));
}

/* What CRIU restores by itself in a lazy VMA: in a stack no huge page has room. */
static void test_mixed(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 16),
				       { .start = PG(600), .end = PG(631), .flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN,
					 .status = IB_REGULAR | IB_ANON_PRIVATE } };
	struct ib_ent ents[] = { { .vaddr = PG(0), .nr = 15, .flags = IB_PRESENT | IB_LAZY },
				 { .vaddr = PG(630), .nr = 1, .flags = IB_PRESENT } };
	struct ib_task task = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 2, .ents = ents, .nents = 2 };
	struct ib_image ib = { .tasks = &task, .ntasks = 1 };
	struct lp_images *im;
	uint64_t addr = 0;

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_false(lp_thin_mixed(im, lp_images_task(im, 0), 33 * IB_PAGE, &addr));
	assert_true(lp_thin_mixed(im, lp_images_task(im, 0), 32 * IB_PAGE, &addr));
	assert_int_equal(addr, PG(630));
	lp_images_close(im);
	/* Elsewhere CRIU maps VMAs side by side, and they become one. */
	ents[1].vaddr = PG(15);
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_true(lp_thin_mixed(im, lp_images_task(im, 0), 1 << 21, &addr));
	assert_int_equal(addr, PG(15));
	lp_images_close(im);
}

/* CRIU restores a parent, and its child has lazy pages where the parent has none: it gets the parent's huge page. */
static void test_mixed_fork(void **state)
{
	struct fixture *f = *state;
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 16) };
	struct ib_vma other[] = { IB_ANON(PG(0), 16) };
	struct ib_ent eager[] = { { .vaddr = PG(0), .nr = 4, .flags = IB_PRESENT } };
	struct ib_ent lazy[] = { { .vaddr = PG(4), .nr = 4, .flags = IB_PRESENT | IB_LAZY } };
	struct ib_task tasks[] = {
		{ .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = eager, .nents = 1 },
		{ .pid = 18, .ppid = 17, .pages_id = 2, .vmas = vmas, .nvmas = 1, .ents = eager, .nents = 1 },
		{ .pid = 19, .ppid = 18, .pages_id = 3, .vmas = other, .nvmas = 1, .ents = lazy, .nents = 1 },
	};
	struct ib_image ib = { .tasks = tasks, .ntasks = 3 };
	struct lp_images *im;
	uint64_t addr = 0;

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_true(lp_thin_mixed(im, lp_images_task(im, 0), 1 << 21, &addr));
	assert_int_equal(addr, PG(0));
	assert_true(lp_thin_mixed(im, lp_images_task(im, 1), 1 << 21, &addr));
	assert_false(lp_thin_mixed(im, lp_images_task(im, 2), 1 << 21, &addr));
	lp_images_close(im);
	/* A child with memory elsewhere, after an exec for example, gets none by fork. */
	other[0].start += IB_PAGE;
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_false(lp_thin_mixed(im, lp_images_task(im, 0), 1 << 21, &addr));
	assert_false(lp_thin_mixed(im, lp_images_task(im, 1), 1 << 21, &addr));
	lp_images_close(im);
}

/* What is locked is populated, and a child has it by fork: pages that its parent does not have would be zeros. */
static void test_locked(void **state)
{
	struct fixture *f = *state;
	struct ib_vma locked[] = { IB_ANON(PG(0), 16) };
	struct ib_vma vmas[] = { IB_ANON(PG(0), 16) };
	struct ib_ent eager[] = { { .vaddr = PG(0), .nr = 8, .flags = IB_PRESENT } };
	struct ib_ent none[] = { { .vaddr = PG(1), .nr = 1, .flags = IB_PRESENT | IB_LAZY } };
	struct ib_ent lazy[] = { { .vaddr = PG(6), .nr = 2, .flags = IB_PRESENT | IB_LAZY } };
	struct ib_task tasks[] = {
		{ .pid = 17, .pages_id = 1, .vmas = locked, .nvmas = 1, .ents = eager, .nents = 1 },
		{ .pid = 18, .ppid = 17, .pages_id = 2, .vmas = vmas, .nvmas = 1, .ents = none, .nents = 1 },
		{ .pid = 19, .ppid = 18, .pages_id = 3, .vmas = vmas, .nvmas = 1, .ents = lazy, .nents = 1 },
	};
	struct ib_image ib = { .tasks = tasks, .ntasks = 3 };
	struct lp_images *im;
	uint64_t addr = 0;
	int32_t by = 0;
	size_t i, round;

	locked[0].flags |= MAP_LOCKED;
	for (round = 0; round < 4; round++) {
		if (round == 1)
			lazy[0].nr = 3; /* one that the first has not, also not the second */
		if (round == 2)
			vmas[0].flags |= MAP_GROWSDOWN; /* not the same for CRIU */
		if (round == 3) {
			vmas[0].flags &= ~(uint32_t)MAP_GROWSDOWN;
			locked[0].flags &= ~(uint32_t)MAP_LOCKED;
		}
		assert_int_equal(ib_write(f->path[0], &ib), 0);
		im = open_ok(f->path[0]);
		for (i = 0; i < 3; i++)
			assert_int_equal(lp_thin_locked(im, lp_images_task(im, i), &addr, &by), round == 1 && i == 2);
		if (round == 1) {
			assert_int_equal(addr, PG(8));
			assert_int_equal(by, 17);
		}
		lp_images_close(im);
	}
}

/* Lazy pages of a shadow stack: found, and not lazy in a thin pagemap. */
static void test_shadow(void **state)
{
	struct fixture *f = *state;
	struct ib_vma vmas[] = { IB_ANON(PG(0), 4), IB_ANON(PG(8), 4) };
	struct ib_ent ents[] = { { .vaddr = PG(0), .nr = 3, .flags = IB_PRESENT | IB_LAZY },
				 { .vaddr = PG(8), .nr = 2, .flags = IB_PRESENT | IB_LAZY } };
	struct ib_task task = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 2, .ents = ents, .nents = 2 };
	struct ib_image ib = { .tasks = &task, .ntasks = 1 };
	struct lp_images *im;
	uint64_t addr = 0;

	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_false(lp_thin_shadow(lp_images_task(im, 0), &addr));
	assert_int_equal(lp_thin_eager(lp_images_task(im, 0)), 0);
	lp_images_close(im);
	vmas[1].status |= IB_SHSTK;
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_true(lp_thin_shadow(lp_images_task(im, 0), &addr));
	assert_int_equal(addr, PG(8));
	assert_int_equal(lp_thin_eager(lp_images_task(im, 0)), 2 * IB_PAGE);
	lp_images_close(im);
	/* As it is in that form: CRIU has it beside lazy memory for a while, where a huge page may be both. */
	ents[1].flags = IB_PRESENT;
	assert_int_equal(ib_write(f->path[0], &ib), 0);
	im = open_ok(f->path[0]);
	assert_false(lp_thin_shadow(lp_images_task(im, 0), &addr));
	assert_true(lp_thin_mixed(im, lp_images_task(im, 0), 1 << 21, &addr));
	assert_int_equal(addr, PG(8));
	lp_images_close(im);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_thin, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mixed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mixed_fork, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shadow, setup, teardown),
	};

	return cmocka_run_group_tests_name("thin", tests, NULL, NULL);
}
