/* SPDX-License-Identifier: GPL-2.0-only */
/* Going to the background as `criu --daemon` does: the caller returns when the child serves. */
#ifndef LP_CLI_BACKGROUND_H
#define LP_CLI_BACKGROUND_H

#include <stdbool.h>
#include <sys/types.h>

/*
 * Fork. In the child *pid is 0 and *ready_fd takes the byte that says that it
 * serves; in the parent it is where that byte comes from.
 */
int go_background(int *ready_fd, pid_t *pid);
/* Wait for the child's word; its death says nothing: false. */
bool background_ready(int ready_fd);
void close_std(void);
int write_pidfile(const char *path, pid_t pid);

#endif
