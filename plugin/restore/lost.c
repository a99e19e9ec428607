/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pages that cannot be had: all servers are away, or the bytes are damaged
 * wherever they are asked for, or the disk says EIO. Tasks wait for them, and
 * the source is asked again, until the policy's deadline; what comes then is the
 * policy's (enum lp_lost). Never a guess.
 *
 * The clock of an address space starts with the first failure for a page that a
 * thread waits for, and stops when that page comes. A background failure starts
 * it only when the source is there and has not got the page: nobody waits for
 * what is merely late. Once the deadline has passed, pages that fail soon after
 * it are as lost as the first: a task that touches a thousand of them must not
 * wait a thousand deadlines.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "restore/internal.h"

#define STOP_PASSES 20

void lost_found(struct lp_mm *mm, uint32_t obj, uint64_t img, uint64_t len)
{
	/* Rarely set; what another thread sets at this moment concerns another page or another try. */
	if (!atomic_load_explicit(&mm->lost_since, memory_order_relaxed))
		return;
	pthread_mutex_lock(&mm->r->lock);
	if (mm->lost_obj == obj && mm->lost_img >= img && mm->lost_img - img < len)
		atomic_store(&mm->lost_since, 0);
	pthread_mutex_unlock(&mm->r->lock);
}

static void say_lost(struct lp_mm *mm, uint32_t obj, uint64_t img, int why, const char *then)
{
	struct lp_source *src = mm->r->source;
	char where[512];

	pr_err("%d.%u: cannot get its page from %s: %s; given up after %" PRIu64 " s: %s", mm->pid, mm->id,
	       src->ops->where(src, obj, img, where, sizeof(where)), lp_source_strerror(why),
	       mm->r->conf->lost_after_ns / UINT64_C(1000000000), then);
}

bool lost_given_up(struct lp_mm *mm, uint32_t obj, uint64_t img, int why, bool waited)
{
	struct lp_restore *r = mm->r;
	uint64_t now = lp_now(), after = r->conf->lost_after_ns;
	bool due = false;

	if (r->conf->on_lost == LP_LOST_WAIT || (!waited && why == -ETIMEDOUT))
		return false;
	pthread_mutex_lock(&r->lock);
	if (now < mm->lost_until) {
		due = true;
	} else if (!atomic_load(&mm->lost_since)) {
		mm->lost_obj = obj;
		mm->lost_img = img;
		atomic_store(&mm->lost_since, now);
		due = !after;
	} else {
		due = now - atomic_load(&mm->lost_since) >= after;
	}
	if (due && r->conf->on_lost == LP_LOST_KILL) {
		if (!r->fatal)
			say_lost(mm, obj, img, why, "killing the restored tasks");
		lose_all(r);
		due = false;
	} else if (due) {
		if (now >= mm->lost_until)
			say_lost(mm, obj, img, why, "whoever touches it gets SIGBUS");
		/* The next ones need not wait as long, while this goes on. */
		mm->lost_until = now + after + UINT64_C(1000000000);
		if (mm->lost_obj == obj && mm->lost_img == img)
			atomic_store(&mm->lost_since, 0);
	}
	pthread_mutex_unlock(&r->lock);
	return due;
}

int lost_poison(struct lp_mm *mm, struct lp_flight *f)
{
	struct lp_restore *r = mm->r;
	const struct lp_piece *p = lp_flight_head(f);
	bool no_place = false;
	unsigned slot;
	int rc;

	if (!p)
		return 0;
	if (!mm_fill_begin(mm, &slot))
		return -EAGAIN;
	rc = lp_uffd_poison(mm->fd, p->addr, LP_PAGE_SIZE);
	/* Twice in a row: its place is gone for good, see fill_chunk(). */
	if (rc == -ENOENT && atomic_load(&r->armed)) {
		rc = lp_uffd_poison(mm->fd, p->addr, LP_PAGE_SIZE);
		no_place = rc == -ENOENT;
	}
	mm_fill_end(mm, slot);
	if (no_place) {
		pr_debug("%d.%u: no place for 0x%" PRIx64 " any more", mm->pid, mm->id, p->addr);
		atomic_fetch_add_explicit(&r->dropped, LP_PAGE_SIZE, memory_order_relaxed);
		note_filled(mm, p->addr, LP_PAGE_SIZE);
		eng_advance(f, LP_PAGE_SIZE);
		return 0;
	}
	switch (rc) {
	case 0:
		/* First that: whoever goes on finds the page there. */
		atomic_fetch_add(r->lost, LP_PAGE_SIZE);
		note_filled(mm, p->addr, LP_PAGE_SIZE);
		pr_info("%d.%u: 0x%" PRIx64 " is poisoned", mm->pid, mm->id, p->addr);
		break;
	case -EEXIST: /* it is there by now */
		break;
	case -EINVAL:
	case -ENOTTY:
	case -EOPNOTSUPP:
		pthread_mutex_lock(&r->lock);
		if (!r->fatal)
			pr_err("this kernel cannot poison pages (UFFDIO_POISON, Linux 6.6): killing the restored tasks");
		lose_all(r);
		pthread_mutex_unlock(&r->lock);
		return -EIO;
	default: /* EAGAIN, ENOENT, ESRCH: as for any fill */
		return rc;
	}
	eng_advance(f, LP_PAGE_SIZE);
	return 0;
}

/* ---- the end of the tree ---- */

struct pids {
	pid_t *v;
	int *fds; /* pidfds */
	size_t n, cap;
};

static bool known(const struct pids *p, pid_t pid)
{
	size_t i;

	for (i = 0; i < p->n; i++)
		if (p->v[i] == pid)
			return true;
	return false;
}

static pid_t parent_of(pid_t pid)
{
	char path[64], line[1024], *at;
	pid_t parent = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "re");
	if (f && fgets(line, sizeof(line), f)) {
		at = strrchr(line, ')');
		if (at && sscanf(at + 1, " %*c %d", &parent) != 1)
			parent = 0;
	}
	if (f)
		fclose(f);
	return parent;
}

/* Stopped as it is found, so that it makes no more children. True: it is new. */
static bool add(struct pids *p, pid_t pid, pid_t parent)
{
	int fd;

	if (known(p, pid))
		return false;
	if (p->n == p->cap) {
		size_t cap = p->cap ? p->cap * 2 : 64;
		pid_t *v = realloc(p->v, cap * sizeof(*v));
		int *fds;

		if (v)
			p->v = v;
		fds = realloc(p->fds, cap * sizeof(*fds));
		if (fds)
			p->fds = fds;
		if (!v || !fds)
			return false;
		p->cap = cap;
	}
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return false;
	/* The number may have been given to somebody else since it was read. */
	if (parent && parent_of(pid) != parent) {
		close(fd);
		return false;
	}
	syscall(SYS_pidfd_send_signal, fd, SIGSTOP, NULL, 0);
	p->v[p->n] = pid;
	p->fds[p->n++] = fd;
	return true;
}

static bool add_children(struct pids *p, pid_t pid)
{
	char path[64], name[400];
	struct dirent *d;
	bool found = false;
	long child;
	FILE *f;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s/children", path, d->d_name);
		f = fopen(name, "re");
		while (f && fscanf(f, "%ld", &child) == 1)
			found |= add(p, (pid_t)child, pid);
		if (f)
			fclose(f);
	}
	if (dir)
		closedir(dir);
	return found;
}

void kill_tasks(struct lp_restore *r)
{
	struct pids p = { 0 };
	bool found = true;
	struct lp_mm *mm;
	unsigned pass;
	size_t i;

	/* Children of forks were not handed over: they are found through their parents, while these live. */
	for (mm = r->mms; mm; mm = mm->next)
		if (mm->host_pid > 0 && mm->pidfd >= 0 && !syscall(SYS_pidfd_send_signal, mm->pidfd, 0, NULL, 0))
			add(&p, mm->host_pid, 0);
	for (pass = 0; found && pass < STOP_PASSES; pass++)
		for (found = false, i = 0; i < p.n; i++)
			found |= add_children(&p, p.v[i]);
	for (i = 0; i < p.n; i++) {
		syscall(SYS_pidfd_send_signal, p.fds[i], SIGKILL, NULL, 0);
		close(p.fds[i]);
	}
	for (mm = r->mms; mm; mm = mm->next)
		if (mm->pidfd >= 0)
			syscall(SYS_pidfd_send_signal, mm->pidfd, SIGKILL, NULL, 0);
	free(p.v);
	free(p.fds);
}

void lose_all(struct lp_restore *r)
{
	if (r->fatal)
		return;
	note_flag(r, LP_JF_FATAL);
	r->fatal = true;
	kill_tasks(r);
	kick_main(r);
}

void lose_tree(struct lp_restore *r, const struct lp_mm *mm, const char *why)
{
	pr_err("%d.%u: its memory layout is lost (%s): killing the restored tasks, since they would read wrong bytes; "
	       "restore again",
	       mm->pid, mm->id, why);
	RECORD(r, LP_REC_MARK, LP_MARK_LOST, mm->id);
	lose_all(r);
}
