/* SPDX-License-Identifier: GPL-2.0-only */
/* Thin pagemaps, and whether a directory can do without its parents; see thin.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "images/internal.h"
#include "images/pagemap.pb-c.h"
#include "images/thin.h"

/* An entry of CRIU 4.1 counts pages in 32 bits; both counts are written, so that any version reads it. */
#define ENTRY_PAGES (UINT64_C(1) << 31)

struct buf {
	uint8_t *p;
	size_t n, cap;
};

static int grow(struct buf *b, size_t more)
{
	size_t cap = b->cap ? b->cap : 4096;
	uint8_t *p;

	while (cap - b->n < more)
		cap *= 2;
	if (cap == b->cap)
		return 0;
	p = realloc(b->p, cap);
	if (!p)
		return -ENOMEM;
	b->p = p;
	b->cap = cap;
	return 0;
}

static int put_u32(struct buf *b, uint32_t v)
{
	int rc = grow(b, sizeof(v));

	if (rc)
		return rc;
	memcpy(b->p + b->n, &v, sizeof(v));
	b->n += sizeof(v);
	return 0;
}

static int put_msg(struct buf *b, const ProtobufCMessage *m)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	int rc;

	rc = put_u32(b, (uint32_t)len);
	if (!rc)
		rc = grow(b, len);
	if (!rc)
		b->n += protobuf_c_message_pack(m, b->p + b->n);
	return rc;
}

static int put_range(struct buf *b, uint64_t start, uint64_t end, bool lazy)
{
	Lp__PagemapEntry e = LP__PAGEMAP_ENTRY__INIT;
	uint64_t n;
	int rc = 0;

	for (; !rc && start < end; start += n * LP_PAGE_SIZE) {
		n = (end - start) / LP_PAGE_SIZE;
		if (n > ENTRY_PAGES)
			n = ENTRY_PAGES;
		e.vaddr = start;
		e.compat_nr_pages = (uint32_t)n;
		e.has_nr_pages = true;
		e.nr_pages = n;
		e.has_flags = true;
		e.flags = lazy ? LP_PE_LAZY : LP_PE_PRESENT;
		rc = put_msg(b, &e.base);
	}
	return rc;
}

int lp_thin_pagemap(const struct lp_images *im, const struct lp_task *t, uint8_t **buf, size_t *len)
{
	Lp__PagemapHead head = LP__PAGEMAP_HEAD__INIT;
	struct buf b = { 0 };
	size_t i, k;
	int rc = 0;

	if (im->common == LP_COMMON_YES)
		rc = put_u32(&b, LP_MAGIC_COMMON);
	if (!rc)
		rc = put_u32(&b, LP_MAGIC_PAGEMAP);
	head.pages_id = t->pages_id;
	if (!rc)
		rc = put_msg(&b, &head.base);
	for (i = 0; !rc && i < t->nextents; i = k) {
		/* Extents are also cut where their files change: that is over here. */
		for (k = i + 1; k < t->nextents; k++)
			if (t->extents[k].start != t->extents[k - 1].end || t->extents[k].lazy != t->extents[i].lazy)
				break;
		rc = put_range(&b, t->extents[i].start, t->extents[k - 1].end, t->extents[i].lazy);
	}
	if (rc) {
		free(b.p);
		return rc;
	}
	*buf = b.p;
	*len = b.n;
	return 0;
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
				    "%s: some of its pages are in the parent, which is not served: copy the checkpoint "
				    "with its parents, or make a full dump",
				    e->d_name);
	}
	closedir(dir);
	return rc;
}
