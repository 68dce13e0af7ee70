/* What an I/O queue is asked for: one attempt of the operation table, or several in a row.
 *
 * The table's rows are single attempts; what is more than one (a whole small file, a directory with
 * its first entries, a transfer to its end) is a walk from attempt to attempt here.  Who carries
 * a request out, by plain calls or in a ring, makes the attempt that lies in `op` and hands its
 * result back, until there is no other.
 */
#ifndef FERRULE_IO_REQUEST_H
#define FERRULE_IO_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "operation.h"

enum io_kind {
    IO_ATTEMPT,    /* the operation once, as it stands */
    IO_TRANSFER,   /* a read or write at an offset, to the end of the buffer or of the file */
    IO_READ_FILE,  /* open, read into `space` to the end, close */
    IO_WRITE_FILE, /* open, write `source` of `limit` bytes, close */
    IO_OPENDIR,    /* open, read the first entries into `space` */
};

enum io_stage { IO_BEGINNING, IO_OPENING, IO_MOVING, IO_CLOSING };

struct io_client;

struct io_request {
    struct op *op;            /* the attempt to be made next, or made last */
    struct io_request *next;  /* of a list of free, ready or taken ones */
    struct io_client *client; /* who is answered */
    int64_t result;           /* once answered: what was asked for, or -errno */
    uint64_t done;            /* bytes moved */
    uint64_t limit;           /* read_file: most that are taken; write_file: the source's size */
    const char *source;
    char *space;              /* its own memory: paths, then what is read */
    size_t space_size;
    int64_t failure;          /* what goes wrong before a close is what is answered */
    int32_t file;             /* that it has open itself */
    uint8_t kind, stage;
    bool at_end;              /* opendir: these are all the entries */
    bool lost;                /* the kernel may still write to it: it is never used again */
};

/* A space of `size` bytes at least, its contents kept.  False if there is no memory. */
bool io_request_reserve(struct io_request *r, size_t size);

/* Before the first attempt. */
void io_request_begin(struct io_request *r);

/* After an attempt with this result: whether there is another.  If not, it is answered. */
bool io_request_go_on(struct io_request *r, int64_t result);

/* An open that came to its end after the cancel: as though it had not been. */
int64_t io_request_undo_open(struct io_request *r, int64_t fd);

/* Close what an answer that nobody wants holds. */
void io_request_discard(struct io_request *r);

/* Whether it is carried out also when cancelled, as an interrupted close(2) is. */
static inline bool io_request_must_run(const struct io_request *r) {
    return r->kind == IO_ATTEMPT && r->op->kind == OP_CLOSE;
}

#endif
