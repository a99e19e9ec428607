/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tests that kill the daemon's worker: what they order, and what its log says
 * about it afterwards. Owns nothing.
 */
#ifndef LP_TEST_KILLS_H
#define LP_TEST_KILLS_H

#include <stdint.h>
#include <sys/types.h>

struct kills {
	uint64_t workers;    /* that were killed */
	uint64_t longest_us; /* from a death until all tasks were woken again */
};

/* In the daemon before exec: kill at @spec (see base/crash.h); `%` becomes @seed. */
void kills_order(const char *spec, uint64_t seed);
/* Add what the log in @dir tells. */
void kills_count(const char *dir, struct kills *k);
/* Add what it tells of settled moments: in the kernel's order, and guessed. By the last worker only. */
void kills_settlings(const char *dir, uint64_t *booked, uint64_t *guessed);
/* Kill guardian @pid, which has a process group of its own, with its worker and the anchor of @dir. */
void kills_all(pid_t pid, const char *dir);

#endif
