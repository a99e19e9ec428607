/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hand-off: what `criu restore --lazy-pages` says on lazy-pages.socket.
 *
 * One connection; for every task of pstree.img its pid (int32, negative for a
 * zombie) and then one byte that carries the userfaultfd; at the end the word
 * LAZY_PAGES_RESTORE_FINISHED. (CRIU: criu/uffd.c, send_uffd().) SO_PASSCRED
 * adds the pid of the sender here, whatever its pid namespace. The daemon says one
 * word, LAZY_PAGES_WILL_CLOSE: it closes the connection as soon as the first pages
 * of the tasks are there, which CRIU with criu-patches/0008 waits for before it
 * lets them run. Another CRIU does not read it.
 *
 * How far it has come is in the journal, and what is received lands there: see
 * struct lp_jhand. Only main comes here.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/ioctl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "images/thin.h"
#include "restore/internal.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define SOCK_NAME	 LP_RESTORE_SOCKET
#define RESTORE_FINISHED 0x52535446
#define WILL_CLOSE	 0x4c434c57

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
	(void)fchmod(fd, 0600); /* of the file that bind() makes */
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

/* Is @addr in a lazy VMA of @t that may be written? */
static bool may_be_early(const struct lp_task *t, uint64_t addr)
{
	const struct lp_vma *v = lp_task_vma(t, addr);

	return v && v->lazy && v->prot & PROT_WRITE;
}

/* Where the kernel looks for a thread and cannot wait: see images/early.c. */
static int prime_early(struct builder *b, const struct lp_task *t)
{
	unsigned n = 0;
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < t->nearly; i++)
		if (may_be_early(t, t->early[i]))
			rc = prime(b, t->early[i] & ~(LP_PAGE_SIZE - 1), &n);
	return rc;
}

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
		if (!rc && v->madv & UINT64_C(1) << MADV_WIPEONFORK)
			rc = eng_add_wiped(b.space, v->start, v->end);
	}
	if (!rc)
		rc = prime_early(&b, t);
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

	/*
	 * In no order that we know of: what is there stays, so none is asked for
	 * twice. Not those that prime_protected() is about: asking gives an anon_vma.
	 */
	for (; mm->placed < mm->task->nvmas; mm->placed++) {
		v = &mm->task->vmas[mm->placed];
		if (v->lazy && v->prot & PROT_WRITE && lp_uffd_there(mm->fd, v->start, v->end - v->start) <= 0)
			return false;
	}
	return true;
}

const struct lp_vma *mm_left_out(const struct lp_mm *mm)
{
	const struct lp_task *t = lp_images_find(mm->r->conf->images, mm->pid);
	size_t i;

	if (lp_space_unsettled(mm->space))
		return NULL;
	for (i = 0; t && i < t->nvmas; i++) {
		const struct lp_vma *v = &t->vmas[i];

		/* mm_placed() has asked for those already. */
		if (!v->lazy || (i < mm->placed && v->prot & PROT_WRITE))
			continue;
		/* Those with pages get an anon_vma anyhow. One page: the task may have split the VMA. */
		if (lp_task_has_pages(t, v) && lp_space_registered(mm->space, v->start, v->start + LP_PAGE_SIZE) &&
		    !lp_uffd_there(mm->fd, v->start, LP_PAGE_SIZE) && !lp_uffd_there(mm->fd, v->start, LP_PAGE_SIZE))
			return v;
	}
	return NULL;
}

int handoff_space(struct lp_restore *r, struct lp_mm *mm, struct lp_err *err)
{
	const struct lp_images *im = r->conf->images;
	const struct lp_task *t = lp_images_find(im, mm->pid);
	uint32_t obj = 0;
	int rc;

	if (!t || !t->has_mm)
		return lp_err(err, -EINVAL,
			      "CRIU hands over pid %d, %s: are -D and the images of the restore the same directory?", mm->pid,
			      t ? "which has no memory in these images" : "which is not in pstree.img");
	while (lp_images_task(im, obj) != t)
		obj++;
	mm->handed = true;
	mm->task = t;
	rc = build_space(r, t, obj, mm);
	return rc ? lp_err_sys(err, rc, "pid %d: cannot take it over", mm->pid) : 0;
}

/* CRIU without criu-patches/0006 takes a stack pointer at the start of a page for the reason to make nothing lazy. */
static void warn_eager(const struct lp_restore *r, const struct lp_task *t)
{
	uint64_t could;
	char size[16];

	if (t->lazy_bytes || lp_images_depth(r->conf->images))
		return;
	could = t->eager_bytes - lp_thin_eager(t);
	if (could)
		pr_warn("pid %d: nothing is lazy, CRIU restores all before it runs, %s that could be lazy too: dump with "
			"criu-patches/0006, or restore from a server", t->pid, lp_size_str(could, size, sizeof(size)));
}

static int take_task(struct lp_restore *r, int32_t pid, int fd, pid_t host_pid, uint32_t gen, struct lp_err *err)
{
	struct lp_mm *mm;
	uint64_t bytes;
	char size[16];
	int rc;

	pthread_mutex_lock(&r->lock);
	bytes = r->total_bytes;
	mm = mm_new(r, fd, pid);
	rc = mm ? handoff_space(r, mm, err) : lp_err(err, -ENOMEM, "out of memory");
	if (!rc) {
		mm->host_pid = host_pid;
		if (host_pid > 0 && r->spare_files)
			mm->pidfd = syscall(SYS_pidfd_open, host_pid, 0);
		if (!r->t_first)
			r->t_first = lp_now();
		if (r->j)
			r->j->h->t_first = r->t_first;
		lp_crash_point(hand_task);
		note_space(mm, gen);
		lp_crash_point(hand_noted);
		book_begin(mm);
		rc = mm_add(mm);
		if (rc)
			lp_err_sys(err, rc, "pid %d: cannot poll its userfaultfd", pid);
		/* The reader owns it now, even when it could not be polled. */
		pr_info("%d.%u: handed over by pid %d: %s to fill", pid, mm->id, host_pid,
			lp_size_str(r->total_bytes - bytes, size, sizeof(size)));
		warn_eager(r, mm->task);
	} else {
		free(mm);
	}
	pthread_mutex_unlock(&r->lock);
	kick_reader(r); /* there are pages to fill at once */
	return rc;
}

/* The pid of the sender, or 0. */
static pid_t sender(const struct lp_jhand *h)
{
	struct msghdr m = { .msg_control = (void *)h->ctl, .msg_controllen = sizeof(h->ctl) };
	struct ucred cred = { 0 };
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(&m); c && c->cmsg_len >= sizeof(*c); c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS && c->cmsg_len >= CMSG_LEN(sizeof(cred)))
			memcpy(&cred, CMSG_DATA(c), sizeof(cred));
	return cred.pid;
}

/* How many bytes of those looked at were taken: the others still hold the complement. */
static ssize_t taken(const struct lp_jhand *h)
{
	uint32_t n = 0;

	while (n < h->n && h->buf[n] == h->peek[n])
		n++;
	return n;
}

/*
 * Take up to @want bytes, at most 4, into h->buf and h->ctl; 0 when it has hung
 * up. A worker that dies in here, or before it has said what became of them by
 * commit(), leaves them for the next one, which finds them by `taking`.
 */
static ssize_t take(struct lp_jhand *h, const struct lp_jhand_state *st, int sock, size_t want)
{
	struct iovec iov = { h->buf, 0 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = h->ctl, .msg_controllen = sizeof(h->ctl) };
	ssize_t n;
	uint32_t i;

	if (atomic_load(&h->taking) == st->gen) {
		n = taken(h);
		if (n)
			return n;
	}
	atomic_store(&h->taking, 0);
	do {
		n = recv(sock, h->peek, want, MSG_PEEK | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n < 0 ? -errno : 0;
	h->n = n;
	for (i = 0; i < h->n; i++)
		h->buf[i] = (uint8_t)~h->peek[i];
	memset(h->ctl, 0, sizeof(h->ctl));
	atomic_store(&h->taking, st->gen);
	lp_crash_point(hand_before);
	iov.iov_len = h->n;
	do {
		n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	lp_crash_point(hand_after);
	return n < 0 ? -errno : n;
}

/* What was taken is done with: @next is where we are. */
static void commit(struct lp_jhand *h, struct lp_jhand_state next)
{
	next.gen = h->state[h->cur].gen + 1;
	h->state[!h->cur] = next;
	atomic_store(&h->cur, !h->cur);
}

void handoff_begin(struct lp_restore *r)
{
	commit(r->hand, (struct lp_jhand_state){ .left = lp_images_ntasks(r->conf->images) });
}

void handoff_greet(int sock)
{
	uint32_t word = WILL_CLOSE;

	(void)!send(sock, &word, sizeof(word), MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool handoff_ready(const struct lp_restore *r)
{
	const struct lp_mm *mm;

	for (mm = r->mms; mm; mm = mm->next)
		if (mm->handed && !lp_space_dead(mm->space) && lp_space_waited_for(mm->space))
			return false;
	return true;
}

size_t handoff_left(const struct lp_restore *r)
{
	return r->hand->state[r->hand->cur].left;
}

static int hung_up(const struct lp_jhand_state *st, struct lp_err *err)
{
	return lp_err(err, -ECANCELED,
		      "CRIU closed the connection before its restore was finished (%u tasks were still to come): "
		      "see its log",
		      st->left);
}

/* A word is complete. 0: go on; HANDOFF_DONE; 2: a descriptor comes next; -errno. */
static int on_word(struct lp_jhand *h, const struct lp_jhand_state *st, struct lp_err *err)
{
	if (!st->left) {
		if ((uint32_t)st->word != RESTORE_FINISHED)
			return lp_err(err, -EPROTO,
				      SOCK_NAME ": all tasks are here, but CRIU says 0x%x: more tasks than in pstree.img?",
				      (unsigned)st->word);
		return HANDOFF_DONE;
	}
	if (st->word < 0 && st->word != INT32_MIN) {
		pr_debug("pid %d is a zombie", -st->word);
		commit(h, (struct lp_jhand_state){ .left = st->left - 1 });
		return 0;
	}
	if ((uint32_t)st->word == RESTORE_FINISHED || st->word <= 0)
		return lp_err(err, -EPROTO, SOCK_NAME ": 0x%x came, %u tasks before the end", (unsigned)st->word, st->left);
	return 2;
}

int handoff_read(struct lp_restore *r, int sock, struct lp_err *err)
{
	struct lp_jhand *h = r->hand;
	ssize_t n;
	int fd, rc;

	for (;;) {
		struct lp_jhand_state st = h->state[h->cur];
		bool want_fd = false;

		if (st.have == sizeof(st.word)) {
			rc = on_word(h, &st, err);
			if (rc == HANDOFF_DONE || rc < 0)
				return rc;
			if (!rc)
				continue;
			want_fd = true;
		}
		n = take(h, &st, sock, want_fd ? 1 : sizeof(st.word) - st.have);
		if (n == -EAGAIN)
			return 0;
		if (!n || n == -ECONNRESET) /* it had not read what we said */
			return hung_up(&st, err);
		if (n < 0)
			return lp_err_sys(err, n, SOCK_NAME);
		fd = lp_jhand_fd(h);
		if (want_fd) {
			if (fd < 0)
				return lp_err(err, -EPROTO, SOCK_NAME ": pid %d came without a descriptor", st.word);
			rc = take_task(r, st.word, fd, sender(h), st.gen, err);
			if (rc)
				return rc;
			commit(h, (struct lp_jhand_state){ .left = st.left - 1 });
			continue;
		}
		if (fd >= 0) {
			close(fd);
			return lp_err(err, -EPROTO, SOCK_NAME ": a descriptor came where a pid was due");
		}
		memcpy((char *)&st.word + st.have, h->buf, n);
		st.have += n;
		commit(h, st);
	}
}
