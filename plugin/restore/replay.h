/* SPDX-License-Identifier: GPL-2.0-only */
/* A worker's life again, from the journal; see replay.c. */
#ifndef LP_RESTORE_REPLAY_H
#define LP_RESTORE_REPLAY_H

struct lp_replay;

/* What the kernel said when the dead worker's engine asked. */
int replay_answer(struct lp_replay *p);

#endif
