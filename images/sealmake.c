/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Making a seal: list all files of the chain of directories, read them once,
 * write sums as they come and the head last, into a file that takes the place
 * of the old seal only when it is on the disk. struct maker owns all of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "images/seal_int.h"

#define READ_STEP (UINT64_C(1) << 20)

struct maker {
	struct lp_images chain; /* its directories */
	struct lp_seal_head h;
	size_t files_cap, small_cap;
	uint64_t *blocks; /* sums of the blocks */
	uint8_t block[LP_SEAL_BLOCK * 8];
	uint64_t page; /* sums so far */
	uint64_t bytes, total;
	uint8_t *buf;
	int fd; /* of the new seal */
	char tmp[64];
	lp_seal_progress progress;
	void *arg;
	struct lp_err *err;
};

static int grow(void **p, size_t *cap, size_t n, size_t each, struct lp_err *err)
{
	void *v;

	if (n < *cap)
		return 0;
	v = realloc(*p, (*cap ? *cap * 2 : 16) * each);
	if (!v)
		return lp_err(err, -ENOMEM, LP_SEAL_FILE ": no memory for a list of %zu files", n);
	*p = v;
	*cap = *cap ? *cap * 2 : 16;
	return 0;
}

static int add_file(void *arg, const struct lp_imgdir *d, const char *name)
{
	struct lp_seal_small *s;
	struct maker *m = arg;
	char shown[LP_NAME_MAX];
	struct stat st;
	uint32_t id;
	int rc;

	lp_imgdir_name(d, name, shown);
	if (seal_is_pages(name, &id)) {
		rc = grow((void **)&m->h.files, &m->files_cap, m->h.nfiles, sizeof(*m->h.files), m->err);
		if (rc)
			return rc;
		if (fstatat(d->fd, name, &st, 0))
			return lp_err_sys(m->err, -errno, "%s: cannot stat it", shown);
		m->h.files[m->h.nfiles++] = (struct lp_seal_file){ .depth = d->depth, .id = id, .size = st.st_size };
		m->total += st.st_size;
		return 0;
	}
	rc = grow((void **)&m->h.small, &m->small_cap, m->h.nsmall, sizeof(*m->h.small), m->err);
	if (rc)
		return rc;
	s = &m->h.small[m->h.nsmall];
	rc = seal_sum_file(d, name, shown, s->sum, &s->size, m->err);
	if (rc)
		return rc;
	s->depth = d->depth;
	s->name_len = (uint32_t)strlen(name);
	s->name = strdup(name);
	if (!s->name)
		return lp_err(m->err, -ENOMEM, "%s: no memory", shown);
	m->h.nsmall++;
	return 0;
}

static int by_id(const void *a, const void *b)
{
	const struct lp_seal_file *x = a, *y = b;

	if (x->depth != y->depth)
		return x->depth < y->depth ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

static int by_name(const void *a, const void *b)
{
	const struct lp_seal_small *x = a, *y = b;

	if (x->depth != y->depth)
		return x->depth < y->depth ? -1 : 1;
	return strcmp(x->name, y->name);
}

static int write_all(const struct maker *m, const uint8_t *p, uint64_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pwrite(m->fd, p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return lp_err_sys(m->err, -errno, LP_SEAL_FILE ": cannot write it");
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

/* Write the block of sums that ends at m->page. */
static int put_block(struct maker *m)
{
	uint64_t block = (m->page - 1) / LP_SEAL_BLOCK, n = m->page - block * LP_SEAL_BLOCK;

	m->blocks[block] = lp_seal_sum(m->block, 8 * n);
	return write_all(m, m->block, 8 * n, m->h.len + 8 * LP_SEAL_BLOCK * block);
}

static int put_sum(struct maker *m, uint64_t sum)
{
	lp_seal_put_u64(m->block + 8 * (m->page % LP_SEAL_BLOCK), sum);
	m->page++;
	return m->page % LP_SEAL_BLOCK && m->page != m->h.npages ? 0 : put_block(m);
}

static int sum_pages(struct maker *m, int fd, const struct lp_seal_file *f, const char *shown)
{
	uint64_t off, n, k, len;
	int rc = 0;

	for (off = 0; !rc && off < f->size; off += n) {
		n = f->size - off < READ_STEP ? f->size - off : READ_STEP;
		rc = seal_pread(fd, m->buf, n, off, false);
		if (rc)
			return lp_err_sys(m->err, rc, "%s: cannot read it at 0x%" PRIx64, shown, off);
		for (k = 0; !rc && k < n; k += LP_SEAL_PAGE) {
			len = n - k < LP_SEAL_PAGE ? n - k : LP_SEAL_PAGE;
			rc = put_sum(m, lp_seal_sum(m->buf + k, len));
		}
		m->bytes += n;
		if (m->progress)
			m->progress(m->arg, m->bytes, m->total);
	}
	return rc;
}

static int add_pages(struct maker *m, const struct lp_seal_file *f)
{
	const struct lp_imgdir *d = &m->chain.dirs[f->depth];
	char name[32], shown[LP_NAME_MAX];
	struct stat before, after;
	uint64_t size;
	int fd, rc;

	snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", f->id);
	lp_imgdir_name(d, name, shown);
	fd = lp_open_regular(d, name, shown, &size, m->err);
	if (fd < 0)
		return fd;
	rc = fstat(fd, &before) ? lp_err_sys(m->err, -errno, "%s: cannot stat it", shown) : 0;
	if (!rc && size == f->size)
		rc = sum_pages(m, fd, f, shown);
	if (!rc && (size != f->size || fstat(fd, &after) || after.st_size != before.st_size ||
		    after.st_mtim.tv_sec != before.st_mtim.tv_sec || after.st_mtim.tv_nsec != before.st_mtim.tv_nsec))
		rc = lp_err(m->err, -EBUSY, "%s: it changes while it is sealed: wait until the checkpoint is complete", shown);
	close(fd);
	return rc;
}

static int begin(struct maker *m)
{
	snprintf(m->tmp, sizeof(m->tmp), "." LP_SEAL_FILE ".%d", getpid());
	m->fd = openat(m->chain.dirs[0].fd, m->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	return m->fd < 0 ? lp_err_sys(m->err, -errno, "%s: cannot create it", m->tmp) : 0;
}

/* Who may read the checkpoint may read its seal. */
static void same_access(const struct maker *m)
{
	struct stat st;

	if (fstatat(m->chain.dirs[0].fd, "inventory.img", &st, 0))
		return;
	if (fchown(m->fd, st.st_uid, st.st_gid))
		return; /* not root: it is ours */
	(void)fchmod(m->fd, st.st_mode & 0666);
}

static int finish(struct maker *m)
{
	int dirfd = m->chain.dirs[0].fd, rc;
	uint8_t *head;

	rc = lp_seal_head_put(&m->h, m->blocks, &head);
	if (rc)
		return lp_err(m->err, rc, LP_SEAL_FILE ": no memory for %" PRIu64 " bytes", m->h.len);
	rc = write_all(m, head, m->h.len, 0);
	free(head);
	if (rc)
		return rc;
	same_access(m);
	if (fsync(m->fd) || renameat(dirfd, m->tmp, dirfd, LP_SEAL_FILE) || fsync(dirfd))
		return lp_err_sys(m->err, -errno, LP_SEAL_FILE ": cannot write it");
	return 0;
}

static int make(struct maker *m)
{
	unsigned i;
	int rc = 0;

	for (i = 0; !rc && i < m->chain.ndirs; i++)
		rc = seal_list(&m->chain.dirs[i], add_file, m, m->err);
	if (rc)
		return rc;
	if (m->h.nfiles)
		qsort(m->h.files, m->h.nfiles, sizeof(*m->h.files), by_id);
	if (m->h.nsmall)
		qsort(m->h.small, m->h.nsmall, sizeof(*m->h.small), by_name);
	rc = lp_seal_head_plan(&m->h);
	if (rc)
		return lp_err(m->err, -EFBIG, "too large to be sealed: %" PRIu64 " pages in %" PRIu32 " files", m->h.npages,
			      m->h.nfiles);
	m->blocks = calloc(m->h.nblocks + 1, sizeof(*m->blocks));
	m->buf = malloc(READ_STEP);
	if (!m->blocks || !m->buf)
		return lp_err(m->err, -ENOMEM, LP_SEAL_FILE ": no memory");
	rc = begin(m);
	for (i = 0; !rc && i < m->h.nfiles; i++)
		rc = add_pages(m, &m->h.files[i]);
	if (!rc)
		rc = finish(m);
	if (rc && m->fd >= 0)
		unlinkat(m->chain.dirs[0].fd, m->tmp, 0);
	return rc;
}

int lp_seal_make(const struct lp_images *im, const char *dir, lp_seal_progress progress, void *arg,
		 struct lp_seal_sums *sums, struct lp_err *err)
{
	struct maker *m = calloc(1, sizeof(*m));
	const struct lp_task *t;
	uint64_t at;
	uint32_t i;
	int rc;

	if (!m)
		return lp_err(err, -ENOMEM, "%s: no memory", dir);
	m->fd = -1;
	m->progress = progress;
	m->arg = arg;
	m->err = err;
	/* A page that is not here cannot be vouched for. */
	t = lp_images_elsewhere(im, &at);
	rc = t ? lp_err(err, -ENODATA,
			"pagemap-%d.img: its pages stayed with the source of a lazy dump: a checkpoint is sealed when it is "
			"whole",
			t->pid) : 0;
	if (!rc)
		rc = lp_images_ident(im, dir, m->h.ident, err);
	if (!rc)
		rc = lp_open_dirs(&m->chain, dir, err);
	if (!rc)
		rc = make(m);
	*sums = (struct lp_seal_sums){ .bytes = m->bytes, .pages = m->page, .files = m->h.nfiles, .small = m->h.nsmall };
	if (m->fd >= 0)
		close(m->fd);
	lp_close_dirs(&m->chain);
	for (i = 0; i < m->h.nsmall; i++)
		free((char *)m->h.small[i].name);
	lp_seal_head_free(&m->h);
	free(m->blocks);
	free(m->buf);
	free(m);
	return rc;
}
