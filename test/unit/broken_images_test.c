/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A corpus of broken checkpoints. Each must be refused with the right errno
 * and one line that names the file and the trouble.
 *
 * With `--write DIR` the corpus is left in DIR, a directory a case, for tests
 * that run the program on it.
 */
#include <errno.h>
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

#include "images/images.h"
#include "test/lib/imgbuild.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))
#define BASE UINT64_C(0x7f0000000000)
#define PG(n) (BASE + (uint64_t)(n) * IB_PAGE)

/*
 * A good checkpoint, for a case to spoil before it is written: tasks 17 and
 * 18 with two VMAs and three entries each, and a parent in the directory "p"
 * inside the checkpoint, with a parent of its own in "p/q".
 */
struct kit {
	struct ib_vma vmas[4];
	struct ib_ent ents[4], below[4];
	struct ib_task tasks[2], ptasks[2];
	struct ib_image im, pim, qim;
	const char *dir;
};

static void kit_init(struct kit *k, const char *dir)
{
	static const struct ib_vma vmas[4] = { IB_ANON(PG(0), 8), IB_ANON(PG(16), 8) };
	size_t i;

	memset(k, 0, sizeof(*k));
	memcpy(k->vmas, vmas, sizeof(vmas));
	k->ents[0] = (struct ib_ent){ .vaddr = PG(0), .nr = 2, .flags = IB_PARENT };
	k->ents[1] = (struct ib_ent){ .vaddr = PG(2), .nr = 2, .flags = IB_PRESENT | IB_LAZY };
	k->ents[2] = (struct ib_ent){ .vaddr = PG(16), .nr = 3, .flags = IB_PRESENT };
	k->below[0] = (struct ib_ent){ .vaddr = PG(0), .nr = 8, .flags = IB_PRESENT };
	for (i = 0; i < 2; i++) {
		k->tasks[i] = (struct ib_task){ .pid = 17 + i, .ppid = i ? 17 : 0, .pages_id = 1 + i, .vmas = k->vmas,
						.nvmas = 2, .ents = k->ents, .nents = 3 };
		k->ptasks[i] = k->tasks[i];
		k->ptasks[i].ents = k->below;
		k->ptasks[i].nents = 1;
	}
	k->im = (struct ib_image){ .tasks = k->tasks, .ntasks = 2, .parent = "p" };
	k->pim = (struct ib_image){ .tasks = k->ptasks, .ntasks = 2, .parent = "q", .predump = true };
	k->qim = (struct ib_image){ .tasks = k->ptasks, .ntasks = 2, .predump = true };
	k->dir = dir;
}

static void ok(int rc)
{
	if (rc) {
		fprintf(stderr, "cannot build the corpus: %s\n", strerror(rc < 0 ? -rc : errno));
		abort();
	}
}

static void kit_write(const struct kit *k)
{
	char p[PATH_MAX];

	ok(ib_write(k->dir, &k->im));
	snprintf(p, sizeof(p), "%s/p", k->dir);
	ok(ib_write(p, &k->pim));
	snprintf(p, sizeof(p), "%s/p/q", k->dir);
	ok(ib_write(p, &k->qim));
}

/* What a case does to files after they were written. */
static const char *at(const struct kit *k, const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", k->dir, name);
	return path;
}

static void cut(struct kit *k, const char *name, off_t off)
{
	struct stat st;

	ok(stat(at(k, name), &st));
	ok(truncate(at(k, name), off >= 0 ? off : st.st_size + off));
}

static void poke(struct kit *k, const char *name, size_t off, uint32_t v)
{
	struct ib_buf b = { 0 };

	ok(ib_load(k->dir, name, &b));
	if (off + 4 > b.n)
		abort();
	memcpy(b.p + off, &v, 4);
	ok(ib_save(k->dir, name, b.p, b.n));
	ib_free(&b);
}

static void append(struct kit *k, const char *name, const void *p, size_t n)
{
	struct ib_buf b = { 0 };

	ok(ib_load(k->dir, name, &b));
	ok(ib_bytes(&b, p, n));
	ok(ib_save(k->dir, name, b.p, b.n));
	ib_free(&b);
}

static void drop(struct kit *k, const char *name)
{
	ok(unlink(at(k, name)));
}

static void symlink_to(struct kit *k, const char *name, const char *target)
{
	unlink(at(k, name));
	ok(symlink(target, at(k, name)));
}

/* A record of the right length whose bytes are no message: tag 1, a varint without end. */
static void garbage(struct kit *k, const char *name, uint32_t magic)
{
	struct ib_buf b = { 0 };
	uint8_t junk[16];

	memset(junk, 0xff, sizeof(junk));
	if (magic != IB_MAGIC_INVENTORY)
		ok(ib_u32(&b, IB_MAGIC_COMMON));
	ok(ib_u32(&b, magic));
	ok(ib_u32(&b, sizeof(junk)));
	ok(ib_bytes(&b, junk, sizeof(junk)));
	ok(ib_save(k->dir, name, b.p, b.n));
	ib_free(&b);
}

/* What a case does to the description, or (k->dir in hand) to the files. */
#define SPOIL(name, ...)                \
	static void name(struct kit *k) \
	{                               \
		__VA_ARGS__;            \
	}

SPOIL(no_inventory, drop(k, "inventory.img"))
SPOIL(no_pstree, drop(k, "pstree.img"))
SPOIL(no_core, drop(k, "core-18.img"))
SPOIL(no_mm, drop(k, "mm-18.img"))
SPOIL(no_pagemap, drop(k, "pagemap-18.img"))
SPOIL(no_pages, drop(k, "pages-2.img"))
SPOIL(no_parent_pages, drop(k, "p/pages-1.img"))
SPOIL(no_parent_pagemap, drop(k, "p/pagemap-17.img"))
SPOIL(empty_inventory, cut(k, "inventory.img", 0))
SPOIL(empty_pstree, cut(k, "pstree.img", 0))
SPOIL(empty_core, cut(k, "core-17.img", 0))
SPOIL(empty_mm, cut(k, "mm-17.img", 0))
SPOIL(empty_pagemap, cut(k, "pagemap-17.img", 0))
SPOIL(cut_magic, cut(k, "mm-17.img", 3))
SPOIL(cut_second_magic, cut(k, "pagemap-17.img", 6))
SPOIL(cut_after_magic, cut(k, "pstree.img", 8))
SPOIL(cut_no_head, cut(k, "pagemap-17.img", 8))
SPOIL(cut_mm_none, cut(k, "mm-17.img", 8))
SPOIL(cut_in_size, cut(k, "pagemap-17.img", 10))
SPOIL(cut_in_record, cut(k, "mm-17.img", -5))
SPOIL(cut_in_entry, cut(k, "pagemap-17.img", -1))
SPOIL(cut_pstree, cut(k, "pstree.img", -1))
SPOIL(cut_core, cut(k, "core-17.img", -1))
SPOIL(cut_inventory, cut(k, "inventory.img", -1))
SPOIL(cut_parent, cut(k, "p/pagemap-17.img", -1))
SPOIL(size_4g, poke(k, "mm-17.img", 8, UINT32_MAX))
SPOIL(size_1g_sparse, poke(k, "mm-17.img", 8, 1u << 30); ok(truncate(at(k, "mm-17.img"), (off_t)3 << 30)))
SPOIL(zeros_sparse, ok(truncate(at(k, "pagemap-17.img"), (off_t)1 << 40)))
SPOIL(trailing, append(k, "mm-17.img", "abc", 3))
SPOIL(trailing_record, append(k, "core-17.img", "\0\0\0\0", 4))
SPOIL(magic_inventory, poke(k, "inventory.img", 0, IB_MAGIC_PSTREE))
SPOIL(magic_pstree, poke(k, "pstree.img", 4, IB_MAGIC_MM))
SPOIL(magic_core, poke(k, "core-17.img", 4, IB_MAGIC_MM))
SPOIL(magic_mm, poke(k, "mm-17.img", 4, IB_MAGIC_CORE))
SPOIL(magic_pagemap, poke(k, "pagemap-17.img", 4, IB_MAGIC_MM))
SPOIL(magic_common, poke(k, "pagemap-17.img", 0, 0x55105940))
SPOIL(magic_parent, poke(k, "p/q/pagemap-17.img", 4, 0))
SPOIL(junk_inventory, garbage(k, "inventory.img", IB_MAGIC_INVENTORY))
SPOIL(junk_pstree, garbage(k, "pstree.img", IB_MAGIC_PSTREE))
SPOIL(junk_core, garbage(k, "core-17.img", IB_MAGIC_CORE))
SPOIL(junk_mm, garbage(k, "mm-17.img", IB_MAGIC_MM))
SPOIL(junk_pagemap, garbage(k, "pagemap-17.img", IB_MAGIC_PAGEMAP))
SPOIL(junk_entry, append(k, "pagemap-17.img", "\4\0\0\0\xff\xff\xff\xff", 8))
SPOIL(empty_entry, append(k, "pagemap-17.img", "\0\0\0\0", 4))
SPOIL(version_3, k->im.version = 3)
SPOIL(v1_with_common, k->im.version = 1; k->pim.version = 2)
SPOIL(dup_pid, k->tasks[1].pid = 17)
SPOIL(zero_pid, k->tasks[1].pid = 0)
SPOIL(huge_pid, k->tasks[1].pid = UINT32_MAX)
SPOIL(task_state, k->tasks[0].state = 9)
SPOIL(vma_overlap, k->vmas[1].start = PG(7))
SPOIL(vma_unsorted, k->vmas[1] = (struct ib_vma)IB_ANON(PG(0) - IB_PAGE, 1))
SPOIL(vma_backwards, k->vmas[1].end = PG(15))
SPOIL(vma_empty, k->vmas[1].end = PG(16))
SPOIL(vma_unaligned, k->vmas[1].end++)
SPOIL(vma_high, k->vmas[1].end = UINT64_C(1) << 63 | IB_PAGE)
SPOIL(vma_none, k->tasks[0].nvmas = 0)
SPOIL(ent_lazy_locked, k->vmas[0].flags |= MAP_LOCKED)
SPOIL(ent_unaligned, k->ents[1].vaddr += 8)
SPOIL(ent_overlap, k->ents[1].vaddr = PG(1))
SPOIL(ent_unsorted, k->ents[2].vaddr = PG(-1))
SPOIL(ent_zero, k->ents[1].nr = 0)
SPOIL(ent_zero_compat, k->ents[1].nr = 0; k->ents[1].form = IB_COMPAT)
SPOIL(ent_overflow, k->ents[2].nr = UINT64_MAX)
SPOIL(ent_overflow_to_fit, k->ents[2].nr = (UINT64_C(1) << 52) + 1)
SPOIL(ent_high, k->ents[2].vaddr = UINT64_C(0xffffffffff600000); k->ents[2].nr = 1)
SPOIL(ent_huge, k->ents[2].nr = UINT64_C(1) << 34; k->im.sparse = true)
SPOIL(ent_no_vma, k->ents[2].vaddr = PG(12))
SPOIL(ent_past_vma, k->ents[2].vaddr = PG(22))
SPOIL(ent_over_gap, k->ents[1].nr = 14; k->ents[1].flags = IB_LAZY; k->tasks[0].nents = k->tasks[1].nents = 2)
SPOIL(ent_flags, k->ents[1].flags |= 8)
SPOIL(ent_no_flags, k->ents[1].flags = 0)
SPOIL(ent_both, k->ents[0].flags |= IB_PRESENT)
SPOIL(ent_unknown, k->ents[1].unknown = 6)
SPOIL(head_unknown, k->tasks[0].head_unknown = 2)
SPOIL(parent_unknown, k->below[0].unknown = 7)
SPOIL(pages_short, cut(k, "pages-1.img", -1))
SPOIL(pages_empty, cut(k, "pages-1.img", 0))
SPOIL(parent_pages_short, cut(k, "p/pages-1.img", -4096))
SPOIL(pages_dir, drop(k, "pages-1.img"); ok(mkdir(at(k, "pages-1.img"), 0700)))
SPOIL(pages_fifo, drop(k, "pages-1.img"); ok(mkfifo(at(k, "pages-1.img"), 0600)))
SPOIL(pages_null, symlink_to(k, "pages-1.img", "/dev/null"))
SPOIL(pagemap_fifo, drop(k, "pagemap-17.img"); ok(mkfifo(at(k, "pagemap-17.img"), 0600)))
SPOIL(mm_dir, drop(k, "mm-17.img"); ok(mkdir(at(k, "mm-17.img"), 0700)))
SPOIL(mm_self_link, symlink_to(k, "mm-17.img", "mm-17.img"))
SPOIL(loop_direct, symlink_to(k, "parent", "."))
SPOIL(loop_indirect, symlink_to(k, "p/q/parent", "../.."))
SPOIL(loop_middle, symlink_to(k, "p/parent", "../p"))
SPOIL(loop_symlink, symlink_to(k, "parent", "parent"))
SPOIL(dangling, symlink_to(k, "parent", "../gone"))
SPOIL(dangling_deep, symlink_to(k, "p/parent", "gone"))
SPOIL(parent_is_file, symlink_to(k, "parent", "mm-17.img"))
SPOIL(parent_none, drop(k, "parent"))
SPOIL(parent_lacks, k->below[0].nr = 1)
SPOIL(parent_lacks_first, k->below[0].vaddr = PG(1))
SPOIL(parent_on_source, k->below[0].flags = IB_LAZY)
SPOIL(grandparent_lacks, k->below[0].flags = IB_PARENT)

static void too_deep(struct kit *k)
{
	char path[PATH_MAX], target[32];
	int i;

	drop(k, "parent");
	for (i = 0; i < 300; i++) {
		snprintf(path, sizeof(path), "%s/d%d", k->dir, i);
		ok(mkdir(path, 0700));
		strcat(path, "/parent");
		snprintf(target, sizeof(target), "../d%d", i + 1);
		if (i < 299)
			ok(symlink(target, path));
	}
	symlink_to(k, "parent", "d0");
}

SPOIL(no_dir, ib_remove(k->dir))

static const struct broken {
	const char *name;
	void (*pre)(struct kit *k);
	void (*post)(struct kit *k);
	int rc;
	const char *file, *words;
} cases[] = {
	{ "no-inventory", NULL, no_inventory, -ENOENT, "inventory.img", "missing" },
	{ "no-pstree", NULL, no_pstree, -ENOENT, "pstree.img", "missing" },
	{ "no-core", NULL, no_core, -ENOENT, "core-18.img", "missing" },
	{ "no-mm", NULL, no_mm, -ENOENT, "mm-18.img", "missing" },
	{ "no-pagemap", NULL, no_pagemap, -ENOENT, "pagemap-18.img", "missing" },
	{ "no-pages", NULL, no_pages, -ENOENT, "pages-2.img", "missing" },
	{ "no-parent-pages", NULL, no_parent_pages, -ENOENT, "parent/pages-1.img", "missing" },
	{ "no-parent-pagemap", NULL, no_parent_pagemap, -EINVAL, "pagemap-17.img", "parent/pagemap-17.img is missing" },
	{ "empty-inventory", NULL, empty_inventory, -EINVAL, "inventory.img", "truncated" },
	{ "empty-pstree", NULL, empty_pstree, -EINVAL, "pstree.img", "truncated" },
	{ "empty-core", NULL, empty_core, -EINVAL, "core-17.img", "truncated" },
	{ "empty-mm", NULL, empty_mm, -EINVAL, "mm-17.img", "truncated" },
	{ "empty-pagemap", NULL, empty_pagemap, -EINVAL, "pagemap-17.img", "truncated" },
	{ "cut-magic", NULL, cut_magic, -EINVAL, "mm-17.img", "truncated in its magic" },
	{ "cut-second-magic", NULL, cut_second_magic, -EINVAL, "pagemap-17.img", "truncated in its magic" },
	{ "cut-after-magic", NULL, cut_after_magic, -EINVAL, "pstree.img", "no task" },
	{ "cut-no-head", NULL, cut_no_head, -EINVAL, "pagemap-17.img", "no head" },
	{ "cut-mm-none", NULL, cut_mm_none, -EINVAL, "mm-17.img", "no record" },
	{ "cut-in-size", NULL, cut_in_size, -EINVAL, "pagemap-17.img", "truncated in the size of record 0" },
	{ "cut-in-record", NULL, cut_in_record, -EINVAL, "mm-17.img", "truncated: record 0" },
	{ "cut-in-entry", NULL, cut_in_entry, -EINVAL, "pagemap-17.img", "truncated: record 3" },
	{ "cut-pstree", NULL, cut_pstree, -EINVAL, "pstree.img", "truncated: record 1" },
	{ "cut-core", NULL, cut_core, -EINVAL, "core-17.img", "truncated" },
	{ "cut-inventory", NULL, cut_inventory, -EINVAL, "inventory.img", "truncated" },
	{ "cut-parent", NULL, cut_parent, -EINVAL, "parent/pagemap-17.img", "truncated: record 1" },
	{ "size-4g", NULL, size_4g, -EINVAL, "mm-17.img", "record 0 has 4294967295 bytes" },
	{ "size-1g-sparse", NULL, size_1g_sparse, -EINVAL, "mm-17.img", "more than" },
	{ "zeros-sparse", NULL, zeros_sparse, -EINVAL, "pagemap-17.img", "entry 3 cannot be parsed" },
	{ "trailing", NULL, trailing, -EINVAL, "mm-17.img", "3 bytes follow" },
	{ "trailing-record", NULL, trailing_record, -EINVAL, "core-17.img", "4 bytes follow" },
	{ "magic-inventory", NULL, magic_inventory, -EINVAL, "inventory.img", "wrong magic 0x50273030" },
	{ "magic-pstree", NULL, magic_pstree, -EINVAL, "pstree.img", "wrong magic" },
	{ "magic-core", NULL, magic_core, -EINVAL, "core-17.img", "wrong magic" },
	{ "magic-mm", NULL, magic_mm, -EINVAL, "mm-17.img", "wrong magic" },
	{ "magic-pagemap", NULL, magic_pagemap, -EINVAL, "pagemap-17.img", "wrong magic" },
	{ "magic-common", NULL, magic_common, -EINVAL, "pagemap-17.img", "wrong magic 0x55105940, wanted 0x54564319" },
	{ "magic-parent", NULL, magic_parent, -EINVAL, "parent/parent/pagemap-17.img", "wrong magic" },
	{ "junk-inventory", NULL, junk_inventory, -EINVAL, "inventory.img", "not an inventory" },
	{ "junk-pstree", NULL, junk_pstree, -EINVAL, "pstree.img", "entry 0 is not a task" },
	{ "junk-core", NULL, junk_core, -EINVAL, "core-17.img", "no task state" },
	{ "junk-mm", NULL, junk_mm, -EINVAL, "mm-17.img", "not a list of VMAs" },
	{ "junk-pagemap", NULL, junk_pagemap, -EINVAL, "pagemap-17.img", "not a head" },
	{ "junk-entry", NULL, junk_entry, -EINVAL, "pagemap-17.img", "entry 3 cannot be parsed" },
	{ "empty-entry", NULL, empty_entry, -EINVAL, "pagemap-17.img", "entry 3 cannot be parsed" },
	{ "version-unknown", version_3, NULL, -ENOTSUP, "inventory.img", "version 3" },
	{ "version-mixed", v1_with_common, NULL, -EINVAL, "parent/parent/pagemap-17.img", "wrong magic" },
	{ "dup-pid", dup_pid, NULL, -EINVAL, "pstree.img", "pid 17 is there twice" },
	{ "zero-pid", zero_pid, NULL, -EINVAL, "pstree.img", "pid 0" },
	{ "huge-pid", huge_pid, NULL, -EINVAL, "pstree.img", "pid 4294967295" },
	{ "task-state", task_state, NULL, -ENOTSUP, "core-17.img", "task state 9" },
	{ "vma-overlap", vma_overlap, NULL, -EINVAL, "mm-17.img", "VMA 1 (0x7f0000007000-0x7f0000018000) overlaps" },
	{ "vma-unsorted", vma_unsorted, NULL, -EINVAL, "mm-17.img", "unsorted" },
	{ "vma-backwards", vma_backwards, NULL, -EINVAL, "mm-17.img", "ends before it starts" },
	{ "vma-empty", vma_empty, NULL, -EINVAL, "mm-17.img", "is empty" },
	{ "vma-unaligned", vma_unaligned, NULL, -EINVAL, "mm-17.img", "not page aligned" },
	{ "vma-high", vma_high, NULL, -EINVAL, "mm-17.img", "ends past 2^63" },
	{ "vma-none", vma_none, NULL, -EINVAL, "mm-17.img", "no VMA" },
	{ "ent-lazy-locked", ent_lazy_locked, NULL, -EINVAL, "pagemap-17.img", "entry 1 (0x7f0000002000-0x7f0000004000) is lazy, but" },
	{ "ent-unaligned", ent_unaligned, NULL, -EINVAL, "pagemap-17.img", "entry 1 (0x7f0000002008" },
	{ "ent-overlap", ent_overlap, NULL, -EINVAL, "pagemap-17.img", "overlaps" },
	{ "ent-unsorted", ent_unsorted, NULL, -EINVAL, "pagemap-17.img", "unsorted" },
	{ "ent-zero", ent_zero, NULL, -EINVAL, "pagemap-17.img", "zero pages" },
	{ "ent-zero-compat", ent_zero_compat, NULL, -EINVAL, "pagemap-17.img", "zero pages" },
	{ "ent-overflow", ent_overflow, NULL, -EINVAL, "pagemap-17.img", "ends past 2^63" },
	{ "ent-overflow-to-fit", ent_overflow_to_fit, NULL, -EINVAL, "pagemap-17.img", "ends past 2^63" },
	{ "ent-high", ent_high, NULL, -EINVAL, "pagemap-17.img", "ends past 2^63" },
	{ "ent-huge", ent_huge, NULL, -EINVAL, "pagemap-17.img", "ends past its VMA (0x7f0000018000)" },
	{ "ent-no-vma", ent_no_vma, NULL, -EINVAL, "pagemap-17.img", "is in no VMA" },
	{ "ent-past-vma", ent_past_vma, NULL, -EINVAL, "pagemap-17.img", "ends past its VMA (0x7f0000018000)" },
	{ "ent-over-gap", ent_over_gap, NULL, -EINVAL, "pagemap-17.img", "ends past its VMA (0x7f0000008000)" },
	{ "ent-flags", ent_flags, NULL, -ENOTSUP, "pagemap-17.img", "unknown flags 0x8" },
	{ "ent-no-flags", ent_no_flags, NULL, -EINVAL, "pagemap-17.img", "no place for its pages" },
	{ "ent-both", ent_both, NULL, -EINVAL, "pagemap-17.img", "both here and in the parent" },
	{ "ent-unknown", ent_unknown, NULL, -ENOTSUP, "pagemap-17.img", "unknown field 6" },
	{ "head-unknown", head_unknown, NULL, -ENOTSUP, "pagemap-17.img", "unknown field 2" },
	{ "parent-unknown", parent_unknown, NULL, -ENOTSUP, "parent/parent/pagemap-17.img", "unknown field 7" },
	{ "pages-short", NULL, pages_short, -EINVAL, "pages-1.img", "too short: 20479 bytes" },
	{ "pages-empty", NULL, pages_empty, -EINVAL, "pages-1.img", "too short: 0 bytes" },
	{ "parent-pages-short", NULL, parent_pages_short, -EINVAL, "parent/pages-1.img", "too short" },
	{ "pages-dir", NULL, pages_dir, -EINVAL, "pages-1.img", "not a regular file" },
	{ "pages-fifo", NULL, pages_fifo, -EINVAL, "pages-1.img", "not a regular file" },
	{ "pages-null", NULL, pages_null, -EINVAL, "pages-1.img", "not a regular file" },
	{ "pagemap-fifo", NULL, pagemap_fifo, -EINVAL, "pagemap-17.img", "not a regular file" },
	{ "mm-dir", NULL, mm_dir, -EINVAL, "mm-17.img", "not a regular file" },
	{ "mm-self-link", NULL, mm_self_link, -ELOOP, "mm-17.img", "symbolic links" },
	{ "loop-direct", NULL, loop_direct, -ELOOP, "parent", "loop" },
	{ "loop-indirect", NULL, loop_indirect, -ELOOP, "parent/parent/parent", "loop" },
	{ "loop-middle", NULL, loop_middle, -ELOOP, "parent/parent", "loop" },
	{ "loop-symlink", NULL, loop_symlink, -ELOOP, "parent", "symbolic links" },
	{ "dangling", NULL, dangling, -ENOENT, "parent", "dangling" },
	{ "dangling-deep", NULL, dangling_deep, -ENOENT, "parent/parent", "dangling" },
	{ "too-deep", NULL, too_deep, -ELOOP, "parent", "more than 256 parents" },
	{ "parent-is-file", NULL, parent_is_file, -ENOTDIR, "parent", "cannot open" },
	{ "parent-none", NULL, parent_none, -EINVAL, "pagemap-17.img", "there is no parent directory" },
	{ "parent-lacks", parent_lacks, NULL, -EINVAL, "pagemap-17.img", "parent/pagemap-17.img lacks page 0x7f0000001000" },
	{ "parent-lacks-first", parent_lacks_first, NULL, -EINVAL, "pagemap-17.img", "lacks page 0x7f0000000000" },
	{ "parent-on-source", parent_on_source, NULL, -EINVAL, "pagemap-17.img", "has no data for page" },
	{ "grandparent-lacks", grandparent_lacks, NULL, -EINVAL, "parent/parent/pagemap-17.img",
	  "there is no parent directory" },
	{ "no-directory", NULL, no_dir, -ENOENT, "no-directory", "cannot open" },
};

static void build(const struct broken *c, const char *dir)
{
	struct kit k;

	kit_init(&k, dir);
	if (c->pre)
		c->pre(&k);
	kit_write(&k);
	if (c->post)
		c->post(&k);
}

/* The lowest free descriptor: the same before and after when none leaked. */
static int free_fd(void)
{
	int fd = dup(STDERR_FILENO);

	close(fd);
	return fd;
}

static void test_case(void **state)
{
	const struct broken *c = *state;
	struct lp_images *im = (void *)1;
	struct lp_err err = { "" };
	char tmp[256], dir[512];
	int rc, fd;

	assert_int_equal(ib_tmpdir(tmp), 0);
	snprintf(dir, sizeof(dir), "%s/%s", tmp, c->name);
	build(c, dir);
	fd = free_fd();
	rc = lp_images_open(dir, &im, &err);
	assert_int_equal(free_fd(), fd);
	ib_remove(tmp);
	if (rc != c->rc || !strstr(err.msg, c->words))
		fail_msg("%s: got %d `%s`, wanted %d `%s`", c->name, rc, err.msg, c->rc, c->words);
	assert_null(im);
	if (c->post != no_dir)
		assert_int_equal(strncmp(err.msg, c->file, strlen(c->file)), 0);
	assert_non_null(strstr(err.msg, c->file));
	assert_null(strchr(err.msg, '\n'));
	/* A remedy, or the text of errno, follows. */
	assert_non_null(strchr(err.msg + strlen(c->file) + 1, ':'));
}

/* The kit unspoilt is good; else every case would pass for the wrong reason. */
static void test_kit(void **state)
{
	const struct broken none = { .name = "none" };
	struct lp_err err = { "" };
	struct lp_images *im;
	char tmp[256], dir[512];

	assert_int_equal(ib_tmpdir(tmp), 0);
	snprintf(dir, sizeof(dir), "%s/good", tmp);
	build(&none, dir);
	if (lp_images_open(dir, &im, &err))
		fail_msg("%s", err.msg);
	assert_int_equal(lp_images_depth(im), 2);
	lp_images_close(im);
	assert_int_equal(unlink(strcat(dir, "/inventory.img")), 0);
	*strrchr(dir, '/') = 0;
	assert_int_equal(lp_images_open(dir, &im, NULL), -ENOENT);
	ib_remove(tmp);
}

int main(int argc, char **argv)
{
	struct CMUnitTest tests[N(cases) + 1];
	char dir[PATH_MAX];
	size_t i;

	if (argc == 3 && !strcmp(argv[1], "--write")) {
		for (i = 0; i < N(cases); i++) {
			snprintf(dir, sizeof(dir), "%s/%s", argv[2], cases[i].name);
			build(&cases[i], dir);
		}
		return 0;
	}
	for (i = 0; i < N(cases); i++)
		tests[i] = (struct CMUnitTest){ .name = cases[i].name, .test_func = test_case,
						.initial_state = (void *)&cases[i] };
	tests[i] = (struct CMUnitTest)cmocka_unit_test(test_kit);
	return cmocka_run_group_tests_name("broken images", tests, NULL, NULL);
}
