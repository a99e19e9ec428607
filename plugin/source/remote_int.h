/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the remote source share.
 *
 * Threads: one a link (urgent, bulk), which connects and receives; callers send
 * their requests themselves. Locks, in the order in which they may be taken:
 * link->send_lock (who writes to the socket), remote->lock (everything else).
 * Neither is held while anything sleeps, but send_lock for a socket that is full.
 */
#ifndef LP_REMOTE_INT_H
#define LP_REMOTE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "base/size.h"
#include "net/stream.h"
#include "proto/proto.h"
#include "source/remote.h"

/* What bulk asks for at once. */
#define BLOCK ((uint64_t)LP_GET_MAX)
#define READAHEAD_DEFAULT (UINT64_C(16) << 20)
/* Of readahead; the windows of all bulk threads come on top. */
#define AHEAD_MAX 64

enum want_state { WANT_QUEUED, WANT_SENT, WANT_DONE };

/* A request that must be answered, across connections and servers. */
struct want {
	struct want *next;
	uint64_t id;
	uint32_t obj, len, got; /* got: bytes that are there, and verified */
	uint64_t addr;
	uint8_t urgency;
	bool direct;  /* dst stays while this is not done: receive right into it */
	uint8_t *dst;
	enum want_state state;
	int rc;	      /* when done */
	unsigned tries; /* servers that could not answer it */
	uint64_t since; /* when it was sent */
	pthread_cond_t *cond; /* who waits, or NULL: remote->ready */
};

struct want_list {
	struct want *head, **tail;
	unsigned n;
};

enum slot_state { SLOT_EMPTY, SLOT_ASKED, SLOT_READY };

/* A block of the bulk cache. */
struct slot {
	enum slot_state state;
	uint32_t obj;
	uint64_t block;	 /* its first address */
	uint64_t lo, hi; /* what was asked of it */
	unsigned pins;	/* windows on it */
	bool touched;	/* a window was there: it may be taken when unpinned */
	uint64_t used;
	uint8_t *bytes; /* BLOCK bytes, of the address `block` on */
	struct want want;
};

/* A block that has lazy pages, in the order of the images. */
struct place {
	uint32_t obj;
	bool asked;
	uint64_t block;
};

struct remote;

struct link_server {
	uint64_t not_before;
	uint64_t backoff;
};

struct link {
	struct remote *r;
	enum lp_role role;
	pthread_t thread;
	pthread_mutex_t send_lock;
	struct lp_stream s; /* changed under both locks, by the thread */
	struct lp_codec *codec; /* of the thread */
	uint64_t next_id;
	struct want_list queued, sent;
	unsigned max_requests;
	struct link_server servers[LP_REMOTE_MAX];
	size_t at; /* index of the server that fd is connected to */

	/* Of the thread only. */
	uint8_t *in; /* LP_DATA_MAX: what was received beyond what was asked for (urgent) */
	size_t in_head, in_fill;
	uint8_t *stored; /* LP_DATA_MAX */
	uint8_t *out;	 /* LP_GET_MAX: decoded, before it is copied to a want */
	uint8_t meta[LP_META_TO_CLIENT];
	struct lp_pages pages;
	uint64_t last_in, down_since, idle_ns;
	bool warned, answered; /* of this connection: did anything good come? */
	bool more;	       /* requests wait for their turn */
	_Atomic bool late;     /* somebody gave up waiting for an answer, and nothing has come since */
};

struct remote {
	struct lp_source base;
	const struct lp_images *im;
	struct lp_remote_conf conf;
	pthread_mutex_t lock;
	pthread_cond_t ready; /* a slot has changed */
	pthread_cond_t wake;  /* links that pause shall look around */
	bool started;
	_Atomic bool closing;
	struct link links[2]; /* 0 urgent, 1 bulk */
	struct slot *slots;
	unsigned nslots;
	unsigned ahead; /* how many of them readahead may use */
	unsigned soft;	/* so many are used before one is used again */
	struct place *places;
	size_t nplaces;
	uint64_t tick;
	struct lp_remote_stats stats;
	_Atomic uint64_t bytes;
};

/* ---- dial.c ---- */

/*
 * Connect to @u and say hello; with @tls unless it is a UNIX socket. 0 with *s,
 * or -errno: the server's refusals are -EPROTO, -EPROTONOSUPPORT, -ENOENT,
 * -ESTALE, -EBUSY; certificates that one side does not like are -EKEYREJECTED.
 * @ident may be NULL: any.
 */
int lp_dial(const struct lp_url *u, struct lp_tls *tls, enum lp_role role, const uint8_t *ident, uint32_t encodings,
	    unsigned ms, const _Atomic bool *stop, struct lp_stream *s, struct lp_welcome *w, struct lp_err *err);
/* A whole frame's header and meta (LP_META_TO_CLIENT bytes); data is left in the socket. */
int lp_recv_frame(struct lp_stream *s, struct lp_frame *f, uint8_t *meta, unsigned ms, const _Atomic bool *stop);
/* The message of an ERROR frame in words, as -errno. */
int lp_refused(const struct lp_url *u, const uint8_t *meta, size_t len, struct lp_err *err);

/* ---- link.c ---- */

int link_init(struct link *l, struct remote *r, enum lp_role role);
void link_fini(struct link *l);
void *link_main(void *arg);
/* Queue @w; remote->lock held. Then link_flush() without it. */
void link_submit(struct link *l, struct want *w);
void link_flush(struct link *l);
/* Its caller gives up: @w is in no list after this. remote->lock held. */
void link_forget(struct link *l, struct want *w);

/* ---- remote.c ---- */

/* @w is done; remote->lock held. */
void want_done(struct remote *r, struct want *w, int rc);
/* Does the checkpoint have lazy pages of @obj in [addr, addr + len)? */
bool remote_has_lazy(const struct remote *r, uint32_t obj, uint64_t addr, uint64_t len);

#endif
