/* SPDX-License-Identifier: GPL-2.0-only */
/* The log, see log.h. Owns its file descriptor for the life of the process. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

int lp_log_level = LP_LOG_WARN;
static int log_fd = 2;
static struct timespec log_start;

static int init(const char *path, int level, int how)
{
	lp_log_level = level;
	clock_gettime(CLOCK_MONOTONIC, &log_start);
	if (!path)
		return 0;
	/* O_APPEND: the lines of several processes and threads do not overwrite each other. */
	log_fd = open(path, O_WRONLY | O_CREAT | how | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd < 0) {
		log_fd = 2;
		return -errno;
	}
	return 0;
}

int lp_log_init(const char *path, int level)
{
	return init(path, level, O_TRUNC);
}

int lp_log_append(const char *path, int level)
{
	return init(path, level, 0);
}

int lp_log_fd(void)
{
	return log_fd;
}

void lp_log(int level, const char *fmt, ...)
{
	struct timespec now;
	char line[1024];
	va_list ap;
	int64_t us;
	int n;

	if (level > lp_log_level)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	us = (now.tv_sec - log_start.tv_sec) * INT64_C(1000000) + (now.tv_nsec - log_start.tv_nsec) / 1000;
	n = snprintf(line, sizeof(line), "(%02lld.%06lld) lazypages: ", (long long)(us / 1000000),
		     (long long)(us % 1000000));
	va_start(ap, fmt);
	n += vsnprintf(line + n, sizeof(line) - n, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 1)
		n = sizeof(line) - 1;
	if (line[n - 1] != '\n') {
		if (n == (int)sizeof(line) - 1)
			n--;
		line[n++] = '\n';
	}
	/* A full disk must not stop the filling of pages: what cannot be logged is lost. */
	if (write(log_fd, line, n) < 0)
		return;
}
