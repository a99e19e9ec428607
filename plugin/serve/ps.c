/* SPDX-License-Identifier: GPL-2.0-only */
/* Headers and bytes of a session of CRIU's page-server protocol; see ps.h. */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "net/addr.h"
#include "serve/ps.h"

#define LOOK_MS 100
#define SHAKE_MS 5000
#define BYE_NS UINT64_C(1000000000)

/*
 * The peer's first request may be on its way: with TLS 1.3 it hears only then
 * that its certificate is refused. A reset would take that word from it.
 */
static void let_read(struct ps *s)
{
	uint64_t end = lp_now() + BYE_NS;
	struct pollfd p = { .fd = s->s.fd, .events = POLLIN };
	char buf[256];
	ssize_t n;

	while ((n = recv(s->s.fd, buf, sizeof(buf), MSG_DONTWAIT)) && (n > 0 || errno == EAGAIN) && lp_now() < end)
		if (n < 0)
			(void)poll(&p, 1, LOOK_MS);
}

int ps_shake(struct ps *s, struct lp_tls *tls, struct lp_err *err)
{
	int rc = lp_stream_tls(&s->s, tls, true, NULL);

	if (rc)
		return lp_err(err, rc, "out of memory");
	rc = lp_stream_handshake_all(&s->s, SHAKE_MS, s->stop);
	if (rc)
		let_read(s);
	if (rc && lp_stream_why(&s->s))
		return lp_err(err, rc, "%s: %s", s->who, lp_stream_why(&s->s));
	return rc ? lp_err_sys(err, rc, "%s: TLS handshake", s->who) : 0;
}

/* Some bytes, up to @len, however long it takes; 0 at the end of the connection. */
static ssize_t await(struct ps *s, void *p, size_t len)
{
	struct pollfd pfd = { .fd = s->s.fd, .events = POLLIN };
	ssize_t n;

	for (;;) {
		n = lp_stream_recv(&s->s, p, len);
		if (n != -EAGAIN)
			/* That all has come is what CLOSE says, not how TLS ends. */
			return n == -EPIPE ? 0 : n;
		if (s->stop && atomic_load(s->stop))
			return -EINTR;
		if (poll(&pfd, 1, LOOK_MS) < 0 && errno != EINTR)
			return -errno;
	}
}

int ps_next(struct ps *s, struct lp_ps *m, struct lp_err *err)
{
	uint8_t buf[LP_PS_MAX];
	size_t n = s->layout ? (size_t)s->layout : LP_PS_MIN;
	ssize_t k;
	int rc;

	k = await(s, buf, n);
	if (k <= 0)
		return k ? lp_err_sys(err, (int)k, "%s: connection lost", s->who) : 0;
	rc = ps_recv(s, buf + k, n - k, err);
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
	int rc = lp_stream_send_all(&s->s, p, len, s->ms, s->stop);

	return rc ? lp_err_sys(err, rc, "%s: cannot send", s->who) : 0;
}

int ps_recv(struct ps *s, void *p, size_t len, struct lp_err *err)
{
	int rc = lp_stream_recv_all(&s->s, p, len, s->ms, s->stop);

	return rc ? lp_err_sys(err, rc, "%s: cannot receive", s->who) : 0;
}

void ps_close(struct ps *s, bool ok)
{
	const struct linger hard = { 1, 0 };
	uint64_t end = lp_now() + BYE_NS;
	struct pollfd p = { .fd = s->s.fd, .events = POLLIN };
	char buf[256];
	ssize_t n;

	if (!ok)
		setsockopt(s->s.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	if (ok && s->s.tls) {
		/* CRIU waits for our last word, and a socket with something unread in it would be closed in its face. */
		lp_stream_end(&s->s);
		while ((n = lp_stream_recv(&s->s, buf, sizeof(buf))) && (n > 0 || n == -EAGAIN) && lp_now() < end)
			if (n < 0)
				(void)poll(&p, 1, LOOK_MS);
	}
	lp_stream_close(&s->s);
}
