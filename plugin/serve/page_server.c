/* SPDX-License-Identifier: GPL-2.0-only */
/* `lazypages page-server --lazy-pages`: one directory, one connection, as `criu page-server` does it. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/addr.h"
#include "serve/page_server.h"
#include "serve/ps.h"

/* Without a limit: a client that is stuck harms nobody here. */
#define STUCK_MS (3600 * 1000)

int lp_page_server_open(struct lp_page_server *p, struct lp_err *err)
{
	int fds[8], n;

	n = ckpt_open("page-server", p->dir, NULL, false, &p->ckpt, err);
	if (!n)
		n = ckpt_verify(p->ckpt, p->verify, err);
	if (n)
		return n;
	n = lp_listen(&p->addr, p->anywhere || p->tls, fds, 8, err);
	if (n < 0)
		return n;
	/* One connection is served, so one socket will do. */
	while (n > 1)
		close(fds[--n]);
	p->listen_fd = fds[0];
	return 0;
}

int lp_page_server_run(struct lp_page_server *p, const _Atomic bool *stop, struct lp_err *err)
{
	struct ps s = { .who = "page-server", .ms = STUCK_MS, .stop = stop };
	struct pollfd pfd = { .fd = p->listen_fd, .events = POLLIN };
	char size[16];
	int rc;

	for (;;) {
		if (atomic_load(stop))
			return lp_err(err, -EINTR, "a signal before anybody came");
		if (poll(&pfd, 1, 100) < 0 && errno != EINTR)
			return lp_err_sys(err, -errno, "poll");
		s.s = (struct lp_stream){ .fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK) };
		if (s.s.fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return lp_err_sys(err, -errno, "accept");
		if (s.s.fd < 0)
			continue;
		lp_tune(s.s.fd);
		if (!p->tls || !ps_shake(&s, p->tls, err))
			break;
		/* A stranger does not end it for the one who is to come. */
		pr_warn("%s", err->msg);
		ps_close(&s, false);
	}
	close(p->listen_fd);
	p->listen_fd = -1;
	rc = ps_serve(&s, p->ckpt, err);
	ps_close(&s, !rc);
	pr_msg("page-server: %s sent", lp_size_str(s.bytes, size, sizeof(size)));
	return rc;
}

void lp_page_server_close(struct lp_page_server *p)
{
	if (p->listen_fd >= 0)
		close(p->listen_fd);
	if (p->ckpt)
		ckpt_free(p->ckpt);
}
