/* SPDX-License-Identifier: GPL-2.0-only */
/* See kernel.h. Owns nothing. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include "base/kernel.h"

bool lp_kernel_before(unsigned major, unsigned minor)
{
	unsigned a, b;
	struct utsname u;

	return uname(&u) || sscanf(u.release, "%u.%u", &a, &b) != 2 || a < major || (a == major && b < minor);
}

/* The file of what memory gets @name (a path below transparent_hugepage), as sysfs shows a choice: the word in brackets. */
static void chosen(const char *name, char word[16])
{
	char path[128], line[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/mm/transparent_hugepage/%s", name);
	f = fopen(path, "re");
	*word = 0;
	if (f && fgets(line, sizeof(line), f) && strchr(line, '['))
		sscanf(strchr(line, '['), "[%15[a-z]]", word);
	if (f)
		fclose(f);
}

/* The size that memory gets where nothing is said of single sizes (before Linux 6.8). */
static uint64_t pmd_size(void)
{
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
	uint64_t size = 0;

	if (f && fscanf(f, "%" SCNu64, &size) != 1)
		size = 0;
	if (f)
		fclose(f);
	return size;
}

uint64_t lp_kernel_huge_pages(void)
{
	char all[16], word[16], name[64];
	uint64_t size, pmd = pmd_size();
	bool always, some = false;

	chosen("enabled", all);
	always = !strcmp(all, "always");
	for (size = 8192; size <= UINT64_C(1) << 31; size *= 2) {
		snprintf(name, sizeof(name), "hugepages-%" PRIu64 "kB/enabled", size / 1024);
		chosen(name, word);
		some |= *word != 0;
		if (!strcmp(word, "always") || (always && !strcmp(word, "inherit")))
			return size;
	}
	return always && !some ? pmd : 0;
}

void lp_raise_files(void)
{
	struct rlimit rl, want = { 1 << 20, 1 << 20 };

	if (getrlimit(RLIMIT_NOFILE, &rl) || (rl.rlim_max < want.rlim_max && !setrlimit(RLIMIT_NOFILE, &want)))
		return;
	rl.rlim_cur = rl.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &rl);
}

uint64_t lp_kernel_min_addr(void)
{
	static _Atomic uint64_t min;
	uint64_t v = atomic_load(&min);
	FILE *f;

	if (v)
		return v;
	f = fopen("/proc/sys/vm/mmap_min_addr", "re");
	if (!f || fscanf(f, "%" SCNu64, &v) != 1)
		v = 1 << 16;
	if (f)
		fclose(f);
	v = v ? (v + 4095) & ~UINT64_C(4095) : 4096;
	atomic_store(&min, v);
	return v;
}
