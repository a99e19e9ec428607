/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The small images of a checkpoint as clients get them: its thin form (see
 * images/thin.h), shared memory without parents, and all other image files as they are. The list belongs to
 * the checkpoint.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/internal.h"

static int add(struct ckpt *c, const char *name, uint64_t size, uint8_t *mem, int32_t task, int32_t shared)
{
	struct vfile *f = realloc(c->files, (c->nfiles + 1) * sizeof(*f));

	if (!f) {
		free(mem);
		return -ENOMEM;
	}
	c->files = f;
	f += c->nfiles++;
	*f = (struct vfile){ .size = size, .mem = mem, .task = task, .shared = shared };
	snprintf(f->name, sizeof(f->name), "%s", name);
	return 0;
}

static bool ends(const char *s, const char *with)
{
	size_t n = strlen(s), k = strlen(with);

	return n > k && !strcmp(s + n - k, with);
}

static int add_plain(struct ckpt *c, struct lp_err *err)
{
	struct dirent *e;
	struct stat st;
	DIR *d;
	int fd, rc = 0;

	fd = openat(c->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd >= 0 ? fdopendir(fd) : NULL;
	if (!d) {
		rc = lp_err_sys(err, -errno, "%s: cannot list it", c->dir);
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (!rc && (e = readdir(d))) {
		/* runc keeps descriptors.json beside the images. */
		if (!ends(e->d_name, ".img") && !ends(e->d_name, ".json"))
			continue;
		if (!lp_file_name_ok(e->d_name, strlen(e->d_name)) || lp_thin_has(c->im, e->d_name) ||
		    lp_shared_has(c->shared, e->d_name))
			continue;
		/* Links could lead out of the checkpoint. */
		if (fstatat(c->dirfd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
			continue;
		if (add(c, e->d_name, st.st_size, NULL, -1, -1))
			rc = lp_err(err, -ENOMEM, "out of memory");
	}
	closedir(d);
	return rc;
}

static int only_one(const struct ckpt *c, const char *name, struct lp_err *err)
{
	if (files_find(c, (struct lp_str){ name, strlen(name) }) < 0)
		return 0;
	return lp_err(err, -ENOTSUP, "%s: it belongs to two tasks, which is not served: dump again", name);
}

static int add_thin(struct ckpt *c, size_t i, struct lp_err *err)
{
	const struct lp_task *t = lp_images_task(c->im, i);
	char name[48];
	uint8_t *mem;
	size_t len;
	int rc;

	snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", t->pages_id);
	rc = only_one(c, name, err);
	if (rc)
		return rc;
	if (add(c, name, lp_thin_eager(t), NULL, (int32_t)i, -1))
		return lp_err(err, -ENOMEM, "out of memory");
	if (lp_thin_pagemap(c->im, t, &mem, &len))
		return lp_err(err, -ENOMEM, "out of memory");
	snprintf(name, sizeof(name), "pagemap-%" PRId32 ".img", t->pid);
	return add(c, name, len, mem, -1, -1) ? lp_err(err, -ENOMEM, "out of memory") : 0;
}

static int add_shared(struct ckpt *c, size_t i, struct lp_err *err)
{
	const struct lp_shared_mem *m = lp_shared_mem(c->shared, i);
	uint8_t *mem;
	int rc = only_one(c, m->pages, err);

	if (rc)
		return rc;
	mem = malloc(m->len);
	if (mem)
		memcpy(mem, m->entries, m->len);
	if (!mem || add(c, m->pagemap, m->len, mem, -1, -1) || add(c, m->pages, m->bytes, NULL, -1, (int32_t)i))
		return lp_err(err, -ENOMEM, "out of memory");
	return 0;
}

int files_list(struct ckpt *c, struct lp_err *err)
{
	size_t i;
	int rc;

	rc = lp_shared_open(c->im, c->dir, &c->shared, err);
	for (i = 0; !rc && i < lp_images_ntasks(c->im); i++)
		if (lp_images_task(c->im, i)->has_mm)
			rc = add_thin(c, i, err);
	for (i = 0; !rc && i < lp_shared_count(c->shared); i++)
		rc = add_shared(c, i, err);
	if (!rc)
		rc = add_plain(c, err);
	return rc;
}

void files_free(struct ckpt *c)
{
	size_t i;

	for (i = 0; i < c->nfiles; i++)
		free(c->files[i].mem);
	free(c->files);
	lp_shared_close(c->shared);
}

int files_find(const struct ckpt *c, struct lp_str name)
{
	size_t i;

	for (i = 0; i < c->nfiles; i++)
		if (strlen(c->files[i].name) == name.n && !memcmp(c->files[i].name, name.p, name.n))
			return (int)i;
	return -1;
}

int ckpt_pread(const struct ckpt *c, uint32_t file, uint64_t off, void *buf, size_t len)
{
	uint64_t bad = 0;
	int rc = lp_seal_read(c->seal, c->im, file, off, buf, len, &bad);

	if (rc == -EBADMSG || rc == -EUCLEAN)
		pr_err("%s: %s, offset 0x%" PRIx64 " (page %" PRIu64 "): %s: nobody gets that page until it is mended; "
		       "`lazypages verify %s` looks for others",
		       c->name, lp_images_file(c->im, file)->name, bad, bad / LP_PAGE_SIZE,
		       rc == -EBADMSG ? "its checksum is not that of the seal" : "the seal is damaged there", c->dir);
	return rc;
}

struct eager_read {
	const struct ckpt *c;
	uint64_t off; /* from the next piece on */
	uint8_t *buf;
	size_t got, len;
};

static int read_piece(void *arg, const struct lp_extent *piece, bool lazy)
{
	struct eager_read *r = arg;
	uint64_t size = piece->end - piece->start;
	size_t part;
	int rc;

	if (lazy)
		return 0;
	if (r->off >= size) {
		r->off -= size;
		return 0;
	}
	part = size - r->off < r->len - r->got ? size - r->off : r->len - r->got;
	rc = ckpt_pread(r->c, piece->file, piece->off + r->off, r->buf + r->got, part);
	r->got += part;
	r->off = 0;
	return rc ? rc : r->got == r->len;
}

static ssize_t read_eager(const struct ckpt *c, const struct lp_task *t, uint64_t off, uint8_t *buf, size_t len)
{
	struct eager_read r = { .c = c, .off = off, .buf = buf, .len = len };
	int rc = lp_thin_pieces(t, read_piece, &r);

	return rc < 0 ? rc : (ssize_t)r.got;
}

ssize_t files_read(const struct ckpt *c, unsigned i, uint64_t off, uint8_t *buf, size_t len)
{
	const struct vfile *f = &c->files[i];
	struct stat st;
	uint64_t bad;
	int fd, rc;

	if (off >= f->size)
		return 0;
	if (len > f->size - off)
		len = f->size - off;
	if (f->mem) {
		memcpy(buf, f->mem + off, len);
		return (ssize_t)len;
	}
	if (f->task >= 0)
		return read_eager(c, lp_images_task(c->im, f->task), off, buf, len);
	if (f->shared >= 0) {
		rc = lp_shared_read(c->shared, f->shared, off, buf, len);
		return rc ? rc : (ssize_t)len;
	}
	fd = openat(c->dirfd, f->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	rc = fstat(fd, &st) || !S_ISREG(st.st_mode) ? -EIO : lp_seal_read_name(c->seal, f->name, fd, off, buf, len, &bad);
	close(fd);
	return rc ? rc : (ssize_t)len;
}
