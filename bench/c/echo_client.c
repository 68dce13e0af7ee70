/* The load for every echo server: N connections, each sends M bytes, waits until all of them are
 * back, sends again.  Prints one line of JSON: rate, latency percentiles, and the processor time
 * that the server used in the measured stretch.
 *
 * It never sleeps: on a virtual machine the wake-up of an idle processor takes longer (20 µs seen)
 * than a whole reply, and would make every server look the same.
 *
 *   echo_client PORT CONNECTIONS BYTES SECONDS SERVER_PID
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SCRATCH = 256 * 1024, EVENTS = 1024, STAMP = 8 };
static const double WARM_UP_S = 0.25;
static const uint64_t STALL_NS = 5000000000;

struct connection {
	int fd;
	int wants_out;
	size_t sent, received;
	uint64_t stamp; /* opens each message, so that a mixed-up reply is noticed */
	uint64_t begin_ns;
	char reply_stamp[STAMP];
};

static char scratch[SCRATCH];
static char *message;
static size_t message_length;
static int epoll;
static uint32_t *latencies_ns;
static size_t latency_count, latency_room;
static uint64_t requests;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec time;
	if (clock_gettime(clock, &time))
		die("clock_gettime");
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void open_connection(struct connection *connection, int port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
	int one = 1;
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	connection->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (connection->fd < 0 ||
	    connect(connection->fd, (struct sockaddr *)&address, sizeof(address)))
		die("connect");
	setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, connection->fd, &event))
		die("epoll_ctl");
}

static void want_out(struct connection *connection, int wanted)
{
	struct epoll_event event = {.data.ptr = connection};
	if (connection->wants_out == wanted)
		return;
	connection->wants_out = wanted;
	event.events = wanted ? EPOLLIN | EPOLLOUT : EPOLLIN;
	if (epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &event))
		die("epoll_ctl");
}

static void send_more(struct connection *connection)
{
	memcpy(message, &connection->stamp, STAMP);
	ssize_t sent = send(connection->fd, message + connection->sent,
			    message_length - connection->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (sent < 0 && errno != EAGAIN)
		die("send");
	if (sent > 0)
		connection->sent += sent;
	want_out(connection, connection->sent < message_length);
}

static void begin_request(struct connection *connection)
{
	connection->sent = connection->received = 0;
	connection->stamp++;
	connection->begin_ns = clock_ns(CLOCK_MONOTONIC);
	send_more(connection);
}

static void note_latency(uint64_t nanoseconds)
{
	if (latency_count == latency_room) {
		latency_room = latency_room ? latency_room * 2 : 1 << 20;
		latencies_ns = realloc(latencies_ns, latency_room * sizeof(*latencies_ns));
		if (!latencies_ns)
			die("realloc");
	}
	latencies_ns[latency_count++] = nanoseconds > UINT32_MAX ? UINT32_MAX : nanoseconds;
}

static void receive(struct connection *connection)
{
	ssize_t received = recv(connection->fd, scratch, SCRATCH, MSG_DONTWAIT);
	if (received < 0 && errno == EAGAIN)
		return;
	if (received < 0)
		die("recv");
	if (received == 0)
		fail("the server closed a connection");
	if (connection->received < STAMP) {
		size_t missing = STAMP - connection->received;
		memcpy(connection->reply_stamp + connection->received, scratch,
		       missing < (size_t)received ? missing : (size_t)received);
	}
	connection->received += received;
	if (connection->received < message_length)
		return;
	if (connection->received > message_length ||
	    memcmp(connection->reply_stamp, &connection->stamp, STAMP))
		fail("the reply is not what was sent");
	requests++;
	note_latency(clock_ns(CLOCK_MONOTONIC) - connection->begin_ns);
	begin_request(connection);
}

static void ping_pong_until(uint64_t deadline_ns)
{
	static struct epoll_event events[EVENTS];
	uint64_t now_ns = clock_ns(CLOCK_MONOTONIC), last_ns = now_ns;
	while (now_ns < deadline_ns) {
		int count = epoll_wait(epoll, events, EVENTS, 0);
		if (count < 0)
			die("epoll_wait");
		for (int i = 0; i < count; i++) {
			if (events[i].events & EPOLLOUT)
				send_more(events[i].data.ptr);
			if (events[i].events & ~EPOLLOUT)
				receive(events[i].data.ptr);
		}
		now_ns = clock_ns(CLOCK_MONOTONIC);
		if (count)
			last_ns = now_ns;
		else if (now_ns - last_ns > STALL_NS)
			fail("no reply for 5 s");
	}
}

static int by_size(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
	return (a > b) - (a < b);
}

static double percentile_us(double percent)
{
	size_t index = latency_count * percent / 100;
	if (!latency_count)
		return 0;
	return latencies_ns[index < latency_count ? index : latency_count - 1] / 1e3;
}

int main(int argc, char **argv)
{
	if (argc != 6)
		fail("usage: echo_client PORT CONNECTIONS BYTES SECONDS SERVER_PID");
	int port = atoi(argv[1]), count = atoi(argv[2]);
	double seconds = atof(argv[4]);
	/* what clock_getcpuclockid(3) computes; it refuses the process of another user */
	clockid_t server_clock = (clockid_t)((~(unsigned)atoi(argv[5]) << 3) | 2);
	message_length = strtoul(argv[3], NULL, 10);
	if (count < 1 || message_length < STAMP || seconds <= 0)
		fail("at least one connection, 8 bytes and some time, please");
	message = calloc(1, message_length);
	struct connection *connections = calloc(count, sizeof(*connections));
	if (!message || !connections)
		die("calloc");
	epoll = epoll_create1(0);
	for (int i = 0; i < count; i++)
		open_connection(&connections[i], port);
	for (int i = 0; i < count; i++)
		begin_request(&connections[i]);
	ping_pong_until(clock_ns(CLOCK_MONOTONIC) + WARM_UP_S * 1e9);

	requests = latency_count = 0;
	uint64_t server_cpu = clock_ns(server_clock);
	uint64_t begin = clock_ns(CLOCK_MONOTONIC);
	ping_pong_until(begin + seconds * 1e9);
	double elapsed = (clock_ns(CLOCK_MONOTONIC) - begin) / 1e9;
	server_cpu = clock_ns(server_clock) - server_cpu;
	if (!requests)
		fail("no reply in the measured time");

	qsort(latencies_ns, latency_count, sizeof(*latencies_ns), by_size);
	printf("{\"value\": %.1f, \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, "
	       "\"max_us\": %.1f, \"cpu_us\": %.4f, \"server_busy\": %.3f, "
	       "\"requests\": %llu}\n",
	       requests / elapsed, percentile_us(50), percentile_us(90), percentile_us(99),
	       percentile_us(100), server_cpu / 1e3 / requests, server_cpu / 1e9 / elapsed,
	       (unsigned long long)requests);
	return 0;
}
