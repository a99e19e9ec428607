/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Upgrade in place: the guardian becomes another program, by exec, with the same
 * pid. The old worker is ended like any worker, since every moment is one at
 * which another can go on from the journal; and only when the new program has
 * shown that it can.
 *
 * exec leaves the common table of descriptors: what is not close-on-exec comes
 * along as a copy. The anchor holds the old table until the new program has
 * started an anchor of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "base/size.h"
#include "guard/internal.h"

#define CHECK_NS (UINT64_C(20) * 1000000000)
#define HURRY_NS UINT64_C(1000000000)

static void cloexec(int fd, bool on)
{
	fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0);
}

/* In a copy of the guardian with a table of its own. */
static void become_check(const struct lp_guard_conf *conf, const char *path, const char *word, int out)
{
	const int adj = conf->journal->h->oom_adj;
	char *argv[LP_GUARD_ARGS + 1];
	sigset_t none;
	unsigned i;

	for (i = 0; conf->argv[i] && i < LP_GUARD_ARGS; i++)
		argv[i] = conf->argv[i];
	argv[i] = NULL;
	argv[2] = (char *)word;
	/* What it reads may be as large as it likes. */
	guard_oom_adj(&adj);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	dup2(out, 1);
	dup2(out, 2);
	cloexec(conf->journal->fd, false);
	execv(path, argv);
	dprintf(2, "%s: %s\n", path, strerror(errno));
	_exit(127);
}

static bool worker_dead(const struct lp_journal *j)
{
	siginfo_t si = { .si_pid = 0 };

	return waitid(P_PID, j->h->worker, &si, WEXITED | WNOHANG | WNOWAIT) || si.si_pid;
}

int guard_ask(const struct lp_guard_conf *conf, const char *path, const char *word, const char *what,
	      struct lp_err *err)
{
	uint64_t end = lp_now() + CHECK_NS, now;
	bool hurry = false;
	char said[400] = "";
	size_t n = 0;
	ssize_t got = 1;
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return lp_err_sys(err, -errno, "pipe");
	pid = fork();
	if (!pid)
		become_check(conf, path, word, fds[1]);
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return lp_err(err, -EAGAIN, "cannot start %s: fork failed", path);
	}
	while (got > 0 && n < sizeof(said) - 1 && (now = lp_now()) < end) {
		struct pollfd p = { .fd = fds[0], .events = POLLIN };

		/* Nobody answers the tasks' faults then, until this is over. */
		if (!hurry && worker_dead(conf->journal)) {
			hurry = true;
			end = now + HURRY_NS < end ? now + HURRY_NS : end;
		}
		if (poll(&p, 1, 50) <= 0)
			continue;
		got = read(fds[0], said + n, sizeof(said) - 1 - n);
		n += got > 0 ? (size_t)got : 0;
	}
	close(fds[0]);
	/* Whatever it has said: it has nothing more to do. */
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (!strcmp(said, LP_GUARD_CAN_GO_ON "\n"))
		return 0;
	said[strcspn(said, "\n")] = 0;
	return lp_err(err, -EPERM, "%s%s", what, *said ? said : got > 0 ? "no answer in time" : "it does not say why");
}

void guard_upgrade_exec(const struct lp_guard_conf *conf, const char *path, struct lp_err *err)
{
	struct lp_journal *j = conf->journal;
	size_t i, n;
	int *fds;

	/* A connection of CRIU that the worker accepted as its last deed is noted by that, too. */
	lp_journal_sweep(j, conf->path);
	fds = lp_journal_live(j, &n);
	if (!fds) {
		lp_err(err, -ENOMEM, "out of memory");
		return;
	}
	for (i = 0; i < n; i++)
		cloexec(fds[i], false);
	cloexec(j->fd, false);
	execv(path, conf->argv);
	lp_err_sys(err, -errno, "%s", path);
	for (i = 0; i < n; i++)
		cloexec(fds[i], true);
	cloexec(j->fd, true);
	free(fds);
}

int lp_guard_resume(int fd, struct lp_journal **out, struct lp_err *err)
{
	struct lp_journal *j;
	size_t i, n;
	int *fds, rc;

	rc = lp_journal_attach(fd, &j, err);
	if (rc)
		return rc;
	for (i = 0; i < LP_J_KEEP; i++)
		j->h->keep[i] = -1;
	lp_journal_keep(j, fd);
	cloexec(fd, true);
	fds = lp_journal_live(j, &n);
	for (i = 0; fds && i < n; i++)
		cloexec(fds[i], true);
	free(fds);
	*out = j;
	return 0;
}
