/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pages from image servers (`lazypages serve`), and the small images that a
 * restore needs beside them.
 */
#ifndef LP_REMOTE_H
#define LP_REMOTE_H

#include "net/addr.h"
#include "net/tls.h"
#include "source/source.h"

#define LP_REMOTE_MAX 16
/* With the bits of encodings: the server chooses among them by the speed of the link. */
#define LP_COMPRESS_AUTO (1u << 31)

struct lp_remote_conf {
	const struct lp_url *urls; /* of one checkpoint, in order of preference; borrowed until close */
	size_t nurls;
	struct lp_tls *tls;	   /* for all that are TCP, or NULL; borrowed until close */
	uint8_t ident[16];	   /* which checkpoint: lp_images_ident() */
	uint32_t encodings;	   /* beside raw: bits of LP_ENC_PACKED, and LP_COMPRESS_AUTO */
	unsigned timeout_ms;	   /* a request is asked again elsewhere after this */
	uint64_t readahead;	   /* bytes that bulk asks for ahead; 0: a default */
};

/*
 * Lazy pages of @im (borrowed until close) from servers. Connects with the
 * first page that is asked for, so that the caller may fork before. A server
 * that is away is waited for: read() and map() then say -ETIMEDOUT after the
 * time-out and may be called again.
 */
int lp_source_remote_open(const struct lp_images *im, const struct lp_remote_conf *conf, struct lp_source **out,
			  struct lp_err *err);

struct lp_remote_stats {
	uint64_t reconnects, corrupt, failovers, bytes;
};

void lp_source_remote_stats(struct lp_source *s, struct lp_remote_stats *st);

/*
 * Fetch the small images into @dir, which must exist; inventory.img last, so
 * that an interrupted fetch is no checkpoint. Asks one server after the other,
 * a few times. @ident (16 bytes) is the identity the server told.
 */
int lp_remote_fetch(const struct lp_url *urls, size_t n, struct lp_tls *tls, const char *dir, unsigned timeout_ms,
		    uint8_t *ident, struct lp_err *err);

/*
 * Has any of these servers the checkpoint @ident (16 bytes) for us? Asks each
 * once, for at most @each_ms, all of them @all_ms. 0 if one has it and none has another under that name
 * (-ESTALE); else what the last one said.
 */
int lp_remote_probe(const struct lp_url *urls, size_t n, struct lp_tls *tls, const uint8_t *ident, unsigned all_ms,
		    unsigned each_ms, struct lp_err *err);

#endif
