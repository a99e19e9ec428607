/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the kernel allows when pages come over loopback: draining and answering faults at once, without CRIU.
 *
 *	rawtcp SIZE random|seq FILE
 *
 * Three processes, as with a server and a daemon. A sender has two threads and two connections: one sends FILE from
 * its begin, by sendfile(); the other sends the page whose offset it was sent. The filling side has two threads: one
 * fills what comes, in chunks of 64 KiB; the other sleeps in poll(), reads one message, asks for that page, waits for
 * it and copies it. The child touches each page. Nothing is decided, summed, framed, claimed or guarded, and layouts
 * are not followed: so this is a limit for p50 and p99 of a fault during a drain over loopback. Prints the JSON line
 * of `raw fault`, with "tcp" as the kind of handler.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "raw.h"

enum { BULK, URGENT };

static int conns[2]; /* this side's */
static int file;
static uint64_t size;
static int uffd;
static char *base; /* in the child */

static void *send_bulk(void *arg)
{
	off_t off = 0;

	(void)arg;
	while ((uint64_t)off < size)
		if (sendfile(conns[BULK], file, &off, size - (uint64_t)off) <= 0)
			err(1, "sendfile");
	return NULL;
}

/* Until the other side hangs up. */
static void send_pages(void)
{
	off_t off;

	while (recv(conns[URGENT], &off, sizeof(off), MSG_WAITALL) == sizeof(off))
		if (sendfile(conns[URGENT], file, &off, BENCH_PAGE) != (ssize_t)BENCH_PAGE)
			err(1, "sendfile");
}

/* A process for the other ends of the connections. It begins when the first page is asked for. */
static pid_t start_sender(void)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), ends[2], one = 1;
	socklen_t len = sizeof(sa);
	pthread_t bulk;
	pid_t pid;
	char c;

	if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof(sa)) || listen(listener, 2) ||
	    getsockname(listener, (struct sockaddr *)&sa, &len))
		err(1, "listening on loopback");
	for (int i = BULK; i <= URGENT; i++) {
		conns[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (conns[i] < 0 || connect(conns[i], (struct sockaddr *)&sa, sizeof(sa)))
			err(1, "connecting over loopback");
		ends[i] = accept(listener, NULL, NULL);
		if (ends[i] < 0 || setsockopt(ends[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
		    setsockopt(conns[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
			err(1, "accept");
	}
	close(listener);
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	for (int i = BULK; i <= URGENT; i++) {
		close(pid ? ends[i] : conns[i]);
		if (!pid)
			conns[i] = ends[i];
	}
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (recv(conns[URGENT], &c, 1, MSG_PEEK) != 1)
		_exit(1);
	if (pthread_create(&bulk, NULL, send_bulk, NULL))
		errx(1, "pthread_create");
	send_pages();
	pthread_join(bulk, NULL);
	_exit(0);
}

/* What is not there yet of @len bytes; a thread that waits for one of the others is woken. */
static void fill(uint64_t at, const char *src, uint64_t len)
{
	uint64_t done = 0;

	while (done < len) {
		struct uffdio_copy c = {
			.dst = (uintptr_t)base + at + done, .src = (uintptr_t)src + done, .len = len - done,
		};
		struct uffdio_range r = { .start = c.dst, .len = BENCH_PAGE };

		if (!ioctl(uffd, UFFDIO_COPY, &c))
			return;
		if (c.copy > 0) {
			done += (uint64_t)c.copy;
		} else if (errno == EEXIST) {
			ioctl(uffd, UFFDIO_WAKE, &r);
			done += BENCH_PAGE;
		} else if (errno == ESRCH) {
			return; /* it has touched all and is gone */
		} else if (errno != EAGAIN) {
			err(1, "UFFDIO_COPY");
		}
	}
}

static void *fill_bulk(void *arg)
{
	char *buf = aligned_alloc(BENCH_PAGE, CHUNK);

	(void)arg;
	if (!buf)
		err(1, "aligned_alloc");
	for (uint64_t at = 0, len; at < size; at += len) {
		len = size - at < CHUNK ? size - at : CHUNK;
		if (recv(conns[BULK], buf, len, MSG_WAITALL) != (ssize_t)len)
			err(1, "recv");
		fill(at, buf, len);
	}
	free(buf);
	return NULL;
}

static void answer_faults(int done)
{
	static char page[BENCH_PAGE] __attribute__((aligned(BENCH_PAGE)));
	struct pollfd pfd[2] = { { .fd = uffd, .events = POLLIN }, { .fd = done, .events = POLLIN } };

	for (;;) {
		struct uffd_msg msg;
		off_t at;

		if (poll(pfd, 2, -1) < 0)
			err(1, "poll");
		if (pfd[1].revents)
			return; /* done, or dead */
		if (read(uffd, &msg, sizeof(msg)) != sizeof(msg))
			continue;
		at = (off_t)((msg.arg.pagefault.address & ~(BENCH_PAGE - 1)) - (uintptr_t)base);
		if (send(conns[URGENT], &at, sizeof(at), 0) != sizeof(at) ||
		    recv(conns[URGENT], page, sizeof(page), MSG_WAITALL) != sizeof(page))
			err(1, "asking for a page");
		fill((uint64_t)at, page, sizeof(page));
	}
}

int main(int argc, char **argv)
{
	int socks[2], done[2], status;
	struct raw_hello h;
	pthread_t bulk;
	pid_t pid, sender;
	atomic_bool *over;
	struct stat st;

	if (argc != 4 || (size = bench_size(argv[1])) < CHUNK) {
		fprintf(stderr, "usage: rawtcp SIZE random|seq FILE\n");
		return 2;
	}
	file = open(argv[3], O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &st))
		err(1, "%s", argv[3]);
	if ((uint64_t)st.st_size < size)
		errx(1, "%s is shorter than the memory", argv[3]);
	over = mmap(NULL, BENCH_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (over == MAP_FAILED || pipe2(done, O_CLOEXEC) || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, socks))
		err(1, "setup");
	pid = fork();
	if (pid < 0)
		err(1, "fork");
	if (!pid)
		raw_child(socks[1], done[1], size, argv[2], size / BENCH_PAGE, "tcp", over);
	close(socks[1]);
	close(done[1]);
	uffd = raw_recv_hello(socks[0], &h);
	base = h.base;
	sender = start_sender();
	if (pthread_create(&bulk, NULL, fill_bulk, NULL))
		errx(1, "pthread_create");
	answer_faults(done[0]);
	pthread_join(bulk, NULL);
	shutdown(conns[URGENT], SHUT_RDWR);
	if (waitpid(sender, &status, 0) != sender || status)
		errx(1, "the sender failed");
	if (waitpid(pid, &status, 0) != pid || status)
		errx(1, "the child failed");
	return 0;
}
