/* SPDX-License-Identifier: GPL-2.0-only */
/* The gate, see gate.h: one atomic word, sleeping on a futex. */
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "restore/gate.h"

/*
 * A chunk takes 5 to 20 us to copy, the reader's turn about as long; an idle
 * virtual CPU takes 50 to wake, and as long again until it is warm. So both
 * sides spin, for longer than it takes the task that was just woken to fault
 * again and give back the CPU that it took from the holder: with a tenth of this
 * time, a program that touches its memory at random was slowed down by a third.
 * (Not sched_yield(): EEVDF takes a whole slice off the one who yields, each time.)
 *
 * But when the other one was running on the very CPU that we are on, then we have
 * taken it from him, and he cannot go on before we sleep. Spinning there made
 * one fault in a hundred wait for a multiple of SPIN_NS.
 */
#define SPIN_NS UINT64_C(300000)
#define PAUSES 64 /* between two looks at the clock */

static void pause_cpu(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#endif
}

static void sleep_on(struct lp_gate *g, uint32_t seen)
{
	/*
	 * Both sequentially consistent: either the waker sees a sleeper, or the
	 * kernel sees that the word has changed and does not sleep.
	 */
	atomic_fetch_add(&g->sleepers, 1);
	if (atomic_load(&g->word) == seen)
		syscall(SYS_futex, &g->word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
	atomic_fetch_sub(&g->sleepers, 1);
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

/* A wait: how often it was looked, and until when there is any point in spinning. */
struct patience {
	unsigned tries;
	uint64_t end;
};

/* @cpu: of whom is waited for, as far as known. */
static void wait_a_little(struct lp_gate *g, uint32_t seen, const _Atomic int32_t *cpu, struct patience *p)
{
	static _Atomic long cpus;

	if (atomic_load_explicit(cpu, memory_order_relaxed) == sched_getcpu()) {
		sleep_on(g, seen);
		return;
	}
	pause_cpu();
	if (++p->tries % PAUSES)
		return;
	if (!p->end) {
		if (!cpus)
			cpus = sysconf(_SC_NPROCESSORS_ONLN);
		p->end = now_ns() + (cpus > 1 ? SPIN_NS : 0);
	} else if (now_ns() >= p->end) {
		sleep_on(g, seen);
	}
}

static void wake_all(struct lp_gate *g)
{
	if (atomic_load(&g->sleepers))
		syscall(SYS_futex, &g->word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void lp_gate_enter(struct lp_gate *g)
{
	uint32_t w = atomic_load(&g->word);
	struct patience p = { 0 };

	for (;;) {
		if (w & LP_GATE_ALONE) {
			wait_a_little(g, w, &g->alone_cpu, &p);
			w = atomic_load(&g->word);
		} else if (atomic_compare_exchange_weak(&g->word, &w, w + 1)) {
			atomic_store_explicit(&g->sharer_cpu, sched_getcpu(), memory_order_relaxed);
			return;
		}
	}
}

void lp_gate_leave(struct lp_gate *g)
{
	uint32_t old = atomic_fetch_sub(&g->word, 1);

	if (old == (LP_GATE_ALONE | 1))
		wake_all(g);
}

void lp_gate_enter_alone(struct lp_gate *g)
{
	uint32_t w = atomic_load(&g->word);
	struct patience p = { 0 };

	/* Announce: nobody enters after this. */
	for (;;) {
		if (w & LP_GATE_ALONE) {
			wait_a_little(g, w, &g->alone_cpu, &p);
			w = atomic_load(&g->word);
		} else if (atomic_compare_exchange_weak(&g->word, &w, w | LP_GATE_ALONE)) {
			break;
		}
	}
	atomic_store_explicit(&g->alone_cpu, sched_getcpu(), memory_order_relaxed);
	p = (struct patience){ 0 };
	while ((w = atomic_load(&g->word)) != LP_GATE_ALONE)
		wait_a_little(g, w, &g->sharer_cpu, &p);
}

bool lp_gate_try_alone(struct lp_gate *g, uint64_t ns)
{
	uint32_t w = atomic_load(&g->word);
	uint64_t end = 0;
	unsigned tries = 0;

	do {
		if (w & LP_GATE_ALONE)
			return false;
	} while (!atomic_compare_exchange_weak(&g->word, &w, w | LP_GATE_ALONE));
	atomic_store_explicit(&g->alone_cpu, sched_getcpu(), memory_order_relaxed);
	while ((w = atomic_load(&g->word)) != LP_GATE_ALONE) {
		pause_cpu();
		if (++tries % 8)
			continue;
		if (!end) {
			end = now_ns() + ns;
		} else if (now_ns() >= end) {
			/* Take the announcement back, unless the last one has just left. */
			while (w != LP_GATE_ALONE)
				if (atomic_compare_exchange_weak(&g->word, &w, w & ~LP_GATE_ALONE)) {
					wake_all(g);
					return false;
				}
		}
	}
	return true;
}

void lp_gate_leave_alone(struct lp_gate *g)
{
	atomic_store(&g->word, 0);
	wake_all(g);
}
