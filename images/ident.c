/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The identity of a checkpoint, see thin.h. Two dumps of one program may agree
 * in all VMAs and ranges; inventory (with the time of the dump) and registers
 * tell them apart.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "images/internal.h"
#include "images/thin.h"

static void add(XXH3_state_t *h, const void *p, size_t n)
{
	XXH3_128bits_update(h, p, n);
}

static void add_u64(XXH3_state_t *h, uint64_t v)
{
	uint8_t b[8];
	unsigned i;

	for (i = 0; i < 8; i++)
		b[i] = (uint8_t)(v >> (8 * i));
	add(h, b, sizeof(b));
}

static int add_file(XXH3_state_t *h, const struct lp_imgdir *d, const char *name, struct lp_err *err)
{
	uint8_t buf[4096];
	uint64_t size;
	ssize_t n;
	int fd, rc = 0;

	fd = lp_open_regular(d, name, name, &size, err);
	if (fd < 0)
		return fd;
	add_u64(h, size);
	do {
		n = read(fd, buf, sizeof(buf));
		if (n > 0)
			add(h, buf, n);
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0)
		rc = lp_err_sys(err, -errno, "%s: cannot read it", name);
	close(fd);
	return rc;
}

struct ranges {
	XXH3_state_t *h;
	uint64_t start, end;
};

/* Pieces that follow each other are one range, whatever files they are in. */
static int add_range(void *arg, const struct lp_extent *piece, bool lazy)
{
	struct ranges *r = arg;

	if (!lazy)
		return 0;
	if (piece->start != r->end || r->end == 0) {
		add_u64(r->h, r->start);
		add_u64(r->h, r->end);
		r->start = piece->start;
	}
	r->end = piece->end;
	return 0;
}

static void add_task(XXH3_state_t *h, const struct lp_task *t)
{
	struct ranges r = { .h = h };
	size_t i;

	add_u64(h, (uint32_t)t->pid);
	add_u64(h, t->has_mm);
	add_u64(h, t->nvmas);
	for (i = 0; i < t->nvmas; i++) {
		const struct lp_vma *v = &t->vmas[i];

		add_u64(h, v->start);
		add_u64(h, v->end);
		add_u64(h, (uint64_t)v->flags << 32 | v->prot);
		add_u64(h, v->madv);
		add_u64(h, v->lazy);
	}
	(void)lp_thin_pieces(t, add_range, &r);
	add_u64(h, r.start);
	add_u64(h, r.end);
}

static int add_all(XXH3_state_t *h, const struct lp_images *im, const struct lp_imgdir *d, struct lp_err *err)
{
	char name[32];
	size_t i;
	int rc;

	rc = add_file(h, d, "inventory.img", err);
	if (!rc)
		rc = add_file(h, d, "pstree.img", err);
	for (i = 0; !rc && i < im->ntasks; i++) {
		snprintf(name, sizeof(name), "core-%" PRId32 ".img", im->tasks[i].pid);
		rc = add_file(h, d, name, err);
		add_task(h, &im->tasks[i]);
	}
	return rc;
}

int lp_images_ident(const struct lp_images *im, const char *dir, uint8_t ident[LP_IMAGES_IDENT_LEN],
		    struct lp_err *err)
{
	XXH3_state_t *h = XXH3_createState();
	struct lp_imgdir d = { 0 };
	XXH128_canonical_t sum;
	int rc;

	if (!h)
		return lp_err(err, -ENOMEM, "%s: no memory", dir);
	d.fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (d.fd < 0) {
		rc = lp_err_sys(err, -errno, "%s: cannot open the checkpoint directory", dir);
		goto out;
	}
	XXH3_128bits_reset(h);
	rc = add_all(h, im, &d, err);
	close(d.fd);
	if (!rc) {
		XXH128_canonicalFromHash(&sum, XXH3_128bits_digest(h));
		memcpy(ident, sum.digest, LP_IMAGES_IDENT_LEN);
	}
out:
	XXH3_freeState(h);
	return rc;
}
