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

/*
 * As many descriptors as this process and those that it starts may have, up to
 * 1,048,576: one for each restored address space, which all of the daemon's
 * processes share, and who takes over gives them the same numbers. Before the
 * sandbox, which leaves no right to it.
 */
void lp_raise_files(void);

/*
 * The lowest address that userfaultfd's calls take (vm.mmap_min_addr), page
 * aligned, not 0; 64 KiB where /proc says nothing. Looked at once, so first before
 * the sandbox, which keeps /proc away.
 */
uint64_t lp_kernel_min_addr(void);

#endif
