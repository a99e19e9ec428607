/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The server's front: listening sockets, signals, the threads, and which
 * thread serves a connection once it has said hello. Owns everything of
 * struct server.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/prio.h"
#include "serve/relay.h"

#define LISTEN_MAX 64
#define BULK_NICE 5

struct listener {
	int kind; /* EV_LISTEN, EV_PS, or EV_SIGNAL */
	int fd;
	const struct lp_serve_ps *ps;
	bool tls;
};

struct front {
	struct server srv;
	struct listener listen[LISTEN_MAX + 1];
	int nlisten;
	bool full; /* out of descriptors was said */
	uint64_t complained;
	unsigned kept_quiet;
};

static struct front *front_of(struct loop *l)
{
	return (struct front *)l->srv;
}

/* The least loaded loop of its role. */
void server_place(struct conn *c)
{
	struct server *srv = c->loop->srv;
	struct loop *l = c->role == LP_ROLE_URGENT ? srv->urgent : srv->bulk, *best = l;
	unsigned i, n = c->role == LP_ROLE_URGENT ? URGENT_LOOPS : srv->nbulk;

	for (i = 1; i < n; i++)
		if (atomic_load(&l[i].nconns) < atomic_load(&best->nconns))
			best = &l[i];
	loop_give(best, c);
}

/*
 * Who connects and says nothing gives way to who comes later: an honest client
 * says hello at once. Only shut down here: its events may be under way, and the
 * next turn closes it.
 */
static void turn_away_oldest(struct loop *l)
{
	struct conn *c, *oldest = NULL;

	for (c = l->conns; c; c = c->next)
		if (c->state <= CONN_HELLO)
			oldest = c; /* new ones are in front */
	if (!oldest)
		return;
	oldest->state = CONN_CLOSING;
	oldest->close_at = lp_now();
	shutdown(oldest->s.fd, SHUT_RDWR);
}

/* Anybody can make us say something: not more than once a second. */
void server_complain(struct server *srv, const char *who, const char *what)
{
	struct front *f = (struct front *)srv;
	uint64_t now = lp_now();

	if (f->complained && now - f->complained < UINT64_C(1000000000)) {
		f->kept_quiet++;
		return;
	}
	f->complained = now;
	if (f->kept_quiet)
		pr_warn("%s: %s; and %u others", who, what, f->kept_quiet);
	else
		pr_warn("%s: %s", who, what);
	f->kept_quiet = 0;
}

static void on_listen(struct loop *l, const struct listener *li)
{
	struct front *f = front_of(l);
	struct conn *c;
	int fd;

	for (;;) {
		fd = accept4(li->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0) {
			if ((errno == EMFILE || errno == ENFILE) && !f->full) {
				pr_err("no descriptors for more clients: raise the limit (ulimit -n)");
				f->full = true;
			}
			if (errno == EMFILE || errno == ENFILE)
				usleep(5000); /* the backlog stays readable: no spinning on it */
			return;
		}
		if (li->ps) {
			lp_tune(fd);
			session_start(l->srv, li->ps, li->tls, fd);
			continue;
		}
		if (atomic_load(&l->srv->strangers) >= STRANGERS_MAX)
			turn_away_oldest(l);
		if (atomic_load(&l->srv->strangers) >= 2 * STRANGERS_MAX) {
			close(fd); /* those who mean it come again */
			continue;
		}
		lp_tune(fd);
		c = conn_new(l, fd, li->tls ? l->srv->tls : NULL);
		if (c && loop_add(l, c))
			pr_warn("epoll: no room for another client");
	}
}

/* Certificates, revoked ones, and who may have what. All of it or nothing. */
static int load_policy(struct server *srv, struct lp_err *err)
{
	struct access *access = NULL;
	struct lp_tls *tls = NULL;
	int rc = 0;

	if (srv->conf->access)
		rc = access_load(srv->conf->access, &access, err);
	if (!rc && srv->conf->tls)
		rc = lp_tls_load(srv->conf->tls, &tls, err);
	if (rc) {
		access_free(access);
		return rc;
	}
	pthread_mutex_lock(&srv->policy_lock);
	access_free(srv->access);
	srv->access = access;
	lp_tls_put(srv->tls);
	srv->tls = tls;
	pthread_mutex_unlock(&srv->policy_lock);
	return 0;
}

struct lp_tls *server_tls(struct server *srv)
{
	struct lp_tls *t;

	pthread_mutex_lock(&srv->policy_lock);
	t = lp_tls_get(srv->tls);
	pthread_mutex_unlock(&srv->policy_lock);
	return t;
}

bool server_allows(struct server *srv, const struct lp_stream *s, const char *name)
{
	bool ok;

	pthread_mutex_lock(&srv->policy_lock);
	ok = access_ok(srv->access, s, name);
	pthread_mutex_unlock(&srv->policy_lock);
	return ok;
}

static void stop(struct server *srv)
{
	unsigned i;

	pr_info("stopping: no new clients, the others are answered and sent away");
	atomic_store(&srv->stopping, true);
	for (i = 0; i < URGENT_LOOPS; i++)
		if (srv->urgent[i].srv)
			loop_wake(&srv->urgent[i]);
	for (i = 0; i < srv->nbulk; i++)
		if (srv->bulk[i].srv)
			loop_wake(&srv->bulk[i]);
}

static void on_signal(struct front *f, int fd)
{
	struct signalfd_siginfo si;
	struct lp_err err;
	int i;

	if (read(fd, &si, sizeof(si)) != sizeof(si))
		return;
	if (si.ssi_signo == SIGHUP) {
		if (load_policy(&f->srv, &err))
			pr_err("reload: %s; nothing is changed", err.msg);
		else if (store_reload(f->srv.store, &err))
			pr_err("reload: %s; the list stays as it was", err.msg);
		else
			pr_info("reloaded");
		return;
	}
	if (atomic_load(&f->srv.stopping)) {
		atomic_store(&f->srv.leave, true);
		return;
	}
	for (i = 0; i < f->nlisten; i++) {
		close(f->listen[i].fd);
		f->listen[i].fd = -1;
	}
	stop(&f->srv);
}

static void on_other(struct loop *l, int *kind)
{
	struct listener *li = (struct listener *)kind;

	if (li->fd < 0)
		return;
	if (*kind == EV_LISTEN || *kind == EV_PS)
		on_listen(l, li);
	else
		on_signal(front_of(l), li->fd);
}

static int watch(struct loop *l, struct listener *li, int kind, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &li->kind };

	li->kind = kind;
	li->fd = fd;
	return epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

static int listen_on(struct front *f, const struct lp_addr *a, const struct lp_serve_ps *ps, struct lp_err *err)
{
	bool tls = f->srv.tls && !a->unix_path;
	int fds[8], n, k;
	char name[300];

	n = lp_listen(a, f->srv.conf->anywhere || tls, fds, 8, err);
	if (n < 0)
		return n;
	lp_addr_str(a, name, sizeof(name));
	for (k = 0; k < n; k++) {
		struct listener *li = &f->listen[f->nlisten];

		if (f->nlisten == LISTEN_MAX) {
			close(fds[k]);
			return lp_err(err, -E2BIG, "more than %d addresses to listen on", LISTEN_MAX);
		}
		f->nlisten++;
		li->ps = ps;
		li->tls = tls;
		pr_msg("%s%slistening on %s%s", ps ? ps->name : "", ps ? ": CRIU's protocol: " : "", name,
		       tls ? " (TLS)" : a->unix_path ? "" : a->vsock ? " (vsock, no TLS)" : " (TCP, no TLS)");
		if (!a->unix_path && !strcmp(a->port, "0"))
			pr_msg("%s%sport %u", ps ? ps->name : "", ps ? ": " : "", lp_listen_port(fds[k]));
		if (watch(&f->srv.front, li, ps ? EV_PS : EV_LISTEN, fds[k]))
			return lp_err_sys(err, -errno, "epoll");
	}
	return 0;
}

static int open_listeners(struct front *f, struct lp_err *err)
{
	const struct lp_serve_conf *conf = f->srv.conf;
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < conf->nlisten; i++)
		rc = listen_on(f, &conf->listen[i], NULL, err);
	for (i = 0; !rc && i < conf->nps; i++)
		rc = listen_on(f, &conf->ps[i].addr, &conf->ps[i], err);
	return rc;
}

static void raise_files(unsigned clients)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur >= rl.rlim_max)
		return;
	rl.rlim_cur = rl.rlim_max;
	setrlimit(RLIMIT_NOFILE, &rl);
	if (rl.rlim_cur < 3 * (rlim_t)clients + 128)
		pr_warn("%llu descriptors are too few for --max-clients %u: raise the limit (ulimit -n)",
			(unsigned long long)rl.rlim_cur, clients);
}

static void *bulk_main(void *arg)
{
	/* Urgent threads come first where CPUs are short. */
	lp_prio_behind(BULK_NICE);
	return loop_main(arg);
}

static void *urgent_main(void *arg)
{
	lp_prio_urgent();
	return loop_main(arg);
}

static int start(struct server *srv, struct lp_err *err)
{
	unsigned i;
	int rc;

	for (i = 0; i < URGENT_LOOPS + srv->nbulk; i++) {
		struct loop *l = i < URGENT_LOOPS ? &srv->urgent[i] : &srv->bulk[i - URGENT_LOOPS];

		rc = loop_init(l, srv);
		if (rc)
			return lp_err_sys(err, rc, "cannot start the server");
		rc = -pthread_create(&l->thread, NULL, i < URGENT_LOOPS ? urgent_main : bulk_main, l);
		if (rc) {
			l->thread = 0;
			return lp_err_sys(err, rc, "cannot start a thread");
		}
	}
	return 0;
}

static void join(struct server *srv)
{
	unsigned i;

	for (i = 0; i < URGENT_LOOPS + srv->nbulk; i++) {
		struct loop *l = i < URGENT_LOOPS ? &srv->urgent[i] : &srv->bulk[i - URGENT_LOOPS];

		if (l->thread)
			pthread_join(l->thread, NULL);
		loop_fini(l);
	}
}

/* The front is a loop like the others, with listening sockets and signals beside its connections. */
static void serve(struct front *f)
{
	struct loop *l = &f->srv.front;
	uint64_t clocks = lp_now(), now, end = 0;
	struct conn *c, *next;

	for (;;) {
		loop_turn(l, 500, on_other);
		now = lp_now();
		if (now - clocks > UINT64_C(500000000)) {
			clocks = now;
			for (c = l->conns; c; c = next) {
				next = c->next;
				if (conn_overdue(c, now, f->srv.conf->idle_ms * UINT64_C(1000000)))
					shutdown(c->s.fd, SHUT_RDWR); /* the next turn finds it closed */
			}
		}
		if (!atomic_load(&f->srv.stopping))
			continue;
		if (!end) {
			end = now + UINT64_C(3000000000);
			for (c = l->conns; c; c = c->next)
				conn_bye(c);
		}
		/* CRIUs have nobody else to ask: until they have ended, or a second signal. */
		if ((!l->conns || now > end) && ((!atomic_load(&f->srv.sessions) && !relays_busy(&f->srv)) || atomic_load(&f->srv.leave)))
			return;
	}
}

int lp_serve_run(const struct lp_serve_conf *conf, struct lp_err *err)
{
	struct front *f = calloc(1, sizeof(*f));
	struct server *srv = &f->srv;
	int i, sig_fd = -1, rc = 0;
	char size[16];
	sigset_t set, old;

	if (!f)
		return lp_err(err, -ENOMEM, "out of memory");
	srv->conf = conf;
	srv->nbulk = conf->workers < BULK_LOOPS_MAX ? conf->workers : BULK_LOOPS_MAX;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	signal(SIGPIPE, SIG_IGN);
	raise_files(conf->max_clients);

	pthread_mutex_init(&srv->ingest_lock, NULL);
	pthread_mutex_init(&srv->policy_lock, NULL);
	srv->ingest_fd = -1;
	rc = load_policy(srv, err);
	if (!rc && conf->ingest) {
		srv->ingest_fd = open(conf->ingest, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (srv->ingest_fd < 0)
			rc = lp_err_sys(err, -errno, "--ingest %s", conf->ingest);
	}
	if (!rc)
		rc = store_new(srv, &srv->store, err);
	if (!rc) {
		rc = loop_init(&srv->front, srv);
		if (rc)
			lp_err_sys(err, rc, "cannot start the server");
	}
	if (!rc) {
		sig_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
		if (sig_fd < 0 || watch(&srv->front, &f->listen[LISTEN_MAX], EV_SIGNAL, sig_fd))
			rc = lp_err_sys(err, -errno, "cannot wait for signals");
	}
	if (!rc)
		rc = open_listeners(f, err);
	if (!rc && conf->confine)
		rc = conf->confine(conf, err);
	if (!rc)
		rc = start(srv, err);
	if (!rc)
		rc = relays_start(srv, err);
	if (!rc) {
		if (conf->status_fd >= 0) {
			if (write(conf->status_fd, "", 1) != 1)
				pr_warn("--status-fd %d: %s", conf->status_fd, strerror(errno));
			close(conf->status_fd);
		}
		serve(f);
		pr_msg("stopped after %s", lp_size_str(atomic_load(&srv->served), size, sizeof(size)));
	} else if (srv->store) {
		stop(srv);
	}
	join(srv);
	atomic_store(&srv->leave, true);
	while (atomic_load(&srv->sessions))
		usleep(10000);
	relays_stop(srv);
	loop_fini(&srv->front);
	for (i = 0; i < f->nlisten; i++)
		if (f->listen[i].fd >= 0)
			close(f->listen[i].fd);
	if (sig_fd >= 0)
		close(sig_fd);
	if (srv->store)
		store_free(srv->store);
	access_free(srv->access);
	lp_tls_put(srv->tls);
	if (srv->ingest_fd >= 0)
		close(srv->ingest_fd);
	pthread_mutex_destroy(&srv->ingest_lock);
	pthread_mutex_destroy(&srv->policy_lock);
	free(f);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc;
}
