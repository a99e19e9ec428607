/* SPDX-License-Identifier: GPL-2.0-only */
/* Capabilities: what a role keeps of those that it was started with. By system call, as libcap does nothing more. */
#include <errno.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/kernel.h"
#include "sandbox/internal.h"

#define R(role) (1u << LP_ROLE_OF_##role)

static const struct {
	unsigned cap;
	unsigned roles;
	const char *name, *why;
	bool before_6_6; /* only on older kernels */
} caps[] = {
	{ CAP_DAC_READ_SEARCH, R(GUARDIAN) | R(WORKER) | R(SERVER), "CAP_DAC_READ_SEARCH", "checkpoints of other users", false },
	{ CAP_DAC_OVERRIDE, R(GUARDIAN) | R(WORKER) | R(SERVER), "CAP_DAC_OVERRIDE",
	  "socket, trace and fetched or received images in directories of other users", false },
	{ CAP_KILL, R(GUARDIAN) | R(WORKER), "CAP_KILL", "--on-lost-pages=kill for tasks of other users", false },
	{ CAP_IPC_LOCK, R(GUARDIAN), "CAP_IPC_LOCK", "the journal's head stays in the memory of its workers, whatever ulimit -l says",
	  false },
	{ CAP_NET_ADMIN, R(GUARDIAN) | R(WORKER), "CAP_NET_ADMIN", "reports of exits (process connector)", true },
	{ CAP_SYS_RESOURCE, R(GUARDIAN), "CAP_SYS_RESOURCE", "oom_score_adj", false },
};

#define NCAPS (sizeof(caps) / sizeof(caps[0]))

static bool wanted(size_t i, enum lp_role role)
{
	if (!(caps[i].roles & (1u << role)))
		return false;
	return !caps[i].before_6_6 || lp_kernel_before(6, 6);
}

int caps_drop(enum lp_role role)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];
	uint32_t keep[2] = { 0 };
	size_t i;

	for (i = 0; i < NCAPS; i++)
		if (wanted(i, role))
			keep[caps[i].cap / 32] |= 1u << (caps[i].cap % 32);
	if (syscall(SYS_capget, &h, d))
		return -errno;
	for (i = 0; i < 2; i++) {
		d[i].permitted &= keep[i];
		d[i].effective &= keep[i];
		d[i].inheritable = 0;
	}
	return syscall(SYS_capset, &h, d) ? -errno : 0;
}

void caps_show(enum lp_role role, FILE *f)
{
	size_t i;

	for (i = 0; i < NCAPS; i++)
		if (wanted(i, role))
			fprintf(f, "%s\t%s\t%s\n", lp_sandbox_role_name(role), caps[i].name, caps[i].why);
}
