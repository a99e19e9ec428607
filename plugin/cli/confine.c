/* SPDX-License-Identifier: GPL-2.0-only */
/* See confine.h. Paths are borrowed. */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cli/confine.h"
#include "sandbox/sandbox.h"
#include "serve/serve.h"

static int no_memory(struct lp_err *err)
{
	return lp_err(err, -ENOMEM, "out of memory");
}

int confine_guardian(struct lp_err *err)
{
	struct lp_sandbox *s = lp_sandbox_new(LP_ROLE_OF_GUARDIAN, 0);

	return s ? lp_sandbox_enter(s, err) : no_memory(err);
}

int confine_worker(const char *images, const char *pages, bool remote, bool fetch, const char *pidfile,
		   struct lp_err *err)
{
	struct lp_sandbox *s = lp_sandbox_new(LP_ROLE_OF_WORKER, remote ? LP_SB_DIAL : 0);

	if (!s)
		return no_memory(err);
	lp_sandbox_read_checkpoint(s, images);
	if (pages && *pages)
		lp_sandbox_read_checkpoint(s, pages);
	lp_sandbox_write(s, "."); /* socket, name of the anchor */
	if (fetch)
		lp_sandbox_write(s, images);
	lp_sandbox_write_beside(s, pidfile);
	return lp_sandbox_enter(s, err);
}

/* What is in a root now; its parents may be elsewhere. What comes later has its parents in a root. */
static void read_root(struct lp_sandbox *s, const char *root)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *d = opendir(root);

	lp_sandbox_read(s, root);
	while (d && (e = readdir(d)))
		if (e->d_name[0] != '.' && snprintf(path, sizeof(path), "%s/%s", root, e->d_name) < (int)sizeof(path))
			lp_sandbox_read_checkpoint(s, path);
	if (d)
		closedir(d);
}

static void read_tls(struct lp_sandbox *s, const struct lp_tls_files *f)
{
	lp_sandbox_read_beside(s, f->cacert ? f->cacert : LP_TLS_CACERT);
	lp_sandbox_read_beside(s, f->cacrl ? f->cacrl : LP_TLS_CACRL);
	lp_sandbox_read_beside(s, f->cert ? f->cert : LP_TLS_CERT);
	lp_sandbox_read_beside(s, f->key ? f->key : LP_TLS_KEY);
}

int confine_server(const struct lp_serve_conf *conf, const char *user, struct lp_err *err)
{
	unsigned flags = (conf->nlive ? LP_SB_DIAL : 0) | (conf->list ? LP_SB_FILES : 0);
	const char *dir;
	struct lp_sandbox *s;
	size_t i;
	int rc;

	/* First, so that what only root could have opened is not in the sandbox. */
	rc = user ? lp_sandbox_user(user, err) : 0;
	if (rc)
		return rc;
	s = lp_sandbox_new(LP_ROLE_OF_SERVER, flags);
	if (!s)
		return no_memory(err);
	for (i = 0; i < conf->nroots; i++) {
		read_root(s, conf->roots[i]);
		/* A relay's checkpoint grows beside the thin one. */
		if (conf->nlive)
			lp_sandbox_write(s, conf->roots[i]);
	}
	for (i = 0; i < conf->nnamed; i++) {
		dir = strchr(conf->named[i], '=');
		if (!dir)
			continue;
		lp_sandbox_read_checkpoint(s, dir + 1);
		/* Another directory may get its name. */
		if (conf->nlive)
			lp_sandbox_write_beside(s, dir + 1);
		else
			lp_sandbox_read_beside(s, dir + 1);
	}
	lp_sandbox_write(s, conf->ingest);
	lp_sandbox_read_beside(s, conf->access);
	if (conf->tls)
		read_tls(s, conf->tls);
	return lp_sandbox_enter(s, err);
}

int confine_page_server(struct lp_err *err)
{
	/* All that it reads from now on is open. */
	struct lp_sandbox *s = lp_sandbox_new(LP_ROLE_OF_SERVER, 0);

	return s ? lp_sandbox_enter(s, err) : no_memory(err);
}
