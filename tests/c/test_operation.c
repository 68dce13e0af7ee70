/* operation.c: the rows, and that both ways of a row, its system call and its SQE, come to the
 * same result.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/stat.h>

#include "kernel_ring.h"
#include "operation.h"

static struct op operation(uint8_t kind, int fd) {
    return (struct op){.kind = kind, .fd = fd, .fd2 = -1, .off = -1};
}

static void every_row_is_whole(void) {
    for (int kind = 0; kind < OP_KINDS; kind++) {
        const struct op_row *row = &op_rows[kind];
        CHECK(row->name != NULL && row->name[0]);
        CHECK(row->attempt != NULL);
        CHECK((row->prepare != NULL) == (row->uring_op >= 0));
        for (int other = 0; other < kind; other++) CHECK(strcmp(row->name, op_rows[other].name));
    }
}

/* A length of 64 bits must not become a short one of 32. */
static void lengths_beyond_the_kernels_are_cut_not_wrapped(void) {
    static const uint8_t kinds[] = {OP_READ, OP_WRITE, OP_RECV, OP_SEND};
    for (size_t i = 0; i < sizeof kinds; i++) {
        struct uring_sqe sqe = {0};
        struct op o = operation(kinds[i], 0);
        o.len = (1ULL << 32) + 1;
        op_rows[o.kind].prepare(&o, &sqe);
        CHECK_EQ(sqe.len, 0x7ffff000);
    }
}

static void sends_never_raise_a_signal(void) {
    static const uint8_t kinds[] = {OP_SEND, OP_SENDMSG};
    for (size_t i = 0; i < sizeof kinds; i++) {
        struct uring_sqe sqe = {0};
        struct op o = operation(kinds[i], 0);
        op_rows[o.kind].prepare(&o, &sqe);
        CHECK(sqe.op_flags & MSG_NOSIGNAL);
    }
    int pair[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    close(pair[1]);
    struct op o = operation(OP_SEND, pair[0]);
    o.addr = "x";
    o.len = 1;
    CHECK_EQ(op_rows[OP_SEND].attempt(&o), -EPIPE);
    CHECK_EQ(op_try_send(pair[0], "x", 1, 0), -EPIPE);
    close(pair[0]);
}

static void what_cannot_be_done_at_once_is_told_at_once(void) {
    char byte;
    int pair[2], listener = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    CHECK_EQ(op_try_recv(pair[0], &byte, 1, 0), -EAGAIN);
    CHECK_EQ(op_try_send(pair[1], "x", 1, 0), 1);
    CHECK_EQ(op_try_recv(pair[0], &byte, 1, 0), 1);
    CHECK_EQ(byte, 'x');
    struct op o = operation(OP_ACCEPT, listener);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(op_try_accept(&o), -EAGAIN); /* blocking: not even tried */
    CHECK_EQ(fcntl(listener, F_SETFL, O_NONBLOCK), 0);
    CHECK_EQ(op_try_accept(&o), -EAGAIN);
    o.fd = -1;
    CHECK_EQ(op_try_accept(&o), -EBADF);
    close(listener);
    close(pair[0]);
    close(pair[1]);
}

/* ---- both ways ---- */

static int64_t by_system_call(struct op *o) { return op_rows[o->kind].attempt(o); }

static struct ring ring;

static int64_t by_sqe(struct op *o) {
    struct uring_cqe cqe;
    struct uring_sqe *sqe = queue(&ring, (uint8_t)op_rows[o->kind].uring_op, 7);
    op_rows[o->kind].prepare(o, sqe);
    submit_and_wait(&ring, 1);
    CHECK_EQ(ring_copy_cqes(&ring, &cqe, 1), 1);
    CHECK_EQ(cqe.user_data, 7);
    return cqe.res;
}

static int64_t (*perform)(struct op *);

static int64_t perform_on(uint8_t kind, int fd, void *addr, uint64_t len, int64_t off) {
    struct op o = operation(kind, fd);
    o.addr = addr;
    o.len = len;
    o.off = off;
    return perform(&o);
}

static int64_t perform_paths(uint8_t kind, int fd, const char *path, const char *path2,
                             uint32_t flags, uint32_t mode) {
    struct op o = operation(kind, fd);
    o.fd2 = fd;
    o.addr = (void *)path;
    o.addr2 = (void *)path2;
    o.flags = flags;
    o.mode = mode;
    return perform(&o);
}

static void read_write_and_shape_a_file(void) {
    char name[] = "/tmp/ferrule-XXXXXX", back[16] = {0};
    int fd = mkstemp(name);
    CHECK(fd >= 0);
    CHECK_EQ(perform_on(OP_WRITE, fd, "0123456789", 10, -1), 10);
    CHECK_EQ(perform_on(OP_WRITE, fd, "ab", 2, 4), 2);
    CHECK_EQ(perform_on(OP_READ, fd, back, sizeof back, -1), 0); /* at the file's position */
    CHECK_EQ(perform_on(OP_READ, fd, back, sizeof back, 2), 8);
    CHECK(!memcmp(back, "23ab6789", 9));
    struct iovec parts[2] = {{back, 3}, {back + 8, 4}};
    memset(back, 0, sizeof back);
    CHECK_EQ(perform_on(OP_READV, fd, parts, 2, 0), 7);
    CHECK(!memcmp(back, "012", 4) && !memcmp(back + 8, "3ab6", 5));
    CHECK_EQ(perform_on(OP_WRITEV, fd, parts, 2, 10), 7);
    CHECK_EQ(perform_on(OP_FSYNC, fd, NULL, 0, 0), 0);
    struct op o = operation(OP_STATX, fd);
    struct statx *facts = malloc(sizeof *facts);
    CHECK(facts != NULL);
    o.addr = "";
    o.addr2 = facts;
    o.flags = AT_EMPTY_PATH;
    o.mode = STATX_BASIC_STATS;
    CHECK_EQ(perform(&o), 0);
    CHECK_EQ(facts->stx_size, 17);
    free(facts);
    o = operation(OP_FALLOCATE, fd);
    o.off = 0;
    o.len = 100;
    int64_t r = perform(&o);
    CHECK(r == 0 || r == -EOPNOTSUPP);
    CHECK_EQ(perform_on(OP_READ, -1, back, 1, 0), -EBADF);
    CHECK_EQ(perform_on(OP_CLOSE, fd, NULL, 0, 0), 0);
    CHECK_EQ(fcntl(fd, F_GETFD), -1);
    unlink(name);
}

static void make_and_move_names(void) {
    char folder[] = "/tmp/ferrule-XXXXXX";
    CHECK(mkdtemp(folder) != NULL);
    int dir = open(folder, O_RDONLY | O_DIRECTORY);
    CHECK(dir >= 0);
    int64_t file = perform_paths(OP_OPENAT, dir, "file", NULL, O_CREAT | O_EXCL | O_WRONLY, 0600);
    CHECK(file >= 0);
    close((int)file);
    CHECK_EQ(perform_paths(OP_OPENAT, dir, "file", NULL, O_CREAT | O_EXCL, 0600), -EEXIST);
    CHECK_EQ(perform_paths(OP_OPENAT, dir, "none", NULL, O_RDONLY, 0), -ENOENT);
    CHECK_EQ(perform_paths(OP_MKDIRAT, dir, "sub", NULL, 0, 0700), 0);
    CHECK_EQ(perform_paths(OP_LINKAT, dir, "file", "sub/link", 0, 0), 0);
    CHECK_EQ(perform_paths(OP_RENAMEAT, dir, "file", "moved", 1 /* NOREPLACE */, 0), 0);
    CHECK_EQ(perform_paths(OP_RENAMEAT, dir, "moved", "sub/link", 1, 0), -EEXIST);
    CHECK_EQ(perform_paths(OP_SYMLINKAT, dir, "target", "symlink", 0, 0), 0);
    CHECK_EQ(faccessat(dir, "symlink", F_OK, 0), -1); /* it dangles */
    CHECK_EQ(perform_paths(OP_UNLINKAT, dir, "sub", NULL, AT_REMOVEDIR, 0), -ENOTEMPTY);
    CHECK_EQ(perform_paths(OP_UNLINKAT, dir, "sub/link", NULL, 0, 0), 0);
    CHECK_EQ(perform_paths(OP_UNLINKAT, dir, "sub", NULL, AT_REMOVEDIR, 0), 0);
    CHECK_EQ(perform_paths(OP_UNLINKAT, dir, "symlink", NULL, 0, 0), 0);
    CHECK_EQ(perform_paths(OP_UNLINKAT, dir, "moved", NULL, 0, 0), 0);
    close(dir);
    CHECK_EQ(rmdir(folder), 0);
}

static void connect_and_exchange(void) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address, peer_size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(bind(listener, (struct sockaddr *)&address, size), 0);
    CHECK_EQ(listen(listener, 1), 0);
    CHECK_EQ(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    CHECK_EQ(perform_on(OP_CONNECT, client, &address, size, -1), 0);
    struct sockaddr_in *peer = malloc(sizeof *peer);
    CHECK(peer != NULL);
    struct op o = operation(OP_ACCEPT, listener);
    o.addr = peer;
    o.addr2 = &peer_size;
    o.flags = SOCK_CLOEXEC;
    int server = (int)perform(&o);
    CHECK(server >= 0);
    CHECK_EQ(fcntl(server, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(peer->sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    free(peer);

    char back[4] = {0};
    CHECK_EQ(perform_on(OP_SEND, client, "abc", 3, -1), 3);
    o = operation(OP_POLL, server);
    o.flags = POLLIN;
    CHECK_EQ(perform(&o), POLLIN);
    CHECK_EQ(perform_on(OP_RECV, server, back, sizeof back, -1), 3);
    CHECK(!memcmp(back, "abc", 4));
    struct iovec part = {"xyz", 3};
    o = operation(OP_SENDMSG, server);
    o.msg = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    CHECK_EQ(perform(&o), 3);
    part.iov_base = back;
    o = operation(OP_RECVMSG, client);
    o.msg = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1};
    CHECK_EQ(perform(&o), 3);
    CHECK(!memcmp(back, "xyz", 4));
    close(client);
    CHECK_EQ(perform_on(OP_RECV, server, back, sizeof back, -1), 0);
    close(server);
    close(listener);
}

static void let_time_pass(void) {
    struct op o = operation(OP_TIMEOUT, -1);
    struct timespec before, after;
    o.ts.tv_nsec = 2000000;
    clock_gettime(CLOCK_MONOTONIC, &before);
    CHECK_EQ(perform(&o), -ETIME);
    clock_gettime(CLOCK_MONOTONIC, &after);
    CHECK((after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec
          >= 2000000);
    o = operation(OP_NOP, -1);
    CHECK_EQ(perform(&o), 0);
}

static void run_all(void) {
    RUN(read_write_and_shape_a_file);
    RUN(make_and_move_names);
    RUN(connect_and_exchange);
    RUN(let_time_pass);
}

int main(void) {
    RUN(every_row_is_whole);
    RUN(lengths_beyond_the_kernels_are_cut_not_wrapped);
    RUN(sends_never_raise_a_signal);
    RUN(what_cannot_be_done_at_once_is_told_at_once);
    puts("-- by system call");
    perform = by_system_call;
    run_all();
    int err = open_ring_with(&ring, 0, 4, 0);
    if (err < 0) {
        printf("the SQEs were not tried, no io_uring here: %s\n", strerror(-err));
        return 0;
    }
    puts("-- by SQE");
    perform = by_sqe;
    run_all();
    ring_close(&ring);
    return 0;
}
