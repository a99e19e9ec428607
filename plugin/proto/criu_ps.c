/* SPDX-License-Identifier: GPL-2.0-only */
/* CRIU's page-server protocol, see criu_ps.h. */
#include <errno.h>
#include <string.h>

#include "proto/criu_ps.h"
#include "proto/wire.h"

/* A user address is above this (mmap_min_addr), the count of a first request below. */
#define COUNT_OR_ADDR UINT64_C(0x10000)
#define ADDR_END (UINT64_C(1) << 63)

size_t lp_ps_put(uint8_t *buf, enum lp_ps_layout layout, const struct lp_ps *m)
{
	lp_store(buf, (uint32_t)m->flags << 16 | m->cmd, 4);
	if (layout == LP_PS_24) {
		if (m->pages > UINT32_MAX)
			return 0;
		lp_store(buf + 4, m->pages, 4);
		lp_store(buf + 8, m->addr, 8);
		lp_store(buf + 16, m->dst, 8);
		return 24;
	}
	lp_store(buf + 4, 0, 4);
	lp_store(buf + 8, m->pages, 8);
	lp_store(buf + 16, m->addr, 8);
	lp_store(buf + 24, m->dst, 8);
	return 32;
}

static bool has_range(uint16_t cmd)
{
	return cmd == LP_PS_ADD || cmd == LP_PS_HOLE || cmd == LP_PS_ADD_F || cmd == LP_PS_GET;
}

static bool opens(uint16_t cmd)
{
	return cmd == LP_PS_OPEN || cmd == LP_PS_OPEN2 || cmd == LP_PS_PARENT;
}

static bool closes(uint16_t cmd)
{
	return cmd == LP_PS_CLOSE || cmd == LP_PS_FORCE_CLOSE;
}

int lp_ps_get(const uint8_t *buf, enum lp_ps_layout layout, struct lp_ps *m)
{
	uint32_t word = (uint32_t)lp_load(buf, 4);

	m->cmd = (uint16_t)word;
	m->flags = (uint16_t)(word >> 16);
	if (layout == LP_PS_24) {
		m->pages = lp_load(buf + 4, 4);
		m->addr = lp_load(buf + 8, 8);
		m->dst = lp_load(buf + 16, 8);
	} else {
		m->pages = lp_load(buf + 8, 8);
		m->addr = lp_load(buf + 16, 8);
		m->dst = lp_load(buf + 24, 8);
	}
	if (m->flags && m->cmd != LP_PS_ADD_F)
		return -EBADMSG;
	if (!has_range(m->cmd))
		return opens(m->cmd) || closes(m->cmd) ? 0 : -EBADMSG;
	if (!m->pages || m->addr % LP_PS_PAGE || m->addr >= ADDR_END || m->pages > (ADDR_END - m->addr) / LP_PS_PAGE)
		return -EBADMSG;
	return 0;
}

int lp_ps_infer(const uint8_t *buf, size_t n, enum lp_ps_layout *layout)
{
	uint64_t at4, at8, at16;
	uint16_t cmd;

	if (n < LP_PS_MIN)
		return -EAGAIN;
	cmd = (uint16_t)lp_load(buf, 2);
	at4 = lp_load(buf + 4, 4);
	at8 = lp_load(buf + 8, 8);
	at16 = lp_load(buf + 16, 8);
	if (has_range(cmd)) {
		/* An address and a destination, or a count and an address. */
		bool old = at8 >= COUNT_OR_ADDR;

		*layout = old ? LP_PS_24 : LP_PS_32;
		return old ? (at8 % LP_PS_PAGE || !at4 ? -EBADMSG : 0) : (at16 % LP_PS_PAGE || !at8 ? -EBADMSG : 0);
	}
	if (at8)
		return -EBADMSG;
	/* No address; a destination is never 0. */
	if (opens(cmd))
		*layout = at16 ? LP_PS_24 : LP_PS_32;
	else if (closes(cmd))
		*layout = n >= LP_PS_MAX ? LP_PS_32 : LP_PS_24;
	else
		return -EBADMSG;
	return 0;
}

int lp_ps_object(uint64_t dst, enum lp_ps_type *type, uint64_t *id)
{
	switch (dst & 0xff) {
	case LP_PS_TASK:
	case 10:
	case 11:
	case 16:
	case 17:
		*type = LP_PS_TASK;
		break;
	case LP_PS_SHMEM:
	case 27:
	case 28:
	case 29:
	case 32:
	case 33:
	case 34:
		*type = LP_PS_SHMEM;
		break;
	default:
		return -EBADMSG;
	}
	*id = dst >> 8;
	return 0;
}

uint64_t lp_ps_dst(enum lp_ps_type type, uint64_t id)
{
	return id << 8 | type;
}
