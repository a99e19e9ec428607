/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Local images as a source. Faults are answered with a positioned read, which
 * can be told not to wait for the disk; bulk reads go through a mapping of the
 * page cache, so that UFFDIO_COPY takes the bytes from there without a copy in
 * between. Only the kernel touches the mapping: a file that shrinks under us
 * is an error of the call, never a SIGBUS.
 *
 * With a seal, pages are read into a buffer, verified there and copied from
 * there: what was verified is what the task gets, whoever writes to the file
 * meanwhile. No page that was not verified is in a buffer that is handed out.
 *
 * Owns itself, the seal, and the windows' mappings and buffers; the images are
 * borrowed.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/log.h"
#include "source/source.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* One mapping of a window at most: long enough to hide its cost, short enough to stay small. */
#define WINDOW (UINT64_C(4) << 20)
/* On tmpfs: no memory of ours is in it, and each unmapping interrupts the other CPUs. */
#define WINDOW_MEMORY (UINT64_C(64) << 20)

/* The buffer of a window that is verified: small enough to stay in the CPU's cache until it is copied. */
#define VERIFIED (UINT64_C(256) << 10)
/* Damaged pages that were told, so that each new try does not tell them again. */
#define TOLD 16

struct local {
	struct lp_source base;
	const struct lp_images *im;
	atomic_bool no_nowait; /* the file system does not know RWF_NOWAIT */
	bool in_memory;	       /* all files are on tmpfs: there is no disk to wait for */
	struct lp_seal *seal;  /* NULL: nothing is verified */
	pthread_mutex_t lock;  /* innermost: the next two */
	struct {
		uint32_t file;
		uint64_t off;
	} told[TOLD];
	unsigned ntold;
};

/* What the kernel maps at one fault of a file mapping (fault_around_bytes). */
#define MAP_AROUND (UINT64_C(64) << 10)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static struct local *local_of(struct lp_source *s)
{
	return (struct local *)s;
}

/*
 * Wait here, where no gate is held, for what the disk has to bring. Nothing to
 * do when all is in the page cache: then the copy maps 16 pages with one fault,
 * which is cheaper than to populate the mapping first.
 */
static int await_disk(void *p, uint64_t len)
{
	unsigned char resident[WINDOW / LP_PAGE_SIZE];
	size_t i, n = (len + LP_PAGE_SIZE - 1) / LP_PAGE_SIZE;

	if (mincore(p, len, resident))
		return -errno;
	for (i = 0; i < n; i++)
		if (!(resident[i] & 1))
			break;
	if (i == n || !madvise(p, len, MADV_POPULATE_READ))
		return 0;
	/* Linux before 5.14 cannot: then the copy waits for the disk. */
	return errno == EINVAL ? 0 : errno == EFAULT ? -EIO : -errno;
}

/* Where is @img, and how many bytes follow it in the same file? */
static int locate(struct local *l, uint32_t obj, uint64_t img, const struct lp_pages_file **file, uint32_t *nr,
		  uint64_t *off, uint64_t *len)
{
	const struct lp_extent *x = lp_task_lookup(lp_images_task(l->im, obj), img, NULL);

	if (!x || x->kind != LP_EXT_DATA)
		return -ENODATA;
	*file = lp_images_file(l->im, x->file);
	*nr = x->file;
	*off = x->off + (img - x->start);
	*len = x->end - img;
	return 0;
}

const char *lp_source_strerror(int rc)
{
	switch (rc) {
	case -EBADMSG:
		return "its checksum is not that of the seal";
	case -EUCLEAN:
		return "the seal is damaged there";
	default:
		return strerror(-rc);
	}
}

static void tell(struct local *l, uint32_t nr, uint64_t off, int why)
{
	bool known = false;
	unsigned i;

	pthread_mutex_lock(&l->lock);
	for (i = 0; !known && i < TOLD && i < l->ntold; i++)
		known = l->told[i].file == nr && l->told[i].off == off;
	if (!known) {
		l->told[l->ntold % TOLD].file = nr;
		l->told[l->ntold % TOLD].off = off;
		l->ntold++;
	}
	pthread_mutex_unlock(&l->lock);
	if (!known)
		pr_err("%s, offset 0x%" PRIx64 " (page %" PRIu64 "): %s: nobody gets that page until it is mended; "
		       "`lazypages verify` looks for others",
		       lp_images_file(l->im, nr)->name, off, off / LP_PAGE_SIZE, lp_source_strerror(why));
}

/* @len bytes that were read at @off; *good of them may be used. */
static int verify(struct local *l, uint32_t nr, uint64_t off, const void *buf, uint64_t len, bool nowait,
		  uint64_t *good)
{
	int rc;

	*good = len;
	if (!l->seal)
		return 0;
	rc = lp_seal_check(l->seal, nr, off, buf, len, nowait, good);
	if (rc == -EBADMSG || rc == -EUCLEAN)
		tell(l, nr, off + *good, rc);
	return rc;
}

/* How much of @len bytes could be read, in whole pages; -errno if there is not even one. */
static int64_t read_some(const struct lp_pages_file *file, uint8_t *buf, uint64_t len, uint64_t off)
{
	uint64_t got = 0;
	int rc = 0;

	while (got < len) {
		ssize_t n = pread(file->fd, buf + got, len - got, off + got);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			rc = n ? -errno : -EIO; /* shorter than when it was opened */
			break;
		}
		got += n;
	}
	got &= ~(LP_PAGE_SIZE - 1);
	return got ? (int64_t)got : rc;
}

/* As much as is in one file. */
static int read_part(struct local *l, const struct lp_pages_file *file, uint8_t *buf, uint64_t len, uint64_t off,
		     bool nowait)
{
	struct iovec iov = { buf, len };
	int64_t n;

	if (nowait && !atomic_load_explicit(&l->no_nowait, memory_order_relaxed)) {
		n = preadv2(file->fd, &iov, 1, off, RWF_NOWAIT);
		if (n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
			/* tmpfs before 6.6 or so: nothing to wait for there anyhow. */
			atomic_store_explicit(&l->no_nowait, true, memory_order_relaxed);
		else if (n < 0)
			return -errno;
		else if ((uint64_t)n < len)
			return off + n >= file->size ? -EIO : -EAGAIN;
		else
			return 0;
	}
	n = read_some(file, buf, len, off);
	if (n < 0)
		return (int)n;
	return (uint64_t)n == len ? 0 : -EIO;
}

static int read_all(struct local *l, uint32_t obj, uint64_t img, uint8_t *buf, uint64_t len, bool nowait)
{
	const struct lp_pages_file *file;
	uint64_t off, part, good;
	uint32_t nr;
	int rc;

	while (len) {
		rc = locate(l, obj, img, &file, &nr, &off, &part);
		if (rc)
			return rc;
		part = min_u64(part, len);
		rc = read_part(l, file, buf, part, off, nowait);
		if (!rc)
			rc = verify(l, nr, off, buf, part, nowait, &good);
		if (rc)
			return rc;
		buf += part;
		img += part;
		len -= part;
	}
	return 0;
}

static int local_try_read(struct lp_source *s, uint32_t obj, uint64_t img, void *buf, uint64_t len)
{
	return read_all(local_of(s), obj, img, buf, len, true);
}

static int local_read(struct lp_source *s, uint32_t obj, uint64_t img, void *buf, uint64_t len)
{
	return read_all(local_of(s), obj, img, buf, len, false);
}

static void local_unmap(struct lp_source *s, struct lp_window *w)
{
	if (w->priv && local_of(s)->seal)
		free(w->priv);
	else if (w->priv)
		munmap(w->priv, w->priv_len);
	*w = (struct lp_window){ 0 };
}

/* The window is a buffer, and ends in front of the first page that is not what was sealed or cannot be read. */
static int map_verified(struct local *l, struct lp_window *w, uint32_t obj, uint64_t img, uint64_t want)
{
	const struct lp_pages_file *file;
	uint64_t off, len, good = 0;
	uint32_t nr;
	int64_t n;
	int rc;

	w->bytes = NULL;
	rc = locate(l, obj, img, &file, &nr, &off, &len);
	if (rc)
		return rc;
	if (!w->priv && posix_memalign(&w->priv, LP_PAGE_SIZE, VERIFIED)) {
		w->priv = NULL;
		return -ENOMEM;
	}
	n = read_some(file, w->priv, min_u64(min_u64(len, want), VERIFIED), off);
	if (n < 0)
		return (int)n;
	rc = verify(l, nr, off, w->priv, n, false, &good);
	if (!good)
		return rc;
	if (!l->in_memory && off + good < file->size)
		(void)posix_fadvise(file->fd, off + good, WINDOW, POSIX_FADV_WILLNEED);
	w->obj = obj;
	w->img = img;
	w->end = img + good;
	w->bytes = w->priv;
	return 0;
}

static int local_map(struct lp_source *s, struct lp_window *w, uint32_t obj, uint64_t img, uint64_t want)
{
	struct local *l = local_of(s);
	const struct lp_pages_file *file;
	uint64_t off, len, start;
	uint32_t nr;
	int rc;

	if (l->seal)
		return map_verified(l, w, obj, img, want);

	rc = locate(l, obj, img, &file, &nr, &off, &len);
	if (rc)
		return rc;
	if (!w->priv || w->priv_file != nr || off < w->priv_key || off >= w->priv_key + w->priv_len) {
		void *p;

		local_unmap(s, w);
		start = off & ~((l->in_memory ? WINDOW_MEMORY : MAP_AROUND) - 1);
		w->priv_len = l->in_memory ? WINDOW_MEMORY : min_u64(want + (off - start), WINDOW);
		w->priv_len = min_u64(w->priv_len, file->size - start);
		p = mmap(NULL, w->priv_len, PROT_READ, MAP_SHARED, file->fd, start);
		if (p == MAP_FAILED)
			return -errno;
		w->priv = p;
		w->priv_key = start;
		w->priv_file = nr;
		if (!l->in_memory) {
			rc = await_disk(p, w->priv_len);
			if (rc) {
				local_unmap(s, w);
				return rc;
			}
			start += w->priv_len;
			if (start < file->size)
				(void)posix_fadvise(file->fd, start, WINDOW, POSIX_FADV_WILLNEED);
		}
	}
	len = min_u64(len, w->priv_key + w->priv_len - off);
	w->obj = obj;
	w->img = img;
	w->end = img + len;
	w->bytes = (const uint8_t *)w->priv + (off - w->priv_key);
	return 0;
}

static const char *local_where(struct lp_source *s, uint32_t obj, uint64_t img, char *buf, size_t len)
{
	struct local *l = local_of(s);
	const struct lp_pages_file *file;
	uint64_t off, rest;
	uint32_t nr;

	if (locate(l, obj, img, &file, &nr, &off, &rest))
		snprintf(buf, len, "pagemap-%d.img, address 0x%" PRIx64, lp_images_task(l->im, obj)->pid, img);
	else
		snprintf(buf, len, "%s, offset 0x%" PRIx64 " (page %" PRIu64 ")", file->name, off, off / LP_PAGE_SIZE);
	return buf;
}

static void local_close(struct lp_source *s)
{
	pthread_mutex_destroy(&local_of(s)->lock);
	lp_seal_close(local_of(s)->seal);
	free(local_of(s));
}

void lp_source_local_verify(struct lp_source *s, struct lp_seal *seal)
{
	local_of(s)->seal = seal;
}

static const struct lp_source_ops local_ops = {
	.version = LP_SOURCE_VERSION,
	.name = "local",
	.try_read = local_try_read,
	.read = local_read,
	.map = local_map,
	.unmap = local_unmap,
	.where = local_where,
	.close = local_close,
};

int lp_source_local_open(const struct lp_images *im, struct lp_source **out, struct lp_err *err)
{
	uint64_t at;
	const struct lp_task *t = lp_images_elsewhere(im, &at);

	if (t)
		return lp_err(err, -ENODATA,
			      "pagemap-%d.img: the pages at 0x%" PRIx64 " stayed with the source of a lazy dump: name it with "
			      "--page-server --address HOST --port PORT",
			      t->pid, at);
	return lp_source_local_part(im, out, err);
}

int lp_source_local_part(const struct lp_images *im, struct lp_source **out, struct lp_err *err)
{
	struct local *l;
	size_t i;

	l = calloc(1, sizeof(*l));
	if (!l)
		return lp_err(err, -ENOMEM, "out of memory");
	l->base.ops = &local_ops;
	pthread_mutex_init(&l->lock, NULL);
	l->im = im;
	l->in_memory = true;
	for (i = 0; i < lp_images_nfiles(im); i++) {
		struct statfs fs;

		if (fstatfs(lp_images_file(im, i)->fd, &fs) ||
		    (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC))
			l->in_memory = false;
	}
	*out = &l->base;
	return 0;
}
