/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the two files of the model share: model.c has the worlds, the host and
 * the comparison, model_prog.c what threads do and which messages that leaves.
 */
#ifndef LP_TEST_MODEL_INT_H
#define LP_TEST_MODEL_INT_H

#include "test/lib/model.h"

#define MD_PRIV UINT32_MAX /* written by the task */
#define MD_LAST 60	 /* operations printed: those at the page of the difference */
#define MD_PAGES_SHOWN 8
#define MD_KEPT 8192 /* and kept, of all tasks */

enum md_page_state { FREE, PLAIN, REG }; /* plain: mapped, not registered */

struct md_page {
	uint32_t want; /* 0: zeros; MD_PRIV; else the page of the images */
	uint32_t vma; /* pages of one mapping have the same number, if nothing else is between them */
	uint8_t state, owner;
	bool present, wiped, dontfork, told; /* told: the engine knows of dontfork */
	bool reused;  /* an older message about this page may be unread */
	bool hollow;  /* MREMAP_DONTUNMAP was here, no settled moment seen since */
	bool left;    /* free, since it moved away */
	bool vacated; /* free since, and no settled moment seen */
	bool phantom; /* of the address: the engine may believe that something is there */
	bool raced;   /* moved here over unread messages */
	bool ghost;   /* moved to a phantom, no settled moment seen since */
	bool moved;   /* here since the last settled moment; `over`: to where an UNMAP was unread */
	bool over;
	uint8_t changed; /* of the address: how often moved from or to, or unmapped, since the last settled moment */
	bool unnamed; /* part of a mapping (or a munmap) that no message has named before */
};

enum md_kind { EV_FORK, EV_REMAP, EV_REMOVE, EV_UNMAP };

struct md_event {
	enum md_kind kind;
	unsigned a, len, to; /* pages; FORK: `to` is the child; REMOVE: the number of the change */
};

enum md_thread_state { RUN, BLOCKED, FAULT, AGAIN }; /* again: woken, will touch its page once more */

struct md_thread {
	enum md_thread_state state;
	unsigned n, i; /* messages of its operation; the next one */
	bool read;     /* message i was read, the thread has not run since */
	unsigned page; /* that it faults on, or touched last */
	struct md_event q[4];
	bool dontunmap, grown, dontfork; /* its operation: MREMAP_DONTUNMAP; of what no message has named */
};

struct md_task {
	struct md *m;
	bool used, alive; /* alive: has a space, may run */
	bool child;
	unsigned pages;
	unsigned parent;
	struct lp_space *space;
	unsigned changing; /* messages not yet done: fills say EAGAIN */
	unsigned unread;
	struct md_thread th[MD_MAX_THREADS];
	uint64_t book; /* its name, or 0 */
	struct lp_change *entries; /* made, not entered yet */
	size_t nentries, cap_entries;
	struct md_page *pg;
};

struct md_note {
	uint64_t step;
	const char *what;
	unsigned task, thread, a, b, c;
};

enum md_cell_kind {
	CELL_NEW, CELL_EXTENT, CELL_MISSING, CELL_WIPED, CELL_DONTFORK, CELL_FORK, CELL_REMAP,
	CELL_REMOVE, CELL_UNMAP, CELL_SETTLED, CELL_EXIT, CELL_FREE, CELL_DONE, CELL_BOOK, CELL_CHANGE
};

struct md_cell {
	enum md_cell_kind kind;
	unsigned task;
	uint32_t obj;
	unsigned nanswers; /* that it takes */
	uint64_t a, b, c;
	struct lp_change change;
};

struct md_journal {
	struct md_cell *cells;
	size_t n, cap;
	int *answers;
	size_t nanswers, used, cap_answers; /* [used, nanswers): of the call that is under way */
	size_t at, end;			    /* while it is replayed: of this cell's */
	unsigned refuse;		    /* the how manyth question from now is refused; 0: none */
};

struct md {
	struct md_conf conf;
	unsigned flags; /* of this world */
	struct md_choice ch;
	struct lp_engine *engine;
	struct md_task task[MD_MAX_TASKS];
	struct lp_flight *flight[MD_MAX_FLIGHTS];
	unsigned nflights;
	uint64_t step, epoch_end, now, events, fills, faults;
	struct md_note last[MD_KEPT];
	unsigned nlast;
	int bad; /* bad: the task of the difference */
	struct md_journal j;
	bool replaying;
	uint64_t kill_rng, kills;
	uint32_t vmas; /* numbers given out */
	uint64_t books, calls;
	uint64_t booked, guessed; /* of engines that were killed */
	unsigned vacated; /* a page that was left while messages were unread, or 0 */
	char error[256];
};

unsigned md_pick(struct md *m, unsigned n);
/* An empty place for a task. */
void md_task_clear(struct md_task *t);
/* The kernel of @t has made @c. */
void md_made(struct md_task *t, struct lp_change c);
/* What the kernel has made is entered, as far as the host has come. */
bool md_enter(struct md *m, struct md_task *t);
/* Guard pages were made that are not entered: the host fills nothing. */
bool md_guards_due(const struct md_task *t);
void md_note(struct md *m, const char *what, unsigned task, unsigned thread, unsigned a, unsigned b, unsigned c);
/* Task @bad (or -1) shows a difference. Always false. */
bool md_differ(struct md *m, int bad, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static inline unsigned md_task_no(const struct md *m, const struct md_task *t)
{
	return t - m->task;
}

static inline uint64_t md_addr(unsigned page)
{
	return MD_BASE + page * MD_PAGE;
}

/* The object of the images that has image page @want. */
static inline uint32_t md_obj(uint32_t want)
{
	return want & 0x8000 ? 2 : 1;
}

struct lp_engine *md_new_engine(struct md *m);

/* model_fill.c; false: a difference, or as said. */
/* Threads that wait for @page shall touch it again. */
void md_wake_page(struct md *m, struct md_task *t, unsigned page);
/* Up to @pages pages of flight @i. */
bool md_fill_some(struct md *m, unsigned i, unsigned pages);
bool md_finish_flight(struct md *m, unsigned i);
/* A message about a fault at @page was read, or a deferred one is due. */
bool md_fault(struct md *m, struct md_task *t, unsigned page);
/* Thread @th touches @page. */
bool md_touch(struct md *m, struct md_task *t, struct md_thread *th, unsigned page);

/* model_kill.c */
/* A call of the engine begins: answers belong to it. */
void md_call(struct md *m);
int md_answer(struct md *m, int answer);
int md_replayed_answer(struct md *m);
/* The call has succeeded; or something else that the journal keeps has happened. */
void md_cell(struct md *m, enum md_cell_kind kind, const struct md_task *t, uint64_t a, uint64_t b, uint64_t c,
	     uint32_t obj);
/* @c of @t was entered. */
void md_change_cell(struct md *m, const struct md_task *t, const struct lp_change *c);
void md_journal_clear(struct md *m);
void md_journal_free(struct md *m);
/* The host dies, the next one goes on. False: not where the old one was. */
bool md_kill(struct md *m);

/* model_prog.c: no message about any page is unread any more. */
void md_forget_reused(struct md *m, struct md_task *t);
/* Thread @th, which runs, does something. */
bool md_act(struct md *m, struct md_task *t, struct md_thread *th);

#endif
