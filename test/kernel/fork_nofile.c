/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the kernel does with the message of a fork when the reader has no
 * descriptor left for the child, which is what plugin/restore relies on. No
 * daemon. A task forks while another thread of it waits to tell an UNMAP:
 *
 *	1. read() says EMFILE, again and again, but hands out faults all the same
 *	2. the forking task stays blocked, and fills are refused (EAGAIN)
 *	3. the message is not lost: with a descriptor free, it is read, whole
 *
 * And it prints what happens to the order: the message goes back to the head of
 * the queue, so messages that came later may be read first.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u

struct shared {
	_Atomic int forked, unmapped, touched, go_unmap, go_touch;
};

static struct shared *sh;
static char *area;
static unsigned bad;

static void expect(int ok, const char *what)
{
	printf("%-7s %s\n", ok ? "ok" : "NOT OK", what);
	bad += !ok;
}

static void nap(unsigned ms)
{
	const struct timespec ts = { .tv_nsec = ms * 1000000L };

	nanosleep(&ts, NULL);
}

static int within(_Atomic int *flag, unsigned ms)
{
	for (; ms && !atomic_load(flag); ms--)
		nap(1);
	return atomic_load(flag);
}

static void *unmapper(void *arg)
{
	while (!atomic_load(&sh->go_unmap))
		nap(1);
	munmap(area + 8 * PAGE, PAGE);
	atomic_store(&sh->unmapped, 1);
	return NULL;
}

static void *toucher(void *arg)
{
	while (!atomic_load(&sh->go_touch))
		nap(1);
	*(volatile char *)area;
	atomic_store(&sh->touched, 1);
	return NULL;
}

static int send_fd(int sock, int fd)
{
	char byte = 0, buf[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof(buf) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	return sendmsg(sock, &m, 0) == 1 ? 0 : -1;
}

static int receive_fd(int sock)
{
	char byte, buf[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = buf, .msg_controllen = sizeof(buf) };
	int fd = -1;

	if (recvmsg(sock, &m, 0) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

/* The task: maps, registers, gives its descriptor away, forks. */
static void task(int sock)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_UNMAP };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	pthread_t a, b;
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	area = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	reg.range.start = (uintptr_t)area;
	reg.range.len = 16 * PAGE;
	if (pthread_create(&a, NULL, unmapper, NULL) || pthread_create(&b, NULL, toucher, NULL) || fd < 0 ||
	    ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &reg) || send_fd(sock, fd) ||
	    write(sock, &area, sizeof(area)) != sizeof(area))
		_exit(77);
	close(fd);
	/* Not fork(): its handlers of the C library would write to memory first. */
	if (!syscall(SYS_fork))
		_exit(0);
	atomic_store(&sh->forked, 1);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	_exit(0);
}

static int zero(int fd, char *at)
{
	struct uffdio_zeropage z = { .range = { (uintptr_t)at, PAGE } };

	return ioctl(fd, UFFDIO_ZEROPAGE, &z) ? -errno : 0;
}

static ssize_t get(int fd, struct uffd_msg *m)
{
	ssize_t n = read(fd, m, sizeof(*m));

	return n < 0 ? -errno : n;
}

int main(void)
{
	struct rlimit rl, none;
	struct uffd_msg m;
	struct pollfd p;
	int sock[2], fd, i, status, first = -1, forks = 0, unmaps = 0;
	ssize_t n;
	pid_t pid;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (sh == MAP_FAILED || socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		return 2;
	pid = fork();
	if (!pid)
		task(sock[1]);
	close(sock[1]);
	fd = receive_fd(sock[0]);
	if (fd < 0 || read(sock[0], &area, sizeof(area)) != sizeof(area)) {
		fputs("skipped: no userfaultfd with events here\n", stderr);
		return 77;
	}
	getrlimit(RLIMIT_NOFILE, &rl);
	/* No number below the limit is free: the next one is what dup() would get. */
	i = dup(fd);
	close(i);
	none = (struct rlimit){ i, rl.rlim_max };
	setrlimit(RLIMIT_NOFILE, &none);
	p = (struct pollfd){ fd, POLLIN, 0 };
	poll(&p, 1, 5000);
	for (i = 0, n = -EMFILE; i < 5 && n == -EMFILE; i++)
		n = get(fd, &m);
	expect(n == -EMFILE, "read() says EMFILE, each time");
	expect(!within(&sh->forked, 200), "the forking task stays blocked");
	expect(zero(fd, area + PAGE) == -EAGAIN, "fills are refused with EAGAIN meanwhile");
	atomic_store(&sh->go_touch, 1);
	for (i = 0, n = -EMFILE; i < 2000 && n == -EMFILE; i++) {
		nap(1);
		n = get(fd, &m);
	}
	expect(n == sizeof(m) && m.event == UFFD_EVENT_PAGEFAULT, "faults are read all the same");
	atomic_store(&sh->go_unmap, 1);
	nap(200);
	/* Which of the two is read while there are no descriptors? */
	for (i = 0; i < 20; i++) {
		n = get(fd, &m);
		if (n == sizeof(m) && m.event == UFFD_EVENT_UNMAP) {
			unmaps++;
			if (first < 0)
				first = UFFD_EVENT_UNMAP;
		}
	}
	printf("        %s\n", unmaps ? "a later UNMAP was read before the fork" : "a later UNMAP waits behind the fork");
	expect(!within(&sh->forked, 100), "the forking task is still blocked");
	setrlimit(RLIMIT_NOFILE, &rl);
	for (i = 0; i < 2000 && (!forks || !unmaps); i++) {
		n = get(fd, &m);
		if (n == sizeof(m) && m.event == UFFD_EVENT_FORK) {
			forks++;
			expect(fcntl(m.arg.fork.ufd, F_GETFD) >= 0, "with a descriptor free the fork is read, whole");
			close(m.arg.fork.ufd);
		} else if (n == sizeof(m) && m.event == UFFD_EVENT_UNMAP) {
			unmaps++;
		}
		if (n < 0)
			nap(1);
	}
	expect(forks == 1 && unmaps == 1, "each message came once");
	expect(within(&sh->forked, 2000) && within(&sh->unmapped, 2000), "the tasks go on");
	for (i = 0; i < 2000 && (n = zero(fd, area)) == -EAGAIN; i++)
		nap(1);
	expect(!n && within(&sh->touched, 2000), "and so do fills");
	if (bad)
		kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	printf("%s\n", bad ? "FAILED" : unmaps && first == UFFD_EVENT_UNMAP ? "nothing is lost; a fork that waits is overtaken" :
										 "nothing is lost, and in order");
	return bad ? 1 : 0;
}
