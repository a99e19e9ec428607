/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which client may have which checkpoint: a file of lines CLIENT NAME..., all of
 * them shell patterns. A client is called what its certificate says: the common
 * name and the alternative names, any of which will do. One without a
 * certificate (UNIX sockets) has the empty name, which only `*` matches.
 */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/internal.h"

struct rule {
	struct rule *next;
	char *client, *line; /* @client is the beginning of @line */
	char **names;	     /* in @line, NULL at the end */
};

struct access {
	struct rule *rules;
};

void access_free(struct access *a)
{
	struct rule *r;

	if (!a)
		return;
	while ((r = a->rules)) {
		a->rules = r->next;
		free(r->line);
		free(r->names);
		free(r);
	}
	free(a);
}

/* 0, -EINVAL (a client without checkpoints), -ENOMEM. */
static int add(struct access *a, const char *text)
{
	static const char blank[] = " \t\r\n";
	struct rule *r = calloc(1, sizeof(*r));
	char *save, *word, **v;
	size_t n = 0;

	if (!r)
		return -ENOMEM;
	r->next = a->rules;
	a->rules = r;
	r->line = strdup(text);
	if (!r->line)
		return -ENOMEM;
	r->client = strtok_r(r->line, blank, &save);
	do {
		word = strtok_r(NULL, blank, &save);
		v = realloc(r->names, (n + 1) * sizeof(*v));
		if (!v)
			return -ENOMEM;
		r->names = v;
		v[n++] = word;
	} while (word);
	return n > 1 ? 0 : -EINVAL;
}

int access_load(const char *path, struct access **out, struct lp_err *err)
{
	struct access *a = calloc(1, sizeof(*a));
	char *line = NULL;
	size_t cap = 0, nr;
	int rc = a ? 0 : lp_err(err, -ENOMEM, "out of memory");
	FILE *f = fopen(path, "re");

	if (!f && !rc)
		rc = lp_err_sys(err, -errno, "--access %s", path);
	for (nr = 1; !rc && getline(&line, &cap, f) >= 0; nr++) {
		size_t skip = strspn(line, " \t\r\n");

		if (!line[skip] || line[skip] == '#')
			continue;
		rc = add(a, line + skip);
		if (rc)
			lp_err(err, rc, rc == -ENOMEM ? "out of memory" :
			       "--access %s, line %zu: a client without checkpoints: write CLIENT NAME...", path, nr);
	}
	free(line);
	if (f)
		fclose(f);
	if (rc)
		access_free(a);
	else
		*out = a;
	return rc;
}

static bool name_ok(const struct access *a, const char *client, const char *name)
{
	const struct rule *r;
	char **p;

	for (r = a->rules; r; r = r->next) {
		if (fnmatch(r->client, client, 0))
			continue;
		for (p = r->names; *p; p++)
			if (!fnmatch(*p, name, 0))
				return true;
	}
	return false;
}

bool access_ok(const struct access *a, const struct lp_stream *s, const char *name)
{
	char client[256];
	unsigned i;

	if (!a)
		return true;
	if (!s->tls)
		return name_ok(a, "", name);
	for (i = 0; lp_stream_peer(s, i, client, sizeof(client)); i++)
		if (name_ok(a, client, name))
			return true;
	return false;
}
