/* SPDX-License-Identifier: GPL-2.0-only */
/* Answering a stock `criu lazy-pages --page-server`: GET by GET, in order. */
#include <errno.h>
#include <inttypes.h>

#include "serve/ps.h"
#include "serve/relay.h"

/* The most of one answer: the client asks again for the rest, and what it asks in between comes sooner. */
#define ANSWER_MAX (UINT64_C(4) << 20)

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* How much of @m lies in the files without a gap? */
static uint64_t at_hand(const struct lp_task *t, const struct lp_ps *m)
{
	uint64_t end = m->addr + min_u64(m->pages * LP_PS_PAGE, ANSWER_MAX), at = m->addr;
	const struct lp_extent *x;

	while (at < end) {
		x = lp_task_lookup(t, at, NULL);
		if (!x || x->kind != LP_EXT_DATA)
			break;
		at = min_u64(x->end, end);
	}
	return at - m->addr;
}

static int on_get(struct ps *s, struct ckpt *c, const struct lp_ps *m, struct lp_err *err)
{
	const struct lp_task *t = m->dst <= INT32_MAX ? lp_images_find(c->im, (int32_t)m->dst) : NULL;
	struct lp_ps answer = { .cmd = LP_PS_ADD_F, .flags = LP_PS_PRESENT_FLAG, .addr = m->addr, .dst = m->dst };
	uint64_t len = t ? at_hand(t, m) : 0, at, n;
	uint8_t head[LP_PS_MAX], buf[LP_STEP];
	int rc;

	if (!len)
		/* The protocol has no word for it, and zeros would be a lie. */
		return lp_err(err, -ENODATA, "%s: task %" PRIu64 " has no page at 0x%" PRIx64 " in this checkpoint: are its "
			      "images those of another dump?", s->who, m->dst, m->addr);
	if (c->relay) {
		len = min_u64(len, LP_DATA_MAX);
		rc = relay_await(c->relay, (uint32_t)(t - lp_images_task(c->im, 0)), m->addr, len, s->stop);
		if (rc)
			return lp_err_sys(err, rc, "%s: the pages at 0x%" PRIx64 " are lost with their source", s->who,
					  m->addr);
	}
	answer.pages = len / LP_PS_PAGE;
	rc = ps_send(s, head, lp_ps_put(head, s->layout, &answer), err);
	for (at = m->addr; !rc && at < m->addr + len; at += n) {
		const struct lp_extent *x = lp_task_lookup(t, at, NULL);

		n = min_u64(min_u64(x->end, m->addr + len) - at, sizeof(buf));
		rc = ckpt_pread(c, x->file, x->off + (at - x->start), buf, n);
		if (rc)
			return lp_err_sys(err, rc, "%s: cannot read the pages at 0x%" PRIx64, s->who, at);
		rc = ps_send(s, buf, n, err);
	}
	s->bytes += len;
	return rc;
}

int ps_serve(struct ps *s, struct ckpt *c, struct lp_err *err)
{
	const int32_t ok = 0;
	struct lp_ps m;
	int rc;

	while ((rc = ps_next(s, &m, err)) > 0) {
		switch (m.cmd) {
		case LP_PS_GET:
			rc = on_get(s, c, &m, err);
			break;
		case LP_PS_CLOSE:
		case LP_PS_FORCE_CLOSE:
			return ps_send(s, &ok, sizeof(ok), err);
		default:
			rc = lp_err(err, -EPROTO,
				    "%s: it wants to write (command %u): this address only answers `criu lazy-pages`",
				    s->who, m.cmd);
		}
		if (rc)
			break;
	}
	return rc;
}
