/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Addresses of servers and stream sockets on them. Text forms:
 *
 *   HOST:PORT, [V6]:PORT          where to listen or connect
 *   unix:PATH                     the same, a UNIX socket
 *   vsock:CID:PORT                the same between a virtual machine and its host
 *   lazypages://HOST:PORT/NAME    a checkpoint at a server
 *   unix:PATH:NAME                the same; NAME is behind the last colon
 *   vsock:CID:PORT:NAME
 */
#ifndef LP_NET_ADDR_H
#define LP_NET_ADDR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

struct lp_addr {
	bool unix_path, vsock;
	char host[256]; /* or the path, or the CID: a number; any, to listen */
	char port[12];
};

struct lp_url {
	struct lp_addr addr;
	char name[129]; /* of the checkpoint; may be empty */
	char text[400]; /* as messages show it */
};

int lp_addr_parse(const char *s, struct lp_addr *a, struct lp_err *err);
int lp_url_parse(const char *s, struct lp_url *u, struct lp_err *err);
/* "127.0.0.1:7000", "unix:/run/x" into @buf, which is returned. */
const char *lp_addr_str(const struct lp_addr *a, char *buf, size_t len);

/*
 * Listening sockets for all that @a resolves to (at most @max), non-blocking.
 * Returns how many, or -errno. Without @anywhere every one must be loopback or
 * UNIX: -EPERM. A kernel without vsock: -EAFNOSUPPORT. A stale UNIX socket is replaced, one in use is -EADDRINUSE.
 */
int lp_listen(const struct lp_addr *a, bool anywhere, int *fds, int max, struct lp_err *err);
/* The port that a listening TCP or vsock socket got (for port 0), or 0. */
unsigned lp_listen_port(int fd);

/*
 * Connect within @ms. Returns a non-blocking socket or -errno. When *stop (may
 * be NULL) becomes true, gives up with -EINTR within 100 ms.
 */
int lp_connect(const struct lp_addr *a, unsigned ms, const _Atomic bool *stop, struct lp_err *err);

/* Settings of every stream connection: no delay, keep-alive. */
void lp_tune(int fd);

/* lp_stream_send_all() and lp_stream_recv_all() (stream.h) on a socket that is plain for good. */
int lp_send_all(int fd, const void *p, size_t len, unsigned ms, const _Atomic bool *stop);
int lp_recv_all(int fd, void *p, size_t len, unsigned ms, const _Atomic bool *stop);

#endif
