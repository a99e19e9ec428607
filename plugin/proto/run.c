/* SPDX-License-Identifier: GPL-2.0-only */
/* The bytes of runs: zeros, checksums, compression. */
#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "proto/proto.h"
#include "proto/xxh3.h"

/* The fast end of both: a fault waits for it, and links that want more are slow ones. */
#define ZSTD_LEVEL 1
#define LZ4_ACCELERATION 1

struct lp_codec {
	ZSTD_CCtx *c;
	ZSTD_DCtx *d;
};

struct lp_codec *lp_codec_new(void)
{
	return calloc(1, sizeof(struct lp_codec));
}

void lp_codec_free(struct lp_codec *k)
{
	if (!k)
		return;
	ZSTD_freeCCtx(k->c);
	ZSTD_freeDCtx(k->d);
	free(k);
}

bool lp_is_zero(const uint8_t *p, size_t len)
{
	uint64_t w[8];

	while (len >= sizeof(w)) {
		memcpy(w, p, sizeof(w));
		if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
			return false;
		p += sizeof(w);
		len -= sizeof(w);
	}
	while (len--)
		if (*p++)
			return false;
	return true;
}

uint64_t lp_run_sum(uint32_t obj, const struct lp_run *r, const uint8_t *bytes)
{
	uint64_t seed = r->addr ^ (uint64_t)obj << 48 ^ (uint64_t)r->enc << 56;

	if (r->enc == LP_ENC_HOLE || r->enc == LP_ENC_ZERO)
		return XXH3_64bits_withSeed("", 0, seed);
	return XXH3_64bits_withSeed(bytes, r->len, seed);
}

uint64_t lp_data_sum(const uint8_t *p, size_t len)
{
	return XXH3_64bits(p, len);
}

size_t lp_run_compress(struct lp_codec *codec, uint32_t encodings, const uint8_t *p, size_t len, uint8_t *out,
		       size_t cap, uint32_t *enc)
{
	/* What saves less than an eighth is not worth the decoding. */
	size_t most = len - len / 8, n;
	int k;

	if (cap < most)
		most = cap;
	if (encodings & 1u << LP_ENC_ZSTD) {
		if (!codec->c)
			codec->c = ZSTD_createCCtx();
		n = codec->c ? ZSTD_compressCCtx(codec->c, out, most, p, len, ZSTD_LEVEL) : 0;
		if (!n || ZSTD_isError(n))
			return 0;
		*enc = LP_ENC_ZSTD;
		return n;
	}
	if (encodings & 1u << LP_ENC_LZ4) {
		k = LZ4_compress_fast((const char *)p, (char *)out, (int)len, (int)most, LZ4_ACCELERATION);
		if (k <= 0)
			return 0;
		*enc = LP_ENC_LZ4;
		return (size_t)k;
	}
	return 0;
}

int lp_run_decode(struct lp_codec *codec, uint32_t obj, const struct lp_run *r, const uint8_t *stored, uint8_t *out)
{
	uint32_t at;

	switch (r->enc) {
	case LP_ENC_HOLE:
		break;
	case LP_ENC_SAME: /* page by page: it may repeat itself */
		for (at = 0; at < r->len; at += LP_PROTO_PAGE)
			memcpy(out + at, out + at - r->back, LP_PROTO_PAGE);
		break;
	case LP_ENC_ZERO:
		memset(out, 0, r->len);
		break;
	case LP_ENC_RAW:
		if (stored != out)
			memcpy(out, stored, r->len);
		break;
	case LP_ENC_LZ4:
		if (LZ4_decompress_safe((const char *)stored, (char *)out, (int)r->stored, (int)r->len) != (int)r->len)
			return -EBADMSG;
		break;
	case LP_ENC_ZSTD:
		if (!codec->d)
			codec->d = ZSTD_createDCtx();
		if (!codec->d)
			return -ENOMEM;
		if (ZSTD_decompressDCtx(codec->d, out, r->len, stored, r->stored) != r->len)
			return -EBADMSG;
		break;
	default:
		return -ENOTSUP;
	}
	return lp_run_sum(obj, r, out) == r->sum ? 0 : -EBADMSG;
}
