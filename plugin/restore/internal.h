/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the restore side share.
 *
 * Threads: main (hand-off, signals, exits of the tree, progress), `workers` for
 * bulk, URGENT_THREADS for faults whose bytes are not at hand, and one that
 * waits for messages. Whoever reads messages has the *reader role*: a busy bulk
 * thread looks for them between two chunks, since it is awake and on a CPU
 * anyhow; the waiting thread sleeps on them while no bulk thread is busy.
 *
 * Locks, in the order in which they may be taken:
 *   1. r->role   the reader role: reading userfaultfds, freeing mms
 *   2. mm->gate  (see gate.h)
 *   3. r->lock   the engine, the list of mms, the urgent queue, everything in
 *                struct lp_restore and struct lp_mm that is not atomic
 *   4. the recorder's own, see recorder.c
 * Nothing sleeps for a source while it holds any of them (but for pages that
 * left the page cache a moment ago), and tasks are woken when role and gate are
 * left: a woken task might take the CPU from us at once.
 *
 * An mm belongs to the reader role: its holder alone closes the descriptor and
 * frees it, and only when no flight of its space is out, so that no thread can
 * hold its gate.
 */
#ifndef LP_RESTORE_INTERNAL_H
#define LP_RESTORE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "base/log.h"
#include "base/size.h"
#include "base/crash.h"
#include "engine/engine.h"
#include "guard/journal.h"
#include "ledger/ledger.h"
#include "restore/gate.h"
#include "restore/restore.h"
#include "restore/uffd.h"

/* A fault waits for at most one chunk; larger ones fill no faster (userfaultfd-facts 13). */
#define CHUNK (UINT64_C(64) << 10)
/* While threads fault: shorter, since each fault waits for the chunks under way. */
#define CHUNK_FAULTS (UINT64_C(16) << 10)
#define FAULTS_RECENT_NS UINT64_C(1000000)
/* A bulk flight: what a worker claims at once. */
#define FLIGHT_BYTES (UINT64_C(16) << 20)
#define FLIGHT_PIECES 64
#define URGENT_THREADS 2
/* Descriptors kept for the children of forks when all others are in use, and how many are given up at once. */
#define RESERVE 64
#define RESERVE_STEP 16
/* Readahead of faults that come in sequence, at most; it is filled, and threads woken, chunk by chunk. */
#define READAHEAD (UINT64_C(128) << 10)
/* Threads that fill look for messages this often; if the ledger tells of faults and changes, this often. */
#define PASS_NS UINT64_C(10000)
#define PASS_TOLD_NS UINT64_C(100000)
/* So long after something was told whose message may come later, as if nothing told of faults. */
#define RESTLESS_NS UINT64_C(200000)

struct lp_restore;

/* One address space of the restored tree. */
struct lp_mm {
	struct lp_restore *r;
	struct lp_mm *next, **pprev;
	struct lp_gate gate;
	struct lp_space *space;
	int fd;
	int32_t pid;	 /* in the images */
	pid_t host_pid;	 /* of the task that handed it over; 0 for a child of a fork */
	int pidfd;	 /* of the same, or -1 */
	unsigned id;	 /* tells the children of one pid apart, and names it in the journal */
	uint32_t epoch;	 /* what an address means, see note.c; changes with the gate held alone */
	uint64_t backoff; /* ns, of refused fills */
	uint64_t doubt;	  /* ns, between looks for a settled moment */
	uint64_t retry_at; /* when deferred faults are due */
	_Atomic uint64_t lost_since; /* when the page lost_img of lost_obj could not be had first; 0: none */
	uint32_t lost_obj;
	uint64_t lost_img;
	uint64_t lost_until; /* pages that cannot be had are given up at once */
	bool warned_nomem, warned_source, warned_files;
	bool handed; /* by CRIU, not a child of a fork */
	bool check; /* the reader shall see whether it is complete or dead */
	bool ended; /* the kernel has said so; r->lock */
	bool polled; /* in the epoll set; young children are not (lp_space_young()) */
	const struct lp_task *task; /* whose VMAs CRIU is placing; NULL: it has placed all, or a child */
	size_t placed; /* so many of them */
	bool looked; /* for what mm_left_out() finds */
	uint64_t poll_at; /* not polled before: out of descriptors for its children */
	uint64_t book;	  /* what the ledger calls it, or 0; r->lock */
	struct lp_mm *book_next; /* with the same hash */
	bool book_due;	  /* it is to have one */
	_Atomic unsigned slot; /* lp_ledger_slot() of `book`; 0: not known yet; changes with the gate held alone */
#define MM_UNWATCHED UINT32_MAX /* it cannot be watched */
	bool alone;	  /* who has the role is alone in the gate; of the role */
	struct removal {
		uint64_t from, len, number;
		uint32_t tid;
		bool sent; /* its message was read */
	} removals[16]; /* the last madvise() of its threads that discard; r->lock */
};

/* An entry of an address space that is not known, or not yet. */
struct early {
	struct early *next;
	uint64_t name; /* of a child that it forked */
	struct lp_ledger_entry e;
};

struct urgent {
	struct urgent *next;
	struct lp_flight *flight;
};

struct lp_restore {
	const struct lp_restore_conf *conf;
	struct lp_source *source;
	struct lp_journal *j;	/* NULL: no guardian */
	struct lp_replay *replay; /* the engine is given again what a dead worker gave it: the kernel is not asked */
	struct lp_jzone *zone;	/* where messages land; of the role. In the journal, or ours */
	struct lp_jhand *hand;	/* likewise what comes on the hand-off socket; of main */
	struct lp_jctl *ctl;	/* likewise what was set from outside */
	struct lp_jctl own_ctl;
	struct lp_jzone own_zone;
	struct lp_jhand own_hand;
	struct lp_recorder *trace; /* NULL: none is made */

	/* booking.c; r->lock */
	struct lp_ledger *ledger; /* NULL: the order of changes has to be guessed */
	struct lp_mm *books[256]; /* by what the ledger calls them */
	unsigned nbooks_due;
	struct {
		uint64_t in_ledger, name; /* 0: none */
	} expected[1024];		  /* children whose FORK was not handled yet, the last ones */
	unsigned nexpected;	  /* so far */
	struct early *early, **early_tail;
	unsigned nearly;
	uint64_t early_lost; /* a filter of those of which one was dropped */
	uint64_t numbers; /* names, and numbers of madvise(), given out */
	uint64_t ledger_at; /* of the role: when it was read last */
	struct lp_mm *gate_wanted; /* of the role: an entry can only be taken by who is alone in its gate */
	bool told_hasty;
	/* seen.c; r->lock */
	struct seen {
		uint64_t in_ledger, addr;
		const void *by; /* whoever has looked in vain */
	} seen[32];
	_Atomic unsigned nseen; /* left for others to look at */
	struct lp_told {
		uint64_t in_ledger, addr;
	} told[64]; /* of which nobody knew what they wait for: woken once; by address */

	pthread_mutex_t role, lock;
	pthread_cond_t bulk_cond, urgent_cond, idle_cond, ctl_cond; /* on CLOCK_MONOTONIC */
	uint64_t due;			/* of the role: when to look around at the latest */
	bool again;			/* of the role: children are young no more, look around once more */
	uint64_t probed;		/* of the role: when exits were last looked for */
	_Atomic unsigned busy;		/* bulk threads that look for messages between chunks */
	_Atomic uint64_t last_pass;	/* when somebody last did */
	_Atomic uint64_t last_fault;
	_Atomic uint64_t restless_until; /* see RESTLESS_NS */
	_Atomic bool pass_due;		/* somebody has to read messages, and nobody has since */
	struct lp_engine *engine;
	struct lp_mm *mms;
	size_t nmms;
	unsigned next_id;
	struct urgent *urgent_head, **urgent_tail;
	_Atomic bool armed; /* CRIU said that all tasks are restored */
	bool failed;   /* the restore failed: no background, wait for the tasks' end */
	_Atomic bool hurry; /* a signal: background even if it was off */
	bool stopping; /* threads shall end */
	bool done;     /* the reader has closed the last mm */
	bool fatal;    /* layout lost: see lose_tree() */
	unsigned orphans; /* descriptors of children that could not be followed: held for ever */
	int reserve[RESERVE]; /* descriptors to give up when there are no others; of the role */
	unsigned nreserve;
	uint64_t turn_at; /* of a throttled background: not before */
	uint64_t source_bad_at, source_errors; /* its last failure, and how many */
	int source_error;
	bool spare_files; /* enough for a pidfd of each task */
	uint64_t t_first;

	int epfd;
	int kick_fd;	/* eventfd: the reader shall look around */
	int done_fd;	/* eventfd: main shall look around */
	int ctl_kick;	/* eventfd: the control thread shall look around */
	_Atomic bool accepted; /* CRIU has come */
	_Atomic bool cancelled; /* the next signal is for that */
	_Atomic bool probe_all; /* some task has ended: which address spaces are gone? */

	_Atomic uint64_t filled_bulk, filled_urgent, dropped, refused, faults, zero_faults;
	_Atomic uint64_t *lost, own_lost; /* bytes; in the journal, or ours */
	uint64_t total_bytes; /* lazy bytes of the checkpoint that were handed over */
	uint64_t spaces, forks, remaps, removes, unmaps;
};

/* restore.c */
void kick_reader(struct lp_restore *r);
void kick_main(struct lp_restore *r);

/* lost.c */
/* The layout of a space is lost (no memory for it): no task may go on with wrong bytes. r->lock held. */
void lose_tree(struct lp_restore *r, const struct lp_mm *mm, const char *why);
/* The same for another reason, which was said. r->lock held. */
void lose_all(struct lp_restore *r);
/* SIGKILL for the tasks that were handed over and all their descendants. r->lock held. */
void kill_tasks(struct lp_restore *r);
/* [img, img + len) of @obj has come. */
void lost_found(struct lp_mm *mm, uint32_t obj, uint64_t img, uint64_t len);
/*
 * The source says @why for the page @img of @obj; @waited: a thread waits for it.
 * True: it shall be poisoned; false: it is tried again, or the tree was killed.
 */
bool lost_given_up(struct lp_mm *mm, uint32_t obj, uint64_t img, int why, bool waited);
/* Poison the first page of what is left of @f, and advance over it. The gate is held. 0, or as a fill. */
int lost_poison(struct lp_mm *mm, struct lp_flight *f);

/* handoff.c */
#define HANDOFF_DONE 1

/* The connection is there, and nothing was taken from it yet. */
void handoff_begin(struct lp_restore *r);
/* Tasks still to come. */
size_t handoff_left(const struct lp_restore *r);
/* To CRIU, when it has come. */
void handoff_greet(int sock);
/* Are the first pages there that the tasks need before they run (prime() in handoff.c)? r->lock held; after HANDOFF_DONE. */
bool handoff_ready(const struct lp_restore *r);
/* CRIU has finished: the first pages that had to wait for that. r->lock held. */
int prime_protected(struct lp_mm *mm);

/*
 * Take what connection @sock has. 0: more to come; HANDOFF_DONE: CRIU said that
 * the restore is finished; -errno with @err: it failed.
 */
int handoff_read(struct lp_restore *r, int sock, struct lp_err *err);
/* The space of the task of @mm->pid as CRIU is about to register it, in @mm. r->lock held. */
int handoff_space(struct lp_restore *r, struct lp_mm *mm, struct lp_err *err);

/* note.c: what is noted in the journal. All do nothing without one. */
/* Before a call of the engine that may ask the kernel. r->lock held. */
void note_begin(struct lp_restore *r);
/* After it: LP_J_SETTLED or LP_J_EXIT of @mm, with the answers. r->lock held. */
void note_call(struct lp_mm *mm, enum lp_jkind kind);
/*
 * Message @m, at @idx in the zone, was given to the engine. @child: of a FORK; @call:
 * of a REMOVE, see lp_space_call(). r->lock held.
 */
void note_message(struct lp_mm *mm, const struct uffd_msg *m, unsigned idx, const struct lp_mm *child, uint64_t call);
/* The book of @mm begins; has a new entry; lacks some. r->lock held. */
void note_book(struct lp_mm *mm, uint64_t name, uint64_t in_ledger);
void note_change(struct lp_mm *mm, const struct lp_change *c);
void note_book_lost(struct lp_mm *mm);
/* A task was handed over. r->lock held. */
void note_space(const struct lp_mm *mm, uint32_t gen);
/* [start, start + len) is in place, or has none. The gate is held. */
void note_filled(struct lp_mm *mm, uint64_t start, uint64_t len);
/* @mm is about to be closed. */
void note_close(const struct lp_mm *mm);
void note_flag(struct lp_restore *r, uint32_t flag);
/* What an answer of the kernel to the engine shall be: the one just given, or that of the journal. */
bool note_replays(struct lp_restore *r, int *answer);
int note_answer(struct lp_restore *r, int answer);

/* booking.c: the books of the engine, kept by what the ledger says. All do nothing without one. r->lock held. */
void booking_begin(struct lp_restore *r); /* not held: no thread runs yet */
void booking_end(struct lp_restore *r);
/* From the next reading on for @mm, which is listed. */
void book_begin(struct lp_mm *mm);
/* As a journal says. */
void book_named(struct lp_mm *mm, uint64_t name, uint64_t in_ledger);
/* Its descriptor is about to be closed. */
void book_leave(struct lp_mm *mm);
/* It is no more. */
void book_forget(struct lp_mm *mm);
/* Whom the ledger calls so, or NULL. */
struct lp_mm *book_find(struct lp_restore *r, uint64_t in_ledger);
/* Is it of somebody else's restore, or what else uses userfaultfds? */
bool book_stranger(struct lp_restore *r, uint64_t in_ledger);
/*
 * Enter all that the ledger has. By the holder of the role only: what is entered is settled by its probes. r->lock
 * may be released for a while, to be alone in the gate of another mm.
 */
void book_read(struct lp_restore *r);
/* Which madvise() sent REMOVE of [start, end)? 0: not known. */
uint64_t book_removal(struct lp_mm *mm, uint64_t start, uint64_t end);
/* A new worker: what the dead one had read and not noted is not known. */
void book_resume(struct lp_restore *r);

/* replay.c */
/* Make all of a dead worker again. No thread runs yet. -errno with @err: nobody can go on. */
int replay(struct lp_restore *r, struct lp_err *err);

/*
 * Has CRIU placed and registered all VMAs of @mm? Before the task's first
 * instruction, with some luck: asked every PLACED_NS. r->lock held.
 */
bool mm_placed(struct lp_mm *mm);
/*
 * A VMA of @mm with pages that CRIU should have registered by now and has not: the
 * task would read zeros. NULL: none that we know of. By who has the role, between
 * two reads: what was unmapped since is in the engine then, or the kernel says that
 * something changes. r->lock held; once CRIU has finished.
 */
const struct lp_vma *mm_left_out(const struct lp_mm *mm);
#define PLACED_NS UINT64_C(300000)

/* reader.c */
/* What a thread needs to have the reader role now and then. */
struct lp_reader {
	struct lp_restore *r;
	struct wake {
		int fd;
		unsigned id; /* of the mm */
		uint64_t addr, len;
	} wakes[64]; /* due when role and gate are left */
	struct lp_flight *jobs[64]; /* urgent flights to fill then, owned */
	unsigned nwakes, njobs;
	const struct lp_window *window; /* bytes that are at hand, borrowed; or NULL */
	uint8_t buf[CHUNK];
};

void *reader_main(void *arg);
/* lp_engine_conf.there: is all of [start, start + len) registered in one VMA of @host, a struct lp_mm? */
int mm_there(void *host, uint64_t start, uint64_t len);
/*
 * Take the role if nobody has it, handle all messages that are there and what
 * is due, never sleep. True when there were messages.
 */
bool reader_pass(struct lp_reader *rd);
/* Wake those of rd->wakes. Not in a gate. */
void wake_flush(struct lp_reader *rd);
/* A page at which nothing of @mm is registered. r->lock held. */
uint64_t mm_unmapped(const struct lp_mm *mm);
/* Give message @m of @mm, at @idx in the zone, to the engine. Its gate is held alone. */
void reader_event(struct lp_reader *rd, struct lp_mm *mm, const struct uffd_msg *m, unsigned idx);
/* All messages in the zone are handled: make it empty. */
void reader_clear_zone(struct lp_restore *r, size_t n);
/* A new mm around @fd, not yet known to anybody; NULL: no memory. r->lock held. */
struct lp_mm *mm_new(struct lp_restore *r, int fd, int32_t pid);
/*
 * Hand @mm, which has its space, to the reader; messages of a young child are
 * read later, by mm_poll(). On failure it is listed all the same. r->lock held.
 */
int mm_add(struct lp_mm *mm);
/* List it, but leave its descriptor alone. r->lock held. */
void mm_list(struct lp_mm *mm);
/* Have its messages read. r->lock held. */
int mm_poll(struct lp_mm *mm);
/* Forget it, but leave its descriptors alone. r->lock held. */
void mm_forget(struct lp_mm *mm);
void mm_free(struct lp_mm *mm);

/* seen.c: faults that the ledger tells of. */
/* Are there any to look at? No lock needed. */
bool seen_any(const struct lp_restore *r);
/*
 * A thread of the background with flight @f of @mm, between two chunks and outside
 * the gate: take on faults as jobs of @rd. For those that only their messages can
 * settle a pass is wanted.
 */
void seen_faults(struct lp_reader *rd, struct lp_mm *mm, struct lp_flight *f);

/* fill.c */
void *bulk_main(void *arg);
void *urgent_main(void *arg);
/* A chunk of each of @rd's jobs; those that have ended leave the list. Neither role, gate nor lock held. */
void jobs_round(struct lp_reader *rd);
/* A pass is due; @restless: and others soon. No lock needed. */
void pass_wanted(struct lp_restore *r, bool restless);
/* How long threads that fill trust a pass at most. */
uint64_t pass_ns(const struct lp_restore *r, uint64_t now);
/* A thread of the background begins or stops to be busy (see lp_restore.busy). */
void busy_begin(struct lp_restore *r);
void busy_end(struct lp_restore *r);
/* Queue for the urgent threads. r->lock held. */
int urgent_push(struct lp_restore *r, struct lp_flight *f);
/* r->lock held: a flight ended with @why (an errno or 0); say so and set when to go on. */
void after_failure(struct lp_mm *mm, int why, uint64_t img, uint32_t obj);
/* r->lock held: it is unsettled, and a thread waits for what is in doubt: set when to look again. */
void look_later(struct lp_mm *mm);
/* lp_flight_finish() that waits for memory. r->lock held, may be released for a while. */
void flight_finish(struct lp_restore *r, struct lp_flight *f);
/* The address space is gone. Neither gate nor lock held. */
void mm_gone(struct lp_mm *mm);

/* control.c */
void *control_main(void *arg);
/* Shall the background run, by what was set and by --no-background? */
bool control_background(const struct lp_restore *r);
/* Must a thread of the background ask control_turn() before each chunk? No lock needed; may be late. */
bool control_held(const struct lp_restore *r);
/* Sleep until the background may go on, without any lock. False: it shall not. */
bool control_turn(struct lp_restore *r);
/* It has filled a chunk of @bytes. */
void control_charge(struct lp_restore *r, uint64_t bytes);

/* exits.c */
struct lp_exits;
/* Ask the kernel to report exits and execs. 0, -EPERM (needs CAP_NET_ADMIN), -EIO, -ENOMEM. */
int lp_exits_open(struct lp_exits **out);
int lp_exits_fd(struct lp_exits *x);
/* Read what is there; true when some task of the machine may have ended or called exec. */
bool lp_exits_read(struct lp_exits *x);
void lp_exits_close(struct lp_exits *x);

/* Nobody calls the engine or the kernel past the trace. */
#include "restore/calls.h"
#pragma GCC poison lp_flight_advance lp_flight_finish lp_space_add_dontfork lp_space_add_extent
#pragma GCC poison lp_space_add_missing lp_space_add_wiped lp_space_answered lp_space_defer lp_space_exit
#pragma GCC poison lp_space_fault lp_space_early_fault lp_space_fork lp_space_free lp_space_new lp_space_next_deferred
#pragma GCC poison lp_space_next_wake lp_space_remap lp_space_remove lp_space_settled lp_space_stall
#pragma GCC poison lp_space_unmap lp_space_book lp_space_changed lp_space_call lp_space_book_lost
#pragma GCC poison lp_engine_next lp_uffd_copy lp_uffd_zero lp_uffd_wake lp_uffd_probe

#endif
