/* SPDX-License-Identifier: GPL-2.0-only */
/* Which kernel runs here, for what cannot be tried out. */
#ifndef LP_BASE_KERNEL_H
#define LP_BASE_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

/* Is it older than Linux @major.@minor, by its name, or unknown? What a distribution calls older may have more. */
bool lp_kernel_before(unsigned major, unsigned minor);

/*
 * Which transparent huge pages does memory get as it is touched, whoever has it? The smallest, in bytes; 0: none, as far
 * as is known. /sys must be readable.
 */
uint64_t lp_kernel_huge_pages(void);

#endif
