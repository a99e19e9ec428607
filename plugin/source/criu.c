/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The source over a live connection (plugin/live) and the local files: each
 * page has one place, so every call goes to one of the two, in parts if need
 * be. Owns both and the memory that pages arrive in.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "live/live.h"
#include "source/criu.h"

/* Pages that have come and nobody has taken: so far ahead of the background. */
#define AHEAD (UINT64_C(64) << 20)
/* Pages that were taken are kept that far: children of forks, and fills that were refused, take them again. */
#define CACHE (UINT64_C(256) << 20)
/* In lp_window.priv_file: the window is ours, not the files'. */
#define OURS UINT32_MAX

struct criu {
	struct lp_source base;
	const struct lp_images *im;
	struct lp_criu_conf conf;
	struct lp_source *files;
	struct lp_live *live;
	struct lp_live_range *ranges;
	size_t nranges;
	uint8_t *mem;
	uint64_t mem_len;
	char name[300];
};

static struct criu *criu_of(struct lp_source *s)
{
	return (struct criu *)s;
}

static bool is_live(const struct criu *c, const struct lp_extent *x)
{
	return x->kind == LP_EXT_SOURCE ||
	       (c->conf.all && x->lazy && !lp_images_file(c->im, x->file)->depth);
}

static const struct lp_extent *lookup(const struct criu *c, uint32_t obj, uint64_t img)
{
	return lp_task_lookup(lp_images_task(c->im, obj), img, NULL);
}

/* Each extent's part of [img, img + len): from the connection or from the files. */
static int in_parts(struct criu *c, uint32_t obj, uint64_t img, uint8_t *buf, uint64_t len, bool sleep)
{
	const struct lp_extent *x;
	uint64_t n;
	int rc = 0;

	for (; !rc && len; img += n, buf += n, len -= n) {
		x = lookup(c, obj, img);
		if (!x)
			return -ENODATA;
		n = x->end - img < len ? x->end - img : len;
		if (!is_live(c, x))
			rc = (sleep ? c->files->ops->read : c->files->ops->try_read)(c->files, obj, img, buf, n);
		else if (sleep)
			rc = lp_live_read(c->live, obj, img, buf, n, c->conf.timeout_ms);
		else
			rc = lp_live_copy(c->live, obj, img, buf, n);
	}
	return rc;
}

static int criu_try_read(struct lp_source *s, uint32_t obj, uint64_t img, void *buf, uint64_t len)
{
	return in_parts(criu_of(s), obj, img, buf, len, false);
}

static int criu_read(struct lp_source *s, uint32_t obj, uint64_t img, void *buf, uint64_t len)
{
	return in_parts(criu_of(s), obj, img, buf, len, true);
}

static void criu_unmap(struct lp_source *s, struct lp_window *w)
{
	struct criu *c = criu_of(s);
	struct lp_live_pin pin;

	if (w->priv_file != OURS) {
		c->files->ops->unmap(c->files, w);
		return;
	}
	pin = (struct lp_live_pin){ .bytes = w->priv, .len = w->priv_len, .block = w->priv_key };
	lp_live_unpin(c->live, &pin);
	*w = (struct lp_window){ 0 };
}

static int criu_map(struct lp_source *s, struct lp_window *w, uint32_t obj, uint64_t img, uint64_t want)
{
	struct criu *c = criu_of(s);
	const struct lp_extent *x = lookup(c, obj, img);
	struct lp_live_pin pin;
	int rc;

	if (!x)
		return -ENODATA;
	if (w->priv_file == OURS)
		criu_unmap(s, w);
	if (!is_live(c, x))
		return c->files->ops->map(c->files, w, obj, img, want);
	criu_unmap(s, w);
	rc = lp_live_pin(c->live, obj, img, want, c->conf.timeout_ms, &pin);
	if (rc)
		return rc;
	*w = (struct lp_window){
		.obj = obj, .img = img, .end = img + pin.len, .bytes = pin.bytes,
		.priv = (void *)pin.bytes, .priv_len = pin.len, .priv_key = pin.block, .priv_file = OURS,
	};
	return 0;
}

static const char *criu_where(struct lp_source *s, uint32_t obj, uint64_t img, char *buf, size_t len)
{
	struct criu *c = criu_of(s);
	const struct lp_extent *x = lookup(c, obj, img);

	if (x && !is_live(c, x))
		return c->files->ops->where(c->files, obj, img, buf, len);
	snprintf(buf, len, "criu:%.64s, task %d, address 0x%" PRIx64, c->name, lp_images_task(c->im, obj)->pid, img);
	return buf;
}

static int criu_gone(struct lp_source *s)
{
	struct criu *c = criu_of(s);

	return lp_live_left(c->live) ? lp_live_lost(c->live) : 0;
}

static void criu_close(struct lp_source *s)
{
	struct criu *c = criu_of(s);

	if (c->live)
		lp_live_close(c->live, false);
	if (c->files)
		c->files->ops->close(c->files);
	if (c->mem)
		munmap(c->mem, c->mem_len);
	free(c->ranges);
	free(c);
}

static const struct lp_source_ops criu_ops = {
	.version = LP_SOURCE_VERSION,
	.name = "criu",
	.try_read = criu_try_read,
	.read = criu_read,
	.map = criu_map,
	.unmap = criu_unmap,
	.where = criu_where,
	.close = criu_close,
	.brought = true,
	.gone = criu_gone,
};

int lp_source_criu_done(struct lp_source *s)
{
	struct criu *c = criu_of(s);
	int rc = lp_live_close(c->live, true);

	c->live = NULL;
	return rc;
}

void lp_source_criu_stats(struct lp_source *s, uint64_t *bytes, uint64_t *requests)
{
	lp_live_stats(criu_of(s)->live, bytes, requests);
}

static int find_ranges(struct criu *c)
{
	size_t i, k, n = 0;
	uint8_t *mem;

	for (i = 0; i < lp_images_ntasks(c->im); i++)
		n += lp_images_task(c->im, i)->nextents;
	c->ranges = calloc(n + 1, sizeof(*c->ranges));
	if (!c->ranges)
		return -ENOMEM;
	for (i = 0; i < lp_images_ntasks(c->im); i++) {
		const struct lp_task *t = lp_images_task(c->im, i);

		for (k = 0; k < t->nextents; k++) {
			const struct lp_extent *x = &t->extents[k];

			if (!is_live(c, x))
				continue;
			c->ranges[c->nranges++] = (struct lp_live_range){
				.obj = (uint32_t)i, .pid = t->pid, .start = x->start, .end = x->end,
			};
			c->mem_len += x->end - x->start;
		}
	}
	if (!c->mem_len)
		return 0;
	/* Addresses only: memory comes with the pages and goes when they were taken. */
	c->mem = mmap(NULL, c->mem_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->mem == MAP_FAILED) {
		c->mem = NULL;
		return -errno;
	}
	/* Given back page by page. */
	madvise(c->mem, c->mem_len, MADV_NOHUGEPAGE);
	for (i = 0, mem = c->mem; i < c->nranges; i++) {
		c->ranges[i].mem = mem;
		mem += c->ranges[i].end - c->ranges[i].start;
	}
	return 0;
}

int lp_source_criu_open(const struct lp_images *im, const struct lp_criu_conf *conf, struct lp_source **out,
			struct lp_err *err)
{
	struct criu *c = calloc(1, sizeof(*c));
	struct lp_live_conf lc;
	int rc;

	if (!c)
		return lp_err(err, -ENOMEM, "out of memory");
	c->base.ops = &criu_ops;
	c->im = im;
	c->conf = *conf;
	lp_addr_str(&conf->addr, c->name, sizeof(c->name));
	rc = lp_source_local_part(im, &c->files, err);
	if (!rc) {
		rc = find_ranges(c);
		if (rc)
			lp_err_sys(err, rc, "no room for the pages of the source");
	}
	if (!rc) {
		lc = (struct lp_live_conf){
			.addr = conf->addr, .tls = conf->plain ? NULL : conf->tls,
			.layout = conf->layout ? conf->layout : lp_images_wide(im) ? LP_PS_32 : LP_PS_24,
			.timeout_ms = conf->timeout_ms, .ranges = c->ranges, .nranges = c->nranges, .ahead = AHEAD,
			.cache = conf->cache ? conf->cache : CACHE,
		};
		rc = lp_live_open(&lc, &c->live, err);
	}
	if (rc) {
		criu_close(&c->base);
		return rc;
	}
	pr_info("%s: %" PRIu64 " MiB are to come from there, headers of %d bytes", c->name, c->mem_len >> 20,
		(int)lc.layout);
	*out = &c->base;
	return 0;
}

/* ---- URLs ---- */

bool lp_criu_url_is(const char *s)
{
	return !strncmp(s, "criu:", 5);
}

int lp_criu_url_parse(const char *s, struct lp_criu_conf *conf, struct lp_err *err)
{
	char addr[300], *opt, *save = NULL, c;
	unsigned mib;
	int rc;

	if (!lp_criu_url_is(s) || snprintf(addr, sizeof(addr), "%s", s + 5) >= (int)sizeof(addr))
		return lp_err(err, -EINVAL, "`%s` is not criu:HOST:PORT", s);
	opt = strchr(addr, '?');
	if (opt)
		*opt++ = 0;
	rc = lp_addr_parse(addr, &conf->addr, err);
	for (opt = opt ? strtok_r(opt, "&", &save) : NULL; !rc && opt; opt = strtok_r(NULL, "&", &save)) {
		if (!strcmp(opt, "layout=24"))
			conf->layout = LP_PS_24;
		else if (!strcmp(opt, "layout=32"))
			conf->layout = LP_PS_32;
		else if (!strcmp(opt, "pages=all"))
			conf->all = true;
		else if (!strcmp(opt, "pages=missing"))
			conf->all = false;
		else if (!strcmp(opt, "tls=no"))
			conf->plain = true;
		else if (sscanf(opt, "cache=%u%c", &mib, &c) == 1 && mib)
			conf->cache = (uint64_t)mib << 20;
		else
			rc = lp_err(err, -EINVAL,
				    "%s: what is `%s`? layout=24, layout=32, pages=missing, pages=all, tls=no or cache=MiB", s, opt);
	}
	return rc;
}
