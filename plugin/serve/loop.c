/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A thread's loop over its connections: epoll tells what can be read and
 * written, and those that have something to send take turns of QUANTUM bytes.
 * A loop owns its connections; others only reach its inbox.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/ingest.h"
#include "serve/internal.h"

#define QUANTUM (512u << 10)
#define EVENTS 64
/* A client that is slow to leave holds the end up no longer. */
#define STOP_NS UINT64_C(5000000000)

int loop_init(struct loop *l, struct server *srv)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &l->wake_kind };

	l->srv = srv;
	l->run_tail = &l->run;
	l->wake_kind = EV_WAKE;
	pthread_mutex_init(&l->lock, NULL);
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->codec = lp_codec_new();
	l->raw = malloc(LP_GET_MAX);
	l->same = malloc(sizeof(*l->same));
	if (!l->codec || !l->raw || !l->same)
		return -ENOMEM;
	if (l->epfd < 0 || l->wake_fd < 0 || epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wake_fd, &ev))
		return -errno;
	return 0;
}

static void drop(struct conn *c)
{
	struct loop *l = c->loop;
	struct conn **p;

	if (c->running) {
		for (p = &l->run; *p != c; p = &(*p)->run_next)
			;
		*p = c->run_next;
		if (l->run_tail == &c->run_next)
			l->run_tail = p;
	}
	*c->pprev = c->next;
	if (c->next)
		c->next->pprev = c->pprev;
	atomic_fetch_sub(&l->nconns, 1);
	conn_free(c);
}

void loop_fini(struct loop *l)
{
	struct conn *c;

	if (!l->srv)
		return;
	while (l->conns)
		drop(l->conns);
	while ((c = l->inbox)) {
		l->inbox = c->next;
		c->loop = l;
		conn_free(c);
	}
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	lp_codec_free(l->codec);
	free(l->raw);
	free(l->same);
	pthread_mutex_destroy(&l->lock);
}

void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	/* Full means that it is woken anyhow. */
	if (write(l->wake_fd, &one, sizeof(one)) < 0)
		return;
}

void loop_news(struct loop *l)
{
	if (!l->srv || atomic_exchange(&l->news, true))
		return; /* not made yet; or on its way */
	loop_wake(l);
}

void loop_give(struct loop *l, struct conn *c)
{
	pthread_mutex_lock(&l->lock);
	c->next = l->inbox;
	l->inbox = c;
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
}

void loop_run(struct conn *c)
{
	if (c->running)
		return;
	c->running = true;
	c->run_next = NULL;
	*c->loop->run_tail = c;
	c->loop->run_tail = &c->run_next;
}

/* Ask epoll for what @c wants. */
static int arm(struct conn *c, int op)
{
	struct epoll_event ev = {
		.events = (c->want_in ? EPOLLIN : 0) | (c->want_out ? EPOLLOUT : 0),
		.data.ptr = &c->kind,
	};

	return epoll_ctl(c->loop->epfd, op, c->s.fd, &ev) ? -errno : 0;
}

int loop_add(struct loop *l, struct conn *c)
{
	int rc;

	c->loop = l;
	c->next = l->conns;
	c->pprev = &l->conns;
	if (c->next)
		c->next->pprev = &c->next;
	l->conns = c;
	atomic_fetch_add(&l->nconns, 1);
	c->want_in = true;
	rc = arm(c, EPOLL_CTL_ADD);
	if (rc)
		drop(c);
	return rc;
}

/* Out of its loop without being closed, to be given to another one. */
static void take_out(struct conn *c)
{
	struct loop *l = c->loop;

	epoll_ctl(l->epfd, EPOLL_CTL_DEL, c->s.fd, NULL);
	*c->pprev = c->next;
	if (c->next)
		c->next->pprev = c->pprev;
	atomic_fetch_sub(&l->nconns, 1);
}

/* What came of reading or sending: close it, hand it over, or wait for more. */
static void settle(struct conn *c, int rc, bool in, bool out)
{
	struct loop *l = c->loop;

	if (rc < 0) {
		if (rc != -EPIPE && rc != -ECONNRESET)
			pr_debug("connection %d: closed: %d", c->s.fd, rc);
		drop(c);
		return;
	}
	if (l == &l->srv->front && c->state == CONN_OPEN && c->role != LP_ROLE_CONTROL && !c->running) {
		take_out(c);
		server_place(c);
		return;
	}
	if (c->state == CONN_PUSH && !c->running) {
		take_out(c);
		push_start(c);
		return;
	}
	if ((c->want_in != in || c->want_out != out) && arm(c, EPOLL_CTL_MOD))
		drop(c);
}

static void take_inbox(struct loop *l)
{
	struct conn *c, *list;
	uint64_t word;

	while (read(l->wake_fd, &word, sizeof(word)) < 0 && errno == EINTR)
		;
	if (atomic_exchange(&l->news, false))
		for (c = l->conns; c; c = c->next)
			if (c->parked)
				loop_run(c);
	pthread_mutex_lock(&l->lock);
	list = l->inbox;
	l->inbox = NULL;
	pthread_mutex_unlock(&l->lock);
	while ((c = list)) {
		list = c->next;
		if (loop_add(l, c))
			continue;
		if (atomic_load(&l->srv->stopping))
			conn_bye(c);
		else
			loop_run(c); /* there may be requests in its buffer */
	}
}

/* One turn for everybody who has something to send. */
static void send_round(struct loop *l)
{
	struct conn *c, *list = l->run;

	l->run = NULL;
	l->run_tail = &l->run;
	for (c = list; c; c = c->run_next)
		c->running = false;
	while ((c = list)) {
		bool in = c->want_in, out = c->want_out;
		int rc;

		list = c->run_next;
		rc = conn_send(c, QUANTUM);
		if (rc == 1)
			loop_run(c);
		settle(c, rc, in, out);
	}
}

static void look_at_clocks(struct loop *l)
{
	uint64_t now = lp_now(), idle = l->srv->conf->idle_ms * UINT64_C(1000000);
	struct conn *c, *next;

	for (c = l->conns; c; c = next) {
		next = c->next;
		if (conn_overdue(c, now, idle))
			drop(c);
	}
}

void loop_turn(struct loop *l, int ms, void (*other)(struct loop *l, int *kind))
{
	struct epoll_event ev[EVENTS];
	int i, n;

	n = epoll_wait(l->epfd, ev, EVENTS, l->run ? 0 : ms);
	for (i = 0; i < n; i++) {
		int *kind = ev[i].data.ptr;
		struct conn *c;
		bool in, out;

		if (*kind == EV_WAKE) {
			take_inbox(l);
			continue;
		}
		if (*kind != EV_CONN) {
			other(l, kind);
			continue;
		}
		c = (struct conn *)kind;
		in = c->want_in;
		out = c->want_out;
		if (ev[i].events & EPOLLOUT) {
			c->want_out = false;
			loop_run(c);
		}
		if (ev[i].events & EPOLLIN)
			settle(c, conn_read(c), in, out);
		else if (ev[i].events & (EPOLLERR | EPOLLHUP))
			drop(c);
		else
			settle(c, 0, in, out);
	}
	send_round(l);
}

void *loop_main(void *arg)
{
	struct loop *l = arg;
	uint64_t clocks = 0, now, stop_at = 0;
	struct conn *c;

	for (;;) {
		loop_turn(l, 500, NULL);
		now = lp_now();
		if (now - clocks > UINT64_C(500000000)) {
			clocks = now;
			look_at_clocks(l);
		}
		if (!atomic_load(&l->srv->stopping))
			continue;
		if (!l->left) {
			l->left = true;
			stop_at = now + STOP_NS;
			for (c = l->conns; c; c = c->next)
				conn_bye(c);
		}
		pthread_mutex_lock(&l->lock);
		c = l->inbox;
		pthread_mutex_unlock(&l->lock);
		if ((!l->conns && !c) || now > stop_at)
			return NULL;
	}
}
