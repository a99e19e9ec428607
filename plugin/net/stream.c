/* SPDX-License-Identifier: GPL-2.0-only */
/* Connecting, see addr.h; streams without TLS, and whole sends and receives with a time limit, see stream.h. */
#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
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
	struct sockaddr_vm vm;
	char name[300];
	unsigned left = 0;
	int rc;

	lp_addr_str(a, name, sizeof(name));
	if (a->unix_path) {
		rc = lp_unix_addr(a, &un);
		if (!rc)
			rc = connect_one((struct sockaddr *)&un, sizeof(un), end, stop);
		return rc < 0 ? lp_err_sys(err, rc, "%s: cannot connect", name) : rc;
	}
	if (a->vsock) {
		lp_vsock_addr(a, &vm);
		rc = connect_one((struct sockaddr *)&vm, sizeof(vm), end, stop);
		return rc < 0 ? lp_err_sys(err, rc, "%s: cannot connect", name) : rc;
	}
	rc = lp_resolve(a, false, &all, err);
	if (rc)
		return rc;
	for (ai = all; ai; ai = ai->ai_next)
		left++;
	for (ai = all, rc = -ETIMEDOUT; ai; ai = ai->ai_next, left--) {
		/* One that never answers must not take the time of the others. */
		uint64_t now = lp_now(), share = now < end ? (end - now) / left : 0;

		rc = connect_one(ai->ai_addr, ai->ai_addrlen, now + share, stop);
		if (rc >= 0 || rc == -EINTR)
			break;
	}
	freeaddrinfo(all);
	return rc < 0 ? lp_err_sys(err, rc, "%s: cannot connect", name) : rc;
}

/* ---- streams ---- */

ssize_t lp_stream_recv(struct lp_stream *s, void *p, size_t len)
{
	ssize_t n;

	if (s->tls)
		return lp_session_recv(s->tls, p, len);
	do
		n = recv(s->fd, p, len, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

ssize_t lp_stream_send(struct lp_stream *s, const struct iovec *iov, unsigned count)
{
	struct msghdr mh = { .msg_iov = (struct iovec *)iov, .msg_iovlen = count };
	ssize_t n;

	if (s->tls)
		return lp_session_send(s->tls, iov, count);
	do
		n = sendmsg(s->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

void lp_stream_end(struct lp_stream *s)
{
	if (s->tls)
		lp_session_end(s->tls);
	shutdown(s->fd, SHUT_WR);
}

void lp_stream_close(struct lp_stream *s)
{
	if (s->tls)
		lp_session_free(s->tls);
	if (s->fd >= 0)
		close(s->fd);
	*s = LP_STREAM_NONE;
}

int lp_stream_handshake_all(struct lp_stream *s, unsigned ms, const _Atomic bool *stop)
{
	uint64_t end = lp_now() + ms * UINT64_C(1000000);
	int rc;

	while ((rc = lp_stream_handshake(s)) == -EAGAIN) {
		rc = await(s->fd, lp_stream_events(s), end, stop);
		if (rc)
			break;
	}
	return rc;
}

int lp_stream_shake(struct lp_stream *s, struct lp_tls *t, const char *host, const char *who, unsigned ms,
		    const _Atomic bool *stop, struct lp_err *err)
{
	int rc;

	if (!t)
		return 0;
	rc = lp_stream_tls(s, t, false, host);
	if (rc)
		return lp_err(err, rc, "out of memory");
	rc = lp_stream_handshake_all(s, ms, stop);
	if (rc && lp_stream_why(s))
		return lp_err(err, rc, "%s: %s", who, lp_stream_why(s));
	return rc ? lp_err_sys(err, rc, "%s: TLS handshake", who) : 0;
}

int lp_stream_send_all(struct lp_stream *s, const void *p, size_t len, unsigned ms, const _Atomic bool *stop)
{
	uint64_t end = lp_now() + ms * UINT64_C(1000000);
	struct iovec iov = { (void *)p, len };
	ssize_t n;
	int rc;

	while (iov.iov_len) {
		n = lp_stream_send(s, &iov, 1);
		if (n >= 0) {
			iov.iov_base = (char *)iov.iov_base + n;
			iov.iov_len -= n;
			continue;
		}
		if (n != -EAGAIN)
			return (int)n;
		rc = await(s->fd, POLLOUT, end, stop);
		if (rc)
			return rc;
	}
	return 0;
}

int lp_stream_recv_all(struct lp_stream *s, void *p, size_t len, unsigned ms, const _Atomic bool *stop)
{
	uint64_t end = lp_now() + ms * UINT64_C(1000000);
	ssize_t n;
	int rc;

	while (len) {
		n = lp_stream_recv(s, p, len);
		if (n > 0) {
			p = (char *)p + n;
			len -= n;
			continue;
		}
		if (!n)
			return -EPIPE;
		if (n != -EAGAIN)
			return (int)n;
		rc = await(s->fd, POLLIN, end, stop);
		if (rc)
			return rc;
	}
	return 0;
}

int lp_send_all(int fd, const void *p, size_t len, unsigned ms, const _Atomic bool *stop)
{
	struct lp_stream s = { .fd = fd };

	return lp_stream_send_all(&s, p, len, ms, stop);
}

int lp_recv_all(int fd, void *p, size_t len, unsigned ms, const _Atomic bool *stop)
{
	struct lp_stream s = { .fd = fd };

	return lp_stream_recv_all(&s, p, len, ms, stop);
}
