/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: records of the trace. What decodes must encode to the same
 * bytes again. The input is taken twice: as it is, and as records (a length and
 * a body each) whose checks are mended first, so that their fields are reached.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "trace/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

/* Decode record @number at @p; the bytes it has, or an error. */
static int one(const uint8_t *p, size_t len, uint64_t number)
{
	uint8_t again[LP_REC_MAX];
	struct lp_rec r;
	int n = lp_rec_decode(p, len, number, &r);

	if (n < 0) {
		MUST(n == -EAGAIN || n == -EBADMSG || n == -EPROTO);
		return n;
	}
	MUST(n > LP_REC_HEAD && (size_t)n <= len && n <= LP_REC_MAX);
	MUST(lp_rec_encode(&r, number, again) == (size_t)n && !memcmp(again, p, n));
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t number = 0, check;
	uint8_t buf[LP_REC_MAX];
	unsigned version;
	size_t pos;
	int n;

	lp_trace_head_check(data, size, &version);
	for (pos = 0; pos < size && (n = one(data + pos, size - pos, number)) > 0; pos += n)
		number++;

	for (pos = 0, number = 0; size - pos >= LP_REC_HEAD; pos += n, number++) {
		n = data[pos + 5];
		if (n <= LP_REC_HEAD || n > LP_REC_MAX || (size_t)n > size - pos)
			break;
		memcpy(buf, data + pos, n);
		check = XXH3_64bits_withSeed(buf + 4, n - 4, number);
		buf[0] = check;
		buf[1] = check >> 8;
		buf[2] = check >> 16;
		buf[3] = check >> 24;
		MUST(one(buf, n, number) != -EBADMSG);
	}
	return 0;
}
