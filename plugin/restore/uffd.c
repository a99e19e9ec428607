/* SPDX-License-Identifier: GPL-2.0-only */
/* userfaultfd ioctls, see uffd.h. Owns nothing. */
#include <errno.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/kernel.h"
#include "restore/uffd.h"

#ifndef UFFDIO_POISON /* Linux 6.6 */
struct uffdio_poison {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#define UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct uffdio_poison)
#define UFFDIO_POISON_MODE_DONTWAKE 1
#endif

static unsigned delay_max_us; /* set once, before threads start */
static bool delay_in_fills;
static _Atomic uint64_t delay_rng;

void lp_uffd_inject_delays(uint64_t seed, unsigned max_us, bool in_fills)
{
	delay_rng = seed;
	delay_max_us = max_us;
	delay_in_fills = in_fills;
}

void lp_uffd_delay_point(void)
{
	struct timespec ts = { 0 };
	uint64_t x;

	if (!delay_max_us)
		return;
	/* splitmix64: any thread order gives some sequence, which is all that is wanted. */
	x = atomic_fetch_add(&delay_rng, UINT64_C(0x9E3779B97F4A7C15));
	x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
	if (x & 0x700)
		return;
	ts.tv_nsec = (x >> 32) % (delay_max_us * UINT64_C(1000) + 1);
	nanosleep(&ts, NULL);
}

void lp_uffd_delay_outside(void)
{
	if (!delay_in_fills)
		lp_uffd_delay_point();
}

/* ioctl() between two places where a test may delay it. */
static int call(int fd, unsigned long request, void *arg)
{
	int rc, saved;

	lp_uffd_delay_point();
	rc = ioctl(fd, request, arg);
	saved = errno;
	lp_uffd_delay_point();
	errno = saved;
	return rc;
}

static int fill(int fd, unsigned long request, void *arg)
{
	return delay_in_fills ? call(fd, request, arg) : ioctl(fd, request, arg);
}

static int failure(int64_t result)
{
	/*
	 * The result field holds the error of this call. Kernels before 6.15
	 * leave it as it was (0) when they give up at once with EAGAIN.
	 */
	int rc = result < 0 ? (int)result : -errno;

	/* Before 4.14 or so a dead address space was ENOSPC. */
	return rc == -ENOSPC ? -ESRCH : rc;
}

int lp_uffd_copy(int fd, uint64_t dst, const void *src, uint64_t len, uint64_t *done)
{
	*done = 0;
	while (*done < len) {
		struct uffdio_copy c = {
			.dst = dst + *done,
			.src = (uintptr_t)src + *done,
			.len = len - *done,
			.mode = UFFDIO_COPY_MODE_DONTWAKE,
		};

		if (!fill(fd, UFFDIO_COPY, &c)) {
			*done += c.len;
		} else if (c.copy > 0) {
			*done += c.copy; /* ended early: the next round says why */
		} else {
			return failure(c.copy);
		}
	}
	return 0;
}

int lp_uffd_zero(int fd, uint64_t dst, uint64_t len, uint64_t *done)
{
	*done = 0;
	while (*done < len) {
		struct uffdio_zeropage z = {
			.range = { .start = dst + *done, .len = len - *done },
			.mode = UFFDIO_ZEROPAGE_MODE_DONTWAKE,
		};

		if (!fill(fd, UFFDIO_ZEROPAGE, &z))
			*done += z.range.len;
		else if (z.zeropage > 0)
			*done += z.zeropage;
		else
			return failure(z.zeropage);
	}
	return 0;
}

int lp_uffd_poison(int fd, uint64_t dst, uint64_t len)
{
	struct uffdio_poison p = { .range = { .start = dst, .len = len }, .mode = UFFDIO_POISON_MODE_DONTWAKE };

	return fill(fd, UFFDIO_POISON, &p) ? failure(p.updated) : 0;
}

int lp_uffd_wake(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range r = { .start = start, .len = len };

	return call(fd, UFFDIO_WAKE, &r) ? -errno : 0;
}

void lp_uffd_wake_all(int fd, uint64_t *end)
{
	uint64_t start = lp_kernel_min_addr(), lo = start, hi = UINT64_C(1) << 57, mid;

	if (*end && lp_uffd_wake(fd, start, *end - start) != -EINVAL &&
	    lp_uffd_wake(fd, start, *end + LP_PAGE_SIZE - start) == -EINVAL)
		return;
	while (hi - lo > LP_PAGE_SIZE) { /* each try that is not refused wakes */
		mid = (lo + (hi - lo) / 2) & ~(LP_PAGE_SIZE - 1);
		if (lp_uffd_wake(fd, start, mid - start) == -EINVAL)
			hi = mid;
		else
			lo = mid;
	}
	*end = lo;
}

int lp_uffd_probe(int fd, uint64_t unmapped)
{
	uint64_t done;
	int rc;

	/*
	 * The kernel looks for a changing layout first, then for the address
	 * space, then for the VMA: at an address without a registered VMA nothing
	 * can be zeroed, and the error tells the three apart.
	 */
	rc = lp_uffd_zero(fd, unmapped, LP_PAGE_SIZE, &done);
	return rc == -EAGAIN || rc == -ESRCH ? rc : 0;
}

int lp_uffd_there(int fd, uint64_t start, uint64_t len)
{
	uint64_t done;
	int rc;

	/* The VMA is looked up before the source is read, and nothing can be read from there. */
	rc = lp_uffd_copy(fd, start, NULL, len, &done);
	if (rc == -EAGAIN || rc == -ESRCH)
		return rc;
	return rc != -ENOENT;
}

bool lp_uffd_old_shrink(void)
{
	return lp_kernel_before(6, 16);
}
