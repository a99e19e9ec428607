/* SPDX-License-Identifier: GPL-2.0-only */
/* `lazypages seal` and `lazypages verify`: parse, run images/seal.h, show what it says. */
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/size.h"
#include "cli/cli.h"
#include "images/seal.h"

struct show {
	const char *name; /* of the command */
	bool tty, line;	  /* a progress line is there to be overwritten */
	uint64_t last;	  /* ms: when it was written */
	json_t *flaws;	  /* NULL: print them */
	bool broken;	  /* a flaw could not be told for want of memory */
};

static void usage_seal(FILE *f)
{
	fputs("Usage: lazypages seal [--json] DIR\n"
	      "\n"
	      "Takes checksums of all files of the checkpoint in DIR and its parents, page by page, and\n"
	      "writes them to DIR/" LP_SEAL_FILE ". To be called when the dump is complete; `lazypages daemon`,\n"
	      "`serve` and `verify` then know a page that has changed since.\n"
	      "\n"
	      "      --json   tell what was sealed as JSON\n"
	      "  -h, --help   this text\n"
	      "\n"
	      "Exit code: 0 done, 1 it could not be, 2 wrong usage.\n",
	      f);
}

static void usage_verify(FILE *f)
{
	fputs("Usage: lazypages verify [--json] DIR\n"
	      "\n"
	      "Compares the checkpoint in DIR and its parents with DIR/" LP_SEAL_FILE ", and names file,\n"
	      "offset and page of whatever is not as it was sealed.\n"
	      "\n"
	      "      --json   the same as JSON\n"
	      "  -h, --help   this text\n"
	      "\n"
	      "Exit code: 0 all is as it was sealed, 1 it is not or there is no seal, 2 wrong usage.\n",
	      f);
}

static void clear_line(struct show *s)
{
	if (s->line)
		fputs("\r\033[K", stderr);
	s->line = false;
}

static void progress(void *arg, uint64_t done, uint64_t total)
{
	struct show *s = arg;
	struct timespec ts;
	char a[16], b[16];
	uint64_t now;

	if (!s->tty)
		return;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
	if (now - s->last < 100)
		return;
	s->last = now;
	fprintf(stderr, "\r%s: %s of %s\033[K", s->name, lp_size_str(done, a, sizeof(a)), lp_size_str(total, b, sizeof(b)));
	s->line = true;
}

static void flaw(void *arg, const char *file, uint64_t off, uint64_t pages, const char *what)
{
	struct show *s = arg;
	json_t *o;

	clear_line(s);
	if (s->flaws) {
		o = json_pack("{s:s,s:s}", "file", file, "what", what);
		if (o && pages) {
			json_object_set_new(o, "offset", json_integer((json_int_t)off));
			json_object_set_new(o, "page", json_integer((json_int_t)(off / LP_PAGE_SIZE)));
			json_object_set_new(o, "pages", json_integer((json_int_t)pages));
		}
		if (!o || json_array_append_new(s->flaws, o))
			s->broken = true;
	} else if (pages > 1) {
		printf("%s, offset 0x%" PRIx64 " (pages %" PRIu64 " to %" PRIu64 "): %s\n", file, off, off / LP_PAGE_SIZE,
		       off / LP_PAGE_SIZE + pages - 1, what);
	} else if (pages) {
		printf("%s, offset 0x%" PRIx64 " (page %" PRIu64 "): %s\n", file, off, off / LP_PAGE_SIZE, what);
	} else {
		printf("%s: %s\n", file, what);
	}
}

/* One directory, perhaps --json. NULL: *status is the exit code. */
static const char *parse(int argc, char **argv, void (*usage)(FILE *f), bool *json, int *status)
{
	static const struct option opts[] = { { "json", no_argument, NULL, 'j' },
					      { "help", no_argument, NULL, 'h' },
					      { NULL, 0, NULL, 0 } };
	int c;

	*status = 2;
	optind = 0; /* glibc: start afresh, main may have parsed options before */
	while ((c = getopt_long(argc, argv, "h", opts, NULL)) != -1) {
		if (c == 'j') {
			*json = true;
		} else if (c == 'h') {
			usage(stdout);
			*status = 0;
			return NULL;
		} else {
			fprintf(stderr, "lazypages %s: try `lazypages %s --help`\n", argv[0], argv[0]);
			return NULL;
		}
	}
	if (argc - optind != 1) {
		fprintf(stderr, "lazypages %s: %s: try `lazypages %s --help`\n", argv[0],
			argc == optind ? "no directory given" : "more than one directory", argv[0]);
		return NULL;
	}
	return argv[optind];
}

static int printed(const char *name, int status)
{
	if (!fflush(stdout) && !ferror(stdout))
		return status;
	fprintf(stderr, "lazypages %s: cannot write the output: free some space\n", name);
	return 1;
}

static void print_json(json_t *o)
{
	json_dumpf(o, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(o);
}

static json_t *json_sums(const struct lp_seal_sums *t)
{
	return json_pack("{s:I,s:I,s:i,s:i}", "bytes", (json_int_t)t->bytes, "pages", (json_int_t)t->pages, "pages_files",
			 (int)t->files, "other_files", (int)t->small);
}

int cmd_seal(int argc, char **argv)
{
	struct show s = { .name = "seal", .tty = isatty(2) };
	struct lp_seal_sums sums;
	struct lp_err err = { "" };
	struct lp_images *im;
	bool json = false;
	const char *dir;
	char size[16];
	int rc, status;

	dir = parse(argc, argv, usage_seal, &json, &status);
	if (!dir)
		return status;
	rc = lp_images_open(dir, &im, &err);
	if (!rc) {
		rc = lp_seal_make(im, dir, progress, &s, &sums, &err);
		lp_images_close(im);
	}
	clear_line(&s);
	if (rc) {
		fprintf(stderr, "lazypages seal: %s\n", err.msg);
		return 1;
	}
	if (json)
		print_json(json_sums(&sums));
	else
		printf("sealed: %s in %" PRIu32 " pages files, %" PRIu32 " other files\n",
		       lp_size_str(sums.bytes, size, sizeof(size)), sums.files, sums.small);
	return printed("seal", 0);
}

int cmd_verify(int argc, char **argv)
{
	struct show s = { .name = "verify", .tty = isatty(2) };
	struct lp_seal_sums sums = { 0 };
	struct lp_images *im = NULL;
	struct lp_err err = { "" };
	bool json = false, open;
	const char *dir;
	char size[16];
	int rc, status;
	json_t *o;

	dir = parse(argc, argv, usage_verify, &json, &status);
	if (!dir)
		return status;
	if (json)
		s.flaws = json_array();
	/* What cannot even be understood is the first flaw; the seal may tell more about it. */
	open = !lp_images_open(dir, &im, &err);
	if (!open)
		flaw(&s, dir, 0, 0, err.msg);
	rc = lp_seal_verify(im, dir, flaw, progress, &s, &sums, &err);
	lp_images_close(im);
	clear_line(&s);
	if (rc)
		flaw(&s, dir, 0, 0, err.msg);
	status = rc || !open || sums.flaws ? 1 : 0;
	if (json) {
		o = json_sums(&sums);
		if (!o || s.broken || json_object_set_new(o, "flaws", s.flaws) ||
		    json_object_set_new(o, "good", json_boolean(!status))) {
			fprintf(stderr, "lazypages verify: out of memory\n");
			status = 1;
		}
		print_json(o);
	} else if (!status) {
		printf("all is as it was sealed: %s in %" PRIu32 " pages files, %" PRIu32 " other files\n",
		       lp_size_str(sums.bytes, size, sizeof(size)), sums.files, sums.small);
	}
	return printed("verify", status);
}
