/* SPDX-License-Identifier: GPL-2.0-only */
/* Into the background, and the pid file; see background.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "cli/background.h"

int go_background(int *ready_fd, pid_t *pid)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC))
		return -errno;
	*pid = fork();
	if (*pid < 0) {
		int rc = -errno;

		close(p[0]);
		close(p[1]);
		return rc;
	}
	if (*pid) {
		close(p[1]);
		*ready_fd = p[0];
		return 0;
	}
	close(p[0]);
	*ready_fd = p[1];
	setsid();
	return 0;
}

bool background_ready(int ready_fd)
{
	char byte;

	return read(ready_fd, &byte, 1) == 1;
}

void close_std(void)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return;
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	if (fd > 2)
		close(fd);
}

int write_pidfile(const char *path, pid_t pid)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), rc = 0;

	if (fd < 0)
		return -errno;
	if (dprintf(fd, "%d", pid) < 0)
		rc = -errno;
	if (close(fd) && !rc)
		rc = -errno;
	return rc;
}
