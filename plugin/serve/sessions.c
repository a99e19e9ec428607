/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sessions of CRIU's page-server protocol in the server: a thread each, from
 * the front's accept to the end of the connection. When the server stops they
 * go on until they have ended, since their clients have nobody else to ask; a
 * second signal ends them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "serve/ingest.h"

struct session {
	struct server *srv;
	const struct lp_serve_ps *conf;
	struct ckpt *ckpt; /* a reference; or */
	struct ingest *in;
	int fd;
};

static void *session_main(void *arg)
{
	struct session *x = arg;
	struct server *srv = x->srv;
	struct lp_err err = { "" };
	char who[LP_CKPT_NAME_MAX + 32], size[16];
	struct ps s = { .fd = x->fd, .who = who, .ms = srv->conf->idle_ms, .stop = &srv->leave };
	uint64_t t0 = lp_now();
	int rc;

	snprintf(who, sizeof(who), "%s (CRIU)", x->conf->name);
	rc = x->in ? ps_receive(&s, x->in, &err) : ps_serve(&s, x->ckpt, &err);
	if (rc) {
		pr_warn("%s", err.msg);
		ps_reset(x->fd);
	}
	pr_info("%s: %s in %.3f s", who, lp_size_str(s.bytes, size, sizeof(size)), (lp_now() - t0) / 1e9);
	atomic_fetch_add_explicit(&srv->served, s.bytes, memory_order_relaxed);
	close(x->fd);
	if (x->ckpt)
		store_put(srv->store, x->ckpt);
	if (x->in)
		ingest_end(srv, x->in);
	free(x);
	atomic_fetch_sub(&srv->sessions, 1);
	return NULL;
}

int session_thread(struct server *srv, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	if (atomic_load(&srv->sessions) >= srv->conf->max_clients)
		return -EBUSY;
	atomic_fetch_add(&srv->sessions, 1);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	rc = -pthread_create(&thread, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	if (rc)
		atomic_fetch_sub(&srv->sessions, 1);
	return rc;
}

void session_start(struct server *srv, const struct lp_serve_ps *conf, int fd)
{
	struct session *x = calloc(1, sizeof(*x));
	struct lp_err err = { "out of memory" };
	int rc = x ? 0 : -ENOMEM;

	if (!rc && conf->ingest)
		rc = ingest_begin(srv, conf->name, true, &x->in, &err);
	else if (!rc)
		rc = store_get(srv->store, conf->name, &x->ckpt, &err);
	if (!rc) {
		x->srv = srv;
		x->conf = conf;
		x->fd = fd;
		rc = session_thread(srv, session_main, x);
		if (!rc)
			return;
		lp_err_sys(&err, rc, rc == -EBUSY ? "--max-clients" : "cannot start a thread");
	}
	pr_warn("%s: a CRIU is refused: %s", conf->name, err.msg);
	if (x && x->ckpt)
		store_put(srv->store, x->ckpt);
	if (x && x->in)
		ingest_end(srv, x->in);
	free(x);
	ps_reset(fd);
	close(fd);
}
