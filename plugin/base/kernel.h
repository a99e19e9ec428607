/* SPDX-License-Identifier: GPL-2.0-only */
/* Which kernel runs here, for what cannot be tried out. */
#ifndef LP_BASE_KERNEL_H
#define LP_BASE_KERNEL_H

#include <stdbool.h>

/* Is it older than Linux @major.@minor, by its name, or unknown? What a distribution calls older may have more. */
bool lp_kernel_before(unsigned major, unsigned minor);

/* Does any memory get huge pages as it is touched, as far as is known? /sys must be readable. */
bool lp_kernel_huge_pages(void);

#endif
