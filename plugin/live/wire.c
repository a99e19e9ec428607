/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The connection to a page server: requests out, by whoever has the lock;
 * answers in, by the thread. The answers come in the order of the requests.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>

#include "live/internal.h"

#define LOOK_MS 100

/* ---- out; the lock is held ---- */

static void flush(struct lp_live *l)
{
	ssize_t n;

	while (l->nout) {
		n = lp_stream_send(&l->s, &(struct iovec){ l->out, l->nout }, 1);
		if (n <= 0)
			return; /* full: the thread goes on; dead: it finds out */
		l->nout -= n;
		memmove(l->out, l->out + n, l->nout);
	}
}

static void put(struct lp_live *l, uint16_t cmd, size_t page, size_t n)
{
	struct lp_ps m = { .cmd = cmd };
	const struct lp_live_range *r;
	size_t i;

	if (cmd == LP_PS_GET) {
		i = live_range_of(l, page);
		r = &l->conf.ranges[i];
		m.pages = n;
		m.addr = r->start + (page - l->first[i]) * PAGE;
		m.dst = (uint64_t)r->pid;
	}
	l->nout += lp_ps_put(l->out + l->nout, l->conf.layout, &m);
}

static void ask(struct lp_live *l, size_t page, size_t n, bool bulk, uint64_t now)
{
	struct request *q = &l->sent[(l->sent_head + l->nsent++) % SENT_MAX];
	size_t i;

	*q = (struct request){ page, n, bulk, now };
	for (i = 0; i < n; i++)
		set_bit(l->asked, page + i);
	if (bulk)
		l->bulk_out += n * PAGE;
	l->requests++;
	put(l, LP_PS_GET, page, n);
}

/* Enough on the way to keep the link busy: what it carries in a round trip, and one more request. */
static uint64_t window(const struct lp_live *l, size_t chunk)
{
	uint64_t w = l->rate / 1000 * (l->rtt / 1000) / 1000 + chunk * PAGE;

	if (w < 2 * chunk * PAGE)
		w = 2 * chunk * PAGE;
	return w < WINDOW_MAX ? w : WINDOW_MAX;
}

void live_pump(struct lp_live *l)
{
	uint64_t now = lp_now();
	size_t page, n, chunk;

	if (l->lost || !l->started || l->said_close)
		return;
	while (l->nsent < SENT_MAX && live_next(l, false, BLOCK_PAGES, &page, &n)) {
		l->last_urgent = now;
		ask(l, page, n, false, now);
	}
	chunk = now - l->last_urgent < FAULTS_RECENT_NS ? CHUNK_PAGES_FAULTS : CHUNK_PAGES;
	/* The last places are for urgent ones. */
	while (l->nsent < SENT_MAX / 2 && l->bulk_out < window(l, chunk) && live_next(l, true, chunk, &page, &n))
		ask(l, page, n, true, now);
	if (l->closing && !l->said_close) {
		l->said_close = true;
		put(l, LP_PS_CLOSE, 0, 0);
	}
	flush(l);
}

/* ---- in; of the thread ---- */

static int await(struct lp_live *l)
{
	struct pollfd p = { .fd = l->s.fd };
	int n;

	for (;;) {
		if (atomic_load(&l->broken))
			return -EINTR;
		/* The rest of a TLS record, of which poll() knows nothing. */
		if (lp_stream_pending(&l->s))
			return 0;
		pthread_mutex_lock(&l->lock);
		flush(l);
		p.events = POLLIN | (l->nout ? POLLOUT : 0);
		pthread_mutex_unlock(&l->lock);
		n = poll(&p, 1, LOOK_MS);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && p.revents & ~POLLOUT)
			return 0;
	}
}

/* At least one byte, at most @len. */
static ssize_t take(struct lp_live *l, void *p, size_t len)
{
	ssize_t n;
	int rc;

	for (;;) {
		n = lp_stream_recv(&l->s, p, len);
		if (n != -EAGAIN)
			return n ? n : -EPIPE;
		rc = await(l);
		if (rc)
			return rc;
	}
}

static int take_all(struct lp_live *l, void *p, size_t len)
{
	ssize_t n;

	while (len) {
		n = take(l, p, len);
		if (n < 0)
			return (int)n;
		p = (char *)p + n;
		len -= n;
	}
	return 0;
}

/* Is @m the answer to @q? Anything else would put bytes where they do not belong. */
static bool answers(const struct lp_live *l, const struct lp_ps *m, const struct request *q)
{
	size_t i = live_range_of(l, q->page);
	const struct lp_live_range *r = &l->conf.ranges[i];

	return m->cmd == LP_PS_ADD_F && m->flags & LP_PS_PRESENT_FLAG && m->pages <= q->n &&
	       m->addr == r->start + (q->page - l->first[i]) * PAGE && m->dst == (uint64_t)r->pid;
}

static void measure(struct lp_live *l, const struct request *q, uint64_t bytes, uint64_t now)
{
	uint64_t since = l->last_done > q->since ? l->last_done : q->since, rate;

	l->last_done = now;
	if (!q->bulk || now <= since)
		return;
	rate = bytes * UINT64_C(1000000000) / (now - since);
	l->rate = l->rate ? (l->rate * 7 + rate) / 8 : rate;
}

static int dial(struct lp_live *l, struct lp_err *err)
{
	uint64_t end = lp_now() + l->conf.timeout_ms * UINT64_C(1000000), now;
	const struct timespec pause = { .tv_nsec = 100000000 };
	int fd;

	for (;;) {
		now = lp_now();
		fd = lp_connect(&l->conf.addr, now < end ? (end - now) / 1000000 + 1 : 1, NULL, err);
		if (fd >= 0)
			break;
		/* It may still be dumping. */
		if (fd != -ECONNREFUSED || lp_now() >= end)
			return fd;
		nanosleep(&pause, NULL);
	}
	l->s.fd = fd;
	if (l->conf.addr.unix_path)
		return 0;
	return lp_stream_shake(&l->s, l->conf.tls, l->conf.addr.host, l->name, l->conf.timeout_ms, NULL, err);
}

static int wrong_peer(struct lp_live *l, int rc, struct lp_err *err)
{
	return lp_err(err, rc,
		      "%s: %s to a request with a header of %d bytes: is it the page server of this dump%s? If it is, "
		      "name its layout: --from 'criu:%s?layout=%d' (24: CRIU up to 4.1, 32: from 4.2 on)",
		      l->name, rc == -ETIMEDOUT ? "no answer" : rc == -EBADMSG ? "a wrong answer" : "it hung up",
		      (int)l->conf.layout, l->s.tls ? "" : ", and without --tls", l->name, LP_PS_24 + LP_PS_32 - (int)l->conf.layout);
}

int live_connect(struct lp_live *l, struct lp_err *err)
{
	struct request q = { .n = 1 };
	uint8_t head[LP_PS_MAX];
	struct lp_ps m;
	int rc;

	lp_addr_str(&l->conf.addr, l->name, sizeof(l->name));
	rc = dial(l, err);
	if (rc || !l->npages)
		return rc;
	put(l, LP_PS_GET, 0, 1);
	rc = lp_stream_send_all(&l->s, l->out, l->nout, l->conf.timeout_ms, NULL);
	l->nout = 0;
	if (!rc)
		rc = lp_stream_recv_all(&l->s, head, l->conf.layout, l->conf.timeout_ms, NULL);
	if (!rc && (lp_ps_get(head, l->conf.layout, &m) || !answers(l, &m, &q)))
		rc = -EBADMSG;
	if (!rc)
		rc = lp_stream_recv_all(&l->s, live_mem(l, 0), PAGE, l->conf.timeout_ms, NULL);
	if (rc && rc != -EBADMSG && lp_stream_why(&l->s)) /* with TLS 1.3 we hear only now what it thinks of us */
		return lp_err(err, rc, "%s: %s", l->name, lp_stream_why(&l->s));
	if (rc)
		return wrong_peer(l, rc, err);
	l->bytes = PAGE;
	l->requests = 1;
	live_came(l, 0, 1);
	return 0;
}

/* One answer: pages as they come, since somebody may wait for the first of them. */
static int on_answer(struct lp_live *l)
{
	uint8_t head[LP_PS_MAX];
	struct request q;
	struct lp_ps m;
	uint64_t now;
	size_t done = 0, len, i;
	uint8_t *mem;
	ssize_t n;
	int rc;

	rc = take_all(l, head, l->conf.layout);
	if (rc)
		return rc;
	now = lp_now();
	pthread_mutex_lock(&l->lock);
	if (!l->nsent) {
		pthread_mutex_unlock(&l->lock);
		return -EBADMSG;
	}
	q = l->sent[l->sent_head];
	if (!l->rtt || now - q.since < l->rtt)
		l->rtt = now - q.since;
	pthread_mutex_unlock(&l->lock);
	if (lp_ps_get(head, l->conf.layout, &m) || !answers(l, &m, &q))
		return -EBADMSG;
	mem = live_mem(l, q.page);
	len = m.pages * PAGE;
	while (done < len) {
		n = take(l, mem + done, len - done);
		if (n < 0)
			return (int)n;
		pthread_mutex_lock(&l->lock);
		l->bytes += n;
		i = done / PAGE;
		done += n;
		if (done / PAGE > i)
			live_came(l, q.page + i, done / PAGE - i);
		if (q.bulk)
			l->bulk_out -= (done / PAGE - i) * PAGE;
		if (done == len) {
			/* The rest was not sent: to be asked for anew. */
			for (i = m.pages; i < q.n; i++)
				clear_bit(l->asked, q.page + i);
			if (m.pages < q.n)
				l->all_asked = false;
			if (m.pages < q.n && l->cursor > q.page + m.pages)
				l->cursor = q.page + m.pages;
			if (q.bulk)
				l->bulk_out -= (q.n - m.pages) * PAGE;
			l->sent_head = (l->sent_head + 1) % SENT_MAX;
			l->nsent--;
			measure(l, &q, len, lp_now());
		}
		live_pump(l);
		pthread_mutex_unlock(&l->lock);
	}
	if (l->conf.arrived)
		l->conf.arrived(l->conf.arg);
	return 0;
}

/* After everything was asked for and answered: the source takes its leave. */
static int on_close(struct lp_live *l)
{
	int32_t status;
	int rc = take_all(l, &status, sizeof(status));

	return rc ? rc : status ? -EREMOTEIO : -ESHUTDOWN;
}

void *live_main(void *arg)
{
	struct lp_live *l = arg;
	bool bye;
	int rc;

	do {
		rc = await(l);
		if (rc)
			break;
		pthread_mutex_lock(&l->lock);
		bye = l->said_close && !l->nsent;
		pthread_mutex_unlock(&l->lock);
		rc = bye ? on_close(l) : on_answer(l);
	} while (!rc);
	if (rc == -ESHUTDOWN) /* it waits for our end of the connection */
		lp_stream_end(&l->s);
	if (rc == -ESHUTDOWN)
		pr_info("%s: the source has sent what was asked for and takes its leave", l->name);
	else if (rc == -EBADMSG)
		pr_err("%s: an answer that does not fit its request: this is no page server of CRIU %s; "
		       "tasks wait for what has not come",
		       l->name, l->conf.layout == LP_PS_24 ? "up to 4.1 (layout=32 is for later ones)" :
							     "from 4.2 on (layout=24 is for older ones)");
	else if (rc != -EINTR)
		pr_err("%s: connection to the source lost (%s): what it has not sent is lost",
		       l->name, strerror(-rc));
	pthread_mutex_lock(&l->lock);
	l->lost = rc;
	pthread_cond_broadcast(&l->came);
	pthread_mutex_unlock(&l->lock);
	if (l->conf.arrived)
		l->conf.arrived(l->conf.arg);
	return NULL;
}
