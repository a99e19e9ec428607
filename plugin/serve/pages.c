/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * PAGES frames: from a request to runs over the mappings of the pages files.
 * Bytes that are sent raw go from the page cache to the socket without a copy
 * here; they are read once, for their checksum.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "serve/internal.h"

/* Compressed in pieces, so that a reader can begin early and a buffer stays in cache. */
#define COMPRESS_BYTES (64u << 10)

static _Thread_local sigjmp_buf *volatile guard;

static void on_sigbus(int sig)
{
	if (guard)
		siglongjmp(*guard, 1);
	signal(sig, SIG_DFL);
	raise(sig);
}

void pages_guard_init(void)
{
	struct sigaction sa = { .sa_handler = on_sigbus, .sa_flags = SA_NODEFER };

	sigaction(SIGBUS, &sa, NULL);
}

struct build {
	struct conn *c;
	struct lp_pages m;
	uint32_t data;	/* stored in all runs */
	uint32_t used;	/* of c->data */
};

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void add_run(struct build *b, uint64_t addr, uint32_t len, uint32_t enc, const uint8_t *p)
{
	struct lp_run *r = &b->m.runs[b->m.nruns++];
	struct conn *c = b->c;

	*r = (struct lp_run){ .addr = addr, .len = len, .enc = enc };
	if (enc == LP_ENC_RAW) {
		const uint8_t *from = p;
		size_t n = 0;

		if (c->data && LP_DATA_MAX - b->used >= len)
			n = lp_run_compress(c->encodings, p, len, c->data + b->used, LP_DATA_MAX - b->used, &r->enc);
		if (n) {
			from = c->data + b->used;
			b->used += n;
		}
		r->stored = n ? n : len;
		c->iov[c->niov++] = (struct iovec){ (void *)from, r->stored };
		b->data += r->stored;
	}
	r->sum = lp_run_sum(b->m.obj, r, p);
}

/* Runs for the @len bytes at @p. Returns how far it came: runs may run out. */
static uint64_t add_bytes(struct build *b, uint64_t addr, const uint8_t *p, uint64_t len)
{
	uint64_t at = 0, n, most;
	bool zero;

	while (at < len && b->m.nruns < LP_RUNS_MAX) {
		zero = lp_is_zero(p + at, LP_PAGE_SIZE);
		most = b->c->data && !zero ? min_u64(len, at + COMPRESS_BYTES) : len;
		for (n = LP_PAGE_SIZE; at + n < most; n += LP_PAGE_SIZE)
			if (lp_is_zero(p + at + n, LP_PAGE_SIZE) != zero)
				break;
		add_run(b, addr + at, n, zero ? LP_ENC_ZERO : LP_ENC_RAW, p + at);
		at += n;
	}
	return at;
}

static void add_runs(struct build *b, struct req *r)
{
	struct ckpt *ck = b->c->ckpt;
	const struct lp_task *t = lp_images_task(ck->im, r->a);
	const struct lp_extent *x, *next;
	uint64_t room = LP_DATA_MAX, n;

	while (r->len && room && b->m.nruns < LP_RUNS_MAX) {
		x = lp_task_lookup(t, r->addr, &next);
		if (!x) {
			n = next ? min_u64(next->start - r->addr, r->len) : r->len;
			add_run(b, r->addr, n, LP_ENC_HOLE, NULL);
		} else {
			n = min_u64(min_u64(x->end - r->addr, r->len), room);
			/* The reader of images has checked it against the file's size, with which it was mapped. */
			n = add_bytes(b, r->addr, ck->maps[x->file] + x->off + (r->addr - x->start), n);
			room -= n;
		}
		r->addr += n;
		r->len -= n;
	}
}

int pages_frame(struct conn *c, struct req *r)
{
	struct build b = { .c = c, .m.obj = r->a };
	sigjmp_buf here;
	ssize_t meta;
	size_t head;

	if (c->encodings & ~LP_ENC_BASE && !c->data)
		c->data = malloc(LP_DATA_MAX); /* without it pages go raw */
	c->niov = 1;
	c->iov_at = 0;
	if (sigsetjmp(here, 0)) {
		guard = NULL;
		c->niov = 0;
		return -EIO;
	}
	guard = &here;
	atomic_signal_fence(memory_order_seq_cst); /* no look at the files outside of the guard */
	add_runs(&b, r);
	atomic_signal_fence(memory_order_seq_cst);
	guard = NULL;
	meta = lp_put_pages(c->head + LP_FRAME_HEADER, sizeof(c->head) - LP_FRAME_HEADER, &b.m);
	if (meta < 0) {
		c->niov = 0;
		return -EIO;
	}
	head = lp_frame_close(c->head, LP_MSG_PAGES, r->len || r->after ? LP_FLAG_MORE : 0, r->id, meta, b.data);
	c->iov[0] = (struct iovec){ c->head, head };
	return 0;
}

void pages_willneed(const struct ckpt *ck, const struct req *r)
{
	const struct lp_extent *x, *next;
	uint64_t addr = r->addr, end = r->addr + r->len, n, skew;
	const uint8_t *p;

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
		p = ck->maps[x->file] + x->off + (addr - x->start);
		skew = (uintptr_t)p % LP_PAGE_SIZE;
		madvise((void *)(p - skew), n + skew, MADV_WILLNEED);
		addr += n;
	}
}
