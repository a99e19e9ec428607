/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a small program that is dumped and restored tells its test what it has
 * seen: a file in a directory, which is there with all of its text or not at all.
 */
#ifndef LP_TEST_RESULT_H
#define LP_TEST_RESULT_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* DIR/NAME, until the next call. */
static inline const char *result_path(const char *dir, const char *name)
{
	static char path[512];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

/* Write DIR/NAME. Ends the program if it cannot. */
__attribute__((format(printf, 3, 4))) static inline void result_put(const char *dir, const char *name, const char *fmt, ...)
{
	char part[512];
	va_list ap;
	FILE *f;

	snprintf(part, sizeof(part), "%s/part", dir);
	f = fopen(part, "w");
	if (!f)
		exit(1);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	if (fclose(f) || rename(part, result_path(dir, name)))
		exit(1);
}

#endif
