/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hand-off: what `criu restore --lazy-pages` says on lazy-pages.socket.
 *
 * One connection; for every task of pstree.img its pid (int32, negative for a
 * zombie) and then one byte that carries the userfaultfd; at the end the word
 * LAZY_PAGES_RESTORE_FINISHED. (CRIU: criu/uffd.c, send_uffd().) SO_PASSCRED
 * adds the pid of the sender here, whatever its pid namespace.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/ioctl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "restore/internal.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define SOCK_NAME	 "lazy-pages.socket"
#define RESTORE_FINISHED 0x52535446

int lp_restore_listen(struct lp_err *err)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = SOCK_NAME };
	int one = 1, fd, rc;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lp_err_sys(err, -errno, "socket");
	if (unlink(SOCK_NAME) && errno != ENOENT) {
		rc = lp_err_sys(err, -errno, "%s: cannot remove the old one", SOCK_NAME);
		goto out;
	}
	/* Before listen(), so that what is sent before accept() carries credentials too. */
	if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one)) || bind(fd, (void *)&sa, sizeof(sa)) ||
	    listen(fd, 1)) {
		rc = lp_err_sys(err, -errno, "%s: cannot listen in the work directory", SOCK_NAME);
		goto out;
	}
	return fd;
out:
	close(fd);
	return rc;
}

struct builder {
	struct lp_space *space;
	uint32_t obj;
	uint64_t bytes;
	const struct lp_vma *next; /* the first one of which no page is ordered */
	unsigned primed_full, primed_empty;
};

/* With pages, and as many without: more are too many to try again and again until CRIU has registered them. */
#define PRIME_MAX 512

/*
 * One page of each VMA first, as if a thread waited for it. A VMA without any
 * page has no anon_vma; if the task mprotect()s a part of it and back, the parts
 * get one each by the pages that are filled, zero pages too, and do not merge
 * again as they would after an eager restore: a later mremap() of the whole says
 * EFAULT.
 */
static int prime(struct builder *b, uint64_t addr, unsigned *count)
{
	if (*count == PRIME_MAX)
		return 0;
	++*count;
	return eng_defer(b->space, addr);
}

/*
 * VMAs before @end of which nothing is in the checkpoint: a zero page, since
 * faults give them zero pages. Not yet where nothing may be written: see
 * prime_protected().
 */
static int prime_empty(struct builder *b, const struct lp_vma *end)
{
	int rc = 0;

	for (; !rc && b->next < end; b->next++)
		if (b->next->lazy && b->next->prot & PROT_WRITE)
			rc = prime(b, b->next->start, &b->primed_empty);
	return rc;
}

/*
 * CRIU maps everything writable, which counts as committed memory, and gives
 * VMAs their protection after it has registered them. The kernel (7.3 at least)
 * then takes back what was committed if nothing may be written and there is no
 * anon_vma. So these VMAs get their first page when CRIU has finished.
 */
int prime_protected(struct lp_mm *mm)
{
	const struct lp_task *t = lp_images_find(mm->r->conf->images, mm->pid);
	unsigned n = 0;
	size_t i;
	int rc = 0;

	for (i = 0; t && i < t->nvmas && !rc && n < PRIME_MAX; i++) {
		if (!t->vmas[i].lazy || t->vmas[i].prot & PROT_WRITE)
			continue;
		rc = eng_defer(mm->space, t->vmas[i].start);
		n++;
	}
	return rc;
}

static int add_lazy(void *arg, uint64_t start, uint64_t end, const struct lp_vma *vma, const struct lp_extent *ext)
{
	struct builder *b = arg;
	int rc;

	b->bytes += end - start;
	rc = eng_add_missing(b->space, start, end, start, b->obj);
	if (rc || vma < b->next)
		return rc;
	rc = prime_empty(b, vma);
	b->next = vma + 1;
	return rc ? rc : prime(b, start, &b->primed_full);
}

/* The space of task @t as CRIU is about to register it. r->lock held. */
static int build_space(struct lp_restore *r, const struct lp_task *t, uint32_t obj, struct lp_mm *mm)
{
	struct builder b = { .obj = obj, .next = t->vmas };
	size_t i;
	int rc;

	rc = eng_space_new(r->engine, mm, &b.space);
	for (i = 0; !rc && i < t->nvmas; i++) {
		const struct lp_vma *v = &t->vmas[i];

		if (!v->lazy)
			continue;
		rc = eng_add_extent(b.space, v->start, v->end);
		if (!rc && v->madv & UINT64_C(1) << MADV_DONTFORK)
			rc = eng_add_dontfork(b.space, v->start, v->end);
		else if (!rc && v->madv & UINT64_C(1) << MADV_WIPEONFORK)
			rc = eng_add_wiped(b.space, v->start, v->end);
	}
	if (!rc)
		rc = lp_task_lazy_ranges(t, add_lazy, &b);
	if (!rc)
		rc = prime_empty(&b, t->vmas + t->nvmas);
	if (rc) {
		eng_space_free(b.space);
		return rc;
	}
	mm->space = b.space;
	r->total_bytes += b.bytes;
	return 0;
}

bool mm_placed(struct lp_mm *mm)
{
	const struct lp_vma *v;

	/* In no order that we know of: what is there stays, so none is asked for twice. */
	for (; mm->placed < mm->task->nvmas; mm->placed++) {
		v = &mm->task->vmas[mm->placed];
		if (v->lazy && lp_uffd_there(mm->fd, v->start, v->end - v->start) <= 0)
			return false;
	}
	return true;
}

static int take_task(struct lp_restore *r, int32_t pid, int fd, pid_t host_pid, struct lp_err *err)
{
	const struct lp_images *im = r->conf->images;
	const struct lp_task *t = lp_images_find(im, pid);
	struct lp_mm *mm;
	uint32_t obj = 0;
	uint64_t bytes;
	char size[16];
	int rc;

	if (!t || !t->has_mm)
		return lp_err(err, -EINVAL,
			      "CRIU hands over pid %d, %s: are -D and the images of the restore the same directory?", pid,
			      t ? "which has no memory in these images" : "which is not in pstree.img");
	while (lp_images_task(im, obj) != t)
		obj++;

	pthread_mutex_lock(&r->lock);
	bytes = r->total_bytes;
	mm = mm_new(r, fd, pid);
	rc = mm ? build_space(r, t, obj, mm) : -ENOMEM;
	if (!rc) {
		mm->host_pid = host_pid;
		mm->task = t;
		mm->handed = true;
		if (host_pid > 0 && r->spare_files)
			mm->pidfd = syscall(SYS_pidfd_open, host_pid, 0);
		if (!r->t_first)
			r->t_first = lp_now();
		rc = mm_add(mm);
		/* The reader owns it now, even when it could not be polled. */
		pr_info("%d.%u: handed over by pid %d: %s to fill", pid, mm->id, host_pid,
			lp_size_str(r->total_bytes - bytes, size, sizeof(size)));
	} else {
		free(mm);
	}
	pthread_mutex_unlock(&r->lock);
	kick_reader(r); /* there are pages to fill at once */
	return rc ? lp_err_sys(err, rc, "pid %d: cannot take it over", pid) : 0;
}

/* One recvmsg of at most @len bytes. What came beside the data goes to @fd (-1: nothing) and @host_pid. */
static ssize_t receive(int sock, void *buf, size_t len, int *fd, pid_t *host_pid)
{
	union {
		char buf[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
		struct cmsghdr align;
	} ctl;
	struct iovec iov = { buf, len };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &ctl, .msg_controllen = sizeof(ctl)
	};
	struct cmsghdr *c;
	ssize_t n;

	*fd = -1;
	do {
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	for (c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_RIGHTS && c->cmsg_len >= CMSG_LEN(sizeof(int))) {
			memcpy(fd, CMSG_DATA(c), sizeof(*fd));
		} else if (c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(struct ucred))) {
			struct ucred cred;

			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
			*host_pid = cred.pid;
		}
	}
	return n;
}

static int hung_up(const struct handoff *h, struct lp_err *err)
{
	return lp_err(err, -ECANCELED,
		      "CRIU closed the connection before its restore was finished (%zu tasks were still to come): "
		      "see its log",
		      h->left);
}

int handoff_read(struct lp_restore *r, struct handoff *h, struct lp_err *err)
{
	ssize_t n;
	char byte;
	int fd, rc;

	for (;;) {
		if (h->want_fd) {
			n = receive(h->sock, &byte, 1, &fd, &h->host_pid);
			if (n == -EAGAIN)
				return 0;
			if (n < 0)
				return lp_err_sys(err, n, SOCK_NAME);
			if (!n)
				return hung_up(h, err);
			if (fd < 0)
				return lp_err(err, -EPROTO, SOCK_NAME ": pid %d came without a descriptor", h->word);
			rc = take_task(r, h->word, fd, h->host_pid, err);
			if (rc)
				return rc;
			h->want_fd = false;
			h->left--;
			continue;
		}
		n = receive(h->sock, (char *)&h->word + h->have, sizeof(h->word) - h->have, &fd, &h->host_pid);
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return lp_err_sys(err, n, SOCK_NAME);
		if (!n)
			return hung_up(h, err);
		if (fd >= 0) {
			close(fd);
			return lp_err(err, -EPROTO, SOCK_NAME ": a descriptor came where a pid was due");
		}
		h->have += n;
		if (h->have < sizeof(h->word))
			continue;
		h->have = 0;
		if (!h->left) {
			if ((uint32_t)h->word != RESTORE_FINISHED)
				return lp_err(err, -EPROTO,
					      SOCK_NAME ": all tasks are here, but CRIU says 0x%x: more tasks than in "
							"pstree.img?",
					      (unsigned)h->word);
			return HANDOFF_DONE;
		}
		if (h->word < 0 && h->word != INT32_MIN) {
			pr_debug("pid %d is a zombie", -h->word);
			h->left--;
		} else if ((uint32_t)h->word == RESTORE_FINISHED || h->word <= 0) {
			return lp_err(err, -EPROTO, SOCK_NAME ": 0x%x came, %zu tasks before the end", (unsigned)h->word,
				      h->left);
		} else {
			h->want_fd = true;
		}
	}
}
