/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Opening and closing of a checkpoint, and what it hands out. struct
 * lp_images owns all of it, see images.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "images/internal.h"

static int read_all(struct lp_images *im, const char *dir, struct lp_err *err)
{
	size_t i;
	int rc;

	rc = lp_open_dirs(im, dir, err);
	if (!rc)
		rc = lp_read_inventory(im, err);
	if (!rc)
		rc = lp_read_tasks(im, err);
	for (i = 0; !rc && i < im->ntasks; i++) {
		if (!im->tasks[i].has_mm)
			continue;
		rc = lp_read_mm(im, &im->tasks[i], err);
		if (!rc && lp_read_early(im, &im->tasks[i]))
			rc = lp_err(err, -ENOMEM, "%s: no memory for the threads of %d", dir, im->tasks[i].pid);
		if (!rc)
			rc = lp_build_index(im, &im->tasks[i], err);
	}
	if (!rc)
		rc = lp_drop_unused_files(im, err);
	return rc;
}

int lp_images_open(const char *dir, struct lp_images **out, struct lp_err *err)
{
	struct lp_images *im;
	int rc;

	*out = NULL;
	im = calloc(1, sizeof(*im));
	if (!im)
		return lp_err(err, -ENOMEM, "%s: no memory", dir);
	rc = read_all(im, dir, err);
	lp_close_dirs(im);
	if (rc)
		lp_images_close(im);
	else
		*out = im;
	return rc;
}

void lp_images_release(struct lp_images *im)
{
	size_t i;

	for (i = 0; i < im->ntasks; i++) {
		free((int32_t *)im->tasks[i].threads);
		free((uint64_t *)im->tasks[i].early);
		free((struct lp_vma *)im->tasks[i].vmas);
		free((struct lp_extent *)im->tasks[i].extents);
	}
	for (i = 0; i < im->nfiles; i++) {
		close(im->files[i].fd);
		free((char *)im->files[i].name);
	}
	free(im->tasks);
	free(im->by_pid);
	free(im->files);
	free(im->file_ids);
}

void lp_images_close(struct lp_images *im)
{
	if (!im)
		return;
	lp_images_release(im);
	free(im);
}

size_t lp_images_ntasks(const struct lp_images *im)
{
	return im->ntasks;
}

const struct lp_task *lp_images_task(const struct lp_images *im, size_t i)
{
	return &im->tasks[i];
}

const struct lp_task *lp_images_elsewhere(const struct lp_images *im, uint64_t *at)
{
	size_t i, k;

	for (i = 0; i < lp_images_ntasks(im); i++) {
		const struct lp_task *t = lp_images_task(im, i);

		for (k = 0; k < t->nextents; k++) {
			if (t->extents[k].kind == LP_EXT_DATA)
				continue;
			*at = t->extents[k].start;
			return t;
		}
	}
	return NULL;
}

const struct lp_task *lp_images_find(const struct lp_images *im, int32_t pid)
{
	size_t lo = 0, hi = im->ntasks, mid;
	const struct lp_task *t;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		t = &im->tasks[im->by_pid[mid]];
		if (t->pid == pid)
			return t;
		if (t->pid < pid)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

size_t lp_images_nfiles(const struct lp_images *im)
{
	return im->nfiles;
}

const struct lp_pages_file *lp_images_file(const struct lp_images *im, size_t i)
{
	return &im->files[i];
}

bool lp_images_wide(const struct lp_images *im)
{
	return im->wide;
}

unsigned lp_images_depth(const struct lp_images *im)
{
	return im->depth;
}
