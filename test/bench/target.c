/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The program that `test/bench/run` dumps and restores: target DIR SIZE LAYOUT.
 *
 * It fills its buffers, creates `ready` in DIR and polls for `go`, where it is
 * dumped. The runner creates `go` before it restores, so the first thing the
 * restored program does is to find it. The file's text is the order of access:
 *
 *	random, seq	touch each page of the big buffer, timing each touch
 *	second		touch the second buffer in random order, leave the big one
 *	none		touch nothing
 *	storm		as random; a sibling task changes its own layout all the while
 *
 * Then it waits for `verify` (the runner creates it when the drain is over, so
 * that checking does not disturb it), checks each word of both buffers, leaves
 * one JSON line in `result` and exits.
 *
 * What runs between the restore and the end of touching uses registers, one
 * stack page, read-only data of the binary and memory mapped after the restore:
 * the measured pages are nearly all that faults.
 */
#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "buffer.h"

/* CRIU restores into a time namespace, so only CLOCK_REALTIME is the runner's too. */
struct moment {
	uint64_t real, mono;
};

static void nap(long ns)
{
	struct timespec ts = { .tv_nsec = ns };

	nanosleep(&ts, NULL);
}

/* Anonymous pages resident now: what was filled before the first instruction. */
static uint64_t anon_pages(void)
{
	char text[128], *p = text;
	uint64_t resident, shared;
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	strtoull(p, &p, 10);
	resident = strtoull(p, &p, 10);
	shared = strtoull(p, &p, 10);
	return resident - shared;
}

/*
 * The sibling: another task with memory of its own, which discards and moves
 * pages at a steady rate from the restore on until the drain is over, keeping
 * account of what each page has to hold.
 */
#define STORM_PAGES 16384UL
#define STORM_RATE 10000UL /* calls a second */

struct storm {
	char *base, *spare;  /* the memory; as much address space for one page at a time */
	uint64_t calls, refused, wrong;
	bool zero[STORM_PAGES];
};

/* Discard some pages, or move one away and back again: two calls, or one if it is refused. */
static void storm_call(struct storm *st, uint64_t n)
{
	uint64_t page = bench_permute(n % STORM_PAGES, STORM_PAGES);
	char *p = st->base + page * BENCH_PAGE, *q;

	st->calls++;
	if (n % 2) {
		if (madvise(p, BENCH_PAGE, MADV_DONTNEED))
			st->refused++;
		else
			st->zero[page] = true;
		return;
	}
	q = mremap(p, BENCH_PAGE, BENCH_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, st->spare);
	if (q == MAP_FAILED) {
		st->refused++;
		return;
	}
	st->calls++;
	for (int i = 0; mremap(q, BENCH_PAGE, BENCH_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p) == MAP_FAILED; i++) {
		st->refused++;
		if (i == 100)
			err(1, "a page does not come back");
		nap(100000);
	}
}

static void storm_main(struct storm *st)
{
	char order[16] = "";
	uint64_t start, n = 0;
	FILE *f;
	int fd;

	while ((fd = open("go", O_RDONLY | O_CLOEXEC)) < 0)
		nap(200000);
	if (read(fd, order, sizeof(order) - 1) < 0)
		err(1, "go");
	close(fd);
	start = bench_now();
	while (!strcmp(order, "storm") && access("stop", F_OK)) {
		while (st->calls < (bench_now() - start) / (1000000000 / STORM_RATE))
			storm_call(st, n++);
		nap(50000);
	}
	for (uint64_t i = 0; i < STORM_PAGES; i++) {
		const uint64_t *p = (const uint64_t *)(st->base + i * BENCH_PAGE);

		if (st->zero[i])
			st->wrong += p[0] || p[BENCH_WORDS - 1];
		else
			st->wrong += bench_verify((const char *)p, i, 1);
	}
	f = fopen("storm.new", "we");
	if (!f || fprintf(f, "{\"calls\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"wrong\": %" PRIu64
			  ", \"ns\": %" PRIu64 "}\n", st->calls, st->refused, st->wrong, bench_now() - start) < 0 ||
	    fclose(f) || rename("storm.new", "storm"))
		err(1, "storm");
	_exit(0);
}

static void storm_start(void)
{
	struct storm *st = mmap(NULL, sizeof(*st), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t len = STORM_PAGES * BENCH_PAGE;
	pid_t pid;

	if (st == MAP_FAILED)
		err(1, "mmap");
	st->base = mmap(NULL, len + 3 * BENCH_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (st->base == MAP_FAILED)
		err(1, "mmap");
	st->base += BENCH_PAGE;
	st->spare = st->base + len + BENCH_PAGE;
	if (munmap(st->base + len, BENCH_PAGE))
		err(1, "munmap");
	bench_fill(st->base, 0, STORM_PAGES);
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid)
		storm_main(st);
	if (munmap(st->base, len) || munmap(st->spare, BENCH_PAGE))
		err(1, "munmap");
}

static void result(const struct bench_touch *t, const char *order, const struct moment *first, uint64_t anon,
		   uint64_t start, uint64_t done, uint64_t wrong)
{
	FILE *f = fopen("result.new", "we");

	if (!f)
		err(1, "result.new");
	fprintf(f,
		"{\"order\": \"%s\", \"first_real_ns\": %" PRIu64 ", \"first_ns\": %" PRIu64 ", \"first_anon_pages\": %" PRIu64
		", \"touch_start_ns\": %" PRIu64 ", \"touch_done_ns\": %" PRIu64 ", \"nfaults\": %" PRIu64
		", \"p50_ns\": %" PRIu32 ", \"p99_ns\": %" PRIu32 ", \"max_ns\": %" PRIu32
		", \"wrong_at_touch\": %" PRIu64 ", \"wrong_pages\": %" PRIu64 "}\n",
		order, first->real, first->mono, anon, start, done, t->nfaults, bench_touch_rank(t, 500), bench_touch_rank(t, 990),
		bench_touch_rank(t, 1000), t->wrong, wrong);
	if (fclose(f) || rename("result.new", "result"))
		err(1, "result");
}

int main(int argc, char **argv)
{
	uint64_t size = argc == 4 ? bench_size(argv[2]) : 0;
	bool many = argc == 4 && !strcmp(argv[3], "many");
	bool pair = argc == 4 && !strcmp(argv[3], "pair");
	uint64_t anon, start, done, wrong;
	struct timespec real;
	struct moment first;
	struct bench_touch t = { 0 };
	struct bench_buf b;
	char order[16];
	ssize_t n;
	int fd;

	if (!size || (!many && !pair && strcmp(argv[3], "one"))) {
		fprintf(stderr, "usage: target DIR SIZE one|many|pair\n");
		return 2;
	}
	if (chdir(argv[1]))
		err(1, "%s", argv[1]);
	if (pair)
		storm_start();
	if (bench_map(&b, size, many))
		err(1, "mmap of %s", argv[2]);
	bench_fill(b.base, 0, b.npages);
	bench_fill(b.second, b.npages, BENCH_SECOND);
	if (bench_cut(&b))
		err(1, "mprotect");
	fd = open("ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		err(1, "ready");
	close(fd);

	/* Dumped here. */
	while ((fd = open("go", O_RDONLY | O_CLOEXEC)) < 0)
		nap(200000);
	clock_gettime(CLOCK_REALTIME, &real);
	first.mono = bench_now();
	first.real = (uint64_t)real.tv_sec * 1000000000ULL + (uint64_t)real.tv_nsec;

	n = read(fd, order, sizeof(order) - 1);
	close(fd);
	order[n > 0 ? n : 0] = '\0';
	anon = anon_pages();
	t.lat = bench_lat_alloc(b.npages);
	if (!t.lat)
		err(1, "mmap of latencies");
	start = bench_now();
	if (!strcmp(order, "random") || !strcmp(order, "seq") || !strcmp(order, "storm"))
		bench_touch(&t, b.base, 0, b.npages, b.npages, strcmp(order, "seq") != 0, true);
	else if (!strcmp(order, "second"))
		bench_touch(&t, b.second, b.npages, BENCH_SECOND, BENCH_SECOND, true, true);
	done = bench_now();
	if (!strcmp(order, "storm")) {
		fd = open("stop", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
		if (fd < 0)
			err(1, "stop");
		close(fd);
		while (access("storm", F_OK))
			nap(2000000);
	}

	while (access("verify", F_OK))
		nap(2000000);
	wrong = bench_verify(b.base, 0, b.npages) + bench_verify(b.second, b.npages, BENCH_SECOND);
	bench_touch_sort(&t);
	result(&t, order, &first, anon, start, done, wrong);
	return 0;
}
