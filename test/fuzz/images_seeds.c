/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Writes seeds for images_fuzz.c into the directory argv[1]: checkpoints built
 * by imgbuild, packed into its archive.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test/fuzz/images_fuzz.h"
#include "test/lib/imgbuild.h"

#define BASE UINT64_C(0x7f0000000000)
#define PG(n) (BASE + (uint64_t)(n) * IB_PAGE)

static void ok(int rc)
{
	if (rc) {
		fprintf(stderr, "images_seeds: %s\n", strerror(rc < 0 ? -rc : errno));
		exit(1);
	}
}

static void put(struct ib_buf *b, unsigned sel, const void *p, size_t n)
{
	uint8_t head[3] = { (uint8_t)sel, (uint8_t)n, (uint8_t)(n >> 8) };

	ok(ib_bytes(b, head, 3));
	ok(ib_bytes(b, p, n));
}

static void pack(const char *dir, const char *out, const char *name)
{
	struct ib_buf all = { 0 }, b = { 0 };
	char path[PATH_MAX], target[64];
	struct stat st;
	unsigned i, k;
	ssize_t n;

	for (i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, if_links[i]);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = 0;
		for (k = 0; k < IF_NTARGETS; k++)
			if (!strcmp(target, if_targets[k]))
				put(&all, IF_LINK + i, &(uint8_t){ (uint8_t)k }, 1);
	}
	for (i = 0; i < IF_NFILES; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, if_names[i]);
		if (stat(path, &st))
			continue;
		if (if_is_pages(i)) {
			uint8_t pages[2] = { (uint8_t)(st.st_size >> 12), (uint8_t)(st.st_size >> 20) };

			put(&all, i, pages, 2);
			continue;
		}
		ok(ib_load(dir, if_names[i], &b));
		put(&all, i, b.p, b.n);
		ib_free(&b);
	}
	ok(ib_save(out, name, all.p, all.n));
	ib_free(&all);
}

static void write_level(const char *tmp, const char *sub, const struct ib_image *im)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s%s", tmp, sub);
	ok(ib_write(path, im));
}

/* Shared memory of the directory @tmp/@sub. */
static void write_shared(const char *tmp, const char *sub, const struct ib_image *im, const struct ib_ent *ents, size_t n)
{
	static const uint8_t pages[8 * IB_PAGE];
	const struct ib_task t = { .pid = 7, .pages_id = 3, .ents = ents, .nents = n };
	char dir[PATH_MAX / 2], from[PATH_MAX], to[PATH_MAX];

	snprintf(dir, sizeof(dir), "%s%s", tmp, sub);
	snprintf(from, sizeof(from), "%s/pagemap-7.img", dir);
	snprintf(to, sizeof(to), "%s/pagemap-shmem-7.img", dir);
	ok(ib_write_pagemap(dir, im, &t));
	ok(rename(from, to));
	ok(ib_save(dir, "pages-3.img", pages, sizeof(pages)));
}

static void seed(const char *out, unsigned nr, unsigned levels, uint32_t version)
{
	const struct ib_vma vmas[] = { IB_ANON(PG(0), 8), IB_ANON(PG(8), 8),
				       { .start = PG(20), .end = PG(24), .flags = MAP_PRIVATE, .status = IB_REGULAR },
				       { .start = PG(1), .end = PG(2), .status = IB_GUARD } };
	const struct ib_ent low[] = { { .vaddr = PG(0), .nr = 16, .flags = IB_PRESENT, .form = IB_FLAGS } };
	const struct ib_ent mid[] = { { .vaddr = PG(0), .nr = 6, .flags = IB_PARENT, .form = IB_COMPAT },
				      { .vaddr = PG(6), .nr = 4, .form = IB_COMPAT } };
	const struct ib_ent top[] = { { .vaddr = PG(0), .nr = 2, .flags = IB_PRESENT | IB_LAZY },
				      { .vaddr = PG(2), .nr = 8, .flags = IB_PARENT },
				      { .vaddr = PG(10), .nr = 2, .flags = IB_LAZY },
				      { .vaddr = PG(21), .nr = 1, .flags = IB_PRESENT } };
	/* Offsets. */
	const struct ib_ent shm[] = { { .vaddr = 0, .nr = 2, .flags = IB_PRESENT },
				      { .vaddr = 2 * IB_PAGE, .nr = 4, .flags = IB_PARENT },
				      { .vaddr = 7 * IB_PAGE, .nr = 1, .flags = IB_PRESENT } };
	const struct ib_ent shm_low[] = { { .vaddr = 0, .nr = 8, .flags = IB_PRESENT } };
	struct ib_task t[2] = { { .pid = 1, .pages_id = 1, .vmas = vmas, .nvmas = 4 },
				{ .pid = 2, .ppid = 1, .pages_id = 2, .vmas = vmas, .nvmas = 4 } };
	struct ib_image im = { .tasks = t, .ntasks = 2, .version = version };
	char tmp[256], name[32];

	ok(ib_tmpdir(tmp));
	t[0].ents = levels ? top : low;
	t[0].nents = levels ? 4 : 1;
	t[1].ents = low;
	t[1].nents = 1;
	if (nr & 1)
		t[1].state = IB_ZOMBIE;
	im.parent = levels ? "p" : NULL;
	write_level(tmp, "", &im);
	if (levels)
		write_shared(tmp, "", &im, shm, 3);
	im.predump = true;
	if (levels) {
		im.parent = levels > 1 ? "q" : NULL;
		t[0].ents = levels > 1 ? mid : low;
		t[0].nents = levels > 1 ? 2 : 1;
		write_level(tmp, "/p", &im);
		write_shared(tmp, "/p", &im, shm_low, 1);
	}
	if (levels > 1) {
		im.parent = NULL;
		t[0].ents = low;
		t[0].nents = 1;
		write_level(tmp, "/p/q", &im);
	}
	snprintf(name, sizeof(name), "seed-%u", nr);
	pack(tmp, out, name);
	ib_remove(tmp);
}

int main(int argc, char **argv)
{
	unsigned nr = 0, levels, version;

	if (argc != 2) {
		fprintf(stderr, "usage: images_seeds DIR\n");
		return 2;
	}
	if (mkdir(argv[1], 0700) && errno != EEXIST)
		ok(-errno);
	for (levels = 0; levels < 3; levels++)
		for (version = 1; version < 3; version++) {
			seed(argv[1], nr++, levels, version);
			seed(argv[1], nr++, levels, version);
		}
	return 0;
}
