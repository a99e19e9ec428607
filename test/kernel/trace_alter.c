/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A trace with one record changed or left out, and all checks right: what a
 * daemon with a wrong engine might have written.
 *
 *	trace_alter FILE list			the records: number, type, field=value ...
 *	trace_alter FILE set N FIELD DELTA > OUT
 *	trace_alter FILE drop N > OUT
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trace/record.h"

static void fail(const char *why)
{
	fprintf(stderr, "trace_alter: %s\n", why);
	exit(2);
}

static uint8_t *load(const char *path, size_t *len)
{
	FILE *f = fopen(path, "re");
	uint8_t *buf = NULL;
	size_t n;

	*len = 0;
	if (!f)
		fail("cannot open the trace");
	do {
		buf = realloc(buf, *len + (1 << 20));
		if (!buf)
			fail("out of memory");
		n = fread(buf + *len, 1, 1 << 20, f);
		*len += n;
	} while (n);
	fclose(f);
	return buf;
}

static void list(const struct lp_rec *r, uint64_t number)
{
	const struct lp_rec_info *t = lp_rec_info(r->type);
	unsigned i;

	printf("%" PRIu64 " %s", number, t->name);
	for (i = 0; i < t->n; i++)
		printf(" %s=%" PRId64, t->f[i].name, (int64_t)r->v[i]);
	putchar('\n');
}

static void set(struct lp_rec *r, const char *field, int64_t delta)
{
	const struct lp_rec_info *t = lp_rec_info(r->type);
	unsigned i;

	for (i = 0; i < t->n && strcmp(t->f[i].name, field); i++)
		;
	if (i == t->n)
		fail("the record has no such field");
	r->v[i] += delta;
}

int main(int argc, char **argv)
{
	uint64_t number = 0, out = 0, at = argc > 3 ? strtoull(argv[3], NULL, 0) : UINT64_MAX;
	bool is_set, is_drop;
	uint8_t *buf, rec[LP_REC_MAX];
	struct lp_rec r;
	size_t len, pos, n;
	int k;

	is_set = argc == 6 && !strcmp(argv[2], "set");
	is_drop = argc == 4 && !strcmp(argv[2], "drop");
	if (!is_set && !is_drop && (argc != 3 || strcmp(argv[2], "list")))
		fail("usage: trace_alter FILE list | set N FIELD DELTA | drop N");
	buf = load(argv[1], &len);
	if (is_set || is_drop)
		fwrite(buf, 1, LP_TRACE_HEAD, stdout);
	for (pos = LP_TRACE_HEAD; pos < len; pos += k, number++) {
		k = lp_rec_decode(buf + pos, len - pos, number, &r);
		if (k < 0)
			fail("the trace is not whole");
		if (!is_set && !is_drop) {
			list(&r, number);
			continue;
		}
		if (number == at && is_drop)
			continue;
		if (number == at)
			set(&r, argv[4], strtoll(argv[5], NULL, 0));
		n = lp_rec_encode(&r, out++, rec);
		if (!n)
			fail("the value is out of its bounds");
		fwrite(rec, 1, n, stdout);
	}
	free(buf);
	if (at != UINT64_MAX && at >= number)
		fail("the trace has no such record");
	return fflush(stdout) || ferror(stdout) ? 2 : 0;
}
