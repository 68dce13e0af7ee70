#define _GNU_SOURCE
#include "io_request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_READ 8192u            /* most small files fit, and it is soon used again */
#define DIRECTORY_BLOCK (32u << 10) /* as readdir(3) has it */
#define DIRECTORY_REST 2048u        /* worth another getdents, which may say that this was all */

bool io_request_reserve(struct io_request *r, size_t size) {
    if (r->space_size >= size) return true;
    char *space = realloc(r->space, size);
    if (!space) return false;
    r->space = space;
    r->space_size = size;
    return true;
}

static bool answer(struct io_request *r, int64_t result) {
    r->result = result;
    return false;
}

/* ---- opening and closing ---- */

void io_request_begin(struct io_request *r) {
    r->done = 0;
    r->failure = 0;
    r->file = -1;
    r->at_end = false;
    r->stage = r->kind >= IO_READ_FILE ? IO_OPENING : IO_MOVING;
}

static bool close_file(struct io_request *r, int64_t failure) {
    r->failure = failure;
    r->stage = IO_CLOSING;
    r->op->kind = OP_CLOSE;
    r->op->fd = r->file;
    return true;
}

static bool after_close(struct io_request *r, int64_t result) {
    if (r->failure) return answer(r, r->failure);
    return answer(r, result < 0 ? result : (int64_t)r->done);
}

/* ---- a whole file ---- */

static bool read_on(struct io_request *r) {
    struct op *o = r->op;
    o->kind = OP_READ;
    o->fd = r->file;
    o->off = -1;
    o->addr = r->space + r->done;
    o->len = r->space_size - r->done;
    return true;
}

/* Room for the rest, and a byte more by which the last read sees the end.  What has no size
 * (/proc) gets twice the room each time. */
static bool make_room(struct io_request *r) {
    struct stat known;
    size_t size = r->space_size * 2;
    if (fstat(r->file, &known) == 0 && known.st_size >= (off_t)r->space_size) {
        if ((uint64_t)known.st_size > r->limit) return close_file(r, -EFBIG);
        size = (size_t)known.st_size + 1;
    }
    if (!io_request_reserve(r, size)) return close_file(r, -ENOMEM);
    return read_on(r);
}

static bool after_read(struct io_request *r, int64_t result) {
    if (result <= 0) return close_file(r, result);
    r->done += (uint64_t)result;
    if (r->done > r->limit) return close_file(r, -EFBIG);
    return r->done == r->space_size ? make_room(r) : read_on(r);
}

static bool write_on(struct io_request *r) {
    struct op *o = r->op;
    if (r->done == r->limit) return close_file(r, 0);
    o->kind = OP_WRITE;
    o->fd = r->file;
    o->off = -1;
    o->addr = (void *)(r->source + r->done);
    o->len = r->limit - r->done;
    return true;
}

static bool after_write(struct io_request *r, int64_t result) {
    if (result < 0) return close_file(r, result);
    if (result == 0) return close_file(r, -EIO); /* no progress, and no reason given */
    r->done += (uint64_t)result;
    return write_on(r);
}

/* ---- a directory ---- */

static bool list_on(struct io_request *r) {
    struct op *o = r->op;
    o->kind = OP_GETDENTS;
    o->fd = r->file;
    o->addr = r->space + r->done;
    o->len = r->space_size - r->done;
    return true;
}

/* It is open whatever this says: an error comes again when the entries are asked for. */
static bool after_list(struct io_request *r, int64_t result) {
    if (result > 0) r->done += (uint64_t)result;
    r->at_end = result == 0;
    if (result > 0 && r->space_size - r->done >= DIRECTORY_REST) return list_on(r);
    return answer(r, r->file);
}

/* ---- from attempt to attempt ---- */

static bool after_open(struct io_request *r, int64_t result) {
    if (result < 0) return answer(r, result);
    r->file = (int32_t)result;
    r->stage = IO_MOVING;
    /* The path was in the space, and has been used. */
    if (r->kind == IO_WRITE_FILE) return write_on(r);
    size_t size = r->kind == IO_OPENDIR ? DIRECTORY_BLOCK : FIRST_READ;
    if (!io_request_reserve(r, size)) return close_file(r, -ENOMEM);
    return r->kind == IO_OPENDIR ? list_on(r) : read_on(r);
}

/* At an offset a short transfer is none that the caller should see. */
static bool after_transfer(struct io_request *r, int64_t result) {
    struct op *o = r->op;
    if (result <= 0 || o->off < 0)
        return answer(r, r->done || result > 0 ? (int64_t)r->done + (result > 0 ? result : 0)
                                               : result);
    r->done += (uint64_t)result;
    o->addr = (char *)o->addr + result;
    o->off += result;
    o->len -= (uint64_t)result;
    return o->len ? true : answer(r, (int64_t)r->done);
}

bool io_request_go_on(struct io_request *r, int64_t result) {
    switch (r->stage) {
    case IO_OPENING: return after_open(r, result);
    case IO_CLOSING: return after_close(r, result);
    }
    switch (r->kind) {
    case IO_TRANSFER: return after_transfer(r, result);
    case IO_READ_FILE: return after_read(r, result);
    case IO_WRITE_FILE: return after_write(r, result);
    case IO_OPENDIR: return after_list(r, result);
    }
    return answer(r, result);
}

int64_t io_request_undo_open(struct io_request *r, int64_t fd) {
    if (r->op->kind != OP_OPENAT || fd < 0) return fd;
    close((int)fd);
    return -EINTR;
}

void io_request_discard(struct io_request *r) {
    bool opened = r->kind == IO_OPENDIR || (r->kind == IO_ATTEMPT && r->op->kind == OP_OPENAT);
    if (opened && r->result >= 0) close((int)r->result);
}
