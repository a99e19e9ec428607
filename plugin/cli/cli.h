/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The commands of lazypages. Each gets its arguments with its own name in
 * argv[0], reads them only, and returns the exit code: 0 done, 1 failed, 2
 * wrong usage.
 */
#ifndef LP_CLI_H
#define LP_CLI_H

#include "base/err.h"

int cmd_daemon(int argc, char **argv);
int cmd_page_server(int argc, char **argv);
int cmd_push(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_seal(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_ctl(int argc, char **argv); /* also `status` */
int cmd_upgrade(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_trace(int argc, char **argv);

/* What `lazypages check` calls required: 0, or -ENOTSUP with what is missing first and the remedy. */
int check_needs(const char *criu, struct lp_err *err);

#endif
