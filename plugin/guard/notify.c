/* SPDX-License-Identifier: GPL-2.0-only */
/* The protocol of sd_notify(3): one datagram to the socket that NOTIFY_SOCKET names. No library for that. */
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "guard/guard.h"

void lp_notify(const char *fmt, ...)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	char text[256];
	va_list ap;
	socklen_t len;
	int fd, n;

	if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof(sa.sun_path))
		return;
	memcpy(sa.sun_path, path, strlen(path));
	len = offsetof(struct sockaddr_un, sun_path) + strlen(path);
	if (*path == '@')
		sa.sun_path[0] = 0; /* an abstract name */
	else
		len++;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, text, n, MSG_NOSIGNAL, (void *)&sa, len) != n)
		pr_warn("NOTIFY_SOCKET %s: %m", path);
	if (fd >= 0)
		close(fd);
}
