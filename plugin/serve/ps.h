/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * CRIU's page-server protocol, the server's side. A session is one connection
 * and has a thread of its own, which may sleep for it: there are few, since a
 * client has one for all its tasks, and the protocol has one request after the
 * other.
 */
#ifndef LP_SERVE_PS_H
#define LP_SERVE_PS_H

#include "proto/criu_ps.h"
#include "serve/internal.h"

struct ps {
	struct lp_stream s;
	const char *who;	 /* for messages */
	unsigned ms;		 /* how long the peer may be stuck in the middle of something */
	const _Atomic bool *stop; /* leave at once; may be NULL */
	enum lp_ps_layout layout; /* from the first header on */
	uint64_t bytes;
};

/* TLS as the server, within the time of a hello. */
int ps_shake(struct ps *s, struct lp_tls *tls, struct lp_err *err);
/* The next header: 1; 0: the peer has ended the connection; or -errno. Between headers it may be silent for ever. */
int ps_next(struct ps *s, struct lp_ps *m, struct lp_err *err);
/*
 * With TLS each call makes records of its own. CRIU depends on that: it polls
 * the socket, so of a record that it has read in part it sees no more.
 */
int ps_send(struct ps *s, const void *p, size_t len, struct lp_err *err);
int ps_recv(struct ps *s, void *p, size_t len, struct lp_err *err);
/* Close it; not @ok: so that the peer takes it for a failure. */
void ps_close(struct ps *s, bool ok);

/* ps_get.c: answer GETs from @c until CLOSE or the end. */
int ps_serve(struct ps *s, struct ckpt *c, struct lp_err *err);

#endif
