/* SPDX-License-Identifier: GPL-2.0-only */
/* The life of a relay; see relay.h. The directory is made in relay_dir.c. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "serve/relay_int.h"

#define LOOK_NS 200000000

enum state {
	PENDING,  /* no images yet, or no source */
	DRAINING, /* clients are served */
	COMPLETE, /* an ordinary checkpoint now */
	FAILED,
};

static void nap(void)
{
	const struct timespec t = { .tv_nsec = LOOK_NS };

	nanosleep(&t, NULL);
}

/* Of the live source's thread: connections wait for pages in all loops. */
static void arrived(void *arg)
{
	struct relay *r = arg;
	struct server *srv = r->srv;
	unsigned i;

	for (i = 0; i < URGENT_LOOPS; i++)
		loop_news(&srv->urgent[i]);
	for (i = 0; i < srv->nbulk; i++)
		loop_news(&srv->bulk[i]);
}

/* Where the pages that only the source has go: into the mapped files of the new directory. */
static int find_ranges(struct relay *r, struct lp_err *err)
{
	size_t i, k, n = 0;

	for (i = 0; i < lp_images_ntasks(r->thin); i++)
		n += lp_images_task(r->thin, i)->nextents;
	r->ranges = calloc(n + 1, sizeof(*r->ranges));
	if (!r->ranges)
		return lp_err(err, -ENOMEM, "out of memory");
	for (i = 0; i < lp_images_ntasks(r->thin); i++) {
		const struct lp_task *t = lp_images_task(r->thin, i), *ft = lp_images_task(r->full, i);

		for (k = 0; k < t->nextents; k++) {
			const struct lp_extent *x = &t->extents[k], *f;

			if (x->kind != LP_EXT_SOURCE)
				continue;
			f = lp_task_lookup(ft, x->start, NULL);
			if (!f || f->kind != LP_EXT_DATA || f->end < x->end)
				return lp_err(err, -EINVAL, "%s: its images have changed meanwhile", r->conf->name);
			r->ranges[r->nranges++] = (struct lp_live_range){
				.obj = (uint32_t)i, .pid = t->pid, .start = x->start, .end = x->end,
				.mem = r->maps[f->file] + f->off + (x->start - f->start),
			};
		}
	}
	return 0;
}

static int map_files(struct relay *r, struct lp_err *err)
{
	size_t i, n = lp_images_nfiles(r->full);
	char path[4200];
	void *p;
	int fd;

	r->maps = calloc(n + 1, sizeof(*r->maps));
	if (!r->maps)
		return lp_err(err, -ENOMEM, "out of memory");
	for (i = 0; i < n; i++) {
		const struct lp_pages_file *f = lp_images_file(r->full, i);

		if (!f->size)
			continue;
		snprintf(path, sizeof(path), "%s/%s", r->dir, f->name);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd < 0)
			return lp_err_sys(err, -errno, "%s", path);
		p = mmap(NULL, f->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (p == MAP_FAILED)
			return lp_err_sys(err, -errno, "%s: cannot map it", path);
		r->maps[i] = p;
	}
	return 0;
}

/* From images to a source that has answered. -EAGAIN: not yet. */
static int begin(struct relay *r, struct lp_err *err)
{
	struct lp_live_conf conf;
	struct lp_tls *tls;
	size_t i, k;
	bool any = false;
	int rc;

	rc = store_where(r->srv->store, r->conf->name, &r->from);
	if (rc)
		return -EAGAIN; /* the dump is still at it, or nobody has pushed it */
	rc = lp_images_open(r->from, &r->thin, err);
	if (rc)
		return rc;
	for (i = 0; i < lp_images_ntasks(r->thin); i++)
		for (k = 0; k < lp_images_task(r->thin, i)->nextents; k++)
			any |= lp_images_task(r->thin, i)->extents[k].kind == LP_EXT_SOURCE;
	if (!any)
		return 1;
	rc = relay_make_dir(r, err);
	if (!rc)
		rc = lp_images_open(r->dir, &r->full, err);
	if (!rc)
		rc = map_files(r, err);
	if (!rc)
		rc = find_ranges(r, err);
	if (rc)
		return rc;
	tls = r->conf->plain ? NULL : server_tls(r->srv);
	conf = (struct lp_live_conf){
		.addr = r->conf->addr,
		.layout = r->conf->layout ? (enum lp_ps_layout)r->conf->layout :
			  lp_images_wide(r->thin) ? LP_PS_32 : LP_PS_24,
		.tls = tls, .timeout_ms = 10000, .ranges = r->ranges, .nranges = r->nranges, .keep = true,
		.arrived = arrived, .arg = r,
	};
	/* The images may be here before the dump has begun to serve, but not the other way round. */
	do {
		rc = lp_live_open(&conf, &r->live, err);
	} while ((rc == -ECONNREFUSED || rc == -EHOSTUNREACH || rc == -ENETUNREACH ||
		  rc == -EAGAIN /* no name server */) &&
		 !atomic_load(&r->srv->stopping) && (nap(), true));
	lp_tls_put(tls);
	return rc;
}

static int drain(struct relay *r, struct lp_err *err)
{
	uint64_t t0 = lp_now(), bytes, requests;
	char size[16];
	int rc;

	rc = lp_live_start(r->live);
	if (rc)
		return lp_err_sys(err, rc, "%s: cannot start a thread", r->conf->name);
	while (lp_live_left(r->live)) {
		if (atomic_load(&r->srv->leave))
			return lp_err(err, -EINTR, "%s: told to leave before its source was drained", r->conf->name);
		rc = lp_live_lost(r->live);
		if (rc)
			return lp_err_sys(err, rc, "%s: the source is lost with %llu bytes that had not come", r->conf->name,
					  (unsigned long long)lp_live_left(r->live));
		nap();
	}
	/* The source may be gone after this: first to the disk. */
	rc = relay_settle_dir(r, err);
	if (rc)
		return rc;
	rc = lp_live_finish(r->live);
	if (rc)
		pr_warn("%s: all pages have come, but their source did not take leave: %s", r->conf->name, strerror(-rc));
	lp_live_stats(r->live, &bytes, &requests);
	pr_msg("%s: its source is drained: %s in %.3f s", r->conf->name, lp_size_str(bytes, size, sizeof(size)),
	       (lp_now() - t0) / 1e9);
	return 0;
}

static void *relay_main(void *arg)
{
	struct relay *r = arg;
	struct lp_err err = { "" };
	int rc;

	do {
		rc = begin(r, &err);
		if (rc == -EAGAIN)
			nap();
	} while (rc == -EAGAIN && !atomic_load(&r->srv->stopping));
	if (!rc) {
		pr_msg("%s: its pages come from %s", r->conf->name, r->conf->text);
		atomic_store(&r->state, DRAINING);
		rc = drain(r, &err);
	}
	if (rc < 0 && rc != -EAGAIN)
		pr_err("%s: relay of %s: %s", r->conf->name, r->conf->text, err.msg);
	if (rc >= 0)
		atomic_store(&r->state, COMPLETE);
	else
		atomic_store(&r->state, FAILED);
	arrived(r); /* who waits shall hear of it */
	return NULL;
}

int relays_start(struct server *srv, struct lp_err *err)
{
	size_t i, n = srv->conf->nlive;
	int rc;

	srv->relays = calloc(n + 1, sizeof(*srv->relays));
	if (!srv->relays)
		return lp_err(err, -ENOMEM, "out of memory");
	for (i = 0; i < n; i++) {
		struct relay *r = calloc(1, sizeof(*r));

		if (!r)
			return lp_err(err, -ENOMEM, "out of memory");
		r->srv = srv;
		r->conf = &srv->conf->live[i];
		srv->relays[i] = r;
		srv->nrelays++;
		rc = -pthread_create(&r->thread, NULL, relay_main, r);
		if (rc) {
			r->thread = 0;
			return lp_err_sys(err, rc, "cannot start a thread");
		}
	}
	return 0;
}

void relays_stop(struct server *srv)
{
	size_t i, k;

	for (i = 0; i < srv->nrelays; i++) {
		struct relay *r = srv->relays[i];

		if (r->thread)
			pthread_join(r->thread, NULL);
		if (r->live)
			lp_live_close(r->live, atomic_load(&r->state) == COMPLETE);
		for (k = 0; r->maps && k < lp_images_nfiles(r->full); k++)
			if (r->maps[k])
				munmap(r->maps[k], lp_images_file(r->full, k)->size);
		free(r->maps);
		free(r->ranges);
		lp_images_close(r->thin);
		lp_images_close(r->full);
		free(r->from);
		free(r->dir);
		free(r);
	}
	free(srv->relays);
	srv->relays = NULL;
	srv->nrelays = 0;
}

bool relays_busy(struct server *srv)
{
	size_t i;

	for (i = 0; i < srv->nrelays; i++)
		if (atomic_load(&srv->relays[i]->state) == DRAINING)
			return true;
	return false;
}

static struct relay *named(struct server *srv, const char *name)
{
	size_t i;

	for (i = 0; i < srv->nrelays; i++)
		if (!strcmp(srv->relays[i]->conf->name, name))
			return srv->relays[i];
	return NULL;
}

struct relay *relay_find(struct server *srv, const char *name, const char **dir)
{
	struct relay *r = named(srv, name);

	/* A failed one goes on serving what has come. */
	if (!r || !r->live || (atomic_load(&r->state) != DRAINING && atomic_load(&r->state) != FAILED))
		return NULL;
	*dir = r->dir;
	return r;
}

bool relay_pending(struct server *srv, const char *name)
{
	struct relay *r = named(srv, name);

	return r && atomic_load(&r->state) == PENDING;
}

bool server_live(struct server *srv, const char *name)
{
	size_t i;

	for (i = 0; i < srv->conf->nlive; i++)
		if (!strcmp(srv->conf->live[i].name, name))
			return true;
	return false;
}

int relay_has(struct relay *r, uint32_t obj, uint64_t addr, uint64_t len, bool want)
{
	const struct lp_task *t = lp_images_task(r->thin, obj);
	const struct lp_extent *x, *next;
	uint64_t end = addr + len, part;
	int has = 1;

	if (atomic_load(&r->state) == COMPLETE)
		return 1;
	while (addr < end) {
		x = lp_task_lookup(t, addr, &next);
		if (!x) {
			if (!next)
				break;
			addr = next->start;
			continue;
		}
		part = (x->end < end ? x->end : end) - addr;
		if (x->kind == LP_EXT_SOURCE && !lp_live_has(r->live, obj, addr, part)) {
			if (lp_live_lost(r->live) || atomic_load(&r->state) == FAILED)
				return -EIO;
			has = 0;
			if (!want)
				return 0;
			lp_live_want(r->live, obj, addr, part);
		}
		addr += part;
	}
	return has;
}

int relay_await(struct relay *r, uint32_t obj, uint64_t addr, uint64_t len, const _Atomic bool *stop)
{
	const struct timespec t = { .tv_nsec = 200000 };
	int has;

	while (!(has = relay_has(r, obj, addr, len, true))) {
		if (stop && atomic_load(stop))
			return -EINTR;
		nanosleep(&t, NULL);
	}
	return has < 0 ? has : 0;
}
