/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Landlock by its system calls; the headers of the C library are older than
 * what kernels have. Nothing here is kept: the ruleset is the caller's descriptor.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/internal.h"

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_add_rule	    445
#define SYS_landlock_restrict_self  446
#endif

struct ruleset_attr {
	uint64_t fs, net, scoped;
};

struct path_attr {
	uint64_t allowed;
	int32_t fd;
} __attribute__((packed));

#define RULE_PATH_BENEATH 1
#define CREATE_VERSION	  1u

#define FS_EXECUTE     (UINT64_C(1) << 0)
#define FS_WRITE_FILE  (UINT64_C(1) << 1)
#define FS_READ_FILE   (UINT64_C(1) << 2)
#define FS_READ_DIR    (UINT64_C(1) << 3)
#define FS_REMOVE_DIR  (UINT64_C(1) << 4)
#define FS_REMOVE_FILE (UINT64_C(1) << 5)
#define FS_MAKE_DIR    (UINT64_C(1) << 7)
#define FS_MAKE_REG    (UINT64_C(1) << 8)
#define FS_MAKE_SOCK   (UINT64_C(1) << 9)
#define FS_MAKE_SYM    (UINT64_C(1) << 12)
#define FS_REFER       (UINT64_C(1) << 13) /* ABI 2 */
#define FS_TRUNCATE    (UINT64_C(1) << 14) /* ABI 3 */

#define NET_BIND    (UINT64_C(1) << 0) /* ABI 4 */
#define NET_CONNECT (UINT64_C(1) << 1)

/* Bits 0 to 12 are of the first ABI. */
static uint64_t fs_known(int abi)
{
	uint64_t v = FS_REFER - 1;

	if (abi >= 2)
		v |= FS_REFER;
	if (abi >= 3)
		v |= FS_TRUNCATE;
	return v;
}

int ll_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_VERSION);

	return abi > 0 ? (int)abi : 0;
}

int ll_create(bool dial, int *ruleset)
{
	struct ruleset_attr a = { 0 };
	int abi = ll_abi();

	*ruleset = -1;
	if (!abi)
		return 0;
	a.fs = fs_known(abi);
	/* Before the first ABI with a REFER nothing may be renamed to another directory; nobody does. */
	if (abi >= 4)
		a.net = dial ? NET_BIND : NET_BIND | NET_CONNECT;
	*ruleset = (int)syscall(SYS_landlock_create_ruleset, &a, abi >= 4 ? 16 : 8, 0);
	return *ruleset < 0 ? -errno : 0;
}

int ll_allow(int ruleset, const char *path, bool write)
{
	struct path_attr p = { .allowed = FS_READ_FILE | FS_READ_DIR };
	struct stat st;
	int rc = 0;

	p.fd = open(path, O_PATH | O_CLOEXEC);
	if (p.fd < 0)
		return -errno;
	if (write)
		p.allowed |= FS_WRITE_FILE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | FS_MAKE_REG | FS_MAKE_SOCK |
			     FS_MAKE_SYM | FS_REFER | FS_TRUNCATE;
	p.allowed &= fs_known(ll_abi());
	if (fstat(p.fd, &st))
		rc = -errno;
	else if (!S_ISDIR(st.st_mode))
		p.allowed &= FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE;
	if (!rc && syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &p, 0))
		rc = -errno;
	close(p.fd);
	return rc;
}

int ll_restrict(int ruleset)
{
	return syscall(SYS_landlock_restrict_self, ruleset, 0) ? -errno : 0;
}
