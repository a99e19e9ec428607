/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared between the files of plugin/net only. */
#ifndef LP_NET_INTERNAL_H
#define LP_NET_INTERNAL_H

#include <netdb.h>
#include <sys/un.h>

#include "net/addr.h"

int lp_resolve(const struct lp_addr *a, bool passive, struct addrinfo **out, struct lp_err *err);
int lp_unix_addr(const struct lp_addr *a, struct sockaddr_un *un);

#endif
