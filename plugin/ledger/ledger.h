/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ledger: which system calls have changed which address space, in the order
 * in which the kernel made the changes, including those of which userfaultfd
 * tells nothing. A BPF program (watch.bpf.c) writes it into a ring. Into another one
 * it writes faults, where the kernel lets it.
 *
 * Loading it needs Linux 5.15 with BTF and CAP_BPF + CAP_PERFMON (or root), so
 * it is loaded once, before privileges are dropped. What is left is descriptors:
 * a process that has them can attach at any time, one at a time. When the last
 * one is closed the kernel forgets all of it.
 */
#ifndef LP_LEDGER_LEDGER_H
#define LP_LEDGER_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "ledger/shared.h"

/* The rings, the memory that is shared with the program, and what keeps the program attached. */
enum {
	LP_LEDGER_RING,
	LP_LEDGER_SHARED,
	LP_LEDGER_FAULTS, /* -1: it does not tell */
	LP_LEDGER_LINKS,
	LP_LEDGER_FDS = LP_LEDGER_LINKS + 6
};

/*
 * Load it, in a process of its own that shares our descriptors: what libbpf takes
 * of memory ends with that one. They are close-on-exec; -1 where there is none.
 * -errno with @err: this kernel, or this user, cannot have one. No thread may run yet.
 */
int lp_ledger_load(int fds[LP_LEDGER_FDS], struct lp_err *err);
void lp_ledger_close(int fds[LP_LEDGER_FDS]);

struct lp_ledger;

/* Entries come in order, each once; one during which the process dies comes again, and one that is refused (false). */
typedef bool (*lp_ledger_entry_fn)(void *arg, const struct lp_ledger_entry *e);

/* Borrows @fds. */
int lp_ledger_attach(const int fds[LP_LEDGER_FDS], lp_ledger_entry_fn fn, void *arg, struct lp_ledger **out,
		     struct lp_err *err);
void lp_ledger_detach(struct lp_ledger *l);
/* Hand out all entries that are there. False: one was refused. */
bool lp_ledger_read(struct lp_ledger *l);
/* Are there entries that were not handed out? For any thread; a moment later it may be otherwise. */
bool lp_ledger_any(const struct lp_ledger *l);
/* Have entries been lost since the last call? */
bool lp_ledger_lost(struct lp_ledger *l);
/*
 * Watch the address space of userfaultfd @uffd, in which nothing at @unmapped (a
 * page of @page bytes) is registered with it. Returns what entries call it, or 0: it is gone.
 */
uint64_t lp_ledger_watch(struct lp_ledger *l, int uffd, uint64_t unmapped, uint64_t page);
/* No longer; nor children that it will fork. */
void lp_ledger_unwatch(struct lp_ledger *l, int uffd, uint64_t unmapped, uint64_t page);

/*
 * Guard pages. Whoever fills does so between begin and end, with the gate of the
 * address space held; false: guard pages were made there, or are being made, of which
 * nobody knows. @slot: lp_ledger_slot() of what entries call the address space; 0:
 * that is not known yet. The entries that lp_ledger_read() has handed out are made
 * known by lp_ledger_heeded(). For any thread, but the last.
 */
bool lp_ledger_fill_begin(struct lp_ledger *l, unsigned slot);
void lp_ledger_fill_end(struct lp_ledger *l, unsigned slot);
/*
 * Had it better be page by page? Guard pages were made there before, and whoever makes some does not wait for long: the
 * less there is between begin and end, the less likely is it that the caller loses its CPU there.
 */
bool lp_ledger_fill_pages(const struct lp_ledger *l, unsigned slot);
/* Of any address space. */
bool lp_ledger_guards_due(const struct lp_ledger *l);
void lp_ledger_heeded(struct lp_ledger *l);
/* How often, since the last call, were some made while something was filled? That may have replaced them. */
uint64_t lp_ledger_hasty(struct lp_ledger *l);

/*
 * Faults: a hint that a thread waits for a page, or soon will, or did until a
 * moment ago. Some are lost, and those from before somebody wanted them are old.
 */
bool lp_ledger_tells_faults(const struct lp_ledger *l);
/* No longer: those that are there are dropped, so as lp_ledger_faults(). */
void lp_ledger_want_faults(struct lp_ledger *l, bool want);
/* For any thread, as above. */
bool lp_ledger_any_fault(const struct lp_ledger *l);
/* Take up to @max of them. By one thread at a time. */
unsigned lp_ledger_faults(struct lp_ledger *l, struct lp_ledger_fault *buf, unsigned max);

#endif
