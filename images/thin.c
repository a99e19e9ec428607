/* SPDX-License-Identifier: GPL-2.0-only */
/* Thin and whole pagemaps, and whether a directory can do without its parents; see thin.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "images/internal.h"
#include "images/pagemap.pb-c.h"
#include "images/pmwrite.h"
#include "images/thin.h"

static uint32_t thin_flags(const struct lp_extent *x)
{
	return x->lazy ? LP_PE_LAZY : LP_PE_PRESENT;
}

static uint32_t whole_flags(const struct lp_extent *x)
{
	return (x->lazy ? LP_PE_LAZY : 0) | (x->kind == LP_EXT_DATA ? LP_PE_PRESENT : 0);
}

static int write_pagemap(const struct lp_images *im, const struct lp_task *t, uint32_t (*flags)(const struct lp_extent *),
			 uint8_t **buf, size_t *len)
{
	struct lp_pmw b = { 0 };
	size_t i, k;
	int rc;

	rc = lp_pmw_head(&b, im->common == LP_COMMON_YES, t->pages_id);
	for (i = 0; !rc && i < t->nextents; i = k) {
		/* Extents are also cut where their files change: that is over here. */
		for (k = i + 1; k < t->nextents; k++)
			if (t->extents[k].start != t->extents[k - 1].end ||
			    flags(&t->extents[k]) != flags(&t->extents[i]))
				break;
		rc = lp_pmw_add(&b, t->extents[i].start, t->extents[k - 1].end, flags(&t->extents[i]));
	}
	if (rc) {
		free(b.p);
		return rc;
	}
	*buf = b.p;
	*len = b.n;
	return 0;
}

int lp_thin_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len)
{
	return write_pagemap(im, t, thin_flags, buf, len);
}

int lp_whole_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len)
{
	return write_pagemap(im, t, whole_flags, buf, len);
}

bool lp_thin_has(const struct lp_images *im, const char *name)
{
	char own[48];
	size_t i;

	if (strncmp(name, "pagemap-", 8) && strncmp(name, "pages-", 6))
		return false;
	for (i = 0; i < im->ntasks; i++) {
		const struct lp_task *t = &im->tasks[i];

		if (!t->has_mm)
			continue;
		snprintf(own, sizeof(own), "pagemap-%" PRId32 ".img", t->pid);
		if (!strcmp(name, own))
			return true;
		snprintf(own, sizeof(own), "pages-%" PRIu32 ".img", t->pages_id);
		if (!strcmp(name, own))
			return true;
	}
	return false;
}

/* Does a pagemap of shared memory look into the parent? 1, 0 or -errno. */
static int needs_parent(const struct lp_images *im, const struct lp_imgdir *d, const char *name, struct lp_err *err)
{
	Lp__PagemapEntry *e;
	struct lp_imgfile f;
	const uint8_t *data;
	size_t len;
	int rc, found = 0;

	rc = lp_imgfile_open(&f, d, name, LP_MAGIC_PAGEMAP, im->common, err);
	if (rc)
		return rc;
	rc = lp_imgfile_next(&f, &data, &len, err); /* the head */
	while (rc == 1 && !found) {
		rc = lp_imgfile_next(&f, &data, &len, err);
		if (rc != 1)
			break;
		e = lp__pagemap_entry__unpack(NULL, len, data);
		if (!e) {
			rc = lp_err(err, -EINVAL, "%s: a record is not a pagemap entry: dump again", name);
			break;
		}
		found = (e->has_in_parent && e->in_parent) || (e->has_flags && e->flags & LP_PE_PARENT);
		lp__pagemap_entry__free_unpacked(e, NULL);
	}
	lp_imgfile_close(&f);
	return rc < 0 ? rc : found;
}

int lp_thin_check(const struct lp_images *im, int dirfd, struct lp_err *err)
{
	struct lp_imgdir d = { .fd = dirfd };
	struct dirent *e;
	DIR *dir;
	int fd, rc = 0;

	if (!im->depth)
		return 0;
	fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir) {
		rc = lp_err_sys(err, -errno, "cannot list the checkpoint");
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (!rc && (e = readdir(dir))) {
		if (strncmp(e->d_name, "pagemap-shmem-", 14))
			continue;
		rc = needs_parent(im, &d, e->d_name, err);
		if (rc == 1)
			rc = lp_err(err, -ENOTSUP,
				    "%s: some of its pages are in the parent, which stays behind: copy the checkpoint "
				    "with its parents, or make a full dump",
				    e->d_name);
	}
	closedir(dir);
	return rc;
}
