/* SPDX-License-Identifier: GPL-2.0-only */
/* Which pages of a live source are here, asked for, or waited for; see internal.h. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "live/internal.h"

size_t live_range_of(const struct lp_live *l, size_t page)
{
	size_t lo = 0, hi = l->conf.nranges, mid;

	while (hi - lo > 1) {
		mid = lo + (hi - lo) / 2;
		if (l->first[mid] <= page)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

uint8_t *live_mem(const struct lp_live *l, size_t page)
{
	size_t r = live_range_of(l, page);

	return l->conf.ranges[r].mem + (page - l->first[r]) * PAGE;
}

/* The number of the page at (obj, addr); *left: pages from there to the end of its range. */
static bool find(const struct lp_live *l, uint32_t obj, uint64_t addr, size_t *page, size_t *left)
{
	const struct lp_live_range *v = l->conf.ranges;
	size_t lo = 0, hi = l->conf.nranges, mid;

	/* The first range that begins behind it, then the one before that. */
	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (v[mid].obj < obj || (v[mid].obj == obj && v[mid].start <= addr))
			lo = mid + 1;
		else
			hi = mid;
	}
	if (!lo || v[lo - 1].obj != obj || addr >= v[lo - 1].end)
		return false;
	*page = l->first[lo - 1] + (addr - v[lo - 1].start) / PAGE;
	*left = l->first[lo] - *page;
	return true;
}

/* Call @fn for the runs of pages that [addr, addr + len) is, which may lie in several ranges. */
static int each_run(struct lp_live *l, uint32_t obj, uint64_t addr, uint64_t len,
		    int (*fn)(struct lp_live *l, size_t page, size_t n, void *arg), void *arg)
{
	size_t page, n;
	int rc;

	while (len) {
		if (!find(l, obj, addr, &page, &n))
			return -ENODATA;
		if (n > len / PAGE)
			n = len / PAGE;
		rc = fn(l, page, n, arg);
		if (rc)
			return rc;
		addr += n * PAGE;
		len -= n * PAGE;
	}
	return 0;
}

static int run_is_here(struct lp_live *l, size_t page, size_t n, void *arg)
{
	for (; n; n--, page++)
		if (!bit(l->have, page))
			return -EAGAIN;
	return 0;
}

void live_came(struct lp_live *l, size_t page, size_t n)
{
	for (; n; n--, page++) {
		clear_bit(l->asked, page);
		if (!bit(l->have, page)) {
			l->nhave++;
			/* Asked for once more: to be kept until it is taken once more. */
			clear_bit(l->taken, page);
			l->nfresh++;
		}
		set_bit(l->have, page);
		if (!bit(l->seen, page))
			l->nseen++;
		set_bit(l->seen, page);
	}
	pthread_cond_broadcast(&l->came);
}

static void mark_taken(struct lp_live *l, size_t page)
{
	if (bit(l->taken, page))
		return;
	set_bit(l->taken, page);
	l->nfresh -= bit(l->have, page);
}

/* Give back what was taken of a block that nobody looks at. */
static void release(struct lp_live *l, size_t block)
{
	size_t page = block * BLOCK_PAGES, end = page + BLOCK_PAGES, n, range_end;
	const struct waiter *w;

	if (l->pins[block])
		return;
	/* Somebody who waits for several pages needs those that have come. */
	for (w = l->waiters; w; w = w->next)
		if (w->page < end && w->page + w->n > page)
			return;
	if (end > l->npages)
		end = l->npages;
	while (page < end) {
		if (!bit(l->have, page) || !bit(l->taken, page)) {
			page++;
			continue;
		}
		range_end = l->first[live_range_of(l, page) + 1];
		for (n = 0; page + n < end && page + n < range_end; n++) {
			if (!bit(l->have, page + n) || !bit(l->taken, page + n))
				break;
			clear_bit(l->have, page + n);
		}
		l->nhave -= n;
		madvise(live_mem(l, page), n * PAGE, MADV_DONTNEED);
		page += n;
	}
}

static void trim(struct lp_live *l)
{
	size_t blocks = l->npages / BLOCK_PAGES + 1, i;

	if (l->conf.keep)
		return;
	for (i = 0; i < blocks && (l->nhave - l->nfresh) * PAGE > l->conf.cache; i++) {
		release(l, l->hand);
		l->hand = (l->hand + 1) % blocks;
	}
}

static int copy_run(struct lp_live *l, size_t page, size_t n, void *arg)
{
	uint8_t **to = arg;
	size_t i;

	memcpy(*to, live_mem(l, page), n * PAGE);
	*to += n * PAGE;
	for (i = page; i < page + n; i++)
		mark_taken(l, i);
	trim(l);
	return 0;
}

/* A run to ask for in [page, end): up to @max pages of one range, neither here nor asked for. */
static bool gap(const struct lp_live *l, size_t page, size_t end, size_t max, bool ahead, size_t *at, size_t *n)
{
	size_t range_end;

	for (; page < end; page++) {
		if (bit(l->have, page) || bit(l->asked, page) || (ahead && bit(l->taken, page)))
			continue;
		range_end = l->first[live_range_of(l, page) + 1];
		*at = page;
		for (*n = 1; *n < max && page + *n < end && page + *n < range_end; ++*n)
			if (bit(l->have, page + *n) || bit(l->asked, page + *n) || (ahead && bit(l->taken, page + *n)))
				break;
		return true;
	}
	return false;
}

bool live_next(struct lp_live *l, bool bulk, size_t max, size_t *page, size_t *n)
{
	struct waiter *w;

	for (w = l->waiters; w; w = w->next)
		if (w->urgent != bulk && gap(l, w->page, w->page + w->n, max, false, page, n))
			return true;
	if (!bulk || l->closing || l->all_asked || (!l->conf.keep && l->nfresh * PAGE + l->bulk_out >= l->conf.ahead))
		return false;
	/* Bits of 64 pages at once: all of them may have come long ago. */
	while (l->cursor < l->npages && l->cursor % 64 == 0 &&
	       !~(l->have[l->cursor / 64] | l->asked[l->cursor / 64] | (l->conf.keep ? 0 : l->taken[l->cursor / 64])))
		l->cursor += 64;
	if (l->cursor < l->npages && gap(l, l->cursor, l->npages, max, !l->conf.keep, page, n)) {
		l->cursor = *page + *n;
		return true;
	}
	/* Once more from the start: what was left out behind the cursor. */
	l->cursor = 0;
	if (!gap(l, 0, l->npages, max, !l->conf.keep, page, n)) {
		l->all_asked = true;
		return false;
	}
	l->cursor = *page + *n;
	return true;
}

int lp_live_start(struct lp_live *l)
{
	int rc = 0;

	pthread_mutex_lock(&l->lock);
	if (!l->started) {
		rc = -pthread_create(&l->thread, NULL, live_main, l);
		l->started = !rc;
		if (!rc)
			live_pump(l);
	}
	pthread_mutex_unlock(&l->lock);
	return rc;
}

static struct timespec after(unsigned ms)
{
	uint64_t t = lp_now() + ms * UINT64_C(1000000);

	return (struct timespec){ .tv_sec = t / 1000000000, .tv_nsec = t % 1000000000 };
}

/* Wait until the @n pages are here. The lock is held and released meanwhile. */
static int wait_run(struct lp_live *l, size_t page, size_t n, bool urgent, const struct timespec *end)
{
	struct waiter w = { .next = l->waiters, .page = page, .n = n, .urgent = urgent }, **p;
	int rc = 0;

	l->waiters = &w;
	/* A bulk waiter takes what is there as soon as its first page is. */
	while (!rc && run_is_here(l, page, urgent ? n : 1, NULL)) {
		live_pump(l);
		if (l->lost)
			rc = l->lost;
		else
			rc = -pthread_cond_timedwait(&l->came, &l->lock, end);
	}
	for (p = &l->waiters; *p != &w; p = &(*p)->next)
		;
	*p = w.next;
	return rc == -ETIMEDOUT && !run_is_here(l, page, urgent ? n : 1, NULL) ? 0 : rc;
}

bool lp_live_has(struct lp_live *l, uint32_t obj, uint64_t addr, uint64_t len)
{
	bool has;

	pthread_mutex_lock(&l->lock);
	has = !each_run(l, obj, addr, len, run_is_here, NULL);
	pthread_mutex_unlock(&l->lock);
	return has;
}

int lp_live_copy(struct lp_live *l, uint32_t obj, uint64_t addr, void *buf, uint64_t len)
{
	uint8_t *to = buf;
	int rc;

	pthread_mutex_lock(&l->lock);
	rc = each_run(l, obj, addr, len, run_is_here, NULL);
	if (!rc)
		each_run(l, obj, addr, len, copy_run, &to);
	pthread_mutex_unlock(&l->lock);
	return rc;
}

struct reading {
	uint8_t *to;
	struct timespec end;
};

static int read_run(struct lp_live *l, size_t page, size_t n, void *arg)
{
	struct reading *r = arg;
	int rc = wait_run(l, page, n, true, &r->end);

	return rc ? rc : copy_run(l, page, n, &r->to);
}

int lp_live_read(struct lp_live *l, uint32_t obj, uint64_t addr, void *buf, uint64_t len, unsigned ms)
{
	struct reading r = { buf, after(ms) };
	int rc = lp_live_start(l);

	pthread_mutex_lock(&l->lock);
	if (!rc)
		rc = each_run(l, obj, addr, len, read_run, &r);
	pthread_mutex_unlock(&l->lock);
	return rc;
}

static int want_run(struct lp_live *l, size_t page, size_t n, void *arg)
{
	struct waiter w = { .next = l->waiters, .page = page, .n = n, .urgent = true };

	if (!run_is_here(l, page, n, NULL))
		return 0;
	l->waiters = &w;
	live_pump(l);
	l->waiters = w.next;
	return 0;
}

int lp_live_want(struct lp_live *l, uint32_t obj, uint64_t addr, uint64_t len)
{
	int rc = lp_live_start(l);

	pthread_mutex_lock(&l->lock);
	if (!rc)
		rc = each_run(l, obj, addr, len, want_run, NULL);
	pthread_mutex_unlock(&l->lock);
	return rc;
}

int lp_live_pin(struct lp_live *l, uint32_t obj, uint64_t addr, uint64_t want, unsigned ms, struct lp_live_pin *pin)
{
	struct timespec end = after(ms);
	size_t page, n, i;
	int rc = lp_live_start(l);

	if (rc)
		return rc;
	pthread_mutex_lock(&l->lock);
	if (!find(l, obj, addr, &page, &n)) {
		pthread_mutex_unlock(&l->lock);
		return -ENODATA;
	}
	if (n > BLOCK_PAGES - page % BLOCK_PAGES)
		n = BLOCK_PAGES - page % BLOCK_PAGES;
	if (n > (want + PAGE - 1) / PAGE)
		n = (want + PAGE - 1) / PAGE;
	if (!n)
		n = 1;
	if (run_is_here(l, page, 1, NULL))
		l->cursor = page; /* ahead of those who wait */
	rc = wait_run(l, page, n, false, &end);
	if (!rc) {
		for (i = 0; i < n && bit(l->have, page + i); i++)
			mark_taken(l, page + i);
		pin->bytes = live_mem(l, page);
		pin->len = i * PAGE;
		pin->block = page / BLOCK_PAGES;
		l->pins[pin->block]++;
		live_pump(l);
	}
	pthread_mutex_unlock(&l->lock);
	return rc;
}

void lp_live_unpin(struct lp_live *l, struct lp_live_pin *pin)
{
	if (!pin->bytes)
		return;
	pthread_mutex_lock(&l->lock);
	l->pins[pin->block]--;
	trim(l);
	live_pump(l);
	pthread_mutex_unlock(&l->lock);
	pin->bytes = NULL;
}

int lp_live_lost(struct lp_live *l)
{
	int rc;

	pthread_mutex_lock(&l->lock);
	/* Before the first demand there is no thread that would notice. */
	if (!l->lost && !l->started) {
		struct pollfd p = { .fd = l->s.fd, .events = POLLRDHUP };

		if (poll(&p, 1, 0) == 1 && p.revents & (POLLRDHUP | POLLHUP | POLLERR))
			l->lost = -EPIPE;
	}
	rc = l->lost == -ESHUTDOWN ? 0 : l->lost;
	pthread_mutex_unlock(&l->lock);
	return rc;
}

uint64_t lp_live_left(struct lp_live *l)
{
	uint64_t n;

	pthread_mutex_lock(&l->lock);
	n = (l->npages - l->nseen) * PAGE;
	pthread_mutex_unlock(&l->lock);
	return n;
}

void lp_live_stats(struct lp_live *l, uint64_t *bytes, uint64_t *requests)
{
	pthread_mutex_lock(&l->lock);
	*bytes = l->bytes;
	*requests = l->requests;
	pthread_mutex_unlock(&l->lock);
}

/* When it is closed CRIU shall take it for a failure: an end it would take for success. */
static void reset(struct lp_live *l)
{
	const struct linger hard = { 1, 0 };

	if (l->s.fd >= 0)
		setsockopt(l->s.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
}

static void live_free(struct lp_live *l)
{
	lp_stream_close(&l->s);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->came);
	free(l->first);
	free(l->have);
	free(l->asked);
	free(l->taken);
	free(l->seen);
	free(l->pins);
	free(l);
}

int lp_live_open(const struct lp_live_conf *conf, struct lp_live **out, struct lp_err *err)
{
	struct lp_live *l = calloc(1, sizeof(*l));
	size_t i, words, blocks;
	pthread_condattr_t attr;
	int rc;

	if (!l)
		return lp_err(err, -ENOMEM, "out of memory");
	l->conf = *conf;
	l->s = LP_STREAM_NONE;
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->came, &attr);
	pthread_condattr_destroy(&attr);
	l->first = calloc(conf->nranges + 1, sizeof(*l->first));
	for (i = 0; l->first && i < conf->nranges; i++)
		l->first[i + 1] = l->first[i] + (conf->ranges[i].end - conf->ranges[i].start) / PAGE;
	l->npages = l->first ? l->first[conf->nranges] : 0;
	words = l->npages / 64 + 1;
	blocks = l->npages / BLOCK_PAGES + 1;
	l->have = calloc(words, 8);
	l->asked = calloc(words, 8);
	l->taken = calloc(words, 8);
	l->seen = calloc(words, 8);
	l->pins = calloc(blocks, sizeof(*l->pins));
	rc = l->first && l->have && l->asked && l->taken && l->seen && l->pins ? 0 : lp_err(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = live_connect(l, err);
	if (rc) {
		reset(l);
		live_free(l);
		return rc;
	}
	*out = l;
	return 0;
}

int lp_live_finish(struct lp_live *l)
{
	struct timespec end;
	int rc;

	pthread_mutex_lock(&l->lock);
	l->closing = true;
	pthread_mutex_unlock(&l->lock);
	rc = lp_live_start(l);
	pthread_mutex_lock(&l->lock);
	if (!rc && !l->lost) {
		end = after(10000);
		live_pump(l);
		/* The thread sets lost to -ESHUTDOWN when the source has taken leave. */
		while (!l->lost && !rc)
			rc = -pthread_cond_timedwait(&l->came, &l->lock, &end);
	}
	if (!rc)
		rc = l->lost == -ESHUTDOWN ? 0 : l->lost;
	pthread_mutex_unlock(&l->lock);
	return rc;
}

int lp_live_close(struct lp_live *l, bool ok)
{
	int rc = ok ? lp_live_finish(l) : 0;

	if (rc || !ok)
		reset(l);
	atomic_store(&l->broken, true);
	if (l->started)
		pthread_join(l->thread, NULL);
	live_free(l);
	return rc;
}
