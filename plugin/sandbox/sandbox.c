/* SPDX-License-Identifier: GPL-2.0-only */
/* Describing a sandbox and entering it, see sandbox.h. struct lp_sandbox owns the ruleset until then. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "sandbox/internal.h"

/* As many as images/ follows. */
#define PARENTS_MAX 256
#define FILES_MAX   (1u << 20)

struct lp_sandbox {
	enum lp_role role;
	unsigned flags;
	int ruleset; /* -1: none */
	int rc;	     /* the first failure */
};

/* What the C library, GnuTLS and sanitizers open late: modules for names, locales, /proc of oneself, randomness. */
static const char *const base[] = {
	"/proc", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/locale", "/usr/share/zoneinfo",
	"/usr/share/p11-kit", "/etc/ld.so.cache", "/etc/localtime", "/etc/gnutls", "/etc/crypto-policies",
	"/sys/devices/system/cpu", "/dev/urandom", "/dev/random", "/dev/zero",
};

/*
 * For host names. Not all of /etc, where keys and passwords are too; so a file
 * there that is replaced while we run is not seen again. Where resolv.conf leads
 * as a link, directories can be allowed.
 */
static const char *const names[] = {
	"/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
	"/etc/protocols", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager",
};

const char *lp_sandbox_role_name(enum lp_role role)
{
	static const char *const name[] = { "guardian", "worker", "server" };

	return name[role];
}

static void allow(struct lp_sandbox *s, const char *path, bool write)
{
	int rc;

	if (!s || s->ruleset < 0 || !path)
		return;
	rc = ll_allow(s->ruleset, path, write);
	/* What cannot be opened now, cannot be later, or is not there. */
	if (rc && !s->rc && (rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE))
		s->rc = rc;
}

void lp_sandbox_read(struct lp_sandbox *s, const char *path)
{
	allow(s, path, false);
}

void lp_sandbox_write(struct lp_sandbox *s, const char *path)
{
	allow(s, path, true);
}

/* dirname() that leaves @path alone. */
static void allow_dir(struct lp_sandbox *s, const char *path, bool write)
{
	const char *slash = strrchr(path, '/');
	char dir[PATH_MAX];

	if (!slash) {
		allow(s, ".", write);
	} else if (slash == path) {
		allow(s, "/", write);
	} else if ((size_t)(slash - path) < sizeof(dir)) {
		memcpy(dir, path, slash - path);
		dir[slash - path] = 0;
		allow(s, dir, write);
	}
}

static void beside(struct lp_sandbox *s, const char *path, bool write)
{
	char real[PATH_MAX];

	if (!path)
		return;
	allow_dir(s, path, write);
	if (realpath(path, real))
		allow_dir(s, real, write);
}

void lp_sandbox_read_beside(struct lp_sandbox *s, const char *path)
{
	beside(s, path, false);
}

void lp_sandbox_write_beside(struct lp_sandbox *s, const char *path)
{
	beside(s, path, true);
}

/* Where the links of one directory lead. */
static void follow_links(struct lp_sandbox *s, const char *dir)
{
	char path[PATH_MAX];
	struct dirent *e;
	unsigned n = 0;
	DIR *d = opendir(dir);

	while (d && n++ < FILES_MAX && (e = readdir(d)))
		if ((e->d_type == DT_LNK || e->d_type == DT_UNKNOWN) && strcmp(e->d_name, "parent") &&
		    snprintf(path, sizeof(path), "%s/%s", dir, e->d_name) < (int)sizeof(path))
			allow(s, path, false);
	if (d)
		closedir(d);
}

void lp_sandbox_read_checkpoint(struct lp_sandbox *s, const char *dir)
{
	char at[PATH_MAX], next[PATH_MAX + 8];
	unsigned i;

	if (!s || s->ruleset < 0 || !realpath(dir, at))
		return;
	for (i = 0; i <= PARENTS_MAX; i++) {
		allow(s, at, false);
		follow_links(s, at);
		snprintf(next, sizeof(next), "%s/parent", at);
		if (!realpath(next, at))
			return;
	}
}

struct lp_sandbox *lp_sandbox_new(enum lp_role role, unsigned flags)
{
	struct lp_sandbox *s = calloc(1, sizeof(*s));
	size_t i;

	if (!s)
		return NULL;
	s->role = role;
	s->flags = flags;
	s->ruleset = -1;
	/* It reads nothing of anybody else's; and what it may not, no worker ever might. */
	if (role == LP_ROLE_OF_GUARDIAN)
		return s;
	s->rc = ll_create(flags & LP_SB_DIAL, &s->ruleset);
	if (flags & LP_SB_FILES)
		allow(s, "/", false);
	for (i = 0; i < sizeof(base) / sizeof(base[0]); i++)
		allow(s, base[i], false);
	for (i = 0; flags & LP_SB_DIAL && i < sizeof(names) / sizeof(names[0]); i++)
		allow(s, names[i], false);
	allow(s, "/dev/null", true);
	return s;
}

static void without(const char *what, int rc)
{
	pr_warn("sandbox: %s: %s: going on without", what, strerror(-rc));
}

int lp_sandbox_enter(struct lp_sandbox *s, struct lp_err *err)
{
	const char *who;
	int rc;

	if (!s)
		return 0;
	who = lp_sandbox_role_name(s->role);
	if (s->rc) {
		rc = lp_err_sys(err, s->rc, "cannot set up the sandbox of the %s", who);
		goto out;
	}
	rc = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? -errno : 0;
	if (rc)
		without("PR_SET_NO_NEW_PRIVS", rc);
	/* Both need either the former or a capability that is dropped next. */
	rc = s->ruleset >= 0 ? ll_restrict(s->ruleset) : 0;
	if (rc)
		without("Landlock", rc);
	else if (s->ruleset < 0 && s->role != LP_ROLE_OF_GUARDIAN)
		pr_info("sandbox: this kernel has no Landlock: files are not limited");
	rc = caps_drop(s->role);
	if (rc)
		without("capabilities", rc);
	rc = calls_load(s->role, s->flags & LP_SB_DIAL);
	if (rc == -ENOMEM)
		rc = lp_err(err, rc, "no memory for the sandbox of the %s", who);
	else if (rc)
		without("seccomp", rc), rc = 0;
out:
	if (s->ruleset >= 0)
		close(s->ruleset);
	free(s);
	return rc;
}

int lp_sandbox_user(const char *name, struct lp_err *err)
{
	struct passwd *pw;

	errno = 0;
	pw = getpwnam(name);
	if (!pw)
		return lp_err(err, -EINVAL, "--user %s: there is no such user", name);
	if (initgroups(name, pw->pw_gid) || setresgid(pw->pw_gid, pw->pw_gid, pw->pw_gid) ||
	    setresuid(pw->pw_uid, pw->pw_uid, pw->pw_uid))
		return lp_err_sys(err, -errno, "--user %s: start as root, or as that user without it", name);
	/* It is not to come back. */
	if (pw->pw_uid && !setuid(0))
		return lp_err(err, -EPERM, "--user %s: the kernel lets it become root again", name);
	return 0;
}

void lp_sandbox_show(enum lp_role role, FILE *f)
{
	caps_show(role, f);
	calls_show(role, f);
}
