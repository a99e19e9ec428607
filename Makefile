# SPDX-License-Identifier: GPL-2.0-only
# lazypages: `make` builds build/bin/lazypages; `make help` lists the rest.

VERSION   := 0.1.0
PREFIX    ?= /usr/local
SBINDIR   ?= $(PREFIX)/sbin
MANDIR    ?= $(PREFIX)/share/man
DESTDIR   ?=
CC        ?= gcc
CLANG     ?= clang
PKGCONFIG ?= pkg-config
PROTOC_C  ?= protoc-c

# Each sanitizer has its own tree, so that switching costs no rebuild.
SANITIZE  ?=
B         := build$(if $(SANITIZE),/san-$(SANITIZE))

PKGS      := libprotobuf-c libnl-3.0 jansson
CFLAGS    ?= -O2 -g
WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unused-parameter \
	     -Wformat=2 -Wvla
CPPFLAGS  += -D_GNU_SOURCE -DLP_VERSION='"$(VERSION)"' -Iplugin -I. -I$(B)/gen
LDLIBS    += -lpthread

ifneq ($(filter-out help deps clean criu demo,$(or $(MAKECMDGOALS),all)),)
ifeq ($(shell $(PKGCONFIG) --exists $(PKGS) && command -v $(PROTOC_C) >/dev/null && echo ok),)
$(error missing libraries or protoc-c (wanted: $(PKGS)): run `make deps`)
endif
endif
ALL_CFLAGS = -std=gnu11 -MMD -MP $(CFLAGS) $(WARN) $(CPPFLAGS) $(shell $(PKGCONFIG) --cflags $(PKGS)) $(SANFLAGS)
ALL_LIBS   = $(LDLIBS) $(shell $(PKGCONFIG) --libs $(PKGS))

ifeq ($(SANITIZE),address)
SANFLAGS  := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else ifeq ($(SANITIZE),thread)
SANFLAGS  := -fsanitize=thread -fno-omit-frame-pointer
else ifneq ($(SANITIZE),)
$(error SANITIZE is `address` or `thread`, not `$(SANITIZE)`)
endif

V ?= 0
ifeq ($(V),0)
Q := @
say = @printf '  %-8s %s\n' "$(1)" "$(2)";
endif

PROTOS    := $(wildcard images/*.proto)
PB_C      := $(PROTOS:%.proto=$(B)/gen/%.pb-c.c)
PB_H      := $(PB_C:.c=.h)
LIB_SRC   := $(wildcard plugin/base/*.c plugin/engine/*.c plugin/source/*.c plugin/restore/*.c images/*.c)
CLI_SRC   := $(wildcard plugin/cli/*.c)
UNIT_SRC  := $(wildcard test/unit/*_test.c)
# Programs of tests and benchmarks: one file each, linked with the library.
PROG_SRC  := $(wildcard test/kernel/*.c test/criu/*.c test/bench/*.c test/scenario/*.c)
TLIB_SRC  := $(wildcard test/lib/*.c)

LIB_OBJ   := $(LIB_SRC:%.c=$(B)/obj/%.o) $(PB_C:$(B)/gen/%.c=$(B)/obj/gen/%.o)
CLI_OBJ   := $(CLI_SRC:%.c=$(B)/obj/%.o)
TLIB_OBJ  := $(TLIB_SRC:%.c=$(B)/obj/%.o)
UNIT_BIN  := $(UNIT_SRC:test/unit/%.c=$(B)/test/unit/%)
PROG_BIN  := $(PROG_SRC:test/%.c=$(B)/test/%)
LIB       := $(B)/liblazypages.a
BIN       := $(B)/bin/lazypages
MANPAGES  := $(wildcard doc/*.scd)
MAN       := $(MANPAGES:doc/%.scd=$(B)/man/%)

.PHONY: all man unit progs
all: $(BIN) man

$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h &: %.proto
	$(call say,PROTOC,$<)
	$(Q)mkdir -p $(B)/gen && $(PROTOC_C) --c_out=$(B)/gen $<

$(LIB_OBJ) $(CLI_OBJ): | $(PB_H)

$(B)/obj/gen/%.o: $(B)/gen/%.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -Wno-shadow -c -o $@ $<

$(B)/obj/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -c -o $@ $<

$(LIB): $(LIB_OBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BIN): $(CLI_OBJ) $(LIB)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)

$(B)/test/unit/%_test: $(B)/obj/test/unit/%_test.o $(TLIB_OBJ) $(LIB)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(ALL_LIBS) -lcmocka

$(B)/test/%: $(B)/obj/test/%.o $(TLIB_OBJ) $(LIB)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)

$(B)/man/%: doc/%.scd
	$(call say,SCDOC,$@)
	$(Q)mkdir -p $(@D) && scdoc < $< > $@

man: $(MAN)
unit: $(UNIT_BIN)
progs: $(PROG_BIN)

.PRECIOUS: $(B)/obj/%.o $(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h
-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
