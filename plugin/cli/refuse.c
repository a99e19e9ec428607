/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Checkpoints that CRIU would restore lazily with wrong bytes; see refuse.h. All of
 * it is about pages that are there before the VMA is registered: nobody asks for
 * them, and filling finds them present. What decides is how CRIU restores
 * (criu/mem.c, premap_private_vma(), and the restorer).
 */
#include <errno.h>
#include <inttypes.h>

#include "cli/refuse.h"
#include "images/thin.h"

/*
 * CRIU puts pages into a lazy VMA before it registers it: then with huge pages
 * their neighbours are there as well, as zeros, and nobody would ask for them. It
 * does without huge pages if there are parents.
 */
static int no_zeros(const struct lp_images *im, uint64_t huge, struct lp_err *err)
{
	uint64_t addr;
	size_t i;

	for (i = 0; !lp_images_depth(im) && i < lp_images_ntasks(im); i++) {
		const struct lp_task *t = lp_images_task(im, i);

		if (t->has_mm && lp_thin_mixed(im, t, huge, &addr))
			return lp_err(err, -ENOTSUP,
				      "pagemap-%d.img: CRIU restores page 0x%" PRIx64 " by itself, and with transparent huge "
				      "pages there may be zeros beside it: first write `madvise` to /sys/kernel/mm/"
				      "transparent_hugepage/enabled (and to hugepages-*/enabled there), or fetch or push "
				      "the checkpoint again",
				      t->pid, addr);
	}
	return 0;
}

static int no_shadows(const struct lp_images *im, struct lp_err *err)
{
	uint64_t addr;
	size_t i;

	for (i = 0; i < lp_images_ntasks(im); i++) {
		const struct lp_task *t = lp_images_task(im, i);

		if (t->has_mm && lp_thin_shadow(t, &addr))
			return lp_err(err, -ENOTSUP,
				      "pagemap-%d.img: CRIU cannot restore the shadow stack at 0x%" PRIx64 " lazily: restore "
				      "without --lazy-pages, or fetch or push the checkpoint again",
				      t->pid, addr);
	}
	return 0;
}

/* CRIU maps locked memory as locked, so all of it is there at once, and children get it by fork. */
static int no_locked(const struct lp_images *im, struct lp_err *err)
{
	uint64_t addr;
	int32_t by;
	size_t i;

	for (i = 0; i < lp_images_ntasks(im); i++) {
		const struct lp_task *t = lp_images_task(im, i);

		if (t->has_mm && lp_thin_locked(im, t, &addr, &by))
			return lp_err(err, -ENOTSUP,
				      "pagemap-%d.img: CRIU cannot restore page 0x%" PRIx64 " lazily: task %d, from which it "
				      "comes by fork, has locked that memory and has no such page: restore without "
				      "--lazy-pages",
				      t->pid, addr, by);
	}
	return 0;
}

int refuse_images(const struct lp_images *im, uint64_t huge, struct lp_err *err)
{
	int rc = huge ? no_zeros(im, huge, err) : 0;

	if (!rc)
		rc = no_shadows(im, err);
	return rc ? rc : no_locked(im, err);
}
