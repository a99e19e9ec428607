/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The directories of a checkpoint, from the newest to the oldest parent, and
 * the pages files in them. Both tables belong to struct lp_images; the
 * directories are closed when opening is done, the pages files stay.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "images/internal.h"

/* Takes @fd over, also on failure. */
static int add_dir(struct lp_images *im, int fd, const char *name, struct lp_err *err)
{
	struct lp_imgdir *d;
	struct stat st;
	unsigned i;
	int rc;

	if (fstat(fd, &st)) {
		rc = lp_err_sys(err, -errno, "%s: cannot stat it", name);
		goto fail;
	}
	for (i = 0; i < im->ndirs; i++) {
		if (im->dirs[i].dev != st.st_dev || im->dirs[i].ino != st.st_ino)
			continue;
		rc = lp_err(err, -ELOOP,
			    "%s: parents form a loop (it is the directory of depth %u again): mend the symlink", name, i);
		goto fail;
	}
	if (im->ndirs > LP_MAX_DEPTH) {
		rc = lp_err(err, -ELOOP, "%s: more than %d parents: make a full dump", name, LP_MAX_DEPTH);
		goto fail;
	}
	d = realloc(im->dirs, (im->ndirs + 1) * sizeof(*d));
	if (!d) {
		rc = lp_err(err, -ENOMEM, "%s: no memory", name);
		goto fail;
	}
	im->dirs = d;
	d[im->ndirs] = (struct lp_imgdir){ .fd = fd, .depth = im->ndirs, .dev = st.st_dev, .ino = st.st_ino };
	im->ndirs++;
	return 0;
fail:
	close(fd);
	return rc;
}

int lp_open_dirs(struct lp_images *im, const char *dir, struct lp_err *err)
{
	char name[LP_NAME_MAX];
	const struct lp_imgdir *d;
	struct stat st;
	int fd, rc;

	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return lp_err_sys(err, -errno, "%s: cannot open the checkpoint directory", dir);
	rc = add_dir(im, fd, dir, err);
	while (!rc) {
		d = &im->dirs[im->ndirs - 1];
		lp_imgdir_name(d, "parent", name);
		if (fstatat(d->fd, "parent", &st, AT_SYMLINK_NOFOLLOW)) {
			if (errno == ENOENT)
				break;
			return lp_err_sys(err, -errno, "%s: cannot stat it", name);
		}
		fd = openat(d->fd, "parent", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0 && errno == ENOENT)
			return lp_err(err, -ENOENT, "%s: dangling symlink: put the parent checkpoint where it points", name);
		if (fd < 0)
			return lp_err_sys(err, -errno, "%s: cannot open the parent directory", name);
		rc = add_dir(im, fd, name, err);
	}
	if (!rc)
		im->depth = im->ndirs - 1;
	return rc;
}

void lp_close_dirs(struct lp_images *im)
{
	unsigned i;

	for (i = 0; i < im->ndirs; i++)
		close(im->dirs[i].fd);
	free(im->dirs);
	im->dirs = NULL;
	im->ndirs = 0;
}

static int open_pages_file(struct lp_images *im, const struct lp_imgdir *d, uint32_t id, struct lp_err *err)
{
	char file[32], name[LP_NAME_MAX];
	struct lp_pages_file *p;
	uint32_t *ids;
	size_t n;
	int fd;

	if (im->nfiles == im->files_cap) {
		n = im->files_cap ? im->files_cap * 2 : 8;
		p = realloc(im->files, n * sizeof(*p));
		if (p)
			im->files = p;
		ids = realloc(im->file_ids, n * sizeof(*ids));
		if (ids)
			im->file_ids = ids;
		if (!p || !ids)
			return lp_err(err, -ENOMEM, "pages-%" PRIu32 ".img: no memory for %zu files", id, n);
		im->files_cap = n;
	}
	snprintf(file, sizeof(file), "pages-%" PRIu32 ".img", id);
	lp_imgdir_name(d, file, name);
	p = &im->files[im->nfiles];
	fd = lp_open_regular(d, file, name, &p->size, err);
	if (fd < 0)
		return fd;
	p->name = strdup(name);
	if (!p->name) {
		close(fd);
		return lp_err(err, -ENOMEM, "%s: no memory", name);
	}
	p->fd = fd;
	p->depth = d->depth;
	im->file_ids[im->nfiles++] = id;
	return 0;
}

int lp_get_pages_file(struct lp_images *im, const struct lp_imgdir *d, const struct lp_pagemap *pm, uint32_t *index,
		      struct lp_err *err)
{
	size_t i;
	int rc;

	/* Nearly always a new one; a file for two tasks is odd, but not wrong. */
	for (i = 0; i < im->nfiles; i++)
		if (im->file_ids[i] == pm->pages_id && im->files[i].depth == d->depth)
			break;
	if (i == im->nfiles) {
		rc = open_pages_file(im, d, pm->pages_id, err);
		if (rc)
			return rc;
	}
	if (im->files[i].size < pm->data_bytes)
		return lp_err(err, -EINVAL,
			      "%s: too short: %" PRIu64 " bytes, but %s describes %" PRIu64 ": copy it again",
			      im->files[i].name, im->files[i].size, pm->name, pm->data_bytes);
	*index = (uint32_t)i;
	return 0;
}

int lp_drop_unused_files(struct lp_images *im, struct lp_err *err)
{
	uint32_t *to;
	size_t i, k, n = 0;

	if (!im->nfiles)
		return 0;
	to = calloc(im->nfiles, sizeof(*to));
	if (!to)
		return lp_err(err, -ENOMEM, "no memory for %zu pages files", im->nfiles);
	for (i = 0; i < im->ntasks; i++)
		for (k = 0; k < im->tasks[i].nextents; k++)
			if (im->tasks[i].extents[k].kind == LP_EXT_DATA)
				to[im->tasks[i].extents[k].file] = 1;
	for (i = 0; i < im->nfiles; i++) {
		if (!to[i]) {
			close(im->files[i].fd);
			free((char *)im->files[i].name);
			continue;
		}
		im->files[n] = im->files[i];
		im->file_ids[n] = im->file_ids[i];
		to[i] = (uint32_t)n++;
	}
	for (i = 0; n != im->nfiles && i < im->ntasks; i++) {
		struct lp_extent *x = (struct lp_extent *)im->tasks[i].extents;

		for (k = 0; k < im->tasks[i].nextents; k++)
			if (x[k].kind == LP_EXT_DATA)
				x[k].file = to[x[k].file];
	}
	im->nfiles = n;
	free(to);
	return 0;
}
