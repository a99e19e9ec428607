/* SPDX-License-Identifier: GPL-2.0-only */
/* The subcommand table; it also prints the usage. */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} commands[] = {
	{ "daemon", cmd_daemon, "fill the tasks of one `criu restore --lazy-pages`" },
	{ "status", cmd_ctl, "what a running daemon does, and what is missing" },
	{ "ctl", cmd_ctl, "pause, throttle, cancel: speak to a running daemon" },
	{ "upgrade", cmd_upgrade, "a running daemon becomes another program, in place" },
	{ "restore", cmd_restore, "restore a checkpoint, from here or from a server, with one command" },
	{ "serve", cmd_serve, "offer checkpoints to other hosts" },
	{ "page-server", cmd_page_server, "offer one checkpoint to one `criu lazy-pages`" },
	{ "push", cmd_push, "bring a checkpoint to a server" },
	{ "seal", cmd_seal, "take checksums of a checkpoint that is known to be good" },
	{ "verify", cmd_verify, "compare a checkpoint with its seal" },
	{ "inspect", cmd_inspect, "show what a checkpoint holds" },
	{ "check", cmd_check, "can this machine restore lazily?" },
	{ "trace", cmd_trace, "show or replay what `daemon --trace` recorded" },
	/* What callers of `criu lazy-pages` say. */
	{ "lazy-pages", cmd_daemon, NULL },
};

static void usage(FILE *f)
{
	size_t i;

	fputs("Usage: lazypages COMMAND [OPTIONS]\n\nCommands:\n", f);
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (commands[i].what)
			fprintf(f, "  %-12s %s\n", commands[i].name, commands[i].what);
	fputs("\n`lazypages COMMAND --help` tells more; `lazypages --version` the version.\n", f);
}

int main(int argc, char **argv)
{
	size_t i;

	if (argc < 2) {
		usage(stderr);
		return 2;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		usage(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		puts("lazypages " LP_VERSION);
		return 0;
	}
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 1, argv + 1);
	fprintf(stderr, "lazypages: unknown command `%s`; try `lazypages --help`\n", argv[1]);
	return 2;
}
