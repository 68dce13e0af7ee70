/* What is written of a directory entry: a list of pieces, each a letter as -printf has them. */
#ifndef FERRULE_ENTRY_FORMAT_H
#define FERRULE_ENTRY_FORMAT_H

#include <stdint.h>

#include "owner_names.h"
#include "text_buffer.h"

struct entry_view;

/* The letters of -printf, without their % (T: a time, of `field`), and these. */
enum format_letter {
    PIECE_TEXT = 0,     /* `text` as it is */
    PIECE_TYPED = 'q',  /* the path, coloured by the entry's type */
    PIECE_ESCAPED = 'e', /* the path as -ls writes it, and a link's target */
    PIECE_DEVICE = 'v', /* size, or the numbers of a device */
    PIECE_WHEN = 'w',   /* the time of the last change, as -ls writes it */
    PIECE_JSON = 'j'    /* all of it, as one line */
};

/* Formats know those before TIME_FIELDS. */
enum time_field { TIME_ACCESS, TIME_CHANGE, TIME_MODIFY, TIME_BIRTH, TIME_FIELDS,
                  TIME_USED /* access less change; what was not read since then is nothing */ };

/* One kind of file that has a colour: a key of LS_COLORS, and what to send before it. */
struct entry_colours {
    struct colour { char *key, *code; } *rows; /* two letters, or the end of a name after "*" */
    uint32_t count;
};

struct format_piece {
    char letter;
    char field;        /* of a time: enum time_field; 0 elsewhere */
    char how;          /* of a time: a letter of strftime, '@', '+', or 0: as ctime writes it */
    char left;         /* pad at the right */
    char zero, sharp, plus, space; /* as printf's flags, of numbers */
    char safe;         /* ? for what could upset a terminal */
    int32_t width, precision; /* precision -1: none */
    char *text;
    uint32_t length;
};

struct entry_format {
    struct format_piece *pieces;
    uint32_t count;
    uint32_t stat_mask; /* what has to be fetched before */
    char needs_stat;    /* nothing can be written without it */
    struct owner_names *owners;
    struct entry_colours colours;
    int64_t now;        /* seconds */
};

/* NULL without memory. */
struct entry_format *format_new(uint32_t pieces);
void format_free(struct entry_format *f);
/* 0, -ENOMEM, or -EINVAL: no such letter.  Text is copied. */
int format_set(struct entry_format *f, uint32_t at, const struct format_piece *piece);
int format_add_colour(struct entry_format *f, const char *key, const char *code);

/* Its stat must hold what stat_mask asks for, as far as that is to be had. */
void format_entry(const struct entry_format *f, const struct entry_view *v, struct text_buffer *to);

/* The type of what a link leads to, as a letter; L: a loop, N: nothing, ?: it cannot be known. */
char target_letter(const struct entry_view *v);
char type_letter(uint8_t type);

#endif
