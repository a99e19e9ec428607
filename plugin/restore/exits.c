/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exits and execs as the kernel's process connector reports them. A fill would
 * learn of the end of an address space from ESRCH; a space nobody fills at the
 * moment would not. The reports only say "look now": the reader probes. So lost
 * or foreign reports do no harm, and without the permission for the connector
 * the daemon works all the same, looking a few times a second.
 */
#include <errno.h>
#include <linux/cn_proc.h>
#include <linux/connector.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <string.h>

#include "restore/internal.h"

static struct nl_sock *sock_of(struct lp_exits *x)
{
	return (struct nl_sock *)x;
}

static int on_msg(struct nl_msg *msg, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(msg);
	const struct cn_msg *cn = nlmsg_data(h);
	struct proc_event ev;
	bool *ended = arg;

	if (nlmsg_datalen(h) < (int)(sizeof(*cn) + sizeof(ev)) || cn->id.idx != CN_IDX_PROC || cn->len < sizeof(ev))
		return NL_OK;
	memcpy(&ev, cn->data, sizeof(ev)); /* not aligned for its 64-bit fields */
	if (ev.what == PROC_EVENT_EXIT || ev.what == PROC_EVENT_EXEC)
		*ended = true;
	return NL_OK;
}

int lp_exits_open(struct lp_exits **out)
{
	struct {
		struct cn_msg cn;
		enum proc_cn_mcast_op op;
	} __attribute__((packed)) req = {
		.cn = { .id = { CN_IDX_PROC, CN_VAL_PROC }, .len = sizeof(enum proc_cn_mcast_op) },
		.op = PROC_CN_MCAST_LISTEN,
	};
	struct nl_sock *s = nl_socket_alloc();
	int rc;

	if (!s)
		return -ENOMEM;
	nl_socket_disable_seq_check(s);
	nl_join_groups(s, CN_IDX_PROC);
	rc = nl_connect(s, NETLINK_CONNECTOR);
	if (!rc)
		rc = nl_socket_set_nonblocking(s);
	if (!rc)
		rc = nl_send_simple(s, NLMSG_DONE, 0, &req, sizeof(req));
	if (rc < 0) {
		nl_socket_free(s);
		return rc == -NLE_PERM || rc == -NLE_NOACCESS ? -EPERM : -EIO;
	}
	*out = (struct lp_exits *)s;
	return 0;
}

int lp_exits_fd(struct lp_exits *x)
{
	return nl_socket_get_fd(sock_of(x));
}

bool lp_exits_read(struct lp_exits *x)
{
	bool ended = false;
	int rc;

	nl_socket_modify_cb(sock_of(x), NL_CB_VALID, NL_CB_CUSTOM, on_msg, &ended);
	nl_socket_modify_cb(sock_of(x), NL_CB_FINISH, NL_CB_CUSTOM, on_msg, &ended);
	do {
		rc = nl_recvmsgs_default(sock_of(x));
	} while (!rc);
	/* Too many at once (ENOBUFS): some were lost, so look. */
	return ended || rc != -NLE_AGAIN;
}

void lp_exits_close(struct lp_exits *x)
{
	if (x)
		nl_socket_free(sock_of(x));
}
