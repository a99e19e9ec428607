/* SPDX-License-Identifier: GPL-2.0-only */
/* userfaultfd ioctls, see uffd.h. Owns nothing. */
#include <errno.h>
#include <sys/ioctl.h>

#include "restore/uffd.h"

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
		};

		if (!ioctl(fd, UFFDIO_COPY, &c)) {
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
		};

		if (!ioctl(fd, UFFDIO_ZEROPAGE, &z))
			*done += z.range.len;
		else if (z.zeropage > 0)
			*done += z.zeropage;
		else
			return failure(z.zeropage);
	}
	return 0;
}

int lp_uffd_wake(int fd, uint64_t start, uint64_t len)
{
	struct uffdio_range r = { .start = start, .len = len };

	return ioctl(fd, UFFDIO_WAKE, &r) ? -errno : 0;
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
