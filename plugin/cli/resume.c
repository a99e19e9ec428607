/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The new program's side of `lazypages upgrade`: how it is called (--resume,
 * which nobody else gives), and the look at the journal that comes before
 * anything is ended (--resume-check). And the look at another source of pages
 * before that of the running daemon is left (--source-check).
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/confine.h"
#include "cli/resume.h"
#include "guard/guard.h"
#include "images/thin.h"
#include "restore/restore.h"

/* A message under way may be half in the log. */
#define REHEARSALS 5
/* For all servers that are asked, one after the other: the guardian waits a little longer. */
#define ASK_MS 15000

int resume_argv(int argc, char **argv, int fd, const char *dir, char ***out)
{
	size_t len = strlen(dir) + 16;
	char **v = calloc(argc + 4, sizeof(*v)), *where = malloc(len);
	int i, n = 4;

	if (!v || !where || argc + 4 > LP_GUARD_ARGS) {
		free(v);
		free(where);
		return v && where ? -E2BIG : -ENOMEM;
	}
	snprintf(where, len, "%d:%s", fd, dir);
	v[0] = (char *)"lazypages";
	v[1] = (char *)"daemon";
	v[2] = (char *)"--resume";
	v[3] = where;
	i = 1;
	/* Of an earlier upgrade. */
	if (argc > 2 && !strcmp(argv[1], "--resume"))
		i = 3;
	while (i < argc)
		v[n++] = argv[i++];
	*out = v;
	return 0;
}

void resume_argv_free(char **v)
{
	if (v)
		free(v[3]);
	free(v);
}

int resume_parse(const char *s, int *fd, const char **dir)
{
	char *end;
	long v = strtol(s, &end, 10);

	if (end == s || *end != ':' || v < 3 || v > 1 << 20 || end[1] != '/')
		return -EINVAL;
	*fd = v;
	*dir = end + 1;
	return 0;
}

int resume_check(const struct pages_conf *p, int fd, const char *dir)
{
	struct pages_conf from = *p;
	uint8_t ident[LP_IMAGES_IDENT_LEN];
	struct lp_images *im = NULL;
	struct lp_journal *j;
	struct lp_err err = { "" };
	unsigned i;
	int rc;

	rc = lp_journal_attach(fd, &j, &err);
	if (!rc)
		rc = pages_follow(&from, j->h, &err);
	if (!rc)
		rc = lp_images_open(dir, &im, &err);
	if (!rc)
		rc = lp_images_ident(im, dir, ident, &err);
	if (!rc && j->h->has_ident && memcmp(ident, j->h->ident, sizeof(ident)))
		rc = lp_err(&err, -EINVAL, "%s: this is not the checkpoint whose tasks are to be filled", dir);
	for (i = 0; !rc && i < REHEARSALS; i++) {
		rc = lp_restore_rehearse(im, j, &err);
		if (!rc)
			break;
		rc = i + 1 < REHEARSALS ? 0 : rc;
	}
	puts(rc ? err.msg : LP_GUARD_CAN_GO_ON);
	return rc ? 1 : 0;
}

/* The new one, as follows from the options and what the journal asks for. */
static int wanted(struct pages_conf *p, struct lp_jswitch *sw, struct lp_err *err)
{
	struct lp_jsource *s = &sw->v[1 - (sw->cur & 1)];
	enum lp_verify said = p->verify;
	int rc;

	rc = pages_set(p, s->text, err);
	if (!rc)
		rc = pages_check(p, err);
	if (!rc)
		s->verify = p->verify = *p->dir ? verify_once(NULL, p->dir, said) : said;
	return rc;
}

int source_check(const struct pages_conf *p, const struct tls_opts *tls_opts, bool sandbox, int fd, const char *dir)
{
	uint8_t ident[LP_IMAGES_IDENT_LEN];
	struct pages_conf from = *p;
	struct pages pages = { NULL };
	struct lp_tls *tls = NULL;
	struct lp_err err = { "" };
	struct lp_journal *j = NULL;
	int rc;

	/* Standard error is where the guardian reads. */
	lp_log_level = -1;
	rc = lp_journal_attach(fd, &j, &err);
	if (!rc)
		rc = wanted(&from, &j->h->sw, &err);
	if (!rc && from.nfrom)
		rc = tls_load(tls_opts, &tls, &err);
	if (!rc && sandbox)
		rc = confine_worker(dir, from.dir, from.nfrom, from.nfrom, NULL, &err);
	if (!rc)
		rc = pages_open(&from, dir, tls, &pages, &err);
	if (!rc)
		rc = lp_images_ident(pages.images, dir, ident, &err);
	if (!rc && memcmp(ident, j->h->ident, sizeof(ident)))
		rc = lp_err(&err, -EINVAL, "%s: this is not the checkpoint whose tasks are to be filled", dir);
	if (!rc && from.nfrom)
		rc = lp_remote_probe(from.from, from.nfrom, tls, ident, ASK_MS, from.timeout_ms, &err);
	pages_close(&pages);
	lp_tls_put(tls);
	lp_journal_free(j);
	puts(rc ? err.msg : LP_GUARD_CAN_GO_ON);
	return rc ? 1 : 0;
}

enum lp_verify verify_once(struct lp_jhead *h, const char *dir, enum lp_verify v)
{
	char seal[PATH_MAX];

	if (v == LP_VERIFY_AUTO && h && h->verify)
		v = h->verify;
	if (v == LP_VERIFY_AUTO) {
		snprintf(seal, sizeof(seal), "%s/" LP_SEAL_FILE, dir);
		v = access(seal, F_OK) && errno == ENOENT ? LP_VERIFY_NO : LP_VERIFY_REQUIRE;
	}
	if (h)
		h->verify = v;
	return v;
}
