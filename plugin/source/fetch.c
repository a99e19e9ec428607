/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Fetching the small images of a checkpoint into a directory, over a control
 * connection. Files that are whole are not fetched again when a connection is
 * lost or the next server is asked, as long as it is the same checkpoint.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "source/remote_int.h"

/* Requests under way at once. */
#define WINDOW 8
#define FILES_MAX (1u << 20)
/* Rounds over all servers, with pauses of 100 ms, doubling. */
#define ROUNDS 6

struct file {
	char name[LP_FILE_NAME_MAX + 1];
	uint64_t size;
	bool done;
};

struct fetch {
	int dirfd;
	const char *dir;
	unsigned ms;
	const struct lp_url *url;
	struct lp_tls *tls;
	struct lp_stream s;
	struct file *files;
	uint32_t n;
	bool listed, have_ident;
	uint8_t ident[LP_IDENT_LEN];
	uint8_t meta[LP_META_TO_CLIENT];
	uint8_t *data;
};

static int request(struct fetch *t, uint16_t type, uint64_t id, uint8_t *buf, ssize_t meta)
{
	if (meta < 0)
		return -EINVAL;
	return lp_stream_send_all(&t->s, buf, lp_frame_close(buf, type, 0, id, meta, 0), t->ms, NULL);
}

/* An answer of @type with its data. */
static int answer(struct fetch *t, uint16_t type, struct lp_frame *f, struct lp_err *err)
{
	int rc;

	do {
		rc = lp_recv_frame(&t->s, f, t->meta, t->ms, NULL);
		if (rc)
			return lp_err_sys(err, rc, "%s: no answer", t->url->text);
	} while (f->type == LP_MSG_PONG || f->type == LP_MSG_PING);
	if (f->type == LP_MSG_ERROR)
		return lp_refused(t->url, t->meta, f->meta, err);
	if (f->type == LP_MSG_BYE)
		return lp_err(err, -ESHUTDOWN, "%s: the server is leaving", t->url->text);
	if (f->type != type)
		return lp_err(err, -EBADMSG, "%s: an answer to another question", t->url->text);
	rc = lp_stream_recv_all(&t->s, t->data, f->data, t->ms, NULL);
	return rc ? lp_err_sys(err, rc, "%s: half an answer", t->url->text) : 0;
}

static int list(struct fetch *t, struct lp_err *err)
{
	uint8_t buf[LP_FRAME_HEADER + 16];
	struct lp_frame f;
	struct lp_list l;
	struct lp_str name;
	struct file *v;
	int rc;

	t->n = 0;
	do {
		rc = request(t, LP_MSG_FILES, t->n + 1, buf, lp_put_from(buf + LP_FRAME_HEADER, 16, t->n));
		if (rc)
			return lp_err_sys(err, rc, "%s", t->url->text);
		rc = answer(t, LP_MSG_FILE_LIST, &f, err);
		if (rc)
			return rc;
		if (lp_get_list(t->meta, f.meta, &l) || l.first != t->n || !l.n || l.total > FILES_MAX)
			return lp_err(err, -EBADMSG, "%s: malformed list of files", t->url->text);
		v = realloc(t->files, l.total * sizeof(*v));
		if (!v)
			return lp_err(err, -ENOMEM, "out of memory");
		t->files = v;
		while (l.n--) {
			struct file *file = &v[t->n++];

			*file = (struct file){ 0 };
			if (lp_get_item(&l, &file->size, &name))
				return lp_err(err, -EBADMSG, "%s: malformed list of files", t->url->text);
			memcpy(file->name, name.p, name.n);
		}
	} while (t->n < l.total);
	t->listed = true;
	return 0;
}

static int write_at(int fd, const uint8_t *p, size_t n, uint64_t off)
{
	while (n) {
		ssize_t k = pwrite(fd, p, n, (off_t)off);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		p += k;
		n -= k;
		off += k;
	}
	return 0;
}

static int ask_chunk(struct fetch *t, const struct file *file, uint64_t chunk)
{
	struct lp_file_read m = {
		.off = chunk * LP_DATA_MAX, .len = LP_DATA_MAX, .name = { file->name, strlen(file->name) },
	};
	uint8_t buf[LP_FRAME_HEADER + LP_META_TO_SERVER];

	return request(t, LP_MSG_FILE_READ, chunk + 1, buf,
		       lp_put_file_read(buf + LP_FRAME_HEADER, LP_META_TO_SERVER, &m));
}

/* Answers may come in any order; each chunk comes once. */
static int take_chunk(struct fetch *t, const struct file *file, int fd, struct lp_err *err)
{
	uint64_t left;
	struct lp_file_data m;
	struct lp_frame f;
	int rc;

	rc = answer(t, LP_MSG_FILE_DATA, &f, err);
	if (rc)
		return rc;
	if (lp_get_file_data(t->meta, f.meta, &m) || m.off != (f.id - 1) * LP_DATA_MAX || m.off >= file->size)
		return lp_err(err, -EBADMSG, "%s: %s: malformed answer", t->url->text, file->name);
	left = file->size - m.off;
	if (f.data != (left < LP_DATA_MAX ? left : LP_DATA_MAX))
		return lp_err(err, -EBADMSG, "%s: %s: the file has changed its size", t->url->text, file->name);
	if (lp_data_sum(t->data, f.data) != m.sum)
		return lp_err(err, -EBADMSG, "%s: %s: damaged on the way", t->url->text, file->name);
	rc = write_at(fd, t->data, f.data, m.off);
	return rc ? lp_err_sys(err, rc, "%s/%s", t->dir, file->name) : 0;
}

/* @as: the name that it has until it is whole. */
static int fetch_file(struct fetch *t, struct file *file, const char *as, struct lp_err *err)
{
	uint64_t chunks = (file->size + LP_DATA_MAX - 1) / LP_DATA_MAX, asked = 0, got = 0;
	int fd, rc = 0;

	/* A link that lies there would be written through. */
	fd = openat(t->dirfd, as, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return lp_err_sys(err, -errno, "%s/%s: cannot write it", t->dir, file->name);
	while (!rc && got < chunks) {
		while (!rc && asked < chunks && asked < got + WINDOW) {
			rc = ask_chunk(t, file, asked++);
			if (rc)
				lp_err_sys(err, rc, "%s", t->url->text);
		}
		if (!rc)
			rc = take_chunk(t, file, fd, err);
		got++;
	}
	if (close(fd) && !rc)
		rc = lp_err_sys(err, -errno, "%s/%s", t->dir, file->name);
	if (!rc && as != file->name && renameat(t->dirfd, as, t->dirfd, file->name))
		rc = lp_err_sys(err, -errno, "%s/%s: cannot rename it", t->dir, as);
	file->done = !rc;
	return rc;
}

static int session(struct fetch *t, struct lp_err *err)
{
	struct file *inventory = NULL;
	struct lp_welcome w;
	uint32_t i;
	int rc = 0;

	rc = lp_dial(t->url, t->tls, LP_ROLE_CONTROL, t->have_ident ? t->ident : NULL, 0, t->ms, NULL, &t->s, &w, err);
	if (rc)
		return rc;
	memcpy(t->ident, w.ident, LP_IDENT_LEN);
	t->have_ident = true;
	if (!t->listed)
		rc = list(t, err);
	for (i = 0; !rc && i < t->n; i++) {
		if (!strcmp(t->files[i].name, "inventory.img"))
			inventory = &t->files[i];
		else if (!t->files[i].done)
			rc = fetch_file(t, &t->files[i], t->files[i].name, err);
	}
	if (!rc)
		rc = inventory ? fetch_file(t, inventory, "inventory.img.part", err) :
				 lp_err(err, -EBADMSG, "%s: a checkpoint without inventory.img", t->url->text);
	lp_stream_close(&t->s);
	return rc;
}

/* Is it of no use to ask again? */
static bool final(int rc)
{
	return rc == -ENOMEM || rc == -ENOSPC || rc == -EACCES || rc == -EROFS || rc == -EDQUOT || rc == -ELOOP;
}

int lp_remote_fetch(const struct lp_url *urls, size_t n, struct lp_tls *tls, const char *dir, unsigned timeout_ms,
		    uint8_t *ident, struct lp_err *err)
{
	struct timespec pause = { .tv_nsec = 100000000 };
	struct fetch t = { .dir = dir, .tls = tls, .ms = timeout_ms };
	struct lp_err last = { "" };
	unsigned round, away;
	size_t i;
	int rc = -EINVAL;

	t.dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t.dirfd < 0)
		return lp_err_sys(err, -errno, "%s", dir);
	t.data = malloc(LP_DATA_MAX);
	if (!t.data)
		rc = -ENOMEM;
	for (round = 0; t.data && round < ROUNDS && rc && !final(rc); round++) {
		if (round) {
			nanosleep(&pause, NULL);
			pause.tv_nsec = pause.tv_nsec < 400000000 ? pause.tv_nsec * 2 : pause.tv_nsec;
		}
		for (i = 0, away = 0; i < n && rc && !final(rc); i++) {
			t.url = &urls[i];
			rc = session(&t, &last);
			if (rc == -ENOENT || rc == -EKEYREJECTED)
				away++;
		}
		if (away == n)
			break; /* nobody has it, or lets us in: waiting does not help */
	}
	if (rc)
		lp_err(err, rc, "%s", rc == -ENOMEM ? "out of memory" : last.msg);
	else
		memcpy(ident, t.ident, LP_IDENT_LEN);
	free(t.files);
	free(t.data);
	close(t.dirfd);
	return rc;
}
