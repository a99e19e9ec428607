/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The trace while it is made: records of trace/record.h go through a ring in
 * memory to a thread that writes them to the file. Their order is that in which
 * lp_recorder_put() was called; see calls.h for what that is worth.
 */
#ifndef LP_RESTORE_RECORDER_H
#define LP_RESTORE_RECORDER_H

#include <stdint.h>

#include "base/err.h"
#include "trace/record.h"

struct lp_recorder;

/* Create or empty @path. No thread yet, so that the caller may still fork. */
int lp_recorder_open(const char *path, struct lp_recorder **out, struct lp_err *err);
/* Begin: the thread, and the time 0 of all records. 0 or -errno. */
int lp_recorder_start(struct lp_recorder *t);
/*
 * Write what is left and end the thread. 0, or -errno: the file is not whole,
 * which was logged. Does nothing when it was not started.
 */
int lp_recorder_stop(struct lp_recorder *t);
void lp_recorder_close(struct lp_recorder *t);

/* The calling thread's role; others are LP_BY_MAIN. */
void lp_recorder_thread(enum lp_rec_role role);
/* @ns of the clock as a time of records: 0 if before BEGIN; never stays never. */
uint64_t lp_recorder_time(const struct lp_recorder *t, uint64_t ns);
/*
 * One record with the @n fields @v, as many as @type has, from any thread; at the
 * clock's time @ns, or 0: now. Waits only when the ring is full, and not for
 * long: a file that cannot be written so fast loses its end (which is logged),
 * not the restored tasks their time.
 */
void lp_recorder_put(struct lp_recorder *t, enum lp_rec_type type, uint64_t ns, const uint64_t *v, unsigned n);

#endif
