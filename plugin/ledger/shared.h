/* SPDX-License-Identifier: GPL-2.0-only */
/* What the program in the kernel (watch.bpf.c) and ledger.c share. No other header: clang compiles it for BPF, too. */
#ifndef LP_LEDGER_SHARED_H
#define LP_LEDGER_SHARED_H

/* One call that held the lock of a watched address space, in the order in which they held it. */
struct lp_ledger_entry {
	unsigned long long mm;
	unsigned long long child; /* of fork(): the new one's */
	unsigned long long arg[5]; /* of the system call */
	unsigned long long brk;	  /* brk(): where it was before */
	unsigned long long area;  /* where the kernel has found room last; 0: it has not looked for any */
	long long grew;		  /* pages */
	unsigned int tid;
	unsigned int nr;	  /* of the system call */
};

/* A thread of a watched address space has touched a page that is not there. It may be about to wait for it. */
struct lp_ledger_fault {
	unsigned long long mm;
	unsigned long long addr; /* of the page */
};

/* Of the rings, bytes. */
#define LP_LEDGER_RING_SIZE (4 << 20)
#define LP_LEDGER_FAULTS_SIZE (64 << 10)

/* A cache line. Address spaces may share one: then one waits for the other for nothing. */
struct lp_ledger_slot {
	unsigned long long guards, entered; /* calls that make guard pages: begun; of which the entry is in the ring */
	unsigned long long filling;	    /* threads that fill */
	unsigned long long pause;	    /* somebody could not, again and again: no new call for a while */
} __attribute__((aligned(64)));
#define LP_LEDGER_SLOTS 32 /* a power of two; with the rest in one page */

/* In memory that both can write. */
struct lp_ledger_shared {
	/* The next UFFDIO_UNREGISTER with this argument asks for a name: the address space is watched from then on. */
	unsigned long long who_arg;
	unsigned long long who_mm;
	/* The same for one that is to be watched no more. */
	unsigned long long bye_arg;
	unsigned long long lost; /* entries for which there was no room */
	unsigned long long faults_wanted; /* somebody looks at that ring */
	/* Calls that make guard pages: all; and those that had to go on while something was filled. */
	unsigned long long guards, guards_hasty;
	/* By address space, see lp_ledger_slot(); the first one is of who is not known yet. */
	struct lp_ledger_slot slot[LP_LEDGER_SLOTS];
};

/* Address spaces are told apart by where their struct is, some 2 KiB. */
static inline unsigned int lp_ledger_slot(unsigned long long mm)
{
	unsigned int slot = (mm >> 6 ^ mm >> 11) & (LP_LEDGER_SLOTS - 1);

	return slot ? slot : 1;
}

#endif
