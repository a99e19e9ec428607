/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One connection: bytes in, requests queued, frames out. What a client can make
 * us hold is in struct conn, plus LP_DATA_MAX while it gets files or compressed
 * pages: when its queue is full or its socket takes no more, nothing more is
 * read from it.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/relay.h"

/* How long a client that was told to go may take to read the rest. */
#define LINGER_NS UINT64_C(2000000000)
/* Of bulk, at once. */
#define SEND_MAX ((size_t)64 << 10)
#define HELLO_NS  UINT64_C(5000000000)

struct conn *conn_new(struct loop *l, int fd, struct lp_tls *tls)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return NULL;
	}
	c->loop = l;
	c->s.fd = fd;
	c->state = CONN_HELLO;
	if (tls) {
		c->state = CONN_TLS;
		if (lp_stream_tls(&c->s, tls, true, NULL)) {
			close(fd);
			free(c);
			return NULL;
		}
	}
	c->last_in = c->last_out = lp_now();
	atomic_fetch_add(&l->srv->strangers, 1);
	return c;
}

void conn_free(struct conn *c)
{
	struct server *srv = c->loop->srv;

	if (c->counted)
		atomic_fetch_sub(&srv->clients[c->role], 1);
	else
		atomic_fetch_sub(&srv->strangers, 1);
	if (c->ckpt)
		store_put(srv->store, c->ckpt);
	lp_stream_close(&c->s);
	free(c->data);
	free(c);
}

static bool sending(const struct conn *c)
{
	return c->iov_at < c->niov;
}

static struct req *push(struct conn *c, uint16_t type, uint64_t id)
{
	struct req *r = &c->reqs[c->nreqs++];

	*r = (struct req){ .type = type, .id = id };
	return r;
}

static void push_error(struct conn *c, uint64_t id, uint16_t code, const char *text)
{
	struct req *r = push(c, LP_MSG_ERROR, id);

	r->error = code;
	r->text = text;
}

/* A frame whose meta of @meta bytes is in place. */
static void frame(struct conn *c, uint16_t type, uint64_t id, ssize_t meta)
{
	c->iov[0] = (struct iovec){ c->head, lp_frame_close(c->head, type, 0, id, meta, 0) };
	c->niov = 1;
	c->iov_at = 0;
}

static uint8_t *meta_at(struct conn *c)
{
	return c->head + LP_FRAME_HEADER;
}

#define META_CAP (OUT_HEAD - LP_FRAME_HEADER)

/* Tell why, then close. */
static void refuse(struct conn *c, uint64_t id, uint16_t code, const char *text)
{
	frame(c, LP_MSG_ERROR, id, lp_put_error(meta_at(c), META_CAP, code, text));
	c->nreqs = 0;
	c->state = CONN_CLOSING;
	c->close_at = lp_now() + LINGER_NS;
	loop_run(c);
}

/* ---- in ---- */

static void on_hello(struct conn *c, uint64_t id, const uint8_t *meta, size_t len)
{
	static const uint8_t any[LP_IDENT_LEN];
	struct server *srv = c->loop->srv;
	char name[LP_CKPT_NAME_MAX + 1];
	struct lp_err err = { "" };
	struct lp_welcome w;
	struct lp_hello h;
	int rc;

	if (lp_get_hello(meta, len, &h)) {
		refuse(c, id, LP_ERROR_PROTOCOL, "malformed hello");
		return;
	}
	if (h.vmin > LP_PROTO_VERSION || h.vmax < LP_PROTO_VERSION) {
		refuse(c, id, LP_ERROR_VERSION, "this server speaks version 1 of the protocol");
		return;
	}
	if (atomic_fetch_add(&srv->clients[h.role], 1) >= srv->conf->max_clients) {
		atomic_fetch_sub(&srv->clients[h.role], 1);
		refuse(c, id, LP_ERROR_BUSY, "too many clients (--max-clients)");
		return;
	}
	c->role = h.role;
	c->counted = true;
	atomic_fetch_sub(&srv->strangers, 1);
	if (h.name.n) {
		memcpy(name, h.name.p, h.name.n);
		name[h.name.n] = 0;
		/* The same answer as for what does not exist. */
		if (!access_ok(srv->access, &c->s, name))
			rc = lp_err(&err, -ENOENT, "no checkpoint %s here", name);
		else
			rc = store_get(srv->store, name, &c->ckpt, &err);
		if (rc) {
			if (rc != -ENOENT && rc != -EAGAIN)
				pr_warn("%s: %s", name, err.msg);
			refuse(c, id, rc == -EAGAIN ? LP_ERROR_BUSY : LP_ERROR_UNKNOWN, err.msg);
			return;
		}
		if (memcmp(h.ident, any, sizeof(any)) && memcmp(h.ident, c->ckpt->ident, sizeof(any))) {
			struct ckpt *old = store_get_old(srv->store, name, h.ident);

			store_put(srv->store, c->ckpt);
			c->ckpt = old;
		}
		if (!c->ckpt) {
			refuse(c, id, LP_ERROR_STALE, "the checkpoint of this name is not the one you began with");
			return;
		}
	}
	c->encodings = h.encodings & (LP_ENC_BASE | LP_ENC_PACKED);
	w = (struct lp_welcome){
		.version = LP_PROTO_VERSION,
		.encodings = c->encodings,
		.features = h.features & LP_FEATURE_AUTO,
		.max_get = LP_GET_MAX,
		.max_requests = LP_OUTSTANDING,
		.idle_ms = srv->conf->idle_ms,
		.tasks = c->ckpt ? lp_images_ntasks(c->ckpt->im) : 0,
	};
	if (c->ckpt)
		memcpy(w.ident, c->ckpt->ident, sizeof(w.ident));
	if (h.features & LP_FEATURE_AUTO) {
		c->speed.may = c->encodings & ~LP_ENC_BASE;
		c->encodings = LP_ENC_BASE;
	}
	frame(c, LP_MSG_WELCOME, id, lp_put_welcome(meta_at(c), META_CAP, &w));
	c->state = CONN_OPEN;
	loop_run(c);
}

static int on_get(struct conn *c, uint64_t id, const uint8_t *meta, size_t len)
{
	struct lp_get g;
	struct req *r;

	if (lp_get_get(meta, len, &g))
		return -EBADMSG;
	if (g.obj >= lp_images_ntasks(c->ckpt->im)) {
		push_error(c, id, LP_ERROR_RANGE, "no such task");
		return 0;
	}
	r = push(c, LP_MSG_GET, id);
	r->a = g.obj;
	r->addr = g.addr;
	r->len = g.len;
	r->urgency = g.urgency;
	pages_willneed(c->ckpt, r);
	return 0;
}

static int on_file_read(struct conn *c, uint64_t id, const uint8_t *meta, size_t len)
{
	struct lp_file_read m;
	struct req *r;
	int i;

	if (lp_get_file_read(meta, len, &m))
		return -EBADMSG;
	i = files_find(c->ckpt, m.name);
	if (i < 0) {
		push_error(c, id, LP_ERROR_RANGE, "no such file");
		return 0;
	}
	r = push(c, LP_MSG_FILE_READ, id);
	r->a = (uint32_t)i;
	r->addr = m.off;
	r->len = m.len < LP_DATA_MAX ? m.len : LP_DATA_MAX;
	return 0;
}

/* The rest of this connection is for push.c. */
static int on_push(struct conn *c, uint64_t id, const uint8_t *meta, size_t len)
{
	struct lp_push m;

	if (lp_get_push(meta, len, &m))
		return -EBADMSG;
	if (!c->loop->srv->conf->ingest) {
		refuse(c, id, LP_ERROR_UNKNOWN, "this server receives no checkpoints (--ingest)");
		return 0;
	}
	memcpy(c->push_name, m.name.p, m.name.n);
	c->push_name[m.name.n] = 0;
	if (!access_ok(c->loop->srv->access, &c->s, c->push_name)) {
		refuse(c, id, LP_ERROR_UNKNOWN, "this client may not have a checkpoint of that name (--access)");
		return 0;
	}
	c->push_replace = m.flags & LP_PUSH_REPLACE;
	c->push_id = id;
	c->state = CONN_PUSH;
	return 0;
}

/* A request of an open connection; there is room in the queue. */
static int on_request(struct conn *c, const struct lp_frame *f, const uint8_t *meta)
{
	bool control = c->role == LP_ROLE_CONTROL;
	uint32_t first;

	switch (f->type) {
	case LP_MSG_PING:
		push(c, LP_MSG_PING, f->id)->urgency = UINT8_MAX;
		return 0;
	case LP_MSG_PONG:
		return 0;
	case LP_MSG_BYE:
		c->eof = true;
		return 0;
	case LP_MSG_LIST:
	case LP_MSG_FILES:
		if (!control || (f->type == LP_MSG_FILES && !c->ckpt) || lp_get_from(meta, f->meta, &first))
			return -EBADMSG;
		push(c, f->type, f->id)->a = first;
		return 0;
	case LP_MSG_PUSH:
		return control && !c->ckpt && !c->nreqs ? on_push(c, f->id, meta, f->meta) : -EBADMSG;
	case LP_MSG_FILE_READ:
		return control && c->ckpt ? on_file_read(c, f->id, meta, f->meta) : -EBADMSG;
	case LP_MSG_GET:
		/* The front neither reads pages nor hears of those that a relay gets. */
		return !control && c->ckpt ? on_get(c, f->id, meta, f->meta) : -EBADMSG;
	default:
		return -EBADMSG;
	}
}

/* Whose role is served elsewhere: what follows the hello is for that thread. */
static bool leaves_front(const struct conn *c)
{
	return c->state == CONN_OPEN && c->role != LP_ROLE_CONTROL && c->loop == &c->loop->srv->front;
}

/* Handle whole frames; stops when the queue is full. */
static int parse(struct conn *c)
{
	size_t at = 0, len;
	struct lp_frame f;
	int rc = 0;

	while (!c->eof && c->nin - at >= LP_FRAME_HEADER && c->nreqs < LP_OUTSTANDING && c->state <= CONN_OPEN &&
	       !leaves_front(c)) {
		const uint8_t *p = c->in + at;

		if (lp_frame_get(p, true, &f) || f.flags) {
			rc = -EBADMSG;
			break;
		}
		len = LP_FRAME_HEADER + f.meta;
		if (c->nin - at < len)
			break;
		at += len;
		if (lp_frame_check(p, p + LP_FRAME_HEADER)) {
			rc = -EBADMSG;
			break;
		}
		if (c->state == CONN_OPEN) {
			rc = on_request(c, &f, p + LP_FRAME_HEADER);
			if (rc)
				break;
		} else if (f.type == LP_MSG_HELLO) {
			on_hello(c, f.id, p + LP_FRAME_HEADER, f.meta);
		} else {
			rc = -EBADMSG;
			break;
		}
	}
	c->nin -= at;
	memmove(c->in, c->in + at, c->nin);
	if (!rc && c->state == CONN_PUSH && (c->nin || sending(c)))
		return -EBADMSG; /* it has to wait for our word */
	if (rc && !sending(c) && c->state <= CONN_OPEN) {
		refuse(c, 0, LP_ERROR_PROTOCOL, "malformed frame");
		return 0;
	}
	return rc;
}

/* Who it is, for the log. */
static const char *peer_name(const struct conn *c, char *buf, size_t len)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);
	char host[64];

	if (getpeername(c->s.fd, (struct sockaddr *)&ss, &n) ||
	    getnameinfo((struct sockaddr *)&ss, n, host, sizeof(host), NULL, 0, NI_NUMERICHOST))
		snprintf(host, sizeof(host), "a client");
	snprintf(buf, len, "%s", host);
	return buf;
}

/*
 * The TLS handshake goes on. 1: it is over, one way or the other; 0: wait;
 * -errno: close it. A client that was refused is read out, or the kernel would
 * throw away the alert that tells it why.
 */
static int shake(struct conn *c)
{
	int rc = lp_stream_handshake(&c->s);
	char who[64];

	if (rc == -EAGAIN) {
		c->want_out = lp_stream_events(&c->s) == POLLOUT;
		c->want_in = !c->want_out;
		return 0;
	}
	c->want_in = true;
	c->want_out = false;
	if (!rc) {
		c->state = CONN_HELLO;
		c->last_in = lp_now();
		return 1;
	}
	if (rc != -EKEYREJECTED && rc != -EPROTO)
		return rc;
	server_complain(c->loop->srv, peer_name(c, who, sizeof(who)), lp_stream_why(&c->s));
	shutdown(c->s.fd, SHUT_WR);
	c->state = CONN_CLOSING;
	c->close_at = lp_now() + LINGER_NS;
	return 1;
}

static bool may_read(const struct conn *c)
{
	return !c->eof && c->nreqs < LP_OUTSTANDING && c->state <= CONN_OPEN && c->nin < sizeof(c->in) &&
	       !leaves_front(c);
}

int conn_read(struct conn *c)
{
	uint8_t drop[4096];
	ssize_t n;
	int rc;

	if (c->state == CONN_TLS) {
		rc = shake(c);
		if (rc <= 0)
			return rc;
	}
	for (;;) {
		bool take = may_read(c);

		/* A client that was told to go: read on, or the kernel would cut off what it has not read yet. */
		if (!take && c->state != CONN_CLOSING)
			break;
		if (take) {
			n = lp_stream_recv(&c->s, c->in + c->nin, sizeof(c->in) - c->nin);
		} else {
			/* Whatever it is. */
			n = recv(c->s.fd, drop, sizeof(drop), MSG_DONTWAIT);
			if (n < 0)
				n = -errno;
		}
		if (n == -EINTR)
			continue;
		if (n == -EAGAIN)
			break;
		if (n < 0)
			return (int)n;
		if (!n) {
			/* What was asked is answered all the same; then sending tells whether it is really gone. */
			c->eof = true;
			break;
		}
		if (!take)
			continue;
		c->last_in = lp_now();
		c->nin += n;
		rc = parse(c);
		if (rc)
			return rc;
	}
	if (c->nreqs || sending(c))
		loop_run(c);
	if (c->eof && !c->nreqs && !sending(c))
		return -EPIPE;
	c->want_in = !c->eof && (may_read(c) || c->state == CONN_CLOSING);
	return 0;
}

/* ---- out ---- */

static void put_names(struct conn *c, const struct req *r, char **names, const struct vfile *files, size_t n)
{
	struct lp_list l = { .total = n, .first = r->a < n ? r->a : n };
	uint8_t *buf = meta_at(c);
	ssize_t at = lp_put_list(buf, META_CAP, &l), k;
	size_t i;

	for (i = l.first; i < n; i++) {
		k = files ? lp_put_item(buf + at, META_CAP - at, &files[i].size, files[i].name) :
			    lp_put_item(buf + at, META_CAP - at, NULL, names[i]);
		if (k < 0)
			break;
		at += k;
		l.n++;
	}
	lp_put_list(buf, META_CAP, &l);
	frame(c, files ? LP_MSG_FILE_LIST : LP_MSG_NAMES, r->id, at);
}

static void put_list(struct conn *c, const struct req *r)
{
	struct server *srv = c->loop->srv;
	size_t n, i, k = 0;
	char **names;

	store_names(srv->store, &names, &n);
	for (i = 0; i < n; i++) {
		if (access_ok(srv->access, &c->s, names[i]))
			names[k++] = names[i];
		else
			free(names[i]);
	}
	put_names(c, r, names, NULL, k);
	while (k)
		free(names[--k]);
	free(names);
}

static void put_error(struct conn *c, uint64_t id, uint16_t code, const char *text)
{
	frame(c, LP_MSG_ERROR, id, lp_put_error(meta_at(c), META_CAP, code, text));
}

static void put_file(struct conn *c, const struct req *r)
{
	struct lp_file_data m = { .off = r->addr };
	ssize_t n = -ENOMEM, meta;

	if (!conn_data(c, r->len ? r->len : 1))
		n = files_read(c->ckpt, r->a, r->addr, c->data, r->len);
	if (n < 0) {
		const char *what = n == -EBADMSG ? "not the bytes that were sealed" : n == -EUCLEAN ? "the seal is damaged" :
								      "cannot read the file";
		char text[LP_FILE_NAME_MAX + 64];

		pr_warn("%s: %s: %s (%s)", c->ckpt->name, c->ckpt->files[r->a].name, what, strerror((int)-n));
		snprintf(text, sizeof(text), "%s: %s", c->ckpt->files[r->a].name, what);
		put_error(c, r->id, LP_ERROR_IO, text);
		return;
	}
	m.sum = lp_data_sum(c->data, n);
	meta = lp_put_file_data(meta_at(c), META_CAP, &m);
	c->iov[0] = (struct iovec){ c->head, lp_frame_close(c->head, LP_MSG_FILE_DATA, 0, r->id, meta, (uint32_t)n) };
	c->iov[1] = (struct iovec){ c->data, n };
	c->niov = n ? 2 : 1; /* behind the end of the file: no bytes */
	c->iov_at = 0;
}

/*
 * May @r be answered now? Of a relay only what has come; the rest of it stays
 * behind (r->after) for the next frame. -EIO: never.
 */
static int ready(struct conn *c, struct req *r)
{
	uint32_t all = r->len + r->after;
	int rc;

	if (r->type != LP_MSG_GET || !c->ckpt->relay)
		return 1;
	r->len = all < LP_DATA_MAX ? all : LP_DATA_MAX;
	r->after = all - r->len;
	/* Who waits for a task's fault, or for lack of anything else to do, jumps the queue. */
	rc = relay_has(c->ckpt->relay, r->a, r->addr, r->len, c->role == LP_ROLE_URGENT || r->urgency);
	return rc;
}

static bool is_ready(struct conn *c, struct req *r)
{
	return ready(c, r) != 0;
}

/* The next frame. Requests of one urgency in their order, greater urgency first. False: all wait for their pages. */
static bool next_frame(struct conn *c)
{
	unsigned i, best = c->nreqs;
	struct req *r;
	int rc;

	for (i = 0; i < c->nreqs; i++)
		if ((best == c->nreqs || c->reqs[i].urgency > c->reqs[best].urgency) && is_ready(c, &c->reqs[i]))
			best = i;
	c->parked = best == c->nreqs;
	if (c->parked)
		return false;
	r = &c->reqs[best];
	if (ready(c, r) < 0) {
		put_error(c, r->id, LP_ERROR_IO, "the pages were lost with their live source");
		goto answered;
	}
	switch (r->type) {
	case LP_MSG_GET:
		rc = pages_frame(c, r);
		if (rc) {
			pr_warn("%s: task %u, 0x%llx: cannot read its pages (%s): the disk fails, or the files were "
				"changed under the server",
				c->ckpt->name, r->a, (unsigned long long)r->addr, strerror(-rc));
			put_error(c, r->id, LP_ERROR_IO, "cannot read the pages");
		} else if (r->len || r->after) {
			return true;
		}
		break;
	case LP_MSG_PING:
		frame(c, LP_MSG_PONG, r->id, 0);
		break;
	case LP_MSG_LIST:
		put_list(c, r);
		break;
	case LP_MSG_FILES:
		put_names(c, r, NULL, c->ckpt->files, c->ckpt->nfiles);
		break;
	case LP_MSG_FILE_READ:
		put_file(c, r);
		break;
	case LP_MSG_BYE:
		frame(c, LP_MSG_BYE, 0, 0);
		c->state = CONN_CLOSING;
		c->close_at = lp_now() + LINGER_NS;
		break;
	default:
		put_error(c, r->id, r->error, r->text);
	}
answered:
	c->nreqs--;
	memmove(r, r + 1, (c->nreqs - best) * sizeof(*r));
	return true;
}

/* The rest of the frame. 1: all of it is sent; 0: the socket is full; -errno. */
static int flush(struct conn *c, size_t *sent)
{
	while (sending(c)) {
		struct iovec part = c->iov[c->iov_at];
		bool whole = part.iov_len <= SEND_MAX;
		ssize_t n;

		/* A thread in the kernel holds its CPU until it is done: urgent ones wait no longer than this. */
		if (!whole)
			part.iov_len = SEND_MAX;
		if (whole && c->niov - c->iov_at == 2 && c->iov[c->iov_at + 1].iov_len <= SEND_MAX)
			n = lp_stream_send(&c->s, c->iov + c->iov_at, 2); /* a small answer at once */
		else
			n = lp_stream_send(&c->s, &part, 1);
		if (n == -EINTR)
			continue;
		if (n < 0)
			return n == -EAGAIN ? 0 : (int)n;
		c->last_out = lp_now();
		*sent += n;
		/* Also over empty pieces, which would never be sent. */
		while (sending(c) && (size_t)n >= c->iov[c->iov_at].iov_len)
			n -= c->iov[c->iov_at++].iov_len;
		if (n) {
			c->iov[c->iov_at].iov_base = (char *)c->iov[c->iov_at].iov_base + n;
			c->iov[c->iov_at].iov_len -= n;
		}
	}
	return 1;
}

int conn_send(struct conn *c, size_t quantum)
{
	size_t sent = 0;
	int rc = 1;

	if (c->state == CONN_TLS) {
		rc = shake(c);
		return rc < 0 ? rc : 0;
	}
	speed_look(c);
	if (!sending(c))
		c->last_out = lp_now(); /* it waits from now on */
	while (sent < quantum) {
		rc = flush(c, &sent);
		if (rc <= 0)
			break;
		if (!c->nreqs || c->state == CONN_CLOSING)
			break;
		if (!next_frame(c))
			break;
	}
	atomic_fetch_add_explicit(&c->loop->srv->served, sent, memory_order_relaxed);
	if (rc < 0)
		return rc;
	c->want_out = !rc;
	if (!rc)
		return 0;
	/* The turn may end with a frame that was made and not begun to be sent. */
	if (sending(c)) {
		return 1;
	} else if (c->parked && c->state != CONN_CLOSING) {
		/* Until loop_news(); more may be asked meanwhile. */
		rc = parse(c);
		if (!rc && may_read(c) && lp_stream_pending(&c->s))
			rc = conn_read(c);
		c->want_in = !c->eof && may_read(c);
		return rc;
	} else if (c->nreqs && c->state != CONN_CLOSING) {
		return 1;
	} else if (c->state == CONN_CLOSING) {
		lp_stream_end(&c->s);
		if (c->eof)
			return -EPIPE;
	} else if (c->eof) {
		return -EPIPE;
	}
	/* Nothing to do: give back what it took. */
	free(c->data);
	c->data = NULL;
	c->data_cap = 0;
	/* What was left unread because the queue was full: here, and within TLS, where epoll does not see it. */
	rc = parse(c);
	if (!rc && !c->nreqs && !sending(c) && lp_stream_pending(&c->s))
		rc = conn_read(c);
	if (rc)
		return rc;
	c->want_in = !c->eof;
	return c->nreqs || sending(c);
}

void conn_bye(struct conn *c)
{
	if (c->state >= CONN_BYE)
		return;
	if (c->state == CONN_TLS) { /* it cannot be told */
		shutdown(c->s.fd, SHUT_RDWR);
		return;
	}
	c->state = CONN_BYE;
	if (c->nreqs == LP_OUTSTANDING)
		c->nreqs--; /* the client asks again elsewhere */
	push(c, LP_MSG_BYE, 0);
	loop_run(c);
}

bool conn_overdue(const struct conn *c, uint64_t now, uint64_t idle_ns)
{
	if (c->state == CONN_CLOSING)
		return now > c->close_at;
	if (c->state <= CONN_HELLO)
		return now > c->last_in + HELLO_NS;
	if (c->parked && !sending(c))
		return false; /* it waits for us */
	if (sending(c) || c->nreqs)
		return now > c->last_out + idle_ns;
	return now > c->last_in + idle_ns;
}
