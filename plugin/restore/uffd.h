/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ioctls of a userfaultfd, with the kernel's quirks taken care of. All
 * return 0 or -errno; @done counts bytes that are in place even on an error.
 */
#ifndef LP_RESTORE_UFFD_H
#define LP_RESTORE_UFFD_H

#include <linux/userfaultfd.h>
#include <stdint.h>

#include "images/images.h"

/*
 * Errors of copy and zero:
 * -EAGAIN  the layout is changing: an event waits, or its task has not run yet
 * -EEXIST  the page after *done is there already
 * -ENOENT  no registered VMA holds all of it
 * -ESRCH   the address space is gone
 * -ENOMEM  no memory, or none left in the task's memory cgroup
 * -EFAULT  the source of the copy cannot be read
 */
/*
 * Neither wakes the threads that wait for the pages: a woken thread may take
 * this CPU at once, and the caller holds the gate. lp_uffd_wake() comes after
 * the gate was left.
 */
int lp_uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, uint64_t *done);
int lp_uffd_zero(int fd, uint64_t dst, uint64_t len, uint64_t *done);
/* Who touches a page of the range gets SIGBUS. As lp_uffd_zero(); -EINVAL or -ENOTTY: the kernel cannot. */
int lp_uffd_poison(int fd, uint64_t dst, uint64_t len);
int lp_uffd_wake(int fd, uint64_t start, uint64_t len);
/*
 * Wake all threads of the address space. Where its addresses end the kernel does
 * not say, but it refuses more: *@end, at first 0, is what it took last, most
 * often the same for all.
 */
void lp_uffd_wake_all(int fd, uint64_t *end);
/*
 * Is the address space alive and at rest? 0, -EAGAIN (layout changing) or
 * -ESRCH (gone). @unmapped: an address of a page at which nothing is registered.
 */
int lp_uffd_probe(int fd, uint64_t unmapped);

/*
 * Does one registered VMA hold all of [start, start + len)? 1, 0, -ESRCH (the
 * address space is gone), or -EAGAIN. Changes nothing.
 */
int lp_uffd_there(int fd, uint64_t start, uint64_t len);

/*
 * May UFFD_EVENT_REMAP of a move that shrinks tell the old length? Linux tells the
 * new one since 6.16; what a distribution calls older may have it or not.
 */
bool lp_uffd_old_shrink(void);

/*
 * For tests: from now on sleep 0 to @max_us microseconds now and then before
 * and after every ioctl and every read of messages, by chance from @seed. Opens
 * the windows between deciding and doing that a busy machine opens rarely.
 * @in_fills false: not around ioctls that fill, since whoever makes guard pages does
 * not wait for them that long; but where lp_uffd_delay_outside() says.
 */
void lp_uffd_inject_delays(uint64_t seed, unsigned max_us, bool in_fills);
/* Where such a delay may happen. */
void lp_uffd_delay_point(void);
void lp_uffd_delay_outside(void);

#endif
