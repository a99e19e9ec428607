/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guardian, worker, anchor: three processes with one table of descriptors
 * (clone(CLONE_FILES)) and separate memories, see doc/design.md.
 *
 * The guardian starts the others and waits. It reads no images, speaks to no
 * network, has one thread, and owns the journal. The worker does everything else,
 * and may die at any moment: the guardian starts another, which goes on from the
 * journal. The anchor only sleeps: as long as it lives the userfaultfds are open,
 * so with guardian and worker gone tasks wait for their pages, and do not read
 * zeros; a new daemon can take over from it.
 */
#ifndef LP_GUARD_GUARD_H
#define LP_GUARD_GUARD_H

#include <sys/types.h>

#include "base/err.h"
#include "guard/journal.h"

/* In the work directory: which process is the anchor. */
#define LP_ANCHOR_FILE "lazy-pages.anchor"

/* There, too: where `lazypages ctl` finds the worker. */
#define LP_CTL_SOCKET "lazypages-ctl.socket"

struct lp_guard_conf {
	struct lp_journal *journal; /* borrowed */
	/* In the worker: all of its work. Returns the exit status of the whole; -1: another worker shall try. */
	int (*worker)(void *arg);
	/* In the guardian, once: the worker listens. */
	int (*ready)(void *arg); /* failure: the worker is killed, the status is 1 */
	void *arg;
	unsigned restarts; /* so many deaths in a row without any progress, then the guardian gives up */
	pid_t old_anchor;  /* of which the journal was taken over; 0 none */
	const char *path;  /* as for lp_guard_begin() */
	/* With which another program goes on for this one; [2] is "--resume". NULL-ended, borrowed; NULL: none can. */
	char **argv;
	bool resumed;	   /* this is that program: all is as lp_guard_resume() found it */
};

/* Arguments at most, and what the new program says when it is called with --resume-check instead and can go on. */
#define LP_GUARD_ARGS 4096
#define LP_GUARD_CAN_GO_ON "lazypages: can go on"

/* Be the guardian until the end. Returns the exit status. */
int lp_guard_run(const struct lp_guard_conf *conf);

/*
 * In the worker, before anything else: descriptors of the dead one are closed.
 * @path: the name of the socket at which CRIU is awaited.
 */
void lp_guard_begin(struct lp_journal *j, const char *path);
/* In the worker: the guardian shall look at the journal's flags. */
void lp_guard_tell(struct lp_journal *j);
/* In the worker: is the guardian gone? */
bool lp_guard_orphan(const struct lp_journal *j);
/* The end of a worker without guardian: nobody else ends the anchor. */
void lp_guard_end_anchor(struct lp_journal *j);
/* The name of the control socket, if it still is that one. */
void lp_guard_remove_ctl(const struct lp_jctl *ctl);

/*
 * Take journal and descriptors over from the anchor of the work directory, which
 * is the current one. To be called before anything is opened: descriptors get
 * the numbers that they had; those of *@keep_fds (up to NULL) are moved out of
 * the way.
 */
int lp_guard_take_over(struct lp_journal **out, pid_t *old_anchor, int **keep_fds, struct lp_err *err);

/* After an upgrade: the journal @fd, which came through exec. -EINVAL: of another version. */
int lp_guard_resume(int fd, struct lp_journal **out, struct lp_err *err);

/* notify.c: tell systemd, if it has started us (sd_notify(3)). Nothing is sent else. */
void lp_notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
