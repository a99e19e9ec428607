/* SPDX-License-Identifier: GPL-2.0-only */
/* Messages that bring a checkpoint to a server. */
#include <errno.h>

#include "proto/proto.h"
#include "proto/wire.h"

static ssize_t done_put(const struct lp_out *o)
{
	return o->bad ? -ENOSPC : (ssize_t)o->n;
}

ssize_t lp_put_push(uint8_t *buf, size_t cap, const struct lp_push *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->flags, 4);
	lp_put_str(&o, m->name.p, m->name.n);
	return done_put(&o);
}

int lp_get_push(const uint8_t *buf, size_t len, struct lp_push *m)
{
	struct lp_in i = { .p = buf, .left = len };

	m->flags = (uint32_t)lp_get_int(&i, 4);
	m->name.p = lp_get_str(&i, &m->name.n);
	if (i.bad || i.left || m->flags & ~LP_PUSH_REPLACE)
		return -EBADMSG;
	return lp_ckpt_name_ok(m->name.p, m->name.n) ? 0 : -EBADMSG;
}

ssize_t lp_put_push_data(uint8_t *buf, size_t cap, const struct lp_push_data *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->off, 8);
	lp_put_int(&o, m->sum, 8);
	lp_put_str(&o, m->name.p, m->name.n);
	return done_put(&o);
}

int lp_get_push_data(const uint8_t *buf, size_t len, struct lp_push_data *m)
{
	struct lp_in i = { .p = buf, .left = len };

	m->off = lp_get_int(&i, 8);
	m->sum = lp_get_int(&i, 8);
	m->name.p = lp_get_str(&i, &m->name.n);
	if (i.bad || i.left || m->off >= UINT64_C(1) << 62)
		return -EBADMSG;
	return lp_file_name_ok(m->name.p, m->name.n) ? 0 : -EBADMSG;
}
