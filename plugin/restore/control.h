/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control socket of a running restore: who may open it (mode 0600, same user
 * or root) sends one line, gets one line of JSON, and is left. `lazypages ctl`
 * speaks it; doc/design.md, "Control", has the words.
 */
#ifndef LP_RESTORE_CONTROL_H
#define LP_RESTORE_CONTROL_H

#include "base/err.h"
#include "guard/journal.h"

/*
 * Listen on LP_CTL_SOCKET in the current directory, replacing a stale one; @ctl
 * gets descriptor and identity of the name. 0 or -errno. Nothing is done if it is listening already.
 */
int lp_control_listen(struct lp_jctl *ctl, struct lp_err *err);

#endif
