/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The restore side: takes userfaultfds from `criu restore --lazy-pages` and
 * fills the restored tree until nothing of the checkpoint is missing.
 */
#ifndef LP_RESTORE_H
#define LP_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "guard/journal.h"
#include "images/images.h"
#include "restore/recorder.h"
#include "source/source.h"

/* What becomes of pages that cannot be had when the deadline has passed. */
enum lp_lost {
	LP_LOST_WAIT,	/* nothing: tasks wait, the source is asked again, for ever */
	LP_LOST_POISON, /* who touches one gets SIGBUS; KILL where the kernel cannot do that */
	LP_LOST_KILL,	/* the restored tree is killed */
};

struct lp_restore_conf {
	const struct lp_images *images; /* borrowed until lp_restore_run() returns */
	struct lp_source *source;	/* borrowed likewise */
	const char *source_text;	/* how `lazypages ctl` shows it: words with tabs between, the first one its kind */
	unsigned workers;		/* threads of the background fill, at least 1 */
	bool background;		/* false: only what tasks fault on */
	bool progress;			/* a progress line on stderr */
	enum lp_lost on_lost;
	uint64_t lost_after_ns;		/* after the first failure to get a page */
	struct lp_journal *journal;	/* of the guardian, borrowed; NULL: none */
	struct lp_jctl *ctl;		/* without a journal: where it is controlled, borrowed; NULL: it is not */
	struct lp_recorder *trace;	/* borrowed likewise, started and stopped; NULL: none */
	const int *ledger;		/* LP_LEDGER_FDS descriptors, borrowed likewise; NULL or -1: none */
};

struct lp_restore_stats {
	uint64_t filled_bulk, filled_urgent; /* bytes */
	uint64_t faults, zero_faults;
	uint64_t lost;	  /* bytes that could not be had: poisoned */
	uint64_t dropped; /* bytes whose place was gone before they came */
	uint64_t spaces, forks, remaps, removes, unmaps;
	uint64_t refused; /* fills refused by a changing layout */
	uint64_t ns_handoff_to_full;
	uint64_t booked, guessed; /* settled moments: explained by the ledger, or not */
};

/*
 * Listen on `lazy-pages.socket` in the current directory, replacing a stale
 * one. Returns the socket or -errno.
 */
int lp_restore_listen(struct lp_err *err);
/* Its name. */
#define LP_RESTORE_SOCKET "lazy-pages.socket"

/*
 * Serve one restore, taking over @listen_fd; or, when the journal knows of an
 * earlier worker, go on where that one was. Returns 0 when every page has
 * found its place (or every task has ended), -ECANCELED when the restore
 * failed before its tasks ran, -EINTR when a signal ended the wait for CRIU.
 * In these cases no task that runs depends on this process any more.
 * With a journal also -EAGAIN: they do, and another worker must go on; the caller
 * must end at once.
 */
int lp_restore_run(const struct lp_restore_conf *conf, int listen_fd, struct lp_restore_stats *stats,
		   struct lp_err *err);

/*
 * Could a worker of this program go on from @j now, whoever is at it? Nothing is
 * changed, no descriptor is needed. What it takes of memory is not given back. A
 * log that is just being written may look as if not: try again.
 */
int lp_restore_rehearse(const struct lp_images *im, struct lp_journal *j, struct lp_err *err);

#endif
