/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * mm-PID.img: the VMAs of a task. The array made here belongs to the task.
 *
 * Guards (VMA_AREA_GUARD) are not VMAs of the kernel but notes about
 * MADV_GUARD_INSTALL that CRIU appends behind the list, so they lie within
 * VMAs and out of order; they are left out.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "images/internal.h"
#include "images/mm.pb-c.h"

/* What CRIU registers with userfaultfd when restoring with --lazy-pages: of what it maps before, vma_entry_is_private(). */
static bool can_be_lazy(const struct lp_vma *v)
{
	bool private = v->status & LP_VMA_REGULAR && v->status & (LP_VMA_ANON_PRIVATE | LP_VMA_FILE_PRIVATE);

	return (private || v->status & LP_VMA_SHSTK) && (v->flags & MAP_ANONYMOUS) && (v->flags & MAP_PRIVATE) &&
	       !(v->flags & (MAP_LOCKED | MAP_HUGETLB)) &&
	       !(v->status & (LP_VMA_VDSO | LP_VMA_VVAR | LP_VMA_VSYSCALL));
}

static int check_vma(const struct lp_vma *v, const struct lp_vma *prev, size_t i, const char *name,
		     struct lp_err *err)
{
	const char *what = NULL;

	if (v->start % LP_PAGE_SIZE || v->end % LP_PAGE_SIZE)
		what = "is not page aligned";
	else if (v->start >= v->end)
		what = "is empty or ends before it starts";
	else if (v->end > LP_ADDR_MAX && !(v->status & LP_VMA_VSYSCALL))
		what = "ends past 2^63";
	if (what)
		return lp_err(err, -EINVAL,
			      "%s: VMA %zu (0x%" PRIx64 "-0x%" PRIx64 ") %s: the image is damaged, dump again", name, i,
			      v->start, v->end, what);
	if (prev && v->start < prev->end)
		return lp_err(err, -EINVAL,
			      "%s: VMA %zu (0x%" PRIx64 "-0x%" PRIx64 ") %s the one before it (0x%" PRIx64 "-0x%" PRIx64
			      "): the image is damaged, dump again",
			      name, i, v->start, v->end, v->end <= prev->start ? "is unsorted, it lies below" : "overlaps",
			      prev->start, prev->end);
	return 0;
}

static int take_vmas(struct lp_task *t, const Lp__MmEntry *e, const char *name, struct lp_err *err)
{
	struct lp_vma *vmas, *v;
	size_t i;
	int rc;

	if (!e->n_vmas)
		return lp_err(err, -EINVAL, "%s: it has no VMA: the image is damaged, dump again", name);
	vmas = malloc(e->n_vmas * sizeof(*vmas));
	if (!vmas)
		return lp_err(err, -ENOMEM, "%s: no memory for %zu VMAs", name, e->n_vmas);
	t->vmas = vmas;
	for (i = 0; i < e->n_vmas; i++) {
		const Lp__VmaEntry *s = e->vmas[i];

		if (s->status & LP_VMA_GUARD)
			continue;
		v = &vmas[t->nvmas];
		*v = (struct lp_vma){ .start = s->start, .end = s->end, .pgoff = s->pgoff, .shmid = s->shmid,
				      .madv = s->has_madv ? s->madv : 0, .prot = s->prot, .flags = s->flags,
				      .status = s->status };
		v->lazy = can_be_lazy(v);
		rc = check_vma(v, t->nvmas ? v - 1 : NULL, i, name, err);
		if (rc)
			return rc;
		t->nvmas++;
	}
	return 0;
}

int lp_read_mm(struct lp_images *im, struct lp_task *t, struct lp_err *err)
{
	struct lp_imgfile f;
	const uint8_t *data;
	Lp__MmEntry *e;
	char file[32];
	size_t len;
	int rc;

	snprintf(file, sizeof(file), "mm-%" PRId32 ".img", t->pid);
	rc = lp_imgfile_open(&f, &im->dirs[0], file, LP_MAGIC_MM, im->common, err);
	if (rc)
		return rc;
	rc = lp_imgfile_only(&f, &data, &len, err);
	if (rc)
		goto out;
	e = lp__mm_entry__unpack(NULL, len, data);
	if (!e) {
		rc = lp_err(err, -EINVAL, "%s: its record is not a list of VMAs: the image is damaged, dump again", f.name);
		goto out;
	}
	rc = take_vmas(t, e, f.name, err);
	t->words[0] = e->mm_arg_start;
	t->words[1] = e->mm_arg_end;
	t->words[2] = e->mm_env_start;
	t->words[3] = e->mm_env_end;
	lp__mm_entry__free_unpacked(e, NULL);
out:
	lp_imgfile_close(&f);
	return rc;
}
