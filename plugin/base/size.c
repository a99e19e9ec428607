/* SPDX-License-Identifier: GPL-2.0-only */
/* Sizes and time, see size.h. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/size.h"

static const char units[] = "BKMGTP";

const char *lp_size_str(uint64_t bytes, char *buf, size_t len)
{
	unsigned u = 0;
	double v = bytes;

	while (v >= 1024 && u + 2 < sizeof(units)) {
		v /= 1024;
		u++;
	}
	if (!u)
		snprintf(buf, len, "%llu", (unsigned long long)bytes);
	else if (v < 10 && v != (unsigned)v)
		snprintf(buf, len, "%.1f%c", v, units[u]);
	else
		snprintf(buf, len, "%.0f%c", v, units[u]);
	return buf;
}

int lp_size_parse(const char *s, uint64_t *bytes)
{
	unsigned long long v;
	const char *u;
	char *end;
	unsigned shift = 0;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		u = strchr(units, toupper((unsigned char)*end));
		if (!u || end[1])
			return -EINVAL;
		shift = 10 * (u - units);
	}
	if (shift && v >> (64 - shift))
		return -ERANGE;
	*bytes = v << shift;
	return 0;
}

uint64_t lp_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}
