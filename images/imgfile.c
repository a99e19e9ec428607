/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An image file: magic, then records of a 32-bit size and that many bytes.
 *
 * The file is read, not mapped: a file cut short by someone else then is an
 * error and not a SIGBUS. struct lp_imgfile owns the descriptor and a buffer
 * that never exceeds the bytes the file has, nor RECORD_MAX.
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

#define READ_CHUNK (64u << 10)
/* About two million VMAs in one mm_entry; no other record comes close. */
#define RECORD_MAX (128u << 20)

void lp_imgdir_name(const struct lp_imgdir *d, const char *file, char *name)
{
	static const char up[] = "parent/parent/parent/";
	const unsigned each = sizeof("parent/") - 1;

	if (d->depth <= 3)
		snprintf(name, LP_NAME_MAX, "%.*s%s", (int)(d->depth * each), up, file);
	else
		snprintf(name, LP_NAME_MAX, "parent(%u times)/%s", d->depth, file);
}

int lp_open_regular(const struct lp_imgdir *d, const char *file, const char *name, uint64_t *size,
		    struct lp_err *err)
{
	struct stat st;
	int fd, rc;

	/* O_NONBLOCK: a fifo must not hang us, for a regular file it means nothing. */
	fd = openat(d->fd, file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		rc = -errno;
		if (rc == -ENOENT)
			return lp_err(err, rc, "%s: missing: the checkpoint is incomplete, copy or dump it again", name);
		if (rc == -ENXIO || rc == -ENODEV)
			return lp_err(err, -EINVAL, "%s: not a regular file: put the image file there", name);
		return lp_err_sys(err, rc, "%s: cannot open it", name);
	}
	if (fstat(fd, &st)) {
		rc = lp_err_sys(err, -errno, "%s: cannot stat it", name);
	} else if (!S_ISREG(st.st_mode) || st.st_size < 0) {
		rc = lp_err(err, -EINVAL, "%s: not a regular file: put the image file there", name);
	} else {
		*size = (uint64_t)st.st_size;
		return fd;
	}
	close(fd);
	return rc;
}

/* Have @want bytes at buf + head; the caller has checked want <= left. */
static int fill(struct lp_imgfile *f, size_t want, struct lp_err *err)
{
	size_t cap, room;
	uint8_t *p;
	ssize_t n;

	if (f->fill - f->head >= want)
		return 0;
	if (f->head) {
		memmove(f->buf, f->buf + f->head, f->fill - f->head);
		f->fill -= f->head;
		f->head = 0;
	}
	if (f->cap < want || !f->cap) {
		cap = want > READ_CHUNK ? want : READ_CHUNK;
		if (cap > f->left)
			cap = f->left;
		p = realloc(f->buf, cap);
		if (!p)
			return lp_err(err, -ENOMEM, "%s: no memory for a record of %zu bytes", f->name, want);
		f->buf = p;
		f->cap = cap;
	}
	while (f->fill < want) {
		/* Never past the size seen at open: then buffered bytes are <= left. */
		room = f->cap < f->left ? f->cap : f->left;
		n = read(f->fd, f->buf + f->fill, room - f->fill);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lp_err_sys(err, -errno, "%s: cannot read it", f->name);
		if (n == 0)
			return lp_err(err, -EINVAL, "%s: it shrank while being read: do not change a checkpoint in use",
				      f->name);
		f->fill += n;
	}
	return 0;
}

static int take_u32(struct lp_imgfile *f, uint32_t *v, struct lp_err *err)
{
	const uint8_t *p;
	int rc;

	rc = fill(f, 4, err);
	if (rc)
		return rc;
	p = f->buf + f->head;
	*v = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
	f->head += 4;
	f->left -= 4;
	return 0;
}

static int take_magic(struct lp_imgfile *f, uint32_t *v, struct lp_err *err)
{
	if (f->left < 4)
		return lp_err(err, -EINVAL, "%s: truncated in its magic: copy it again", f->name);
	return take_u32(f, v, err);
}

static int check_magic(struct lp_imgfile *f, uint32_t magic, enum lp_common_magic common, struct lp_err *err)
{
	uint32_t v = 0;
	int rc;

	rc = take_magic(f, &v, err);
	if (rc)
		return rc;
	if (v == LP_MAGIC_COMMON && common != LP_COMMON_NO) {
		rc = take_magic(f, &v, err);
		if (rc)
			return rc;
	} else if (common == LP_COMMON_YES) {
		return lp_err(err, -EINVAL, "%s: wrong magic 0x%08" PRIx32 ", wanted 0x%08x: not an image of CRIU",
			      f->name, v, LP_MAGIC_COMMON);
	}
	if (v != magic)
		return lp_err(err, -EINVAL, "%s: wrong magic 0x%08" PRIx32 ", wanted 0x%08" PRIx32 ": another kind of file",
			      f->name, v, magic);
	return 0;
}

int lp_imgfile_open(struct lp_imgfile *f, const struct lp_imgdir *d, const char *file, uint32_t magic,
		    enum lp_common_magic common, struct lp_err *err)
{
	int rc;

	memset(f, 0, sizeof(*f));
	lp_imgdir_name(d, file, f->name);
	f->fd = lp_open_regular(d, file, f->name, &f->left, err);
	if (f->fd < 0)
		return f->fd;
	rc = check_magic(f, magic, common, err);
	if (rc)
		lp_imgfile_close(f);
	return rc;
}

int lp_imgfile_next(struct lp_imgfile *f, const uint8_t **data, size_t *len, struct lp_err *err)
{
	uint32_t size = 0;
	int rc;

	if (!f->left)
		return 0;
	if (f->left < 4)
		return lp_err(err, -EINVAL, "%s: truncated in the size of record %" PRIu64 ": copy it again", f->name,
			      f->nrec);
	rc = take_u32(f, &size, err);
	if (rc)
		return rc;
	if (size > f->left)
		return lp_err(err, -EINVAL,
			      "%s: truncated: record %" PRIu64 " has %" PRIu32 " bytes, the file only %" PRIu64
			      " more: copy it again",
			      f->name, f->nrec, size, f->left);
	if (size > RECORD_MAX)
		return lp_err(err, -EINVAL, "%s: record %" PRIu64 " has %" PRIu32 " bytes, more than %u: dump again",
			      f->name, f->nrec, size, RECORD_MAX);
	rc = fill(f, size, err);
	if (rc)
		return rc;
	*data = f->buf + f->head;
	*len = size;
	f->head += size;
	f->left -= size;
	f->nrec++;
	return 1;
}

int lp_imgfile_only(struct lp_imgfile *f, const uint8_t **data, size_t *len, struct lp_err *err)
{
	int rc;

	rc = lp_imgfile_next(f, data, len, err);
	if (rc < 0)
		return rc;
	if (!rc)
		return lp_err(err, -EINVAL, "%s: truncated: it has no record: copy it again", f->name);
	if (f->left)
		return lp_err(err, -EINVAL, "%s: %" PRIu64 " bytes follow its only record: dump again", f->name, f->left);
	return 0;
}

void lp_imgfile_close(struct lp_imgfile *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
	free(f->buf);
	f->buf = NULL;
}
