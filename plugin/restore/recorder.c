/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The ring and the thread behind a trace, see recorder.h. One lock: of the
 * ring's ends and the count of records. It is the innermost of all, and nobody
 * who holds it does more than encode a record, or wait for room in the ring.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/size.h"
#include "restore/recorder.h"

#define RING (UINT64_C(4) << 20)
/* What a crash may cost: the thread writes at least so often. */
#define WRITE_NS UINT64_C(50000000)
/* How long the tasks may be kept waiting for a file, once. */
#define FULL_NS UINT64_C(1000000000)

struct lp_recorder {
	int fd;
	char *path;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t data, room;
	bool started, stopping, nudged;
	_Atomic int lost; /* -errno: nothing is recorded any more */
	uint64_t t0, number;
	uint64_t head, tail; /* bytes put and written, of all times */
	uint8_t ring[RING];
};

static _Thread_local uint16_t this_thread;
static _Atomic unsigned nthreads[LP_BY_BULK + 1];

void lp_recorder_thread(enum lp_rec_role role)
{
	this_thread = role << 8 | (atomic_fetch_add(&nthreads[role], 1) & 0xff);
}

uint64_t lp_recorder_time(const struct lp_recorder *t, uint64_t ns)
{
	return ns == UINT64_MAX ? ns : ns > t->t0 ? ns - t->t0 : 0;
}

static struct timespec deadline(uint64_t ns)
{
	uint64_t when = lp_now() + ns;

	return (struct timespec){ .tv_sec = when / 1000000000, .tv_nsec = when % 1000000000 };
}

static int write_all(int fd, const uint8_t *p, size_t len)
{
	ssize_t n;

	while (len) {
		n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		len -= n;
	}
	return 0;
}

/* The lock is held. */
static void lose(struct lp_recorder *t, int rc)
{
	if (atomic_load(&t->lost))
		return;
	atomic_store(&t->lost, rc);
	pthread_cond_broadcast(&t->room);
	pr_err("%s: %s: the trace ends here, the restore goes on; %s", t->path, strerror(-rc),
	       rc == -ETIMEDOUT ? "put it on a faster file system" : "make room, or put it elsewhere");
}

static void *writer_main(void *arg)
{
	struct lp_recorder *t = arg;
	uint64_t from, to;
	struct timespec ts;
	bool last;
	int rc;

	pthread_mutex_lock(&t->lock);
	do {
		ts = deadline(WRITE_NS);
		while (!t->stopping && !t->nudged && !pthread_cond_timedwait(&t->data, &t->lock, &ts))
			;
		last = t->stopping;
		t->nudged = false;
		from = t->tail;
		to = t->head;
		pthread_mutex_unlock(&t->lock);
		/* What is between tail and head is nobody else's. */
		rc = 0;
		while (!rc && from < to) {
			uint64_t at = from % RING, n = to - from < RING - at ? to - from : RING - at;

			rc = atomic_load(&t->lost) ? 0 : write_all(t->fd, t->ring + at, n);
			from += n;
		}
		pthread_mutex_lock(&t->lock);
		t->tail = to;
		if (rc)
			lose(t, rc);
		pthread_cond_broadcast(&t->room);
	} while (!last);
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

/* The lock is held. False: recording has ended. */
static bool wait_for_room(struct lp_recorder *t)
{
	struct timespec ts = deadline(FULL_NS);

	while (!atomic_load(&t->lost) && RING - (t->head - t->tail) < LP_REC_MAX) {
		t->nudged = true;
		pthread_cond_signal(&t->data);
		if (pthread_cond_timedwait(&t->room, &t->lock, &ts) == ETIMEDOUT &&
		    RING - (t->head - t->tail) < LP_REC_MAX)
			lose(t, -ETIMEDOUT);
	}
	return !atomic_load(&t->lost);
}

void lp_recorder_put(struct lp_recorder *t, enum lp_rec_type type, uint64_t ns, const uint64_t *v, unsigned nv)
{
	struct lp_rec r = { .type = type, .thread = this_thread };
	uint8_t buf[LP_REC_MAX];
	uint64_t at;
	size_t n;

	if (atomic_load_explicit(&t->lost, memory_order_relaxed))
		return;
	if (nv != lp_rec_info(type)->n)
		abort(); /* calls.h: not the fields of the type */
	memcpy(r.v, v, nv * sizeof(*v));
	r.time = lp_recorder_time(t, ns ? ns : lp_now());
	pthread_mutex_lock(&t->lock);
	if (wait_for_room(t)) {
		n = lp_rec_encode(&r, t->number, buf);
		if (!n)
			abort(); /* the same */
		t->number++;
		at = t->head % RING;
		if (n <= RING - at) {
			memcpy(t->ring + at, buf, n);
		} else {
			memcpy(t->ring + at, buf, RING - at);
			memcpy(t->ring, buf + (RING - at), n - (RING - at));
		}
		t->head += n;
		if (!t->nudged && t->head - t->tail > RING / 4) {
			t->nudged = true;
			pthread_cond_signal(&t->data);
		}
	}
	pthread_mutex_unlock(&t->lock);
}

int lp_recorder_open(const char *path, struct lp_recorder **out, struct lp_err *err)
{
	struct lp_recorder *t = calloc(1, sizeof(*t));
	uint8_t head[LP_TRACE_HEAD];
	pthread_mutexattr_t ma;
	pthread_condattr_t ca;
	int rc;

	if (!t || !(t->path = strdup(path))) {
		free(t);
		return lp_err(err, -ENOMEM, "out of memory");
	}
	t->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	lp_trace_head(head);
	rc = t->fd < 0 ? -errno : write_all(t->fd, head, sizeof(head));
	if (rc) {
		lp_err_sys(err, rc, "--trace %s", path);
		if (t->fd >= 0)
			close(t->fd);
		free(t->path);
		free(t);
		return rc;
	}
	pthread_mutexattr_init(&ma);
	pthread_mutexattr_settype(&ma, PTHREAD_MUTEX_ADAPTIVE_NP); /* held for a tenth of a microsecond */
	pthread_mutex_init(&t->lock, &ma);
	pthread_mutexattr_destroy(&ma);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&t->data, &ca);
	pthread_cond_init(&t->room, &ca);
	pthread_condattr_destroy(&ca);
	*out = t;
	return 0;
}

int lp_recorder_start(struct lp_recorder *t)
{
	int rc;

	t->t0 = lp_now();
	rc = -pthread_create(&t->thread, NULL, writer_main, t);
	t->started = !rc;
	return rc;
}

int lp_recorder_stop(struct lp_recorder *t)
{
	if (!t->started)
		return 0;
	pthread_mutex_lock(&t->lock);
	t->stopping = true;
	pthread_cond_signal(&t->data);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	t->started = false;
	return atomic_load(&t->lost);
}

void lp_recorder_close(struct lp_recorder *t)
{
	if (!t)
		return;
	lp_recorder_stop(t);
	if (close(t->fd) && !atomic_load(&t->lost))
		pr_err("%s: %s: the trace is not whole", t->path, strerror(errno));
	pthread_cond_destroy(&t->data);
	pthread_cond_destroy(&t->room);
	pthread_mutex_destroy(&t->lock);
	free(t->path);
	free(t);
}
