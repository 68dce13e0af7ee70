/* Bytes that are appended to.  Without memory nothing more is appended, and `failed` says so. */
#ifndef FERRULE_TEXT_BUFFER_H
#define FERRULE_TEXT_BUFFER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct text_buffer {
    char *bytes;
    size_t size, room;
    int failed;
};

/* `length` bytes to write to; NULL without memory.  text_extended says how many were written. */
static inline char *text_extend(struct text_buffer *t, size_t length) {
    if (t->room - t->size < length) {
        size_t room = t->room * 2 > t->size + length ? t->room * 2 : t->size + length + 256;
        char *bigger = realloc(t->bytes, room);
        if (!bigger) {
            t->failed = 1;
            return NULL;
        }
        t->bytes = bigger;
        t->room = room;
    }
    return t->bytes + t->size;
}

static inline void text_extended(struct text_buffer *t, size_t length) { t->size += length; }

static inline void text_append(struct text_buffer *t, const char *bytes, size_t length) {
    char *to = text_extend(t, length);
    if (!to) return;
    memcpy(to, bytes, length);
    t->size += length;
}

static inline void text_append_byte(struct text_buffer *t, char byte) { text_append(t, &byte, 1); }

static inline void text_free(struct text_buffer *t) {
    free(t->bytes);
    *t = (struct text_buffer){0};
}

#endif
