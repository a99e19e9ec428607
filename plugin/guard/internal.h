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

/* guardian.c */
/* Set this process's oom_score_adj, if that is permitted; or (NULL) get it. */
int guard_oom_adj(const int *set);

/* upgrade.c */
/* What @path is called with, in the place of --resume, to say LP_GUARD_CAN_GO_ON if it can. */
#define GUARD_ASK_RESUME "--resume-check" /* go on from here */
#define GUARD_ASK_SOURCE "--source-check" /* fill from the source that is asked for */
/* Can the program @path do that? 0, or why not; @what: how that begins. Ends nothing. */
int guard_ask(const struct lp_guard_conf *conf, const char *path, const char *word, const char *what,
	      struct lp_err *err);
/* Become it. No worker lives. Returns only when that failed. */
void guard_upgrade_exec(const struct lp_guard_conf *conf, const char *path, struct lp_err *err);

#endif
