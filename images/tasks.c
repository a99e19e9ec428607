/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which tasks a checkpoint has: inventory.img, pstree.img and, for whether a
 * task is alive and so must have memory, core-PID.img. The arrays made here
 * belong to struct lp_images.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "images/core.pb-c.h"
#include "images/internal.h"
#include "images/inventory.pb-c.h"
#include "images/pstree.pb-c.h"

/* task_core_entry.task_state */
enum { TASK_ALIVE = 1, TASK_DEAD = 2, TASK_STOPPED = 3, TASK_ZOMBIE = 6 };

int lp_read_inventory(struct lp_images *im, struct lp_err *err)
{
	Lp__InventoryEntry *e;
	struct lp_imgfile f;
	const uint8_t *data;
	uint32_t version;
	size_t len;
	int rc;

	rc = lp_imgfile_open(&f, &im->dirs[0], "inventory.img", LP_MAGIC_INVENTORY, LP_COMMON_MAYBE, err);
	if (rc)
		return rc;
	rc = lp_imgfile_only(&f, &data, &len, err);
	if (rc)
		goto out;
	e = lp__inventory_entry__unpack(NULL, len, data);
	if (!e) {
		rc = lp_err(err, -EINVAL, "%s: its record is not an inventory: the image is damaged, dump again", f.name);
		goto out;
	}
	version = e->img_version;
	lp__inventory_entry__free_unpacked(e, NULL);
	if (version == 1)
		im->common = LP_COMMON_NO;
	else if (version == 2)
		im->common = LP_COMMON_YES;
	else
		rc = lp_err(err, -ENOTSUP, "%s: image version %" PRIu32 " is not known (1 and 2 are): upgrade lazypages",
			    f.name, version);
out:
	lp_imgfile_close(&f);
	return rc;
}

static int add_task(struct lp_images *im, size_t *cap, const char *name, const uint8_t *data, size_t len,
		    struct lp_err *err)
{
	Lp__PstreeEntry *e;
	struct lp_task *t, one = { 0 };
	uint32_t pid, ppid;
	int32_t *threads;
	size_t n;

	e = lp__pstree_entry__unpack(NULL, len, data);
	if (!e)
		return lp_err(err, -EINVAL, "%s: entry %zu is not a task: the image is damaged, dump again", name,
			      im->ntasks);
	pid = e->pid;
	ppid = e->ppid;
	n = e->n_threads < LP_MAX_THREADS ? e->n_threads : LP_MAX_THREADS;
	threads = malloc(n * sizeof(*threads) + 1);
	if (threads && n)
		memcpy(threads, e->threads, n * sizeof(*threads));
	one.pid = (int32_t)pid;
	one.ppid = (int32_t)ppid;
	one.threads = threads;
	one.nthreads = n;
	lp__pstree_entry__free_unpacked(e, NULL);
	if (!pid || pid > INT32_MAX || ppid > INT32_MAX) {
		free(threads);
		return lp_err(err, -EINVAL,
			      "%s: entry %zu has pid %" PRIu32 " and parent %" PRIu32 ": the image is damaged, dump again",
			      name, im->ntasks, pid, ppid);
	}
	if (threads && im->ntasks == *cap) {
		n = *cap ? *cap * 2 : 8;
		t = realloc(im->tasks, n * sizeof(*t));
		if (t) {
			im->tasks = t;
			*cap = n;
		}
	}
	if (!threads || im->ntasks == *cap) {
		free(threads);
		return lp_err(err, -ENOMEM, "%s: no memory for %zu tasks", name, im->ntasks + 1);
	}
	im->tasks[im->ntasks++] = one;
	return 0;
}

static int cmp_pid(const void *a, const void *b, void *arg)
{
	const struct lp_task *tasks = arg;
	int32_t x = tasks[*(const uint32_t *)a].pid, y = tasks[*(const uint32_t *)b].pid;

	return (x > y) - (x < y);
}

static int sort_pids(struct lp_images *im, const char *name, struct lp_err *err)
{
	size_t i;

	im->by_pid = malloc(im->ntasks * sizeof(*im->by_pid));
	if (!im->by_pid)
		return lp_err(err, -ENOMEM, "%s: no memory for %zu tasks", name, im->ntasks);
	for (i = 0; i < im->ntasks; i++)
		im->by_pid[i] = (uint32_t)i;
	qsort_r(im->by_pid, im->ntasks, sizeof(*im->by_pid), cmp_pid, im->tasks);
	for (i = 1; i < im->ntasks; i++)
		if (im->tasks[im->by_pid[i]].pid == im->tasks[im->by_pid[i - 1]].pid)
			return lp_err(err, -EINVAL, "%s: pid %" PRId32 " is there twice: the image is damaged, dump again",
				      name, im->tasks[im->by_pid[i]].pid);
	return 0;
}

/* As CRIU wants it, too. So following parents comes to an end. */
static int parents_first(const struct lp_images *im, const char *name, struct lp_err *err)
{
	size_t i;

	for (i = 0; i < im->ntasks; i++) {
		const struct lp_task *t = &im->tasks[i], *p = t->ppid ? lp_images_find(im, t->ppid) : NULL;

		if (t->ppid && (!p || p >= t))
			return lp_err(err, -EINVAL, "%s: pid %" PRId32 ": its parent %" PRId32 " is not before it: the image is "
				      "damaged, dump again", name, t->pid, t->ppid);
	}
	return 0;
}

static int read_core(struct lp_images *im, struct lp_task *t, struct lp_err *err)
{
	struct lp_imgfile f;
	const uint8_t *data;
	Lp__CoreEntry *e;
	char file[32];
	size_t len;
	int rc;

	snprintf(file, sizeof(file), "core-%" PRId32 ".img", t->pid);
	rc = lp_imgfile_open(&f, &im->dirs[0], file, LP_MAGIC_CORE, im->common, err);
	if (rc)
		return rc;
	rc = lp_imgfile_only(&f, &data, &len, err);
	if (rc)
		goto out;
	e = lp__core_entry__unpack(NULL, len, data);
	if (!e || !e->tc) {
		rc = lp_err(err, -EINVAL, "%s: it has no task state: the image is damaged, dump again", f.name);
	} else if (e->tc->task_state == TASK_ALIVE || e->tc->task_state == TASK_STOPPED) {
		t->has_mm = true;
	} else if (e->tc->task_state != TASK_DEAD && e->tc->task_state != TASK_ZOMBIE) {
		rc = lp_err(err, -ENOTSUP, "%s: task state %" PRIu32 " is not known: upgrade lazypages or dump again",
			    f.name, e->tc->task_state);
	}
	if (e)
		lp__core_entry__free_unpacked(e, NULL);
out:
	lp_imgfile_close(&f);
	return rc;
}

int lp_read_tasks(struct lp_images *im, struct lp_err *err)
{
	struct lp_imgfile f;
	const uint8_t *data;
	size_t len, cap = 0, i;
	int rc;

	rc = lp_imgfile_open(&f, &im->dirs[0], "pstree.img", LP_MAGIC_PSTREE, im->common, err);
	if (rc)
		return rc;
	while ((rc = lp_imgfile_next(&f, &data, &len, err)) > 0) {
		rc = add_task(im, &cap, f.name, data, len, err);
		if (rc)
			break;
	}
	if (!rc && !im->ntasks)
		rc = lp_err(err, -EINVAL, "%s: it has no task: the image is truncated, copy it again", f.name);
	if (!rc)
		rc = sort_pids(im, f.name, err);
	if (!rc)
		rc = parents_first(im, f.name, err);
	lp_imgfile_close(&f);
	for (i = 0; !rc && i < im->ntasks; i++)
		rc = read_core(im, &im->tasks[i], err);
	return rc;
}
