/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the kernel allows: filling another process's memory, without CRIU.
 *
 *	raw warm SIZE
 *	raw drain SIZE one|many warm|map|fresh|pread|tcp THREADS [FILE]
 *	raw fault SIZE random|seq COUNT poll|spin|same
 *	raw touch SIZE random|seq THREADS FILE [gate]
 *
 * `drain` fills SIZE bytes of a child's registered memory in chunks of 64 KiB
 * that do not cross a VMA: from one warm buffer, from a populated mapping of
 * FILE, from FILE read into a buffer, or from what another process sends of FILE
 * over loopback, one connection for each thread, by sendfile(): nothing is
 * asked for, summed or looked at on the way. `fault` is the smallest handler there
 * is, one thread that reads one message and copies one page from a warm
 * buffer; the child touches COUNT pages and reports what it saw. It sleeps in
 * poll(), spins on read(), or sleeps and shares the child's CPU. `touch` is
 * drain and fault at once, without anything that a daemon needs to be right:
 * threads fill from a populated mapping of FILE and answer faults between two
 * chunks, while the child touches each page. With `gate` it obeys the one rule that
 * nobody can do without who follows layouts: no copy is under way while messages
 * are read. `warm` uses SIZE bytes of memory
 * and gives them back: memory that a virtual machine uses for the first time is
 * several times slower, so it goes before each measurement. Each prints one JSON
 * line.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "raw.h"
#include "restore/gate.h"

#define MAX_THREADS 64

/* The filling side: all threads share one of these. */
struct drain {
	struct bench_buf buf; /* addresses in the child */
	int uffd;
	int file;
	const char *map; /* mapping of the file, or NULL */
	uint64_t file_len;
	unsigned int nthreads;
	atomic_uint started; /* threads */
	bool tcp;
	struct lp_gate *gate; /* or NULL */
	int conns[MAX_THREADS];	     /* where a thread's bytes come from, or go to, then */
	atomic_uint_fast64_t next;   /* first byte nobody took yet */
	atomic_uint_fast64_t copied; /* bytes */
	pthread_barrier_t barrier;
};

static void copy(int uffd, char *dst, const char *src, uint64_t len)
{
	while (len) {
		struct uffdio_copy c = { .dst = (uintptr_t)dst, .src = (uintptr_t)src, .len = len };

		if (!ioctl(uffd, UFFDIO_COPY, &c))
			return;
		if (errno != EAGAIN)
			err(1, "UFFDIO_COPY");
		if (c.copy > 0) {
			dst += c.copy;
			src += c.copy;
			len -= (uint64_t)c.copy;
		}
	}
}

/* Copy [@from, @to), byte offsets, cut where a VMA ends. */
static void copy_chunk(const struct drain *d, uint64_t from, uint64_t to, const char *src)
{
	uint64_t vma = from / BENCH_PAGE * d->buf.nvmas / d->buf.npages;

	while (from < to) {
		uint64_t end;

		while ((end = bench_vma_start(&d->buf, vma + 1) * BENCH_PAGE) <= from)
			vma++;
		if (end > to)
			end = to;
		copy(d->uffd, d->buf.base + from, src, end - from);
		src += end - from;
		from = end;
	}
}

/* Where the bytes for @from are in the file, which may be shorter than the memory: begin again. */
static off_t file_off(const struct drain *d, uint64_t from)
{
	return d->file_len ? (off_t)(from % (d->file_len / CHUNK * CHUNK)) : 0;
}

/* A thread of the sender: what the receiver at the other end is to fill, in order. */
static void *send_thread(void *arg)
{
	struct drain *d = arg;
	unsigned int i = atomic_fetch_add(&d->started, 1);
	uint64_t size = d->buf.npages * BENCH_PAGE, from, len;

	for (from = i * CHUNK; from < size; from += d->nthreads * CHUNK) {
		off_t off = file_off(d, from);

		for (len = size - from < CHUNK ? size - from : CHUNK; len;) {
			ssize_t n = sendfile(d->conns[i], d->file, &off, len);

			if (n <= 0)
				err(1, "sendfile");
			len -= (uint64_t)n;
		}
	}
	return NULL;
}

/* Connections over loopback, whose other ends a new process feeds once there is a byte in @go. */
static pid_t start_sender(struct drain *d, int go)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), ends[MAX_THREADS];
	socklen_t len = sizeof(sa);
	pthread_t threads[MAX_THREADS];
	unsigned int i;
	pid_t pid;
	char c;

	if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof(sa)) || listen(listener, MAX_THREADS) ||
	    getsockname(listener, (struct sockaddr *)&sa, &len))
		err(1, "listening on loopback");
	for (i = 0; i < d->nthreads; i++) {
		d->conns[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (d->conns[i] < 0 || connect(d->conns[i], (struct sockaddr *)&sa, sizeof(sa)))
			err(1, "connecting over loopback");
		ends[i] = accept(listener, NULL, NULL);
		if (ends[i] < 0)
			err(1, "accept");
	}
	close(listener);
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	for (i = 0; i < d->nthreads; i++) {
		close(pid ? ends[i] : d->conns[i]);
		if (!pid)
			d->conns[i] = ends[i];
	}
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (read(go, &c, 1) != 1)
		_exit(1);
	for (i = 0; i < d->nthreads; i++)
		if (pthread_create(&threads[i], NULL, send_thread, d))
			errx(1, "pthread_create");
	for (i = 0; i < d->nthreads; i++)
		pthread_join(threads[i], NULL);
	_exit(0);
}

/* The next chunk of thread @i: any, or that which comes on its connection. */
static uint64_t take_chunk(struct drain *d, unsigned int i, uint64_t *mine)
{
	if (!d->tcp)
		return atomic_fetch_add(&d->next, CHUNK);
	return (i + (*mine)++ * d->nthreads) * CHUNK;
}

static void *drain_thread(void *arg)
{
	struct drain *d = arg;
	unsigned int i = atomic_fetch_add(&d->started, 1);
	uint64_t size = d->buf.npages * BENCH_PAGE, done = 0, mine = 0;
	char *warm = aligned_alloc(BENCH_PAGE, CHUNK);

	if (!warm)
		err(1, "aligned_alloc");
	memset(warm, 0x5a, CHUNK);
	pthread_barrier_wait(&d->barrier);
	for (;;) {
		uint64_t from = take_chunk(d, i, &mine);
		const char *src = warm;
		uint64_t len;
		off_t off;

		if (from >= size)
			break;
		len = size - from < CHUNK ? size - from : CHUNK;
		off = file_off(d, from);
		if (d->tcp && recv(d->conns[i], warm, len, MSG_WAITALL) != (ssize_t)len)
			err(1, "recv");
		if (d->map)
			src = d->map + off;
		else if (!d->tcp && d->file >= 0 && pread(d->file, warm, len, off) != (ssize_t)len)
			err(1, "pread");
		copy_chunk(d, from, from + len, src);
		done += len;
	}
	atomic_fetch_add(&d->copied, done);
	free(warm);
	return NULL;
}

static void open_source(struct drain *d, const char *source, const char *path)
{
	struct stat st;
	void *p;

	d->file = -1;
	if (!strcmp(source, "warm"))
		return;
	d->file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (d->file < 0 || fstat(d->file, &st))
		err(1, "source file %s", path ? path : "(none)");
	d->file_len = (uint64_t)st.st_size;
	if (d->file_len < CHUNK)
		errx(1, "%s is shorter than a chunk", path);
	if (strcmp(source, "map"))
		return;
	p = mmap(NULL, d->file_len, PROT_READ, MAP_SHARED, d->file, 0);
	if (p == MAP_FAILED || madvise(p, d->file_len, MADV_POPULATE_READ))
		err(1, "mapping of %s", path);
	d->map = p;
}

static void *map_fresh(struct drain *d)
{
	void *p = mmap(NULL, d->file_len, PROT_READ, MAP_SHARED, d->file, 0);

	if (p == MAP_FAILED)
		err(1, "mapping");
	return p;
}

static int cmd_drain(uint64_t size, const char *layout, const char *source, unsigned int nthreads, const char *path)
{
	pthread_t threads[MAX_THREADS];
	struct drain d = { .buf.npages = size / BENCH_PAGE };
	bool many = !strcmp(layout, "many"), fresh = !strcmp(source, "fresh");
	uint64_t start, ns;
	struct raw_hello h;
	int socks[2], go[2], status;
	pid_t pid, sender = -1;

	if (pipe2(go, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks))
		err(1, "socketpair");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		struct bench_buf b;
		char c;

		close(socks[0]);
		raw_child_setup(socks[1], &b, size, many);
		_exit(read(socks[1], &c, 1) < 0); /* until the parent hangs up */
	}
	close(socks[1]);
	d.uffd = raw_recv_hello(socks[0], &h);
	d.buf.base = h.base;
	d.buf.nvmas = many ? BENCH_MANY : 1;
	open_source(&d, source, path);
	d.nthreads = nthreads;
	d.tcp = !strcmp(source, "tcp");
	if (d.tcp)
		sender = start_sender(&d, go[0]);
	pthread_barrier_init(&d.barrier, NULL, nthreads + 1);
	for (unsigned int i = 0; i < nthreads; i++)
		if (pthread_create(&threads[i], NULL, drain_thread, &d))
			errx(1, "pthread_create");
	start = bench_now();
	if (fresh)
		d.map = map_fresh(&d);
	if (d.tcp && write(go[1], "", 1) != 1)
		err(1, "write");
	pthread_barrier_wait(&d.barrier);
	for (unsigned int i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	if (fresh)
		munmap((void *)d.map, d.file_len);
	ns = bench_now() - start;
	if (d.copied != size)
		errx(1, "copied %" PRIuFAST64 " of %" PRIu64 " bytes", d.copied, size);
	close(socks[0]);
	waitpid(pid, NULL, 0);
	if (d.tcp && (waitpid(sender, &status, 0) != sender || status))
		errx(1, "the sender failed");
	printf("{\"kind\": \"drain\", \"size\": %" PRIu64 ", \"layout\": \"%s\", \"source\": \"%s\", \"threads\": %u"
	       ", \"ns\": %" PRIu64 ", \"gib_s\": %.3f}\n",
	       size, layout, source, nthreads, ns, (double)size / (double)ns * 1e9 / (double)(1UL << 30));
	return 0;
}

/* Inherited by the child: on the same CPU no idle one has to be woken. */
static void pin(void)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(sched_getcpu(), &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "sched_setaffinity");
}

static int cmd_fault(uint64_t size, const char *order, uint64_t count, const char *how)
{
	char *page = aligned_alloc(BENCH_PAGE, BENCH_PAGE);
	bool spin = !strcmp(how, "spin");
	int socks[2], done[2], status;
	struct pollfd pfd[2];
	atomic_bool *over;
	struct raw_hello h;
	pid_t pid;

	over = mmap(NULL, BENCH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (!page || over == MAP_FAILED || pipe2(done, O_CLOEXEC) ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks))
		err(1, "setup");
	memset(page, 0x5a, BENCH_PAGE);
	if (!strcmp(how, "same"))
		pin();
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid)
		raw_child(socks[1], done[1], size, order, count, how, over);
	close(socks[1]);
	close(done[1]);
	pfd[0].fd = raw_recv_hello(socks[0], &h);
	pfd[1].fd = done[0];
	pfd[0].events = pfd[1].events = POLLIN;
	while (!atomic_load(over)) {
		struct uffd_msg msg;

		if (!spin && poll(pfd, 2, -1) < 0)
			err(1, "poll");
		if (!spin && pfd[1].revents)
			break; /* done, or dead */
		if (read(pfd[0].fd, &msg, sizeof(msg)) != sizeof(msg)) {
			if (spin && waitpid(pid, &status, WNOHANG) == pid)
				errx(1, "the child ended early");
			continue;
		}
		if (msg.event != UFFD_EVENT_PAGEFAULT)
			errx(1, "unexpected event %u", msg.event);
		copy(pfd[0].fd, (char *)(uintptr_t)(msg.arg.pagefault.address & ~(BENCH_PAGE - 1)), page, BENCH_PAGE);
	}
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "the child failed");
	return 0;
}

/* One page for a thread that waits for it. Whoever was faster has woken it, too. */
static void copy_page(const struct drain *d, uint64_t at)
{
	struct uffdio_copy c = { .dst = (uintptr_t)d->buf.base + at, .src = (uintptr_t)d->map + at, .len = BENCH_PAGE };

	while (ioctl(d->uffd, UFFDIO_COPY, &c)) {
		struct uffdio_range r = { .start = c.dst, .len = BENCH_PAGE };

		if (errno == EEXIST) {
			ioctl(d->uffd, UFFDIO_WAKE, &r);
			return;
		}
		if (errno == ESRCH)
			return; /* it has touched all and is gone */
		if (errno != EAGAIN)
			err(1, "UFFDIO_COPY");
	}
}

/* What is not there yet. */
static void copy_missing(const struct drain *d, uint64_t from, uint64_t to)
{
	while (from < to) {
		struct uffdio_copy c = {
			.dst = (uintptr_t)d->buf.base + from, .src = (uintptr_t)d->map + from, .len = to - from,
		};

		if (!ioctl(d->uffd, UFFDIO_COPY, &c))
			return;
		if (c.copy > 0)
			from += (uint64_t)c.copy;
		else if (errno == EEXIST)
			from += BENCH_PAGE;
		else if (errno == ESRCH)
			return;
		else if (errno != EAGAIN)
			err(1, "UFFDIO_COPY");
	}
}

/* True if there was a fault. */
static bool touch_faults(const struct drain *d)
{
	struct uffd_msg msgs[32];
	struct pollfd p = { .fd = d->uffd, .events = POLLIN };
	ssize_t n;

	if (d->gate) {
		/* As a daemon would: nobody is stopped for nothing. */
		if (poll(&p, 1, 0) <= 0)
			return false;
		lp_gate_enter_alone(d->gate);
	}
	n = read(d->uffd, msgs, sizeof(msgs));
	if (d->gate)
		lp_gate_leave_alone(d->gate);
	if (n > 0 && d->gate)
		lp_gate_enter(d->gate);
	for (ssize_t i = 0; i < n / (ssize_t)sizeof(msgs[0]); i++)
		copy_page(d, (msgs[i].arg.pagefault.address & ~(BENCH_PAGE - 1)) - (uintptr_t)d->buf.base);
	if (n > 0 && d->gate)
		lp_gate_leave(d->gate);
	return n > 0;
}

static void *touch_thread(void *arg)
{
	struct drain *d = arg;
	uint64_t size = d->buf.npages * BENCH_PAGE, from;

	while ((from = atomic_fetch_add(&d->next, CHUNK)) < size) {
		uint64_t to = size - from < CHUNK ? size : from + CHUNK;

		for (; from < to; from += CHUNK / 4) {
			if (d->gate)
				lp_gate_enter(d->gate);
			copy_missing(d, from, to - from < CHUNK / 4 ? to : from + CHUNK / 4);
			if (d->gate)
				lp_gate_leave(d->gate);
			while (touch_faults(d))
				;
		}
	}
	return NULL;
}

static int cmd_touch(uint64_t size, const char *order, unsigned int nthreads, const char *path, bool gated)
{
	struct lp_gate gate = { 0 };
	struct drain d = { .buf.npages = size / BENCH_PAGE, .buf.nvmas = 1 };
	pthread_t threads[MAX_THREADS];
	int socks[2], done[2], status;
	atomic_bool *over;
	struct raw_hello h;
	pid_t pid;

	d.gate = gated ? &gate : NULL;
	open_source(&d, "map", path);
	if (d.file_len < size)
		errx(1, "%s is shorter than the memory", path);
	over = mmap(NULL, BENCH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (over == MAP_FAILED || pipe2(done, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks))
		err(1, "setup");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid)
		raw_child(socks[1], done[1], size, order, d.buf.npages, gated ? "gated" : "touch", over);
	close(socks[1]);
	close(done[1]);
	d.uffd = raw_recv_hello(socks[0], &h);
	d.buf.base = h.base;
	for (unsigned int i = 0; i < nthreads; i++)
		if (pthread_create(&threads[i], NULL, touch_thread, &d))
			errx(1, "pthread_create");
	for (unsigned int i = 0; i < nthreads; i++)
		pthread_join(threads[i], NULL);
	/* All is there; a fault that was queued since shall look again. */
	while (!atomic_load(over)) {
		struct pollfd pfd[2] = { { .fd = d.uffd, .events = POLLIN }, { .fd = done[0], .events = POLLIN } };

		if (poll(pfd, 2, -1) < 0)
			err(1, "poll");
		touch_faults(&d);
		if (pfd[1].revents)
			break;
	}
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "the child failed");
	return 0;
}

static int cmd_warm(uint64_t size)
{
	uint64_t start = bench_now();
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || madvise(p, size, MADV_POPULATE_WRITE) || munmap(p, size))
		err(1, "warming %" PRIu64 " bytes", size);
	printf("{\"kind\": \"warm\", \"size\": %" PRIu64 ", \"ns\": %" PRIu64 "}\n", size, bench_now() - start);
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t size = argc > 2 ? bench_size(argv[2]) : 0, count;

	if (size && !strcmp(argv[1], "warm") && argc == 3)
		return cmd_warm(size);
	if (size && !strcmp(argv[1], "drain") && argc >= 6) {
		unsigned long n = strtoul(argv[5], NULL, 10);

		if (n >= 1 && n <= MAX_THREADS)
			return cmd_drain(size, argv[3], argv[4], (unsigned int)n, argc > 6 ? argv[6] : NULL);
	}
	if (size && !strcmp(argv[1], "fault") && argc == 6) {
		count = strtoull(argv[4], NULL, 10);
		if (count >= 1 && count <= size / BENCH_PAGE)
			return cmd_fault(size, argv[3], count, argv[5]);
	}
	if (size && !strcmp(argv[1], "touch") && (argc == 6 || (argc == 7 && !strcmp(argv[6], "gate")))) {
		count = strtoull(argv[4], NULL, 10);
		if (count >= 1 && count <= MAX_THREADS)
			return cmd_touch(size, argv[3], (unsigned int)count, argv[5], argc == 7);
	}
	fprintf(stderr, "usage: raw warm SIZE | drain SIZE one|many warm|map|fresh|pread|tcp THREADS [FILE] |"
			" fault SIZE random|seq COUNT poll|spin|same | touch SIZE random|seq THREADS FILE [gate]\n");
	return 2;
}
