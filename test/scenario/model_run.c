/* SPDX-License-Identifier: GPL-2.0-only */
/* Random programs through the engine, held against the model of test/lib/model.h. */
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "test/lib/model.h"

static const struct {
	const char *name;
	unsigned flag;
	const char *help;
} races[] = {
	{ "no-races", MD_NO_RACES, "one message at a time" },
	{ "no-fork-races", MD_FORK_RACES, "FORK is not read before or after other threads' earlier or later events" },
	{ "no-plain-races", MD_PLAIN_RACES, "no late UNMAP spans places that no message ever named" },
	{ "no-moved-races", MD_MOVED_RACES, "nothing moves on from where another thread's UNMAP is unread" },
	{ "no-dontfork", MD_DONTFORK, "the images tell of no MADV_DONTFORK" },
	{ "no-untold", MD_UNTOLD, "children lack nothing untold (MADV_DONTFORK after the restore)" },
	{ "no-growth", MD_GROWTH, "no mapping grows" },
	/*
	 * From here on: the same messages and the same registered ranges may have
	 * come about in several ways, so differences are to be expected.
	 */
	{ "mixed", MD_MIXED, "races of forks, growth and untold MADV_DONTFORK in the same world" },
	{ "deep-races", MD_DEEP_RACES, "places change hands more than twice, or are unmapped again, before a settled moment" },
	{ "grow-races", MD_GROW_RACES, "a neighbour grows over an unmapped place before a settled moment" },
	{ "fork-deep-races", MD_FORK_DEEP, "places change twice around a fork, REMOVE overtakes FORK, young children change" },
	{ "ghost-races", MD_GHOST_RACES, "what was moved over a DONTFORK place moves on before a settled moment" },
	{ "hollow-races", MD_HOLLOW_RACES, "what MREMAP_DONTUNMAP left is moved over before a settled moment" },
	{ "book", MD_ANYTHING, "all of these, but the host enters all changes in the kernel's order: no guess is needed" },
	{ "old-shrink", MD_OLD_SHRINK, "REMAP of a shrinking move tells the old length (before 6.16)" },
};

#define NRACES (sizeof(races) / sizeof(races[0]))

static void usage(FILE *out)
{
	size_t i;

	fprintf(out, "usage: model_run [--steps N] [--seed S] [--pages P] [--tasks T] [--threads H] [--check EVERY]\n"
		     "                 [--epoch STEPS]\n");
	for (i = 0; i < NRACES; i++) {
		if (races[i].flag == MD_MIXED)
			fprintf(out, "With these the engine has to guess, and some of its guesses are wrong:\n");
		fprintf(out, "  --%-15s %s\n", races[i].name, races[i].help);
	}
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	struct md_conf conf = { .pages = 512, .tasks = 3, .threads = 3, .flags = MD_DEFAULT };
	struct option opt[8 + NRACES] = {
		{ "steps", required_argument, NULL, 's' },   { "seed", required_argument, NULL, 'S' },
		{ "pages", required_argument, NULL, 'p' },   { "tasks", required_argument, NULL, 't' },
		{ "threads", required_argument, NULL, 'h' }, { "check", required_argument, NULL, 'c' },
		{ "epoch", required_argument, NULL, 'e' },
	};
	uint64_t steps = 3000000, seed = 1, i, ev, fills, faults, kills, booked, guessed;
	struct md_choice choice = { 0 };
	double t0 = seconds(), t;
	struct md *m;
	int c;

	for (i = 0; i < NRACES; i++)
		opt[7 + i] = (struct option){ races[i].name, no_argument, NULL, 256 + i };
	while ((c = getopt_long(argc, argv, "", opt, NULL)) >= 0) {
		uint64_t v = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (c) {
		case 's':
			steps = v;
			break;
		case 'S':
			seed = v;
			break;
		case 'p':
			conf.pages = v;
			break;
		case 't':
			conf.tasks = v;
			break;
		case 'h':
			conf.threads = v;
			break;
		case 'c':
			conf.check = v;
			break;
		case 'e':
			conf.epoch = v;
			break;
		default:
			if (c < 256) {
				usage(stderr);
				return 2;
			}
			conf.flags ^= races[c - 256].flag;
		}
	}
	if (optind < argc || conf.pages < 128 || conf.pages > MD_MAX_PAGES || !conf.tasks ||
	    conf.tasks > MD_MAX_TASKS - 2 || !conf.threads || conf.threads > MD_MAX_THREADS) {
		usage(stderr);
		return 2;
	}
	choice.rng = md_seed(seed);
	m = md_new(&conf, &choice);
	if (!m)
		return 2;
	for (i = 0; i < steps; i++) {
		if (md_step(m) && (i + 1 < steps || md_settle(m)))
			continue;
		printf("model: DIFFERENCE at step %" PRIu64 ", seed %" PRIu64 ": %s\n", i + 1, seed, md_error(m));
		md_print_last(m, stdout);
		md_settlings(m, &booked, &guessed);
		printf("model: %" PRIu64 " settled moments by the book, %" PRIu64 " guessed\n", booked, guessed);
		return 1;
	}
	t = seconds() - t0;
	md_counts(m, &ev, &fills, &faults, &kills);
	md_settlings(m, &booked, &guessed);
	md_free(m);
	printf("model: %" PRIu64 " settled moments by the book, %" PRIu64 " guessed\n", booked, guessed);
	printf("model: %" PRIu64 " events, %" PRIu64 " pages filled, %" PRIu64 " faults, %" PRIu64 " kills\n", ev, fills,
	       faults, kills);
	printf("model: %" PRIu64 " steps, 0 differences, seed %" PRIu64 ", %.1f M steps/min\n", steps, seed,
	       steps / 1e6 / (t / 60));
	return 0;
}
