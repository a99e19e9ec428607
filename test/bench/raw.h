/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs that measure the kernel alone share: the child whose memory is filled, and what it tells of the
 * faults that it saw.
 */
#ifndef LP_BENCH_RAW_H
#define LP_BENCH_RAW_H

#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "buffer.h"

#define CHUNK (64UL << 10)

/* What the child says about itself, with its descriptor. */
struct raw_hello {
	char *base;
};

static inline void raw_send_hello(int sock, const struct raw_hello *h, int fd)
{
	struct iovec iov = { (void *)h, sizeof(*h) };
	union {
		struct cmsghdr hdr;
		char space[CMSG_SPACE(sizeof(int))];
	} u = { .hdr = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) } };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u) };

	memcpy(CMSG_DATA(&u.hdr), &fd, sizeof(fd));
	if (sendmsg(sock, &msg, 0) != sizeof(*h))
		err(1, "sendmsg");
}

/* The userfaultfd of the child. */
static inline int raw_recv_hello(int sock, struct raw_hello *h)
{
	struct iovec iov = { h, sizeof(*h) };
	union {
		struct cmsghdr hdr;
		char space[CMSG_SPACE(sizeof(int))];
	} u;
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u) };
	int fd;

	if (recvmsg(sock, &msg, MSG_CMSG_CLOEXEC) != sizeof(*h) || !CMSG_FIRSTHDR(&msg))
		errx(1, "the child sent no userfaultfd");
	memcpy(&fd, CMSG_DATA(&u.hdr), sizeof(fd));
	return fd;
}

/* In the child: map, cut and register the buffer, and give the descriptor away. */
static inline void raw_child_setup(int sock, struct bench_buf *b, uint64_t size, bool many)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct raw_hello h;
	int uffd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (bench_map(b, size, many) || bench_cut(b))
		err(1, "mmap");
	uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		err(1, "userfaultfd");
	reg.range.start = (uintptr_t)b->base;
	reg.range.len = size;
	if (ioctl(uffd, UFFDIO_REGISTER, &reg))
		err(1, "UFFDIO_REGISTER");
	h.base = b->base;
	raw_send_hello(sock, &h, uffd);
	close(uffd);
}

/* In the child: touch @count pages, say @over and a byte on @done, and print what was seen. Does not return. */
static inline void raw_child(int sock, int done, uint64_t size, const char *order, uint64_t count, const char *how,
			     atomic_bool *over)
{
	struct bench_touch t = { .lat = bench_lat_alloc(count) };
	struct bench_buf b;
	uint64_t start, ns;

	if (!t.lat)
		err(1, "mmap of latencies");
	raw_child_setup(sock, &b, size, false);
	start = bench_now();
	bench_touch(&t, b.base, 0, b.npages, count, order[0] == 'r', false);
	ns = bench_now() - start;
	atomic_store(over, true);
	if (write(done, "", 1) != 1)
		err(1, "write");
	bench_touch_sort(&t);
	printf("{\"kind\": \"fault\", \"size\": %" PRIu64 ", \"order\": \"%s\", \"how\": \"%s\", \"touched\": %" PRIu64
	       ", \"ns\": %" PRIu64 ", \"nfaults\": %" PRIu64 ", \"p50_ns\": %" PRIu32 ", \"p99_ns\": %" PRIu32
	       ", \"max_ns\": %" PRIu32 "}\n",
	       size, order, how, count, ns, t.nfaults, bench_touch_rank(&t, 500), bench_touch_rank(&t, 990),
	       bench_touch_rank(&t, 1000));
	fflush(stdout);
	_exit(0);
}

#endif
