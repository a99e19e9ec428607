/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The anchor: holds the table of descriptors, and sleeps. It does nothing that
 * could fail while guardian or worker live. When both are gone it waits for a
 * daemon that takes over, or for the end of all address spaces.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/kernel.h"
#include "base/log.h"
#include "guard/internal.h"

pid_t guard_clone(void)
{
	/* fork() cannot share the table. No thread but this one exists, so nothing is lost by going around libc. */
	long pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);

	return pid < 0 ? -errno : pid;
}

static bool process_alive(pid_t pid)
{
	struct pollfd p = { .events = POLLIN };
	bool alive;

	/* A zombie that nobody reaps is dead, too. */
	p.fd = syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0)
		return errno != ESRCH && !kill(pid, 0);
	alive = poll(&p, 1, 0) == 0;
	close(p.fd);
	return alive;
}

/* Has @fd an address space that still lives? Changes nothing: there is nothing to be read at address 0. The kernel looks at the range first. */
static bool context_alive(int fd)
{
	struct uffdio_copy c = { .dst = lp_kernel_min_addr(), .src = 0, .len = sysconf(_SC_PAGESIZE) };

	if (!ioctl(fd, UFFDIO_COPY, &c))
		return true;
	if (c.copy < 0)
		return c.copy != -ESRCH;
	return errno != ESRCH && errno != ENOTTY && errno != EBADF;
}

static bool anything_alive(struct lp_journal *j)
{
	bool alive = false;
	size_t i, n;
	int *fds;

	/* Spaces may be in no cell then. Whoever kills the tasks has been told whom to kill besides. */
	if (lp_journal_has(j, LP_JF_BROKEN))
		return true;
	fds = lp_journal_live(j, &n);

	if (!fds)
		return true;
	for (i = 0; i < n && !alive; i++)
		alive = context_alive(fds[i]);
	free(fds);
	return alive;
}

static void anchor_main(struct lp_journal *j, pid_t guardian)
{
	const struct timespec nap = { .tv_sec = 1 };
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_PDEATHSIG, 0);
	setsid();
	/* Not a name that `pkill lazypages` would find. */
	prctl(PR_SET_NAME, "lp-anchor");
	for (;;) {
		nanosleep(&nap, NULL);
		/* Who opens descriptors here races with workers: so only when there will be no other. */
		if (getppid() == guardian || process_alive(j->h->worker))
			continue;
		if (lp_journal_has(j, LP_JF_ENDED) || !anything_alive(j)) {
			unlink(LP_ANCHOR_FILE);
			_exit(0);
		}
	}
}

uint64_t guard_start_time(pid_t pid)
{
	char path[32], text[512], *p;
	uint64_t t = 0;
	int fd, i;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (n <= 0)
		return 0;
	text[n] = 0;
	/* Behind the name, which may hold anything, field 20. */
	p = strrchr(text, ')');
	for (i = 0; p && i < 20; i++)
		p = strchr(p + 1, ' ');
	if (p)
		t = strtoull(p, NULL, 10);
	return t;
}

static int write_file(struct lp_journal *j, pid_t pid)
{
	int fd = open(LP_ANCHOR_FILE ".new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), rc = 0;

	if (fd < 0)
		return -errno;
	if (dprintf(fd, "%d %llu %d\n", pid, (unsigned long long)guard_start_time(pid), j->fd) < 0)
		rc = -errno;
	close(fd);
	if (!rc && rename(LP_ANCHOR_FILE ".new", LP_ANCHOR_FILE))
		rc = -errno;
	return rc;
}

pid_t guard_anchor_start(struct lp_journal *j)
{
	pid_t me = getpid(), pid = guard_clone();
	int rc;

	if (!pid)
		anchor_main(j, me);
	if (pid < 0)
		return pid;
	j->h->anchor = pid;
	rc = write_file(j, pid);
	if (rc)
		pr_warn("%s: %s: if guardian and worker die, nobody can take over", LP_ANCHOR_FILE, strerror(-rc));
	return pid;
}
