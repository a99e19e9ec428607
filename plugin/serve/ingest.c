/* SPDX-License-Identifier: GPL-2.0-only */
/* Directories of checkpoints that are being received; see ingest.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/ingest.h"
#include "serve/relay.h"

/* In the directory when CRIU has brought all pages. */
#define PAGES_DONE ".pages-are-complete"

static void dir_name(char *buf, size_t len, const char *name, bool fresh)
{
	snprintf(buf, len, ".%s-%s", fresh ? "receiving" : "incoming", name);
}

static int open_dir(int at, const char *name)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* For each entry of @dirfd: @fn; the first that is not 0 ends it. */
static int each(int dirfd, int (*fn)(int dirfd, const char *name))
{
	int fd = open_dir(dirfd, "."), rc = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;

	if (!d)
		return fd < 0 ? fd : -errno;
	while (!rc && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			rc = fn(dirfd, e->d_name);
	closedir(d);
	return rc;
}

static int remove_one(int dirfd, const char *name)
{
	/* We make no directories in there. */
	return unlinkat(dirfd, name, 0) && errno != ENOENT ? -errno : 0;
}

static int sync_one(int dirfd, const char *name)
{
	int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = fsync(fd) ? -errno : 0;
	close(fd);
	return rc;
}

/* Also what another checkpoint of this name has left behind: links to its parent and the like. */
static int remove_dir(int at, const char *name)
{
	int fd = open_dir(at, name), rc;

	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	rc = each(fd, remove_one);
	close(fd);
	if (!rc && unlinkat(at, name, AT_REMOVEDIR))
		rc = -errno;
	return rc;
}

/* What a push has left that did not come to its end, the server neither. CRIU brings pagemaps and pages only. */
static int remove_pushed(int dirfd, const char *name)
{
	if (!strncmp(name, "pagemap-", 8) || !strncmp(name, "pages-", 6) || !strcmp(name, PAGES_DONE))
		return 0;
	return remove_one(dirfd, name);
}

static int make_dir(struct server *srv, bool fresh, struct ingest *in, struct lp_err *err)
{
	struct stat st;
	int rc = 0;

	in->dirfd = open_dir(srv->ingest_fd, in->dir);
	if (in->dirfd >= 0 && (fresh || fstatat(in->dirfd, PAGES_DONE, &st, AT_SYMLINK_NOFOLLOW))) {
		close(in->dirfd);
		in->dirfd = -ENOENT;
		rc = remove_dir(srv->ingest_fd, in->dir); /* half of something that was given up */
	} else if (in->dirfd >= 0) {
		in->keep = true;
		rc = each(in->dirfd, remove_pushed);
	}
	if (rc)
		return lp_err_sys(err, rc, "%s/%s: cannot remove it", srv->conf->ingest, in->dir);
	if (in->dirfd == -ENOENT) {
		if (mkdirat(srv->ingest_fd, in->dir, 0700))
			return lp_err_sys(err, -errno, "%s/%s: cannot make it", srv->conf->ingest, in->dir);
		in->dirfd = open_dir(srv->ingest_fd, in->dir);
	}
	return in->dirfd < 0 ? lp_err_sys(err, in->dirfd, "%s/%s", srv->conf->ingest, in->dir) : 0;
}

int ingest_begin(struct server *srv, const char *name, bool fresh, struct ingest **out, struct lp_err *err)
{
	struct ingest *in, *other;
	int rc;

	if (!srv->conf->ingest)
		return lp_err(err, -EROFS, "this server receives no checkpoints (--ingest)");
	in = calloc(1, sizeof(*in));
	if (!in)
		return lp_err(err, -ENOMEM, "out of memory");
	snprintf(in->name, sizeof(in->name), "%s", name);
	dir_name(in->dir, sizeof(in->dir), name, fresh);
	in->left = srv->conf->ingest_limit;
	pthread_mutex_lock(&srv->ingest_lock);
	for (other = srv->ingests; other && strcmp(other->name, name); other = other->next)
		;
	if (!other) {
		in->next = srv->ingests;
		srv->ingests = in;
	}
	pthread_mutex_unlock(&srv->ingest_lock);
	if (other) {
		free(in);
		return lp_err(err, -EBUSY, "%s is being received from somebody else", name);
	}
	rc = make_dir(srv, fresh, in, err);
	if (rc) {
		in->dirfd = -1;
		in->keep = true;
		ingest_end(srv, in);
		return rc;
	}
	*out = in;
	return 0;
}

int ingest_open(struct ingest *in, const char *name, bool fresh, struct lp_err *err)
{
	int fd = openat(in->dirfd, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (fresh ? O_EXCL : 0), 0600);

	return fd < 0 ? lp_err_sys(err, -errno, "%s: %s: cannot write it", in->name, name) : fd;
}

int ingest_take(struct ingest *in, uint64_t n, struct lp_err *err)
{
	if (n > in->left)
		return lp_err(err, -EFBIG, "%s: it is larger than this server takes (--ingest-limit)", in->name);
	in->left -= n;
	return 0;
}

static int sync_all(struct ingest *in, struct lp_err *err)
{
	int rc = each(in->dirfd, sync_one);

	if (!rc && fsync(in->dirfd))
		rc = -errno;
	return rc ? lp_err_sys(err, rc, "%s: cannot make it durable", in->name) : 0;
}

int ingest_pages_done(struct server *srv, struct ingest *in, struct lp_err *err)
{
	char to[sizeof(in->dir)];
	bool had = false;
	int fd, rc = sync_all(in, err);

	if (rc)
		return rc;
	fd = ingest_open(in, PAGES_DONE, true, err);
	if (fd < 0)
		return fd;
	close(fd);
	dir_name(to, sizeof(to), in->name, false);
	rc = fsync(in->dirfd) ? -errno : 0;
	if (!rc)
		rc = renameat2(srv->ingest_fd, in->dir, srv->ingest_fd, to, RENAME_NOREPLACE) ? -errno : 0;
	if (rc == -EEXIST) {
		/* An earlier dump that was never pushed, or what a push has left. */
		had = true;
		rc = renameat2(srv->ingest_fd, in->dir, srv->ingest_fd, to, RENAME_EXCHANGE) ? -errno : 0;
	}
	if (!rc && fsync(srv->ingest_fd))
		rc = -errno;
	if (rc)
		return lp_err_sys(err, rc, "%s: cannot make it durable", in->name);
	in->keep = !had;
	return 0;
}

/* Is what was received a checkpoint? */
static int check(struct server *srv, struct ingest *in, struct lp_err *err)
{
	char dir[64];
	struct ckpt *c;
	struct stat st;
	int rc;

	/* By descriptor: nobody can put another directory in its place. */
	snprintf(dir, sizeof(dir), "/proc/self/fd/%d", in->dirfd);
	if (fstatat(in->dirfd, "inventory.img", &st, AT_SYMLINK_NOFOLLOW))
		return lp_err(err, -ENOENT, "%s: no inventory.img was received: push the directory of the dump", in->name);
	rc = ckpt_open(in->name, dir, &st, server_live(srv, in->name), &c, err);
	if (!rc)
		ckpt_free(c);
	return rc;
}

int ingest_seal(struct server *srv, struct ingest *in, bool replace, struct lp_err *err)
{
	bool had = false;
	int rc;

	/* What the relay serves, or has put there, is not what a push would put in its place. */
	if (server_live(srv, in->name) && !relay_pending(srv, in->name))
		return lp_err(err, -EEXIST,
			      "%s has had its live source here (--live): push under another name, or start the server without it",
			      in->name);
	rc = check(srv, in, err);
	if (!rc)
		rc = sync_all(in, err);
	if (rc)
		return rc;
	rc = renameat2(srv->ingest_fd, in->dir, srv->ingest_fd, in->name, RENAME_NOREPLACE) ? -errno : 0;
	if (rc == -EEXIST && replace) {
		had = true;
		rc = renameat2(srv->ingest_fd, in->dir, srv->ingest_fd, in->name, RENAME_EXCHANGE) ? -errno : 0;
	}
	if (rc == -EEXIST)
		return lp_err(err, rc, "there is a checkpoint %s already: take another name, or push --replace", in->name);
	if (rc)
		return lp_err_sys(err, rc, "%s: cannot put it in its place", in->name);
	if (fsync(srv->ingest_fd))
		pr_warn("%s: %s", srv->conf->ingest, strerror(errno));
	unlinkat(in->dirfd, PAGES_DONE, 0);
	in->keep = !had; /* else what it has replaced is there now */
	pr_msg("%s: received", in->name);
	return 0;
}

void ingest_end(struct server *srv, struct ingest *in)
{
	struct ingest **p;

	if (in->dirfd >= 0)
		close(in->dirfd);
	if (!in->keep && remove_dir(srv->ingest_fd, in->dir))
		pr_warn("%s/%s: cannot remove it: %s", srv->conf->ingest, in->dir, strerror(errno));
	pthread_mutex_lock(&srv->ingest_lock);
	for (p = &srv->ingests; *p != in; p = &(*p)->next)
		;
	*p = in->next;
	pthread_mutex_unlock(&srv->ingest_lock);
	free(in);
}
