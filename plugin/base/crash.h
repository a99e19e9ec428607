/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Places at which a test can kill this process with SIGKILL: every step at which
 * the death of a worker might lose something (doc/design.md, "Guardian, worker,
 * anchor"). Compiled in always, armed only by LAZYPAGES_TEST_CRASH; unarmed, one
 * load and a branch that is never taken.
 *
 *	LAZYPAGES_TEST_CRASH=LABEL:N[,LABEL:N...]     at the Nth time that LABEL is reached
 *	LAZYPAGES_TEST_CRASH=random:SEED:MEAN[:MAX]   at one place in MEAN by chance, MAX times at most
 *	LAZYPAGES_TEST_CRASH=help                     list the labels
 */
#ifndef LP_BASE_CRASH_H
#define LP_BASE_CRASH_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#define LP_CRASH_LABELS(X)                                                                                            \
	X(accept, "accept")		   /* CRIU's connection is accepted, nobody knows */                          \
	X(accept_noted, "accept.noted")	   /* ... but for the journal */                                              \
	X(hand_before, "handoff.before")   /* about to take from it what was looked at */                            \
	X(hand_after, "handoff.after")	   /* taken */                                                               \
	X(hand_task, "handoff.task")	   /* a task was built, not noted */                                         \
	X(hand_noted, "handoff.noted")	   /* noted, not counted */                                                  \
	X(armed, "armed")		   /* CRIU has finished, not noted */                                        \
	X(armed_noted, "armed.noted")                                                                                \
	X(read_before, "read.before")                                                                                \
	X(read_after, "read.after")	   /* messages were read, none handled */                                    \
	X(event_before, "event.before")	   /* about to give one to the engine */                                     \
	X(event_after, "event.after")	   /* given, not noted */                                                    \
	X(event_noted, "event.noted")                                                                                \
	X(change_half_noted, "change.half") /* an entry of the ledger is noted in part */                                \
	X(change_noted, "change.noted")   /* noted, not given to the engine */                                      \
	X(fork_before, "fork.before")                                                                                \
	X(fork_noted, "fork.noted")                                                                                  \
	X(answer, "fault.answer")	   /* the engine has decided, nothing is filled */                           \
	X(wake, "wake")			   /* filled, nobody woken */                                                \
	X(settle_before, "settle.before")  /* a settled moment, not applied */                                       \
	X(settle_after, "settle.after")	   /* applied, not noted */                                                  \
	X(settle_noted, "settle.noted")                                                                              \
	X(claim, "claim")                                                                                            \
	X(copy_before, "copy.before")                                                                                \
	X(copy_after, "copy.after")	   /* copied, not noted */                                                   \
	X(copy_noted, "copy.noted")                                                                                  \
	X(urgent, "urgent.read")	   /* an urgent thread has the bytes */                                      \
	X(exit_after, "exit.after")	   /* an address space has ended, not noted */                               \
	X(exit_noted, "exit.noted")                                                                                  \
	X(close_noted, "close.noted")	   /* a space is left, its descriptor still open */                          \
	X(close_after, "close.after")                                                                                \
	X(restart_begin, "restart.begin")                                                                            \
	X(restart_replayed, "restart.replayed")                                                                      \
	X(restart_closed, "restart.closed") /* strange descriptors were closed */                                    \
	X(restart_zone, "restart.zone")	   /* messages of the dead worker were handled */                            \
	X(restart_woken, "restart.woken")                                                                            \
	X(switch_asked, "switch.asked")	   /* another source is asked for, the guardian not told */                  \
	X(switch_opened, "switch.opened")  /* it was opened, not noted */

enum lp_crash_label {
#define X(id, name) LP_CRASH_##id,
	LP_CRASH_LABELS(X)
#undef X
	LP_CRASH_COUNT
};

/* In memory that outlives the process, so that one order kills once. */
struct lp_crash_state {
	_Atomic uint64_t hits[64]; /* by label */
	_Atomic uint64_t rng;
	_Atomic uint32_t killed; /* so often */
	_Atomic uint32_t last;	 /* label + 1 at which it was last, 0: none */
};
_Static_assert(LP_CRASH_COUNT <= 64, "room for all labels");

extern int lp_crash_armed;

/* @st: shared by all workers. From the environment; -EINVAL when that cannot be understood. */
int lp_crash_init(struct lp_crash_state *st);
void lp_crash_hit(enum lp_crash_label l);
const char *lp_crash_name(unsigned label);
void lp_crash_list(FILE *f);

#define lp_crash_point(id)                                                                                            \
	do {                                                                                                          \
		if (__builtin_expect(lp_crash_armed, 0))                                                              \
			lp_crash_hit(LP_CRASH_##id);                                                                  \
	} while (0)

#endif
