/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A connected stream socket, plain or with TLS, without sleeping: the same
 * calls for the server's loops and for clients that wait.
 *
 * One thread may send while another receives. With TLS bytes may be at hand
 * that poll() does not tell of: receive until -EAGAIN, or ask
 * lp_stream_pending().
 */
#ifndef LP_NET_STREAM_H
#define LP_NET_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "net/tls.h"

struct lp_stream {
	int fd;			 /* non-blocking; -1: none */
	struct lp_session *tls; /* NULL: plain */
};

#define LP_STREAM_NONE ((struct lp_stream){ .fd = -1 })

/*
 * TLS from the first byte on. @host: whose certificate a client wants to see;
 * not looked at by servers. 0, or -errno: then the stream is as before.
 */
int lp_stream_tls(struct lp_stream *s, struct lp_tls *t, bool server, const char *host);
/*
 * One step of the handshake. 0: done, and the peer is who it has to be; -EAGAIN:
 * wait for lp_stream_events(); -EKEYREJECTED: one side does not like the other's
 * certificate; -EPROTO and others. Why is in lp_stream_why().
 */
int lp_stream_handshake(struct lp_stream *s);
/* The same until it is done, within @ms; see lp_recv_all() for *stop. */
int lp_stream_handshake_all(struct lp_stream *s, unsigned ms, const _Atomic bool *stop);
/*
 * A client's: TLS with @t (NULL: none) and the handshake, within @ms; on a
 * failure @err says what is wrong with @who. The caller closes the stream.
 */
int lp_stream_shake(struct lp_stream *s, struct lp_tls *t, const char *host, const char *who, unsigned ms,
		    const _Atomic bool *stop, struct lp_err *err);
/* POLLIN or POLLOUT: what a handshake waits for. */
short lp_stream_events(const struct lp_stream *s);

/* Bytes received, 0 (the peer sends no more), -EAGAIN, -errno. */
ssize_t lp_stream_recv(struct lp_stream *s, void *p, size_t len);
/*
 * Bytes sent, -EAGAIN, -errno. After -EAGAIN the same bytes must come again, but
 * for more behind them: some may be encrypted already.
 */
ssize_t lp_stream_send(struct lp_stream *s, const struct iovec *iov, unsigned n);
bool lp_stream_pending(const struct lp_stream *s);
/* What TLS says about the last failure, in one line, or NULL. Until the next call. */
const char *lp_stream_why(const struct lp_stream *s);
/* Nothing more will be sent. */
void lp_stream_end(struct lp_stream *s);
void lp_stream_close(struct lp_stream *s);

/*
 * All @len bytes within @ms. 0, -EPIPE (the peer is gone), -ETIMEDOUT, -EINTR
 * (*stop, which may be NULL, became true), or what the system said.
 */
int lp_stream_send_all(struct lp_stream *s, const void *p, size_t len, unsigned ms, const _Atomic bool *stop);
int lp_stream_recv_all(struct lp_stream *s, void *p, size_t len, unsigned ms, const _Atomic bool *stop);

/*
 * Names in the peer's certificate, which was verified: @i counts from 0, the
 * common name first, then DNS names, mail addresses and URIs. False: no more.
 * A peer without TLS has none.
 */
bool lp_stream_peer(const struct lp_stream *s, unsigned i, char *buf, size_t len);

#endif
