/* See walk_batch.h. */
#define _GNU_SOURCE
#include "walk_batch.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>

#include "system_names.h"

#define MEAN_PATH 64

#define ROW(name, mask, width, format, field) \
    {name, mask, width, format, offsetof(struct entry_stat, field)}

const struct walk_field_row walk_field_rows[WALK_FIELDS] = {
    [FIELD_MODE] = ROW("mode", STATX_MODE | STATX_TYPE, 4, "I", mode),
    [FIELD_NLINK] = ROW("nlink", STATX_NLINK, 4, "I", nlink),
    [FIELD_UID] = ROW("uid", STATX_UID, 4, "I", uid),
    [FIELD_GID] = ROW("gid", STATX_GID, 4, "I", gid),
    [FIELD_BLKSIZE] = ROW("blksize", 0, 4, "I", blksize),
    [FIELD_SIZE] = ROW("size", STATX_SIZE, 8, "q", size),
    [FIELD_BLOCKS] = ROW("blocks", STATX_BLOCKS, 8, "q", blocks),
    [FIELD_ATIME] = ROW("atime_ns", STATX_ATIME, 8, "q", atime_ns),
    [FIELD_MTIME] = ROW("mtime_ns", STATX_MTIME, 8, "q", mtime_ns),
    [FIELD_CTIME] = ROW("ctime_ns", STATX_CTIME, 8, "q", ctime_ns),
    [FIELD_BTIME] = ROW("btime_ns", STATX_BTIME, 8, "q", btime_ns),
    [FIELD_INO] = ROW("ino", STATX_INO, 8, "Q", inode),
    [FIELD_DEV] = ROW("dev", 0, 8, "Q", dev),
    [FIELD_RDEV] = ROW("rdev", 0, 8, "Q", rdev),
};

/* Wide columns first, so that each is aligned. */
static void lay_out(struct walk_batch *b, uint32_t fields) {
    uint32_t n = b->capacity;
    char *at = b->block;
#define COLUMN(pointer, count) ((pointer) = (void *)at, at += (size_t)(count) * sizeof *(pointer))
    COLUMN(b->inodes, n);
    COLUMN(b->actions, n);
    COLUMN(b->nodes, n);
    COLUMN(b->homes, n);
    for (int wide = 8; wide >= 4; wide -= 4)
        for (int f = 0; f < WALK_FIELDS; f++)
            if (fields >> f & 1 && walk_field_rows[f].width == wide) {
                b->fields[f] = at;
                at += (size_t)n * (size_t)wide;
            }
    COLUMN(b->offsets, n + 1);
    COLUMN(b->name_at, n);
    COLUMN(b->depths, n);
    COLUMN(b->home_starts, n);
    COLUMN(b->types, n);
#undef COLUMN
}

static size_t bytes_for(uint32_t capacity, uint32_t fields) {
    size_t each = 4 * 8 + 4 * 4 + 1;
    for (int f = 0; f < WALK_FIELDS; f++)
        if (fields >> f & 1) each += walk_field_rows[f].width;
    return each * capacity + sizeof(uint32_t);
}

struct walk_batch *batch_new(uint32_t capacity, uint32_t fields, uint32_t streams) {
    struct walk_batch *b = calloc(1, sizeof *b);
    if (!b) return NULL;
    b->capacity = capacity;
    b->paths_room = capacity * MEAN_PATH;
    b->block = malloc(bytes_for(capacity, fields));
    b->paths = malloc(b->paths_room);
    b->text = calloc(streams + 1, sizeof *b->text);
    if (b->text) b->streams = streams;
    if (!b->block || !b->paths || !b->text) {
        batch_free(b);
        return NULL;
    }
    lay_out(b, fields);
    b->offsets[0] = 0;
    return b;
}

void batch_clear(struct walk_batch *b) {
    for (uint32_t i = 0; i < b->count; i++) node_drop(b->nodes[i]);
    for (uint32_t i = 0; i < b->home_count; i++) node_drop(b->homes[i]);
    for (uint32_t i = 0; i < b->streams; i++) b->text[i].size = 0;
    b->count = b->home_count = b->paths_size = b->error_count = b->error_text_size = 0;
    b->next = NULL;
}

void batch_free(struct walk_batch *b) {
    batch_clear(b);
    for (uint32_t i = 0; i < b->streams; i++) text_free(&b->text[i]);
    free(b->text);
    free(b->block);
    free(b->paths);
    free(b->errors);
    free(b->error_text);
    free(b);
}

static int make_room(char **block, uint32_t *room, uint64_t wanted) {
    if (wanted <= *room) return 0;
    uint64_t more = *room * 2ull > wanted ? *room * 2ull : wanted;
    if (more > UINT32_MAX) more = wanted;
    char *bigger = more > UINT32_MAX ? NULL : realloc(*block, more);
    if (!bigger) return -ENOMEM;
    *block = bigger;
    *room = (uint32_t)more;
    return 0;
}

int batch_add_path(struct walk_batch *b, const char *path, uint32_t length, char separator) {
    if (make_room(&b->paths, &b->paths_room, (uint64_t)b->paths_size + length + 1) < 0)
        return -ENOMEM;
    memcpy(b->paths + b->paths_size, path, length);
    b->paths_size += length + 1;
    b->paths[b->paths_size - 1] = separator;
    b->offsets[b->count + 1] = b->paths_size;
    return 0;
}

int batch_add_error(struct walk_batch *b, const char *path, uint32_t length, uint32_t depth,
                    int error, int stage) {
    if (b->error_count == b->error_room) {
        uint32_t room = b->error_room ? b->error_room * 2 : 8;
        void *bigger = realloc(b->errors, room * sizeof *b->errors);
        if (!bigger) return -ENOMEM;
        b->errors = bigger;
        b->error_room = room;
    }
    if (make_room(&b->error_text, &b->error_text_room, (uint64_t)b->error_text_size + length) < 0)
        return -ENOMEM;
    memcpy(b->error_text + b->error_text_size, path, length);
    b->errors[b->error_count++] = (struct walk_error){
        b->count, depth, b->error_text_size, length, error, (uint8_t)stage};
    b->error_text_size += length;
    return 0;
}

/* A field whose answer did not come (NULL: none did) reads as 0, a size or time as -1. */
void batch_add_stat(struct walk_batch *b, uint32_t fields, const struct entry_stat *stat) {
    for (int f = 0; f < WALK_FIELDS; f++) {
        if (!(fields >> f & 1)) continue;
        const struct walk_field_row *row = &walk_field_rows[f];
        const char *from = (const char *)stat + row->offset;
        int known = stat && (stat->mask & row->mask) == row->mask;
        if (row->width == 4)
            ((uint32_t *)b->fields[f])[b->count] = known ? *(const uint32_t *)from : 0;
        else
            ((int64_t *)b->fields[f])[b->count] =
                known ? *(const int64_t *)from : *row->format == 'q' ? -1 : 0;
    }
}

struct walk_node *batch_home(const struct walk_batch *b, uint32_t entry) {
    uint32_t low = 0, high = b->home_count;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (b->home_starts[middle] <= entry) low = middle;
        else high = middle;
    }
    return b->home_count ? b->homes[low] : NULL;
}

int batch_is_empty(const struct walk_batch *b) {
    for (uint32_t i = 0; i < b->streams; i++)
        if (b->text[i].size) return 0;
    return b->count == 0 && b->error_count == 0;
}
