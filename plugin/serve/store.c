/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The checkpoints: found by name, opened when first asked for, kept open while
 * used and for a while after. A directory whose inventory is another file than
 * before is another checkpoint; who uses the old one keeps it.
 *
 * The store owns its checkpoints; connections hold references.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "serve/relay.h"

/* Checkpoints that nobody uses, kept open. */
#define IDLE_MAX 16
/* And those that were replaced, so long: a restore that has lost its connections comes back. */
#define STALE_NS UINT64_C(600000000000)

struct named {
	char *name, *dir;
};

struct names {
	struct named *v;
	size_t n;
};

struct store {
	struct server *srv;
	const struct lp_serve_conf *conf;
	pthread_mutex_t lock;
	struct ckpt *all;
	struct names names; /* given one by one */
};

static void names_free(struct names *l)
{
	while (l->n) {
		free(l->v[--l->n].name);
		free(l->v[l->n].dir);
	}
	free(l->v);
	l->v = NULL;
}

static int names_add(struct names *l, const char *s, const char *where, struct lp_err *err)
{
	const char *eq = strchr(s, '=');
	struct named *v;

	if (!eq || !eq[1] || !lp_ckpt_name_ok(s, eq - s))
		return lp_err(err, -EINVAL, "%s`%s` is not NAME=DIR (a name has letters, digits and . _ @ + -)", where, s);
	v = realloc(l->v, (l->n + 1) * sizeof(*v));
	if (!v)
		return lp_err(err, -ENOMEM, "out of memory");
	l->v = v;
	v[l->n].name = strndup(s, eq - s);
	v[l->n].dir = strdup(eq + 1);
	l->n++;
	return v[l->n - 1].name && v[l->n - 1].dir ? 0 : lp_err(err, -ENOMEM, "out of memory");
}

static int names_read(const struct lp_serve_conf *conf, struct names *l, struct lp_err *err)
{
	char where[300], *line = NULL;
	size_t i, cap = 0;
	ssize_t n;
	FILE *f;
	int rc = 0;

	for (i = 0; !rc && i < conf->nnamed; i++)
		rc = names_add(l, conf->named[i], "", err);
	if (rc || !conf->list)
		return rc;
	f = fopen(conf->list, "re");
	if (!f)
		return lp_err_sys(err, -errno, "%s", conf->list);
	for (i = 1; !rc && (n = getline(&line, &cap, f)) >= 0; i++) {
		line[strcspn(line, "\n")] = 0;
		if (!*line || *line == '#')
			continue;
		snprintf(where, sizeof(where), "%.250s, line %zu: ", conf->list, i);
		rc = names_add(l, line, where, err);
	}
	free(line);
	fclose(f);
	return rc;
}

void ckpt_free(struct ckpt *c)
{
	files_free(c);
	lp_seal_close(c->seal);
	lp_images_close(c->im);
	if (c->dirfd >= 0)
		close(c->dirfd);
	free(c->dir);
	free(c);
}

/* Pages that stayed with a lazy dump are not here to be served. */
static int whole(const struct lp_images *im, struct lp_err *err)
{
	uint64_t at;
	const struct lp_task *t = lp_images_elsewhere(im, &at);

	return t ? lp_err(err, -ENODATA, "pagemap-%d.img: its pages stayed with the source of a lazy dump", t->pid) : 0;
}

static bool on_disk(const struct lp_images *im)
{
	struct statfs fs;
	size_t i;

	for (i = 0; i < lp_images_nfiles(im); i++)
		if (fstatfs(lp_images_file(im, i)->fd, &fs) ||
		    (fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC))
			return true;
	return false;
}

int ckpt_open(const char *name, const char *dir, const struct stat *st, bool thin, struct ckpt **out,
	      struct lp_err *err)
{
	struct ckpt *c = calloc(1, sizeof(*c));
	uint64_t t0 = lp_now();
	int rc;

	if (!c)
		return lp_err(err, -ENOMEM, "out of memory");
	c->dirfd = -1;
	snprintf(c->name, sizeof(c->name), "%s", name);
	if (st) {
		c->dev = st->st_dev;
		c->ino = st->st_ino;
		c->mtime = st->st_mtim;
	}
	c->dir = strdup(dir);
	rc = c->dir ? lp_images_open(dir, &c->im, err) : lp_err(err, -ENOMEM, "out of memory");
	if (!rc && !thin)
		rc = whole(c->im, err);
	if (!rc)
		rc = lp_images_ident(c->im, dir, c->ident, err);
	if (!rc) {
		c->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		rc = c->dirfd < 0 ? lp_err_sys(err, -errno, "%s", dir) : 0;
	}
	if (!rc && st)
		rc = files_list(c, err);
	c->on_disk = !rc && on_disk(c->im);
	if (rc) {
		ckpt_free(c);
		return rc;
	}
	pr_info("%s: opened %s in %llu us: %zu tasks, %zu files", name, dir,
		(unsigned long long)(lp_now() - t0) / 1000, lp_images_ntasks(c->im), c->nfiles);
	*out = c;
	return 0;
}

int ckpt_verify(struct ckpt *c, enum lp_verify v, struct lp_err *err)
{
	int rc = lp_seal_open(c->im, c->dir, v, &c->seal, err);

	if (!rc)
		rc = lp_shared_verify(c->shared, c->seal, err);
	if (!rc && c->seal)
		pr_info("%s: its pages are verified by " LP_SEAL_FILE, c->name);
	return rc;
}

/* Where is @name? The directory's path is the caller's. */
static int find_dir(struct store *s, const char *name, char **dir, struct stat *st)
{
	char path[4096];
	size_t i;

	*dir = NULL;
	pthread_mutex_lock(&s->lock);
	for (i = 0; i < s->names.n; i++)
		if (!strcmp(s->names.v[i].name, name))
			*dir = strdup(s->names.v[i].dir);
	pthread_mutex_unlock(&s->lock);
	for (i = 0; !*dir && i < s->conf->nroots; i++) {
		if (snprintf(path, sizeof(path), "%s/%s/inventory.img", s->conf->roots[i], name) >= (int)sizeof(path))
			continue;
		if (stat(path, st))
			continue;
		path[strlen(path) - strlen("/inventory.img")] = 0;
		*dir = strdup(path);
		if (!*dir)
			return -ENOMEM;
		return 0;
	}
	if (!*dir || snprintf(path, sizeof(path), "%s/inventory.img", *dir) >= (int)sizeof(path) || stat(path, st)) {
		free(*dir);
		*dir = NULL;
		return -ENOENT;
	}
	return 0;
}

static bool same_file(const struct ckpt *c, const struct stat *st)
{
	return c->dev == st->st_dev && c->ino == st->st_ino && c->mtime.tv_sec == st->st_mtim.tv_sec &&
	       c->mtime.tv_nsec == st->st_mtim.tv_nsec;
}

/* Take out what nobody uses and nobody will: old stale ones, and the oldest beyond IDLE_MAX. s->lock held. */
static struct ckpt *take_idle(struct store *s)
{
	struct ckpt **p, **oldest = NULL, *c;
	unsigned idle = 0;

	for (p = &s->all; *p; p = &(*p)->next) {
		if ((*p)->refs)
			continue;
		if ((*p)->stale && lp_now() - (*p)->used > STALE_NS) {
			oldest = p;
			idle = IDLE_MAX + 1;
			break;
		}
		idle++;
		if (!oldest || (*p)->used < (*oldest)->used)
			oldest = p;
	}
	if (idle <= IDLE_MAX)
		return NULL;
	c = *oldest;
	*oldest = c->next;
	return c;
}

static void drop_idle(struct store *s)
{
	struct ckpt *c;

	do {
		pthread_mutex_lock(&s->lock);
		c = take_idle(s);
		pthread_mutex_unlock(&s->lock);
		if (c)
			ckpt_free(c);
	} while (c);
}

int store_where(struct store *s, const char *name, char **dir)
{
	struct stat st;

	return find_dir(s, name, dir, &st);
}

/* A checkpoint that is being relayed is in another directory than its name says. */
static int find_now(struct store *s, const char *name, char **dir, struct stat *st, struct relay **relay)
{
	const char *filling;
	char path[4200];

	*relay = relay_find(s->srv, name, &filling);
	if (!*relay)
		return find_dir(s, name, dir, st);
	snprintf(path, sizeof(path), "%s/inventory.img", filling);
	if (stat(path, st)) {
		*relay = NULL; /* it has taken its place at this moment */
		return find_dir(s, name, dir, st);
	}
	*dir = strdup(filling);
	return *dir ? 0 : -ENOMEM;
}

/* Only the front calls this, so nobody else adds the same one meanwhile. */
int store_get(struct store *s, const char *name, struct ckpt **out, struct lp_err *err)
{
	struct relay *relay;
	struct ckpt *c;
	struct stat st;
	char *dir;
	int rc;

	if (relay_pending(s->srv, name))
		return lp_err(err, -EAGAIN, "%s: its live source has not answered yet", name);
	rc = find_now(s, name, &dir, &st, &relay);
	if (rc)
		return lp_err(err, rc, "no checkpoint %s here", name);
	pthread_mutex_lock(&s->lock);
	for (c = s->all; c; c = c->next) {
		if (c->stale || strcmp(c->name, name))
			continue;
		if (!strcmp(c->dir, dir) && same_file(c, &st))
			break;
		c->stale = true;
	}
	if (c)
		c->refs++;
	pthread_mutex_unlock(&s->lock);
	if (!c) {
		rc = ckpt_open(name, dir, &st, false, &c, err);
		/* What a relay has not got yet nobody could seal. */
		if (!rc && !relay) {
			rc = ckpt_verify(c, s->conf->verify, err);
			if (rc)
				ckpt_free(c);
		}
		if (!rc) {
			c->refs = 1;
			c->relay = relay;
			pthread_mutex_lock(&s->lock);
			c->next = s->all;
			s->all = c;
			pthread_mutex_unlock(&s->lock);
		}
	}
	free(dir);
	if (!rc) {
		pthread_mutex_lock(&s->lock);
		c->used = lp_now();
		pthread_mutex_unlock(&s->lock);
		*out = c;
	}
	drop_idle(s);
	return rc;
}

struct ckpt *store_get_old(struct store *s, const char *name, const uint8_t *ident)
{
	struct ckpt *c;

	pthread_mutex_lock(&s->lock);
	for (c = s->all; c && (!c->stale || strcmp(c->name, name) || memcmp(c->ident, ident, sizeof(c->ident))); c = c->next)
		;
	if (c)
		c->refs++;
	pthread_mutex_unlock(&s->lock);
	return c;
}

void store_put(struct store *s, struct ckpt *c)
{
	pthread_mutex_lock(&s->lock);
	c->refs--;
	c->used = lp_now();
	pthread_mutex_unlock(&s->lock);
	drop_idle(s);
}

int store_reload(struct store *s, struct lp_err *err)
{
	struct names fresh = { 0 }, old;
	struct ckpt *c;
	int rc;

	rc = names_read(s->conf, &fresh, err);
	if (rc) {
		names_free(&fresh);
		return rc;
	}
	pthread_mutex_lock(&s->lock);
	old = s->names;
	s->names = fresh;
	for (c = s->all; c; c = c->next)
		c->stale = true;
	pthread_mutex_unlock(&s->lock);
	names_free(&old);
	drop_idle(s);
	return 0;
}

int store_new(struct server *srv, struct store **out, struct lp_err *err)
{
	const struct lp_serve_conf *conf = srv->conf;
	struct store *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return lp_err(err, -ENOMEM, "out of memory");
	s->srv = srv;
	s->conf = conf;
	pthread_mutex_init(&s->lock, NULL);
	*out = s;
	rc = names_read(conf, &s->names, err);
	if (rc) {
		store_free(s);
		*out = NULL;
	}
	return rc;
}

void store_free(struct store *s)
{
	struct ckpt *c;

	if (!s)
		return;
	while ((c = s->all)) {
		s->all = c->next;
		ckpt_free(c);
	}
	names_free(&s->names);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static int push(char ***names, size_t *n, const char *name)
{
	char **v = realloc(*names, (*n + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	*names = v;
	v[*n] = strdup(name);
	if (!v[*n])
		return -ENOMEM;
	(*n)++;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static int scan_root(const char *root, char ***names, size_t *n)
{
	char path[300];
	struct dirent *e;
	struct stat st;
	DIR *d = opendir(root);
	int rc = 0;

	if (!d)
		return 0; /* a root may come later, or be unmounted for a while */
	while (!rc && (e = readdir(d))) {
		if (!lp_ckpt_name_ok(e->d_name, strlen(e->d_name)))
			continue;
		snprintf(path, sizeof(path), "%s/inventory.img", e->d_name);
		if (!fstatat(dirfd(d), path, &st, 0))
			rc = push(names, n, e->d_name);
	}
	closedir(d);
	return rc;
}

int store_names(struct store *s, char ***names, size_t *n)
{
	size_t i, k;
	int rc = 0;

	*names = NULL;
	*n = 0;
	pthread_mutex_lock(&s->lock);
	for (i = 0; !rc && i < s->names.n; i++)
		rc = push(names, n, s->names.v[i].name);
	pthread_mutex_unlock(&s->lock);
	for (i = 0; !rc && i < s->conf->nroots; i++)
		rc = scan_root(s->conf->roots[i], names, n);
	if (*n)
		qsort(*names, *n, sizeof(**names), by_name);
	for (i = k = 0; i < *n; i++) {
		if (k && !strcmp((*names)[k - 1], (*names)[i]))
			free((*names)[i]);
		else
			(*names)[k++] = (*names)[i];
	}
	*n = k;
	return rc;
}
