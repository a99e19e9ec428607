/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Scheduling of the daemon's threads, see prio.h.
 *
 * EEVDF (Linux 6.6) lets a running thread finish its slice before it gives way
 * to one that wakes up, up to 3 ms: an age for a task whose page has come.
 * Since 6.12 a thread may ask for another slice, and one with a shorter slice
 * takes the CPU from one with a longer slice as it wakes up. Older kernels
 * ignore the request or refuse it; then all is as it was.
 *
 * Nothing here needs a capability, as the sandbox leaves none for it. Two ways
 * that do were tried, see doc/design.md, "Priorities".
 */
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/prio.h"

/* struct sched_attr of the kernel; not in the C library of Debian 12. */
struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

#define SLICE_MIN_NS UINT64_C(100000)
#define SLICE_MAX_NS UINT64_C(100000000)
#define NICE_AS_IT_IS 100

/* In vain where this kernel does not know how. */
static void set(uint32_t policy, uint64_t slice_ns, int nice)
{
	struct attr a = { .size = sizeof(a) };

	if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0))
		return;
	a.policy = policy;
	a.runtime = slice_ns;
	a.deadline = a.period = 0;
	if (nice != NICE_AS_IT_IS)
		a.nice = nice;
	(void)syscall(SYS_sched_setattr, 0, &a, 0);
}

void lp_prio_bulk(void)
{
	set(SCHED_BATCH, SLICE_MAX_NS, NICE_AS_IT_IS);
}

void lp_prio_behind(int nice)
{
	set(SCHED_BATCH, SLICE_MAX_NS, nice);
}

void lp_prio_urgent(void)
{
	set(SCHED_OTHER, SLICE_MIN_NS, NICE_AS_IT_IS);
}
