/* SPDX-License-Identifier: GPL-2.0-only */
/* Addresses as text, and listening on them; see addr.h. */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/vm_sockets.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "net/addr.h"
#include "net/internal.h"

static int bad(struct lp_err *err, const char *s)
{
	return lp_err(err, -EINVAL, "`%s` is no address: write HOST:PORT, [IPV6]:PORT, unix:PATH or vsock:CID:PORT",
		      s);
}

static int copy(char *to, size_t cap, const char *from, size_t n)
{
	if (!n || n >= cap)
		return -EINVAL;
	memcpy(to, from, n);
	to[n] = 0;
	return 0;
}

static int parse_part(const char *s, size_t n, struct lp_addr *a)
{
	const char *host = s, *colon = memrchr(s, ':', n);
	size_t hn, i;
	long port;

	if (!colon)
		return -EINVAL;
	hn = colon - s;
	if (hn >= 2 && host[0] == '[' && host[hn - 1] == ']') {
		host++;
		hn -= 2;
	} else if (memchr(host, ':', hn)) {
		return -EINVAL;
	}
	if (copy(a->host, sizeof(a->host), host, hn) || copy(a->port, sizeof(a->port), colon + 1, s + n - colon - 1))
		return -EINVAL;
	for (i = 0; a->port[i]; i++)
		if (a->port[i] < '0' || a->port[i] > '9')
			return -EINVAL;
	port = strtol(a->port, NULL, 10);
	return port > 65535 ? -EINVAL : 0;
}

static int parse_unix(const char *s, size_t n, struct lp_addr *a)
{
	a->unix_path = true;
	return n < sizeof(((struct sockaddr_un *)0)->sun_path) ? copy(a->host, sizeof(a->host), s, n) : -EINVAL;
}

/* @s is a number of at most 32 bits. */
static bool number(const char *s)
{
	char *end;

	errno = 0;
	return *s >= '0' && *s <= '9' && strtoull(s, &end, 10) <= UINT32_MAX && !*end && !errno;
}

/* CID:PORT */
static int parse_vsock(const char *s, size_t n, struct lp_addr *a)
{
	const char *colon = memchr(s, ':', n);

	a->vsock = true;
	if (!colon || copy(a->host, sizeof(a->host), s, colon - s) ||
	    copy(a->port, sizeof(a->port), colon + 1, s + n - colon - 1))
		return -EINVAL;
	return (number(a->host) || !strcmp(a->host, "any")) && number(a->port) ? 0 : -EINVAL;
}

int lp_addr_parse(const char *s, struct lp_addr *a, struct lp_err *err)
{
	*a = (struct lp_addr){ 0 };
	if (!strncmp(s, "unix:", 5))
		return parse_unix(s + 5, strlen(s + 5), a) ? bad(err, s) : 0;
	if (!strncmp(s, "vsock:", 6))
		return parse_vsock(s + 6, strlen(s + 6), a) ? bad(err, s) : 0;
	return parse_part(s, strlen(s), a) ? bad(err, s) : 0;
}

int lp_url_parse(const char *s, struct lp_url *u, struct lp_err *err)
{
	static const char scheme[] = "lazypages://";
	const char *at, *name;
	int rc;

	*u = (struct lp_url){ 0 };
	if (!strncmp(s, "unix:", 5)) {
		at = s + 5;
		name = strrchr(at, ':');
		rc = name ? parse_unix(at, name - at, &u->addr) : -EINVAL;
	} else if (!strncmp(s, "vsock:", 6)) {
		at = s + 6;
		name = strrchr(at, ':');
		rc = name ? parse_vsock(at, name - at, &u->addr) : -EINVAL;
	} else if (!strncmp(s, scheme, sizeof(scheme) - 1)) {
		at = s + sizeof(scheme) - 1;
		name = strchr(at, '/');
		rc = name ? parse_part(at, name - at, &u->addr) : -EINVAL;
	} else {
		rc = -EINVAL;
	}
	if (!rc && name[1])
		rc = copy(u->name, sizeof(u->name), name + 1, strlen(name + 1));
	if (rc || snprintf(u->text, sizeof(u->text), "%s", s) >= (int)sizeof(u->text))
		return lp_err(err, -EINVAL,
			      "`%s` names no checkpoint: write lazypages://HOST:PORT/NAME, unix:PATH:NAME or "
			      "vsock:CID:PORT:NAME",
			      s);
	return 0;
}

const char *lp_addr_str(const struct lp_addr *a, char *buf, size_t len)
{
	if (a->unix_path)
		snprintf(buf, len, "unix:%s", a->host);
	else if (a->vsock)
		snprintf(buf, len, "vsock:%s:%s", a->host, a->port);
	else
		snprintf(buf, len, strchr(a->host, ':') ? "[%s]:%s" : "%s:%s", a->host, a->port);
	return buf;
}

int lp_resolve(const struct lp_addr *a, bool passive, struct addrinfo **out, struct lp_err *err)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0 };
	int rc = getaddrinfo(a->host, a->port, &hints, out);

	if (!rc)
		return 0;
	return lp_err(err, rc == EAI_AGAIN ? -EAGAIN : -EADDRNOTAVAIL, "%s: %s", a->host, gai_strerror(rc));
}

int lp_unix_addr(const struct lp_addr *a, struct sockaddr_un *un)
{
	size_t n = strlen(a->host);

	*un = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (n >= sizeof(un->sun_path))
		return -ENAMETOOLONG;
	memcpy(un->sun_path, a->host, n);
	return 0;
}

void lp_vsock_addr(const struct lp_addr *a, struct sockaddr_vm *vm)
{
	*vm = (struct sockaddr_vm){
		.svm_family = AF_VSOCK,
		.svm_cid = number(a->host) ? (unsigned)strtoul(a->host, NULL, 10) : VMADDR_CID_ANY,
		.svm_port = (unsigned)strtoul(a->port, NULL, 10),
	};
	/* As with TCP. */
	if (!vm->svm_port)
		vm->svm_port = VMADDR_PORT_ANY;
}

static bool loopback(const struct sockaddr *sa)
{
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)sa;

	if (sa->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
	if (sa->sa_family != AF_INET6)
		return false;
	if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
		return v6->sin6_addr.s6_addr[12] == 127;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

/* Is somebody behind the socket file? */
static bool in_use(const struct sockaddr_un *un)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), rc;

	if (fd < 0)
		return true;
	rc = connect(fd, (const struct sockaddr *)un, sizeof(*un));
	if (rc)
		rc = errno;
	close(fd);
	return rc != ECONNREFUSED && rc != ENOENT;
}

static int listen_unix(const struct lp_addr *a, int *out, struct lp_err *err)
{
	struct sockaddr_un un;
	struct stat st;
	int fd, rc = lp_unix_addr(a, &un);

	if (rc)
		return lp_err(err, rc, "unix:%s: the path is too long", a->host);
	if (!lstat(a->host, &st)) {
		if (!S_ISSOCK(st.st_mode))
			return lp_err(err, -EEXIST, "unix:%s: there is a file that is no socket: name another path",
				      a->host);
		if (in_use(&un))
			return lp_err(err, -EADDRINUSE, "unix:%s: another process listens there", a->host);
		unlink(a->host);
	}
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lp_err_sys(err, -errno, "unix:%s", a->host);
	(void)fchmod(fd, 0600); /* of the file that bind() makes */
	if (bind(fd, (struct sockaddr *)&un, sizeof(un)) || listen(fd, 256)) {
		rc = lp_err_sys(err, -errno, "unix:%s: cannot listen", a->host);
		close(fd);
		return rc;
	}
	*out = fd;
	return 1;
}

static int refuse(const char *name, struct lp_err *err)
{
	return lp_err(err, -EPERM,
		      "%s is not a loopback address: anybody who reaches it could read the memory of your "
		      "programs; say --tls, or use unix:PATH or 127.0.0.1 with a tunnel, or say "
		      "--insecure-listen-anywhere if the network is yours alone",
		      name);
}

static int listen_vsock(const struct lp_addr *a, bool anywhere, int *out, struct lp_err *err)
{
	struct sockaddr_vm vm;
	char name[300];
	int fd, rc;

	lp_vsock_addr(a, &vm);
	lp_addr_str(a, name, sizeof(name));
	if (!anywhere && vm.svm_cid != VMADDR_CID_LOCAL)
		return refuse(name, err);
	fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 && errno == EAFNOSUPPORT)
		return lp_err(err, -EAFNOSUPPORT, "%s: this kernel has no vsock: load the module vsock, or use TCP", name);
	if (fd < 0)
		return lp_err_sys(err, -errno, "%s", name);
	if (bind(fd, (struct sockaddr *)&vm, sizeof(vm)) || listen(fd, 256)) {
		rc = lp_err_sys(err, -errno, "%s: cannot listen", name);
		close(fd);
		return rc;
	}
	*out = fd;
	return 1;
}

static int listen_one(const struct addrinfo *ai, const char *name, bool anywhere, struct lp_err *err)
{
	int one = 1, fd, rc;

	if (!anywhere && !loopback(ai->ai_addr))
		return refuse(name, err);
	fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lp_err_sys(err, -errno, "%s", name);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, 256)) {
		rc = lp_err_sys(err, -errno, "%s: cannot listen", name);
		close(fd);
		return rc;
	}
	return fd;
}

int lp_listen(const struct lp_addr *a, bool anywhere, int *fds, int max, struct lp_err *err)
{
	struct addrinfo *all, *ai;
	char name[300];
	int n = 0, fd = 0, rc;

	if (a->unix_path)
		return listen_unix(a, fds, err);
	if (a->vsock)
		return listen_vsock(a, anywhere, fds, err);
	rc = lp_resolve(a, true, &all, err);
	if (rc)
		return rc;
	lp_addr_str(a, name, sizeof(name));
	for (ai = all; ai && n < max; ai = ai->ai_next) {
		fd = listen_one(ai, name, anywhere, err);
		if (fd < 0)
			break;
		fds[n++] = fd;
	}
	freeaddrinfo(all);
	if (fd >= 0)
		return n;
	while (n)
		close(fds[--n]);
	return fd;
}

unsigned lp_listen_port(int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &len))
		return 0;
	if (ss.ss_family == AF_INET)
		return ntohs(((struct sockaddr_in *)&ss)->sin_port);
	if (ss.ss_family == AF_VSOCK)
		return ((struct sockaddr_vm *)&ss)->svm_port;
	return ss.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&ss)->sin6_port) : 0;
}

void lp_tune(int fd)
{
	int one = 1, idle = 20, gap = 5, tries = 4;
	unsigned dead_ms = 30000;

	/* Not for UNIX sockets, which say so: no harm. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &gap, sizeof(gap));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof(tries));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead_ms, sizeof(dead_ms));
}
