/* SPDX-License-Identifier: GPL-2.0-only */
/* Bringing a checkpoint to a server. */
#ifndef LP_SOURCE_PUSH_H
#define LP_SOURCE_PUSH_H

#include <stdbool.h>
#include <stdint.h>

#include "net/addr.h"
#include "net/tls.h"

/*
 * All image files of @dir to @url, whose name the checkpoint gets there; pages
 * that CRIU has brought before need not be among them. What parents have of it
 * becomes a part of it. On 0 it is served.
 */
int lp_push(const struct lp_url *url, struct lp_tls *tls, const char *dir, bool replace, unsigned timeout_ms, uint64_t *bytes,
	    struct lp_err *err);

#endif
