/* SPDX-License-Identifier: GPL-2.0-only */
/* The journal, see journal.h: a memfd, its header, and cells that are only added. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "guard/journal.h"

/* Where cells begin, how much is allocated at once, and the most there can be: 2^27 cells, 4 GiB. */
#define HEAD_BYTES  UINT64_C(16384)
#define GROW_CELLS  UINT64_C(32768)
#define MAX_CELLS   (UINT64_C(1) << 27)
#define WARN_CELLS  (UINT64_C(1) << 25)
#define MAP_BYTES   (HEAD_BYTES + MAX_CELLS * sizeof(struct lp_jcell))
#define ANSWERS_CAP (UINT64_C(1) << 20)

_Static_assert(sizeof(struct lp_jhead) <= HEAD_BYTES, "the header has its place");
_Static_assert(sizeof(struct lp_jcell) == 32, "cells are 32 bytes");

static pthread_mutex_t grow_lock = PTHREAD_MUTEX_INITIALIZER;

/* Allocated now, so that a full memory is an error here and not a SIGBUS later. */
static int grow(int fd, uint64_t cells)
{
	return fallocate(fd, 0, 0, HEAD_BYTES + cells * sizeof(struct lp_jcell)) ? -errno : 0;
}

static int map(int fd, struct lp_journal **out, struct lp_err *err)
{
	struct lp_journal *j = calloc(1, sizeof(*j));
	void *p;

	if (!j)
		return lp_err(err, -ENOMEM, "out of memory");
	j->fd = fd;
	j->answers = malloc(ANSWERS_CAP);
	p = mmap(NULL, MAP_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (!j->answers || p == MAP_FAILED) {
		free(j->answers);
		free(j);
		return lp_err(err, -ENOMEM, "cannot map the journal: %s", strerror(errno));
	}
	j->h = p;
	j->cells = (void *)((char *)p + HEAD_BYTES);
	*out = j;
	return 0;
}

int lp_journal_create(struct lp_journal **out, struct lp_err *err)
{
	struct lp_journal *j;
	unsigned i;
	int fd, rc;

	fd = memfd_create("lazypages-journal", MFD_CLOEXEC);
	if (fd < 0)
		return lp_err_sys(err, -errno, "memfd_create");
	rc = grow(fd, GROW_CELLS);
	if (rc)
		lp_err_sys(err, rc, "cannot allocate the journal");
	if (!rc)
		rc = map(fd, &j, err);
	if (rc) {
		close(fd);
		return rc;
	}
	j->h->magic = LP_J_MAGIC;
	j->h->version = LP_J_VERSION;
	j->h->cell_size = sizeof(struct lp_jcell);
	j->h->engine = LP_J_ENGINE;
	j->h->features = LP_J_FEATURES;
	j->h->cap = GROW_CELLS;
	j->h->listen_fd = j->h->hand_sock = j->h->ctl.fd = -1;
	j->h->hand.state[0].gen = 1;
	for (i = 0; i < LP_J_KEEP; i++)
		j->h->keep[i] = -1;
	for (i = 0; i < LP_J_LEDGER; i++)
		j->h->ledger[i] = -1;
	lp_journal_keep(j, fd);
	*out = j;
	return 0;
}

int lp_journal_attach(int fd, struct lp_journal **out, struct lp_err *err)
{
	struct stat st;
	struct lp_journal *j;
	int rc;

	if (fstat(fd, &st) || (uint64_t)st.st_size < HEAD_BYTES)
		return lp_err(err, -EINVAL, "descriptor %d is no journal of lazypages", fd);
	rc = map(fd, &j, err);
	if (rc)
		return rc;
	if (j->h->magic != LP_J_MAGIC || j->h->version != LP_J_VERSION || j->h->cell_size != sizeof(struct lp_jcell) ||
	    j->h->cap > MAX_CELLS || HEAD_BYTES + j->h->cap * sizeof(struct lp_jcell) > (uint64_t)st.st_size) {
		j->fd = -1;
		lp_journal_free(j);
		return lp_err(err, -EINVAL,
			      "the journal is of another version of lazypages: take over with the program that wrote it");
	}
	if (j->h->engine != LP_J_ENGINE || (j->h->features & ~LP_J_FEATURES)) {
		rc = lp_err(err, -EINVAL,
			    "the journal was written by an engine with rules %llu and features 0x%llx, this program has "
			    "%d and 0x%llx: go on with the program that wrote it",
			    (unsigned long long)j->h->engine, (unsigned long long)j->h->features, LP_J_ENGINE,
			    (unsigned long long)LP_J_FEATURES);
		j->fd = -1;
		lp_journal_free(j);
		return rc;
	}
	*out = j;
	return 0;
}

void lp_journal_lock(struct lp_journal *j)
{
	if (mlock(j->h, HEAD_BYTES))
		pr_warn("cannot lock the journal's zones into memory (%s): a message might be lost if the worker is "
			"killed while they are swapped out",
			strerror(errno));
}

void lp_journal_free(struct lp_journal *j)
{
	if (!j)
		return;
	munmap(j->h, MAP_BYTES);
	if (j->fd >= 0)
		close(j->fd);
	free(j->answers);
	free(j);
}

uint64_t lp_journal_count(const struct lp_journal *j)
{
	uint64_t n = atomic_load(&j->h->tail), cap = atomic_load(&j->h->cap);

	return n < cap ? n : cap;
}

void lp_journal_flag(struct lp_journal *j, uint32_t flag)
{
	atomic_fetch_or(&j->h->flags, flag);
}

bool lp_journal_has(const struct lp_journal *j, uint32_t flag)
{
	return (atomic_load(&j->h->flags) & flag) != 0;
}

/* Make room for cell @i. */
static int reach(struct lp_journal *j, uint64_t i)
{
	uint64_t cap;
	int rc = 0;

	pthread_mutex_lock(&grow_lock);
	cap = atomic_load(&j->h->cap);
	while (!rc && i >= cap) {
		cap += GROW_CELLS;
		rc = cap > MAX_CELLS ? -ENOSPC : grow(j->fd, cap);
		if (!rc)
			atomic_store(&j->h->cap, cap);
		if (!rc && cap == WARN_CELLS)
			pr_warn("the journal has grown to 1 GiB: the restored tasks change their memory a lot while it "
				"is missing; it can hold four times that");
	}
	if (rc && !lp_journal_has(j, LP_JF_BROKEN)) {
		pr_err("the journal cannot grow (%s): from now on the death of this worker loses the restored tasks",
		       strerror(-rc));
		lp_journal_flag(j, LP_JF_BROKEN);
	}
	pthread_mutex_unlock(&grow_lock);
	return rc;
}

static struct lp_jcell *put(struct lp_journal *j, uint64_t word, uint64_t x, uint64_t y, uint64_t z)
{
	struct lp_jcell *c;
	uint64_t i;

	if (lp_journal_has(j, LP_JF_BROKEN))
		return NULL;
	i = atomic_fetch_add(&j->h->tail, 1);
	if (i >= atomic_load(&j->h->cap) && reach(j, i))
		return NULL;
	c = &j->cells[i];
	c->x = x;
	atomic_store_explicit(&c->y, y, memory_order_relaxed);
	c->z = z;
	atomic_store_explicit(&c->word, word, memory_order_release);
	return c;
}

static uint64_t word_of(enum lp_jkind kind, unsigned a, unsigned b, uint32_t mm)
{
	return kind | a << 8 | (uint64_t)b << 16 | (uint64_t)mm << 32;
}

int lp_journal_add(struct lp_journal *j, enum lp_jkind kind, unsigned a, unsigned b, uint32_t mm, uint64_t x,
		   uint64_t y, uint64_t z)
{
	return put(j, word_of(kind, a, b & 0xffff, mm), x, y, z) ? 0 : -ENOSPC;
}

void lp_journal_done(struct lp_journal *j, uint32_t mm, uint32_t epoch, uint64_t start, uint64_t end)
{
	/* What this thread has noted last. Numbers of mms are never used again, those of journals neither. */
	static _Thread_local struct {
		struct lp_jcell *cell;
		uint32_t mm, epoch;
		uint64_t end;
	} last;

	if (last.cell && last.mm == mm && last.epoch == epoch && last.end == start) {
		atomic_store_explicit(&last.cell->y, end, memory_order_release);
	} else {
		last.cell = put(j, word_of(LP_J_DONE, 0, 0, mm), start, end, 0);
		last.mm = mm;
		last.epoch = epoch;
	}
	last.end = end;
}

void lp_journal_begin(struct lp_journal *j)
{
	j->nanswers = 0;
}

int lp_journal_answer(struct lp_journal *j, int rc)
{
	/* More are not kept, here and in a replay: the engine knows what to do without. */
	if (j->nanswers == ANSWERS_CAP)
		return -EAGAIN;
	j->answers[j->nanswers++] = rc < 0 ? 2 : rc != 0;
	return rc;
}

void lp_journal_answers(struct lp_journal *j, uint32_t mm)
{
	size_t i, k, n;

	for (i = 0; i < j->nanswers; i += n) {
		uint64_t v[3] = { 0 };

		n = j->nanswers - i < LP_J_ANSWERS_MAX ? j->nanswers - i : LP_J_ANSWERS_MAX;
		for (k = 0; k < n; k++)
			v[k / 32] |= (uint64_t)j->answers[i + k] << k % 32 * 2;
		lp_journal_add(j, LP_J_ANSWERS, n, 0, mm, v[0], v[1], v[2]);
	}
	j->nanswers = 0;
}

/* ---- Descriptors ----------------------------------------------------------- */

void lp_journal_keep(struct lp_journal *j, int fd)
{
	unsigned i;

	for (i = 0; fd >= 0 && i < LP_J_KEEP; i++) {
		if (j->h->keep[i] >= 0)
			continue;
		j->h->keep[i] = fd;
		return;
	}
	if (fd >= 0)
		abort(); /* a constant number of callers */
}

void lp_journal_unkeep(struct lp_journal *j, int fd)
{
	unsigned i;

	for (i = 0; i < LP_J_KEEP; i++)
		if (j->h->keep[i] == fd)
			j->h->keep[i] = -1;
}

static int by_number(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

static void close_between(int from, int to)
{
	if (from > to)
		return;
	if (!syscall(SYS_close_range, from, to, 0) || errno != ENOSYS)
		return;
	/* Before Linux 5.9. */
	if (to > 1 << 20)
		to = 1 << 20;
	for (; from <= to; from++)
		close(from);
}

int lp_jhand_fd(const struct lp_jhand *h)
{
	struct msghdr m = { .msg_control = (void *)h->ctl, .msg_controllen = sizeof(h->ctl) };
	struct cmsghdr *c;
	int fd;

	/* What the kernel did not write is zero, which ends the list. */
	for (c = CMSG_FIRSTHDR(&m); c && c->cmsg_len >= sizeof(*c); c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(sizeof(int)))
			continue;
		memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		return fd;
	}
	return -1;
}

struct fds {
	int *v;
	size_t n, cap;
};

static void fds_add(struct fds *l, int fd)
{
	if (fd < 0)
		return;
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		l->v = realloc(l->v, l->cap * sizeof(*l->v));
		if (!l->v)
			abort(); /* the guardian starts another worker */
	}
	l->v[l->n++] = fd;
}

/* What spaces have, two by two in the order of their numbers: descriptor and pidfd. */
static void fds_of(struct fds *l, uint32_t mm, int fd, int pidfd)
{
	while (l->n < 2 * ((size_t)mm + 1)) {
		fds_add(l, 0);
		l->v[l->n - 1] = -1;
	}
	l->v[2 * (size_t)mm] = fd;
	l->v[2 * (size_t)mm + 1] = pidfd;
}

static void live_fds(struct lp_journal *j, struct fds *live)
{
	struct lp_jhand *h = &j->h->hand;
	struct fds mms = { NULL };
	uint64_t i, n = lp_journal_count(j);

	for (i = 0; i < n; i++) {
		const struct lp_jcell *c = &j->cells[i];
		uint64_t w = atomic_load_explicit(&c->word, memory_order_acquire);

		switch (lp_jkind(w)) {
		case LP_J_SPACE:
			fds_of(&mms, lp_jmm(w), (int32_t)c->y, (int32_t)(c->y >> 32));
			break;
		case LP_J_FORK:
			fds_of(&mms, c->y, c->x, -1);
			break;
		case LP_J_CLOSE:
			fds_of(&mms, lp_jmm(w), -1, -1);
			break;
		case LP_J_SKIP:
			fds_add(live, (int)c->x - 1);
			break;
		default:
			break;
		}
	}
	for (i = 0; i < mms.n; i++)
		fds_add(live, mms.v[i]);
	for (i = 0; i < LP_J_MESSAGES; i++)
		if (j->h->zone.msgs[i].event == UFFD_EVENT_FORK)
			fds_add(live, j->h->zone.msgs[i].arg.fork.ufd);
	if (h->taking == h->state[h->cur].gen)
		fds_add(live, lp_jhand_fd(h));
	for (i = 0; i < LP_J_LEDGER; i++)
		fds_add(live, j->h->ledger[i]);
	fds_add(live, j->h->listen_fd);
	fds_add(live, j->h->hand_sock);
	fds_add(live, j->h->ctl.fd);
	free(mms.v);
}

int *lp_journal_live(struct lp_journal *j, size_t *n)
{
	struct fds live = { .v = malloc(64 * sizeof(int)), .cap = 64 };

	if (!live.v)
		return NULL;
	live_fds(j, &live);
	*n = live.n;
	return live.v;
}

/* The connection that a worker accepted as the last thing it did. Its end here has the name of the listening socket. */
static int accepted(struct lp_journal *j, const char *path)
{
	struct sockaddr_un sa;
	socklen_t len, n;
	int fd, listening;

	if (j->h->listen_fd < 0 || lp_journal_has(j, LP_JF_ACCEPTED))
		return -1;
	for (fd = 3; fd < 4096; fd++) {
		len = sizeof(sa);
		n = sizeof(listening);
		memset(&sa, 0, sizeof(sa));
		if (fd == j->h->listen_fd || getsockname(fd, (void *)&sa, &len) || sa.sun_family != AF_UNIX ||
		    strncmp(sa.sun_path, path, sizeof(sa.sun_path)) ||
		    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) || listening)
			continue;
		return fd;
	}
	return -1;
}

void lp_journal_sweep(struct lp_journal *j, const char *path)
{
	int keep[LP_J_KEEP + 3] = { 0, 1, 2 }, last = -1, fd;
	struct fds live = { NULL };
	size_t nk = 3, i = 0, k = 0;

	live_fds(j, &live);
	fd = accepted(j, path);
	if (fd >= 0) {
		j->h->hand_sock = fd;
		fds_add(&live, fd);
		lp_journal_flag(j, LP_JF_ACCEPTED);
	}
	for (i = 0; i < LP_J_KEEP; i++)
		if (j->h->keep[i] >= 0)
			keep[nk++] = j->h->keep[i];
	qsort(keep, nk, sizeof(*keep), by_number);
	if (live.n)
		qsort(live.v, live.n, sizeof(*live.v), by_number);
	for (i = 0; i < live.n || k < nk;) {
		int next = i == live.n || (k < nk && keep[k] <= live.v[i]) ? keep[k++] : live.v[i++];

		if (next <= last)
			continue;
		close_between(last + 1, next - 1);
		last = next;
	}
	close_between(last + 1, INT_MAX);
	free(live.v);
}
