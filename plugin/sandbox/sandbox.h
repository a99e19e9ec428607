/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Least privilege after start-up: no new privileges, only the capabilities that
 * are needed, a list of system calls (seccomp), the files that are needed
 * (Landlock). What somebody can do who has taken a process over, by a hostile
 * image or peer, ends there. doc/design.md says what each role keeps, and why.
 *
 * A kernel without one of them is no error: it is logged, and the rest holds.
 * What is refused fails with EPERM (system calls; the kernel's log names them)
 * or EACCES (files). Nothing is killed: a worker that is killed comes again, and
 * would be killed again.
 */
#ifndef LP_SANDBOX_H
#define LP_SANDBOX_H

#include <stdbool.h>
#include <stdio.h>

#include "base/err.h"

enum lp_role {
	LP_ROLE_OF_GUARDIAN,
	LP_ROLE_OF_WORKER,
	LP_ROLE_OF_SERVER,
	LP_ROLES_OF_ALL,
};

struct lp_sandbox;

/* What a role may do beyond what all of its kind may. */
#define LP_SB_DIAL  1u /* connect to TCP addresses, which may have to be looked up */
#define LP_SB_FILES 2u /* read any file; only writing is limited */

/* Begin to describe the sandbox of this process, which is not there before lp_sandbox_enter(). NULL: no memory. */
struct lp_sandbox *lp_sandbox_new(enum lp_role role, unsigned flags);
/*
 * Allow reading @path and all below it, or also writing. What does not exist
 * now is not allowed. Paths are relative to the current directory; NULL does nothing.
 */
void lp_sandbox_read(struct lp_sandbox *s, const char *path);
void lp_sandbox_write(struct lp_sandbox *s, const char *path);
/* The directory that the file @path is in, and the one where it leads as a link: others may take its place there. */
void lp_sandbox_read_beside(struct lp_sandbox *s, const char *path);
void lp_sandbox_write_beside(struct lp_sandbox *s, const char *path);
/* The checkpoint @dir, its parents, and where links in them lead. */
void lp_sandbox_read_checkpoint(struct lp_sandbox *s, const char *dir);
/*
 * From here on. Of this thread and those that it starts, so to be called before
 * there are others. Frees @s; NULL does nothing. Only being short of memory or descriptors is an error.
 */
int lp_sandbox_enter(struct lp_sandbox *s, struct lp_err *err);

/* Become the user @name with its groups. -EINVAL: there is none; -EPERM. */
int lp_sandbox_user(const char *name, struct lp_err *err);

/* What is left to @role: system calls and capabilities, one a line. */
void lp_sandbox_show(enum lp_role role, FILE *f);
const char *lp_sandbox_role_name(enum lp_role role);

#endif
