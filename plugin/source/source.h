/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where pages come from: one contract for local images, servers and test
 * sources. Pages are named in image coordinates: @obj is the number of the
 * task in the images (lp_images_task()), @img an address in it; remaps and
 * forks of the restored tree never reach a source.
 *
 * Thread model: any number of threads may call any function at once; a window
 * belongs to one thread.
 */
#ifndef LP_SOURCE_H
#define LP_SOURCE_H

#include <stdint.h>

#include "base/err.h"
#include "images/seal.h"

struct lp_source;

/* A piece of the source that one thread has at hand. Starts zeroed. */
struct lp_window {
	uint32_t obj;
	uint64_t img, end;    /* [img, end) of obj ... */
	const uint8_t *bytes; /* ... is here */
	void *priv;	      /* of the source */
	uint64_t priv_len, priv_key;
	uint32_t priv_file;
};

struct lp_source_ops {
	uint32_t version; /* LP_SOURCE_VERSION; new fields only at the end */
	const char *name;

	/*
	 * The fault path: @len bytes at @img into @buf, without sleeping.
	 * 0, -EAGAIN (it would sleep: use read()), or what went wrong.
	 */
	int (*try_read)(struct lp_source *s, uint32_t obj, uint64_t img, void *buf, uint64_t len);
	/* The same, may sleep. All or nothing. */
	int (*read)(struct lp_source *s, uint32_t obj, uint64_t img, void *buf, uint64_t len);
	/*
	 * Bulk: make @w hold @img and as much after it as the source likes to give
	 * at once (at least a page). @want: how many bytes the caller is about to
	 * take from here on, perhaps with gaps. May sleep. What the window held
	 * before is gone.
	 */
	int (*map)(struct lp_source *s, struct lp_window *w, uint32_t obj, uint64_t img, uint64_t want);
	void (*unmap)(struct lp_source *s, struct lp_window *w);
	/* A name for the place of @img in messages: "pages-1.img at 0x3000". Returns @buf. */
	const char *(*where)(struct lp_source *s, uint32_t obj, uint64_t img, char *buf, size_t len);
	void (*close)(struct lp_source *s);
	/*
	 * 0, or why pages that it has not given yet can never be had from it; NULL: it
	 * has no such end, whoever asks long enough may get them.
	 */
	int (*gone)(struct lp_source *s);
	/*
	 * Its pages are brought by others, which take the CPUs while they are at it: who fills
	 * would lose its CPU to them with a chunk half done.
	 */
	bool brought;
};

#define LP_SOURCE_VERSION 1

struct lp_source {
	const struct lp_source_ops *ops;
};

/*
 * Pages from the files of @im (borrowed until close). Fails with -ENODATA when
 * lazy pages are not in the files but with a live source.
 */
int lp_source_local_open(const struct lp_images *im, struct lp_source **out, struct lp_err *err);
/* The same for those of its pages that are in the files. */
int lp_source_local_part(const struct lp_images *im, struct lp_source **out, struct lp_err *err);
/*
 * Verify each page by @seal (given; of the same images) before it is handed
 * out: -EBADMSG for one that is damaged, -EUCLEAN if the seal is. Before the
 * first page is asked for.
 */
void lp_source_local_verify(struct lp_source *s, struct lp_seal *seal);

/* What to say for an error of a source; as strerror(), but for damage. */
const char *lp_source_strerror(int rc);

#endif
