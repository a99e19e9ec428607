/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: the reader of checkpoints on arbitrary files.
 *
 * The input is an archive: records of u8 selector, u16 length (little endian)
 * and that many bytes of file contents. It is laid out in a directory of its
 * own on /dev/shm, opened, and when it opens, everything in it is looked at.
 * Selectors and files are in images_fuzz.h. Checks of the results abort.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "images/images.h"
#include "images/shared.h"
#include "test/fuzz/images_fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libFuzzer calls plain functions: what lasts between runs has to be global. */
static char root[64];
static int files[IF_NFILES]; /* open for writing, all the time */
static bool linked[3];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void path_of(char *path, size_t len, const char *file)
{
	snprintf(path, len, "%s/%s", root, file);
}

static void clean_up(void)
{
	char path[128];
	int i;

	for (i = 0; i < IF_NFILES; i++) {
		path_of(path, sizeof(path), if_names[i]);
		unlink(path);
	}
	for (i = 0; i < 3; i++) {
		path_of(path, sizeof(path), if_links[i]);
		unlink(path);
	}
	for (i = 2; i >= 0; i--) {
		path_of(path, sizeof(path), if_dirs[i]);
		rmdir(path);
	}
	rmdir(root);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[128];
	int i;

	snprintf(root, sizeof(root), "/dev/shm/lpfuzz.XXXXXX");
	if (!mkdtemp(root))
		die("/dev/shm");
	atexit(clean_up);
	for (i = 0; i < 3; i++) {
		path_of(path, sizeof(path), if_dirs[i]);
		if (mkdir(path, 0700))
			die(path);
	}
	memset(files, -1, sizeof(files));
	return 0;
}

/* Files that the input does not name must be missing, as in a real directory. */
static void put_file(unsigned sel, const uint8_t *p, size_t n)
{
	char path[128];

	path_of(path, sizeof(path), if_names[sel]);
	if (files[sel] < 0) {
		files[sel] = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		if (files[sel] < 0)
			die(path);
	}
	if (if_is_pages(sel)) {
		/* Only the length matters: a page for each two bytes of the value. */
		uint64_t len = n >= 2 ? (uint64_t)(p[0] | p[1] << 8) * 4096 : 0;

		if (ftruncate(files[sel], (off_t)len))
			die(path);
	} else if (ftruncate(files[sel], 0) || (n && pwrite(files[sel], p, n, 0) != (ssize_t)n)) {
		die(path);
	}
}

static void put_link(unsigned i, unsigned target)
{
	char path[128];

	if (linked[i])
		return;
	path_of(path, sizeof(path), if_links[i]);
	if (symlink(if_targets[target % IF_NTARGETS], path))
		die(path);
	linked[i] = true;
}

static void wipe(void)
{
	char path[128];
	int i;

	for (i = 0; i < IF_NFILES; i++) {
		if (files[i] < 0)
			continue;
		close(files[i]);
		files[i] = -1;
		path_of(path, sizeof(path), if_names[i]);
		unlink(path);
	}
	for (i = 0; i < 3; i++) {
		if (!linked[i])
			continue;
		path_of(path, sizeof(path), if_links[i]);
		unlink(path);
		linked[i] = false;
	}
}

static void lay_out(const uint8_t *p, size_t n)
{
	size_t len;
	unsigned sel;

	while (n >= 3) {
		sel = p[0];
		len = p[1] | (size_t)p[2] << 8;
		p += 3;
		n -= 3;
		if (len > n)
			len = n;
		if (sel >= IF_LINK && sel < IF_LINK + 3)
			put_link(sel - IF_LINK, len ? p[0] : 0);
		else
			put_file(sel % IF_NFILES, p, len);
		p += len;
		n -= len;
	}
}

struct seen {
	uint64_t pos, bytes;
};

#define MUST(x)                \
	do {                   \
		if (!(x))      \
			abort(); \
	} while (0)

static int see_range(void *arg, uint64_t start, uint64_t end, const struct lp_vma *vma, const struct lp_extent *ext)
{
	struct seen *s = arg;

	MUST(start >= s->pos && start < end && vma->lazy && ext->lazy);
	MUST(start >= vma->start && end <= vma->end && start >= ext->start && end <= ext->end);
	s->pos = end;
	s->bytes += end - start;
	return 0;
}

static void check_task(const struct lp_images *im, const struct lp_task *t)
{
	const struct lp_extent *next;
	struct seen s = { 0, 0 };
	uint64_t pos = 0, bytes = 0;
	size_t i;

	MUST(lp_images_find(im, t->pid) == t);
	MUST(t->has_mm || (!t->nvmas && !t->nextents));
	for (i = 0; i < t->nvmas; i++) {
		MUST(t->vmas[i].start >= pos && t->vmas[i].start < t->vmas[i].end);
		pos = t->vmas[i].end;
	}
	pos = 0;
	for (i = 0; i < t->nextents; i++) {
		const struct lp_extent *x = &t->extents[i];
		uint64_t len = x->end - x->start;

		MUST(x->start >= pos && x->start < x->end && !(x->start % 4096) && !(x->end % 4096));
		MUST(lp_task_lookup(t, x->start, NULL) == x && lp_task_lookup(t, x->end - 1, NULL) == x);
		if (x->start > pos) {
			next = NULL;
			MUST(!lp_task_lookup(t, x->start - 1, &next) && next == x);
		}
		if (x->kind == LP_EXT_DATA) {
			MUST(x->file < lp_images_nfiles(im));
			MUST(x->off <= lp_images_file(im, x->file)->size);
			MUST(len <= lp_images_file(im, x->file)->size - x->off);
		}
		pos = x->end;
		bytes += len;
	}
	MUST(bytes == t->lazy_bytes + t->eager_bytes);
	MUST(!lp_task_lazy_ranges(t, see_range, &s) && s.bytes <= t->lazy_bytes);
}

/* Shared memory: as many bytes as it says, not more, and a pagemap that can be read again. */
static void check_shared(const struct lp_images *im)
{
	struct lp_err err = { "" };
	struct lp_shared *s;
	uint8_t buf[4096];
	uint64_t off;
	size_t i;

	if (lp_shared_open(im, root, &s, &err)) {
		MUST(!s && err.msg[0] && !strchr(err.msg, '\n'));
		return;
	}
	for (i = 0; i < lp_shared_count(s); i++) {
		const struct lp_shared_mem *m = lp_shared_mem(s, i);

		MUST(m->len && m->bytes && lp_shared_has(s, m->pagemap) && lp_shared_has(s, m->pages));
		for (off = 0; off < m->bytes && off < 100 * sizeof(buf); off += sizeof(buf))
			MUST(!lp_shared_read(s, i, off, buf, sizeof(buf)));
		MUST(lp_shared_read(s, i, m->bytes - 1, buf, 2) == -EINVAL);
	}
	lp_shared_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lp_err err = { "" };
	struct lp_images *im;
	size_t i;

	lay_out(data, size);
	if (lp_images_open(root, &im, &err)) {
		MUST(!im && err.msg[0] && !strchr(err.msg, '\n'));
	} else {
		for (i = 0; i < lp_images_ntasks(im); i++)
			check_task(im, lp_images_task(im, i));
		check_shared(im);
		lp_images_close(im);
	}
	wipe();
	return 0;
}
