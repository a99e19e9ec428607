/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The lazypages protocol (doc/protocol.md) as pure functions on byte buffers:
 * no I/O, and no state but that of the compressors. Encoders write into the caller's buffer and return
 * the bytes written or -ENOSPC; decoders distrust every length and return 0 or
 * -EBADMSG. Strings and data in decoded structs are borrowed from the input.
 */
#ifndef LP_PROTO_H
#define LP_PROTO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LP_PROTO_VERSION 1

#define LP_FRAME_MAGIC	 0x3147504cu /* "LPG1" */
#define LP_FRAME_HEADER	 32u
#define LP_META_TO_SERVER 512u
#define LP_META_TO_CLIENT (16u << 10)
#define LP_DATA_MAX	 (256u << 10)
#define LP_GET_MAX	 (1u << 20)
#define LP_RUNS_MAX	 64u
#define LP_CKPT_NAME_MAX 128u
#define LP_FILE_NAME_MAX 128u
#define LP_TEXT_MAX	 255u
#define LP_OUTSTANDING	 64u
#define LP_IDENT_LEN	 16u
#define LP_PROTO_PAGE	 4096u

enum lp_msg_type {
	LP_MSG_HELLO = 1,
	LP_MSG_WELCOME = 2,
	LP_MSG_ERROR = 3,
	LP_MSG_PING = 4,
	LP_MSG_PONG = 5,
	LP_MSG_BYE = 6,
	LP_MSG_LIST = 16,
	LP_MSG_NAMES = 17,
	LP_MSG_FILES = 18,
	LP_MSG_FILE_LIST = 19,
	LP_MSG_FILE_READ = 20,
	LP_MSG_FILE_DATA = 21,
	LP_MSG_GET = 32,
	LP_MSG_PAGES = 33,
	LP_MSG_PUSH = 48,
	LP_MSG_PUSHED = 49,
	LP_MSG_PUSH_DATA = 50,
	LP_MSG_PUSH_SEAL = 51,
};

#define LP_FLAG_MORE 1u

enum lp_role { LP_ROLE_CONTROL, LP_ROLE_URGENT, LP_ROLE_BULK, LP_NROLES };

enum lp_enc { LP_ENC_HOLE, LP_ENC_ZERO, LP_ENC_RAW, LP_ENC_SAME, LP_ENC_LZ4, LP_ENC_ZSTD };

/* HELLO: choose among the encodings by the speed of the link. */
#define LP_FEATURE_AUTO 1u

/* What takes the server's CPU: clients ask for it on slow links. */
#define LP_ENC_PACKED ((1u << LP_ENC_SAME) | (1u << LP_ENC_LZ4) | (1u << LP_ENC_ZSTD))

#define LP_ENC_BASE ((1u << LP_ENC_HOLE) | (1u << LP_ENC_ZERO) | (1u << LP_ENC_RAW))

enum lp_error {
	LP_ERROR_PROTOCOL = 1,
	LP_ERROR_VERSION = 2,
	LP_ERROR_UNKNOWN = 3,
	LP_ERROR_STALE = 4,
	LP_ERROR_BUSY = 5,
	LP_ERROR_RANGE = 6,
	LP_ERROR_IO = 7,
};

struct lp_str {
	const char *p; /* not terminated */
	size_t n;
};

/* ---- frame.c ---- */

struct lp_frame {
	uint16_t type, flags;
	uint64_t id;
	uint32_t meta, data;
	uint64_t sum;
};

/* The header for @f whose meta is at @meta, into @buf (LP_FRAME_HEADER bytes). f->sum is not read. */
void lp_frame_put(uint8_t *buf, const struct lp_frame *f, const uint8_t *meta);
/* Decode a header and check its lengths for a receiver that is the server or the client. */
int lp_frame_get(const uint8_t *buf, bool to_server, struct lp_frame *f);
/* Is @meta what the sender meant? @buf: the header that it came with. */
int lp_frame_check(const uint8_t *buf, const uint8_t *meta);
/*
 * A frame without data from a meta that the caller has encoded behind room for
 * the header, at @buf + LP_FRAME_HEADER. Returns the frame's length.
 */
size_t lp_frame_close(uint8_t *buf, uint16_t type, uint16_t flags, uint64_t id, size_t meta, uint32_t data);

/* ---- msg.c: metas ---- */

struct lp_hello {
	uint16_t vmin, vmax;
	uint8_t role;
	uint32_t encodings, features;
	uint8_t ident[LP_IDENT_LEN];
	struct lp_str name;
};

struct lp_welcome {
	uint16_t version;
	uint32_t encodings, features;
	uint32_t max_get, max_requests, idle_ms, tasks;
	uint8_t ident[LP_IDENT_LEN];
};

struct lp_error_msg {
	uint16_t code;
	struct lp_str text;
};

/* NAMES and FILE_LIST: a head, then items one by one. */
struct lp_list {
	uint32_t total, first;
	uint16_t n;
	const uint8_t *p, *end; /* decoding: what is left; encoding: not used */
};

struct lp_file_read {
	uint64_t off;
	uint32_t len;
	struct lp_str name;
};

struct lp_file_data {
	uint64_t off, sum;
};

struct lp_get {
	uint32_t obj, len;
	uint64_t addr;
	uint8_t urgency;
};

struct lp_run {
	uint64_t addr, sum;
	uint32_t len, stored, enc;
	uint32_t back; /* SAME: so many bytes before each byte of it, in the same frame, is the same one; else 0 */
};

struct lp_pages {
	uint32_t obj;
	uint16_t nruns;
	struct lp_run runs[LP_RUNS_MAX];
};

ssize_t lp_put_hello(uint8_t *buf, size_t cap, const struct lp_hello *m);
int lp_get_hello(const uint8_t *buf, size_t len, struct lp_hello *m);
ssize_t lp_put_welcome(uint8_t *buf, size_t cap, const struct lp_welcome *m);
int lp_get_welcome(const uint8_t *buf, size_t len, struct lp_welcome *m);
/* Text beyond LP_TEXT_MAX is cut off. */
ssize_t lp_put_error(uint8_t *buf, size_t cap, uint16_t code, const char *text);
int lp_get_error(const uint8_t *buf, size_t len, struct lp_error_msg *m);
ssize_t lp_put_from(uint8_t *buf, size_t cap, uint32_t first);
int lp_get_from(const uint8_t *buf, size_t len, uint32_t *first);
ssize_t lp_put_file_read(uint8_t *buf, size_t cap, const struct lp_file_read *m);
int lp_get_file_read(const uint8_t *buf, size_t len, struct lp_file_read *m);
ssize_t lp_put_file_data(uint8_t *buf, size_t cap, const struct lp_file_data *m);
int lp_get_file_data(const uint8_t *buf, size_t len, struct lp_file_data *m);
ssize_t lp_put_get(uint8_t *buf, size_t cap, const struct lp_get *m);
int lp_get_get(const uint8_t *buf, size_t len, struct lp_get *m);
ssize_t lp_put_pages(uint8_t *buf, size_t cap, const struct lp_pages *m);
/* Also checks that the runs touch, are page aligned, and store exactly @data bytes. */
int lp_get_pages(const uint8_t *buf, size_t len, uint32_t data, struct lp_pages *m);

/*
 * Lists. Encoding: lp_put_list() once, with n 0, then lp_put_item() until it
 * says -ENOSPC, then lp_put_list() again with the right n. Decoding:
 * lp_get_list(), then lp_get_item() n times; @size is NULL for NAMES.
 */
ssize_t lp_put_list(uint8_t *buf, size_t cap, const struct lp_list *m);
ssize_t lp_put_item(uint8_t *buf, size_t cap, const uint64_t *size, const char *name);
int lp_get_list(const uint8_t *buf, size_t len, struct lp_list *m);
int lp_get_item(struct lp_list *m, uint64_t *size, struct lp_str *name);

/* ---- push.c: metas of the messages that bring a checkpoint ---- */

#define LP_PUSH_REPLACE 1u

struct lp_push {
	uint32_t flags;
	struct lp_str name;
};

struct lp_push_data {
	uint64_t off, sum; /* sum: lp_data_sum() of the frame's data */
	struct lp_str name;
};

ssize_t lp_put_push(uint8_t *buf, size_t cap, const struct lp_push *m);
int lp_get_push(const uint8_t *buf, size_t len, struct lp_push *m);
ssize_t lp_put_push_data(uint8_t *buf, size_t cap, const struct lp_push_data *m);
int lp_get_push_data(const uint8_t *buf, size_t len, struct lp_push_data *m);

/* ---- msg.c ---- */

bool lp_ckpt_name_ok(const char *p, size_t n);
bool lp_file_name_ok(const char *p, size_t n);
const char *lp_error_name(unsigned code);

/* ---- run.c: the bytes of runs ---- */

/* What compressors keep between calls, made as it is needed. Of one thread. */
struct lp_codec;

struct lp_codec *lp_codec_new(void);
void lp_codec_free(struct lp_codec *k);

bool lp_is_zero(const uint8_t *p, size_t len);
uint64_t lp_run_sum(uint32_t obj, const struct lp_run *r, const uint8_t *bytes);
uint64_t lp_data_sum(const uint8_t *p, size_t len);
/*
 * Compress @len bytes with one of @encodings (the first of ZSTD, LZ4) into
 * @out of @cap bytes. Returns the bytes stored, with *enc, or 0: send it raw.
 */
size_t lp_run_compress(struct lp_codec *codec, uint32_t encodings, const uint8_t *p, size_t len, uint8_t *out,
		       size_t cap, uint32_t *enc);
/*
 * The r->len bytes of a run from what was stored, into @out (which may be
 * @stored for RAW), checked against r->sum. In front of @out must be what the
 * frame's runs before have been decoded to (SAME). 0, -EBADMSG (damaged), -ENOTSUP,
 * -ENOMEM.
 */
int lp_run_decode(struct lp_codec *codec, uint32_t obj, const struct lp_run *r, const uint8_t *stored, uint8_t *out);

#endif
