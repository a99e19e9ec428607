/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages push`: the rest of a control connection, taken over by a thread of
 * its own after PUSH, since it writes files and may sleep for that. Each message
 * is answered by PUSHED or ERROR with its id; after an ERROR the connection ends.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve/ingest.h"

/* More than any checkpoint has: empty ones do not count for --ingest-limit. */
#define FILES_MAX 100000

struct push {
	struct conn *c; /* ours: in no loop */
	struct server *srv;
	struct ingest *in;
	bool replace;
	char **names; /* files of this push, made by it */
	size_t nnames, cap;
	uint64_t bytes;
	uint8_t meta[LP_META_TO_CLIENT], data[LP_DATA_MAX];
};

static int answer(struct push *p, uint16_t type, uint64_t id, uint16_t code, const char *text)
{
	uint8_t buf[LP_FRAME_HEADER + 4 + LP_TEXT_MAX];
	ssize_t n = 0;

	if (type == LP_MSG_ERROR)
		n = lp_put_error(buf + LP_FRAME_HEADER, sizeof(buf) - LP_FRAME_HEADER, code, text);
	return lp_stream_send_all(&p->c->s, buf, lp_frame_close(buf, type, 0, id, n > 0 ? n : 0, 0), p->srv->conf->idle_ms,
			   &p->srv->stopping);
}

static bool ends(struct lp_str s, const char *with)
{
	size_t k = strlen(with);

	return s.n > k && !memcmp(s.p + s.n - k, with, k);
}

/*
 * A file of this push, which comes in pieces. One that is there already is not
 * its own: pages that CRIU has brought, which those of another dump must not get
 * mixed with.
 */
static int open_file(struct push *p, const char *name, struct lp_err *err)
{
	size_t i, cap;
	char **v;
	int fd;

	for (i = p->nnames; i-- > 0;)
		if (!strcmp(p->names[i], name))
			return ingest_open(p->in, name, false, err);
	if (p->nnames == FILES_MAX)
		return lp_err(err, -EFBIG, "more than %d files", FILES_MAX);
	if (p->nnames == p->cap) {
		cap = p->cap ? 2 * p->cap : 64;
		v = realloc(p->names, cap * sizeof(*v));
		if (!v)
			return lp_err(err, -ENOMEM, "out of memory");
		p->names = v;
		p->cap = cap;
	}
	p->names[p->nnames] = strdup(name);
	if (!p->names[p->nnames])
		return lp_err(err, -ENOMEM, "out of memory");
	fd = ingest_open(p->in, name, true, err);
	if (fd == -EEXIST)
		lp_err(err, fd, "%s: the dump has brought it already: is this the directory of the same dump?", name);
	if (fd < 0)
		free(p->names[p->nnames]);
	else
		p->nnames++;
	return fd;
}

/* @keep: it has come to its end. Else nothing of it stays, also beside what CRIU has brought. */
static void end_files(struct push *p, bool keep)
{
	while (p->nnames) {
		p->nnames--;
		if (!keep)
			unlinkat(p->in->dirfd, p->names[p->nnames], 0);
		free(p->names[p->nnames]);
	}
	free(p->names);
}

static int on_data(struct push *p, const struct lp_frame *f, struct lp_err *err)
{
	char name[LP_FILE_NAME_MAX + 1];
	struct lp_push_data m;
	size_t done = 0;
	int fd, rc;

	if (lp_get_push_data(p->meta, f->meta, &m) || lp_data_sum(p->data, f->data) != m.sum)
		return lp_err(err, -EBADMSG, "malformed or damaged data");
	if (m.name.p[0] == '.' || (!ends(m.name, ".img") && !ends(m.name, ".json")))
		return lp_err(err, -EPERM, "only files *.img and *.json are taken");
	memcpy(name, m.name.p, m.name.n);
	name[m.name.n] = 0;
	rc = ingest_take(p->in, f->data, err);
	if (rc)
		return rc;
	fd = open_file(p, name, err);
	if (fd < 0)
		return fd;
	while (!rc && done < f->data) {
		ssize_t n = pwrite(fd, p->data + done, f->data - done, (off_t)(m.off + done));

		if (n < 0 && errno != EINTR)
			rc = lp_err_sys(err, -errno, "%s: cannot write it", name);
		done += n > 0 ? n : 0;
	}
	if (close(fd) && !rc)
		rc = lp_err_sys(err, -errno, "%s: cannot write it", name);
	p->bytes += done;
	return rc;
}

/* One message: 1 when that was all. */
static int turn(struct push *p, uint64_t *id, struct lp_err *err)
{
	uint8_t head[LP_FRAME_HEADER];
	struct lp_frame f;
	int rc;

	*id = 0;
	rc = lp_stream_recv_all(&p->c->s, head, sizeof(head), p->srv->conf->idle_ms, &p->srv->stopping);
	if (!rc && lp_frame_get(head, false, &f))
		rc = -EBADMSG;
	if (!rc)
		rc = lp_stream_recv_all(&p->c->s, p->meta, f.meta, p->srv->conf->idle_ms, &p->srv->stopping);
	if (!rc && lp_frame_check(head, p->meta))
		rc = -EBADMSG;
	if (!rc)
		rc = lp_stream_recv_all(&p->c->s, p->data, f.data, p->srv->conf->idle_ms, &p->srv->stopping);
	if (rc)
		return lp_err_sys(err, rc, "the push ended too early");
	*id = f.id;
	if (f.type == LP_MSG_PUSH_DATA)
		return on_data(p, &f, err);
	if (f.type != LP_MSG_PUSH_SEAL || f.meta || f.data)
		return lp_err(err, -EBADMSG, "malformed frame");
	rc = ingest_seal(p->srv, p->in, p->replace, err);
	return rc ? rc : 1;
}

static uint16_t code_of(int rc)
{
	switch (rc) {
	case -EBADMSG:
	case -EPERM:
		return LP_ERROR_PROTOCOL;
	case -EBUSY:
		return LP_ERROR_BUSY;
	case -EROFS:
	case -EEXIST:
	case -ENOENT:
	case -EINVAL:
	case -ENOTSUP:
	case -ENODATA:
		return LP_ERROR_UNKNOWN;
	default:
		return LP_ERROR_IO;
	}
}

static void *push_main(void *arg)
{
	struct push *p = arg;
	struct server *srv = p->srv;
	struct lp_err err = { "" };
	uint64_t id = p->c->push_id;
	int rc;

	rc = ingest_begin(srv, p->c->push_name, false, &p->in, &err);
	while (!rc) {
		if (answer(p, LP_MSG_PUSHED, id, 0, NULL))
			break;
		rc = turn(p, &id, &err);
	}
	/* Before the last word: who hears it may push the same name again at once. */
	if (p->in) {
		end_files(p, rc == 1);
		ingest_end(srv, p->in);
	}
	if (rc == 1)
		answer(p, LP_MSG_PUSHED, id, 0, NULL);
	if (rc < 0) {
		pr_warn("%s: push: %s", p->c->push_name, err.msg);
		answer(p, LP_MSG_ERROR, id, code_of(rc), err.msg);
	}
	pr_info("%s: push: %llu bytes", p->c->push_name, (unsigned long long)p->bytes);
	conn_free(p->c);
	free(p);
	atomic_fetch_sub(&srv->sessions, 1);
	return NULL;
}

void push_start(struct conn *c)
{
	struct server *srv = c->loop->srv;
	struct push *p = calloc(1, sizeof(*p));

	if (p) {
		p->c = c;
		p->srv = srv;
		p->replace = c->push_replace;
	}
	if (!p || session_thread(srv, push_main, p)) {
		pr_warn("%s: push: no thread for it", c->push_name);
		conn_free(c);
		free(p);
	}
}
