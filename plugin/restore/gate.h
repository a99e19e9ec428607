/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The gate of one address space, between fills and the reader of its events.
 *
 * A fill that was decided under an older layout must not land after the reader
 * has read the event that changes it, since the read itself lets the task go
 * on (kernel: userfaultfd_event_wait_completion). So fills hold the gate
 * shared for one chunk, and the reader holds it alone around read() and the
 * handling of what it read. The reader announces itself: fills that come later
 * wait, so it waits for no more than the chunks under way.
 */
#ifndef LP_RESTORE_GATE_H
#define LP_RESTORE_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct lp_gate {
	_Atomic uint32_t word;	  /* LP_GATE_ALONE | number of holders that share it */
	_Atomic uint32_t sleepers; /* threads that sleep on `word` */
	/* Where the last one to share it, or to want to be alone, was running then; see gate.c. */
	_Atomic int32_t sharer_cpu, alone_cpu;
};

#define LP_GATE_ALONE UINT32_C(0x80000000)

void lp_gate_enter(struct lp_gate *g);
void lp_gate_leave(struct lp_gate *g);
void lp_gate_enter_alone(struct lp_gate *g);
/* The same for at most about @ns; false: somebody is still inside, or wants to be alone too. */
bool lp_gate_try_alone(struct lp_gate *g, uint64_t ns);
void lp_gate_leave_alone(struct lp_gate *g);

#endif
