/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Does the sandbox bite? Enters that of a worker, of a server, of the guardian,
 * each in a process of its own, and tries what is to be refused and what is to
 * go on. Status 77 where the kernel has no seccomp.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox/sandbox.h"

static unsigned bad, tried;

static void expect(const char *what, long rc, int want)
{
	int got = rc < 0 ? errno : 0;

	tried++;
	if (got == want)
		return;
	bad++;
	printf("  %s: %s, expected %s\n", what, got ? strerror(got) : "done", want ? strerror(want) : "done");
}

/* By system call: what the C library makes of it does not matter here. */
#define REFUSED(call)	expect(#call, call, EPERM)
#define ALLOWED(call)	expect(#call, call, 0)
#define NO_FILE(call)	expect(#call, call, landlock ? EACCES : 0)

static void *thread(void *arg)
{
	return arg;
}

static uint64_t status_field(const char *name, int base)
{
	char line[256];
	uint64_t v = ~UINT64_C(0);
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			v = strtoull(line + strlen(name), NULL, base);
	if (f)
		fclose(f);
	return v;
}

static uint64_t filters; /* of who runs this */

static void everybody(uint64_t caps)
{
	expect("NoNewPrivs", status_field("NoNewPrivs:", 10) == 1 ? 0 : -1, 0);
	expect("Seccomp", status_field("Seccomp:", 10) == 2 ? 0 : -1, 0);
	expect("CapEff", status_field("CapEff:", 16) & ~caps ? -1 : 0, 0);
	expect("CapPrm", status_field("CapPrm:", 16) & ~caps ? -1 : 0, 0);
	expect("CapInh", status_field("CapInh:", 16) ? -1 : 0, 0);
	REFUSED(syscall(SYS_ptrace, PTRACE_TRACEME, 0, 0, 0));
	REFUSED(mount("none", "/tmp", "tmpfs", 0, NULL));
	REFUSED(unshare(CLONE_NEWNS));
	REFUSED(syscall(SYS_bpf, 0, NULL, 0));
	REFUSED(syscall(SYS_keyctl, 0, 0, 0, 0, 0));
	REFUSED(syscall(SYS_userfaultfd, 0));
	REFUSED(syscall(SYS_io_uring_setup, 1, NULL));
	REFUSED(syscall(SYS_process_vm_readv, getppid(), NULL, 0, NULL, 0, 0));
	REFUSED(syscall(SYS_setuid, 0));
	REFUSED(chroot("/"));
}

static void confined(const char *dir, bool landlock, bool dial)
{
	struct sched_param param = { 0 };
	uint64_t attr[6], cpus = 1;
	char path[300];
	pthread_t t;
	int fd;

	REFUSED(syscall(SYS_execve, "/bin/true", (char *[]){ "true", NULL }, NULL));
	REFUSED(syscall(SYS_execveat, AT_FDCWD, "/bin/true", (char *[]){ "true", NULL }, NULL, 0));
	REFUSED(syscall(SYS_fork));
	REFUSED(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
	expect("clone3", syscall(SYS_clone3, NULL, 0), ENOSYS);
	REFUSED(syscall(SYS_pidfd_getfd, 0, 0, 0));
	REFUSED(syscall(SYS_sched_setattr, getppid(), &attr, 0));
	REFUSED(syscall(SYS_sched_setaffinity, getppid(), sizeof(cpus), &cpus));
	REFUSED(syscall(SYS_sched_setscheduler, 0, SCHED_OTHER, &param));
	REFUSED(setpriority(PRIO_PROCESS, getppid(), 1));
	REFUSED(syscall(SYS_ioprio_set, 1, getppid(), 0));
	ALLOWED(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0));
	ALLOWED(syscall(SYS_sched_setattr, 0, &attr, 0));
	REFUSED(socket(AF_PACKET, SOCK_RAW, 0));
	REFUSED(socket(AF_ALG, SOCK_SEQPACKET, 0));
	if (!dial)
		REFUSED(socket(AF_VSOCK, SOCK_STREAM, 0));
	fd = socket(AF_INET, SOCK_STREAM, 0);
	expect("socket(AF_INET)", fd, dial ? 0 : EPERM);
	if (fd >= 0) {
		struct sockaddr_in sa = { .sin_family = AF_INET };

		expect("bind(AF_INET)", bind(fd, (void *)&sa, sizeof(sa)), landlock ? EACCES : 0);
		close(fd);
	}
	NO_FILE(open("/etc/shadow", O_RDONLY | O_CLOEXEC));
	NO_FILE(open("/root", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	snprintf(path, sizeof(path), "%s/secret", dir);
	NO_FILE(open(path, O_RDONLY | O_CLOEXEC));
	snprintf(path, sizeof(path), "%s/images/new", dir);
	NO_FILE(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	snprintf(path, sizeof(path), "%s/images/a.img", dir);
	NO_FILE(open(path, O_WRONLY | O_CLOEXEC));
	/* And what has to go on. */
	ALLOWED(open(path, O_RDONLY | O_CLOEXEC));
	snprintf(path, sizeof(path), "%s/images/link.img", dir);
	ALLOWED(open(path, O_RDONLY | O_CLOEXEC));
	snprintf(path, sizeof(path), "%s/images/parent/b.img", dir);
	ALLOWED(open(path, O_RDONLY | O_CLOEXEC));
	snprintf(path, sizeof(path), "%s/work/new", dir);
	ALLOWED(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	ALLOWED(unlink(path));
	ALLOWED(socket(AF_UNIX, SOCK_STREAM, 0));
	ALLOWED(open("/dev/null", O_RDWR | O_CLOEXEC));
	ALLOWED(-pthread_create(&t, NULL, thread, NULL));
	ALLOWED(-pthread_join(t, NULL));
}

/* The parent is a guardian, with a filter of its own: then no third is to be had, each makes all calls slower. */
static void under_guardian(void)
{
	struct lp_sandbox *s = lp_sandbox_new(LP_ROLE_OF_GUARDIAN, 0);
	struct lp_err err;

	expect("guardian", s ? lp_sandbox_enter(s, &err) : -1, 0);
}

static int as(enum lp_role role, const char *dir, unsigned flags, bool guarded, bool landlock)
{
	const uint64_t dac = 1 << CAP_DAC_READ_SEARCH | 1 << CAP_DAC_OVERRIDE;
	struct lp_sandbox *s;
	struct lp_err err;
	char path[300];

	if (guarded)
		under_guardian();
	s = lp_sandbox_new(role, flags);
	snprintf(path, sizeof(path), "%s/images", dir);
	lp_sandbox_read_checkpoint(s, path);
	snprintf(path, sizeof(path), "%s/work", dir);
	lp_sandbox_write(s, path);
	if (!s || lp_sandbox_enter(s, &err)) {
		printf("cannot enter: %s\n", s ? err.msg : "no memory");
		return 1;
	}
	if (role == LP_ROLE_OF_GUARDIAN) {
		everybody(dac | 1 << CAP_KILL | 1 << CAP_IPC_LOCK | 1 << CAP_SYS_RESOURCE | 1 << CAP_NET_ADMIN);
	} else {
		everybody(role == LP_ROLE_OF_SERVER ? dac : dac | 1 << CAP_KILL | 1 << CAP_NET_ADMIN);
		confined(dir, landlock, flags & LP_SB_DIAL);
		if (status_field("Seccomp_filters:", 10)) /* Linux 5.9 */
			expect("filters", status_field("Seccomp_filters:", 10) - 2 - filters, 0);
		expect("kill(0)", kill(getpid(), 0), role == LP_ROLE_OF_SERVER ? EPERM : 0);
	}
	printf("%s%s%s: %u tried, %u are not as they should be\n", lp_sandbox_role_name(role),
	       flags & LP_SB_DIAL ? " that connects" : "", guarded ? " of a guardian" : "", tried, bad);
	return bad ? 1 : 0;
}

static void file(const char *dir, const char *name)
{
	char path[300];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "x", 1) != 1) {
		perror(path);
		exit(1);
	}
	close(fd);
}

static void prepare(char *dir)
{
	static const char *const dirs[] = { "images", "below", "work", "elsewhere" };
	char path[300];
	size_t i;

	if (!mkdtemp(dir)) {
		perror(dir);
		exit(1);
	}
	for (i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, dirs[i]);
		mkdir(path, 0700);
	}
	file(dir, "secret");
	file(dir, "images/a.img");
	file(dir, "below/b.img");
	file(dir, "elsewhere/c.img");
	snprintf(path, sizeof(path), "%s/images/parent", dir);
	if (symlink("../below", path))
		perror(path);
	snprintf(path, sizeof(path), "%s/images/link.img", dir);
	if (symlink("../elsewhere/c.img", path))
		perror(path);
}

int main(void)
{
	static const struct {
		enum lp_role role;
		unsigned flags;
		bool guarded;
	} t[] = { { LP_ROLE_OF_WORKER, 0, false },
		  { LP_ROLE_OF_WORKER, 0, true },
		  { LP_ROLE_OF_WORKER, LP_SB_DIAL, true },
		  { LP_ROLE_OF_SERVER, 0, false },
		  { LP_ROLE_OF_GUARDIAN, 0, false } };
	char dir[] = "/tmp/lazypages-sandbox.XXXXXX", cmd[300];
	bool landlock = syscall(444, NULL, 0, 1) > 0;
	size_t i;
	int status, rc = 0;
	pid_t pid;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	puts("skipped: sanitizers need more than the sandbox leaves");
	return 77;
#endif
	if (prctl(PR_GET_SECCOMP) < 0) {
		puts("skipped: this kernel has no seccomp");
		return 77;
	}
	if (!landlock)
		puts("this kernel has no Landlock: files are not tried");
	filters = status_field("Seccomp_filters:", 10);
	prepare(dir);
	for (i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		fflush(stdout);
		pid = fork();
		if (!pid) {
			status = as(t[i].role, dir, t[i].flags, t[i].guarded, landlock);
			fflush(stdout);
			_exit(status);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
			printf("%s: status 0x%x\n", lp_sandbox_role_name(t[i].role), status);
			rc = 1;
		}
	}
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	if (system(cmd))
		rc = 1;
	return rc;
}
