/* SPDX-License-Identifier: GPL-2.0-only */
/* See hang.h. Owns nothing. */
#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

#include "test/lib/hang.h"

void hang_copy(FILE *out, const char *path)
{
	char buf[65536];
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f)
		return;
	fprintf(out, "--- %s\n", path);
	while ((n = fread(buf, 1, sizeof(buf), f)) > 0)
		fwrite(buf, 1, n, out);
	fputc('\n', out);
	fclose(f);
}

void hang_process(FILE *out, pid_t pid)
{
	static const char *const files[] = { "wchan", "stack", "syscall", "status" };
	char path[300];
	struct dirent *e;
	size_t i;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
			snprintf(path, sizeof(path), "/proc/%d/task/%.16s/%s", pid, e->d_name, files[i]);
			hang_copy(out, path);
		}
	}
	if (d)
		closedir(d);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	hang_copy(out, path);
}

/* All processes of the group @pgid: a task and the children it forked. */
void hang_group(FILE *out, pid_t pgid)
{
	DIR *d = opendir("/proc");
	struct dirent *e;

	while (d && (e = readdir(d))) {
		pid_t pid = atoi(e->d_name);

		if (pid > 0 && getpgid(pid) == pgid)
			hang_process(out, pid);
	}
	if (d)
		closedir(d);
}
