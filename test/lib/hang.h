/* SPDX-License-Identifier: GPL-2.0-only */
/* What a hang looks like from outside: the state of processes as /proc tells it. */
#ifndef LP_TEST_HANG_H
#define LP_TEST_HANG_H

#include <stdio.h>
#include <sys/types.h>

/* The file @path, with its name before it. */
void hang_copy(FILE *out, const char *path);
/* Where each thread of @pid sleeps, and its mappings. */
void hang_process(FILE *out, pid_t pid);
/* All processes of the group @pgid: a task and the children it forked. */
void hang_group(FILE *out, pid_t pgid);

#endif
