/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which files the processes of lazypages need after start-up, for
 * sandbox/sandbox.h. All: 0 or -errno with @err; only shortage of memory or
 * descriptors, and an unknown user, are errors.
 */
#ifndef LP_CLI_CONFINE_H
#define LP_CLI_CONFINE_H

#include <stdbool.h>

#include "base/err.h"

struct lp_serve_conf;

int confine_guardian(struct lp_err *err);
/*
 * The worker, in its work directory, before it opens the checkpoint @images.
 * @pages: of another directory, or NULL or ""; @remote: they come over the
 * network; @fetch: and small images into @images; @pidfile: still to be written by this process, or NULL.
 */
int confine_worker(const char *images, const char *pages, bool remote, bool fetch, const char *pidfile,
		   struct lp_err *err);
/* The server, when it listens. @user: become that one first; or NULL. */
int confine_server(const struct lp_serve_conf *conf, const char *user, struct lp_err *err);
/* `lazypages page-server`, when it listens; it has opened its checkpoint. */
int confine_page_server(struct lp_err *err);

#endif
