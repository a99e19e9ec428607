/* SPDX-License-Identifier: GPL-2.0-only */
/* Where the daemon's pages come from, see pages.h. Owns nothing but what struct pages says. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/size.h"
#include "cli/pages.h"
#include "images/thin.h"
#include "proto/proto.h"

int pages_add(struct pages_conf *p, const char *url, struct lp_err *err)
{
	struct lp_url *u = &p->from[p->nfrom];
	int rc;

	if (lp_criu_url_is(url)) {
		if (p->live)
			return lp_err(err, -EINVAL, "a live source is one: criu: can be given once");
		p->live = true;
		return lp_criu_url_parse(url, &p->criu, err);
	}
	if (p->nfrom == LP_REMOTE_MAX)
		return lp_err(err, -EINVAL, "more than %d servers", LP_REMOTE_MAX);
	rc = lp_url_parse(url, u, err);
	if (rc)
		return rc;
	if (!lp_ckpt_name_ok(u->name, strlen(u->name)))
		return lp_err(err, -EINVAL, "%s: no name of a checkpoint at its end (letters, digits, . _ @ + -)", url);
	p->nfrom++;
	return 0;
}

int pages_check(const struct pages_conf *p, struct lp_err *err)
{
	if (p->live && p->nfrom)
		return lp_err(err, -EINVAL, "--from: pages come from a live source or from servers, not from both");
	if (p->verify == LP_VERIFY_REQUIRE && pages_elsewhere(p))
		return lp_err(err, -EINVAL,
			      "--verify=require: only for pages from files here; servers verify their own (lazypages "
			      "serve --verify)");
	return 0;
}

bool pages_elsewhere(const struct pages_conf *p)
{
	return p->nfrom || p->live;
}

/* ---- As text ------------------------------------------------------------------ */

void pages_text(const struct pages_conf *p, const char *images, char buf[LP_J_SOURCE_MAX])
{
	char addr[300];
	size_t i, n;

	if (p->live) {
		snprintf(buf, LP_J_SOURCE_MAX, "live\tcriu:%s", lp_addr_str(&p->criu.addr, addr, sizeof(addr)));
		return;
	}
	if (!p->nfrom) {
		snprintf(buf, LP_J_SOURCE_MAX, "dir\t%s", *p->dir ? p->dir : images);
		return;
	}
	n = (size_t)snprintf(buf, LP_J_SOURCE_MAX, "from");
	for (i = 0; i < p->nfrom && n < LP_J_SOURCE_MAX; i++)
		n += (size_t)snprintf(buf + n, LP_J_SOURCE_MAX - n, "\t%s", p->from[i].text);
}

int pages_set(struct pages_conf *p, const char *text, struct lp_err *err)
{
	char words[LP_J_SOURCE_MAX], *at, *word, *kind;
	int rc = 0;

	snprintf(words, sizeof(words), "%.*s", LP_J_SOURCE_MAX - 1, text);
	kind = strtok_r(words, "\t", &at);
	p->nfrom = 0;
	p->live = false;
	*p->dir = 0;
	if (kind && !strcmp(kind, "dir")) {
		word = strtok_r(NULL, "\t", &at);
		if (word && *word == '/')
			snprintf(p->dir, sizeof(p->dir), "%s", word);
	} else if (kind && !strcmp(kind, "from")) {
		while (!rc && (word = strtok_r(NULL, "\t", &at)))
			rc = pages_add(p, word, err);
		if (!rc && p->live)
			rc = lp_err(err, -EINVAL,
				    "a live source gives each page only once: start with it, or put `lazypages serve --live` "
				    "in between and switch to that");
	}
	if (!rc && !p->nfrom && !*p->dir)
		rc = lp_err(err, -EINVAL, "`%s` names no source of pages", text);
	return rc;
}

void pages_started(const struct pages_conf *p, const char *images, bool take_over, struct lp_jhead *h)
{
	struct lp_jswitch *sw = &h->sw;
	char text[LP_J_SOURCE_MAX];

	pages_text(p, images, text);
	if (!take_over || strcmp(text, sw->started)) {
		if (take_over && *sw->v[sw->cur & 1].text)
			pr_msg("taken over with another source: it counts, not what was switched to");
		*sw->v[0].text = *sw->v[1].text = 0;
		atomic_store(&sw->state, LP_J_SW_NONE);
		snprintf(sw->started, sizeof(sw->started), "%s", text);
	}
}

int pages_follow(struct pages_conf *p, const struct lp_jhead *h, struct lp_err *err)
{
	const struct lp_jsource *s = &h->sw.v[h->sw.cur & 1];

	if (!*s->text)
		return 0;
	p->verify = s->verify;
	return pages_set(p, s->text, err);
}

/* ---- Open ---------------------------------------------------------------------- */

/* Pages from the files, verified if they are sealed. */
static int open_local(const struct lp_images *im, const char *dir, enum lp_verify verify, struct lp_source **src,
		      struct lp_err *err)
{
	struct lp_seal *seal;
	int rc = lp_seal_open(im, dir, verify, &seal, err);

	if (!rc)
		rc = lp_source_local_open(im, src, err);
	if (rc) {
		lp_seal_close(seal);
		return rc;
	}
	if (seal) {
		pr_info("pages are verified by " LP_SEAL_FILE);
		lp_source_local_verify(*src, seal);
	}
	return 0;
}

/* From another directory than that of the small images, which has to be the same checkpoint. */
static int open_whole(const struct pages_conf *p, const char *images, struct pages *out, struct lp_err *err)
{
	uint8_t ours[LP_IMAGES_IDENT_LEN], theirs[LP_IMAGES_IDENT_LEN];
	int rc;

	rc = lp_images_open(p->dir, &out->whole, err);
	if (!rc)
		rc = lp_images_ident(out->images, images, ours, err);
	if (!rc)
		rc = lp_images_ident(out->whole, p->dir, theirs, err);
	if (!rc && memcmp(ours, theirs, sizeof(ours)))
		rc = lp_err(err, -EINVAL, "%s: this is not the checkpoint whose tasks are to be filled", p->dir);
	if (!rc)
		rc = open_local(out->whole, p->dir, p->verify, &out->src, err);
	if (rc == -ENODATA)
		rc = lp_err(err, rc, "%s: the small images only, its pages are elsewhere: name a whole copy of the checkpoint",
			    p->dir);
	return rc;
}

int pages_open(const struct pages_conf *p, const char *images, struct lp_tls *tls, struct pages *out,
	       struct lp_err *err)
{
	struct lp_remote_conf conf = {
		.urls = p->from, .nurls = p->nfrom, .tls = tls, .encodings = p->encodings,
		.timeout_ms = p->timeout_ms,
	};
	uint8_t told[LP_IMAGES_IDENT_LEN] = { 0 };
	char path[4096];
	bool fetched = false;
	int rc = 0;

	if (p->nfrom) {
		snprintf(path, sizeof(path), "%s/inventory.img", images);
		if (access(path, F_OK) && errno == ENOENT) {
			rc = lp_remote_fetch(p->from, p->nfrom, tls, images, p->timeout_ms, told, err);
			fetched = true;
		}
	}
	if (!rc)
		rc = lp_images_open(images, &out->images, err);
	if (!rc && p->live) {
		struct lp_criu_conf cc = p->criu;

		cc.timeout_ms = p->timeout_ms;
		cc.tls = tls;
		return lp_source_criu_open(out->images, &cc, &out->src, err);
	}
	if (!rc && *p->dir)
		return open_whole(p, images, out, err);
	if (rc || !p->nfrom)
		return rc ? rc : open_local(out->images, images, p->verify, &out->src, err);
	rc = lp_images_ident(out->images, images, conf.ident, err);
	if (!rc && fetched && memcmp(conf.ident, told, sizeof(told)))
		rc = lp_err(err, -EINVAL, "%s: the fetched images are not what %s has: remove them and try again",
			    images, p->from[0].text);
	return rc ? rc : lp_source_remote_open(out->images, &conf, &out->src, err);
}

static void remote_summary(struct lp_source *src)
{
	struct lp_remote_stats s;
	char a[16];

	lp_source_remote_stats(src, &s);
	pr_msg("from servers: %s received, %llu connections lost, %llu changes of server, %llu answers damaged",
	       lp_size_str(s.bytes, a, sizeof(a)), (unsigned long long)s.reconnects, (unsigned long long)s.failovers,
	       (unsigned long long)s.corrupt);
}

/* The tasks need the live source no more. */
static void take_leave(struct lp_source *src)
{
	uint64_t bytes, requests;
	char a[16];
	int rc;

	lp_source_criu_stats(src, &bytes, &requests);
	pr_msg("from the live source: %s received with %llu requests", lp_size_str(bytes, a, sizeof(a)),
	       (unsigned long long)requests);
	rc = lp_source_criu_done(src);
	if (rc)
		pr_warn("all pages have come, but their source did not take leave (%s): see to its tasks",
			strerror(-rc));
}

void pages_summary(const struct pages_conf *p, struct lp_source *src, bool all)
{
	if (p->nfrom)
		remote_summary(src);
	if (p->live && all)
		take_leave(src);
}

void pages_close(struct pages *pages)
{
	if (pages->src)
		pages->src->ops->close(pages->src);
	lp_images_close(pages->whole);
	lp_images_close(pages->images);
}
