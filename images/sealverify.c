/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Comparing a whole checkpoint with its seal. Goes on after each flaw: who
 * mends a checkpoint wants to know all of them. struct verifier owns nothing
 * beyond the call.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "images/seal_int.h"

#define READ_STEP (UINT64_C(1) << 20)

struct verifier {
	struct lp_seal *s;
	struct lp_images chain; /* its directories */
	struct lp_seal_sums *sums;
	uint64_t total;
	uint8_t *buf;
	lp_seal_flaw flaw;
	lp_seal_progress progress;
	void *arg;
	/* Pages beside each other with the same flaw are told as one. */
	const char *run_what;
	uint64_t run_off, run_pages;
	char name[LP_NAME_MAX]; /* of the file that is looked at */
};

static void tell(struct verifier *v, const char *file, uint64_t off, uint64_t pages, const char *what)
{
	v->sums->flaws++;
	v->flaw(v->arg, file, off, pages, what);
}

static void run_end(struct verifier *v)
{
	if (v->run_pages)
		tell(v, v->name, v->run_off, v->run_pages, v->run_what);
	v->run_pages = 0;
}

/* @what NULL: the page at @off is good. */
static void page_is(struct verifier *v, uint64_t off, const char *what)
{
	if (v->run_pages && (!what || strcmp(what, v->run_what)))
		run_end(v);
	if (!what)
		return;
	if (!v->run_pages) {
		v->run_off = off;
		v->run_what = what;
	}
	v->run_pages++;
}

/* strerror() for what lasts beyond the next call. */
static const char *unreadable(int rc)
{
	return rc == -EIO ? "cannot be read (Input/output error)" : "cannot be read";
}

/* The @n bytes at @off of the file, whose first page has number @first in the table. */
static void check_step(struct verifier *v, int fd, uint64_t first, uint64_t off, uint64_t n)
{
	uint8_t sums[LP_SEAL_BLOCK * 8];
	uint64_t k, len, page, from = 0, have = 0;
	int rc, block_rc = 0, step_rc = seal_pread(fd, v->buf, n, off, false);

	for (k = 0; k < n; k += LP_SEAL_PAGE) {
		len = n - k < LP_SEAL_PAGE ? n - k : LP_SEAL_PAGE;
		page = first + (off + k) / LP_SEAL_PAGE;
		if (page >= from + have) {
			block_rc = seal_block(v->s, page, false, sums, &have);
			from = page / LP_SEAL_BLOCK * LP_SEAL_BLOCK;
		}
		/* Which of them is it? */
		rc = step_rc ? seal_pread(fd, v->buf + k, len, off + k, false) : 0;
		if (rc)
			page_is(v, off + k, unreadable(rc));
		else if (block_rc)
			page_is(v, off + k, "not verified: the seal is damaged there");
		else if (lp_seal_sum(v->buf + k, len) != lp_seal_get_u64(sums + 8 * (page - from)))
			page_is(v, off + k, "its checksum is not that of the seal");
		else
			page_is(v, off + k, NULL);
	}
}

static void check_pages(struct verifier *v, const struct lp_seal_file *f)
{
	const struct lp_imgdir *d = &v->chain.dirs[f->depth];
	uint64_t size, off, n;
	struct lp_err err;
	char file[32];
	int fd;

	snprintf(file, sizeof(file), "pages-%" PRIu32 ".img", f->id);
	lp_imgdir_name(d, file, v->name);
	fd = lp_open_regular(d, file, v->name, &size, &err);
	if (fd < 0) {
		tell(v, v->name, 0, 0, err.msg);
		return;
	}
	if (size != f->size) {
		snprintf(err.msg, sizeof(err.msg), "%" PRIu64 " bytes, but %" PRIu64 " when it was sealed", size, f->size);
		tell(v, v->name, 0, 0, err.msg);
	}
	size = size < f->size ? size : f->size;
	for (off = 0; off < size; off += n) {
		n = size - off < READ_STEP ? size - off : READ_STEP;
		/* Of a page that is cut in two only the size is told. */
		if (size != f->size && n < READ_STEP)
			n -= n % LP_SEAL_PAGE;
		if (!n)
			break;
		check_step(v, fd, f->first, off, n);
		v->sums->bytes += n;
		v->sums->pages += lp_seal_pages(n);
		if (v->progress)
			v->progress(v->arg, v->sums->bytes, v->total);
	}
	run_end(v);
	close(fd);
	v->sums->files++;
}

static void check_small(struct verifier *v, const struct lp_seal_small *m)
{
	char file[LP_SEAL_NAME_MAX + 1];
	struct lp_err err;
	uint64_t size = 0;
	uint8_t sum[16];

	memcpy(file, m->name, m->name_len);
	file[m->name_len] = 0;
	lp_imgdir_name(&v->chain.dirs[m->depth], file, v->name);
	if (seal_sum_file(&v->chain.dirs[m->depth], file, v->name, sum, &size, &err))
		tell(v, v->name, 0, 0, err.msg);
	else if (size != m->size)
		tell(v, v->name, 0, 0, size < m->size ? "shorter than when it was sealed" : "longer than when it was sealed");
	else if (memcmp(sum, m->sum, 16))
		tell(v, v->name, 0, 0, "its checksum is not that of the seal");
	v->sums->small++;
}

/* A file that has come later is not what was sealed. */
static int check_known(void *arg, const struct lp_imgdir *d, const char *name)
{
	struct verifier *v = arg;
	uint32_t id = 0, i;
	bool found = false;

	if (seal_is_pages(name, &id)) {
		for (i = 0; !found && i < v->s->h.nfiles; i++)
			found = v->s->h.files[i].depth == d->depth && v->s->h.files[i].id == id;
	} else {
		for (i = 0; !found && i < v->s->h.nsmall; i++)
			found = v->s->h.small[i].depth == d->depth && v->s->h.small[i].name_len == strlen(name) &&
				!memcmp(v->s->h.small[i].name, name, v->s->h.small[i].name_len);
	}
	if (!found) {
		lp_imgdir_name(d, name, v->name);
		tell(v, v->name, 0, 0, "it was not there when the checkpoint was sealed");
	}
	return 0;
}

/* Parents that are gone are told once, not for each of their files. */
static bool have_depth(struct verifier *v, uint32_t depth, bool *told)
{
	if (depth < v->chain.ndirs)
		return true;
	if (!*told)
		tell(v, "parent", 0, 0, "a parent that was sealed is missing: restore the symlink");
	*told = true;
	return false;
}

static void verify(struct verifier *v, const struct lp_images *im, const char *dir)
{
	uint8_t ident[LP_IMAGES_IDENT_LEN];
	struct lp_err err;
	bool told = false;
	unsigned i;

	for (i = 0; i < v->s->h.nfiles; i++)
		v->total += v->s->h.files[i].size;
	for (i = 0; i < v->chain.ndirs; i++)
		if (seal_list(&v->chain.dirs[i], check_known, v, &err))
			tell(v, dir, 0, 0, err.msg);
	for (i = 0; i < v->s->h.nsmall; i++)
		if (have_depth(v, v->s->h.small[i].depth, &told))
			check_small(v, &v->s->h.small[i]);
	/* With other flaws it goes without saying. */
	if (im && !v->sums->flaws) {
		if (lp_images_ident(im, dir, ident, &err))
			tell(v, dir, 0, 0, err.msg);
		else if (memcmp(ident, v->s->h.ident, sizeof(ident)))
			tell(v, LP_SEAL_FILE, 0, 0, "it is the seal of another checkpoint");
	}
	for (i = 0; i < v->s->h.nfiles; i++)
		if (have_depth(v, v->s->h.files[i].depth, &told))
			check_pages(v, &v->s->h.files[i]);
}

int lp_seal_verify(const struct lp_images *im, const char *dir, lp_seal_flaw flaw, lp_seal_progress progress,
		   void *arg, struct lp_seal_sums *sums, struct lp_err *err)
{
	struct verifier v = { .sums = sums, .flaw = flaw, .progress = progress, .arg = arg };
	int rc;

	memset(sums, 0, sizeof(*sums));
	v.buf = malloc(READ_STEP);
	rc = v.buf ? lp_open_dirs(&v.chain, dir, err) : lp_err(err, -ENOMEM, "%s: no memory", dir);
	if (!rc)
		rc = seal_load(v.chain.dirs[0].fd, &v.s, err);
	if (!rc) {
		verify(&v, im, dir);
		lp_seal_close(v.s);
	}
	lp_close_dirs(&v.chain);
	free(v.buf);
	return rc;
}
