/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The directory of a relay: all small images as they are, and for each task a
 * pages file with room for everything, in the order of its addresses, and a
 * pagemap that says so.
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

#include "images/pmwrite.h"
#include "serve/relay_int.h"

static int copy_bytes(int from, uint64_t off, int to, uint64_t at, uint64_t len)
{
	char buf[65536];

	while (len) {
		ssize_t n = pread(from, buf, len < sizeof(buf) ? len : sizeof(buf), (off_t)off), k;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		k = pwrite(to, buf, n, (off_t)at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		off += k;
		at += k;
		len -= k;
	}
	return 0;
}

static int create(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

static int copy_file(int from, int to, const char *name)
{
	struct stat st;
	int a, b, rc;

	if (!linkat(from, name, to, name, 0))
		return 0;
	a = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (a < 0)
		return -errno;
	b = create(to, name);
	rc = b < 0 ? b : fstat(a, &st) ? -errno : copy_bytes(a, 0, b, 0, st.st_size);
	close(a);
	if (b >= 0 && close(b) && !rc)
		rc = -errno;
	return rc;
}

struct maker {
	struct relay *r;
	struct lp_pmw w;
	int fd;
	uint64_t at;
};

/* There are no parents here, so that all pages of lazy VMAs are lazy: see images/thin.h. */
static int make_piece(void *arg, const struct lp_extent *x, bool lazy)
{
	struct maker *m = arg;
	int rc;

	rc = lp_pmw_add(&m->w, x->start, x->end, LP_PE_PRESENT | (lazy ? LP_PE_LAZY : 0));
	if (!rc && x->kind == LP_EXT_DATA)
		rc = copy_bytes(lp_images_file(m->r->thin, x->file)->fd, x->off, m->fd, m->at, x->end - x->start);
	m->at += x->end - x->start;
	return rc;
}

/* Pagemap and pages file of @t. */
static int make_task(struct relay *r, int dirfd, const struct lp_task *t)
{
	struct maker m = { .r = r };
	char name[48];
	int fd, rc;

	snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", t->pages_id);
	fd = create(dirfd, name);
	if (fd < 0)
		return fd;
	m.fd = fd;
	rc = lp_pmw_head(&m.w, true, t->pages_id);
	if (!rc)
		rc = lp_thin_pieces(t, make_piece, &m);
	/* Now, not in the middle of the drain. */
	if (!rc && m.at)
		rc = -posix_fallocate(fd, 0, (off_t)m.at);
	if (close(fd) && !rc)
		rc = -errno;
	snprintf(name, sizeof(name), "pagemap-%" PRId32 ".img", t->pid);
	fd = rc ? rc : create(dirfd, name);
	if (fd >= 0) {
		rc = write(fd, m.w.p, m.w.n) == (ssize_t)m.w.n ? 0 : errno ? -errno : -EIO;
		if (close(fd) && !rc)
			rc = -errno;
	} else {
		rc = fd;
	}
	free(m.w.p);
	return rc;
}

/* Everything else that is a file. */
static int copy_others(struct relay *r, int from, int to)
{
	struct dirent *e;
	struct stat st;
	int fd, rc = 0;
	DIR *d;

	fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d)
		return -errno;
	while (!rc && (e = readdir(d))) {
		if (fstatat(from, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode) || lp_thin_has(r->thin, e->d_name))
			continue;
		rc = copy_file(from, to, e->d_name);
	}
	closedir(d);
	return rc;
}

static int remove_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), rc = 0;
	struct dirent *e;
	DIR *d;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	d = fdopendir(fd);
	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	while (!rc && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlinkat(dirfd(d), e->d_name, 0))
			rc = -errno;
	closedir(d);
	return rc ? rc : rmdir(path) ? -errno : 0;
}

/* What comes here has its parents with the source. */
static int no_shared(struct relay *r, struct lp_err *err)
{
	struct lp_shared *s;
	int rc = lp_shared_open(r->thin, r->from, &s, err);

	if (s)
		rc = lp_err(err, -ENOTSUP,
			    "%s: some of its pages are in the parent, which stays behind: copy the checkpoint with its "
			    "parents, or make a full dump",
			    lp_shared_mem(s, 0)->pagemap);
	lp_shared_close(s);
	return rc;
}

int relay_make_dir(struct relay *r, struct lp_err *err)
{
	const char *slash = strrchr(r->from, '/');
	int from = -1, to = -1, rc = 0;
	size_t i;

	if (asprintf(&r->dir, "%.*s/.live-%s", slash ? (int)(slash - r->from) : 1, slash ? r->from : ".",
		     r->conf->name) < 0) {
		r->dir = NULL;
		return lp_err(err, -ENOMEM, "out of memory");
	}
	rc = remove_dir(r->dir); /* of a server that ended in the middle: useless without its source */
	if (!rc && mkdir(r->dir, 0700))
		rc = -errno;
	if (!rc) {
		from = open(r->from, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		to = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		rc = from < 0 || to < 0 ? -errno : no_shared(r, err);
		if (rc && err->msg[0])
			goto out;
	}
	for (i = 0; !rc && i < lp_images_ntasks(r->thin); i++)
		if (lp_images_task(r->thin, i)->has_mm)
			rc = make_task(r, to, lp_images_task(r->thin, i));
	if (!rc)
		rc = copy_others(r, from, to);
	if (rc)
		lp_err_sys(err, rc, "%s: cannot make it", r->dir);
out:
	if (from >= 0)
		close(from);
	if (to >= 0)
		close(to);
	return rc;
}

static int sync_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}

static int sync_dir(struct relay *r)
{
	char path[4200];
	struct dirent *e;
	DIR *d = opendir(r->dir);
	int rc = 0;

	if (!d)
		return -errno;
	while (!rc && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		snprintf(path, sizeof(path), "%s/%s", r->dir, e->d_name);
		rc = sync_path(path);
	}
	closedir(d);
	return rc ? rc : sync_path(r->dir);
}

/* The directory that @path, which has a slash, is in. */
static int sync_parent(const char *path)
{
	char *dir = strndup(path, strrchr(path, '/') - path);
	int rc = dir ? sync_path(*dir ? dir : "/") : -ENOMEM;

	free(dir);
	return rc;
}

int relay_settle_dir(struct relay *r, struct lp_err *err)
{
	int rc = sync_dir(r);

	if (!rc && renameat2(AT_FDCWD, r->dir, AT_FDCWD, r->from, RENAME_EXCHANGE))
		rc = -errno;
	/* The source ends when it hears of this, so not before it is certain. */
	if (!rc)
		rc = sync_parent(r->dir);
	if (rc)
		return lp_err_sys(err, rc, "%s: cannot put it in its place", r->dir);
	/* What the dump had written; the small images live on by their other names. */
	rc = remove_dir(r->dir);
	if (rc)
		pr_warn("%s: cannot remove it: %s", r->dir, strerror(-rc));
	return 0;
}
