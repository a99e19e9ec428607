/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PAGES frames: from a request to runs of bytes, read from the pages files.
 *
 * Read, not mapped: a file that is cut short is an error of the read, where a
 * mapping would raise SIGBUS, and what is sent is what the checksum was made of,
 * whoever changes the file meanwhile; with a seal, what was verified. The copy costs less than the faults of a
 * mapping; the page cache is shared by all clients all the same.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "serve/internal.h"

/* Compressed in pieces, so that a reader can begin early. */
#define COMPRESS_BYTES (64u << 10)

struct build {
	struct conn *c;
	struct lp_pages m;
	uint32_t used; /* of c->data: what is stored in all runs */
	uint32_t read; /* of loop->raw */
	uint64_t room; /* bytes that may still be stored, if they do not get less */
	struct same *same; /* or NULL */
	int rc;
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void add_run(struct build *b, uint64_t addr, uint32_t len, uint32_t enc, const uint8_t *p)
{
	struct lp_run *r = &b->m.runs[b->m.nruns++];
	struct conn *c = b->c;
	size_t n = 0;

	*r = (struct lp_run){ .addr = addr, .len = len, .enc = enc };
	if (enc == LP_ENC_RAW) {
		uint8_t *to = c->data + b->used;

		b->room -= len;
		if (c->encodings & ~LP_ENC_BASE)
			n = lp_run_compress(c->loop->codec, c->encodings, p, len, to, len, &r->enc);
		if (!n && to != p)
			memmove(to, p, len);
		r->stored = n ? n : len;
		b->used += r->stored;
		if (n) {
			r->sum = lp_run_sum(b->m.obj, r, p);
			return;
		}
		p = to;
	}
	r->sum = lp_run_sum(b->m.obj, r, p);
}

/* What is the page at @p, which is for @addr? *back: for SAME. */
static uint32_t kind(struct build *b, uint64_t addr, const uint8_t *p, uint32_t *back)
{
	*back = 0;
	if (lp_is_zero(p, LP_PAGE_SIZE))
		return LP_ENC_ZERO;
	if (b->same)
		*back = same_find(b->same, addr, p);
	return *back ? LP_ENC_SAME : LP_ENC_RAW;
}

/* Runs for the @len bytes at @p. Returns how far it came: runs may run out. */
static uint64_t add_bytes(struct build *b, uint64_t addr, const uint8_t *p, uint64_t len)
{
	bool compress = b->c->encodings & ~LP_ENC_BASE;
	uint32_t back, next_back, enc = kind(b, addr, p, &back), next;
	uint64_t at = 0, n, most;

	while (at < len && b->m.nruns < LP_RUNS_MAX) {
		most = compress && enc == LP_ENC_RAW ? min_u64(len, at + COMPRESS_BYTES) : len;
		next = enc;
		next_back = back;
		for (n = LP_PAGE_SIZE; at + n < len; n += LP_PAGE_SIZE) {
			next = kind(b, addr + at + n, p + at + n, &next_back);
			if (next != enc || next_back != back || at + n >= most)
				break;
		}
		add_run(b, addr + at, n, enc, p + at);
		b->m.runs[b->m.nruns - 1].back = back;
		at += n;
		enc = next;
		back = next_back;
	}
	return at;
}

/*
 * The bytes of an extent, in steps that leave it in the CPU's cache. Raw ones
 * are read where they will be sent from, else into the loop's buffer.
 */
static uint64_t add_extent(struct build *b, const struct lp_extent *x, uint64_t addr, uint64_t len)
{
	struct ckpt *ck = b->c->ckpt;
	uint64_t at = 0, n, k;
	uint8_t *buf;

	while (at < len && b->room && b->m.nruns < LP_RUNS_MAX) {
		n = min_u64(min_u64(len - at, LP_STEP), b->room);
		buf = b->c->encodings & ~LP_ENC_BASE ? b->c->loop->raw + b->read : b->c->data + b->used;
		b->rc = ckpt_pread(ck, x->file, x->off + (addr + at - x->start), buf, n);
		if (b->rc)
			break;
		k = add_bytes(b, addr + at, buf, n);
		at += k;
		b->read += k;
		if (k < n)
			break;
	}
	return at;
}

static void add_runs(struct build *b, struct req *r)
{
	const struct lp_task *t = lp_images_task(b->c->ckpt->im, r->a);
	const struct lp_extent *x, *next;
	uint64_t n;

	b->room = b->c->data_cap;
	b->same = b->c->encodings & 1u << LP_ENC_SAME ? b->c->loop->same : NULL;
	if (b->same)
		b->same->n = 0;
	while (r->len && b->room && b->m.nruns < LP_RUNS_MAX && !b->rc) {
		x = lp_task_lookup(t, r->addr, &next);
		if (!x) {
			n = next ? min_u64(next->start - r->addr, r->len) : r->len;
			add_run(b, r->addr, n, LP_ENC_HOLE, NULL);
		} else {
			n = add_extent(b, x, r->addr, min_u64(x->end - r->addr, r->len));
		}
		r->addr += n;
		r->len -= n;
	}
}

int conn_data(struct conn *c, size_t len)
{
	if (c->data_cap >= len)
		return 0;
	free(c->data);
	c->data = malloc(len);
	c->data_cap = c->data ? len : 0;
	return c->data ? 0 : -ENOMEM;
}

int pages_frame(struct conn *c, struct req *r)
{
	struct build b = { .c = c, .m.obj = r->a };
	ssize_t meta;
	size_t head;

	c->niov = 0;
	c->iov_at = 0;
	b.rc = conn_data(c, r->len < LP_DATA_MAX ? r->len : LP_DATA_MAX);
	if (!b.rc)
		add_runs(&b, r);
	if (b.rc)
		return b.rc;
	meta = lp_put_pages(c->head + LP_FRAME_HEADER, sizeof(c->head) - LP_FRAME_HEADER, &b.m);
	if (meta < 0)
		return -EIO;
	head = lp_frame_close(c->head, LP_MSG_PAGES, r->len || r->after ? LP_FLAG_MORE : 0, r->id, meta, b.used);
	c->iov[0] = (struct iovec){ c->head, head };
	c->iov[1] = (struct iovec){ c->data, b.used };
	c->niov = b.used ? 2 : 1;
	return 0;
}

void pages_willneed(const struct ckpt *ck, const struct req *r)
{
	const struct lp_extent *x, *next;
	uint64_t addr = r->addr, end = r->addr + r->len, n;

	if (!ck->on_disk)
		return;
	while (addr < end) {
		x = lp_task_lookup(lp_images_task(ck->im, r->a), addr, &next);
		if (!x) {
			if (!next)
				break;
			addr = next->start;
			continue;
		}
		n = min_u64(x->end, end) - addr;
		(void)posix_fadvise(lp_images_file(ck->im, x->file)->fd, (off_t)(x->off + (addr - x->start)), (off_t)n,
				    POSIX_FADV_WILLNEED);
		addr += n;
	}
}
