/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Receiving from `criu dump --page-server`: for each task and each piece of
 * shared memory a pagemap and a pages file, as CRIU's own page server writes
 * them. Nothing is in a parent: we say that there is none, so CRIU sends all.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "images/pmwrite.h"
#include "serve/ingest.h"

#define BUF_BYTES (UINT64_C(1) << 20)
/* CRIU numbers the pages files of its own side from 1. */
#define PAGES_ID_BASE 0x10000u
#define OBJECTS_MAX 1000000u

struct put {
	struct ps *s;
	struct server *srv;
	struct ingest *in; /* from its first request on: who only connects takes nothing from others */
	uint64_t dst;	 /* the object that is open, or 0 */
	uint64_t end;	 /* of its last entry */
	uint32_t nobjs;
	int pagemap, pages;
	char name[64];
	struct lp_pmw w; /* what is not written yet of the pagemap */
	uint8_t *buf;
};

static int write_all(struct put *p, int fd, const void *data, size_t n, struct lp_err *err)
{
	int rc = ingest_take(p->in, n, err);

	while (!rc && n) {
		ssize_t k = write(fd, data, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return lp_err_sys(err, -errno, "%s: %s: cannot write it", p->in->name, p->name);
		data = (const char *)data + k;
		n -= k;
	}
	return rc;
}

static int flush(struct put *p, struct lp_err *err)
{
	int rc = write_all(p, p->pagemap, p->w.p, p->w.n, err);

	p->w.n = 0;
	return rc;
}

static int close_object(struct put *p, struct lp_err *err)
{
	int rc = 0;

	if (p->pagemap >= 0) {
		rc = flush(p, err);
		if (close(p->pagemap) && !rc)
			rc = lp_err_sys(err, -errno, "%s: %s", p->in->name, p->name);
	}
	if (p->pages >= 0 && close(p->pages) && !rc)
		rc = lp_err_sys(err, -errno, "%s: pages of %s", p->in->name, p->name);
	p->pagemap = p->pages = -1;
	p->dst = 0;
	return rc;
}

static int open_object(struct put *p, uint64_t dst, struct lp_err *err)
{
	enum lp_ps_type type;
	char pages[32];
	uint64_t id;
	int rc = close_object(p, err);

	if (rc)
		return rc;
	if (lp_ps_object(dst, &type, &id) || !id || id > (type == LP_PS_TASK ? INT32_MAX : UINT32_MAX))
		return lp_err(err, -EBADMSG, "%s: it opens 0x%" PRIx64 ", which is no task and no shared memory", p->s->who,
			      dst);
	if (p->nobjs == OBJECTS_MAX)
		return lp_err(err, -EBADMSG, "%s: more than %u objects", p->s->who, OBJECTS_MAX);
	snprintf(p->name, sizeof(p->name), type == LP_PS_TASK ? "pagemap-%" PRIu64 ".img" : "pagemap-shmem-%" PRIu64 ".img",
		 id);
	snprintf(pages, sizeof(pages), "pages-%u.img", PAGES_ID_BASE + ++p->nobjs);
	p->pagemap = ingest_open(p->in, p->name, true, err);
	if (p->pagemap < 0)
		return p->pagemap;
	p->pages = ingest_open(p->in, pages, true, err);
	if (p->pages < 0)
		return p->pages;
	p->dst = dst;
	p->end = 0;
	p->w.n = 0;
	return lp_pmw_head(&p->w, true, PAGES_ID_BASE + p->nobjs) ? lp_err(err, -ENOMEM, "out of memory") : 0;
}

static int add(struct put *p, const struct lp_ps *m, uint32_t flags, struct lp_err *err)
{
	uint64_t len = m->pages * LP_PS_PAGE, n;
	int rc;

	if (!p->dst || m->dst != p->dst)
		return lp_err(err, -EBADMSG, "%s: pages of 0x%" PRIx64 ", which is not open", p->s->who, m->dst);
	if (m->addr < p->end)
		return lp_err(err, -EBADMSG, "%s: %s: pages at 0x%" PRIx64 " once more", p->s->who, p->name, m->addr);
	if (flags & LP_PE_PARENT)
		return lp_err(err, -EBADMSG, "%s: %s: pages that are in a parent, but there is none", p->s->who, p->name);
	if (!(flags & (LP_PE_LAZY | LP_PE_PRESENT)) || flags & ~(LP_PE_LAZY | LP_PE_PRESENT))
		return lp_err(err, -EBADMSG, "%s: %s: unknown flags 0x%x", p->s->who, p->name, flags);
	p->end = m->addr + len;
	if (lp_pmw_add(&p->w, m->addr, p->end, flags))
		return lp_err(err, -ENOMEM, "out of memory");
	rc = p->w.n > 65536 ? flush(p, err) : 0;
	if (!(flags & LP_PE_PRESENT))
		return rc;
	for (; !rc && len; len -= n) {
		n = len < BUF_BYTES ? len : BUF_BYTES;
		rc = ps_recv(p->s, p->buf, n, err);
		if (!rc)
			rc = write_all(p, p->pages, p->buf, n, err);
		p->s->bytes += n;
	}
	return rc;
}

/* 1: that was all. */
static int handle(struct put *p, const struct lp_ps *m, struct lp_err *err)
{
	const char no_parent = 0;
	const int32_t no = 0;
	int rc;

	switch (m->cmd) {
	case LP_PS_OPEN:
		return open_object(p, m->dst, err);
	case LP_PS_OPEN2:
		rc = open_object(p, m->dst, err);
		return rc ? rc : ps_send(p->s, &no_parent, 1, err);
	case LP_PS_PARENT:
		return ps_send(p->s, &no, sizeof(no), err);
	case LP_PS_ADD:
		return add(p, m, LP_PE_PRESENT, err);
	case LP_PS_HOLE:
		return add(p, m, LP_PE_PARENT, err);
	case LP_PS_ADD_F:
		return add(p, m, m->flags, err);
	case LP_PS_CLOSE:
	case LP_PS_FORCE_CLOSE:
		rc = close_object(p, err);
		if (!rc)
			rc = ingest_pages_done(p->srv, p->in, err);
		return rc ? rc : 1;
	default:
		return lp_err(err, -EPROTO, "%s: it wants to read (command %u): this address only receives dumps",
			      p->s->who, m->cmd);
	}
}

int ps_receive(struct ps *s, struct server *srv, const char *name, struct lp_err *err)
{
	struct put p = { .s = s, .srv = srv, .pagemap = -1, .pages = -1 };
	struct lp_err ignored;
	struct lp_ps m;
	int rc;

	p.buf = malloc(BUF_BYTES);
	if (!p.buf)
		return lp_err(err, -ENOMEM, "out of memory");
	while ((rc = ps_next(s, &m, err)) > 0) {
		rc = p.in ? 0 : ingest_begin(srv, name, true, &p.in, err);
		if (!rc)
			rc = handle(&p, &m, err);
		if (rc)
			break;
	}
	if (!rc)
		rc = lp_err(err, -EPIPE, "%s: the dump ended without saying that it is complete", s->who);
	if (rc < 0)
		close_object(&p, &ignored);
	if (p.in)
		ingest_end(srv, p.in);
	free(p.w.p);
	free(p.buf);
	return rc < 0 ? rc : 0;
}
