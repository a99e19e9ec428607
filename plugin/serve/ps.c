/* SPDX-License-Identifier: GPL-2.0-only */
/* Headers and bytes of a session of CRIU's page-server protocol; see ps.h. */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "net/addr.h"
#include "serve/ps.h"

#define LOOK_MS 100

/* Until there is something to read: 1, or 0 at the end of the connection. */
static int await(struct ps *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };
	char c;
	ssize_t n;

	for (;;) {
		if (s->stop && atomic_load(s->stop))
			return -EINTR;
		n = poll(&p, 1, LOOK_MS);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n <= 0)
			continue;
		n = recv(s->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT);
		if (n >= 0)
			return (int)n;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
}

int ps_next(struct ps *s, struct lp_ps *m, struct lp_err *err)
{
	uint8_t buf[LP_PS_MAX];
	size_t n = s->layout ? (size_t)s->layout : LP_PS_MIN;
	int rc;

	rc = await(s);
	if (rc <= 0)
		return rc ? lp_err_sys(err, rc, "%s: connection lost", s->who) : 0;
	rc = ps_recv(s, buf, n, err);
	if (rc)
		return rc;
	if (!s->layout) {
		if (lp_ps_infer(buf, n, &s->layout))
			return lp_err(err, -EBADMSG, "%s: this is not CRIU's page-server protocol", s->who);
		rc = ps_recv(s, buf + n, (size_t)s->layout - n, err);
		if (rc)
			return rc;
		pr_info("%s: headers of %d bytes: CRIU %s", s->who, (int)s->layout,
			s->layout == LP_PS_24 ? "up to 4.1" : "from 4.2 on");
	}
	if (lp_ps_get(buf, s->layout, m))
		return lp_err(err, -EBADMSG, "%s: malformed request (command %u)", s->who, m->cmd);
	return 1;
}

int ps_send(struct ps *s, const void *p, size_t len, struct lp_err *err)
{
	int rc = lp_send_all(s->fd, p, len, s->ms, s->stop);

	return rc ? lp_err_sys(err, rc, "%s: cannot send", s->who) : 0;
}

int ps_recv(struct ps *s, void *p, size_t len, struct lp_err *err)
{
	int rc = lp_recv_all(s->fd, p, len, s->ms, s->stop);

	return rc ? lp_err_sys(err, rc, "%s: cannot receive", s->who) : 0;
}

void ps_reset(int fd)
{
	const struct linger hard = { 1, 0 };

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
}
