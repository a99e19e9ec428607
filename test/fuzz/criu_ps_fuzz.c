/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: a stream of CRIU's page-server headers from a hostile peer.
 * What is accepted must be a range below 2^63 and encode to the same bytes
 * again, padding aside; the inferred layout must be one of the two.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proto/criu_ps.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

static void one(const uint8_t *p, enum lp_ps_layout l)
{
	uint8_t buf[LP_PS_MAX], want[LP_PS_MAX];
	enum lp_ps_type type;
	struct lp_ps m;
	uint64_t id;

	if (lp_ps_get(p, l, &m))
		return;
	MUST(m.pages <= (UINT64_C(1) << 63) / LP_PS_PAGE || m.cmd >= LP_PS_CLOSE || m.cmd == LP_PS_OPEN ||
	     m.cmd == LP_PS_OPEN2 || m.cmd == LP_PS_PARENT);
	if (m.cmd == LP_PS_GET || m.cmd == LP_PS_ADD_F) {
		MUST(m.pages && m.addr + m.pages * LP_PS_PAGE > m.addr);
		MUST(m.addr + m.pages * LP_PS_PAGE <= UINT64_C(1) << 63);
	}
	memcpy(want, p, l);
	if (l == LP_PS_32)
		memset(want + 4, 0, 4);
	MUST(lp_ps_put(buf, l, &m) == (size_t)l);
	MUST(!memcmp(buf, want, l));
	if (!lp_ps_object(m.dst, &type, &id))
		MUST(id == m.dst >> 8 && (type == LP_PS_TASK || type == LP_PS_SHMEM));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	enum lp_ps_layout l = LP_PS_UNKNOWN;
	size_t at;
	int rc = lp_ps_infer(data, size, &l);

	MUST(rc == 0 || rc == -EBADMSG || (rc == -EAGAIN && size < LP_PS_MIN));
	if (!rc) {
		MUST(l == LP_PS_24 || l == LP_PS_32);
		for (at = 0; at + l <= size; at += l)
			one(data + at, l);
	}
	for (at = 0; at + LP_PS_MAX <= size; at += 8) {
		one(data + at, LP_PS_24);
		one(data + at, LP_PS_32);
	}
	return 0;
}
