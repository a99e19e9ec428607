/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages push`: a directory's image files over one connection; see push.h.
 * What has parents goes in its whole form (images/thin.h): pagemaps and pages
 * files of tasks are made here, and verified by the seal if there is one.
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

#include "images/images.h"
#include "images/seal.h"
#include "images/shared.h"
#include "images/thin.h"
#include "source/push.h"
#include "source/remote_int.h"

/* Messages that are not answered yet. */
#define WINDOW 8
/* The server checks everything and waits for its disk. */
#define SEAL_MS (10 * 60 * 1000)

struct push {
	const struct lp_url *url;
	const char *dir;
	int dirfd;
	struct lp_stream s;
	unsigned ms;
	uint64_t sent, answered, bytes;
	uint8_t meta[LP_META_TO_CLIENT];
	uint8_t *buf; /* header and meta, then LP_DATA_MAX of data */
	struct lp_images *im; /* it has parents; else NULL */
	struct lp_images *sealed; /* without parents: only for the seal; or NULL */
	struct lp_seal *seal; /* of either, or NULL */
	struct lp_shared *shared;
};

#define HEAD_CAP (LP_FRAME_HEADER + LP_META_TO_SERVER)

/* A message whose meta is in place. */
static int send_msg(struct push *p, uint16_t type, ssize_t meta, uint32_t data, struct lp_err *err)
{
	size_t n;
	int rc;

	if (meta < 0)
		return lp_err(err, -EINVAL, "%s: a name is too long", p->url->text);
	n = lp_frame_close(p->buf, type, 0, ++p->sent, meta, data);
	rc = lp_stream_send_all(&p->s, p->buf, n, p->ms, NULL);
	if (!rc)
		rc = lp_stream_send_all(&p->s, p->buf + HEAD_CAP, data, p->ms, NULL);
	return rc ? lp_err_sys(err, rc, "%s: cannot send", p->url->text) : 0;
}

/* Answers, until at most @left messages have none. */
static int answers(struct push *p, uint64_t left, unsigned ms, struct lp_err *err)
{
	struct lp_frame f;
	int rc;

	while (p->sent - p->answered > left) {
		rc = lp_recv_frame(&p->s, &f, p->meta, ms, NULL);
		if (rc)
			return lp_err_sys(err, rc, "%s: no answer", p->url->text);
		if (f.type == LP_MSG_ERROR)
			return lp_refused(p->url, p->meta, f.meta, err);
		if (f.type != LP_MSG_PUSHED || f.data || f.id != p->answered + 1)
			return lp_err(err, -EBADMSG, "%s: an answer to another question", p->url->text);
		p->answered++;
	}
	return 0;
}

/* The server has said why before it hung up: that is the better message. */
static int told(struct push *p, int rc, struct lp_err *err)
{
	struct lp_err why;

	if (answers(p, 0, 1000, &why) && why.msg[0] && !strstr(why.msg, "no answer"))
		*err = why;
	return rc;
}

/* @n bytes, which are in place, at *@off of the file @name. */
static int push_data(struct push *p, const char *name, uint64_t *off, size_t n, struct lp_err *err)
{
	struct lp_push_data m = { .name = { name, strlen(name) }, .off = *off };
	int rc;

	m.sum = lp_data_sum(p->buf + HEAD_CAP, n);
	rc = send_msg(p, LP_MSG_PUSH_DATA, lp_put_push_data(p->buf + LP_FRAME_HEADER, LP_META_TO_SERVER, &m), (uint32_t)n,
		      err);
	if (!rc)
		rc = answers(p, WINDOW, p->ms, err);
	*off += n;
	p->bytes += n;
	return rc;
}

/* What to say when the seal does not let bytes pass, or they cannot be read. */
static int damaged(const struct push *p, const char *name, uint64_t bad, int rc, struct lp_err *err)
{
	if (rc == -EBADMSG || rc == -EUCLEAN)
		return lp_err(err, rc, "%s/%s: offset 0x%" PRIx64 ": %s: `lazypages verify` tells what else is damaged", p->dir,
			      name, bad, rc == -EBADMSG ? "not the bytes that were sealed" : "the seal is damaged");
	return lp_err_sys(err, rc, "%s/%s", p->dir, name);
}

static int push_file(struct push *p, const char *name, struct lp_err *err)
{
	uint64_t off = 0, bad = 0;
	ssize_t n;
	int fd, rc = 0;

	fd = openat(p->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return lp_err_sys(err, -errno, "%s/%s", p->dir, name);
	do {
		n = read(fd, p->buf + HEAD_CAP, LP_DATA_MAX);
		if (n < 0 && errno == EINTR) {
			n = 1;
			continue;
		}
		if (n < 0) {
			rc = lp_err_sys(err, -errno, "%s/%s", p->dir, name);
			break;
		}
		if (!n && off)
			break; /* an empty file is sent, too */
		rc = n ? lp_seal_read_name(p->seal, name, fd, off, p->buf + HEAD_CAP, n, &bad) : 0;
		if (rc) {
			rc = damaged(p, name, bad, rc, err);
			break;
		}
		rc = push_data(p, name, &off, n, err);
	} while (!rc && n > 0);
	close(fd);
	return rc;
}

static int push_mem(struct push *p, const char *name, const uint8_t *mem, size_t len, struct lp_err *err)
{
	uint64_t off = 0;
	int rc;

	do {
		size_t n = len - off < LP_DATA_MAX ? len - off : LP_DATA_MAX;

		memcpy(p->buf + HEAD_CAP, mem + off, n);
		rc = push_data(p, name, &off, n, err);
	} while (!rc && off < len);
	return rc;
}

static int push_pagemap(struct push *p, const struct lp_task *t, struct lp_err *err)
{
	uint8_t *mem;
	char name[48];
	size_t len;
	int rc;

	if (lp_whole_pagemap(p->im, t, &mem, &len))
		return lp_err(err, -ENOMEM, "out of memory");
	snprintf(name, sizeof(name), "pagemap-%" PRId32 ".img", t->pid);
	rc = push_mem(p, name, mem, len, err);
	free(mem);
	return rc;
}

static int push_shared(struct push *p, size_t i, struct lp_err *err)
{
	const struct lp_shared_mem *m = lp_shared_mem(p->shared, i);
	uint64_t off = 0;
	int rc = push_mem(p, m->pagemap, m->entries, m->len, err);

	while (!rc && off < m->bytes) {
		size_t n = m->bytes - off < LP_DATA_MAX ? m->bytes - off : LP_DATA_MAX;

		rc = lp_shared_read(p->shared, i, off, p->buf + HEAD_CAP, n);
		if (rc == -EBADMSG || rc == -EUCLEAN)
			rc = lp_err(err, rc, "%s/%s, or the same of a parent: %s: `lazypages verify` tells where", p->dir, m->pages,
				    rc == -EBADMSG ? "not the bytes that were sealed" : "the seal is damaged");
		else if (rc)
			rc = lp_err_sys(err, rc, "%s/%s, or the same of a parent", p->dir, m->pages);
		else
			rc = push_data(p, m->pages, &off, n, err);
	}
	return rc;
}

static int read_pages(struct push *p, const struct lp_extent *x, uint64_t at, uint8_t *buf, size_t n, struct lp_err *err)
{
	const char *name = lp_images_file(p->im, x->file)->name;
	uint64_t bad = 0;
	int rc = lp_seal_read(p->seal, p->im, x->file, x->off + at, buf, n, &bad);

	return rc ? damaged(p, name, bad, rc, err) : 0;
}

static int push_pages(struct push *p, const struct lp_task *t, struct lp_err *err)
{
	uint64_t off = 0, at;
	size_t fill = 0, i;
	char name[48];
	int rc = 0;

	snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", t->pages_id);
	for (i = 0; !rc && i < t->nextents; i++) {
		const struct lp_extent *x = &t->extents[i];
		uint64_t len = x->kind == LP_EXT_DATA ? x->end - x->start : 0, n;

		for (at = 0; !rc && at < len; at += n) {
			n = len - at < LP_DATA_MAX - fill ? len - at : LP_DATA_MAX - fill;
			rc = read_pages(p, x, at, p->buf + HEAD_CAP + fill, n, err);
			fill += n;
			if (rc || fill < LP_DATA_MAX)
				continue;
			rc = push_data(p, name, &off, fill, err);
			fill = 0;
		}
	}
	return rc || (!fill && off) ? rc : push_data(p, name, &off, fill, err);
}

static int push_tasks(struct push *p, struct lp_err *err)
{
	size_t i, k;
	int rc = 0;

	for (i = 0; !rc && i < lp_images_ntasks(p->im); i++) {
		const struct lp_task *t = lp_images_task(p->im, i), *o;

		if (!t->has_mm)
			continue;
		for (k = 0; k < i; k++) {
			o = lp_images_task(p->im, k);
			if (o->has_mm && o->pages_id == t->pages_id)
				return lp_err(err, -ENOTSUP, "%s/pages-%" PRIu32 ".img: it belongs to two tasks: make a full dump",
					      p->dir, t->pages_id);
		}
		rc = push_pagemap(p, t, err);
		if (!rc)
			rc = push_pages(p, t, err);
	}
	for (i = 0; !rc && i < lp_shared_count(p->shared); i++)
		rc = push_shared(p, i, err);
	return rc;
}

/* Without pagemaps, the pages are not here but where `criu dump --page-server` has brought them. */
static bool has_pagemaps(const struct push *p)
{
	bool found = false;
	struct dirent *e;
	DIR *d;

	d = opendir(p->dir);
	while (d && !found && (e = readdir(d)))
		found = !strncmp(e->d_name, "pagemap-", 8) && strncmp(e->d_name, "pagemap-shmem-", 14);
	if (d)
		closedir(d);
	return found;
}

static int find_parents(struct push *p, struct lp_err *err)
{
	int rc;

	if (!has_pagemaps(p))
		return 0;
	if (faccessat(p->dirfd, "parent", F_OK, 0)) {
		if (faccessat(p->dirfd, LP_SEAL_FILE, F_OK, 0))
			return 0;
		rc = lp_images_open(p->dir, &p->sealed, err);
		return rc ? rc : lp_seal_open(p->sealed, p->dir, LP_VERIFY_AUTO, &p->seal, err);
	}
	rc = lp_images_open(p->dir, &p->im, err);
	if (!rc)
		rc = lp_seal_open(p->im, p->dir, LP_VERIFY_AUTO, &p->seal, err);
	if (!rc)
		rc = lp_shared_open(p->im, p->dir, &p->shared, err);
	return rc ? rc : lp_shared_verify(p->shared, p->seal, err);
}

static bool wanted(const struct push *p, const char *name)
{
	const char *dot = strrchr(name, '.');
	struct stat st;

	return name[0] != '.' && dot && (!strcmp(dot, ".img") || !strcmp(dot, ".json")) &&
	       lp_file_name_ok(name, strlen(name)) && !(p->im && lp_thin_has(p->im, name)) &&
	       !lp_shared_has(p->shared, name) && !fstatat(p->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) &&
	       S_ISREG(st.st_mode);
}

static int push_dir(struct push *p, struct lp_err *err)
{
	struct dirent *e;
	int rc;
	DIR *d;

	rc = p->im ? push_tasks(p, err) : 0;
	if (rc)
		return rc;
	d = opendir(p->dir);
	if (!d)
		return lp_err_sys(err, -errno, "%s", p->dir);
	while (!rc && (e = readdir(d)))
		if (wanted(p, e->d_name))
			rc = push_file(p, e->d_name, err);
	closedir(d);
	return rc;
}

static int session(struct push *p, bool replace, struct lp_err *err)
{
	struct lp_push m = { replace ? LP_PUSH_REPLACE : 0, { p->url->name, strlen(p->url->name) } };
	int rc;

	rc = send_msg(p, LP_MSG_PUSH, lp_put_push(p->buf + LP_FRAME_HEADER, LP_META_TO_SERVER, &m), 0, err);
	if (!rc)
		rc = answers(p, 0, p->ms, err);
	if (!rc)
		rc = push_dir(p, err);
	if (!rc)
		rc = send_msg(p, LP_MSG_PUSH_SEAL, 0, 0, err);
	if (!rc)
		rc = answers(p, 0, SEAL_MS, err);
	return rc == -EPIPE || rc == -ECONNRESET ? told(p, rc, err) : rc;
}

int lp_push(const struct lp_url *url, struct lp_tls *tls, const char *dir, bool replace, unsigned timeout_ms, uint64_t *bytes,
	    struct lp_err *err)
{
	struct push p = { .url = url, .dir = dir, .ms = timeout_ms, .s = LP_STREAM_NONE };
	struct lp_url server = *url;
	struct lp_welcome w;
	int rc;

	server.name[0] = 0; /* it is not there yet */
	p.dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (p.dirfd < 0)
		return lp_err_sys(err, -errno, "%s", dir);
	p.buf = malloc(HEAD_CAP + LP_DATA_MAX);
	rc = p.buf ? 0 : lp_err(err, -ENOMEM, "out of memory");
	if (!rc && faccessat(p.dirfd, "inventory.img", R_OK, 0))
		rc = lp_err_sys(err, -errno, "%s/inventory.img: is this the directory of a dump?", dir);
	if (!rc)
		rc = find_parents(&p, err);
	if (!rc) {
		rc = lp_dial(&server, tls, LP_ROLE_CONTROL, NULL, 0, timeout_ms, NULL, &p.s, &w, err);
		if (!rc)
			rc = session(&p, replace, err);
	}
	lp_stream_close(&p.s);
	lp_shared_close(p.shared);
	lp_seal_close(p.seal);
	if (p.sealed)
		lp_images_close(p.sealed);
	if (p.im)
		lp_images_close(p.im);
	close(p.dirfd);
	free(p.buf);
	*bytes = p.bytes;
	return rc;
}
