/* What libkqueue does otherwise than a kernel's kqueue, each tried with nothing else around: one line
 * for each, "NAME yes" where it still differs.  poller_kqueue.h gets round them, or a test is left
 * out on kqueue; test_libkqueue.py has what hangs on each. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/event.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int queue;
static const struct timespec a_while = {.tv_nsec = 200000000};

static void must(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(2);
}

/* 0, or an errno. */
static int change(int fd, int filter, int flags, unsigned fflags) {
    struct kevent c, receipt = {0};
    struct timespec now = {0};
    EV_SET(&c, (uintptr_t)fd, filter, flags | EV_RECEIPT, fflags, 0, NULL);
    int n = kevent(queue, &c, 1, &receipt, 1, &now);
    return receipt.flags & EV_ERROR ? (int)receipt.data : n < 0 ? errno : 0;
}

static int events(struct kevent *found, int most) {
    int n = kevent(queue, NULL, 0, found, most, &a_while);
    must(n >= 0, "kevent");
    return n;
}

/* A kernel tells of an eventfd that can be read. */
static int eventfd_is_not_reported(void) {
    struct kevent found[4];
    int fd = eventfd(0, EFD_NONBLOCK);
    uint64_t one = 1;
    must(change(fd, EVFILT_READ, EV_ADD | EV_ONESHOT, 0) == 0, "add");
    must(write(fd, &one, sizeof one) == sizeof one, "write");
    int n = events(found, 4);
    change(fd, EVFILT_READ, EV_DELETE, 0);
    close(fd);
    return n == 0;
}

/* The library's thread opens and closes descriptors, too. */
static int with_number(int fd, int number) {
    for (int i = 0; fd != number; i++) {
        must(i < 1000, "the same number");
        int other = fcntl(fd, F_DUPFD, number);
        close(other == number ? fd : other);
        if (other == number) fd = other;
        else nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return fd;
}

/* A kernel forgets a registration when the descriptor is closed. */
static int registration_outlives_descriptor(void) {
    struct kevent found[4];
    int first[2], second[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, first) == 0, "socketpair");
    must(change(first[0], EVFILT_READ, EV_ADD | EV_ONESHOT, 0) == 0, "add");
    close(first[0]);
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, second) == 0, "socketpair");
    second[0] = with_number(second[0], first[0]);
    int err = change(second[0], EVFILT_READ, EV_ADD | EV_ONESHOT, 0);
    must(write(second[1], "x", 1) == 1, "write");
    int n = events(found, 4);
    change(second[0], EVFILT_READ, EV_DELETE, 0);
    close(first[1]), close(second[0]), close(second[1]);
    return err != 0 || n == 0;
}

/* A kernel leaves a socket's error to who receives. */
static int error_is_taken(void) {
    struct kevent found[4];
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    struct linger at_once = {1, 0};
    char byte;
    int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0, "listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    must(connect(client, (struct sockaddr *)&address, size) == 0, "connect");
    int server = accept(listener, NULL, NULL);
    must(change(server, EVFILT_READ, EV_ADD | EV_ONESHOT, 0) == 0, "add");
    setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(client);
    must(events(found, 4) == 1, "an event");
    ssize_t n = recv(server, &byte, 1, MSG_DONTWAIT);
    int reset = n < 0 && errno == ECONNRESET;
    close(server), close(listener);
    return !reset;
}

/* A kernel has a filter to read and one to write for one descriptor. */
static int has_one_filter_per_descriptor(void) {
    int pair[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    must(change(pair[0], EVFILT_READ, EV_ADD | EV_ONESHOT, 0) == 0, "add");
    struct kevent found[4];
    int err = change(pair[0], EVFILT_WRITE, EV_ADD | EV_ONESHOT, 0);
    int n = events(found, 4);
    change(pair[0], EVFILT_READ, EV_DELETE, 0);
    change(pair[0], EVFILT_WRITE, EV_DELETE, 0);
    close(pair[0]), close(pair[1]);
    return err != 0 || n != 1 || found[0].filter != EVFILT_WRITE;
}

/* A kernel's user event may be added and triggered in one change. */
static int user_event_needs_two_changes(void) {
    struct kevent found[4];
    int err = change(1, EVFILT_USER, EV_ADD | EV_CLEAR, NOTE_TRIGGER);
    int n = events(found, 4);
    change(1, EVFILT_USER, EV_DELETE, 0);
    return err != 0 || n == 0;
}

static int open_descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 100; fd++) count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

/* A kernel's queue is not the child's. */
static int child_keeps_descriptors(void) {
    int status, before = open_descriptors();
    int mine = kqueue();
    must(mine >= 0, "kqueue");
    pid_t child = fork();
    if (child == 0) {
        close(mine);
        nanosleep(&a_while, NULL);
        _exit(open_descriptors() > before);
    }
    must(waitpid(child, &status, 0) == child, "waitpid");
    close(mine);
    return WEXITSTATUS(status);
}

int main(void) {
    const struct {
        const char *name;
        int (*differs)(void);
    } each[] = {
        {"eventfd_is_not_reported", eventfd_is_not_reported},
        {"registration_outlives_descriptor", registration_outlives_descriptor},
        {"error_is_taken", error_is_taken},
        {"has_one_filter_per_descriptor", has_one_filter_per_descriptor},
        {"child_keeps_descriptors", child_keeps_descriptors},
        {"user_event_needs_two_changes", user_event_needs_two_changes},
    };
    for (unsigned i = 0; i < sizeof each / sizeof *each; i++) {
        queue = kqueue();
        must(queue >= 0, "kqueue");
        printf("%s %s\n", each[i].name, each[i].differs() ? "yes" : "no");
        close(queue);
    }
    return 0;
}
