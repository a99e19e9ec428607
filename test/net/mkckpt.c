/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A checkpoint for tests of the network: mkckpt DIR MEGABYTES [SEED]. Two tasks;
 * fragmented and large mappings, zeros among the pages, eager pages, a parent;
 * shared memory that is in both.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test/lib/imgbuild.h"

#define BASE UINT64_C(0x7f0000000000)
#define PG(n) (BASE + (uint64_t)(n) * IB_PAGE)
#define HOLES 200

static void ok(int rc, const char *what)
{
	if (!rc)
		return;
	fprintf(stderr, "mkckpt: %s: %s\n", what, strerror(rc < 0 ? -rc : errno));
	exit(1);
}

/* Random pages, every eighth of zeros, some of text, a third in rows of the same one, into the sparse file. */
static void fill(const char *dir, unsigned id, unsigned seed)
{
	char path[300];
	struct stat st;
	uint64_t page[512], row[512], x = 88172645463325252ull + seed;
	off_t off;
	int fd, i;

	snprintf(path, sizeof(path), "%s/pages-%u.img", dir, id);
	fd = open(path, O_RDWR | O_CLOEXEC);
	ok(fd < 0 ? -errno : 0, path);
	ok(fstat(fd, &st), path);
	for (off = 0; off < st.st_size; off += sizeof(page)) {
		if (off / sizeof(page) % 8 == 3)
			continue;
		for (i = 0; i < 512; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			page[i] = off / sizeof(page) % 4 == 1 ? x & 0x0f0f000000000000 : x;
		}
		if (!off)
			memcpy(row, page, sizeof(row));
		if (pwrite(fd, off / sizeof(page) % 32 < 10 ? row : page, sizeof(page), off) != sizeof(page))
			ok(-errno, path);
	}
	close(fd);
}

/* pagemap-shmem-77.img of the directory @dir, and what it describes. */
static void shared(const char *dir, const struct ib_image *im, const struct ib_ent *ents, size_t n, unsigned id, unsigned seed)
{
	const struct ib_task t = { .pid = 4000, .pages_id = id, .ents = ents, .nents = n };
	char from[300], to[300];
	uint64_t pages = 0;
	size_t i;
	int fd;

	ok(ib_write_pagemap(dir, im, &t), dir);
	snprintf(from, sizeof(from), "%s/pagemap-4000.img", dir);
	snprintf(to, sizeof(to), "%s/pagemap-shmem-77.img", dir);
	ok(rename(from, to), to);
	for (i = 0; i < n; i++)
		pages += ents[i].flags & IB_PRESENT ? ents[i].nr : 0;
	snprintf(to, sizeof(to), "%s/pages-%u.img", dir, id);
	fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ok(fd < 0 ? -errno : 0, to);
	ok(ftruncate(fd, (off_t)(pages * IB_PAGE)), to);
	close(fd);
	fill(dir, id, seed);
}

int main(int argc, char **argv)
{
	uint64_t mb = argc > 2 ? strtoull(argv[2], NULL, 10) : 0, pages = mb * 256;
	unsigned seed = argc > 3 ? strtoul(argv[3], NULL, 10) : 1, i;
	static struct ib_ent frag[2 * HOLES + 4];
	/* Offsets, not addresses. */
	static const struct ib_ent shm[] = { { .vaddr = 0, .nr = 4, .flags = IB_PRESENT },
					     { .vaddr = 4 * IB_PAGE, .nr = 8, .flags = IB_PARENT },
					     { .vaddr = 20 * IB_PAGE, .nr = 2, .flags = IB_PRESENT } };
	static const struct ib_ent shm_low[] = { { .vaddr = 0, .nr = 10, .flags = IB_PRESENT },
						 { .vaddr = 10 * IB_PAGE, .nr = 5, .flags = IB_PRESENT } };
	struct ib_ent low[1], big[3];
	struct ib_vma vmas[2];
	struct ib_task t[2] = { { .pid = 1, .pages_id = 1 }, { .pid = 2, .ppid = 1, .pages_id = 2 } };
	struct ib_image im = { .tasks = t, .ntasks = 2, .sparse = true, .parent = "parent-1", .gen = seed };
	char parent[300];
	size_t n = 0;

	if (argc < 3 || !mb) {
		fputs("usage: mkckpt DIR MEGABYTES [SEED]\n", stderr);
		return 2;
	}
	/* Task 1: one large mapping, its first pages eager, its last quarter in the parent. */
	vmas[0] = (struct ib_vma)IB_ANON(PG(0), pages);
	big[0] = (struct ib_ent){ .vaddr = PG(0), .nr = 3, .flags = IB_PRESENT };
	big[1] = (struct ib_ent){ .vaddr = PG(3), .nr = pages * 3 / 4 - 3, .flags = IB_PRESENT | IB_LAZY };
	big[2] = (struct ib_ent){ .vaddr = PG(pages * 3 / 4), .nr = pages - pages * 3 / 4, .flags = IB_PARENT | IB_LAZY };
	t[0].vmas = &vmas[0];
	t[0].nvmas = 1;
	t[0].ents = big;
	t[0].nents = 3;
	/* Task 2: pieces of one to five pages with gaps. */
	vmas[1] = (struct ib_vma)IB_ANON(PG(0), HOLES * 8);
	for (i = 0; i < HOLES; i++)
		frag[n++] = (struct ib_ent){ .vaddr = PG(8 * i + i % 3), .nr = 1 + i % 5,
					     .flags = IB_PRESENT | (i % 7 ? IB_LAZY : 0) };
	t[1].vmas = &vmas[1];
	t[1].nvmas = 1;
	t[1].ents = frag;
	t[1].nents = n;
	ok(ib_write(argv[1], &im), argv[1]);
	fill(argv[1], 1, seed);
	fill(argv[1], 2, seed + 1);
	shared(argv[1], &im, shm, 3, 3, seed + 3);
	im.parent = NULL;
	im.predump = true;
	im.ntasks = 1;
	low[0] = (struct ib_ent){ .vaddr = PG(0), .nr = pages, .flags = IB_PRESENT | IB_LAZY };
	t[0].ents = low;
	t[0].nents = 1;
	snprintf(parent, sizeof(parent), "%s/parent-1", argv[1]);
	ok(ib_write(parent, &im), parent);
	fill(parent, 1, seed + 2);
	shared(parent, &im, shm_low, 2, 9, seed + 4);
	return 0;
}
