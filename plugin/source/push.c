/* SPDX-License-Identifier: GPL-2.0-only */
/* `lazypages push`: a directory's image files over one connection; see push.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "source/push.h"
#include "source/remote_int.h"

/* Messages that are not answered yet. */
#define WINDOW 8
/* The server checks everything and waits for its disk. */
#define SEAL_MS (10 * 60 * 1000)

struct push {
	const struct lp_url *url;
	const char *dir;
	int dirfd, fd;
	unsigned ms;
	uint64_t sent, answered, bytes;
	uint8_t meta[LP_META_TO_CLIENT];
	uint8_t *buf; /* header and meta, then LP_DATA_MAX of data */
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
	rc = lp_send_all(p->fd, p->buf, n, p->ms, NULL);
	if (!rc)
		rc = lp_send_all(p->fd, p->buf + HEAD_CAP, data, p->ms, NULL);
	return rc ? lp_err_sys(err, rc, "%s: cannot send", p->url->text) : 0;
}

/* Answers, until at most @left messages have none. */
static int answers(struct push *p, uint64_t left, unsigned ms, struct lp_err *err)
{
	struct lp_frame f;
	int rc;

	while (p->sent - p->answered > left) {
		rc = lp_recv_frame(p->fd, &f, p->meta, ms, NULL);
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

static int push_file(struct push *p, const char *name, struct lp_err *err)
{
	struct lp_push_data m = { .name = { name, strlen(name) } };
	ssize_t n;
	int fd, rc = 0;

	fd = openat(p->dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return lp_err_sys(err, -errno, "%s/%s", p->dir, name);
	do {
		n = read(fd, p->buf + HEAD_CAP, LP_DATA_MAX);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			rc = lp_err_sys(err, -errno, "%s/%s", p->dir, name);
			break;
		}
		if (!n && m.off)
			break; /* an empty file is sent, too */
		m.sum = lp_data_sum(p->buf + HEAD_CAP, n);
		rc = send_msg(p, LP_MSG_PUSH_DATA, lp_put_push_data(p->buf + LP_FRAME_HEADER, LP_META_TO_SERVER, &m),
			      (uint32_t)n, err);
		if (!rc)
			rc = answers(p, WINDOW, p->ms, err);
		m.off += n;
		p->bytes += n;
	} while (!rc && n > 0);
	close(fd);
	return rc;
}

static bool wanted(const struct push *p, const char *name)
{
	const char *dot = strrchr(name, '.');
	struct stat st;

	return name[0] != '.' && dot && (!strcmp(dot, ".img") || !strcmp(dot, ".json")) &&
	       lp_file_name_ok(name, strlen(name)) && !fstatat(p->dirfd, name, &st, AT_SYMLINK_NOFOLLOW) &&
	       S_ISREG(st.st_mode);
}

static int push_dir(struct push *p, struct lp_err *err)
{
	struct dirent *e;
	int rc = 0;
	DIR *d;

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

int lp_push(const struct lp_url *url, const char *dir, bool replace, unsigned timeout_ms, uint64_t *bytes,
	    struct lp_err *err)
{
	struct push p = { .url = url, .dir = dir, .ms = timeout_ms, .fd = -1 };
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
	if (!rc) {
		p.fd = lp_dial(&server, LP_ROLE_CONTROL, NULL, 0, timeout_ms, NULL, &w, err);
		rc = p.fd < 0 ? p.fd : session(&p, replace, err);
	}
	if (p.fd >= 0)
		close(p.fd);
	close(p.dirfd);
	free(p.buf);
	*bytes = p.bytes;
	return rc;
}
