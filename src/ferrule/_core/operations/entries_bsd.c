/* Reading directories on macOS and the BSDs; what is told has the layout of Linux. */
#ifndef __linux__
#include "operation_system.h"

#include <dirent.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
#include <sys/attr.h>
#include <sys/vnode.h>
#endif

struct entry { /* as getdents64 writes them on Linux */
    uint64_t inode;
    int64_t position;
    uint16_t size;
    uint8_t type;
    char name[];
};

/* Both systems' own entries are larger, so each is written over those that were read. */
static char *put_entry(char *to, uint64_t inode, uint8_t type, const char *name) {
    struct entry *e = (struct entry *)to;
    size_t length = strlen(name) + 1;
    size_t size = (offsetof(struct entry, name) + length + 7) & ~(size_t)7;
    memmove(e->name, name, length);
    e->inode = inode;
    e->position = 0;
    e->type = type;
    e->size = (uint16_t)size;
    return to + size;
}

#ifdef __APPLE__

struct found { /* as getattrlistbulk writes them for what is asked below */
    uint32_t size;
    attribute_set_t returned;
    attrreference_t name;
    fsobj_type_t type;
    uint64_t inode;
} __attribute__((packed, aligned(4)));

static uint8_t type_of(fsobj_type_t type) {
    switch (type) {
    case VREG: return DT_REG;
    case VDIR: return DT_DIR;
    case VBLK: return DT_BLK;
    case VCHR: return DT_CHR;
    case VLNK: return DT_LNK;
    case VSOCK: return DT_SOCK;
    case VFIFO: return DT_FIFO;
    default: return DT_UNKNOWN;
    }
}

int64_t system_read_entries(int fd, void *block, size_t room) {
    struct attrlist wanted = {.bitmapcount = ATTR_BIT_MAP_COUNT,
                              .commonattr = ATTR_CMN_RETURNED_ATTRS | ATTR_CMN_NAME |
                                            ATTR_CMN_OBJTYPE | ATTR_CMN_FILEID};
    /* So that every file system fills in all three, or says that it has none. */
    int count = getattrlistbulk(fd, &wanted, block, room, FSOPT_PACK_INVAL_ATTRS);
    if (count < 0) return -errno;
    char *from = block, *to = block;
    for (int i = 0; i < count; i++) {
        struct found f;
        memcpy(&f, from, sizeof f);
        const char *name = from + offsetof(struct found, name) + f.name.attr_dataoffset;
        from += f.size;
        to = put_entry(to, f.inode, type_of(f.type), name);
    }
    return to - (char *)block;
}

#else

_Static_assert(offsetof(struct dirent, d_name) >= offsetof(struct entry, name), "see put_entry");

int64_t system_read_entries(int fd, void *block, size_t room) {
    char *to = block;
    while (to == (char *)block) { /* unless all of them were deleted meanwhile */
        int64_t n = result_of(getdents(fd, block, room));
        if (n <= 0) return n;
        for (int64_t at = 0, size; at < n; at += size) {
            const struct dirent *d = (const struct dirent *)((char *)block + at);
            size = d->d_reclen;
            if (d->d_fileno) to = put_entry(to, d->d_fileno, d->d_type, d->d_name);
        }
    }
    return to - (char *)block;
}

#endif
#endif
