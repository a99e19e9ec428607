/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the daemon's and the server's threads stand among the others of the
 * machine. Faulting tasks come first, then bulk: by slices, not by a small weight
 * of bulk, so that it keeps its share of a busy machine and never starves while it
 * holds a gate.
 */
#ifndef LP_BASE_PRIO_H
#define LP_BASE_PRIO_H

/* The calling thread does bulk: whoever wakes up on its CPU may have it at once. */
void lp_prio_bulk(void);
/* The same with a nice value of @nice, for bulk that holds nothing others wait for. */
void lp_prio_behind(int nice);
/* The calling thread answers faults: it wants the CPU soon, for a few microseconds. */
void lp_prio_urgent(void);

#endif
