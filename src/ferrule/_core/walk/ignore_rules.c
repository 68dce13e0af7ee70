#define _GNU_SOURCE
#include "ignore_rules.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"

#define JOINED_BYTES 1024 /* longer paths than this take memory to be put together */

/* A pattern is a row of these; less than 256 is the byte itself. */
enum token {
    ANY_BYTE = 256, /* ? */
    STAR,           /* any bytes of one name */
    DEEP_STAR,      /* any bytes, slashes among them */
    DEEP_DIRS,      /* any number of whole names, each with its slash */
    FIRST_CLASS,    /* [...]: FIRST_CLASS + its number */
};

enum rule_kind { RULE_LITERAL, RULE_SUFFIX, RULE_TOKENS };

struct rule {
    uint32_t at, length; /* in `bytes`, or in `tokens` */
    uint8_t kind;
    uint8_t is_negated;
    uint8_t only_directories;
    uint8_t by_name; /* looks at the name alone, in any directory below */
};

struct byte_class { uint8_t bits[32]; };

struct ignore_rules {
    struct ignore_rules *above;
    uint32_t refs;
    uint32_t base;
    uint32_t lead_length;
    uint32_t count, token_count, byte_count, class_count;
    struct rule *rules;
    uint32_t *tokens;
    struct byte_class *classes;
    char *bytes;
    char *lead;
};

/* ---- parsing ---- */

static void class_add(struct byte_class *c, unsigned byte) {
    c->bits[byte >> 3] |= (uint8_t)(1u << (byte & 7));
}

static int class_has(const struct byte_class *c, unsigned char byte) {
    return c->bits[byte >> 3] >> (byte & 7) & 1;
}

/* The names between [: and :], in ASCII whatever the locale is, as git has it. */
static int is_in_named_class(const char *name, size_t length, unsigned c) {
    static const char *const names[] = {"alnum", "alpha", "blank", "cntrl", "digit", "graph",
                                        "lower", "print", "punct", "space", "upper", "xdigit"};
    int lower = c >= 'a' && c <= 'z', upper = c >= 'A' && c <= 'Z', digit = c >= '0' && c <= '9';
    int graph = c > ' ' && c < 127;
    int hex = digit || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
    int is[] = {lower || upper || digit, lower || upper, c == ' ' || c == '\t', c < ' ' || c == 127,
                digit, graph, lower, graph || c == ' ', graph && !lower && !upper && !digit,
                c == ' ' || c == '\t' || c == '\n' || c == '\r', upper, hex};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == length && !memcmp(names[i], name, length)) return is[i];
    return -1;
}

static int class_add_named(struct byte_class *c, const char *name, size_t length) {
    for (unsigned byte = 0; byte < 128; byte++) {
        int is = is_in_named_class(name, length, byte);
        if (is < 0) return -1;
        if (is) class_add(c, byte);
    }
    return 0;
}

/* From after "[" to after "]"; NULL if it never ends. */
static const char *parse_class(struct byte_class *c, const char *p, const char *end) {
    int negated = p < end && (*p == '!' || *p == '^');
    unsigned previous = 0; /* where a range may begin; 0: nowhere */
    memset(c, 0, sizeof *c); /* a broken pattern may have begun it */
    if (negated) p++;
    for (int first = 1; p < end && (first || *p != ']'); first = 0, p++) {
        if (*p == '-' && previous && p + 1 < end && p[1] != ']') {
            if (*++p == '\\' && ++p == end) return NULL;
            for (unsigned byte = previous; byte <= (unsigned char)*p; byte++) class_add(c, byte);
            previous = 0;
            continue;
        }
        if (*p == '[' && p + 1 < end && p[1] == ':') {
            const char *name = p + 2, *close = memchr(name, ']', (size_t)(end - name));
            if (!close) return NULL;
            if (close > name && close[-1] == ':') {
                if (class_add_named(c, name, (size_t)(close - name - 1)) < 0) return NULL;
                p = close;
                previous = 0;
                continue;
            }
        } else if (*p == '\\' && ++p == end) {
            return NULL;
        }
        previous = (unsigned char)*p;
        class_add(c, previous);
    }
    if (p >= end) return NULL;
    for (size_t i = 0; negated && i < sizeof c->bits; i++) c->bits[i] = (uint8_t)~c->bits[i];
    return p + 1;
}

/* From a star to after it and those that follow at once. */
static const char *parse_stars(struct ignore_rules *r, const char *begin, const char *p,
                               const char *end) {
    const char *star = p;
    while (p < end && *p == '*') p++;
    int is_deep = p - star > 1 && (star == begin || star[-1] == '/') &&
                  (p == end || *p == '/' || (*p == '\\' && p + 1 < end && p[1] == '/'));
    int ends_name = is_deep && p < end && *p == '/';
    r->tokens[r->token_count++] = ends_name ? DEEP_DIRS : is_deep ? DEEP_STAR : STAR;
    return p + ends_name;
}

/* Append a pattern's tokens; -1 if no path can match it. */
static int parse_tokens(struct ignore_rules *r, const char *begin, const char *end) {
    for (const char *p = begin; p < end;) {
        if (*p == '*') {
            p = parse_stars(r, begin, p, end);
        } else if (*p == '[') {
            r->tokens[r->token_count++] = FIRST_CLASS + r->class_count;
            p = parse_class(&r->classes[r->class_count], p + 1, end);
            if (!p) return -1;
            r->class_count++;
        } else if (*p == '?') {
            r->tokens[r->token_count++] = ANY_BYTE;
            p++;
        } else {
            if (*p == '\\' && ++p == end) return -1;
            r->tokens[r->token_count++] = (unsigned char)*p++;
        }
    }
    return 0;
}

/* Most patterns are a name, or a star and the end of one: those are compared as bytes. */
static void settle_kind(struct ignore_rules *r, struct rule *rule) {
    const uint32_t *tokens = r->tokens + rule->at;
    uint32_t from = rule->by_name && rule->length && tokens[0] == STAR;
    for (uint32_t i = from; i < rule->length; i++)
        if (tokens[i] >= ANY_BYTE) return;
    uint32_t at = r->byte_count;
    for (uint32_t i = from; i < rule->length; i++) r->bytes[r->byte_count++] = (char)tokens[i];
    r->token_count = rule->at;
    *rule = (struct rule){.at = at, .length = rule->length - from,
                          .kind = from ? RULE_SUFFIX : RULE_LITERAL, .is_negated = rule->is_negated,
                          .only_directories = rule->only_directories, .by_name = rule->by_name};
}

static void parse_rule(struct ignore_rules *r, const char *p, const char *end) {
    struct rule rule = {.at = r->token_count, .kind = RULE_TOKENS};
    uint32_t classes = r->class_count;
    if (p < end && *p == '!') {
        rule.is_negated = 1;
        p++;
    }
    if (p < end && end[-1] == '/') {
        rule.only_directories = 1;
        end--;
    }
    if (p >= end) return;
    rule.by_name = !memchr(p, '/', (size_t)(end - p));
    if (p < end && *p == '/') p++;
    if (p == end || parse_tokens(r, p, end) < 0) {
        r->token_count = rule.at;
        r->class_count = classes;
        return;
    }
    rule.length = r->token_count - rule.at;
    settle_kind(r, &rule);
    r->rules[r->count++] = rule;
}

/* Without the spaces at the end that no backslash keeps. */
static const char *trim_spaces(const char *p, const char *end) {
    const char *kept = p;
    for (; p < end; p++) {
        if (*p == '\\' && p + 1 < end) p++;
        else if (*p == ' ') continue;
        kept = p + 1;
    }
    return kept;
}

static void parse_text(struct ignore_rules *r, const char *text, size_t length) {
    const char *p = text, *all = text + length, *line_end;
    if (length >= 3 && !memcmp(text, "\xef\xbb\xbf", 3)) p += 3;
    for (; p < all; p = line_end + 1) {
        line_end = memchr(p, '\n', (size_t)(all - p));
        if (!line_end) line_end = all;
        const char *end = line_end;
        if (end > p && end[-1] == '\r') end--;
        end = p + strnlen(p, (size_t)(end - p));
        if (p < end && *p != '#') parse_rule(r, p, trim_spaces(p, end));
    }
}

static size_t count_of(const char *text, size_t length, char wanted) {
    size_t n = 0;
    for (size_t i = 0; i < length; i++) n += text[i] == wanted;
    return n;
}

struct ignore_rules *ignore_rules_new(struct ignore_rules *above, const char *text, size_t length,
                                      uint32_t base, const char *lead) {
    /* A rule takes two bytes of the text at least, the last one may go without its newline; a byte
     * of it makes at most one token and one byte. */
    size_t lines = count_of(text, length, '\n') + 1, lead_length = strlen(lead);
    size_t rules = (lines < length / 2 + 1 ? lines : length / 2 + 1) * sizeof(struct rule);
    size_t classes = (count_of(text, length, '[') + 1) * sizeof(struct byte_class);
    size_t tokens = length * sizeof(uint32_t);
    struct ignore_rules *r =
        calloc(1, sizeof *r + rules + classes + tokens + length + lead_length + 1);
    if (!r) return NULL;
    r->above = above ? ignore_rules_hold(above) : NULL;
    r->refs = 1;
    r->base = base;
    r->lead_length = (uint32_t)lead_length;
    r->rules = (void *)(r + 1);
    r->classes = (void *)((char *)r->rules + rules);
    r->tokens = (void *)((char *)r->classes + classes);
    r->bytes = (char *)r->tokens + tokens;
    r->lead = r->bytes + length;
    memcpy(r->lead, lead, lead_length);
    parse_text(r, text, length);
    return r;
}

struct ignore_rules *ignore_rules_hold(struct ignore_rules *r) {
    ATOMIC_ADD(&r->refs, 1, RELAXED);
    return r;
}

/* A loop, because a chain may be as long as a path is deep. */
void ignore_rules_drop(struct ignore_rules *r) {
    while (r && ATOMIC_SUB(&r->refs, 1, ACQ_REL) == 1) {
        struct ignore_rules *above = r->above;
        free(r);
        r = above;
    }
}

/* ---- files ---- */

static ssize_t read_all(int fd, char *text, size_t room) {
    size_t size = 0;
    while (size < room) {
        ssize_t n = read(fd, text + size, room - size);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        if (n == 0) break;
        size += (size_t)n;
    }
    return (ssize_t)size;
}

static int parse_file(struct ignore_rules **rules, struct ignore_rules *above, int fd,
                      uint32_t base, const char *lead) {
    struct stat s;
    if (fstat(fd, &s) < 0) return errno;
    if (!S_ISREG(s.st_mode)) return 0;
    if (s.st_size > IGNORE_FILE_LIMIT) return EFBIG;
    size_t room = (size_t)s.st_size;
    char *text = malloc(room + 1);
    if (!text) return ENOMEM;
    ssize_t size = read_all(fd, text, room);
    struct ignore_rules *r =
        size > 0 ? ignore_rules_new(above, text, (size_t)size, base, lead) : NULL;
    free(text);
    if (size < 0) return (int)-size;
    if (size > 0 && !r) return ENOMEM;
    if (r && r->count) *rules = r;
    else ignore_rules_drop(r);
    return 0;
}

int ignore_rules_load(struct ignore_rules **rules, struct ignore_rules *above, int dir_fd,
                      const char *name, uint32_t base, const char *lead) {
    int fd, err;
    *rules = NULL;
    /* Not waiting for the writer of a FIFO. */
    do fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        err = errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? 0 : errno;
    } else {
        err = parse_file(rules, above, fd, base, lead);
        close(fd);
    }
    if (!*rules && above) *rules = ignore_rules_hold(above);
    return err;
}

/* ---- matching ---- */

static int byte_matches(const struct ignore_rules *r, uint32_t token, unsigned char byte) {
    if (token < ANY_BYTE) return token == byte;
    if (byte == '/') return 0;
    return token == ANY_BYTE || class_has(&r->classes[token - FIRST_CLASS], byte);
}

/* Two places to go back to are enough: a later star takes all that an earlier one of its name could
 * have, and a later deep one all that any before it could. */
static int tokens_match(const struct ignore_rules *r, const struct rule *rule, const char *s,
                        const char *end) {
    const uint32_t *t = r->tokens + rule->at, *t_end = t + rule->length;
    const uint32_t *star = NULL, *deep = NULL;
    const char *star_s = NULL, *deep_s = NULL;
    for (;;) {
        if (t < t_end && *t == STAR) {
            star = ++t;
            star_s = s;
        } else if (t < t_end && (*t == DEEP_STAR || *t == DEEP_DIRS)) {
            deep = ++t;
            deep_s = s;
            star = NULL;
        } else if (t < t_end && s < end && byte_matches(r, *t, (unsigned char)*s)) {
            t++;
            s++;
        } else if (t == t_end && s == end) {
            return 1;
        } else if (star && star_s < end && *star_s != '/') {
            t = star;
            s = ++star_s;
        } else {
            if (!deep) return 0;
            if (deep[-1] == DEEP_DIRS) deep_s = memchr(deep_s, '/', (size_t)(end - deep_s));
            if (!deep_s || deep_s == end) return 0;
            star = NULL;
            t = deep;
            s = ++deep_s;
        }
    }
}

static int rule_matches(const struct ignore_rules *r, const struct rule *rule, const char *s,
                        size_t length) {
    const char *bytes = r->bytes + rule->at;
    if (rule->kind == RULE_TOKENS) return tokens_match(r, rule, s, s + length);
    if (rule->kind == RULE_LITERAL)
        return length == rule->length && !memcmp(s, bytes, length);
    return length >= rule->length && !memcmp(s + length - rule->length, bytes, rule->length);
}

static int judge_one(const struct ignore_rules *r, const char *path, size_t length,
                     const char *name, size_t name_length, int is_directory) {
    for (const struct rule *rule = r->rules + r->count; rule-- > r->rules;) {
        if (rule->only_directories && !is_directory) continue;
        if (rule->by_name ? rule_matches(r, rule, name, name_length)
                          : rule_matches(r, rule, path, length))
            return rule->is_negated ? IGNORE_INCLUDED : IGNORE_IGNORED;
    }
    return IGNORE_UNDECIDED;
}

/* Of rules that lie above the root, where the path has to be put together. */
static int judge_joined(const struct ignore_rules *r, const char *path, size_t length,
                        const char *name, size_t name_length, int is_directory) {
    char some[JOINED_BYTES], *joined = some;
    size_t whole = r->lead_length + length;
    if (whole > sizeof some && !(joined = malloc(whole))) return -ENOMEM;
    memcpy(joined, r->lead, r->lead_length);
    memcpy(joined + r->lead_length, path, length);
    int verdict = judge_one(r, joined, whole, name, name_length, is_directory);
    if (joined != some) free(joined);
    return verdict;
}

int ignore_rules_judge(const struct ignore_rules *r, const char *path, uint32_t length,
                       uint32_t name_at, int is_directory) {
    int verdict = IGNORE_UNDECIDED;
    for (; r && verdict == IGNORE_UNDECIDED; r = r->above)
        verdict = (r->lead_length ? judge_joined : judge_one)(
            r, path + r->base, length - r->base, path + name_at, length - name_at, is_directory);
    return verdict;
}
