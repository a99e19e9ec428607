/* SPDX-License-Identifier: GPL-2.0-only */
/* What the files of the guardian share, grouped by the file that defines it. */
#ifndef LP_GUARD_INTERNAL_H
#define LP_GUARD_INTERNAL_H

#include "guard/guard.h"

/* anchor.c */
/* A process like fork()'s, but with our table of descriptors. 0 in it; else its pid or -errno. */
pid_t guard_clone(void);
/* Start it and say so in LP_ANCHOR_FILE. Its pid or -errno. */
pid_t guard_anchor_start(struct lp_journal *j);
/* In clock ticks since boot: with its pid it names a process for ever. 0: there is none. */
uint64_t guard_start_time(pid_t pid);

/* upgrade.c */
/* Can the program @path go on from here? 0, or why not. Ends nothing. */
int guard_upgrade_check(const struct lp_guard_conf *conf, const char *path, struct lp_err *err);
/* Become it. No worker lives. Returns only when that failed. */
void guard_upgrade_exec(const struct lp_guard_conf *conf, const char *path, struct lp_err *err);

#endif
