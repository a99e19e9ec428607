/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The remote source: the contract of source.h over two links. What faults need
 * is asked for on the urgent link, page by page; bulk asks for whole blocks, far
 * ahead, into a small cache, which faults look into first.
 *
 * Owns its cache and its threads, which start with the first page asked for.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "source/remote_int.h"

/* Slots beside those of readahead: for a window of each bulk thread (64 at most) ... */
#define SLOTS_MORE 72
/* ... of which these are used as long as they do. */
#define SLOTS_SOFT 12
/* So many places are looked at for the next one to ask for. */
#define LOOK_MAX 4096

static struct remote *remote_of(struct lp_source *s)
{
	return (struct remote *)s;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static const struct lp_extent *lookup(const struct remote *r, uint32_t obj, uint64_t addr,
				      const struct lp_extent **next)
{
	return lp_task_lookup(lp_images_task(r->im, obj), addr, next);
}

bool remote_has_lazy(const struct remote *r, uint32_t obj, uint64_t addr, uint64_t len)
{
	uint64_t end = addr + len;
	const struct lp_extent *x, *next;

	while (addr < end) {
		x = lookup(r, obj, addr, &next);
		if (!x)
			x = next;
		if (!x || x->start >= end)
			return false;
		if (x->lazy)
			return true;
		addr = x->end;
	}
	return false;
}

void want_done(struct remote *r, struct want *w, int rc)
{
	w->state = WANT_DONE;
	w->rc = rc;
	if (w->cond) {
		pthread_cond_signal(w->cond);
		return;
	}
	/* A slot's. */
	struct slot *s = (struct slot *)((char *)w - offsetof(struct slot, want));

	s->state = rc ? SLOT_EMPTY : SLOT_READY;
	pthread_cond_broadcast(&r->ready);
}

static int start(struct remote *r)
{
	int i, rc;

	/* Called with the lock; the threads begin by taking it. */
	for (i = 0; i < 2; i++) {
		if (r->links[i].thread)
			continue;
		rc = -pthread_create(&r->links[i].thread, NULL, link_main, &r->links[i]);
		if (rc) {
			r->links[i].thread = 0;
			return rc;
		}
	}
	r->started = true;
	return 0;
}

/* The slot with the byte at @at, preferably one that has it already: parts of one block may lie in several. */
static struct slot *find_slot(struct remote *r, uint32_t obj, uint64_t at)
{
	struct slot *s, *coming = NULL;
	unsigned i;

	for (i = 0; i < r->nslots; i++) {
		s = &r->slots[i];
		if (s->state == SLOT_EMPTY || s->obj != obj || at < s->lo || at >= s->hi)
			continue;
		if (s->state == SLOT_READY)
			return s;
		coming = s;
	}
	return coming;
}

/*
 * A slot for another block: an empty one, else the one that a window left
 * longest ago; for somebody who waits (@must) also one that readahead filled.
 */
static struct slot *take_slot(struct remote *r, bool must)
{
	struct slot *s, *best = NULL, *empty = NULL;
	unsigned i, used = 0;

	for (i = 0; i < r->nslots; i++) {
		s = &r->slots[i];
		if (s->state == SLOT_EMPTY) {
			if (!empty)
				empty = s;
			continue;
		}
		used++;
		if (s->state != SLOT_READY || s->pins || (!s->touched && !must))
			continue;
		if (!best || (s->touched && !best->touched) || (s->touched == best->touched && s->used < best->used))
			best = s;
	}
	return empty && (used < r->soft || !best || !best->touched) ? empty : best;
}

/* The index in places of (obj, block), or of the first behind it. */
static size_t place_at(const struct remote *r, uint32_t obj, uint64_t block)
{
	size_t lo = 0, hi = r->nplaces, mid;

	while (lo < hi) {
		const struct place *p = &r->places[mid = lo + (hi - lo) / 2];

		if (p->obj < obj || (p->obj == obj && p->block < block))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The lazy part of a block: from its first to behind its last lazy byte. */
static void lazy_part(const struct remote *r, uint32_t obj, uint64_t block, uint64_t *start, uint64_t *end)
{
	const struct lp_extent *x, *next;
	uint64_t pos = block;

	*start = *end = 0;
	while (pos < block + BLOCK) {
		x = lookup(r, obj, pos, &next);
		if (!x)
			x = next;
		if (!x || x->start >= block + BLOCK)
			break;
		if (x->lazy) {
			if (!*end)
				*start = x->start > block ? x->start : block;
			*end = min_u64(x->end, block + BLOCK);
		}
		pos = x->end;
	}
}

/* [lo, hi) of the block at @p, as far as it is lazy. */
static void ask(struct remote *r, struct slot *s, const struct place *p, uint64_t lo, uint64_t hi, uint8_t urgency)
{
	uint64_t start, end;

	lazy_part(r, p->obj, p->block, &start, &end);
	if (start < lo)
		start = lo;
	if (end > hi)
		end = hi;
	s->lo = start;
	s->hi = end;
	s->state = SLOT_ASKED;
	s->obj = p->obj;
	s->block = p->block;
	s->touched = false;
	s->used = ++r->tick;
	s->want = (struct want){
		.obj = p->obj, .addr = start, .len = end - start, .urgency = urgency, .direct = true,
		.dst = s->bytes + (start - p->block),
	};
	link_submit(&r->links[1], &s->want);
}

/* Keep the link busy with what comes after place @i. Lock held; the caller flushes. */
static void read_ahead(struct remote *r, size_t i)
{
	unsigned ahead = 0, k;
	struct slot *s;
	size_t looked;

	for (k = 0; k < r->nslots; k++)
		if (r->slots[k].state == SLOT_ASKED || (r->slots[k].state == SLOT_READY && !r->slots[k].touched))
			ahead++;
	for (looked = 0; looked < LOOK_MAX && looked < r->nplaces && ahead < r->ahead; looked++) {
		struct place *p = &r->places[(i + 1 + looked) % r->nplaces];

		if (p->asked)
			continue;
		s = take_slot(r, false);
		if (!s)
			break;
		p->asked = true;
		ask(r, s, p, p->block, p->block + BLOCK, 0);
		ahead++;
	}
}

static struct timespec deadline(const struct remote *r)
{
	uint64_t t = lp_now() + r->conf.timeout_ms * UINT64_C(1000000);

	return (struct timespec){ .tv_sec = t / 1000000000, .tv_nsec = t % 1000000000 };
}

static struct slot *slot_of(const struct lp_window *w)
{
	return w->priv;
}

static void unpin(struct lp_window *w)
{
	if (w->priv)
		slot_of(w)->pins--;
	*w = (struct lp_window){ 0 };
}

static void remote_unmap(struct lp_source *src, struct lp_window *w)
{
	struct remote *r = remote_of(src);

	pthread_mutex_lock(&r->lock);
	unpin(w);
	pthread_cond_broadcast(&r->ready);
	pthread_mutex_unlock(&r->lock);
}

/*
 * A slot with @img, which is in the block at place @i, pinned, or -errno. When it
 * must be asked for, then no more of the block than @want bytes: the rest may be
 * in the task already. Lock held, released while waiting.
 */
static int get_block(struct remote *r, size_t i, uint64_t img, uint64_t want, struct slot **out)
{
	struct timespec end = deadline(r);
	struct place *p = &r->places[i];
	struct slot *s;
	bool asked = false;

	for (;;) {
		if (atomic_load(&r->closing))
			return -EINTR;
		s = find_slot(r, p->obj, img);
		if (s && s->state == SLOT_READY)
			break;
		if (!s && asked)
			return -EIO; /* the servers could not answer */
		if (!s) {
			s = take_slot(r, true);
			if (s) {
				p->asked = asked = true;
				ask(r, s, p, img, img + (want < BLOCK ? want : BLOCK), 1);
			}
		} else {
			asked = true;
		}
		read_ahead(r, i);
		pthread_mutex_unlock(&r->lock);
		link_flush(&r->links[1]);
		pthread_mutex_lock(&r->lock);
		/* It may have come while the lock was free. */
		s = find_slot(r, p->obj, img);
		if (s && s->state == SLOT_READY)
			break;
		if (pthread_cond_timedwait(&r->ready, &r->lock, &end))
			return -ETIMEDOUT;
	}
	s->pins++;
	s->touched = true;
	s->used = ++r->tick;
	*out = s;
	return 0;
}

static int remote_map(struct lp_source *src, struct lp_window *w, uint32_t obj, uint64_t img, uint64_t want)
{
	struct remote *r = remote_of(src);
	const struct lp_extent *x = lookup(r, obj, img, NULL);
	uint64_t block = img - img % BLOCK;
	struct slot *s = NULL;
	bool flush = false;
	size_t i;
	int rc = 0;

	if (!x || !x->lazy)
		return -ENODATA;
	pthread_mutex_lock(&r->lock);
	if (!r->started)
		rc = start(r);
	if (!rc && slot_of(w) && slot_of(w)->obj == obj && img >= slot_of(w)->lo &&
	    img < slot_of(w)->hi) {
		s = slot_of(w);
	} else if (!rc) {
		unpin(w);
		i = place_at(r, obj, block);
		rc = get_block(r, i, img, want < LP_PAGE_SIZE ? LP_PAGE_SIZE : want, &s);
		if (!rc) {
			read_ahead(r, i);
			flush = r->links[1].queued.head != NULL;
		}
	}
	if (!rc) {
		w->priv = s;
		w->obj = obj;
		w->img = img;
		w->end = min_u64(x->end, s->hi);
		w->bytes = s->bytes + (img - block);
	}
	pthread_mutex_unlock(&r->lock);
	if (flush)
		link_flush(&r->links[1]);
	return rc;
}

/* From the cache if all of it is there. Lock held. */
static bool from_cache(struct remote *r, uint32_t obj, uint64_t img, uint8_t *buf, uint64_t len)
{
	uint64_t at, n;
	struct slot *s;

	for (at = img; at < img + len; at += n) {
		s = find_slot(r, obj, at);
		if (!s || s->state != SLOT_READY)
			return false;
		n = min_u64(s->hi, img + len) - at;
		memcpy(buf + (at - img), s->bytes + (at - s->block), n);
	}
	return true;
}

static int remote_try_read(struct lp_source *src, uint32_t obj, uint64_t img, void *buf, uint64_t len)
{
	struct remote *r = remote_of(src);
	bool found;

	pthread_mutex_lock(&r->lock);
	found = from_cache(r, obj, img, buf, len);
	pthread_mutex_unlock(&r->lock);
	return found ? 0 : -EAGAIN;
}

static int read_part(struct remote *r, uint32_t obj, uint64_t img, uint8_t *buf, uint32_t len)
{
	struct want w = { .obj = obj, .addr = img, .len = len, .dst = buf, .urgency = 1 };
	struct timespec end = deadline(r);
	pthread_condattr_t attr;
	pthread_cond_t cond;
	int rc = 0;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&cond, &attr);
	pthread_condattr_destroy(&attr);
	w.cond = &cond;
	pthread_mutex_lock(&r->lock);
	if (!r->started)
		rc = start(r);
	if (!rc && !from_cache(r, obj, img, buf, len)) {
		link_submit(&r->links[0], &w);
		pthread_mutex_unlock(&r->lock);
		link_flush(&r->links[0]);
		pthread_mutex_lock(&r->lock);
		while (w.state != WANT_DONE && !rc)
			rc = -pthread_cond_timedwait(&cond, &r->lock, &end);
		if (w.state == WANT_DONE) {
			rc = w.rc;
		} else {
			/* The link's thread cannot see any more how long it was asked for. */
			if (w.state == WANT_SENT)
				atomic_store(&r->links[0].late, true);
			link_forget(&r->links[0], &w);
		}
	}
	pthread_mutex_unlock(&r->lock);
	pthread_cond_destroy(&cond);
	return rc;
}

static int remote_read(struct lp_source *src, uint32_t obj, uint64_t img, void *buf, uint64_t len)
{
	uint8_t *to = buf;
	uint64_t n;
	int rc = 0;

	for (; !rc && len; len -= n, img += n, to += n) {
		n = min_u64(len, LP_GET_MAX);
		rc = read_part(remote_of(src), obj, img, to, (uint32_t)n);
	}
	return rc;
}

static const char *remote_where(struct lp_source *src, uint32_t obj, uint64_t img, char *buf, size_t len)
{
	struct remote *r = remote_of(src);

	/* Which server it would be is nobody's business: any of them. */
	snprintf(buf, len, "%s, task %d, address 0x%" PRIx64, r->conf.urls[0].text, lp_images_task(r->im, obj)->pid,
		 img);
	return buf;
}

void lp_source_remote_stats(struct lp_source *src, struct lp_remote_stats *st)
{
	struct remote *r = remote_of(src);

	pthread_mutex_lock(&r->lock);
	*st = r->stats;
	st->bytes = atomic_load(&r->bytes);
	pthread_mutex_unlock(&r->lock);
}

static void remote_close(struct lp_source *src)
{
	struct remote *r = remote_of(src);
	unsigned i;

	pthread_mutex_lock(&r->lock);
	atomic_store(&r->closing, true);
	for (i = 0; i < 2; i++)
		if (r->links[i].s.fd >= 0)
			shutdown(r->links[i].s.fd, SHUT_RDWR);
	pthread_cond_broadcast(&r->wake);
	pthread_cond_broadcast(&r->ready);
	pthread_mutex_unlock(&r->lock);
	for (i = 0; i < 2; i++) {
		if (r->links[i].thread)
			pthread_join(r->links[i].thread, NULL);
		if (r->links[i].r)
			link_fini(&r->links[i]);
	}
	for (i = 0; r->slots && i < r->nslots; i++)
		if (r->slots[i].bytes)
			munmap(r->slots[i].bytes, BLOCK);
	free(r->slots);
	free(r->places);
	pthread_cond_destroy(&r->ready);
	pthread_cond_destroy(&r->wake);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

static const struct lp_source_ops remote_ops = {
	.version = LP_SOURCE_VERSION,
	.name = "remote",
	.try_read = remote_try_read,
	.read = remote_read,
	.map = remote_map,
	.unmap = remote_unmap,
	.where = remote_where,
	.close = remote_close,
	.brought = true,
};

static int add_place(struct remote *r, size_t *cap, uint32_t obj, uint64_t block)
{
	struct place *p = r->places;

	if (r->nplaces && p[r->nplaces - 1].obj == obj && p[r->nplaces - 1].block == block)
		return 0;
	if (r->nplaces == *cap) {
		*cap = *cap ? *cap * 2 : 256;
		p = realloc(p, *cap * sizeof(*p));
		if (!p)
			return -ENOMEM;
		r->places = p;
	}
	p[r->nplaces++] = (struct place){ .obj = obj, .block = block };
	return 0;
}

static int find_places(struct remote *r)
{
	size_t i, k, cap = 0;
	uint64_t block;
	int rc = 0;

	for (i = 0; i < lp_images_ntasks(r->im); i++) {
		const struct lp_task *t = lp_images_task(r->im, i);

		for (k = 0; k < t->nextents; k++) {
			const struct lp_extent *x = &t->extents[k];

			if (!x->lazy)
				continue;
			for (block = x->start - x->start % BLOCK; !rc && block < x->end; block += BLOCK)
				rc = add_place(r, &cap, (uint32_t)i, block);
			if (rc)
				return rc;
		}
	}
	return 0;
}

static int init(struct remote *r)
{
	pthread_condattr_t attr;
	unsigned i;
	int rc;

	pthread_mutex_init(&r->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->ready, &attr);
	pthread_cond_init(&r->wake, &attr);
	pthread_condattr_destroy(&attr);
	r->links[0].s = r->links[1].s = LP_STREAM_NONE;
	rc = link_init(&r->links[0], r, LP_ROLE_URGENT);
	if (!rc)
		rc = link_init(&r->links[1], r, LP_ROLE_BULK);
	if (!rc)
		rc = find_places(r);
	if (rc)
		return rc;
	r->ahead = (r->conf.readahead ? r->conf.readahead : READAHEAD_DEFAULT) / BLOCK;
	if (r->ahead > AHEAD_MAX)
		r->ahead = AHEAD_MAX;
	if (!r->ahead)
		r->ahead = 1;
	r->soft = r->ahead + (r->ahead < SLOTS_SOFT ? r->ahead : SLOTS_SOFT);
	r->nslots = r->ahead + SLOTS_MORE;
	r->slots = calloc(r->nslots, sizeof(*r->slots));
	if (!r->slots)
		return -ENOMEM;
	for (i = 0; i < r->nslots; i++) {
		void *p = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return -ENOMEM;
		r->slots[i].bytes = p;
	}
	return 0;
}

int lp_source_remote_open(const struct lp_images *im, const struct lp_remote_conf *conf, struct lp_source **out,
			  struct lp_err *err)
{
	struct remote *r = calloc(1, sizeof(*r));

	if (!r)
		return lp_err(err, -ENOMEM, "out of memory");
	r->base.ops = &remote_ops;
	r->im = im;
	r->conf = *conf;
	if (init(r)) {
		remote_close(&r->base);
		return lp_err(err, -ENOMEM, "out of memory");
	}
	*out = &r->base;
	return 0;
}
