#define _GNU_SOURCE
#include "entry_format.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "entry_filter.h"
#include "system_names.h"

#define HALF_YEAR 15778476 /* seconds */
#define NUMBER_BYTES 400   /* of the longest, with a width that is_piece allows */
#define WIDTH_LIMIT 300

/* What has to be fetched for a letter. */
static uint32_t mask_of(char letter) {
    switch (letter) {
    case PIECE_TEXT: case 'p': case 'f': case 'h': case 'P': case 'H': case 'd': case 'l':
    case 'y': case 'Y':
        return 0;
    case 'D': case 'F': return STATX_TYPE;
    case 'i': return STATX_INO;
    default: return STATX_BASIC_STATS;
    }
}

static bool is_piece(const struct format_piece *p) {
    static const char letters[] = "pfhPHdlyYDFibkmMnguGUsSTqevwj";
    if (p->width < 0 || p->width > WIDTH_LIMIT || p->precision > WIDTH_LIMIT) return false;
    if (p->letter == PIECE_TEXT) return p->text != NULL;
    if (p->letter == 'T' && (unsigned char)p->field >= TIME_FIELDS) return false;
    return strchr(letters, p->letter) != NULL;
}

struct entry_format *format_new(uint32_t pieces) {
    struct entry_format *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->count = pieces;
    f->pieces = calloc(pieces ? pieces : 1, sizeof *f->pieces);
    f->owners = owner_names_new();
    f->now = time(NULL);
    tzset();
    if (f->pieces && f->owners) return f;
    format_free(f);
    return NULL;
}

void format_free(struct entry_format *f) {
    if (!f) return;
    for (uint32_t i = 0; f->pieces && i < f->count; i++) free(f->pieces[i].text);
    for (uint32_t i = 0; i < f->colours.count; i++) {
        free(f->colours.rows[i].key);
        free(f->colours.rows[i].code);
    }
    free(f->colours.rows);
    free(f->pieces);
    owner_names_free(f->owners);
    free(f);
}

static char *copy_of(const char *text, size_t length) {
    char *copy = malloc(length + 1);
    if (!copy) return NULL;
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

int format_set(struct entry_format *f, uint32_t at, const struct format_piece *piece) {
    if (at >= f->count || !is_piece(piece)) return -EINVAL;
    struct format_piece *p = &f->pieces[at];
    free(p->text);
    *p = *piece;
    p->text = piece->text ? copy_of(piece->text, piece->length) : NULL;
    if (piece->text && !p->text) return -ENOMEM;
    f->stat_mask |= mask_of(p->letter);
    f->needs_stat |= p->letter != PIECE_TYPED && mask_of(p->letter) != 0;
    if (p->letter == 'T' && p->field == TIME_BIRTH) f->stat_mask |= STATX_BTIME;
    return 0;
}

int format_add_colour(struct entry_format *f, const char *key, const char *code) {
    struct entry_colours *c = &f->colours;
    void *bigger = realloc(c->rows, (c->count + 1) * sizeof *c->rows);
    if (!bigger) return -ENOMEM;
    c->rows = bigger;
    struct colour row = {copy_of(key, strlen(key)), copy_of(code, strlen(code))};
    if (!row.key || !row.code) {
        free(row.key);
        free(row.code);
        return -ENOMEM;
    }
    c->rows[c->count++] = row;
    return 0;
}

/* ---- text with a width ---- */

/* Control characters alone: the rest of an unknown encoding is left to the terminal. */
static bool upsets_terminal(char byte) { return (unsigned char)byte < ' ' || byte == 0x7f; }

static void append_spaces(struct text_buffer *to, size_t count) {
    char *at = text_extend(to, count);
    if (!at) return;
    memset(at, ' ', count);
    text_extended(to, count);
}

static void append_part(const struct format_piece *p, struct text_buffer *to, const char *text,
                        size_t length) {
    char *at = text_extend(to, length);
    if (!at) return;
    memcpy(at, text, length);
    for (size_t i = 0; p->safe && i < length; i++)
        if (upsets_terminal(at[i])) at[i] = '?';
    text_extended(to, length);
}

static void append_padded(const struct format_piece *p, struct text_buffer *to, const char *text,
                          size_t length) {
    if (p->precision >= 0 && (size_t)p->precision < length) length = (size_t)p->precision;
    size_t pad = (size_t)p->width > length ? (size_t)p->width - length : 0;
    if (!p->left) append_spaces(to, pad);
    append_part(p, to, text, length);
    if (p->left) append_spaces(to, pad);
}

static void append_string(const struct format_piece *p, struct text_buffer *to, const char *text) {
    append_padded(p, to, text, strlen(text));
}

static void append_letter(const struct format_piece *p, struct text_buffer *to, char letter) {
    append_padded(p, to, &letter, 1);
}

/* As find has them: text, so that of the flags only the minus counts. */
static void append_decimal(const struct format_piece *p, struct text_buffer *to, uint64_t number) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    append_padded(p, to, digits, (size_t)length);
}

/* The two that are numbers to find. */
static void append_number(const struct format_piece *p, struct text_buffer *to, uint32_t number,
                          char conversion) {
    char form[32], digits[NUMBER_BYTES];
    snprintf(form, sizeof form, "%%%s%s%s%s%s*.*%c", p->left ? "-" : "", p->zero ? "0" : "",
             p->sharp ? "#" : "", p->plus ? "+" : "", p->space ? " " : "", conversion);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    int length = snprintf(digits, sizeof digits, form, p->width, p->precision, number);
#pragma GCC diagnostic pop
    text_append(to, digits, (size_t)length);
}

/* ---- paths ---- */

/* Where the last component begins, slashes at the end not counted. */
static size_t component_at(const char *path, size_t length) {
    size_t end = length, begin;
    while (end > 0 && path[end - 1] == '/') end--;
    if (!end) return length;
    for (begin = end; begin > 0 && path[begin - 1] != '/'; begin--) {}
    return begin;
}

static void append_name(const struct format_piece *p, const struct entry_view *v,
                        struct text_buffer *to) {
    const char *path = v->path;
    size_t end = v->path_length, at = component_at(path, end);
    if (at == end && end) at--; /* nothing but slashes */
    while (end > at + 1 && path[end - 1] == '/' && path[end - 2] == '/') end--;
    append_padded(p, to, path + at, end - at);
}

static void append_directory(const struct format_piece *p, const struct entry_view *v,
                             struct text_buffer *to) {
    size_t at = component_at(v->path, v->path_length);
    if (at) {
        append_padded(p, to, v->path, at - 1);
        return;
    }
    const char *slash = memrchr(v->path, '/', v->path_length);
    if (slash) append_padded(p, to, v->path, (size_t)(slash - v->path));
    else append_string(p, to, ".");
}

/* Where the slash is that ends the root's part of the path; the path's length for a root. */
static size_t root_end(const struct entry_view *v) {
    size_t at = v->path_length;
    if (!v->depth) return at;
    for (uint32_t depth = v->depth; depth; depth--)
        while (at > 0 && v->path[--at] != '/') {}
    return at;
}

static void append_below_root(const struct format_piece *p, const struct entry_view *v,
                              struct text_buffer *to) {
    size_t at = root_end(v);
    if (at < v->path_length) at++;
    append_padded(p, to, v->path + at, v->path_length - at);
}

/* The path does not tell whether a root was given with a slash at its end; `text` lists those. */
static void append_root(const struct format_piece *p, const struct entry_view *v,
                        struct text_buffer *to) {
    size_t end = root_end(v);
    if (end == v->path_length) {
        append_padded(p, to, v->path, end);
        return;
    }
    for (const char *root = p->text; root && root < p->text + p->length; root += strlen(root) + 1)
        if (strlen(root) == end + 1 && !memcmp(root, v->path, end + 1)) {
            append_string(p, to, root);
            return;
        }
    append_padded(p, to, v->path, end);
}

/* The target of a link in memory of its own; NULL: it cannot be read. */
static char *read_link(const struct entry_view *v, size_t *length) {
    char *target = NULL;
    for (size_t room = 256; room <= 1 << 20; room *= 4) {
        char *bigger = realloc(target, room);
        if (!bigger) break;
        target = bigger;
        ssize_t n = readlinkat(v->dir_fd, v->at, target, room);
        if (n < 0) break;
        if ((size_t)n < room) {
            *length = (size_t)n;
            return target;
        }
    }
    free(target);
    return NULL;
}

static void append_target(const struct format_piece *p, const struct entry_view *v,
                          struct text_buffer *to) {
    size_t length = 0;
    char *target = v->type == DT_LNK ? read_link(v, &length) : NULL;
    append_padded(p, to, target ? target : "", length);
    free(target);
}

static void append_escaped(struct text_buffer *to, const char *text, size_t length) {
    static const char plain[] = "\n\b\r\t\f \"\\", letters[] = "nbrtf \"\\";
    for (size_t i = 0; i < length; i++) {
        const char *found = text[i] ? strchr(plain, text[i]) : NULL;
        char escaped[8];
        if (found) snprintf(escaped, sizeof escaped, "\\%c", letters[found - plain]);
        else if (text[i] > ' ' && text[i] < 0x7f) snprintf(escaped, sizeof escaped, "%c", text[i]);
        else snprintf(escaped, sizeof escaped, "\\%03o", (unsigned char)text[i]);
        text_append(to, escaped, strlen(escaped));
    }
}

static void append_listed(const struct entry_view *v, struct text_buffer *to) {
    append_escaped(to, v->path, v->path_length);
    size_t length;
    char *target = v->type == DT_LNK ? read_link(v, &length) : NULL;
    if (!target) return;
    text_append(to, " -> ", 4);
    append_escaped(to, target, length);
    free(target);
}

/* ---- types and modes ---- */

char type_letter(uint8_t type) {
    switch (type) {
    case DT_REG: return 'f';
    case DT_DIR: return 'd';
    case DT_LNK: return 'l';
    case DT_FIFO: return 'p';
    case DT_SOCK: return 's';
    case DT_BLK: return 'b';
    case DT_CHR: return 'c';
    default: return 'U';
    }
}

char target_letter(const struct entry_view *v) {
    struct stat s;
    if (v->type != DT_LNK) return type_letter(v->type);
    if (fstatat(v->dir_fd, v->at, &s, 0) == 0) return type_letter(IFTODT(s.st_mode));
    return errno == ENOENT || errno == ENOTDIR ? 'N' : errno == ELOOP ? 'L' : '?';
}

static void append_mode(const struct format_piece *p, const struct entry_view *v,
                        struct text_buffer *to) {
    uint32_t mode = v->stat->mode;
    char letters[11] = "?rwxrwxrwx", type = type_letter(v->type);
    letters[0] = type == 'f' ? '-' : type == 'U' ? '?' : type;
    for (int i = 0; i < 9; i++)
        if (!(mode >> (8 - i) & 1)) letters[i + 1] = '-';
    if (mode & S_ISUID) letters[3] = mode & S_IXUSR ? 's' : 'S';
    if (mode & S_ISGID) letters[6] = mode & S_IXGRP ? 's' : 'S';
    if (mode & S_ISVTX) letters[9] = mode & S_IXOTH ? 't' : 'T';
    append_padded(p, to, letters, 10);
}

static void append_owner(const struct entry_format *f, const struct format_piece *p,
                         enum owner_kind kind, uint32_t id, struct text_buffer *to) {
    const char *name = owner_name(f->owners, kind, id);
    if (name) append_string(p, to, name);
    else append_decimal(p, to, id);
}

static void append_device(const struct format_piece *p, const struct entry_view *v,
                          struct text_buffer *to) {
    const struct entry_stat *s = v->stat;
    char text[48];
    if (v->type == DT_CHR || v->type == DT_BLK)
        snprintf(text, sizeof text, "%3u, %3u", major(s->rdev), minor(s->rdev));
    else snprintf(text, sizeof text, "%lld", (long long)s->size);
    append_string(p, to, text);
}

/* `text` is a list of device numbers, each followed by the type of its file system. */
static void append_file_system(const struct format_piece *p, const struct entry_stat *s,
                               struct text_buffer *to) {
    char device[32];
    snprintf(device, sizeof device, "%llu", (unsigned long long)s->dev);
    const char *at = p->text, *end = p->text + p->length;
    while (at && at < end) {
        const char *type = at + strlen(at) + 1;
        if (!strcmp(at, device)) {
            append_string(p, to, type);
            return;
        }
        at = type + strlen(type) + 1;
    }
    append_string(p, to, "unknown");
}

static void append_sparseness(const struct format_piece *p, const struct entry_stat *s,
                              struct text_buffer *to) {
    char text[48];
    if (s->size) snprintf(text, sizeof text, "%g", 512.0 * (double)s->blocks / (double)s->size);
    else snprintf(text, sizeof text, "%s", s->blocks ? "inf" : "1");
    append_string(p, to, text);
}

/* ---- times ---- */

static void split_time(int64_t ns, time_t *seconds, long *rest) {
    *seconds = (time_t)(ns / 1000000000);
    *rest = (long)(ns % 1000000000);
    if (*rest < 0) {
        *rest += 1000000000;
        --*seconds;
    }
}

static int64_t time_of(const struct entry_stat *s, int field) {
    switch (field) {
    case TIME_ACCESS: return s->atime_ns;
    case TIME_CHANGE: return s->ctime_ns;
    case TIME_BIRTH: return s->btime_ns;
    default: return s->mtime_ns;
    }
}

/* strftime, with a fraction of ten digits behind the seconds where find has one. */
static size_t write_time(char how, int64_t ns, char *to, size_t room) {
    time_t seconds;
    long rest;
    struct tm tm;
    char form[16] = {'%', how, 0}, fraction[16];
    split_time(ns, &seconds, &rest);
    snprintf(fraction, sizeof fraction, ".%09ld0", rest);
    if (how == '@' || !localtime_r(&seconds, &tm))
        return (size_t)snprintf(to, room, "%lld%s", (long long)seconds, fraction);
    if (how == '+') strcpy(form, "%F+%T");
    if (!how) strcpy(form, "%a %b %e %T");
    size_t length = strftime(to, room, form, &tm);
    if (!how || strchr("+STX", how))
        length += (size_t)snprintf(to + length, room - length, "%s", fraction);
    if (!how) length += strftime(to + length, room - length, " %Y", &tm);
    return length;
}

static void append_time(const struct format_piece *p, const struct entry_view *v,
                        struct text_buffer *to) {
    char text[256];
    if (p->field == TIME_BIRTH && !(v->stat->mask & STATX_BTIME)) append_padded(p, to, "", 0);
    else
        append_padded(p, to, text,
                      write_time(p->how, time_of(v->stat, p->field), text, sizeof text));
}

static void append_when(const struct entry_format *f, const struct format_piece *p,
                        const struct entry_view *v, struct text_buffer *to) {
    time_t seconds;
    long rest;
    struct tm tm;
    char text[64];
    split_time(v->stat->mtime_ns, &seconds, &rest);
    bool recent = f->now - seconds < HALF_YEAR && seconds - f->now < 3600;
    if (!localtime_r(&seconds, &tm)) append_decimal(p, to, (uint64_t)seconds);
    else
        append_padded(p, to, text,
                      strftime(text, sizeof text, recent ? "%b %e %H:%M" : "%b %e  %Y", &tm));
}

/* ---- colours ---- */

static const char *colour_by_key(const struct entry_colours *c, const char *key) {
    for (uint32_t i = 0; i < c->count; i++)
        if (!strcmp(c->rows[i].key, key)) return c->rows[i].code;
    return NULL;
}

static const char *colour_by_end(const struct entry_colours *c, const struct entry_view *v) {
    for (uint32_t i = c->count; i; i--) { /* the last one counts, as for ls */
        const char *end = c->rows[i - 1].key + 1;
        size_t length = strlen(end);
        if (c->rows[i - 1].key[0] == '*' && length <= v->path_length &&
            !strncasecmp(v->path + v->path_length - length, end, length))
            return c->rows[i - 1].code;
    }
    return NULL;
}

static const char *colour_of_directory(const struct entry_colours *c, uint32_t mode) {
    const char *code = NULL;
    bool sticky = mode & S_ISVTX, open = mode & S_IWOTH;
    if (sticky && open) code = colour_by_key(c, "tw");
    if (!code && open) code = colour_by_key(c, "ow");
    if (!code && sticky) code = colour_by_key(c, "st");
    return code ? code : colour_by_key(c, "di");
}

static const char *colour_of_file(const struct entry_colours *c, const struct entry_view *v) {
    uint32_t mode = v->stat ? v->stat->mode : 0;
    const char *code = NULL;
    if (mode & S_ISUID) code = colour_by_key(c, "su");
    if (!code && mode & S_ISGID) code = colour_by_key(c, "sg");
    if (!code && mode & (S_IXUSR | S_IXGRP | S_IXOTH)) code = colour_by_key(c, "ex");
    if (!code && v->stat && v->stat->nlink > 1) code = colour_by_key(c, "mh");
    if (!code) code = colour_by_end(c, v);
    return code ? code : colour_by_key(c, "fi");
}

static const char *colour_of(const struct entry_colours *c, const struct entry_view *v) {
    static const char *keys[] = {[DT_FIFO] = "pi", [DT_CHR] = "cd", [DT_BLK] = "bd",
                                 [DT_LNK] = "ln", [DT_SOCK] = "so"};
    if (v->type == DT_DIR) return colour_of_directory(c, v->stat ? v->stat->mode : 0);
    if (v->type == DT_REG) return colour_of_file(c, v);
    const char *code = NULL;
    if (v->type == DT_LNK && (target_letter(v) == 'N')) code = colour_by_key(c, "or");
    if (!code && v->type < sizeof keys / sizeof *keys && keys[v->type])
        code = colour_by_key(c, keys[v->type]);
    return code ? code : colour_by_key(c, "no");
}

static void append_coloured(const struct format_piece *p, struct text_buffer *to, const char *code,
                            const char *text, size_t length) {
    if (!code || !*code || !length) {
        append_part(p, to, text, length);
        return;
    }
    text_append(to, "\033[", 2);
    text_append(to, code, strlen(code));
    text_append(to, "m", 1);
    append_part(p, to, text, length);
    text_append(to, "\033[0m", 4);
}

/* The directories that lead there in their colour, the name in its own. */
static void append_typed(const struct entry_format *f, const struct format_piece *p,
                         const struct entry_view *v, struct text_buffer *to) {
    size_t at = component_at(v->path, v->path_length);
    if (at == v->path_length) at = 0;
    append_coloured(p, to, colour_by_key(&f->colours, "di"), v->path, at);
    append_coloured(p, to, colour_of(&f->colours, v), v->path + at, v->path_length - at);
}

/* ---- JSON ---- */

/* How many bytes the UTF-8 sequence at text has; 0: it is none. */
static size_t utf8_length(const unsigned char *text, size_t left) {
    size_t n = text[0] < 0x80 ? 1 : text[0] < 0xc2 ? 0 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3
               : text[0] < 0xf5 ? 4 : 0;
    if (!n || n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    if (text[0] == 0xe0 && text[1] < 0xa0) return 0;
    if (text[0] == 0xed && text[1] > 0x9f) return 0;
    if (text[0] == 0xf0 && text[1] < 0x90) return 0;
    if (text[0] == 0xf4 && text[1] > 0x8f) return 0;
    return n;
}

/* A byte that is no UTF-8 becomes the surrogate that Python's os.fsencode turns back into it. */
static void append_json_string(struct text_buffer *to, const char *text, size_t length) {
    text_append_byte(to, '"');
    for (size_t i = 0; i < length;) {
        const unsigned char *at = (const unsigned char *)text + i;
        size_t n = utf8_length(at, length - i);
        char escaped[8];
        if (n && *at >= ' ' && *at != '"' && *at != '\\' && *at != 0x7f) {
            text_append(to, (const char *)at, n);
            i += n;
            continue;
        }
        if (*at == '"' || *at == '\\') snprintf(escaped, sizeof escaped, "\\%c", *at);
        else snprintf(escaped, sizeof escaped, "\\u%04x", *at < 0x80 ? *at : 0xdc00u + *at);
        text_append(to, escaped, strlen(escaped));
        i++;
    }
    text_append_byte(to, '"');
}

static const char *type_word(uint8_t type) {
    switch (type) {
    case DT_REG: return "file";
    case DT_DIR: return "directory";
    case DT_LNK: return "link";
    case DT_FIFO: return "fifo";
    case DT_SOCK: return "socket";
    case DT_BLK: return "block device";
    case DT_CHR: return "character device";
    default: return "unknown";
    }
}

static void append_json(const struct entry_view *v, struct text_buffer *to) {
    const struct entry_stat *s = v->stat;
    char text[512];
    text_append(to, "{\"path\": ", 9);
    append_json_string(to, v->path, v->path_length);
    int n = snprintf(text, sizeof text,
                     ", \"type\": \"%s\", \"depth\": %u, \"size\": %lld, \"blocks\": %lld, "
                     "\"mode\": %u, \"links\": %u, \"uid\": %u, \"gid\": %u, \"device\": %llu, "
                     "\"inode\": %llu, \"atime_ns\": %lld, \"mtime_ns\": %lld, \"ctime_ns\": %lld",
                     type_word(v->type), v->depth, (long long)s->size, (long long)s->blocks,
                     s->mode & 07777u, s->nlink, s->uid, s->gid, (unsigned long long)s->dev,
                     (unsigned long long)s->inode, (long long)s->atime_ns, (long long)s->mtime_ns,
                     (long long)s->ctime_ns);
    text_append(to, text, (size_t)n);
    size_t length;
    char *target = v->type == DT_LNK ? read_link(v, &length) : NULL;
    if (target) {
        text_append(to, ", \"target\": ", 12);
        append_json_string(to, target, length);
        free(target);
    }
    text_append(to, "}\n", 2);
}

/* ---- all of it ---- */

static void append_stat(const struct entry_format *f, const struct format_piece *p,
                        const struct entry_view *v, struct text_buffer *to) {
    const struct entry_stat *s = v->stat;
    switch (p->letter) {
    case 'i': append_decimal(p, to, s->inode); break;
    case 'b': append_decimal(p, to, (uint64_t)s->blocks); break;
    case 'k': append_decimal(p, to, ((uint64_t)s->blocks + 1) / 2); break;
    case 's': append_decimal(p, to, (uint64_t)s->size); break;
    case 'n': append_decimal(p, to, s->nlink); break;
    case 'U': append_decimal(p, to, s->uid); break;
    case 'G': append_decimal(p, to, s->gid); break;
    case 'D': append_decimal(p, to, s->dev); break;
    case 'u': append_owner(f, p, OWNER_USER, s->uid, to); break;
    case 'g': append_owner(f, p, OWNER_GROUP, s->gid, to); break;
    case 'm': append_number(p, to, s->mode & 07777u, 'o'); break;
    case 'M': append_mode(p, v, to); break;
    case 'F': append_file_system(p, s, to); break;
    case 'S': append_sparseness(p, s, to); break;
    case 'T': append_time(p, v, to); break;
    case PIECE_DEVICE: append_device(p, v, to); break;
    case PIECE_WHEN: append_when(f, p, v, to); break;
    case PIECE_ESCAPED: append_listed(v, to); break;
    case PIECE_JSON: append_json(v, to); break;
    }
}

static void append_piece(const struct entry_format *f, const struct format_piece *p,
                         const struct entry_view *v, struct text_buffer *to) {
    switch (p->letter) {
    case PIECE_TEXT: text_append(to, p->text, p->length); break;
    case 'p': append_padded(p, to, v->path, v->path_length); break;
    case 'f': append_name(p, v, to); break;
    case 'h': append_directory(p, v, to); break;
    case 'P': append_below_root(p, v, to); break;
    case 'H': append_root(p, v, to); break;
    case 'd': append_number(p, to, v->depth, 'd'); break;
    case 'l': append_target(p, v, to); break;
    case 'y': append_letter(p, to, type_letter(v->type)); break;
    case 'Y': append_letter(p, to, target_letter(v)); break;
    case PIECE_TYPED: append_typed(f, p, v, to); break;
    default:
        if (v->stat) append_stat(f, p, v, to);
    }
}

void format_entry(const struct entry_format *f, const struct entry_view *v,
                  struct text_buffer *to) {
    for (uint32_t i = 0; i < f->count; i++) append_piece(f, &f->pieces[i], v, to);
}
