/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Makes one of N pages of a checkpoint eager that is lazy, so that CRIU restores
 * it by itself, before userfaultfd is in place. For test/criu/huge_pages: CRIU
 * makes such checkpoints only with parents.
 *
 *   unlazy DIR N
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "images/images.h"
#include "images/pmwrite.h"

static int add(struct lp_pmw *w, const struct lp_extent *x, uint64_t each)
{
	uint64_t at = x->start, end;
	int rc = 0;

	if (!x->lazy)
		return lp_pmw_add(w, x->start, x->end, LP_PE_PRESENT);
	for (; !rc && at < x->end; at = end) {
		bool eager = !(at / LP_PAGE_SIZE % each);

		end = eager ? at + LP_PAGE_SIZE : (at / LP_PAGE_SIZE / each + 1) * each * LP_PAGE_SIZE;
		end = end < x->end ? end : x->end;
		rc = lp_pmw_add(w, at, end, LP_PE_PRESENT | (eager ? 0 : LP_PE_LAZY));
	}
	return rc;
}

int main(int argc, char **argv)
{
	struct lp_err err = { "" };
	struct lp_images *im;
	char path[4096];
	size_t i, j;
	FILE *f;

	if (argc != 3 || lp_images_open(argv[1], &im, &err)) {
		fprintf(stderr, "unlazy: %s\n", err.msg);
		return 2;
	}
	for (i = 0; i < lp_images_ntasks(im); i++) {
		const struct lp_task *t = lp_images_task(im, i);
		struct lp_pmw w = { NULL };

		if (!t->has_mm)
			continue;
		if (lp_pmw_head(&w, true, t->pages_id))
			return 1;
		for (j = 0; j < t->nextents; j++)
			if (add(&w, &t->extents[j], strtoul(argv[2], NULL, 10)))
				return 1;
		snprintf(path, sizeof(path), "%s/pagemap-%" PRId32 ".img", argv[1], t->pid);
		f = fopen(path, "we");
		if (!f || fwrite(w.p, 1, w.n, f) != w.n || fclose(f))
			return 1;
		free(w.p);
	}
	lp_images_close(im);
	return 0;
}
