/* SPDX-License-Identifier: GPL-2.0-only */
/* Connecting, and whole sends and receives with a time limit; see addr.h. */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/size.h"
#include "net/internal.h"

/* How often a wait looks whether it shall stop. */
#define LOOK_MS 100

static bool stopped(const _Atomic bool *stop)
{
	return stop && atomic_load(stop);
}

/* Wait until @fd is ready or @end has come. */
static int await(int fd, short what, uint64_t end, const _Atomic bool *stop)
{
	struct pollfd p = { .fd = fd, .events = what };
	uint64_t now, ms;
	int n;

	for (;;) {
		if (stopped(stop))
			return -EINTR;
		now = lp_now();
		if (now >= end)
			return -ETIMEDOUT;
		ms = (end - now) / 1000000 + 1;
		n = poll(&p, 1, ms > LOOK_MS ? LOOK_MS : (int)ms);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static int connect_one(const struct sockaddr *sa, socklen_t len, uint64_t end, const _Atomic bool *stop)
{
	int fd, rc = 0, e;
	socklen_t n = sizeof(e);

	fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, sa, len)) {
		rc = -errno;
		if (rc == -EINPROGRESS) {
			rc = await(fd, POLLOUT, end, stop);
			if (!rc && getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n))
				rc = -errno;
			else if (!rc)
				rc = -e;
		}
	}
	if (rc) {
		close(fd);
		return rc;
	}
	lp_tune(fd);
	return fd;
}

int lp_connect(const struct lp_addr *a, unsigned ms, const _Atomic bool *stop, struct lp_err *err)
{
	uint64_t end = lp_now() + ms * UINT64_C(1000000);
	struct addrinfo *all, *ai;
	struct sockaddr_un un;
	char name[300];
	int rc;

	lp_addr_str(a, name, sizeof(name));
	if (a->unix_path) {
		rc = lp_unix_addr(a, &un);
		if (!rc)
			rc = connect_one((struct sockaddr *)&un, sizeof(un), end, stop);
		return rc < 0 ? lp_err_sys(err, rc, "%s: cannot connect", name) : rc;
	}
	rc = lp_resolve(a, false, &all, err);
	if (rc)
		return rc;
	for (ai = all; ai; ai = ai->ai_next) {
		rc = connect_one(ai->ai_addr, ai->ai_addrlen, end, stop);
		if (rc >= 0 || rc == -EINTR || rc == -ETIMEDOUT)
			break;
	}
	freeaddrinfo(all);
	return rc < 0 ? lp_err_sys(err, rc, "%s: cannot connect", name) : rc;
}

int lp_send_all(int fd, const void *p, size_t len, unsigned ms, const _Atomic bool *stop)
{
	uint64_t end = lp_now() + ms * UINT64_C(1000000);
	int rc;

	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			p = (const char *)p + n;
			len -= n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		rc = await(fd, POLLOUT, end, stop);
		if (rc)
			return rc;
	}
	return 0;
}

int lp_recv_all(int fd, void *p, size_t len, unsigned ms, const _Atomic bool *stop)
{
	uint64_t end = lp_now() + ms * UINT64_C(1000000);
	int rc;

	while (len) {
		ssize_t n = recv(fd, p, len, MSG_DONTWAIT);

		if (n > 0) {
			p = (char *)p + n;
			len -= n;
			continue;
		}
		if (!n)
			return -EPIPE;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		rc = await(fd, POLLIN, end, stop);
		if (rc)
			return rc;
	}
	return 0;
}
