/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared between the files of plugin/net only. */
#ifndef LP_NET_INTERNAL_H
#define LP_NET_INTERNAL_H

#include <netdb.h>
#include <sys/un.h>

#include "net/addr.h"
#include "net/stream.h"

int lp_resolve(const struct lp_addr *a, bool passive, struct addrinfo **out, struct lp_err *err);
int lp_unix_addr(const struct lp_addr *a, struct sockaddr_un *un);
struct sockaddr_vm;
void lp_vsock_addr(const struct lp_addr *a, struct sockaddr_vm *vm);

/* tls.c: what stream.c needs of sessions */
ssize_t lp_session_recv(struct lp_session *x, void *p, size_t len);
ssize_t lp_session_send(struct lp_session *x, const struct iovec *iov, unsigned n);
/* Tell the peer that nothing more comes, if the socket takes it. */
void lp_session_end(struct lp_session *x);
void lp_session_free(struct lp_session *x);

#endif
