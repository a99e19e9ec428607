/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the network can carry, as the kernel's TCP has measured it, and what
 * follows for a bulk connection: how its pages are compressed (clients that say
 * AUTO), and how much of it may be on its way on a slow link, where it would
 * stand in front of the urgent connection's answers in every queue. The kernel
 * knows best: its times are those of ACKs, not of threads that wait for a CPU.
 *
 * Of the connection's loop; state in struct speed.
 */
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>

#include "serve/internal.h"

#define LOOK_NS UINT64_C(20000000)
/* Bulk may fill the queues of the network for so long. */
#define QUEUE_US UINT64_C(8000)
#define LIMIT_MIN (UINT64_C(48) << 10)
/* Net.core.wmem_max of all kernels; links that need more are fast enough. */
#define LIMIT_MAX (UINT64_C(200) << 10)
/* Bytes a second below which a byte less is worth the CPU's time: of one core, which reads and compresses. */
#define FOR_ZSTD UINT64_C(100000000)
#define FOR_LZ4	 UINT64_C(400000000)
/* Looks in a row that find the link idle before compression is taken for the reason. */
#define IDLE_LOOKS 5
#define HOLD_NS UINT64_C(1000000000)

/* Not the network but the client, or we, hold it up: nothing is known about the link. */
static bool idle_link(struct speed *s, const struct tcp_info *ti, uint64_t us)
{
	uint64_t by_client = ti->tcpi_rwnd_limited - s->rwnd_limited;

	s->rwnd_limited = ti->tcpi_rwnd_limited;
	return ti->tcpi_delivery_rate_app_limited || by_client > us / 4;
}

/* Bytes that may be in the socket and in the network. */
static void limit(struct conn *c, const struct tcp_info *ti)
{
	struct speed *s = &c->speed;
	uint64_t want = s->rate * (ti->tcpi_min_rtt + QUEUE_US) / 1000000;
	int half;

	if (want < LIMIT_MIN)
		want = LIMIT_MIN;
	/* The link has become faster: no lower than that any more. There is no way back to the kernel's own choice. */
	if (want > LIMIT_MAX)
		want = s->limit ? LIMIT_MAX : 0;
	/* As long as its queues stay short there is nothing to limit. */
	if (!s->limit && ti->tcpi_rtt < ti->tcpi_min_rtt + QUEUE_US && !ti->tcpi_total_retrans)
		return;
	if (!want || (want < s->limit + s->limit / 8 && want > s->limit - s->limit / 8))
		return;
	half = (int)(want / 2); /* the kernel takes it twice, for its own needs */
	if (!setsockopt(c->s.fd, SOL_SOCKET, SO_SNDBUF, &half, sizeof(half)))
		s->limit = want;
}

static uint32_t heavier(uint64_t rate)
{
	return rate < FOR_ZSTD ? 1u << LP_ENC_ZSTD : rate < FOR_LZ4 ? 1u << LP_ENC_LZ4 : 0;
}

static void compress(struct conn *c, bool idle, uint64_t now)
{
	const uint32_t zstd = 1u << LP_ENC_ZSTD, lz4 = 1u << LP_ENC_LZ4;
	struct speed *s = &c->speed;
	uint32_t enc = c->encodings & (zstd | lz4);

	if (!idle) {
		s->idle_looks = 0;
		if (now > s->hold_until)
			enc = heavier(s->rate);
	} else if (enc && ++s->idle_looks == IDLE_LOOKS) {
		/* The link waits for us. */
		s->idle_looks = 0;
		s->hold_until = now + HOLD_NS;
		enc = enc == zstd ? lz4 : 0;
	}
	c->encodings = LP_ENC_BASE | ((enc ? enc | 1u << LP_ENC_SAME : 0) & s->may);
}

void speed_look(struct conn *c)
{
	struct speed *s = &c->speed;
	uint64_t now = lp_now(), since = now - s->looked;
	struct tcp_info ti;
	socklen_t n = sizeof(ti);
	bool idle;

	if (c->role != LP_ROLE_BULK || s->unknown || since < LOOK_NS)
		return;
	s->looked = now;
	memset(&ti, 0, sizeof(ti));
	if (getsockopt(c->s.fd, IPPROTO_TCP, TCP_INFO, &ti, &n) || n < offsetof(struct tcp_info, tcpi_rwnd_limited) + 8) {
		s->unknown = true; /* a UNIX socket, or an old kernel */
		return;
	}
	idle = idle_link(s, &ti, since / 1000);
	if (!idle && ti.tcpi_delivery_rate) {
		s->rate = s->rate ? (s->rate * 3 + ti.tcpi_delivery_rate) / 4 : ti.tcpi_delivery_rate;
		limit(c, &ti);
	}
	if (s->may)
		compress(c, idle || !s->rate, now);
}
