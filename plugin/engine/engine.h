/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The engine: which bytes of which address space are still missing, who is
 * about to fill them, and what a layout event or a fault means for that.
 *
 * It is pure: no system calls, no clock, no threads, no logging. Events go in
 * as calls, with time as an argument (nanoseconds, any monotonic origin);
 * orders come out as flights (claimed pages that their owner must fill) and
 * wakes. The same code runs under the daemon, the tests' model and simulator.
 *
 * Words
 *   space    one address space of the restored tree, one userfaultfd
 *   missing  a range whose checkpointed bytes are not in the task yet
 *   flight   a claim: ranges taken out of `missing` by one owner, who fills
 *            them and calls lp_flight_finish(); what it did not fill goes back
 *   urgent   a flight that a faulting thread waits for; others are bulk
 *
 * Who may call what
 *   All calls on one engine are serialised by the caller (one lock), with one
 *   exception: lp_flight_head() and lp_flight_advance() need no lock but the
 *   *gate* of the space: the owner of the flight holds it shared, and layout
 *   events (lp_space_remap/remove/unmap/fork/fault/exit) are only applied by
 *   the one who holds it alone. See doc/design.md, "The gate".
 *
 * Errors: -ENOMEM leaves everything as it was, unless lp_space_broken() says
 * that the layout of the space is no longer known (a child whose parent ended
 * when no memory was left); then no page of it may be filled any more.
 */
#ifndef LP_ENGINE_H
#define LP_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lp_engine;
struct lp_space;
struct lp_flight;

#define LP_NEVER UINT64_MAX

struct lp_engine_conf {
	uint64_t page; /* bytes, the base page size */
	uint64_t seed; /* of the trees' priorities; any value */
	/*
	 * Does one registered VMA of the space with this host pointer hold all of
	 * [start, start + len)? 1; 0, also when the address space is gone; -EAGAIN:
	 * its layout is changing, nobody can tell now. Must not change anything.
	 * Called from lp_space_fork() for the new child, for it again while it is
	 * young and messages of its parent come in, and from lp_space_settled() when
	 * messages must have been read in another order than changes were made.
	 * NULL: nobody can ever tell.
	 */
	int (*there)(void *host, uint64_t start, uint64_t len);
	/* REMAP of a move that shrinks may tell the old length, as before Linux 6.16. */
	bool old_shrink;
};

struct lp_engine *lp_engine_new(const struct lp_engine_conf *conf);
/* All spaces must be freed before. */
void lp_engine_free(struct lp_engine *e);

/* ---- Address spaces ---------------------------------------------------- */

/* @host is the caller's own pointer, handed back by lp_space_host(). */
int lp_space_new(struct lp_engine *e, void *host, struct lp_space **out);
/* Only when lp_space_flights() is 0. */
void lp_space_free(struct lp_space *s);
void *lp_space_host(const struct lp_space *s);

/* [start, end) will be registered with the userfaultfd (a whole lazy VMA). */
int lp_space_add_extent(struct lp_space *s, uint64_t start, uint64_t end);
/* [start, end) has bytes in the checkpoint, from @img of object @obj on. */
int lp_space_add_missing(struct lp_space *s, uint64_t start, uint64_t end, uint64_t img, uint32_t obj);
/*
 * [start, end) is in the task already, by somebody else's word: nothing of it is
 * missing. For a host that goes on where another was killed; no flight is out.
 */
int lp_space_filled(struct lp_space *s, uint64_t start, uint64_t end);
/* A child of a fork sees zeros in [start, end) (MADV_WIPEONFORK). */
int lp_space_add_wiped(struct lp_space *s, uint64_t start, uint64_t end);
/*
 * A child of a fork has nothing at [start, end) (MADV_DONTFORK), be it wiped or not. What was marked after the restore is found by asking the child's kernel.
 */
int lp_space_add_dontfork(struct lp_space *s, uint64_t start, uint64_t end);

/*
 * ---- Layout messages, in the order in which they were read ----------------
 *
 * Threads that change the layout at the same time send messages that may be
 * read in another order than the changes were made. So messages are only
 * collected, and put in order at a *settled moment*: the host holds the gate
 * alone, has read all messages (EAGAIN) and has given them to the engine, and
 * then an ioctl that looks for a changing layout (a probe) does not say EAGAIN.
 * Every change made before has been read then, so the whole is known.
 * Until then the space is *unsettled*, and what its messages name (both places
 * of a REMAP) is left alone: it is in no flight, faults there are LP_LATER, the
 * background does not claim it. What no message names is where it was, and is
 * filled as ever; but nothing is after a FORK, since the child would not inherit
 * it. A REMOVE of what no message names unsettles nothing.
 */
bool lp_space_unsettled(const struct lp_space *s);
/*
 * This is a settled moment. 0: messages are applied, deferred faults can be
 * answered, wakes (lp_space_next_wake()) are due, children are young no more;
 * -EAGAIN: `there` said so, hence it was over: try again; -ENOMEM: try again.
 */
int lp_space_settled(struct lp_space *s);
/*
 * A child of a fork until its parent's next settled moment, or end: read no
 * message of it. It holds nothing yet and is never complete.
 */
bool lp_space_young(const struct lp_space *s);

/*
 * UFFD_EVENT_FORK. The child sees what the parent sees: what is present was
 * inherited, what is missing (claimed or not) is missing in it too.
 */
int lp_space_fork(struct lp_space *s, void *host, struct lp_space **child);

/*
 * UFFD_EVENT_REMAP: @len bytes went from @from to @to. mremap sends an UNMAP of
 * the old range, too; MREMAP_DONTUNMAP does not: then it reads as zeros.
 */
int lp_space_remap(struct lp_space *s, uint64_t from, uint64_t to, uint64_t len);
/* UFFD_EVENT_REMOVE: [start, end) is about to read as zeros (MADV_DONTNEED, FREE, REMOVE). */
int lp_space_remove(struct lp_space *s, uint64_t start, uint64_t end);
/* UFFD_EVENT_UNMAP: [start, end) is gone. */
int lp_space_unmap(struct lp_space *s, uint64_t start, uint64_t end);
/* The address space is gone (exit, exec). Flights that are out find nothing left to do. */
void lp_space_exit(struct lp_space *s);

/*
 * ---- The book ---------------------------------------------------------------
 *
 * Messages do not tell in which order the kernel made the changes, nor of
 * mappings that grow. A host that can watch the kernel itself (plugin/ledger)
 * keeps a *book* of a space: its changes, in the order in which they were made.
 * At a settled moment the engine goes by the book if it explains all messages
 * that were read, each once; else, and without a book, it guesses as described
 * in epoch.c.
 *
 * What was entered by the time of the probe that found the moment settled is all
 * that its messages are about: the kernel counts a message as under way before the
 * change that it tells of can be entered. So: read messages, enter all changes,
 * give the messages to the engine, and so on until there are none; enter all
 * changes, probe, lp_space_settled().
 */
enum lp_change_kind {
	LP_CHANGE_UNMAP = 1, /* [from, from + len): munmap(), mmap(MAP_FIXED), brk() */
	LP_CHANGE_REMAP,     /* mremap(from, len, to_len, flags, to); see LP_REMAP_AREA */
	LP_CHANGE_FORK,	     /* to: the name of the child's book */
	LP_CHANGE_DONTFORK,  /* madvise(from, len, ...), and so on */
	LP_CHANGE_DOFORK,
	LP_CHANGE_WIPE,
	LP_CHANGE_KEEP,
	LP_CHANGE_REMOVE, /* madvise(from, len, MADV_DONTNEED) and its like sends REMOVE; to: the number of this, see lp_space_call() */
	LP_CHANGE_GUARD, /* madvise(from, len, MADV_GUARD_INSTALL), not refused: what was there is gone, and no message tells */
};
#define LP_CHANGE_LAST LP_CHANGE_GUARD

/* Flags of REMAP. The first three are those of mremap(). */
#define LP_REMAP_MAYMOVE 1
#define LP_REMAP_FIXED 2     /* to is where */
#define LP_REMAP_DONTUNMAP 4
#define LP_REMAP_GREW 8	     /* the space has to_len - len more than before */
/*
 * Not FIXED: `to` is where the kernel has found room, what was moved is there or, for
 * the sake of huge pages, less than LP_REMAP_ALIGN beyond; 0: it has not looked for any.
 */
#define LP_REMAP_AREA 16
#define LP_REMAP_ALIGN (UINT64_C(2) << 20)
#define LP_REMAP_FLAGS 31

/* As the kernel was asked; it may have refused. Whole pages. */
struct lp_change {
	enum lp_change_kind kind;
	unsigned flags;
	uint64_t from, len, to, to_len;
};

/*
 * From now on all changes of @s are entered. @name: not 0, and never given to another;
 * what the FORK that a child came from calls it.
 */
void lp_space_book(struct lp_space *s, uint64_t name);
/* Does @c have to be entered? If not, it changes nothing that the engine knows of. */
bool lp_space_concerned(const struct lp_space *s, const struct lp_change *c);
/*
 * GUARD changes what is missing: its gate is held alone, and wakes may be due. If
 * other changes are on their way the space is unsettled, and nothing of it is filled.
 */
int lp_space_changed(struct lp_space *s, const struct lp_change *c);
/* The next REMOVE that is read of @s was sent by LP_CHANGE_REMOVE @number; without this, nobody knows by which. */
void lp_space_call(struct lp_space *s, uint64_t number);
/* Some that were entered wait for a settled moment, with messages or without. No hurry. */
bool lp_space_booked(const struct lp_space *s);
/* Some changes were not entered: until the next settled moment the engine does without. */
void lp_space_book_lost(struct lp_space *s);

/*
 * A layout event moves the ground under threads that wait for a page: the
 * caller must wake (UFFDIO_WAKE) each page address handed out here, so that
 * they look again. To be drained after every layout event.
 */
bool lp_space_next_wake(struct lp_space *s, uint64_t *addr);

/* ---- Faults -------------------------------------------------------------- */

enum lp_verdict {
	LP_FILL, /* *flight is yours: fill it, the faulting page is its first */
	LP_ZERO, /* the checkpoint has nothing there: zero page, then lp_space_answered() */
	LP_WAIT, /* another urgent flight has the page and will wake the thread */
	LP_LATER, /* its bytes may be moving, or the space is young: lp_space_defer(), as if a fill had said EAGAIN */
};

/*
 * A thread faults on the page at @addr. @readahead: how many bytes, the page
 * included, the flight may hold at most when faults come in sequence.
 */
int lp_space_fault(struct lp_space *s, uint64_t addr, uint64_t readahead, enum lp_verdict *verdict,
		   struct lp_flight **flight);
/*
 * The same before the message of the fault was read, for the owner of the bulk
 * flight @own of @s, who need not be alone in the gate for it: no other flight is
 * looked at. *flight is to be filled, or NULL: what the message will find is open.
 * No thread need wait for the page, so nothing is deferred for it when it cannot be
 * filled. When the message comes, if it still does, it is a fault like any other.
 */
int lp_space_early_fault(struct lp_space *s, uint64_t addr, uint64_t readahead, struct lp_flight *own,
			 struct lp_flight **flight);
/* The waiting threads at @addr were woken (ZEROPAGE or WAKE succeeded). */
void lp_space_answered(struct lp_space *s, uint64_t addr);
/*
 * The page at @addr could not be filled now (EAGAIN: an event is on its way;
 * ENOMEM). The fault is kept until lp_space_next_deferred() takes it; then ask
 * lp_space_fault() again: the answer may have changed.
 */
int lp_space_defer(struct lp_space *s, uint64_t addr);
bool lp_space_next_deferred(struct lp_space *s, uint64_t *addr);
bool lp_space_has_deferred(const struct lp_space *s);
/* Does a thread wait for a page, deferred or not, as far as the engine knows? */
bool lp_space_waited_for(const struct lp_space *s);

/* ---- Flights ------------------------------------------------------------- */

struct lp_piece {
	uint64_t addr; /* where the bytes must go now */
	uint64_t len;
	uint64_t img;  /* where they are: address in object `obj` of the images */
	uint32_t obj;
};

struct lp_space *lp_flight_space(const struct lp_flight *f);
/* The how many-th flight of the engine it is, from 1 on: its name in a trace. */
uint64_t lp_flight_id(const struct lp_flight *f);
/* Piece @i of what is left; false: it has no more. Changes nothing, may be asked in an unsettled space. For traces. */
bool lp_flight_piece(const struct lp_flight *f, uint32_t i, struct lp_piece *p);
bool lp_flight_urgent(const struct lp_flight *f);
/* Is there a message of somebody who waits for it? */
bool lp_flight_awaited(const struct lp_flight *f);
/* The page that a thread waits for (urgent flights). */
uint64_t lp_flight_fault_addr(const struct lp_flight *f);
/*
 * What is left, first piece; NULL: nothing. Borrowed until the gate is left,
 * lp_flight_advance() or lp_flight_finish().
 */
const struct lp_piece *lp_flight_head(const struct lp_flight *f);
/* Bytes that are left, all pieces. Needs the gate like lp_flight_head(). */
uint64_t lp_flight_left(const struct lp_flight *f);
/* The first @bytes of the head piece are in the task, or there is no place for them any more. */
void lp_flight_advance(struct lp_flight *f, uint64_t bytes);
/*
 * The owner is done. What it did not advance over is missing again; an
 * unanswered fault among it becomes a deferred one. Frees the flight.
 */
int lp_flight_finish(struct lp_flight *f);

/* ---- Background ---------------------------------------------------------- */

/*
 * Claim the next bulk flight: at most @max_bytes (whole pages, one at least) in
 * at most @max_pieces pieces (one at least),
 * from the space and the place where faults came last, then in address order;
 * children of forks come after the tasks of the checkpoint.
 * -EAGAIN: nothing to claim before *when (LP_NEVER: until something changes).
 */
int lp_engine_next(struct lp_engine *e, uint64_t max_bytes, unsigned max_pieces, uint64_t now,
		   struct lp_flight **out, uint64_t *when);
/* No bulk flight of @s before @until. */
void lp_space_stall(struct lp_space *s, uint64_t until);

/* ---- State --------------------------------------------------------------- */

/* Nothing missing, nothing in flight, nobody waiting: the userfaultfd may go. */
bool lp_space_complete(const struct lp_space *s);
bool lp_space_dead(const struct lp_space *s);
bool lp_space_broken(const struct lp_space *s);
/* Flights that are out. */
size_t lp_space_flights(const struct lp_space *s);
/* Bytes that nobody has claimed. */
uint64_t lp_space_missing(const struct lp_space *s);
/* Is anything of [start, end) registered, as far as events told? */
bool lp_space_registered(const struct lp_space *s, uint64_t start, uint64_t end);
/* What would a fault at @addr find: the image address, or false for zeros. For tests. */
bool lp_space_peek(const struct lp_space *s, uint64_t addr, uint64_t *img, uint32_t *obj);
/* Would a fault at @addr be held back (LP_LATER)? For tests. */
bool lp_space_doubtful(const struct lp_space *s, uint64_t addr);
/* Settled moments with messages, so far: those explained by the book, and those that had to be guessed. */
void lp_engine_settlings(const struct lp_engine *e, uint64_t *booked, uint64_t *guessed);
/* Ranges in memory, for statistics. */
size_t lp_engine_nodes(const struct lp_engine *e);

#endif
