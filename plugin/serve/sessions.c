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
	struct lp_tls *tls; /* a reference, or NULL */
	int fd;
};

/* May it do what it wants, by the address that it came to? *c: a reference, unless it brings something. */
static int admit(const struct session *x, struct ps *s, struct ckpt **c, struct lp_err *err)
{
	struct server *srv = x->srv;
	int rc = x->tls ? ps_shake(s, x->tls, err) : 0;

	if (rc)
		return rc;
	if (!server_allows(srv, &s->s, x->conf->name))
		return lp_err(err, -EACCES, "%s: --access does not allow it to this client", s->who);
	if (x->conf->ingest)
		return 0;
	return store_get(srv->store, x->conf->name, c, err);
}

static void *session_main(void *arg)
{
	struct session *x = arg;
	struct server *srv = x->srv;
	struct lp_err err = { "" };
	char who[LP_CKPT_NAME_MAX + 32], size[16];
	struct ps s = { .s = { .fd = x->fd }, .who = who, .ms = srv->conf->idle_ms, .stop = &srv->leave };
	struct ckpt *c = NULL;
	uint64_t t0 = lp_now();
	const int32_t status = 0;
	int rc;

	snprintf(who, sizeof(who), "%s (CRIU)", x->conf->name);
	rc = admit(x, &s, &c, &err);
	if (rc)
		pr_warn("%s: a CRIU is refused: %s", x->conf->name, err.msg);
	else if ((rc = c ? ps_serve(&s, c, &err) : ps_receive(&s, srv, x->conf->name, &err)))
		pr_warn("%s", err.msg);
	else if (!c && (rc = ps_send(&s, &status, sizeof(status), &err)))
		pr_warn("%s", err.msg);
	ps_close(&s, !rc);
	pr_info("%s: %s in %.3f s", who, lp_size_str(s.bytes, size, sizeof(size)), (lp_now() - t0) / 1e9);
	atomic_fetch_add_explicit(&srv->served, s.bytes, memory_order_relaxed);
	if (c)
		store_put(srv->store, c);
	lp_tls_put(x->tls);
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

void session_start(struct server *srv, const struct lp_serve_ps *conf, bool tls, int fd)
{
	struct session *x = calloc(1, sizeof(*x));
	struct ps s = { .s = { .fd = fd } };
	int rc = -ENOMEM;

	if (x) {
		*x = (struct session){ .srv = srv, .conf = conf, .tls = tls ? lp_tls_get(srv->tls) : NULL, .fd = fd };
		rc = session_thread(srv, session_main, x);
		if (!rc)
			return;
		lp_tls_put(x->tls);
		free(x);
	}
	pr_warn("%s: a CRIU is refused: %s", conf->name, rc == -EBUSY ? "--max-clients" : strerror(-rc));
	ps_close(&s, false);
}
