/* SPDX-License-Identifier: GPL-2.0-only */
/* See kernel.h. Owns nothing. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "base/kernel.h"

bool lp_kernel_before(unsigned major, unsigned minor)
{
	unsigned a, b;
	struct utsname u;

	return uname(&u) || sscanf(u.release, "%u.%u", &a, &b) != 2 || a < major || (a == major && b < minor);
}

bool lp_kernel_huge_pages(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
	char line[64] = "";
	bool yes = f && fgets(line, sizeof(line), f) && strstr(line, "[always]");

	if (f)
		fclose(f);
	return yes;
}
