/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Taking over from an anchor: its descriptors come by pidfd_getfd(2) and get the
 * numbers that they have there, since the journal names them by number.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "guard/internal.h"

struct numbers {
	int *v;
	size_t n, cap;
	int max;
};

static int list(pid_t pid, struct numbers *l, struct lp_err *err)
{
	char path[64];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	if (!d)
		return lp_err_sys(err, -errno, "%s", path);
	while ((e = readdir(d))) {
		int fd = atoi(e->d_name);

		if (*e->d_name == '.' || fd < 3)
			continue;
		if (l->n == l->cap) {
			size_t cap = l->cap ? l->cap * 2 : 1024;
			int *v = realloc(l->v, cap * sizeof(*v));

			if (!v) {
				closedir(d);
				return lp_err(err, -ENOMEM, "out of memory");
			}
			l->v = v;
			l->cap = cap;
		}
		l->v[l->n++] = fd;
		if (fd > l->max)
			l->max = fd;
	}
	closedir(d);
	return 0;
}

/* @start: guard_start_time() of it, or 0 if that is not known. Its number may be somebody else's by now. */
static bool alive(pid_t pid, uint64_t start)
{
	struct pollfd p = { .events = POLLIN };
	bool yes;

	if (start && guard_start_time(pid) != start)
		return false;

	p.fd = pid > 0 ? syscall(SYS_pidfd_open, pid, 0) : -1;
	if (p.fd < 0)
		return false;
	yes = poll(&p, 1, 0) == 0;
	close(p.fd);
	return yes;
}

/* *@fd becomes a descriptor above @min. */
static int move_up(int *fd, int min)
{
	int n;

	if (*fd < 0)
		return 0;
	n = fcntl(*fd, F_DUPFD_CLOEXEC, min);
	if (n < 0)
		return -errno;
	close(*fd);
	*fd = n;
	return 0;
}

static int fetch(int pidfd, const struct numbers *l, struct lp_err *err)
{
	size_t i;

	for (i = 0; i < l->n; i++) {
		int fd = syscall(SYS_pidfd_getfd, pidfd, l->v[i], 0);

		if (fd < 0)
			return lp_err_sys(err, -errno, "cannot get descriptor %d of the anchor (needs to be allowed to trace it)",
					  l->v[i]);
		if (fd == l->v[i])
			continue;
		if (dup3(fd, l->v[i], O_CLOEXEC) < 0) {
			close(fd);
			return lp_err_sys(err, -errno, "descriptor %d", l->v[i]);
		}
		close(fd);
	}
	return 0;
}

/* @pid still is the process that the file names. */
static int read_file(pid_t *pid, int *journal_fd, struct lp_err *err)
{
	unsigned long long start;
	FILE *f = fopen(LP_ANCHOR_FILE, "re");
	int n;

	if (!f)
		return lp_err_sys(err, -errno, LP_ANCHOR_FILE ": nothing to take over in the work directory");
	n = fscanf(f, "%d %llu %d", pid, &start, journal_fd);
	fclose(f);
	if (n != 3 || *pid <= 0)
		return lp_err(err, -EINVAL, LP_ANCHOR_FILE ": not written by lazypages");
	if (!start || guard_start_time(*pid) != start)
		return lp_err(err, -ESRCH, LP_ANCHOR_FILE ": process %d is gone, and the tasks' memory with it", *pid);
	return 0;
}

int lp_guard_take_over(struct lp_journal **out, pid_t *old_anchor, int **keep_fds, struct lp_err *err)
{
	struct numbers *l = calloc(1, sizeof(*l));
	struct lp_journal *j = NULL;
	int jfd, pidfd = -1, rc;
	unsigned i;
	pid_t pid;

	if (!l)
		return lp_err(err, -ENOMEM, "out of memory");
	rc = read_file(&pid, &jfd, err);
	if (rc)
		goto out;
	rc = list(pid, l, err);
	if (rc)
		goto out;
	pidfd = syscall(SYS_pidfd_open, pid, 0);
	if (pidfd < 0) {
		rc = lp_err_sys(err, -errno, "pidfd_open");
		goto out;
	}
	rc = move_up(&pidfd, l->max + 1);
	for (; !rc && *keep_fds; keep_fds++)
		rc = move_up(*keep_fds, l->max + 1);
	if (rc)
		lp_err_sys(err, rc, "descriptors");
	/* Before anything: is somebody at it? */
	if (!rc) {
		int fd = syscall(SYS_pidfd_getfd, pidfd, jfd, 0);

		if (fd < 0)
			rc = lp_err_sys(err, -errno, "cannot get the journal from the anchor, process %d", pid);
		else
			rc = lp_journal_attach(fd, &j, err);
		if (rc && fd >= 0)
			close(fd);
		/* Its number here may be one that fetch() gives to something else. */
		if (!rc && move_up(&j->fd, l->max + 1))
			rc = lp_err_sys(err, -errno, "descriptors");
	}
	if (!rc) {
		bool guardian = alive(j->h->guardian, j->h->guardian_start);

		if (guardian || alive(j->h->worker, j->h->worker_start))
			rc = lp_err(err, -EBUSY, "its %s (process %d) lives", guardian ? "daemon" : "worker",
				    guardian ? j->h->guardian : j->h->worker);
	}
	if (!rc && lp_journal_has(j, LP_JF_LAST))
		rc = lp_err(err, -ENODATA, "the journal is not complete: nobody can go on from it");
	if (!rc)
		rc = fetch(pidfd, l, err);
	if (rc) {
		if (j)
			lp_journal_free(j);
		goto out;
	}
	/* The number that it had; the one it was read through is of no more use. */
	close(j->fd);
	j->fd = jfd;
	for (i = 0; i < LP_J_KEEP; i++)
		j->h->keep[i] = -1;
	lp_journal_keep(j, jfd);
	*old_anchor = pid;
	*out = j;
out:
	if (pidfd >= 0)
		close(pidfd);
	free(l->v);
	free(l);
	return rc;
}
