/* SPDX-License-Identifier: GPL-2.0-only */
/* The parts of calls.h that are only needed while a trace is made. Owns nothing. */
#include "restore/internal.h"

void record_flight(struct lp_restore *r, const struct lp_flight *f)
{
	struct lp_piece p;
	uint32_t i;

	if (!r->trace)
		return;
	for (i = 0; lp_flight_piece(f, i, &p); i++)
		RECORD(r, LP_REC_PIECE, lp_flight_id(f), p.addr, p.len, p.img, p.obj);
}
