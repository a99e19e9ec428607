/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A link: one connection to one of the servers, made again and again until the
 * source is closed. Requests stay with the link until they are answered; what a
 * lost connection has not answered is asked again on the next one.
 *
 * A byte reaches a waiting task only after its run's checksum was found right.
 * A server that sends wrong ones is left alone for a while if there are others.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/prio.h"
#include "source/remote_int.h"

#define MS UINT64_C(1000000)
#define BACKOFF_MIN (20 * MS)
#define BACKOFF_MAX (2000 * MS)
/* A server that lies, or has not what we want. */
#define PENALTY_MIN (500 * MS)
#define PENALTY_MAX (60000 * MS)
#define WARN_AFTER (1000 * MS)
#define LOOK_MS 250
/* So many requests are written with one call. */
#define BATCH 16
#define REQUEST_BYTES 64
/* Of bulk, at once. */
#define RECV_MAX ((size_t)64 << 10)

static void list_init(struct want_list *q)
{
	q->head = NULL;
	q->tail = &q->head;
	q->n = 0;
}

static void list_push(struct want_list *q, struct want *w)
{
	w->next = NULL;
	*q->tail = w;
	q->tail = &w->next;
	q->n++;
}

static bool list_remove(struct want_list *q, struct want *w)
{
	struct want **p;

	for (p = &q->head; *p; p = &(*p)->next) {
		if (*p != w)
			continue;
		*p = w->next;
		if (q->tail == &w->next)
			q->tail = p;
		q->n--;
		return true;
	}
	return false;
}

int link_init(struct link *l, struct remote *r, enum lp_role role)
{
	l->r = r;
	l->role = role;
	l->s = LP_STREAM_NONE;
	l->max_requests = LP_OUTSTANDING;
	list_init(&l->queued);
	list_init(&l->sent);
	pthread_mutex_init(&l->send_lock, NULL);
	l->in = malloc(LP_DATA_MAX);
	l->stored = malloc(LP_DATA_MAX);
	l->out = malloc(LP_GET_MAX);
	l->codec = lp_codec_new();
	return l->codec && l->in && l->stored && l->out ? 0 : -ENOMEM;
}

void link_fini(struct link *l)
{
	free(l->in);
	free(l->stored);
	free(l->out);
	lp_codec_free(l->codec);
	pthread_mutex_destroy(&l->send_lock);
}

void link_submit(struct link *l, struct want *w)
{
	w->state = WANT_QUEUED;
	list_push(&l->queued, w);
}

void link_forget(struct link *l, struct want *w)
{
	if (!list_remove(&l->queued, w))
		list_remove(&l->sent, w);
}

/* The next request to send, as bytes; 0: none. remote->lock held. */
static size_t next_request(struct link *l, uint8_t *buf)
{
	struct want *w = l->queued.head;
	struct lp_get g;
	ssize_t n;

	if (!w || l->s.fd < 0 || l->sent.n >= l->max_requests)
		return 0;
	list_remove(&l->queued, w);
	w->state = WANT_SENT;
	w->id = ++l->next_id;
	w->since = lp_now();
	list_push(&l->sent, w);
	/* What came before a connection was lost need not come again. */
	g = (struct lp_get){ .obj = w->obj, .addr = w->addr + w->got, .len = w->len - w->got, .urgency = w->urgency };
	n = lp_put_get(buf + LP_FRAME_HEADER, REQUEST_BYTES - LP_FRAME_HEADER, &g);
	return lp_frame_close(buf, LP_MSG_GET, 0, w->id, n, 0);
}

void link_flush(struct link *l)
{
	uint8_t buf[BATCH * REQUEST_BYTES];
	size_t n, k;

	pthread_mutex_lock(&l->send_lock);
	do {
		pthread_mutex_lock(&l->r->lock);
		for (n = 0; n + REQUEST_BYTES <= sizeof(buf); n += k) {
			k = next_request(l, buf + n);
			if (!k)
				break;
		}
		pthread_mutex_unlock(&l->r->lock);
		/* fd stays while send_lock is held. On failure the thread finds the connection dead. */
		if (n && lp_stream_send_all(&l->s, buf, n, 1000, &l->r->closing)) {
			shutdown(l->s.fd, SHUT_RDWR);
			break;
		}
	} while (n);
	pthread_mutex_unlock(&l->send_lock);
}

/* ---- receiving: of the link's thread ---- */

static int ping(struct link *l)
{
	uint8_t buf[LP_FRAME_HEADER];
	int rc;

	pthread_mutex_lock(&l->send_lock);
	rc = lp_stream_send_all(&l->s, buf, lp_frame_close(buf, LP_MSG_PING, 0, 1, 0, 0), 1000, &l->r->closing);
	pthread_mutex_unlock(&l->send_lock);
	return rc;
}

/* Wait for bytes. -ETIMEDOUT when an answer is overdue. */
static int await(struct link *l)
{
	struct remote *r = l->r;
	uint64_t now, timeout = r->conf.timeout_ms * MS, oldest;
	struct pollfd p = { .fd = l->s.fd, .events = POLLIN };
	int n;

	for (;;) {
		n = poll(&p, 1, LOOK_MS);
		if (atomic_load(&r->closing))
			return -EINTR;
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		now = lp_now();
		pthread_mutex_lock(&r->lock);
		oldest = l->sent.head ? l->sent.head->since : now;
		pthread_mutex_unlock(&r->lock);
		/* Something is due, and nothing at all has come for so long. */
		if ((now - oldest > timeout || atomic_load(&l->late)) && now - l->last_in > timeout)
			return -ETIMEDOUT;
		if (now - l->last_in > l->idle_ns / 3) {
			if (now - l->last_in > l->idle_ns / 3 + timeout)
				return -ETIMEDOUT; /* no PONG */
			n = ping(l);
			if (n)
				return n;
		}
	}
}

/* @n bytes into @p. Small answers come with one call, large ones go right where they belong. */
static int take(struct link *l, void *p, size_t n)
{
	uint8_t *to = p;
	ssize_t k;
	int rc;

	while (n) {
		size_t have = l->in_fill - l->in_head;

		if (have) {
			if (have > n)
				have = n;
			memcpy(to, l->in + l->in_head, have);
			l->in_head += have;
			to += have;
			n -= have;
			continue;
		}
		l->in_head = l->in_fill = 0;
		if (l->role == LP_ROLE_URGENT && n < LP_DATA_MAX) {
			k = lp_stream_recv(&l->s, l->in, LP_DATA_MAX);
			if (k > 0)
				l->in_fill = k;
		} else {
			/* A thread in the kernel holds its CPU until it is done: urgent ones wait no longer than this. */
			k = lp_stream_recv(&l->s, to, n < RECV_MAX ? n : RECV_MAX);
			if (k > 0) {
				to += k;
				n -= k;
			}
		}
		if (k > 0) {
			l->last_in = lp_now();
			atomic_store(&l->late, false);
			atomic_fetch_add_explicit(&l->r->bytes, k, memory_order_relaxed);
			continue;
		}
		if (!k)
			return -EPIPE;
		if (k == -EINTR)
			continue;
		if (k != -EAGAIN)
			return (int)k;
		rc = await(l);
		if (rc)
			return rc;
	}
	return 0;
}

static struct want *find_sent(struct link *l, uint64_t id)
{
	struct want *w;

	for (w = l->sent.head; w; w = w->next)
		if (w->id == id)
			return w;
	return NULL;
}

/* What a PAGES frame is for, copied under the lock: the want itself may go away. */
struct target {
	bool known;
	uint32_t obj, len, got;
	uint64_t addr;
	uint8_t *direct;
};

static int take_run(struct link *l, const struct lp_run *r, uint8_t *out)
{
	uint8_t *to = r->enc == LP_ENC_RAW ? out : l->stored;
	int rc;

	if (r->enc == LP_ENC_HOLE)
		return remote_has_lazy(l->r, l->pages.obj, r->addr, r->len) ? -ENODATA : 0;
	rc = take(l, to, r->stored);
	return rc ? rc : lp_run_decode(l->codec, l->pages.obj, r, to, out);
}

static int on_pages(struct link *l, const struct lp_frame *f)
{
	struct remote *r = l->r;
	struct target t = { 0 };
	uint64_t total = 0;
	struct want *w;
	uint8_t *out;
	unsigned i;
	int rc;

	if (lp_get_pages(l->meta, f->meta, f->data, &l->pages))
		return -EBADMSG;
	pthread_mutex_lock(&r->lock);
	w = find_sent(l, f->id);
	if (w)
		t = (struct target){ true, w->obj, w->len, w->got, w->addr, w->direct ? w->dst : NULL };
	pthread_mutex_unlock(&r->lock);
	for (i = 0; i < l->pages.nruns; i++)
		total += l->pages.runs[i].len;
	if (!t.known) { /* its caller has given up: the bytes must be taken all the same */
		if (total > LP_GET_MAX)
			return -EBADMSG;
		return take(l, l->stored, f->data);
	}
	if (l->pages.obj != t.obj || l->pages.runs[0].addr != t.addr + t.got || total > t.len - t.got ||
	    !(f->flags & LP_FLAG_MORE) != (total == t.len - t.got))
		return -EBADMSG;
	out = t.direct ? t.direct + t.got : l->out;
	for (i = 0; i < l->pages.nruns; i++) {
		rc = take_run(l, &l->pages.runs[i], out);
		if (rc)
			return rc;
		out += l->pages.runs[i].len;
	}
	pthread_mutex_lock(&r->lock);
	w = find_sent(l, f->id);
	if (w) {
		if (!w->direct)
			memcpy(w->dst + w->got, l->out, total);
		w->got += total;
		w->since = lp_now();
		if (w->got == w->len) {
			list_remove(&l->sent, w);
			want_done(r, w, 0);
		}
	}
	l->answered = true;
	l->more = l->queued.head != NULL;
	l->servers[l->at].backoff = 0;
	pthread_mutex_unlock(&r->lock);
	return 0;
}

/* One request could not be answered here: elsewhere, or not at all for now. */
static int on_error(struct link *l, const struct lp_frame *f)
{
	struct remote *r = l->r;
	struct lp_err err;
	struct want *w;
	int rc = lp_refused(&r->conf.urls[l->at], l->meta, f->meta, &err);
	bool elsewhere = false;

	pr_warn("%s", err.msg);
	if (!f->id)
		return rc;
	pthread_mutex_lock(&r->lock);
	w = find_sent(l, f->id);
	if (w) {
		list_remove(&l->sent, w);
		if (++w->tries < r->conf.nurls) {
			elsewhere = true;
			link_submit(l, w);
		} else {
			want_done(r, w, -EIO);
		}
	}
	pthread_mutex_unlock(&r->lock);
	return elsewhere ? -EXDEV : 0;
}

/* Frames until the connection ends; why it did. */
static int receive(struct link *l)
{
	uint8_t head[LP_FRAME_HEADER];
	struct lp_frame f;
	int rc;

	for (;;) {
		rc = take(l, head, sizeof(head));
		if (!rc)
			rc = lp_frame_get(head, false, &f);
		if (!rc)
			rc = take(l, l->meta, f.meta);
		if (!rc)
			rc = lp_frame_check(head, l->meta);
		if (rc)
			return rc;
		if (f.type != LP_MSG_PAGES && f.data)
			return -EBADMSG;
		switch (f.type) {
		case LP_MSG_PAGES:
			rc = on_pages(l, &f);
			break;
		case LP_MSG_ERROR:
			rc = on_error(l, &f);
			break;
		case LP_MSG_PING:
		case LP_MSG_PONG:
			break;
		case LP_MSG_BYE:
			return -ESHUTDOWN;
		default:
			return -EBADMSG;
		}
		if (rc)
			return rc;
		if (l->more)
			link_flush(l);
	}
}

/* ---- which server, and when ---- */

static uint64_t grow(uint64_t v, uint64_t min, uint64_t max)
{
	v = v < min ? min : v * 2;
	return v > max ? max : v;
}

/* The first in order of preference that may be asked now. remote->lock held. */
static bool pick(struct link *l, size_t *at, uint64_t *when)
{
	uint64_t now = lp_now();
	size_t i;

	*when = UINT64_MAX;
	for (i = 0; i < l->r->conf.nurls; i++) {
		if (l->servers[i].not_before <= now) {
			*at = i;
			return true;
		}
		if (l->servers[i].not_before < *when)
			*when = l->servers[i].not_before;
	}
	return false;
}

static bool is_lie(int rc)
{
	return rc == -EBADMSG || rc == -ENODATA || rc == -ENOTSUP;
}

/* When may this server be asked again after @rc? remote->lock held. */
static void put_off(struct link *l, int rc)
{
	struct link_server *s = &l->servers[l->at];
	bool others = l->r->conf.nurls > 1;

	if (rc == -EXDEV && others)
		s->backoff = PENALTY_MIN; /* of one page: it is not to be blamed for others, and may be all that there is */
	else if ((is_lie(rc) || rc == -ESTALE || rc == -ENOENT || rc == -EPROTO ||
	     rc == -EKEYREJECTED) && others)
		s->backoff = grow(s->backoff, PENALTY_MIN, PENALTY_MAX);
	else if (l->answered && !is_lie(rc) && rc != -ESHUTDOWN && rc != -ETIMEDOUT)
		s->backoff = 0; /* it worked, so it may be asked again at once */
	else
		s->backoff = grow(s->backoff, BACKOFF_MIN, BACKOFF_MAX);
	s->not_before = lp_now() + s->backoff;
}

static void say_lost(struct link *l, int rc, const char *why)
{
	struct remote *r = l->r;
	const char *url = r->conf.urls[l->at].text;
	uint64_t now = lp_now();

	if (is_lie(rc)) {
		pr_warn("%s: damaged or wrong data was thrown away, asking again%s", url,
			r->conf.nurls > 1 ? " elsewhere" : "");
		return;
	}
	if (!l->down_since)
		l->down_since = now;
	if (!l->warned && now - l->down_since > WARN_AFTER) {
		l->warned = true;
		pr_warn("%s; tasks wait for their pages, trying on", why);
	} else {
		pr_info("%s", why);
	}
}

static int connect_one(struct link *l, struct lp_err *err)
{
	struct remote *r = l->r;
	struct lp_welcome w;
	struct lp_stream s;
	int rc;

	rc = lp_dial(&r->conf.urls[l->at], r->conf.tls, l->role, r->conf.ident, r->conf.encodings, r->conf.timeout_ms,
		     &r->closing, &s, &w, err);
	if (rc)
		return rc;
	if (w.max_get < BLOCK) {
		lp_stream_close(&s);
		return lp_err(err, -EPROTO, "%s: it answers at most %u bytes at once", r->conf.urls[l->at].text,
			      w.max_get);
	}
	pthread_mutex_lock(&l->send_lock);
	pthread_mutex_lock(&r->lock);
	l->s = s;
	l->max_requests = w.max_requests < LP_OUTSTANDING ? w.max_requests : LP_OUTSTANDING;
	l->idle_ns = w.idle_ms * MS;
	l->last_in = lp_now();
	atomic_store(&l->late, false);
	l->answered = false;
	l->in_head = l->in_fill = 0;
	pthread_mutex_unlock(&r->lock);
	pthread_mutex_unlock(&l->send_lock);
	if (l->warned)
		pr_warn("%s: connected, going on", r->conf.urls[l->at].text);
	l->warned = false;
	l->down_since = 0;
	return 0;
}

static void disconnect(struct link *l)
{
	struct remote *r = l->r;
	struct lp_stream s = l->s;
	struct want *w;

	/* A sender that waits for a full socket finds it dead and lets go of send_lock. */
	shutdown(s.fd, SHUT_RDWR);
	pthread_mutex_lock(&l->send_lock);
	pthread_mutex_lock(&r->lock);
	l->s = LP_STREAM_NONE;
	/* Before what nobody has asked for yet. */
	*l->sent.tail = l->queued.head;
	if (l->queued.head)
		l->sent.tail = l->queued.tail;
	if (l->sent.head) {
		l->queued.head = l->sent.head;
		l->queued.tail = l->sent.tail;
		l->queued.n += l->sent.n;
	}
	list_init(&l->sent);
	for (w = l->queued.head; w; w = w->next)
		w->state = WANT_QUEUED;
	r->stats.reconnects++;
	pthread_mutex_unlock(&r->lock);
	pthread_mutex_unlock(&l->send_lock);
	lp_stream_close(&s);
}

static void pause_until(struct remote *r, uint64_t when)
{
	struct timespec ts = { .tv_sec = when / 1000000000, .tv_nsec = when % 1000000000 };

	pthread_cond_timedwait(&r->wake, &r->lock, &ts);
}

void *link_main(void *arg)
{
	struct link *l = arg;
	struct remote *r = l->r;
	struct lp_err err = { "" };
	uint64_t when;
	size_t at;
	int rc;

	if (l->role == LP_ROLE_URGENT)
		lp_prio_urgent();
	else
		lp_prio_bulk();
	while (!atomic_load(&r->closing)) {
		pthread_mutex_lock(&r->lock);
		if (!pick(l, &at, &when)) {
			pause_until(r, when);
			pthread_mutex_unlock(&r->lock);
			continue;
		}
		if (at != l->at)
			r->stats.failovers++;
		l->at = at;
		l->answered = false;
		pthread_mutex_unlock(&r->lock);
		rc = connect_one(l, &err);
		if (!rc) {
			link_flush(l);
			rc = receive(l);
			disconnect(l);
			lp_err_sys(&err, rc, "%s: connection lost", r->conf.urls[at].text);
		}
		if (atomic_load(&r->closing))
			break;
		say_lost(l, rc, err.msg);
		pthread_mutex_lock(&r->lock);
		if (is_lie(rc))
			r->stats.corrupt++;
		put_off(l, rc);
		pthread_mutex_unlock(&r->lock);
	}
	return NULL;
}
