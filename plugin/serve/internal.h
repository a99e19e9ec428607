/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of the server share.
 *
 * Threads: the front (accepts, hellos, control connections, signals), a few
 * urgent and some bulk threads. A connection belongs to exactly one thread; it
 * starts at the front and is handed over once, with its hello. Checkpoints
 * belong to the store, are counted, and never change while they are open.
 *
 * Locks: store->lock (the lists of checkpoints), loop->lock (its inbox),
 * policy_lock (certificates and access). None is held while anything sleeps.
 */
#ifndef LP_SERVE_INTERNAL_H
#define LP_SERVE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#include "base/log.h"
#include "base/size.h"
#include "images/seal.h"
#include "images/shared.h"
#include "images/thin.h"
#include "net/stream.h"
#include "proto/proto.h"
#include "serve/serve.h"

/* ---- store.c, files.c: checkpoints ---- */

/* A file of the thin form. */
struct vfile {
	char name[LP_FILE_NAME_MAX + 1];
	uint64_t size;
	uint8_t *mem;	/* its contents, or NULL */
	/* >= 0: the eager pages of this task, or all of this shared memory, one after the other; else a file of the directory */
	int32_t task, shared;
};

struct relay;

struct ckpt {
	struct ckpt *next;
	unsigned refs;	 /* store->lock */
	uint64_t used;	 /* store->lock: when it was last asked for or left */
	bool stale;	 /* store->lock: not to be found any more */
	char name[LP_CKPT_NAME_MAX + 1];
	char *dir;
	int dirfd;
	dev_t dev;
	ino_t ino;
	struct timespec mtime;
	struct lp_images *im;
	uint8_t ident[LP_IDENT_LEN];
	struct lp_seal *seal; /* what is read of its pages is verified by it; or NULL */
	bool on_disk; /* not tmpfs: worth reading ahead */
	struct lp_shared *shared; /* what parents have of it is brought along; or NULL */
	struct vfile *files;
	size_t nfiles;
	struct relay *relay; /* some of its pages are still to come; or NULL */
};

struct store;
struct server;

int store_new(struct server *srv, struct store **out, struct lp_err *err);
void store_free(struct store *s);
/* Read the list file again and look at all directories anew; open checkpoints stay for those who use them. */
int store_reload(struct store *s, struct lp_err *err);
/* A reference to the checkpoint @name, opened if need be: -ENOENT, or why it is not acceptable. */
int store_get(struct store *s, const char *name, struct ckpt **out, struct lp_err *err);
/*
 * One that was replaced since, for a restore that began with it and lost its
 * connections. A reference, or NULL: it is not here any more.
 */
struct ckpt *store_get_old(struct store *s, const char *name, const uint8_t *ident);
void store_put(struct store *s, struct ckpt *c);
/*
 * Open the checkpoint in @dir for oneself. @st: of its inventory.img, by which
 * it is found again; NULL: only its pages are wanted, not its small images.
 * @thin: pages may still be with a live source.
 */
struct stat;
int ckpt_open(const char *name, const char *dir, const struct stat *st, bool thin, struct ckpt **out,
	      struct lp_err *err);
void ckpt_free(struct ckpt *c);
/* Verify its pages from now on, if @v says so and there is a seal; as lp_seal_open(). Before anybody reads. */
int ckpt_verify(struct ckpt *c, enum lp_verify v, struct lp_err *err);
/*
 * All @len bytes at @off of lp_images_file(@file), verified if the checkpoint
 * is sealed: -EBADMSG, -EUCLEAN for a page that is not what was sealed, which is
 * logged; -EIO: the file is shorter by now. What is in @buf then is not to be sent.
 */
int ckpt_pread(const struct ckpt *c, uint32_t file, uint64_t off, void *buf, size_t len);
/* The directory that @name is in, the caller's: -ENOENT. */
int store_where(struct store *s, const char *name, char **dir);
/* All names, sorted; *names is the caller's: free each and the array. */
int store_names(struct store *s, char ***names, size_t *n);

/* files.c */
int files_list(struct ckpt *c, struct lp_err *err);
void files_free(struct ckpt *c);
/* Index of @name, or -1. */
int files_find(const struct ckpt *c, struct lp_str name);
/* Up to @len bytes at @off of file @i into @buf: how many, or -errno. */
ssize_t files_read(const struct ckpt *c, unsigned i, uint64_t off, uint8_t *buf, size_t len);

/* ---- access.c: which client may have which checkpoint; of the front ---- */

struct access;

/* Lines CLIENT NAME..., all of them shell patterns. */
int access_load(const char *path, struct access **out, struct lp_err *err);
void access_free(struct access *a);
/* May the client at the other end of @s have @name? @a NULL: yes. */
bool access_ok(const struct access *a, const struct lp_stream *s, const char *name);

/* ---- conn.c: one connection ---- */

struct req {
	uint64_t id;
	uint16_t type; /* of the request; LP_MSG_ERROR: answer that */
	uint16_t error;
	uint8_t urgency;
	uint32_t a;    /* GET: obj; FILE_READ: file; LIST, FILES: first */
	uint32_t len;  /* GET, FILE_READ */
	uint32_t after; /* GET: bytes behind len that are not to be sent yet */
	uint64_t addr; /* GET: address; FILE_READ: offset. Moves on as it is answered */
	const char *text; /* ERROR; static */
};

#define OUT_HEAD 2560 /* the largest meta that we send, a full PAGES, and then some */
#define IN_BYTES 4096

enum conn_state { CONN_TLS, CONN_HELLO, CONN_OPEN, CONN_PUSH, CONN_BYE, CONN_CLOSING };

/* speed.c */
struct speed {
	uint64_t looked, rate; /* when; bytes a second, 0: not known */
	uint64_t rwnd_limited; /* at that time */
	uint64_t limit;	       /* of the socket's buffer; 0: the kernel's own */
	uint64_t hold_until;   /* no heavier compression before */
	unsigned idle_looks;
	uint32_t may; /* encodings to choose from; 0: nothing is to be chosen */
	bool unknown; /* the kernel says nothing */
};

struct loop;
struct ingest;
struct relay;

struct conn {
	int kind; /* EV_CONN: first, see loop.c */
	struct conn *next, **pprev;	/* of its loop */
	struct conn *run_next;		/* in the list of those with something to send */
	bool parked; /* all that is asked waits for pages of a relay */
	bool running, want_in, want_out; /* in that list; what epoll is asked for */
	struct loop *loop;
	struct lp_stream s;
	enum conn_state state;
	uint8_t role;
	bool counted;
	bool eof; /* the client sends no more */
	uint32_t encodings; /* of the next frame */
	struct speed speed;
	struct ckpt *ckpt; /* a reference, or NULL */
	uint64_t last_in, last_out; /* progress, ns */
	uint64_t close_at;	    /* CONN_CLOSING */
	char push_name[LP_CKPT_NAME_MAX + 1]; /* CONN_PUSH */
	uint64_t push_id;
	bool push_replace;

	uint8_t in[IN_BYTES];
	size_t nin;
	struct req reqs[LP_OUTSTANDING];
	unsigned nreqs;

	/* The frame under way. */
	uint8_t head[OUT_HEAD];
	struct iovec iov[2]; /* head, data */
	unsigned niov, iov_at;
	uint8_t *data; /* only while needed */
	size_t data_cap;
};

/* Takes @fd over. @tls: it begins with a handshake. */
struct conn *conn_new(struct loop *l, int fd, struct lp_tls *tls);
void conn_free(struct conn *c);
/* Take what has come. -errno: close it. */
int conn_read(struct conn *c);
/* Send for about @quantum bytes. 1: more to send; 0: nothing, or the socket is full (want_out); -errno: close it. */
int conn_send(struct conn *c, size_t quantum);
/* The server leaves: BYE after what was asked. */
void conn_bye(struct conn *c);
/* Is its time over at @now? */
bool conn_overdue(const struct conn *c, uint64_t now, uint64_t idle_ns);

/* ---- speed.c ---- */

/* Look at what its network does, now and then; it is about to send. */
void speed_look(struct conn *c);

/* ---- pages.c ---- */

/*
 * One PAGES frame for what is left of @r into the output of @c, or -EIO when
 * the files cannot be read. Moves @r on; r->len is 0 with the last frame.
 */
int pages_frame(struct conn *c, struct req *r);
void pages_willneed(const struct ckpt *c, const struct req *r);
/* Room for @len bytes of data (at most LP_DATA_MAX); what was there is gone. 0 or -ENOMEM. */
int conn_data(struct conn *c, size_t len);

/* ---- loop.c, serve.c ---- */

struct loop {
	struct server *srv;
	pthread_t thread;
	int epfd, wake_fd;
	int wake_kind; /* EV_WAKE: what epoll hands back for wake_fd */
	pthread_mutex_t lock;
	struct conn *inbox;
	struct conn *conns, *run, **run_tail;
	struct lp_codec *codec;
	uint8_t *raw; /* LP_GET_MAX bytes: what is read for a frame before it is packed */
	struct same *same;
	_Atomic unsigned nconns;
	_Atomic bool news; /* pages of a relay have come */
	bool left; /* its connections know that the server stops */
};

enum ev_kind { EV_CONN, EV_WAKE, EV_LISTEN, EV_SIGNAL, EV_PS };

/* What is read at once. */
#define LP_STEP (64u << 10)

/* same.c: pages of one frame that were not the same as one before. */
struct same {
	unsigned n;
	struct {
		uint64_t hash, addr;
		const uint8_t *p;
	} page[LP_GET_MAX / LP_PAGE_SIZE];
};

/*
 * How far in front of @addr, whose page is at @p, is the last one with the same
 * bytes? 0: there is none, and it is one to be found from now on. All that @s
 * knows must still be where it was.
 */
uint32_t same_find(struct same *s, uint64_t addr, const uint8_t *p);

#define URGENT_LOOPS 2
#define BULK_LOOPS_MAX 16
/* Connections that have not said hello. */
#define STRANGERS_MAX 256

struct server {
	const struct lp_serve_conf *conf;
	struct store *store;
	/* Changed by the front only, which therefore reads them without the lock. */
	pthread_mutex_t policy_lock;
	struct lp_tls *tls;	/* for new connections; NULL: none */
	struct access *access;	/* NULL: everybody may have everything */
	struct loop front, urgent[URGENT_LOOPS], bulk[BULK_LOOPS_MAX];
	unsigned nbulk;
	_Atomic bool stopping;
	_Atomic bool leave; /* sessions shall end at once */
	_Atomic unsigned sessions;
	int ingest_fd; /* of conf->ingest, or -1 */
	pthread_mutex_t ingest_lock;
	struct ingest *ingests; /* ingest_lock: what is being received */
	struct relay **relays;
	size_t nrelays;
	_Atomic unsigned clients[LP_NROLES], strangers;
	_Atomic uint64_t served; /* bytes, for the log */
};

int loop_init(struct loop *l, struct server *srv);
void loop_fini(struct loop *l);
void *loop_main(void *arg);
/* One turn: wait at most @ms, handle what is there. @other gets events that are no connection's. */
void loop_turn(struct loop *l, int ms, void (*other)(struct loop *l, int *kind));
/* Give @c, which is in no loop, to @l. */
void loop_give(struct loop *l, struct conn *c);
/* Into this thread's own loop; closed when that fails. */
int loop_add(struct loop *l, struct conn *c);
void loop_wake(struct loop *l);
/* Pages of a relay have come: those who wait for some shall look. By any thread. */
void loop_news(struct loop *l);
/* @c has something to send. */
void loop_run(struct conn *c);
/* Of the front: log what is wrong with client @who, if not too much of that was logged. */
void server_complain(struct server *srv, const char *who, const char *what);
/* For other threads than the front: a reference to srv->tls, or NULL; and access_ok() with srv->access. */
struct lp_tls *server_tls(struct server *srv);
bool server_allows(struct server *srv, const struct lp_stream *s, const char *name);
/* After its hello: move a connection of the front to where its role is served. */
void server_place(struct conn *c);

/* sessions.c: a detached thread that counts as a session; it takes itself off srv->sessions. */
int session_thread(struct server *srv, void *(*fn)(void *), void *arg);
/* A CRIU has connected to the address of @conf, with @tls; takes @fd. Of the front. */
void session_start(struct server *srv, const struct lp_serve_ps *conf, bool tls, int fd);

#endif
