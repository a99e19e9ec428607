/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Clients of an image server without CRIU: each drains all lazy pages of a
 * checkpoint through the remote source, as the bulk threads of a daemon would,
 * and compares every byte with the local images; beside it a thread may read
 * pages at random through the urgent link. Exit status 0: all bytes right.
 *
 *   pull --local DIR --from URL [--from URL...] [--clients N] [--threads N] [--random N]
 *        [--compress auto|lz4|zstd] [--ahead BYTES] [--timeout MS] [--seconds N] [--tls DIR]
 *
 * --tls DIR: with ca.pem, client.pem and client.key from there. --seconds: begin anew until they are over. --random N: reads of one page, beside the drain.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/log.h"
#include "base/prio.h"
#include "base/size.h"
#include "images/thin.h"
#include "proto/proto.h"
#include "source/remote.h"

#define CHUNK (UINT64_C(64) << 10)

struct range {
	uint32_t obj;
	uint64_t start, end;
};

struct all {
	struct lp_images *im;
	struct lp_source *local;
	struct lp_url urls[LP_REMOTE_MAX];
	struct lp_remote_conf conf;
	struct range *ranges;
	size_t nranges;
	uint64_t total;
	unsigned clients, threads;
	unsigned long nrandom;
	_Atomic uint64_t bytes, wrong, failed, retries;
	uint64_t *lat;
	_Atomic size_t nlat;
};

struct client {
	struct all *a;
	struct lp_source *src;
	_Atomic size_t next; /* the range to take next */
	unsigned seed;
};

static int add_range(struct all *a, uint32_t obj, uint64_t start, uint64_t end)
{
	/* As the engine's flights: 2 MiB at most. */
	while (start < end) {
		uint64_t n = end - start < (2 << 20) ? end - start : 2 << 20;
		struct range *p = realloc(a->ranges, (a->nranges + 1) * sizeof(*p));

		if (!p)
			return -ENOMEM;
		a->ranges = p;
		p[a->nranges++] = (struct range){ obj, start, start + n };
		a->total += n;
		start += n;
	}
	return 0;
}

static int find_ranges(struct all *a)
{
	size_t i, k;

	for (i = 0; i < lp_images_ntasks(a->im); i++) {
		const struct lp_task *t = lp_images_task(a->im, i);

		for (k = 0; k < t->nextents; k++)
			if (t->extents[k].lazy && add_range(a, i, t->extents[k].start, t->extents[k].end))
				return -ENOMEM;
	}
	return a->nranges ? 0 : -ENODATA;
}

/* Tasks wait, so does this: what is late is asked for again, other errors are failures. */
static bool again(struct all *a, int rc)
{
	if (rc == -ETIMEDOUT || rc == -EIO) {
		atomic_fetch_add(&a->retries, 1);
		return true;
	}
	fprintf(stderr, "pull: %s\n", strerror(-rc));
	atomic_fetch_add(&a->failed, 1);
	return false;
}

static void *drain(void *arg)
{
	struct client *c = arg;
	struct all *a = c->a;
	struct lp_window w = { 0 }, l = { 0 };
	const struct lp_source_ops *ops = c->src->ops;
	size_t i;

	lp_prio_bulk();
	while ((i = atomic_fetch_add(&c->next, 1)) < a->nranges) {
		struct range r = a->ranges[i];

		while (r.start < r.end) {
			uint64_t n;
			int rc = ops->map(c->src, &w, r.obj, r.start, r.end - r.start);

			if (rc) {
				if (again(a, rc))
					continue;
				break;
			}
			rc = a->local->ops->map(a->local, &l, r.obj, r.start, r.end - r.start);
			if (rc) {
				again(a, -EBADF);
				break;
			}
			n = w.end < l.end ? w.end - r.start : l.end - r.start;
			if (n > r.end - r.start)
				n = r.end - r.start;
			if (memcmp(w.bytes, l.bytes, n))
				atomic_fetch_add(&a->wrong, 1);
			atomic_fetch_add(&a->bytes, n);
			r.start += n;
		}
	}
	ops->unmap(c->src, &w);
	a->local->ops->unmap(a->local, &l);
	return NULL;
}

static void *faults(void *arg)
{
	struct client *c = arg;
	struct all *a = c->a;
	uint8_t got[4096], want[4096];
	unsigned long i;

	lp_prio_urgent();
	for (i = 0; i < a->nrandom; i++) {
		struct range *r = &a->ranges[rand_r(&c->seed) % a->nranges];
		uint64_t addr = r->start + rand_r(&c->seed) % ((r->end - r->start) / 4096) * 4096, t0 = lp_now();
		size_t k;
		int rc;

		do
			rc = c->src->ops->read(c->src, r->obj, addr, got, sizeof(got));
		while (rc && again(a, rc));
		k = atomic_fetch_add(&a->nlat, 1);
		a->lat[k] = lp_now() - t0;
		if (rc || a->local->ops->read(a->local, r->obj, addr, want, sizeof(want)) ||
		    memcmp(got, want, sizeof(got)))
			atomic_fetch_add(&a->wrong, 1);
	}
	return NULL;
}

static void *client(void *arg)
{
	struct client *c = arg;
	struct all *a = c->a;
	pthread_t t[64], f;
	struct lp_remote_stats st;
	struct lp_err err;
	unsigned i;

	if (lp_source_remote_open(a->im, &a->conf, &c->src, &err)) {
		fprintf(stderr, "pull: %s\n", err.msg);
		atomic_fetch_add(&a->failed, 1);
		return NULL;
	}
	for (i = 0; i < a->threads; i++)
		if (pthread_create(&t[i], NULL, drain, c))
			abort();
	if (a->nrandom && pthread_create(&f, NULL, faults, c))
		abort();
	for (i = 0; i < a->threads; i++)
		pthread_join(t[i], NULL);
	if (a->nrandom)
		pthread_join(f, NULL);
	lp_source_remote_stats(c->src, &st);
	if (a->clients == 1)
		printf("pull: %" PRIu64 " bytes received, %" PRIu64 " connections lost, %" PRIu64
		       " changes of server, %" PRIu64 " damaged\n",
		       st.bytes, st.reconnects, st.failovers, st.corrupt);
	c->src->ops->close(c->src);
	return NULL;
}

static int by_value(const void *p, const void *q)
{
	uint64_t x = *(const uint64_t *)p, y = *(const uint64_t *)q;

	return x < y ? -1 : x > y;
}

/* One round of all clients. */
static void round_of(struct all *a)
{
	struct client *c = calloc(a->clients, sizeof(*c));
	pthread_t *t = calloc(a->clients, sizeof(*t));
	char size[16], rate[16];
	uint64_t t0 = lp_now(), ns;
	unsigned i;
	size_t n;

	a->lat = calloc(a->nrandom * a->clients + 1, sizeof(*a->lat));
	if (!c || !t || !a->lat)
		abort();
	atomic_store(&a->nlat, 0);
	atomic_store(&a->bytes, 0);
	for (i = 0; i < a->clients; i++) {
		c[i].a = a;
		c[i].seed = i + 1;
		if (pthread_create(&t[i], NULL, client, &c[i]))
			abort();
	}
	for (i = 0; i < a->clients; i++)
		pthread_join(t[i], NULL);
	ns = lp_now() - t0;
	printf("pull: %u clients: %s in %.3f s, %s/s; %" PRIu64 " wrong, %" PRIu64 " failed, %" PRIu64 " waited again",
	       a->clients, lp_size_str(atomic_load(&a->bytes), size, sizeof(size)), ns / 1e9,
	       lp_size_str(atomic_load(&a->bytes) * 1e9 / ns, rate, sizeof(rate)), atomic_load(&a->wrong),
	       atomic_load(&a->failed), atomic_load(&a->retries));
	n = atomic_load(&a->nlat);
	if (n) {
		qsort(a->lat, n, sizeof(*a->lat), by_value);
		printf("; %zu random reads: p50 %.0f us, p99 %.0f us, max %.0f us", n, a->lat[n / 2] / 1e3,
		       a->lat[n * 99 / 100] / 1e3, a->lat[n - 1] / 1e3);
	}
	puts("");
	fflush(stdout);
	if (atomic_load(&a->bytes) != a->total * a->clients && !atomic_load(&a->failed))
		atomic_fetch_add(&a->failed, 1);
	free(a->lat);
	free(c);
	free(t);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "local", 1, NULL, 'l' },  { "from", 1, NULL, 'f' },	  { "clients", 1, NULL, 'c' },
		{ "threads", 1, NULL, 't' }, { "random", 1, NULL, 'r' },  { "compress", 1, NULL, 'z' },
		{ "ahead", 1, NULL, 'a' },  { "timeout", 1, NULL, 'o' },  { "seconds", 1, NULL, 's' },
		{ "verbose", 0, NULL, 'v' }, { "tls", 1, NULL, 'T' }, { NULL, 0, NULL, 0 },
	};
	static struct all a;
	struct lp_tls_files tls = { .no_cn_verify = true };
	char files[3][4200];
	const char *local = NULL;
	struct lp_err err = { "" };
	uint64_t seconds = 0, t0;
	struct rlimit rl;
	int c;

	a.clients = 1;
	a.threads = 2;
	a.conf.timeout_ms = 5000;
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'l': local = optarg; break;
		case 'f':
			if (a.conf.nurls == LP_REMOTE_MAX || lp_url_parse(optarg, &a.urls[a.conf.nurls++], &err)) {
				fprintf(stderr, "pull: %s\n", err.msg);
				return 2;
			}
			break;
		case 'c': a.clients = atoi(optarg); break;
		case 't': a.threads = atoi(optarg) > 64 ? 64 : atoi(optarg); break;
		case 'r': a.nrandom = strtoul(optarg, NULL, 10); break;
		case 'z':
			a.conf.encodings |= 1u << LP_ENC_SAME;
			if (*optarg == 'a' || *optarg == 'l')
				a.conf.encodings |= 1u << LP_ENC_LZ4;
			if (*optarg == 'a' || *optarg == 'z')
				a.conf.encodings |= 1u << LP_ENC_ZSTD;
			if (*optarg == 'a')
				a.conf.encodings |= LP_COMPRESS_AUTO;
			break;
		case 'a': a.conf.readahead = strtoull(optarg, NULL, 10); break;
		case 'o': a.conf.timeout_ms = atoi(optarg); break;
		case 's': seconds = strtoull(optarg, NULL, 10); break;
		case 'v': lp_log_init(NULL, LP_LOG_INFO); break;
		case 'T':
			snprintf(files[0], sizeof(files[0]), "%s/ca.pem", optarg);
			snprintf(files[1], sizeof(files[1]), "%s/client.pem", optarg);
			snprintf(files[2], sizeof(files[2]), "%s/client.key", optarg);
			tls.cacert = files[0];
			tls.cert = files[1];
			tls.key = files[2];
			break;
		default: return 2;
		}
	}
	if (!local || !a.conf.nurls) {
		fputs("usage: pull --local DIR --from URL...\n", stderr);
		return 2;
	}
	if (!getrlimit(RLIMIT_NOFILE, &rl)) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	a.conf.urls = a.urls;
	if ((tls.cert && lp_tls_load(&tls, &a.conf.tls, &err)) || lp_images_open(local, &a.im, &err) || lp_source_local_open(a.im, &a.local, &err) ||
	    lp_images_ident(a.im, local, a.conf.ident, &err)) {
		fprintf(stderr, "pull: %s\n", err.msg);
		return 1;
	}
	if (find_ranges(&a)) {
		fputs("pull: nothing is lazy in these images\n", stderr);
		return 1;
	}
	t0 = lp_now();
	do
		round_of(&a);
	while (lp_now() - t0 < seconds * 1000000000);
	a.local->ops->close(a.local);
	lp_images_close(a.im);
	lp_tls_put(a.conf.tls);
	free(a.ranges);
	return atomic_load(&a.wrong) || atomic_load(&a.failed) ? 1 : 0;
}
