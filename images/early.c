/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the kernel will look for a task and its threads, and cannot wait for
 * userfaultfd: the word of a futex that inherits priorities (its code looks
 * without sleeping, and asks for the page with a fault that may not be tried
 * again: the call says EFAULT), what it looks at when a thread has ended (the
 * list of robust futexes, which others may wait for, and the thread's tid), and
 * the words that the program was started with, which /proc shows to ps as none at
 * all if the page is missing. These pages should be there before the tasks run.
 * From core-TID.img and the mm; they are hints, so what cannot be read or is not
 * x86-64 has none. The array belongs to the task.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>

#include "images/core.pb-c.h"
#include "images/internal.h"

#define MTYPE_X86_64 1
#define MODE_NATIVE  1
#define NR_FUTEX     202 /* of x86-64 */
/* Pages of arguments, and of the environment. */
#define MAX_WORDS 16

struct early {
	uint64_t *v;
	size_t n, cap;
};

static void add(struct early *e, uint64_t addr)
{
	if (addr && e->n < e->cap)
		e->v[e->n++] = addr;
}

/* The call that the thread was in begins anew: CRIU has put its number where it is taken from. */
static void add_futex(struct early *e, const Lp__UserX86RegsEntry *g)
{
	uint64_t op = g->si & FUTEX_CMD_MASK;

	if (g->orig_ax != NR_FUTEX || (g->has_mode && g->mode != MODE_NATIVE))
		return;
	if (op == FUTEX_LOCK_PI || op == FUTEX_LOCK_PI2 || op == FUTEX_WAIT_REQUEUE_PI)
		add(e, g->di);
	if (op == FUTEX_WAIT_REQUEUE_PI)
		add(e, g->r8);
}

static void add_thread(struct lp_images *im, int32_t tid, struct early *futexes, struct early *ends)
{
	struct lp_err err = { "" };
	struct lp_imgfile f;
	const uint8_t *data;
	Lp__CoreEntry *e;
	char file[32];
	size_t len;

	snprintf(file, sizeof(file), "core-%" PRId32 ".img", tid);
	if (lp_imgfile_open(&f, &im->dirs[0], file, LP_MAGIC_CORE, im->common, &err))
		return;
	e = lp_imgfile_only(&f, &data, &len, &err) ? NULL : lp__core_entry__unpack(NULL, len, data);
	if (e && e->mtype == MTYPE_X86_64) {
		if (e->thread_info && e->thread_info->gpregs)
			add_futex(futexes, e->thread_info->gpregs);
		if (e->thread_core)
			add(ends, e->thread_core->futex_rla);
		if (e->thread_info)
			add(ends, e->thread_info->clear_tid_addr);
	}
	if (e)
		lp__core_entry__free_unpacked(e, NULL);
	lp_imgfile_close(&f);
}

static void add_words(struct early *e, const uint64_t words[2])
{
	uint64_t page = words[0] & ~(LP_PAGE_SIZE - 1);
	unsigned i;

	for (i = 0; i < MAX_WORDS && page < words[1] && words[1] <= LP_ADDR_MAX; i++, page += LP_PAGE_SIZE)
		add(e, page);
}

int lp_read_early(struct lp_images *im, struct lp_task *t)
{
	size_t n = t->nthreads, i;
	struct early futexes = { .cap = 2 * n + 2 * MAX_WORDS }, ends = { .cap = 2 * n };

	futexes.v = malloc((4 * n + 2 * MAX_WORDS) * sizeof(*futexes.v));
	ends.v = malloc((2 * n + 1) * sizeof(*ends.v));
	if (!futexes.v || !ends.v) {
		free(futexes.v);
		free(ends.v);
		return -ENOMEM;
	}
	for (i = 0; i < n; i++)
		add_thread(im, t->threads[i], &futexes, &ends);
	add_words(&futexes, t->words);
	add_words(&futexes, t->words + 2);
	/* Who would be told something wrong comes first. */
	for (i = 0; i < ends.n; i++)
		futexes.v[futexes.n++] = ends.v[i];
	free(ends.v);
	t->early = futexes.v;
	t->nearly = futexes.n;
	return 0;
}
