/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The seal: its codec with seals that are good, cut short and flipped, bit by
 * bit; making, opening and verifying; the local source, which must not hand out
 * a page that is not what was sealed.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "images/seal.h"
#include "source/source.h"
#include "test/lib/imgbuild.h"

#define BASE UINT64_C(0x7f0000000000)
#define PG(n) (BASE + (uint64_t)(n) * IB_PAGE)
/* More than one block of sums. */
#define NPAGES 700

static char dir[256];

/* Task 17: 700 pages, of which the last 100 are in the parent "p". */
static int setup(void **state)
{
	static const struct ib_vma vmas[] = { IB_ANON(PG(0), NPAGES) };
	static const struct ib_ent ents[] = { { .vaddr = PG(0), .nr = 600, .flags = IB_PRESENT | IB_LAZY },
					      { .vaddr = PG(600), .nr = 100, .flags = IB_PARENT | IB_LAZY } };
	static const struct ib_ent below[] = { { .vaddr = PG(590), .nr = 110, .flags = IB_PRESENT } };
	struct ib_task t = { .pid = 17, .pages_id = 1, .vmas = vmas, .nvmas = 1, .ents = ents, .nents = 2 };
	struct ib_task pt = { .pid = 17, .pages_id = 3, .vmas = vmas, .nvmas = 1, .ents = below, .nents = 1 };
	struct ib_image im = { .tasks = &t, .ntasks = 1, .parent = "p", .gen = 1 };
	struct ib_image pim = { .tasks = &pt, .ntasks = 1, .predump = true };
	char p[PATH_MAX];

	if (ib_tmpdir(dir) || ib_write(dir, &im) || ib_save(dir, "descriptors.json", "[\"/dev/null\"]", 13))
		return -1;
	snprintf(p, sizeof(p), "%s/p", dir);
	return ib_write(p, &pim);
}

static int teardown(void **state)
{
	ib_remove(dir);
	return 0;
}

static struct lp_images *images(void)
{
	struct lp_images *im;
	struct lp_err err;

	if (lp_images_open(dir, &im, &err))
		fail_msg("%s", err.msg);
	return im;
}

static void seal(void)
{
	struct lp_images *im = images();
	struct lp_seal_sums sums;
	struct lp_err err;

	if (lp_seal_make(im, dir, NULL, NULL, &sums, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(sums.pages, 710);
	assert_int_equal(sums.files, 2);
	lp_images_close(im);
}

/* Flip a bit of byte @off of the file @name. */
static void flip(const char *name, uint64_t off)
{
	char path[PATH_MAX];
	uint8_t b;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0 && pread(fd, &b, 1, off) == 1);
	b ^= 0x10;
	assert_int_equal(pwrite(fd, &b, 1, off), 1);
	close(fd);
}

static int open_seal(enum lp_verify v, struct lp_seal **s, struct lp_err *err)
{
	struct lp_images *im = images();
	int rc = lp_seal_open(im, dir, v, s, err);

	lp_images_close(im);
	return rc;
}

struct found {
	unsigned n;
	char file[64], what[128];
	uint64_t off, pages;
};

static void on_flaw(void *arg, const char *file, uint64_t off, uint64_t pages, const char *what)
{
	struct found *f = arg;

	f->n++;
	snprintf(f->file, sizeof(f->file), "%s", file);
	snprintf(f->what, sizeof(f->what), "%s", what);
	f->off = off;
	f->pages = pages;
}

static struct found verify(void)
{
	struct lp_images *im = images();
	struct lp_seal_sums sums;
	struct found f = { 0 };
	struct lp_err err;

	assert_int_equal(lp_seal_verify(im, dir, on_flaw, NULL, &f, &sums, &err), 0);
	assert_int_equal(f.n, sums.flaws);
	lp_images_close(im);
	return f;
}

static void test_good(void **state)
{
	struct lp_seal *s;
	struct lp_err err;

	assert_int_equal(open_seal(LP_VERIFY_AUTO, &s, &err), 0);
	assert_null(s);
	assert_int_equal(open_seal(LP_VERIFY_REQUIRE, &s, &err), -ENOENT);
	seal();
	assert_int_equal(verify().n, 0);
	assert_int_equal(open_seal(LP_VERIFY_NO, &s, &err), 0);
	assert_null(s);
	assert_int_equal(open_seal(LP_VERIFY_AUTO, &s, &err), 0);
	assert_non_null(s);
	lp_seal_close(s);
	seal(); /* again, over the old one */
	assert_int_equal(verify().n, 0);
}

static void test_flaws(void **state)
{
	static const struct {
		const char *file;
		uint64_t off, page, pages;
	} t[] = { { "pages-1.img", 0, 0, 1 },
		  { "pages-1.img", 599 * 4096 + 4095, 599, 1 },
		  { "p/pages-3.img", 50 * 4096 + 7, 50, 1 },
		  { "descriptors.json", 3, 0, 0 } };
	struct lp_seal *s;
	struct lp_err err;
	struct found f;
	size_t i;

	seal();
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		flip(t[i].file, t[i].off);
		f = verify();
		assert_int_equal(f.n, 1);
		assert_int_equal(f.off, t[i].page * 4096);
		assert_int_equal(f.pages, t[i].pages);
		assert_non_null(strstr(f.file, strrchr(t[i].file, '/') ? "parent/pages-3.img" : t[i].file));
		/* Pages are looked at when they are read; all else before any task runs. */
		assert_int_equal(open_seal(LP_VERIFY_AUTO, &s, &err), t[i].pages ? 0 : -EBADMSG);
		lp_seal_close(s);
		flip(t[i].file, t[i].off);
	}
	flip("pages-1.img", 5 * 4096);
	flip("pages-1.img", 6 * 4096);
	f = verify();
	assert_int_equal(f.n, 1);
	assert_int_equal(f.pages, 2);
	flip("pages-1.img", 5 * 4096);
	flip("pages-1.img", 6 * 4096);
	assert_int_equal(verify().n, 0);
}

/* The seal fits the images no more. */
static void test_other(void **state)
{
	char from[PATH_MAX], to[PATH_MAX];
	struct lp_images *im;
	struct lp_seal *s;
	struct lp_err err;

	seal();
	/* Longer, though the index names nothing there. */
	snprintf(to, sizeof(to), "%s/pages-1.img", dir);
	assert_int_equal(truncate(to, 601 * 4096), 0);
	assert_int_equal(open_seal(LP_VERIFY_AUTO, &s, &err), -EBADMSG);
	assert_non_null(strstr(err.msg, "pages-1.img"));
	assert_int_equal(truncate(to, 600 * 4096), 0);
	assert_int_equal(verify().n, 0);
	/* A file that was not there. */
	assert_int_equal(ib_save(dir, "pages-9.img", "x", 1), 0);
	assert_int_equal(verify().n, 1);
	snprintf(from, sizeof(from), "%s/pages-9.img", dir);
	unlink(from);
	/* A parent that is gone, though no page of it is wanted. */
	snprintf(from, sizeof(from), "%s/p/pagemap-17.img", dir);
	snprintf(to, sizeof(to), "%s/p/pagemap-17.was", dir);
	im = images();
	assert_int_equal(rename(from, to), 0);
	assert_int_equal(lp_seal_open(im, dir, LP_VERIFY_AUTO, &s, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "parent/pagemap-17.img"));
	lp_images_close(im);
}

/* Each byte of the seal matters: no flipped one is believed, nor a seal that is cut short or has a tail. */
static void test_damaged_seal(void **state)
{
	struct ib_buf b = { 0 };
	struct lp_images *im;
	struct lp_seal *s;
	struct lp_err err;
	struct found f;
	size_t i;
	int rc;

	seal();
	assert_int_equal(ib_load(dir, LP_SEAL_FILE, &b), 0);
	im = images();
	for (i = 0; i < b.n; i++) {
		/* In the table of sums it is found when a page of that block is wanted. */
		bool table = i >= b.n - 710 * 8;

		if (table && i % 501)
			continue;
		b.p[i] ^= 1 << (i % 8);
		assert_int_equal(ib_save(dir, LP_SEAL_FILE, b.p, b.n), 0);
		rc = lp_seal_open(im, dir, LP_VERIFY_AUTO, &s, &err);
		if (table) {
			assert_int_equal(rc, 0);
			f = verify();
			assert_true(f.n > 0);
			assert_non_null(strstr(f.what, "the seal is damaged there"));
			lp_seal_close(s);
		} else if (rc != -EBADMSG) {
			fail_msg("byte %zu: %d", i, rc);
		}
		b.p[i] ^= 1 << (i % 8);
	}
	for (i = 0; i < b.n; i += i < 200 ? 1 : 97) {
		assert_int_equal(ib_save(dir, LP_SEAL_FILE, b.p, i), 0);
		assert_int_equal(lp_seal_open(im, dir, LP_VERIFY_AUTO, &s, &err), -EBADMSG);
	}
	assert_int_equal(ib_bytes(&b, "x", 1), 0);
	assert_int_equal(ib_save(dir, LP_SEAL_FILE, b.p, b.n), 0);
	assert_int_equal(lp_seal_open(im, dir, LP_VERIFY_AUTO, &s, &err), -EBADMSG);
	lp_images_close(im);
	ib_free(&b);
}

static void must_be(const uint8_t *p, uint64_t page)
{
	uint8_t want[IB_PAGE];

	ib_fill_page(want, 17, PG(page), page < 600);
	assert_memory_equal(p, want, IB_PAGE);
}

/* Whatever is asked for: what comes is right, and the damaged page never comes. */
static void test_source(void **state)
{
	struct lp_images *im = images();
	struct lp_window w = { 0 };
	struct lp_source *src;
	static uint8_t buf[32 * IB_PAGE];
	struct lp_seal *s;
	struct lp_err err;
	char where[200];
	uint64_t i, k, got = 0;
	int rc;

	seal();
	assert_int_equal(lp_seal_open(im, dir, LP_VERIFY_REQUIRE, &s, &err), 0);
	assert_int_equal(lp_source_local_open(im, &src, &err), 0);
	lp_source_local_verify(src, s);
	flip("pages-1.img", 333 * 4096 + 9);
	flip("p/pages-3.img", 60 * 4096 + 1); /* page 650 */
	for (i = 0; i < NPAGES; i++) {
		rc = src->ops->read(src, 0, PG(i), buf, IB_PAGE);
		assert_int_equal(rc, i == 333 || i == 650 ? -EBADMSG : 0);
		if (!rc)
			must_be(buf, i);
		rc = src->ops->try_read(src, 0, PG(i), buf, IB_PAGE);
		assert_true(rc == (i == 333 || i == 650 ? -EBADMSG : 0) || rc == -EAGAIN);
	}
	/* All or nothing, over the border to the parent too. */
	assert_int_equal(src->ops->read(src, 0, PG(590), buf, 32 * IB_PAGE), 0);
	for (k = 0; k < 32; k++)
		must_be(buf + k * IB_PAGE, 590 + k);
	assert_int_equal(src->ops->read(src, 0, PG(320), buf, 32 * IB_PAGE), -EBADMSG);
	for (i = 0; i < NPAGES;) {
		rc = src->ops->map(src, &w, 0, PG(i), (NPAGES - i) * IB_PAGE);
		if (rc) {
			assert_int_equal(rc, -EBADMSG);
			assert_true(i == 333 || i == 650);
			i++;
			continue;
		}
		assert_true(w.img == PG(i) && w.end > w.img);
		for (k = 0; k < (w.end - w.img) / IB_PAGE; k++)
			must_be(w.bytes + k * IB_PAGE, i + k);
		i += k;
		got += k;
	}
	assert_int_equal(got, NPAGES - 2);
	/* Mended: it comes. */
	flip("pages-1.img", 333 * 4096 + 9);
	assert_int_equal(src->ops->map(src, &w, 0, PG(333), IB_PAGE), 0);
	must_be(w.bytes, 333);
	assert_string_equal(src->ops->where(src, 0, PG(333), where, sizeof(where)),
			    "pages-1.img, offset 0x14d000 (page 333)");
	/* Anywhere inside pages, as the server reads eager ones. File 0 is the parent's. */
	assert_int_equal(lp_seal_read(s, im, 1, 100, buf, 3 * IB_PAGE, &k), 0);
	must_be(buf + IB_PAGE - 100, 1);
	assert_int_equal(lp_seal_read(s, im, 0, 60 * IB_PAGE + 4000, buf, 200, &k), -EBADMSG);
	assert_int_equal(k, 60 * IB_PAGE);
	assert_int_equal(lp_seal_read(s, im, 0, 61 * IB_PAGE, buf, 200, &k), 0);
	src->ops->unmap(src, &w);
	src->ops->close(src);
	lp_images_close(im);
}

/* What only somebody hostile writes: all checksums right, and numbers that do not fit. */
static void test_hostile(void **state)
{
	struct lp_seal_file files[2] = { { .id = 1, .size = 4096 * 600 }, { .id = 2, .size = 1 } };
	struct lp_seal_small small[2] = { { .name = "a.img", .name_len = 5 }, { .name = "b", .name_len = 1, .depth = 9 } };
	struct lp_seal_head h = { .files = files, .nfiles = 2, .small = small, .nsmall = 2 }, out;
	uint64_t sums[2] = { 1, 2 };
	struct lp_err err;
	uint8_t *buf;

	assert_int_equal(lp_seal_head_plan(&h), 0);
	assert_int_equal(h.npages, 601);
	assert_int_equal(h.nblocks, 2);
	assert_int_equal(lp_seal_head_put(&h, sums, &buf), 0);
	assert_int_equal(lp_seal_head_get(buf, h.len, h.len + 8 * 601, &out, &err), 0);
	assert_int_equal(out.files[1].first, 600);
	assert_int_equal(out.small[1].depth, 9);
	lp_seal_head_free(&out);
	assert_int_equal(lp_seal_head_get(buf, h.len, h.len + 8 * 601 - 1, &out, &err), -EBADMSG);
	assert_int_equal(lp_seal_head_get(buf, h.len - 8, h.len + 8 * 601, &out, &err), -EBADMSG);
	free(buf);
	small[0].name = "/.img";
	assert_int_equal(lp_seal_head_plan(&h), -EINVAL);
	small[0].name = "c.img";
	small[1].depth = 0;
	assert_int_equal(lp_seal_head_plan(&h), -EINVAL); /* unsorted */
	small[0].name = "..";
	small[0].name_len = 2;
	assert_int_equal(lp_seal_head_plan(&h), -EINVAL);
	small[0].name = "a.img";
	small[0].name_len = 5;
	files[1].size = UINT64_MAX;
	assert_int_equal(lp_seal_head_plan(&h), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_good, setup, teardown),
		cmocka_unit_test_setup_teardown(test_flaws, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_seal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_source, setup, teardown),
		cmocka_unit_test(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
