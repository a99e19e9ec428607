/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: bytes choose what tasks, threads and the host do; the
 * engine is held against the model. The first byte chooses the races (those
 * that the engine is to get right: with a book all there are), the number of
 * threads and of tasks.
 */
#include <stdint.h>
#include <stdlib.h>

#include "test/lib/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct md_conf conf = { .pages = 128, .check = 4, .epoch = 100000 };
	struct md_choice choice = { .rng = 1 };
	struct md *m;
	bool ok = true;

	if (size < 2)
		return 0;
	conf.flags = data[0] & 1 ? MD_NO_RACES : MD_DEFAULT;
	if (data[0] & 8)
		conf.flags |= MD_ANYTHING | (data[0] & 32 ? MD_OLD_SHRINK : 0);
	conf.threads = 1 + (data[0] >> 1) % 4;
	conf.tasks = 1 + (data[0] >> 4) % 2;
	choice.p = data + 1;
	choice.end = data + size;
	m = md_new(&conf, &choice);
	if (!m)
		return 0;
	while (ok && !md_exhausted(m))
		ok = md_step(m);
	if (!ok || !md_settle(m)) {
		fprintf(stderr, "engine_fuzz: %s\n", md_error(m));
		md_print_last(m, stderr);
		abort();
	}
	md_free(m);
	return 0;
}
