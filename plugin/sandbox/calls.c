/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The system calls that are left, as one table: who may, by name. Names that
 * this libseccomp does not know are passed over: then the kernel mostly does not
 * either, and the C library does without.
 *
 * What is not in the table fails with EPERM and is logged by the kernel, if its
 * actions_logged says so. clone3 says ENOSYS: then the C library takes clone,
 * whose flags can be looked at.
 *
 * The guardian has the opposite, a list of what it may not. Its filter is that
 * of every worker as well, also of a later version's after an upgrade; and it
 * reads nothing that anybody else wrote.
 *
 * The kernel remembers which calls all filters allow whatever the arguments.
 * For ioctl it runs them all, each time.
 */
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/internal.h"

#define W (1u << LP_ROLE_OF_WORKER)
#define S (1u << LP_ROLE_OF_SERVER)
#define ALL (W | S)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static const struct {
	unsigned roles;
	const char *name;
} calls[] = {
	/* The fill, and what it waits for, first: but for old kernels the order costs nothing. */
	{ ALL, "futex" }, { ALL, "epoll_wait" }, { ALL, "epoll_pwait" }, { ALL, "read" }, { ALL, "write" },
	{ ALL, "pread64" }, { ALL, "preadv2" }, { ALL, "preadv" }, { ALL, "readv" }, { ALL, "writev" },
	{ ALL, "recvmsg" }, { ALL, "sendmsg" }, { ALL, "recvfrom" }, { ALL, "sendto" }, { ALL, "poll" }, { ALL, "ppoll" },
	{ ALL, "clock_gettime" }, { ALL, "gettimeofday" }, { ALL, "time" }, { ALL, "clock_getres" },
	{ ALL, "nanosleep" }, { ALL, "clock_nanosleep" }, { ALL, "epoll_ctl" }, { ALL, "epoll_create1" },
	{ ALL, "epoll_create" }, { ALL, "select" }, { ALL, "pselect6" }, { ALL, "eventfd2" },
	/* Memory. */
	{ ALL, "mmap" }, { ALL, "munmap" }, { ALL, "mremap" }, { ALL, "mprotect" }, { ALL, "madvise" }, { ALL, "mincore" },
	{ ALL, "brk" }, { W, "mlock" }, { W, "munlock" }, { ALL, "membarrier" },
	/* Files; which ones is Landlock's to say. */
	{ ALL, "openat" }, { ALL, "open" }, { ALL, "close" }, { ALL, "close_range" }, { ALL, "fstat" }, { ALL, "stat" },
	{ ALL, "lstat" }, { ALL, "newfstatat" }, { ALL, "statx" }, { ALL, "access" }, { ALL, "faccessat" },
	{ ALL, "faccessat2" }, { ALL, "lseek" }, { ALL, "getdents64" }, { ALL, "readlink" }, { ALL, "readlinkat" },
	{ ALL, "statfs" }, { ALL, "fstatfs" }, { ALL, "fadvise64" }, { ALL, "readahead" }, { ALL, "getcwd" },
	{ ALL, "dup" }, { ALL, "dup2" }, { ALL, "dup3" }, { ALL, "fcntl" }, { ALL, "flock" }, { ALL, "pipe2" },
	/* Written: the log, a trace, fetched and received images, a relay's. */
	{ ALL, "pwrite64" }, { ALL, "pwritev" }, { ALL, "pwritev2" }, { ALL, "ftruncate" }, { ALL, "fallocate" },
	{ ALL, "fsync" }, { ALL, "fdatasync" }, { ALL, "sync_file_range" }, { ALL, "msync" }, { ALL, "syncfs" },
	{ ALL, "mkdir" }, { ALL, "mkdirat" }, { ALL, "rmdir" }, { ALL, "unlink" }, { ALL, "unlinkat" },
	{ ALL, "rename" }, { ALL, "renameat" }, { ALL, "renameat2" }, { ALL, "link" }, { ALL, "linkat" },
	{ ALL, "symlinkat" }, { ALL, "chmod" }, { ALL, "fchmod" }, { ALL, "fchmodat" }, { ALL, "umask" },
	{ ALL, "utimensat" }, { ALL, "copy_file_range" }, { ALL, "sendfile" },
	/* Sockets. socket() itself: below. */
	{ ALL, "connect" }, { ALL, "accept" }, { ALL, "accept4" }, { ALL, "bind" }, { ALL, "listen" },
	{ ALL, "shutdown" }, { ALL, "getsockname" }, { ALL, "getpeername" }, { ALL, "getsockopt" },
	{ ALL, "setsockopt" }, { ALL, "socketpair" }, { ALL, "sendmmsg" }, { ALL, "recvmmsg" },
	/* Threads. clone() itself: below. */
	{ ALL, "set_robust_list" }, { ALL, "get_robust_list" }, { ALL, "rseq" }, { ALL, "set_tid_address" },
	{ ALL, "exit" }, { ALL, "exit_group" }, { ALL, "gettid" }, { ALL, "getpid" }, { ALL, "getppid" },
	{ ALL, "sched_yield" }, { ALL, "sched_getaffinity" }, { ALL, "sched_getattr" }, { ALL, "sched_getparam" },
	{ ALL, "sched_getscheduler" }, { ALL, "sched_get_priority_min" }, { ALL, "sched_get_priority_max" },
	{ ALL, "getpriority" }, { ALL, "getcpu" }, { ALL, "arch_prctl" }, { ALL, "clone3" /* but see no_clone3() */ },
	/* Signals; to the guardian, the anchor and, with a policy, the tasks. */
	{ ALL, "rt_sigaction" }, { ALL, "rt_sigprocmask" }, { ALL, "rt_sigreturn" }, { ALL, "rt_sigtimedwait" },
	{ ALL, "rt_sigpending" }, { ALL, "rt_sigsuspend" }, { ALL, "sigaltstack" }, { ALL, "signalfd4" },
	{ ALL, "tgkill" }, { ALL, "restart_syscall" }, { ALL, "pause" }, { W, "kill" }, { W, "pidfd_open" },
	{ W, "pidfd_send_signal" },
	/* Questions about oneself. */
	{ ALL, "getrandom" }, { ALL, "uname" }, { ALL, "sysinfo" }, { ALL, "getrlimit" }, { ALL, "getrusage" },
	{ ALL, "times" }, { ALL, "getuid" }, { ALL, "geteuid" }, { ALL, "getgid" }, { ALL, "getegid" },
	{ ALL, "getresuid" }, { ALL, "getresgid" }, { ALL, "getgroups" }, { ALL, "capget" }, { ALL, "getsid" },
	{ ALL, "getpgrp" }, { ALL, "getpgid" },
	/* Of oneself only (lp_restore_run() raises the limit of files): see below. */
};

/* Never of any use here; the guardian may not, and nobody else has them in the table. */
static const char *const denied[] = {
	"ptrace", "process_vm_readv", "process_vm_writev", "mount", "umount2", "move_mount", "open_tree", "fsopen",
	"fsmount", "fsconfig", "fspick", "mount_setattr", "pivot_root", "chroot", "unshare", "setns", "bpf",
	"perf_event_open", "init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot",
	"swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "settimeofday", "clock_settime", "clock_adjtime",
	"adjtimex", "sethostname", "setdomainname", "iopl", "ioperm", "add_key", "request_key", "keyctl",
	"open_by_handle_at", "name_to_handle_at", "lookup_dcookie", "userfaultfd", "io_uring_setup", "io_uring_enter",
	"io_uring_register", "syslog", "vhangup", "nfsservctl", "personality", "fanotify_init", "mbind", "migrate_pages",
	"move_pages", "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid",
	"setgroups", "mknod", "mknodat",
};

/* For the sanitizers: the leak check at the end traces its own process from another. */
static const char *const sanitizer[] = { "ptrace", "wait4", "personality", "getdents", "prctl", "clone" };

/* Calls of which only some arguments are allowed. @cmp is of argument @arg. */
struct some {
	unsigned roles;
	const char *name, *words;
	unsigned arg;
	enum scmp_compare op;
	scmp_datum_t a, b;
	bool dial; /* only for who connects */
};

static const struct some some[] = {
	{ W, "ioctl", "UFFDIO_*", 1, SCMP_CMP_MASKED_EQ, 0xff00, 0xaa00, false },
	{ ALL, "ioctl", "TCGETS", 1, SCMP_CMP_EQ, 0x5401, 0, false },
	{ ALL, "ioctl", "TCGETS2", 1, SCMP_CMP_EQ, 0x802c542a, 0, false },
	{ ALL, "ioctl", "TIOCGWINSZ", 1, SCMP_CMP_EQ, 0x5413, 0, false },
	{ ALL, "ioctl", "FIONREAD", 1, SCMP_CMP_EQ, 0x541b, 0, false },
	{ ALL, "ioctl", "SIOCOUTQ", 1, SCMP_CMP_EQ, 0x5411, 0, false },
	{ ALL, "ioctl", "FIONBIO", 1, SCMP_CMP_EQ, 0x5421, 0, false },
	{ ALL, "socket", "AF_UNIX", 0, SCMP_CMP_EQ, AF_UNIX, 0, false },
	{ ALL, "socket", "AF_NETLINK", 0, SCMP_CMP_EQ, AF_NETLINK, 0, false },
	{ ALL, "socket", "AF_INET (if it connects)", 0, SCMP_CMP_EQ, AF_INET, 0, true },
	{ ALL, "socket", "AF_INET6 (if it connects)", 0, SCMP_CMP_EQ, AF_INET6, 0, true },
	{ ALL, "socket", "AF_VSOCK (if it connects)", 0, SCMP_CMP_EQ, AF_VSOCK, 0, true },
	{ ALL, "clone", "CLONE_THREAD", 0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD, false },
	{ ALL, "prctl", "PR_SET_NAME", 0, SCMP_CMP_EQ, PR_SET_NAME, 0, false },
	{ ALL, "prctl", "PR_SET_TIMERSLACK", 0, SCMP_CMP_EQ, PR_SET_TIMERSLACK, 0, false },
	{ ALL, "prctl", "PR_SET_PDEATHSIG", 0, SCMP_CMP_EQ, PR_SET_PDEATHSIG, 0, false },
	{ ALL, "prctl", "PR_SET_VMA", 0, SCMP_CMP_EQ, 0x53564d41, 0, false },
	{ ALL, "prctl", "PR_GET_NAME", 0, SCMP_CMP_EQ, PR_GET_NAME, 0, false },
	{ W, "setrlimit", "RLIMIT_NOFILE", 0, SCMP_CMP_EQ, 7, 0, false },
	{ ALL, "prlimit64", "of itself", 0, SCMP_CMP_EQ, 0, 0, false },
	/* Any thread of the same user could be meant. Not setpriority(): 0 may be a whole user there. */
	{ ALL, "sched_setattr", "of the calling thread", 0, SCMP_CMP_MASKED_EQ, 0xffffffff, 0, false },
	{ ALL, "sched_setaffinity", "of the calling thread", 0, SCMP_CMP_MASKED_EQ, 0xffffffff, 0, false },
};

static int add(scmp_filter_ctx f, uint32_t action, const char *name)
{
	int nr = seccomp_syscall_resolve_name(name), rc;

	if (nr == __NR_SCMP_ERROR)
		return 0;
	rc = seccomp_rule_add(f, action, nr, 0);
	/* A name that is there only on other machines. */
	return rc == -EDOM || rc == -EFAULT ? 0 : rc;
}

static int add_some(scmp_filter_ctx f, const struct some *s)
{
	struct scmp_arg_cmp c = { .arg = s->arg, .op = s->op, .datum_a = s->a, .datum_b = s->b };
	int nr = seccomp_syscall_resolve_name(s->name);

	return nr == __NR_SCMP_ERROR ? 0 : seccomp_rule_add_array(f, SCMP_ACT_ALLOW, nr, 1, &c);
}

static bool of_sanitizer(const char *name)
{
	size_t i;

	for (i = 0; SANITIZED && i < sizeof(sanitizer) / sizeof(sanitizer[0]); i++)
		if (!__builtin_strcmp(sanitizer[i], name))
			return true;
	return false;
}

static int fill_allowed(scmp_filter_ctx f, enum lp_role role, bool dial)
{
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].roles & (1u << role))
			rc = add(f, SCMP_ACT_ALLOW, calls[i].name);
	for (i = 0; !rc && SANITIZED && i < sizeof(sanitizer) / sizeof(sanitizer[0]); i++)
		rc = add(f, SCMP_ACT_ALLOW, sanitizer[i]);
	for (i = 0; !rc && i < sizeof(some) / sizeof(some[0]); i++)
		if (some[i].roles & (1u << role) && (dial || !some[i].dial) && !of_sanitizer(some[i].name))
			rc = add_some(f, &some[i]);
	return rc;
}

static int fill_denied(scmp_filter_ctx f)
{
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < sizeof(denied) / sizeof(denied[0]); i++)
		if (!of_sanitizer(denied[i]))
			rc = add(f, SCMP_ACT_ERRNO(EPERM), denied[i]);
	if (!rc && !SANITIZED)
		rc = add(f, SCMP_ACT_ERRNO(ENOSYS), "clone3");
	return rc;
}

/* Without arguments: EINVAL where it may be called. */
static bool says_enosys(void)
{
	return syscall(SYS_clone3, NULL, 0) < 0 && errno == ENOSYS;
}

/* A filter of its own, which is not logged: each new thread tries it. */
static int no_clone3(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);
	int rc;

	if (!f)
		return -ENOMEM;
	(void)seccomp_attr_set(f, SCMP_FLTATR_API_SYSRAWRC, 1);
	rc = add(f, SCMP_ACT_ERRNO(ENOSYS), "clone3");
	if (!rc)
		rc = seccomp_load(f);
	seccomp_release(f);
	return rc;
}

int calls_load(enum lp_role role, bool dial)
{
	bool guardian = role == LP_ROLE_OF_GUARDIAN;
	scmp_filter_ctx f;
	int rc;

	/* First, as the other does not let it be loaded. Not if a guardian's says so already: each filter costs. */
	rc = guardian || SANITIZED || says_enosys() ? 0 : no_clone3();
	if (rc)
		return rc;
	f = seccomp_init(guardian ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(EPERM));
	if (!f)
		return -ENOMEM;
	/*
	 * A tree instead of a list, and a line in the kernel's log: where these are not known it does without. No line of
	 * the guardian's: every new thread of its workers tries clone3.
	 */
	(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	(void)seccomp_attr_set(f, SCMP_FLTATR_CTL_LOG, !guardian);
	/* Refused calls have an errno of the kernel's, not one of libseccomp. */
	(void)seccomp_attr_set(f, SCMP_FLTATR_API_SYSRAWRC, 1);
	rc = guardian ? fill_denied(f) : fill_allowed(f, role, dial);
	if (!rc)
		rc = seccomp_load(f);
	seccomp_release(f);
	return rc;
}

void calls_show(enum lp_role role, FILE *f)
{
	const char *who = lp_sandbox_role_name(role);
	size_t i;

	if (role == LP_ROLE_OF_GUARDIAN) {
		for (i = 0; i < sizeof(denied) / sizeof(denied[0]); i++)
			if (!of_sanitizer(denied[i]))
				fprintf(f, "%s\tnot %s\n", who, denied[i]);
		fprintf(f, "%s\tnot clone3\n", who);
		return;
	}
	for (i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].roles & (1u << role))
			fprintf(f, "%s\t%s\n", who, calls[i].name);
	for (i = 0; i < sizeof(some) / sizeof(some[0]); i++)
		if (some[i].roles & (1u << role))
			fprintf(f, "%s\t%s\t%s\n", who, some[i].name, some[i].words);
}
