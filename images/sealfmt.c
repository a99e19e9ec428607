/* SPDX-License-Identifier: GPL-2.0-only */
/* The codec of `lazypages.seal`, see sealfmt.h. Owns only the arrays of a decoded head. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "images/sealfmt.h"

static const uint8_t magic[8] = { 'L', 'P', 'S', 'E', 'A', 'L', '\r', '\n' };

#define FILE_LEN  16u
#define SMALL_LEN 32u /* and the name */
#define TAIL_LEN  16u

uint64_t lp_seal_sum(const void *p, size_t len)
{
	return XXH3_64bits(p, len);
}

void lp_seal_put_u64(uint8_t *p, uint64_t v)
{
	unsigned i;

	for (i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

uint64_t lp_seal_get_u64(const uint8_t *p)
{
	uint64_t v = 0;
	unsigned i;

	for (i = 0; i < 8; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

static void put_u32(uint8_t *p, uint32_t v)
{
	unsigned i;

	for (i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get_u32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t padded(uint64_t n)
{
	return (n + 7) & ~UINT64_C(7);
}

static void tail_sum(const uint8_t *buf, uint64_t len, uint8_t sum[TAIL_LEN])
{
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, XXH3_128bits(buf, len));
	memcpy(sum, c.digest, TAIL_LEN);
}

static int damaged(struct lp_err *err, const char *what)
{
	return lp_err(err, -EBADMSG,
		      LP_SEAL_FILE ": damaged: %s: seal the checkpoint again, if it is known to be good", what);
}

int lp_seal_head_len(const uint8_t fixed[LP_SEAL_FIXED], uint64_t *len, struct lp_err *err)
{
	uint32_t version = get_u32(fixed + 8);

	if (memcmp(fixed, magic, sizeof(magic)))
		return damaged(err, "it does not begin as one");
	if (lp_seal_get_u64(fixed + 56) != lp_seal_sum(fixed, 56))
		return damaged(err, "the checksum of its first bytes is wrong");
	if (version != LP_SEAL_VERSION)
		return lp_err(err, -ENOTSUP, LP_SEAL_FILE ": it has version %" PRIu32 ", known is %u: upgrade lazypages or seal again",
			      version, LP_SEAL_VERSION);
	if (get_u32(fixed + 12) != LP_SEAL_PAGE)
		return lp_err(err, -ENOTSUP, LP_SEAL_FILE ": it is for pages of %" PRIu32 " bytes, not %u: seal again here",
			      get_u32(fixed + 12), LP_SEAL_PAGE);
	*len = lp_seal_get_u64(fixed + 32);
	if (*len > LP_SEAL_HEAD_MAX || *len < LP_SEAL_FIXED + TAIL_LEN || *len % 8)
		return damaged(err, "its head has an impossible length");
	return 0;
}

static int name_ok(const char *s, uint32_t n)
{
	return n && n <= LP_SEAL_NAME_MAX && !memchr(s, 0, n) && !memchr(s, '/', n) && !(n == 1 && s[0] == '.') &&
	       !(n == 2 && s[0] == '.' && s[1] == '.');
}

static int file_before(const struct lp_seal_file *a, const struct lp_seal_file *b)
{
	return a->depth != b->depth ? a->depth < b->depth : a->id < b->id;
}

static int small_before(const struct lp_seal_small *a, const struct lp_seal_small *b)
{
	uint32_t n = a->name_len < b->name_len ? a->name_len : b->name_len;
	int c;

	if (a->depth != b->depth)
		return a->depth < b->depth;
	c = memcmp(a->name, b->name, n);
	return c ? c < 0 : a->name_len < b->name_len;
}

/* Both lists lie in [buf, end); the checksum was right, so what is wrong here was written by somebody hostile. */
static int get_lists(const uint8_t *buf, const uint8_t *end, struct lp_seal_head *h, const uint8_t **rest,
		     struct lp_err *err)
{
	const uint8_t *p = buf;
	uint64_t pages = 0;
	uint32_t i;

	for (i = 0; i < h->nfiles; i++, p += FILE_LEN) {
		struct lp_seal_file *f = &h->files[i];

		f->depth = get_u32(p);
		f->id = get_u32(p + 4);
		f->size = lp_seal_get_u64(p + 8);
		f->first = pages;
		if (i && !file_before(f - 1, f))
			return damaged(err, "its pages files are not sorted");
		if (lp_seal_pages(f->size) > h->npages - pages)
			return damaged(err, "its pages files have more pages than it says");
		pages += lp_seal_pages(f->size);
	}
	if (pages != h->npages)
		return damaged(err, "its pages files have fewer pages than it says");
	for (i = 0; i < h->nsmall; i++) {
		struct lp_seal_small *s = &h->small[i];

		if ((uint64_t)(end - p) < SMALL_LEN)
			return damaged(err, "its list of files is cut short");
		s->depth = get_u32(p);
		s->name_len = get_u32(p + 4);
		s->size = lp_seal_get_u64(p + 8);
		memcpy(s->sum, p + 16, 16);
		s->name = (const char *)p + SMALL_LEN;
		if (s->name_len > LP_SEAL_NAME_MAX || (uint64_t)(end - p) < SMALL_LEN + padded(s->name_len))
			return damaged(err, "its list of files is cut short");
		if (!name_ok(s->name, s->name_len))
			return damaged(err, "a name in it is none of a file");
		for (p += SMALL_LEN + s->name_len; (p - buf) % 8; p++)
			if (*p)
				return damaged(err, "there is something behind a name");
		if (i && !small_before(s - 1, s))
			return damaged(err, "its small files are not sorted");
	}
	*rest = p;
	return 0;
}

int lp_seal_head_get(const uint8_t *buf, uint64_t len, uint64_t file_size, struct lp_seal_head *h,
		     struct lp_err *err)
{
	uint8_t sum[TAIL_LEN];
	const uint8_t *end, *p = buf;
	uint64_t want;
	int rc;

	memset(h, 0, sizeof(*h));
	if (len < LP_SEAL_FIXED)
		return damaged(err, "it is cut short");
	rc = lp_seal_head_len(buf, &want, err);
	if (rc)
		return rc;
	if (len != want)
		return damaged(err, "it is cut short");
	tail_sum(buf, len - TAIL_LEN, sum);
	if (memcmp(sum, buf + len - TAIL_LEN, TAIL_LEN))
		return damaged(err, "the checksum of its head is wrong");
	memcpy(h->ident, buf + 16, 16);
	h->nfiles = get_u32(buf + 40);
	h->nsmall = get_u32(buf + 44);
	h->npages = lp_seal_get_u64(buf + 48);
	h->nblocks = h->npages / LP_SEAL_BLOCK + (h->npages % LP_SEAL_BLOCK != 0);
	h->len = len;
	/* Bounded by bytes that are really there, before anything is allocated. */
	end = buf + len - TAIL_LEN;
	want = len - LP_SEAL_FIXED - TAIL_LEN;
	if (h->nblocks > want / 8 || h->nfiles > (want - 8 * h->nblocks) / FILE_LEN ||
	    h->nsmall > (want - 8 * h->nblocks - (uint64_t)h->nfiles * FILE_LEN) / SMALL_LEN)
		return damaged(err, "its head is too short for what it says");
	if (file_size < len || file_size - len != 8 * h->npages)
		return damaged(err, "its table of sums is cut short, or something follows it");
	h->files = calloc(h->nfiles + 1, sizeof(*h->files));
	h->small = calloc((size_t)h->nsmall + 1, sizeof(*h->small));
	if (!h->files || !h->small)
		rc = lp_err(err, -ENOMEM, LP_SEAL_FILE ": no memory for a seal of %" PRIu64 " pages", h->npages);
	else
		rc = get_lists(buf + LP_SEAL_FIXED, end, h, &p, err);
	if (!rc && (uint64_t)(end - p) != 8 * h->nblocks)
		rc = damaged(err, "its head is longer than what it says");
	if (rc) {
		lp_seal_head_free(h);
		return rc;
	}
	h->blocks = p;
	return 0;
}

void lp_seal_head_free(struct lp_seal_head *h)
{
	free(h->files);
	free(h->small);
	h->files = NULL;
	h->small = NULL;
}

int lp_seal_head_plan(struct lp_seal_head *h)
{
	uint32_t i;

	h->npages = 0;
	h->len = LP_SEAL_FIXED + (uint64_t)h->nfiles * FILE_LEN + TAIL_LEN;
	for (i = 0; i < h->nfiles; i++) {
		if (i && !file_before(&h->files[i - 1], &h->files[i]))
			return -EINVAL;
		h->files[i].first = h->npages;
		if (lp_seal_pages(h->files[i].size) > UINT64_MAX / LP_SEAL_PAGE - h->npages)
			return -EINVAL;
		h->npages += lp_seal_pages(h->files[i].size);
	}
	for (i = 0; i < h->nsmall; i++) {
		if (!name_ok(h->small[i].name, h->small[i].name_len) ||
		    (i && !small_before(&h->small[i - 1], &h->small[i])))
			return -EINVAL;
		h->len += SMALL_LEN + padded(h->small[i].name_len);
	}
	h->nblocks = h->npages / LP_SEAL_BLOCK + (h->npages % LP_SEAL_BLOCK != 0);
	if (h->nblocks > LP_SEAL_HEAD_MAX / 8)
		return -EINVAL;
	h->len += 8 * h->nblocks;
	return h->len > LP_SEAL_HEAD_MAX ? -EINVAL : 0;
}

int lp_seal_head_put(const struct lp_seal_head *h, const uint64_t *sums, uint8_t **buf)
{
	uint8_t *b = calloc(1, h->len), *p = b;
	uint64_t k;
	uint32_t i;

	if (!b)
		return -ENOMEM;
	memcpy(p, magic, sizeof(magic));
	put_u32(p + 8, LP_SEAL_VERSION);
	put_u32(p + 12, LP_SEAL_PAGE);
	memcpy(p + 16, h->ident, 16);
	lp_seal_put_u64(p + 32, h->len);
	put_u32(p + 40, h->nfiles);
	put_u32(p + 44, h->nsmall);
	lp_seal_put_u64(p + 48, h->npages);
	lp_seal_put_u64(p + 56, lp_seal_sum(p, 56));
	p += LP_SEAL_FIXED;
	for (i = 0; i < h->nfiles; i++, p += FILE_LEN) {
		put_u32(p, h->files[i].depth);
		put_u32(p + 4, h->files[i].id);
		lp_seal_put_u64(p + 8, h->files[i].size);
	}
	for (i = 0; i < h->nsmall; i++) {
		const struct lp_seal_small *s = &h->small[i];

		put_u32(p, s->depth);
		put_u32(p + 4, s->name_len);
		lp_seal_put_u64(p + 8, s->size);
		memcpy(p + 16, s->sum, 16);
		memcpy(p + SMALL_LEN, s->name, s->name_len);
		p += SMALL_LEN + padded(s->name_len);
	}
	for (k = 0; k < h->nblocks; k++, p += 8)
		lp_seal_put_u64(p, sums[k]);
	tail_sum(b, p - b, p);
	*buf = b;
	return 0;
}
