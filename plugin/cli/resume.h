/* SPDX-License-Identifier: GPL-2.0-only */
/* How the guardian calls a program that goes on for it, and what that does first; see resume.c. */
#ifndef LP_CLI_RESUME_H
#define LP_CLI_RESUME_H

#include "cli/pages.h"
#include "cli/tls.h"

struct lp_jhead;

/*
 * The arguments that make a program go on for this one, which was called with
 * @argv: journal @fd, images in @dir (absolute). *@out is the caller's,
 * resume_argv_free(). -E2BIG, -ENOMEM.
 */
int resume_argv(int argc, char **argv, int fd, const char *dir, char ***out);
void resume_argv_free(char **v);
/* The argument of --resume; *@dir points into it. */
int resume_parse(const char *s, int *fd, const char **dir);
/* Can this program go on from journal @fd? Says so on standard output. Returns the exit status. */
int resume_check(const struct pages_conf *p, int fd, const char *dir);
/*
 * Could a worker get its pages from the source that journal @fd is to be
 * switched to? Opens it as one would, in its sandbox if @sandbox, and asks the servers. Says so likewise.
 */
int source_check(const struct pages_conf *p, const struct tls_opts *tls, bool sandbox, int fd, const char *dir);

/*
 * Are the pages in @dir to be verified, when the caller said @v? Decided once for
 * all workers, also of a program that comes by an upgrade or takes over, in @h
 * (NULL: no guardian): a seal that vanishes must not mean that there never was one.
 */
enum lp_verify verify_once(struct lp_jhead *h, const char *dir, enum lp_verify v);

#endif
