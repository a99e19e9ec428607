/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where the daemon's pages come from: what its options say, until `lazypages ctl
 * switch-source` says otherwise. A text tells it in the journal, on the control
 * socket and to people: words with tabs between them, "from" and URLs, "dir" and
 * an absolute path, or "live" (which nobody can switch to).
 */
#ifndef LP_CLI_PAGES_H
#define LP_CLI_PAGES_H

#include "guard/journal.h"
#include "images/seal.h"
#include "source/criu.h"
#include "source/remote.h"

struct pages_conf {
	struct lp_url from[LP_REMOTE_MAX];
	size_t nfrom;
	uint32_t encodings;
	unsigned timeout_ms;
	enum lp_verify verify;
	bool live; /* CRIU's own page server, at criu.addr */
	struct lp_criu_conf criu;
	char dir[LP_J_SOURCE_MAX - 4]; /* switched to: pages from there, small images from the daemon's -D. "": not so */
};

/* One more URL of --from. -EINVAL with @err. */
int pages_add(struct pages_conf *p, const char *url, struct lp_err *err);
/* Does all that was said go together? -EINVAL with @err. */
int pages_check(const struct pages_conf *p, struct lp_err *err);
/* Do they come from elsewhere than files here? */
bool pages_elsewhere(const struct pages_conf *p);
/* The text for it. @images: -D, absolute. What is longer than @buf is cut off. */
void pages_text(const struct pages_conf *p, const char *images, char buf[LP_J_SOURCE_MAX]);

/*
 * What a fresh daemon was started with goes into @h. One that takes over and
 * names the same source follows what was switched to since; one that names
 * another means it.
 */
void pages_started(const struct pages_conf *p, const char *images, bool take_over, struct lp_jhead *h);
/* Make @p what @text says: servers or a directory. TLS, time-outs and the like stay. -EINVAL with @err. */
int pages_set(struct pages_conf *p, const char *text, struct lp_err *err);
/* Make @p what was switched to by the word of the journal, if anything was. -EINVAL: not understood. */
int pages_follow(struct pages_conf *p, const struct lp_jhead *h, struct lp_err *err);

struct pages {
	struct lp_images *images; /* the small ones */
	struct lp_images *whole;  /* of another directory, whose pages are used; or NULL */
	struct lp_source *src;
};

/*
 * Open images (fetched first, if they are not there and @p says from where) and
 * source. @tls: borrowed until close. What was opened before a failure is in @out, too.
 */
int pages_open(const struct pages_conf *p, const char *images, struct lp_tls *tls, struct pages *out,
	       struct lp_err *err);
/* The end: what came from @src goes to the log. @all: whatever was missing has come, so a live one may go. */
void pages_summary(const struct pages_conf *p, struct lp_source *src, bool all);
/* Once; all may be NULL. */
void pages_close(struct pages *pages);

#endif
