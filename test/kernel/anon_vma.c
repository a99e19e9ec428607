/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the kernel does with mappings that have no anon_vma, see doc/design.md,
 * "The first page of each VMA". No daemon: a thread answers all faults with zero
 * pages. Each mapping is split by mprotect(), read in both parts, made whole
 * again, and grown by mremap(). Prints what mremap() said:
 *
 *	plain		without a userfaultfd
 *	registered	with one
 *	page before	with one, and a page was filled before the split
 *	page after	with one, and a page was filled after it
 *
 * Fails if `plain` or `page before` is refused: then the daemon's remedy does not
 * work on this kernel. If nothing is refused, the kernel has got better.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define PAGE  4096u
#define PAGES 16u
#define PART  5u

enum how { PLAIN, REGISTERED, BEFORE, AFTER, HOWS };
enum what { EMPTY, DONTUNMAP, WIPED, WHATS };

static const char *const hows[] = { "plain", "registered", "page before", "page after" };
static const char *const whats[] = { "a mapping without pages", "the source of MREMAP_DONTUNMAP",
				     "MADV_WIPEONFORK in a child" };
static int ufd;

static void zero(int fd, uint64_t addr)
{
	struct uffdio_zeropage z = { .range = { addr & ~(uint64_t)(PAGE - 1), PAGE } };

	while (ioctl(fd, UFFDIO_ZEROPAGE, &z) && errno == EAGAIN)
		;
}

/* Answers all faults, those of the latest child too. */
static void *manager(void *arg)
{
	struct pollfd p[2] = { { .fd = ufd, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
	struct uffd_msg m;
	int i;

	for (;;) {
		poll(p, 2, -1);
		for (i = 0; i < 2; i++) {
			if (read(p[i].fd, &m, sizeof(m)) != sizeof(m))
				continue;
			if (m.event == UFFD_EVENT_PAGEFAULT) {
				zero(p[i].fd, m.arg.pagefault.address);
			} else if (m.event == UFFD_EVENT_FORK) {
				close(p[1].fd);
				p[1].fd = m.arg.fork.ufd;
			}
		}
	}
	return arg;
}

/* What mremap() says about [a, a + PAGES) after it was split and made whole. */
static int split(volatile char *a, enum how how)
{
	volatile char *part = a + PART * PAGE;

	if (how == BEFORE)
		(void)a[0];
	mprotect((void *)part, PAGE, PROT_READ);
	if (how == AFTER)
		(void)a[0];
	(void)part[0];
	(void)part[PAGE];
	mprotect((void *)part, PAGE, PROT_READ | PROT_WRITE);
	return mremap((void *)a, PAGES * PAGE, (PAGES + 1) * PAGE, MREMAP_MAYMOVE) == MAP_FAILED ? errno : 0;
}

static int try(enum what what, enum how how)
{
	char *a = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register reg = {
		.range = { (uintptr_t)a, PAGES * PAGE }, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int st = 0;
	pid_t pid;

	if (a == MAP_FAILED)
		exit(2);
	if (what != EMPTY)
		memset(a, 1, PAGES * PAGE);
	if (how != PLAIN && ioctl(ufd, UFFDIO_REGISTER, &reg))
		exit(2);
	if (what == DONTUNMAP &&
	    mremap(a, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL) == MAP_FAILED)
		exit(2);
	if (what != WIPED)
		return split(a, how);
	if (madvise(a, PAGES * PAGE, MADV_WIPEONFORK))
		exit(2);
	pid = fork();
	if (!pid)
		_exit(split(a, how));
	if (pid < 0 || waitpid(pid, &st, 0) != pid || !WIFEXITED(st))
		exit(2);
	munmap(a, PAGES * PAGE);
	return WEXITSTATUS(st);
}

int main(void)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP |
			    UFFD_FEATURE_EVENT_REMOVE,
	};
	int rc, bad = 0, what, how;
	pthread_t t;

	ufd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (ufd < 0 || ioctl(ufd, UFFDIO_API, &api)) {
		printf("no userfaultfd with events: %s\n", strerror(errno));
		return 77;
	}
	if (pthread_create(&t, NULL, manager, NULL))
		return 2;
	for (what = 0; what < WHATS; what++) {
		for (how = 0; how < HOWS; how++) {
			rc = try(what, how);
			printf("%s, %s: %s\n", whats[what], hows[how], rc ? strerror(rc) : "merges");
			bad += rc && (how == PLAIN || how == BEFORE);
		}
	}
	return bad ? 1 : 0;
}
