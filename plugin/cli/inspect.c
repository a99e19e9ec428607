/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages inspect`: what a checkpoint holds, and whether it is whole,
 * before anything is restored from it. Reads only; owns the images while it
 * runs.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/size.h"
#include "cli/cli.h"
#include "images/images.h"

struct sums {
	uint64_t vmas, lazy_vmas, extents, lazy_ranges;
	uint64_t lazy, eager;	       /* bytes, by the way they are restored */
	uint64_t data, source, parent; /* bytes, by where they are; parent is a part of data */
};

static int count_range(void *arg, uint64_t start, uint64_t end, const struct lp_vma *vma, const struct lp_extent *ext)
{
	++*(uint64_t *)arg;
	return 0;
}

static void sum_task(const struct lp_images *im, const struct lp_task *t, struct sums *s)
{
	uint64_t len;
	size_t i;

	memset(s, 0, sizeof(*s));
	s->vmas = t->nvmas;
	for (i = 0; i < t->nvmas; i++)
		s->lazy_vmas += t->vmas[i].lazy;
	s->extents = t->nextents;
	lp_task_lazy_ranges(t, count_range, &s->lazy_ranges);
	s->lazy = t->lazy_bytes;
	s->eager = t->eager_bytes;
	for (i = 0; i < t->nextents; i++) {
		len = t->extents[i].end - t->extents[i].start;
		if (t->extents[i].kind == LP_EXT_SOURCE) {
			s->source += len;
			continue;
		}
		s->data += len;
		if (lp_images_file(im, t->extents[i].file)->depth)
			s->parent += len;
	}
}

static void add_sums(struct sums *to, const struct sums *s)
{
	to->vmas += s->vmas;
	to->lazy_vmas += s->lazy_vmas;
	to->extents += s->extents;
	to->lazy_ranges += s->lazy_ranges;
	to->lazy += s->lazy;
	to->eager += s->eager;
	to->data += s->data;
	to->source += s->source;
	to->parent += s->parent;
}

#define SIZE(n) lp_size_str((n), (char[24]){ "" }, 24)

static void print_row(const char *pid, const char *ppid, const struct sums *s)
{
	printf("%7s %7s %6" PRIu64 " %9" PRIu64 " %11" PRIu64 " %8s %8s %8s %8s %8s\n", pid, ppid, s->vmas, s->lazy_vmas,
	       s->lazy_ranges, SIZE(s->lazy), SIZE(s->eager), SIZE(s->data), SIZE(s->parent),
	       SIZE(s->source));
}

static void print_table(const struct lp_images *im)
{
	struct sums s, total = { 0 };
	char pid[16], ppid[16];
	size_t i;

	printf("%7s %7s %6s %9s %11s %8s %8s %8s %8s %8s\n", "PID", "PPID", "VMAS", "LAZY-VMAS", "LAZY-RANGES", "LAZY",
	       "EAGER", "IN-FILES", "(PARENT)", "ON-SOURCE");
	for (i = 0; i < lp_images_ntasks(im); i++) {
		const struct lp_task *t = lp_images_task(im, i);

		snprintf(pid, sizeof(pid), "%" PRId32, t->pid);
		snprintf(ppid, sizeof(ppid), "%" PRId32, t->ppid);
		if (!t->has_mm) {
			printf("%7s %7s %6s (dead: no memory)\n", pid, ppid, "-");
			continue;
		}
		sum_task(im, t, &s);
		add_sums(&total, &s);
		print_row(pid, ppid, &s);
	}
	if (lp_images_ntasks(im) > 1)
		print_row("total", "", &total);
	printf("\nparent directories: %u\n", lp_images_depth(im));
	for (i = 0; i < lp_images_nfiles(im); i++) {
		const struct lp_pages_file *f = lp_images_file(im, i);

		printf("%8s  %s\n", SIZE(f->size), f->name);
	}
}

static json_t *json_u64(uint64_t v)
{
	return json_integer((json_int_t)v);
}

/* jansson takes NULL values as a failure of the object, which is found at the end. */
static json_t *json_sums(const struct sums *s)
{
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "vmas", json_u64(s->vmas), "lazy_vmas",
			 json_u64(s->lazy_vmas), "extents", json_u64(s->extents), "lazy_ranges", json_u64(s->lazy_ranges),
			 "lazy_bytes", json_u64(s->lazy), "eager_bytes", json_u64(s->eager), "file_bytes",
			 json_u64(s->data), "parent_bytes", json_u64(s->parent), "source_bytes", json_u64(s->source));
}

static json_t *json_task(const struct lp_images *im, const struct lp_task *t, struct sums *total)
{
	json_t *o;
	struct sums s;

	sum_task(im, t, &s);
	add_sums(total, &s);
	o = json_pack("{s:i,s:i,s:b}", "pid", (int)t->pid, "ppid", (int)t->ppid, "has_memory", (int)t->has_mm);
	json_object_update_new(o, json_sums(&s));
	if (t->has_mm)
		json_object_set_new(o, "pages_id", json_integer(t->pages_id));
	return o;
}

static int print_json(const struct lp_images *im, const char *dir)
{
	json_t *tasks = json_array(), *files = json_array(), *o;
	struct sums total = { 0 };
	size_t i;
	int rc;

	for (i = 0; i < lp_images_ntasks(im); i++)
		json_array_append_new(tasks, json_task(im, lp_images_task(im, i), &total));
	for (i = 0; i < lp_images_nfiles(im); i++) {
		const struct lp_pages_file *f = lp_images_file(im, i);

		json_array_append_new(files, json_pack("{s:s,s:o,s:i}", "name", f->name, "size", json_u64(f->size), "depth",
						       (int)f->depth));
	}
	/* A path need not be UTF-8, JSON must be: then it is left out. */
	o = json_pack("{s:o*,s:i,s:o,s:o,s:o}", "directory", json_string(dir), "parents", (int)lp_images_depth(im), "tasks",
		      tasks, "files", files, "total", json_sums(&total));
	rc = o ? json_dumpf(o, stdout, JSON_INDENT(2)) : -1;
	json_decref(o);
	putchar('\n');
	return rc;
}

static void usage(FILE *f)
{
	fputs("usage: lazypages inspect [--json] DIR\n"
	      "\n"
	      "Check the checkpoint in DIR and show what memory it holds: for each task its\n"
	      "VMAs, what is restored lazily and what before the start, and where the bytes\n"
	      "are: in the pages files, in those of parents, or still on the source.\n"
	      "\n"
	      "      --json   the same as JSON, sizes in bytes\n"
	      "  -h, --help   this text\n"
	      "\n"
	      "Exit code: 0 the checkpoint is whole, 1 it is not, 2 wrong usage.\n",
	      f);
}

static int bad_usage(const char *what, const char *arg)
{
	fprintf(stderr, "lazypages inspect: %s%s: try `lazypages inspect --help`\n", what, arg);
	return 2;
}

int cmd_inspect(int argc, char **argv)
{
	/* Above any character: then optopt tells a bad long option from a bad short one. */
	enum { OPT_JSON = 256, OPT_HELP };
	static const struct option opts[] = { { "json", no_argument, NULL, OPT_JSON },
					      { "help", no_argument, NULL, OPT_HELP },
					      { NULL, 0, NULL, 0 } };
	struct lp_images *im;
	struct lp_err err = { "" };
	const char *dir;
	bool json = false;
	int c, rc = 0;

	opterr = 0;
	optind = 0; /* glibc: start afresh, main may have parsed options before */
	while ((c = getopt_long(argc, argv, ":h", opts, NULL)) != -1) {
		if (c == OPT_JSON) {
			json = true;
		} else if (c == 'h' || c == OPT_HELP) {
			usage(stdout);
			return 0;
		} else {
			char s[] = { '-', (char)optopt, 0 };

			return bad_usage("unknown option ", optopt && optopt < OPT_JSON ? s : argv[optind - 1]);
		}
	}
	if (argc - optind != 1)
		return bad_usage(argc == optind ? "no directory given" : "more than one directory: ",
				 argc == optind ? "" : argv[optind + 1]);
	dir = argv[optind];
	if (lp_images_open(dir, &im, &err)) {
		fprintf(stderr, "lazypages inspect: %s\n", err.msg);
		return 1;
	}
	if (json)
		rc = print_json(im, dir);
	else
		print_table(im);
	lp_images_close(im);
	if (rc || fflush(stdout) || ferror(stdout)) {
		fprintf(stderr, "lazypages inspect: cannot write the output: free some space or memory\n");
		return 1;
	}
	return 0;
}
