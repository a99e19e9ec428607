/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shared memory with pages in parents, made whole; see shared.h. What is opened
 * for it is in a struct lp_images of its own, whose tasks are the pieces of shared
 * memory: the same index, without VMAs, addresses from 0.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "images/internal.h"
#include "images/seal.h"
#include "images/shared.h"
#include "images/thin.h"

#define PREFIX "pagemap-shmem-"

struct lp_shared {
	struct lp_images im;
	struct lp_shared_mem *mem; /* of each task */
	struct lp_seal *seal;	   /* a view, or NULL */
};

static void drop_last(struct lp_images *im)
{
	free((struct lp_extent *)im->tasks[--im->ntasks].extents);
}

static bool in_parents(const struct lp_images *im, const struct lp_task *t)
{
	size_t i;

	for (i = 0; i < t->nextents; i++)
		if (t->extents[i].kind == LP_EXT_DATA && im->files[t->extents[i].file].depth)
			return true;
	return false;
}

static int grow(struct lp_shared *s)
{
	size_t n = s->im.ntasks + 1;
	struct lp_task *t = realloc(s->im.tasks, n * sizeof(*t));
	struct lp_shared_mem *m = t ? realloc(s->mem, n * sizeof(*m)) : NULL;

	if (t)
		s->im.tasks = t;
	if (!m)
		return -ENOMEM;
	s->mem = m;
	memset(&s->im.tasks[s->im.ntasks], 0, sizeof(*t));
	memset(&s->mem[s->im.ntasks], 0, sizeof(*m));
	s->im.tasks[s->im.ntasks++].has_mm = true;
	return 0;
}

static int add(struct lp_shared *s, const char *name, struct lp_err *err)
{
	struct lp_shared_mem *m;
	struct lp_task *t;
	uint8_t *entries;
	size_t i;
	int rc;

	if (strlen(name) >= sizeof(m->pagemap))
		return 0;
	if (grow(s))
		return lp_err(err, -ENOMEM, "%s: no memory", name);
	t = &s->im.tasks[s->im.ntasks - 1];
	m = &s->mem[s->im.ntasks - 1];
	rc = lp_build_index_of(&s->im, t, name, err);
	if (!rc && !in_parents(&s->im, t)) {
		drop_last(&s->im);
		return 0;
	}
	for (i = 0; !rc && i < t->nextents; i++)
		if (t->extents[i].kind != LP_EXT_DATA)
			rc = lp_err(err, -ENOTSUP, "%s: page 0x%" PRIx64 " is not here but with the source of a lazy dump", name,
				    t->extents[i].start);
	if (!rc && lp_whole_pagemap(&s->im, t, &entries, &m->len))
		rc = lp_err(err, -ENOMEM, "%s: no memory", name);
	if (rc)
		return rc;
	m->entries = entries;
	m->bytes = t->lazy_bytes + t->eager_bytes;
	snprintf(m->pagemap, sizeof(m->pagemap), "%s", name);
	snprintf(m->pages, sizeof(m->pages), "pages-%" PRIu32 ".img", t->pages_id);
	return 0;
}

static int add_all(struct lp_shared *s, struct lp_err *err)
{
	struct dirent *e;
	int fd, rc = 0;
	DIR *d;

	fd = openat(s->im.dirs[0].fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd >= 0 ? fdopendir(fd) : NULL;
	if (!d) {
		rc = lp_err_sys(err, -errno, "cannot list the checkpoint");
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (!rc && (e = readdir(d)))
		if (!strncmp(e->d_name, PREFIX, sizeof(PREFIX) - 1))
			rc = add(s, e->d_name, err);
	closedir(d);
	return rc;
}

int lp_shared_open(const struct lp_images *im, const char *dir, struct lp_shared **out, struct lp_err *err)
{
	struct lp_shared *s;
	int rc;

	*out = NULL;
	if (!im->depth)
		return 0;
	s = calloc(1, sizeof(*s));
	if (!s)
		return lp_err(err, -ENOMEM, "%s: no memory", dir);
	s->im.common = im->common;
	rc = lp_open_dirs(&s->im, dir, err);
	if (!rc)
		rc = add_all(s, err);
	lp_close_dirs(&s->im);
	if (!rc)
		rc = lp_drop_unused_files(&s->im, err);
	if (rc || !s->im.ntasks)
		lp_shared_close(s);
	else
		*out = s;
	return rc;
}

void lp_shared_close(struct lp_shared *s)
{
	size_t i;

	if (!s)
		return;
	for (i = 0; i < s->im.ntasks; i++)
		free((uint8_t *)s->mem[i].entries);
	free(s->mem);
	lp_seal_view_end(s->seal);
	lp_images_release(&s->im);
	free(s);
}

size_t lp_shared_count(const struct lp_shared *s)
{
	return s ? s->im.ntasks : 0;
}

const struct lp_shared_mem *lp_shared_mem(const struct lp_shared *s, size_t i)
{
	return &s->mem[i];
}

bool lp_shared_has(const struct lp_shared *s, const char *name)
{
	size_t i;

	for (i = 0; i < lp_shared_count(s); i++)
		if (!strcmp(name, s->mem[i].pagemap) || !strcmp(name, s->mem[i].pages))
			return true;
	return false;
}

int lp_shared_verify(struct lp_shared *s, const struct lp_seal *seal, struct lp_err *err)
{
	return s && seal ? lp_seal_view(seal, &s->im, &s->seal, err) : 0;
}

int lp_shared_read(const struct lp_shared *s, size_t i, uint64_t off, void *buf, size_t len)
{
	const struct lp_task *t = &s->im.tasks[i];
	uint8_t *to = buf;
	uint64_t bad;
	size_t k;
	int rc;

	for (k = 0; k < t->nextents && len; k++) {
		const struct lp_extent *x = &t->extents[k];
		uint64_t size = x->end - x->start, part;

		if (off >= size) {
			off -= size;
			continue;
		}
		part = size - off < len ? size - off : len;
		rc = lp_seal_read(s->seal, &s->im, x->file, x->off + off, to, part, &bad);
		if (rc)
			return rc;
		to += part;
		len -= part;
		off = 0;
	}
	return len ? -EINVAL : 0;
}
