/* SPDX-License-Identifier: GPL-2.0-only */
/* The drop-in for `criu page-server --lazy-pages`: serves the pages of one directory to one client. */
#ifndef LP_PAGE_SERVER_H
#define LP_PAGE_SERVER_H

#include <stdbool.h>

#include "base/err.h"
#include "images/seal.h"
#include "net/addr.h"
#include "net/tls.h"

struct ckpt;

struct lp_page_server {
	const char *dir;
	struct lp_addr addr;
	struct lp_tls *tls; /* borrowed; NULL: none */
	enum lp_verify verify;
	bool anywhere; /* beyond loopback without TLS */
	int listen_fd; /* -1 at first */
	struct ckpt *ckpt;
};

/* Open the checkpoint and listen. No thread is started: the caller may fork after this. */
int lp_page_server_open(struct lp_page_server *p, struct lp_err *err);
/* One connection, until it has ended or *stop. */
int lp_page_server_run(struct lp_page_server *p, const _Atomic bool *stop, struct lp_err *err);
void lp_page_server_close(struct lp_page_server *p);

#endif
