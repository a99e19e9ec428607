/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The journal: what a new worker needs to go on where a killed one was. A memfd
 * that guardian, anchor and worker share; a header, and a log of cells of 32
 * bytes that grows.
 *
 * In the log is everything that decides what an address space looks like: tasks
 * handed over, layout messages, the kernel's answers to the engine's questions,
 * settled moments, ends; and what was filled. The same inputs lead the same
 * engine to the same state, so they are all that has to be kept.
 *
 * In the header are two landing zones for what the kernel hands out only once:
 * messages of a userfaultfd and what comes on the hand-off socket. System calls
 * write into them directly, so that a death between a system call and the next
 * instruction loses nothing. Their pages are locked into memory: a fault on one
 * of them inside a read() of a process that is being killed would fail, and with
 * it the message would be lost.
 *
 * Cells are reserved by an atomic addition and committed by storing their first
 * word last, so any thread may write, and one that died in the middle leaves a
 * hole (LP_J_NONE). Order: whoever writes a cell about an address space holds its
 * gate or r->lock (see restore/internal.h), and so do those whose cells must come
 * before or after.
 */
#ifndef LP_GUARD_JOURNAL_H
#define LP_GUARD_JOURNAL_H

#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/crash.h"
#include "base/err.h"

#define LP_J_MAGIC   UINT64_C(0x314e524a5a414c00) /* "\0LAZJRN1" */
/* Of the header's and the cells' form. Whatever changes either raises it. */
#define LP_J_VERSION 7
/*
 * Of what the engine makes of cells: a new worker must come to the views that the
 * old one had. Whatever makes the engine ask or decide otherwise raises it.
 */
#define LP_J_ENGINE 7
/* What somebody who goes on has to know besides, one bit each: none yet. */
#define LP_J_FEATURES UINT64_C(0)

enum lp_jkind {
	LP_J_NONE, /* reserved, not committed */
	LP_J_SPACE, /* a task: x = pid | host pid << 32, y = fd | pidfd << 32, z = generation of the hand-off */
	/* Messages: a = place in the zone, b = generation of the zone. */
	LP_J_FORK,   /* x = fd of the child, y = its number */
	LP_J_REMAP,  /* x = from, y = to, z = len */
	LP_J_REMOVE, /* [x, y), z = the call that sent it, or 0: see lp_space_call() */
	LP_J_UNMAP,  /* [x, y) */
	LP_J_SKIP,   /* an unknown one; or FORK of a child that could not be followed, x = its fd + 1, held for ever */
	LP_J_ANSWERS, /* of the kernel to what the next cell's call asked: a of them, two bits each in x, y, z */
	LP_J_SETTLED,
	LP_J_EXIT,  /* the address space is gone */
	LP_J_CLOSE, /* nothing of it is needed any more, its descriptor is about to be closed */
	LP_J_DONE,  /* [x, y) is filled, or has no place any more; y grows in place */
	LP_J_RESTART, /* a new worker goes on */
	/* The kernel's order, see "The book" in engine/engine.h. */
	LP_J_BOOK,	/* x = name, y = what the ledger calls it */
	LP_J_CHANGE_TO, /* of the change in the next cell: x = to_len */
	LP_J_CHANGE,	/* a = kind, b = flags, x = from, y = len, z = to */
	LP_J_BOOK_LOST,
};

struct lp_jcell {
	_Atomic uint64_t word; /* kind | a << 8 | b << 16 | mm << 32 */
	uint64_t x;
	_Atomic uint64_t y;
	uint64_t z;
};

#define LP_J_ANSWERS_MAX 96 /* in one cell */

static inline enum lp_jkind lp_jkind(uint64_t word)
{
	return (enum lp_jkind)(word & 0xff);
}

static inline unsigned lp_ja(uint64_t word)
{
	return word >> 8 & 0xff;
}

static inline unsigned lp_jb(uint64_t word)
{
	return word >> 16 & 0xffff;
}

static inline uint32_t lp_jmm(uint64_t word)
{
	return word >> 32;
}

/* Where messages of a userfaultfd land. An event of 0 is none. */
#define LP_J_MESSAGES 32
struct lp_jzone {
	uint32_t mm;  /* whose they are */
	uint32_t gen; /* one more for each time that the zone is cleared */
	struct uffd_msg msgs[LP_J_MESSAGES];
};

/*
 * What comes on the hand-off socket. What is to be taken was looked at before
 * (`peek`), and `buf` holds its complement: so buf == peek tells for each byte
 * whether it was taken. `state[cur]` is what is known for certain.
 */
struct lp_jhand {
	struct lp_jhand_state {
		uint32_t gen;
		uint32_t left; /* tasks still to come */
		uint32_t have; /* bytes of word */
		int32_t word;
	} state[2];
	_Atomic uint32_t cur;
	_Atomic uint32_t taking; /* the generation of the state in which something is being taken */
	uint32_t n;
	uint8_t peek[4], buf[4];
	_Alignas(16) char ctl[128];
};

enum {
	LP_JF_LISTENING = 1, /* listen_fd is there; images were read */
	LP_JF_ACCEPTED = 2,  /* hand_sock is there */
	LP_JF_ARMED = 4,     /* CRIU has finished its restore */
	LP_JF_FAILED = 8,    /* the restore failed */
	LP_JF_HURRY = 16,    /* a signal: fill the rest and leave */
	LP_JF_FATAL = 32,    /* a layout was lost, the tasks were killed */
	LP_JF_ENDED = 64,    /* the worker's end is in order: exit_code */
	LP_JF_BROKEN = 128,  /* the journal is not complete: nobody can go on after this worker */
	LP_JF_ONCE = 256,    /* its source gives pages once: nobody can, either, though the journal is complete */
	/* The death of this worker is the end. */
	LP_JF_LAST = LP_JF_BROKEN | LP_JF_ONCE,
};

#define LP_J_KEEP 16
#define LP_J_LEDGER 9

/* What is set by `lazypages ctl`, so that it outlives a worker. */
enum lp_jbackground {
	LP_J_AS_STARTED, /* as --no-background says */
	LP_J_PAUSED,
	LP_J_RUNNING,
};

struct lp_jctl {
	_Atomic uint32_t background; /* enum lp_jbackground */
	_Atomic uint64_t rate;	     /* of the background, bytes per second; 0: as fast as it goes */
	_Atomic int32_t fd;	     /* listening, -1 none */
	uint64_t dev, ino;	     /* of its name, so that nobody else's is removed */
};

/* `lazypages upgrade`: the worker asks, the guardian does it. */
enum lp_jupstate {
	LP_J_UP_NONE,
	LP_J_UP_ASKED,	   /* path is there */
	LP_J_UP_CHECKING,  /* the new program looks at the journal */
	LP_J_UP_REPLACING, /* the old worker is being ended, the guardian becomes the new program */
	LP_J_UP_DONE,
	LP_J_UP_REFUSED,   /* why is in msg; the old one goes on */
};

struct lp_jupgrade {
	_Atomic uint32_t state, serial; /* serial: one more for each that was asked for */
	char path[1024];
	char msg[512];
};

/*
 * `lazypages ctl switch-source`: the worker asks, the guardian has the new source
 * looked at and replaces the worker. A source is a text that cli/pages.h
 * explains; to the guardian it means nothing.
 */
#define LP_J_SOURCE_MAX 2048

enum lp_jswstate {
	LP_J_SW_NONE,
	LP_J_SW_ASKED,	   /* v[1 - cur] is there */
	LP_J_SW_CHECKING,  /* a process of its own opens it */
	LP_J_SW_REPLACING, /* cur is the new one, of which no worker has started yet */
	LP_J_SW_DONE,
	LP_J_SW_REFUSED,   /* why is in msg; the old one counts */
};

struct lp_jsource {
	uint32_t verify; /* enum lp_verify, as decided when it was looked at */
	char text[LP_J_SOURCE_MAX]; /* "": what the command line says */
};

struct lp_jswitch {
	_Atomic uint32_t state, serial; /* serial: one more for each that was asked for */
	_Atomic uint32_t cur;		/* which of v counts, 0 or 1: changed in one step */
	struct lp_jsource v[2];
	char started[LP_J_SOURCE_MAX];	/* what the first daemon's command line said */
	char msg[512];
};

struct lp_jhead {
	uint64_t magic;
	uint32_t version, cell_size;
	uint64_t engine, features; /* LP_J_ENGINE, LP_J_FEATURES of who wrote it */
	_Atomic uint64_t tail, cap; /* cells: reserved, and allocated */
	_Atomic uint32_t flags;
	int32_t exit_code;
	uint64_t t_first, failed_at; /* CLOCK_MONOTONIC, ns */
	_Atomic int32_t listen_fd, hand_sock;
	_Atomic int32_t keep[LP_J_KEEP]; /* descriptors that no worker may close; -1 none */
	_Atomic int32_t guardian, anchor, worker; /* pids */
	_Atomic uint64_t guardian_start, worker_start; /* when they started, in clock ticks; 0: not known */
	_Atomic uint32_t workers;   /* how many there were */
	_Atomic uint32_t swept;	    /* the last one that has closed strange descriptors */
	uint32_t has_ident;
	uint8_t ident[16];	    /* of the checkpoint */
	uint64_t died_at;	    /* the last worker's death, ns */
	uint64_t longest_ns;	    /* from a death until all tasks were woken */
	uint32_t verify;	    /* enum lp_verify, as decided at the start; 0: not yet */
	int32_t oom_adj;	    /* that the first guardian was started with */
	_Atomic uint64_t lost;	    /* bytes that could not be had and are poisoned */
	_Atomic int32_t ledger[LP_J_LEDGER];  /* the descriptors of ledger/ledger.h, -1: none */
	struct lp_jctl ctl;
	struct lp_jupgrade up;
	struct lp_jswitch sw;
	struct lp_crash_state crash;
	_Alignas(64) struct lp_jzone zone;
	_Alignas(64) struct lp_jhand hand;
};

struct lp_journal {
	struct lp_jhead *h;
	struct lp_jcell *cells;
	int fd;
	/* Answers of the kernel since lp_journal_begin(). */
	uint8_t *answers;
	size_t nanswers;
};

/* A new one. The descriptor is close-on-exec; it is in `keep`. */
int lp_journal_create(struct lp_journal **out, struct lp_err *err);
/* The one in memfd @fd, which is taken over. */
int lp_journal_attach(int fd, struct lp_journal **out, struct lp_err *err);
/* Lock the zones into memory; each worker for itself. */
void lp_journal_lock(struct lp_journal *j);
void lp_journal_free(struct lp_journal *j);

/*
 * Add a cell. -ENOSPC: the journal cannot grow; then it is LP_JF_BROKEN, said
 * once, and nothing is added any more.
 */
int lp_journal_add(struct lp_journal *j, enum lp_jkind kind, unsigned a, unsigned b, uint32_t mm, uint64_t x,
		   uint64_t y, uint64_t z);
/* [start, end) of @mm is filled. @epoch: messages that @mm has had; cells are only joined within one. */
void lp_journal_done(struct lp_journal *j, uint32_t mm, uint32_t epoch, uint64_t start, uint64_t end);

/* A call of the engine that may ask the kernel begins. */
void lp_journal_begin(struct lp_journal *j);
/* The kernel has answered. Returns the answer that the engine is to have. */
int lp_journal_answer(struct lp_journal *j, int rc);
/* Write the answers; the cell of the call comes next. */
void lp_journal_answers(struct lp_journal *j, uint32_t mm);

/* Cells 0 to lp_journal_count() - 1. */
uint64_t lp_journal_count(const struct lp_journal *j);

void lp_journal_flag(struct lp_journal *j, uint32_t flag);
bool lp_journal_has(const struct lp_journal *j, uint32_t flag);
/* No worker may close @fd. */
void lp_journal_keep(struct lp_journal *j, int fd);
void lp_journal_unkeep(struct lp_journal *j, int fd);
/*
 * In a new worker, before it opens anything: close what the dead one has left
 * open and nobody knows of. The shared table has all of it, and what is not
 * in the journal is of no use to anybody, but for a connection of CRIU that was
 * accepted a moment ago: @path, where it is accepted, tells it.
 */
void lp_journal_sweep(struct lp_journal *j, const char *path);
/* The descriptors that somebody needs by the journal's word; free() them. NULL: no memory. */
int *lp_journal_live(struct lp_journal *j, size_t *n);
/* The descriptor in @h->ctl, or -1. */
int lp_jhand_fd(const struct lp_jhand *h);

#endif
