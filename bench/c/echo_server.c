/* The floor: a level-triggered epoll echo server on one thread.  Prints its port. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SCRATCH = 256 * 1024, EVENTS = 1024 };

struct connection {
	int fd;
	size_t rest_length; /* bytes that the socket did not take; nothing is received meanwhile */
	size_t rest_offset;
	char *rest;
};

static char scratch[SCRATCH];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int listen_on_loopback(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) || listen(fd, 1024))
		die("listen");
	getsockname(fd, (struct sockaddr *)&address, &length);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	return fd;
}

static void watch(int epoll, int operation, int fd, unsigned events, void *pointer)
{
	struct epoll_event event = {.events = events, .data.ptr = pointer};
	if (epoll_ctl(epoll, operation, fd, &event))
		die("epoll_ctl");
}

static void accept_all(int epoll, int listener)
{
	int fd, one = 1;
	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		struct connection *connection = calloc(1, sizeof(*connection));
		if (!connection)
			die("calloc");
		connection->fd = fd;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, connection);
	}
}

static void end(struct connection *connection)
{
	close(connection->fd);
	free(connection->rest);
	free(connection);
}

static void keep_rest(int epoll, struct connection *connection, size_t offset, size_t length)
{
	if (!connection->rest && !(connection->rest = malloc(SCRATCH)))
		die("malloc");
	memcpy(connection->rest, scratch + offset, length);
	connection->rest_offset = 0;
	connection->rest_length = length;
	watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLOUT, connection);
}

static void echo(int epoll, struct connection *connection)
{
	ssize_t received = recv(connection->fd, scratch, SCRATCH, 0);
	if (received < 0 && errno == EAGAIN)
		return;
	if (received <= 0) {
		end(connection);
		return;
	}
	ssize_t sent = send(connection->fd, scratch, received, MSG_NOSIGNAL);
	if (sent < 0 && errno != EAGAIN) {
		end(connection);
		return;
	}
	if (sent < 0)
		sent = 0;
	if (sent < received)
		keep_rest(epoll, connection, sent, received - sent);
}

static void send_rest(int epoll, struct connection *connection)
{
	ssize_t sent = send(connection->fd, connection->rest + connection->rest_offset,
			    connection->rest_length, MSG_NOSIGNAL);
	if (sent < 0 && errno == EAGAIN)
		return;
	if (sent < 0) {
		end(connection);
		return;
	}
	connection->rest_offset += sent;
	connection->rest_length -= sent;
	if (!connection->rest_length)
		watch(epoll, EPOLL_CTL_MOD, connection->fd, EPOLLIN, connection);
}

int main(void)
{
	static struct epoll_event events[EVENTS];
	int epoll = epoll_create1(0);
	int listener = listen_on_loopback();
	watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
	for (;;) {
		int count = epoll_wait(epoll, events, EVENTS, -1);
		for (int i = 0; i < count; i++) {
			struct connection *connection = events[i].data.ptr;
			if (!connection)
				accept_all(epoll, listener);
			else if (connection->rest_length)
				send_rest(epoll, connection);
			else
				echo(epoll, connection);
		}
	}
}
