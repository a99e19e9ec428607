/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The program that test/criu/pressure dumps and restores:
 *
 *	pressure_prog MODE DIR [NUMBER [SIZE]]
 *
 * It fills memory whose every word follows from its place, creates DIR/ready and
 * polls for DIR/go, where it is dumped. Then, by MODE, in what is left of it:
 *
 *	touch	checks all of SIZE
 *	huge	the same with MADV_HUGEPAGE; then discards 2 MiB and fills them anew
 *	pageout	the same, over and over for NUMBER seconds, and between pushes it to swap
 *	vmas	SIZE in NUMBER mappings of every other permission; checks all
 *	tasks	NUMBER tasks, each with SIZE of its own, check it when all run
 *	forks	forks NUMBER children; each checks a few pages of SIZE, waits for
 *		DIR/end or SIGTERM, checks a few more, and ends
 *
 * Leaves one line in DIR/result: "N wrong" and figures of its own, and waits for
 * DIR/quit.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE  4096u
#define WORDS (PAGE / 8)
#define HUGE  (UINT64_C(2) << 20)
#define FEW   5u

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

static struct shared {
	_Atomic uint64_t wrong, ready, done;
} *sh;
static volatile sig_atomic_t told;
static unsigned naps = 1; /* longer for many tasks: their polling must not take the CPUs */

static void nap(void)
{
	const struct timespec ts = { .tv_nsec = naps * 2000000L };

	nanosleep(&ts, NULL);
}

static void wait_file(const char *name)
{
	struct stat st;

	while (stat(name, &st))
		nap();
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * UINT64_C(1000000000) + ts.tv_nsec;
}

static uint64_t word(uint64_t page, unsigned i)
{
	uint64_t x = (page * WORDS + i + 1) * UINT64_C(0x9E3779B97F4A7C15);

	return x ^ x >> 29;
}

/* Pages [from, to) of @mem; @key tells the memory of one task from another's. */
static void fill(uint64_t *mem, uint64_t from, uint64_t to, uint64_t key)
{
	for (uint64_t p = from; p < to; p++)
		for (unsigned i = 0; i < WORDS; i++)
			mem[p * WORDS + i] = word(key + p, i);
}

static void check(const uint64_t *mem, uint64_t from, uint64_t to, uint64_t key)
{
	for (uint64_t p = from; p < to; p++) {
		uint64_t bad = 0;

		for (unsigned i = 0; i < WORDS; i++)
			bad += mem[p * WORDS + i] != word(key + p, i);
		if (bad)
			atomic_fetch_add(&sh->wrong, 1);
	}
}

static uint64_t *map(uint64_t len)
{
	uint64_t *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		err(2, "mmap of %" PRIu64 " bytes", len);
	return p;
}

static void ready(void)
{
	int fd = open("ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0)
		err(2, "ready");
	close(fd);
	wait_file("go"); /* dumped here */
}

static void result(const char *more)
{
	FILE *f = fopen("result.new", "we");

	if (!f)
		err(2, "result");
	fprintf(f, "%" PRIu64 " wrong%s\n", atomic_load(&sh->wrong), more);
	fclose(f);
	rename("result.new", "result");
	wait_file("quit");
}

static void touch(uint64_t size)
{
	uint64_t *mem = map(size);

	fill(mem, 0, size / PAGE, 0);
	ready();
	check(mem, 0, size / PAGE, 0);
	result("");
}

/* KiB of huge pages in the mapping that begins at or before @p. */
static unsigned long huge_kib(const void *p)
{
	unsigned long start, end, kib, sum = 0;
	char line[512];
	int in = 0;
	FILE *f = fopen("/proc/self/smaps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2 && strchr(line, '-') && line[0] != 'V')
			in = (unsigned long)p >= start && (unsigned long)p < end;
		else if (in && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			sum += kib;
	}
	if (f)
		fclose(f);
	return sum;
}

static void huge(uint64_t size)
{
	char *raw = (char *)map(size + HUGE), text[128];
	uint64_t *mem = (uint64_t *)(((uintptr_t)raw + HUGE - 1) & ~(HUGE - 1));
	unsigned long before, dumped;

	if (madvise(mem, size, MADV_HUGEPAGE))
		err(2, "MADV_HUGEPAGE");
	fill(mem, 0, size / PAGE, 0);
	dumped = huge_kib(mem);
	ready();
	check(mem, 0, size / PAGE, 0);
	wait_file("drained");
	before = huge_kib(mem);
	/* Fresh memory after the daemon has left: huge at once, as nobody watches. */
	if (madvise(mem, HUGE, MADV_DONTNEED))
		err(2, "MADV_DONTNEED");
	for (uint64_t i = 0; i < HUGE / 8; i++)
		if (mem[i])
			atomic_fetch_add(&sh->wrong, 1);
	fill(mem, 0, HUGE / PAGE, 0);
	check(mem, 0, size / PAGE, 0);
	snprintf(text, sizeof(text), ", huge KiB: %lu dumped, %lu restored, %lu after 2 MiB anew", dumped, before,
		 huge_kib(mem));
	result(text);
}

static void pageout(uint64_t size, uint64_t seconds)
{
	uint64_t *mem = map(size), n = size / PAGE, end, at = 1, rounds = 0;
	char text[64];

	fill(mem, 0, n, 0);
	ready();
	end = now_ns() + seconds * UINT64_C(1000000000);
	do {
		for (unsigned i = 0; i < 2000; i++) {
			at = at * UINT64_C(6364136223846793005) + 1442695040888963407u;
			check(mem, (at >> 33) % n, (at >> 33) % n + 1, 0);
		}
		if (madvise(mem, size, MADV_PAGEOUT))
			err(2, "MADV_PAGEOUT");
		rounds++;
	} while (now_ns() < end);
	check(mem, 0, n, 0);
	snprintf(text, sizeof(text), ", pushed out %" PRIu64 " times", rounds);
	result(text);
}

static void vmas(uint64_t size, uint64_t number)
{
	uint64_t each = size / number & ~(uint64_t)(PAGE - 1), pages = each / PAGE, i;
	uint64_t *mem = map(each * number);

	fill(mem, 0, pages * number, 0);
	for (i = 0; i < number; i += 2)
		if (mprotect((char *)mem + i * each, each, PROT_READ))
			err(2, "mprotect, mapping %" PRIu64 " (vm.max_map_count?)", i);
	ready();
	check(mem, 0, pages * number, 0);
	result("");
}

static void one_task(uint64_t key, uint64_t size)
{
	uint64_t *mem = map(size);

	fill(mem, 0, size / PAGE, key);
	atomic_fetch_add(&sh->ready, 1);
	wait_file("go");
	check(mem, 0, size / PAGE, key);
	atomic_fetch_add(&sh->done, 1);
	wait_file("quit");
}

static void tasks(uint64_t number, uint64_t size)
{
	for (uint64_t i = 0; i < number; i++) {
		pid_t pid = fork();

		if (pid < 0)
			err(2, "fork of task %" PRIu64, i);
		if (!pid) {
			one_task(i * (size / PAGE), size);
			_exit(0);
		}
	}
	while (atomic_load(&sh->ready) < number)
		nap();
	ready();
	while (atomic_load(&sh->done) < number)
		nap();
	result("");
	while (wait(NULL) > 0)
		;
}

static void on_term(int sig)
{
	told = 1;
}

static void few(const uint64_t *mem, uint64_t pages, uint64_t seed)
{
	for (unsigned i = 0; i < FEW; i++) {
		uint64_t p = (seed * FEW + i) * UINT64_C(0x9E3779B97F4A7C15) % pages;

		check(mem, p, p + 1, 0);
	}
}

static void forks(uint64_t number, uint64_t size)
{
	uint64_t *mem = map(size), pages = size / PAGE, i, t, slow = 0, sum = 0;
	struct stat st;
	char text[128];
	pid_t pid;

	fill(mem, 0, pages, 0);
	signal(SIGTERM, on_term);
	ready();
	for (i = 0; i < number; i++) {
		t = now_ns();
		pid = fork();
		if (pid < 0)
			err(2, "fork of child %" PRIu64, i);
		if (!pid) {
			few(mem, pages, 2 * i);
			atomic_fetch_add(&sh->done, 1);
			while (!told && stat("end", &st))
				nap();
			few(mem, pages, 2 * i + 1);
			_exit(0);
		}
		t = now_ns() - t;
		sum += t;
		slow = t > slow ? t : slow;
		atomic_fetch_add(&sh->ready, 1);
		if (!(i % 8)) { /* for those who watch */
			FILE *f = fopen("count.new", "we");

			if (f) {
				fprintf(f, "%" PRIu64 "\n", i + 1);
				fclose(f);
				rename("count.new", "count");
			}
		}
	}
	while (atomic_load(&sh->done) < number)
		nap();
	close(open("forked", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	wait_file("end");
	for (i = 0; i < number; i++) {
		int status;

		if (wait(&status) < 0 || status)
			atomic_fetch_add(&sh->wrong, 1);
	}
	check(mem, 0, pages, 0);
	snprintf(text, sizeof(text), ", a fork took %" PRIu64 " us, the slowest %" PRIu64 " us", sum / number / 1000,
		 slow / 1000);
	result(text);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 0);

	return *end == 'G' ? v << 30 : *end == 'M' ? v << 20 : *end == 'K' ? v << 10 : v;
}

int main(int argc, char **argv)
{
	uint64_t n, size;

	if (argc < 3)
		errx(2, "usage: pressure_prog MODE DIR [NUMBER [SIZE]]");
	n = argc > 3 ? number(argv[3]) : 1;
	if (n > 100 && (!strcmp(argv[1], "tasks") || !strcmp(argv[1], "forks")))
		naps = n / 10 < 400 ? n / 10 : 400;
	if (chdir(argv[2]))
		err(2, "%s", argv[2]);
	size = argc > 4 ? number(argv[4]) : UINT64_C(64) << 20;
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED)
		err(2, "mmap");
	if (!strcmp(argv[1], "touch"))
		touch(size);
	else if (!strcmp(argv[1], "huge"))
		huge(size);
	else if (!strcmp(argv[1], "pageout"))
		pageout(size, n);
	else if (!strcmp(argv[1], "vmas"))
		vmas(size, n);
	else if (!strcmp(argv[1], "tasks"))
		tasks(n, size);
	else if (!strcmp(argv[1], "forks"))
		forks(n, size);
	else
		errx(2, "no mode `%s`", argv[1]);
	return 0;
}
