/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: the head of a seal from somebody hostile, as it is and with
 * its checksums and length mended, so that what is behind them is reached. What
 * is accepted must encode to the same bytes again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "images/sealfmt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

static void one(const uint8_t *p, size_t len, uint64_t file_size)
{
	struct lp_seal_head h, again;
	uint64_t *sums, i;
	struct lp_err err;
	uint8_t *buf;
	int rc;

	rc = lp_seal_head_get(p, len, file_size, &h, &err);
	MUST(rc == 0 || rc == -EBADMSG || rc == -ENOTSUP);
	if (rc)
		return;
	MUST(file_size == len + 8 * h.npages && h.blocks + 8 * h.nblocks + 16 == p + len);
	sums = calloc(h.nblocks + 1, sizeof(*sums));
	for (i = 0; i < h.nblocks; i++)
		sums[i] = lp_seal_get_u64(h.blocks + 8 * i);
	again = h;
	MUST(!lp_seal_head_plan(&again));
	MUST(again.npages == h.npages && again.nblocks == h.nblocks && again.len == len);
	MUST(!lp_seal_head_put(&again, sums, &buf));
	MUST(!memcmp(buf, p, len));
	free(buf);
	free(sums);
	lp_seal_head_free(&h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t begin[16] = { 'L', 'P', 'S', 'E', 'A', 'L', '\r', '\n', 1, 0, 0, 0, 0, 16, 0, 0 };
	XXH128_canonical_t c;
	uint8_t *p;

	one(data, size, size);
	if (size < LP_SEAL_FIXED + 16 || size % 8)
		return 0;
	p = malloc(size);
	memcpy(p, data, size);
	memcpy(p, begin, sizeof(begin));
	lp_seal_put_u64(p + 32, size);
	lp_seal_put_u64(p + 56, lp_seal_sum(p, 56));
	XXH128_canonicalFromHash(&c, XXH3_128bits(p, size - 16));
	memcpy(p + size - 16, c.digest, 16);
	one(p, size, size + 8 * lp_seal_get_u64(p + 48));
	free(p);
	return 0;
}
