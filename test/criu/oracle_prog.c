/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The oracle as a program to be dumped and restored:
 *
 *	oracle_prog --dir DIR [--size 64M] [--threads N] [--ops N | --seconds N] [--seed S] [--guards]
 *
 * It fills its memory, starts its threads, creates DIR/ready and polls for
 * DIR/go, where it is dumped. The number in `go` goes into the seed, so each
 * restore of one dump does something else. Leaves one JSON line in DIR/result,
 * what was wrong in DIR/report, and ends with status 0 if that is nothing.
 */
#include <err.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "test/lib/oracle.h"

/* Low, where the kernel puts nothing by itself. */
#define BASE UINT64_C(0x200000000000)
#define THREAD_SPACE (UINT64_C(64) << 30)
#define PARTS 3

struct start {
	unsigned threads;
	_Atomic unsigned waiting;
};

static uint64_t gate(void *arg, unsigned thread)
{
	struct start *st = arg;
	const struct timespec nap = { .tv_nsec = 200000 };
	struct stat go;
	char text[32] = "";
	int fd;

	if (atomic_fetch_add(&st->waiting, 1) + 1 == st->threads) {
		fd = open("ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0)
			err(2, "ready");
		close(fd);
	}
	/* Dumped here. */
	while (stat("go", &go))
		nanosleep(&nap, NULL);
	fd = open("go", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		err(2, "go");
	close(fd);
	return strtoull(text, NULL, 10);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 0);

	switch (*end) {
	case 'G':
		v <<= 10;
		/* fall through */
	case 'M':
		v <<= 20;
		end++;
	}
	if (end == s || *end)
		errx(2, "not a number: %s", s);
	return v;
}

/* Each thread: a big mapping, one with a never touched part, and a small one, with gaps between. */
static void map_thread(struct oracle *o, unsigned t, uint64_t pages)
{
	uint64_t n[PARTS] = { pages * 2 / 3, pages / 4, pages - pages * 2 / 3 - pages / 4 };
	uint64_t addr = BASE + t * THREAD_SPACE;
	unsigned i;

	for (i = 0; i < PARTS; i++) {
		void *p = mmap((void *)addr, n[i] * ORACLE_PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

		if (p != (void *)addr)
			err(2, "mmap");
		oracle_add(o, t, addr, n[i], 0);
		if (i == 1)
			oracle_zeros(o, addr + n[i] / 3 * ORACLE_PAGE, n[i] / 4);
		addr += (n[i] + 16) * ORACLE_PAGE;
	}
}

static void result(const struct oracle_shared *sh)
{
	FILE *f = fopen("report", "we");

	if (!f)
		err(2, "report");
	oracle_print(f, sh);
	fclose(f);
	f = fopen("result.new", "we");
	if (!f)
		err(2, "result.new");
	oracle_json(f, sh);
	if (fclose(f) || rename("result.new", "result"))
		err(2, "result");
}

int main(int argc, char **argv)
{
	enum { DIR_, SIZE, THREADS, OPS, SECONDS, SEED, GUARDS };
	static const struct option longs[] = {
		{ "dir", 1, NULL, DIR_ }, { "size", 1, NULL, SIZE }, { "threads", 1, NULL, THREADS },
		{ "ops", 1, NULL, OPS }, { "seconds", 1, NULL, SECONDS }, { "seed", 1, NULL, SEED },
		{ "guards", 0, NULL, GUARDS }, { NULL, 0, NULL, 0 },
	};
	struct oracle_conf conf = { .pid = 7, .threads = 2, .gate = gate };
	struct start start = { 0 };
	uint64_t size = 64 << 20;
	const char *dir = ".";
	struct oracle *o;
	unsigned t;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case DIR_: dir = optarg; break;
		case SIZE: size = number(optarg); break;
		case THREADS: conf.threads = number(optarg); break;
		case OPS: conf.ops = number(optarg); break;
		case SECONDS: conf.seconds = strtod(optarg, NULL); break;
		case SEED: conf.seed = number(optarg); break;
		case GUARDS: conf.guard = 1; break;
		default:
			fputs("usage: oracle_prog --dir DIR [--size 64M] [--threads N] [--ops N] [--seconds N] [--seed S] "
			      "[--guards]\n",
			      stderr);
			return 2;
		}
	}
	if (!conf.ops && conf.seconds <= 0)
		conf.ops = 2000;
	if (chdir(dir))
		err(2, "%s", dir);
	conf.gate_arg = &start;
	start.threads = conf.threads;
	conf.shared = mmap(NULL, sizeof(*conf.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (conf.shared == MAP_FAILED)
		err(2, "mmap");
	o = oracle_new(&conf);
	if (!o || size / ORACLE_PAGE / conf.threads < 64)
		errx(2, "1 to %d threads, at least 64 pages each", ORACLE_MAX_THREADS);
	for (t = 0; t < conf.threads; t++)
		map_thread(o, t, size / ORACLE_PAGE / conf.threads);
	oracle_fill(o);
	oracle_run(o);
	result(conf.shared);
	return oracle_bad(conf.shared) ? 1 : 0;
}
