/* SPDX-License-Identifier: GPL-2.0-only */
/* Sizes as people write them (64K, 2M, 1G) and time as the kernel counts it. */
#ifndef LP_BASE_SIZE_H
#define LP_BASE_SIZE_H

#include <stdint.h>
#include <stddef.h>

/* "512M", "1.5G", "64K", "17" (bytes) into @buf, which is returned; 16 bytes are enough. */
const char *lp_size_str(uint64_t bytes, char *buf, size_t len);
/* Parse "64K", "2M", "1G", "4096". 0, -EINVAL or -ERANGE. */
int lp_size_parse(const char *s, uint64_t *bytes);
/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t lp_now(void);

#endif
