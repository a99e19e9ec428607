/* SPDX-License-Identifier: GPL-2.0-only */
/* Killed workers, and what else a daemon's log tells; see kills.h. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "test/lib/kills.h"

void kills_order(const char *spec, uint64_t seed)
{
	const char *mark = strchr(spec, '%');
	char text[256];

	if (mark)
		snprintf(text, sizeof(text), "%.*s%llu%s", (int)(mark - spec), spec, (unsigned long long)seed, mark + 1);
	else
		snprintf(text, sizeof(text), "%s", spec);
	setenv("LAZYPAGES_TEST_CRASH", text, 1);
}

static FILE *open_log(const char *dir)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/daemon.log", dir);
	return fopen(path, "re");
}

void kills_count(const char *dir, struct kills *k)
{
	FILE *f = open_log(dir);
	char line[1200];
	double ms;

	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		const char *at = strstr(line, " address spaces, ");

		k->workers += strstr(line, " was killed by signal ") != NULL;
		if (strstr(line, "goes on with") && at && sscanf(at, " address spaces, %lf ms", &ms) == 1 &&
		    ms * 1000 > k->longest_us)
			k->longest_us = ms * 1000;
	}
	fclose(f);
}

void kills_settlings(const char *dir, uint64_t *booked, uint64_t *guessed)
{
	static const char what[] = " times the layout had changed: ";
	unsigned long long b, g;
	FILE *f = open_log(dir);
	char line[1200];

	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		const char *at = strstr(line, what);

		if (at && sscanf(at + strlen(what), "%llu in the kernel's order, %llu guessed", &b, &g) == 2) {
			*booked += b;
			*guessed += g;
		}
	}
	fclose(f);
}

void kills_all(pid_t pid, const char *dir)
{
	char path[300];
	pid_t anchor;
	FILE *f;

	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
	snprintf(path, sizeof(path), "%s/lazy-pages.anchor", dir);
	f = fopen(path, "re");
	if (!f)
		return;
	if (fscanf(f, "%d", &anchor) == 1 && anchor > 1)
		kill(anchor, SIGKILL);
	fclose(f);
}
