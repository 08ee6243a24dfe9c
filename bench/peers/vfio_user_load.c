/*
 * What the vfio-user bench measures with, in C so that the client's share is small and known:
 *
 *   echo-server SOCKET          answers each 32 bytes with 36: the bare exchange, the bound of a register read
 *   room-server SOCKET          the same, with room for descriptors at each receive, as a vfio-user server has to have it
 *   echo SOCKET SECONDS PID     its client
 *   watched SOCKET SECONDS PID  the same as our client has to do it: with room for descriptors, and another thread that watches for the end
 *   runs-server SOCKET          answers reads and writes unseen, as many as a receive brings in one send: the bound of any server
 *   CASE SOCKET SECONDS PID     a vfio-user client: read, write, posted, pipelined or map
 *
 * A client prints operations a second, and operations a second of processor time, its own and that of the server's process PID together:
 * on a busy host the second is the one to compare. Every message goes in one call of its own, as QEMU sends it; answers are read as they come.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEPTH 32
#define POSTED 1024
#define RUN 16
#define IOVA 0x100000000ull

enum { VERSION = 1, DMA_MAP = 2, DMA_UNMAP = 3, REGION_READ = 9, REGION_WRITE = 10, NO_REPLY = 0x10 };

struct header { uint16_t id, command; uint32_t size, flags, error; };
struct access { struct header header; uint64_t offset; uint32_t region, count; uint32_t data; };
struct map { struct header header; uint32_t argsz, flags; uint64_t offset, address, size; };
struct unmap { struct header header; uint32_t argsz, flags; uint64_t address, size; };

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* Processor time of a process, all its threads, in seconds. */
static double spent(const char *pid)
{
	unsigned long user, kernel;
	char path[64], line[1024], *at;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%s/stat", pid);
	file = fopen(path, "r");
	if (!file || !fgets(line, sizeof line, file) || !(at = strrchr(line, ')')))
		die(path);
	fclose(file);
	if (sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2)
		die(path);
	return (user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	strncpy(address.sun_path, path, sizeof address.sun_path - 1);
	return address;
}

static void send_all(int s, const void *bytes, size_t size)
{
	while (size > 0) {
		ssize_t n = send(s, bytes, size, MSG_NOSIGNAL);
		if (n < 0)
			die("send");
		bytes = (const char *)bytes + n;
		size -= n;
	}
}

static void receive_all(int s, void *bytes, size_t size)
{
	while (size > 0) {
		ssize_t n = recv(s, bytes, size, 0);
		if (n <= 0)
			die("recv");
		bytes = (char *)bytes + n;
		size -= n;
	}
}

/* Takes one answer and checks that it says that all went well. */
static void answer(int s, size_t size)
{
	struct header *header;
	char buffer[4096];

	receive_all(s, buffer, size);
	header = (struct header *)buffer;
	if (header->flags != 1 || header->size != size) {
		fprintf(stderr, "command %u: flags 0x%x, size %u, error %u\n", header->command, header->flags, header->size, header->error);
		exit(1);
	}
}

static void greet(int s)
{
	static const char text[] = "{\"capabilities\":{\"max_msg_fds\":8,\"max_data_xfer_size\":1048576}}";
	char message[256], reply[4096];
	struct header *header = (struct header *)message;

	memset(message, 0, sizeof message);
	header->command = VERSION;
	header->size = sizeof *header + 4 + sizeof text;
	memcpy(message + sizeof *header + 4, text, sizeof text);
	send_all(s, message, header->size);
	receive_all(s, reply, sizeof *header);
	header = (struct header *)reply;
	if (header->flags != 1 || header->size > sizeof reply)
		die("the server turned us away");
	receive_all(s, reply + sizeof *header, header->size - sizeof *header);
}

static struct access access_to(int command, uint32_t size, uint32_t flags)
{
	struct access a = { { 1, command, size, flags, 0 }, 0, 0, 4, 0x12345678 };
	return a;
}

static long reads(int s, int count)
{
	struct access read = access_to(REGION_READ, 32, 0);
	for (int i = 0; i < count; i++) {
		send_all(s, &read, 32);
		answer(s, 36);
	}
	return count;
}

static long writes(int s, int count)
{
	struct access write = access_to(REGION_WRITE, 36, 0);
	for (int i = 0; i < count; i++) {
		send_all(s, &write, 36);
		answer(s, 32);
	}
	return count;
}

static long posted(int s)
{
	struct access write = access_to(REGION_WRITE, 36, NO_REPLY);
	for (int i = 0; i < POSTED; i++)
		send_all(s, &write, 36);
	reads(s, 1);
	return POSTED;
}

static long pipelined(int s)
{
	struct access read = access_to(REGION_READ, 32, 0);
	char answers[DEPTH * 36];

	for (int i = 0; i < DEPTH; i++)
		send_all(s, &read, 32);
	receive_all(s, answers, sizeof answers);
	for (int i = 0; i < DEPTH; i++) {
		struct header *header = (struct header *)(answers + i * 36);
		if (header->flags != 1 || header->size != 36)
			die("an answer is wrong");
	}
	return DEPTH;
}

static long maps(int s, int file)
{
	struct map map = { { 1, DMA_MAP, sizeof map, 0, 0 }, 32, 3, 0, IOVA, 4096 };
	struct unmap unmap = { { 1, DMA_UNMAP, sizeof unmap, 0, 0 }, 24, 0, IOVA, 4096 };
	struct iovec vector = { &map, sizeof map };
	union { char bytes[CMSG_SPACE(sizeof(int))]; struct cmsghdr header; } control;
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.bytes };

	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	memcpy(CMSG_DATA(&control.header), &file, sizeof file);
	if (sendmsg(s, &message, MSG_NOSIGNAL) != sizeof map)
		die("sendmsg");
	answer(s, 16);
	send_all(s, &unmap, sizeof unmap);
	answer(s, 40);
	return 1;
}

static ssize_t receive_with_room(int s, void *bytes, size_t size, int flags)
{
	char control[CMSG_SPACE(32 * sizeof(int))];
	struct iovec vector = { bytes, size };
	struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };

	return recvmsg(s, &message, MSG_CMSG_CLOEXEC | flags);
}

static void answer_echo(int s)
{
	char buffer[36] = { 0 };

	while (recv(s, buffer, 32, 0) == 32)
		send_all(s, buffer, 36);
}

static void answer_with_room(int s)
{
	char buffer[36] = { 0 };

	while (receive_with_room(s, buffer, 32, 0) == 32)
		send_all(s, buffer, 36);
}

/* Lets a client that sends runs go on as our server does, see VfioUserPace.cs. */
static void answer_runs(int s)
{
	static char in[65536], out[4 * sizeof in];
	size_t have = 0, filled = 0;
	int taken = 0, runs = 0, lingered = 0;

	for (;;) {
		ssize_t n = receive_with_room(s, in + have, sizeof in - have, lingered ? MSG_DONTWAIT : 0);
		size_t at = 0;

		if (n == 0 || (n < 0 && errno != EAGAIN))
			return;
		have += n < 0 ? 0 : n;
		while (have - at >= sizeof(struct header)) {
			struct header *request = (struct header *)(in + at), *reply = (struct header *)(out + filled);
			uint32_t size = request->size;

			if (size < sizeof *request || have - at < size)
				break;
			if (!(request->flags & NO_REPLY)) {
				memcpy(reply, request, size);
				reply->size = request->command == VERSION ? size : request->command == REGION_READ ? 36 : 32;
				reply->flags = 1;
				filled += reply->size;
			}
			at += size;
			taken++;
		}
		have -= at;
		memmove(in, in + at, have);
		if (runs && !lingered && taken < RUN) {
			lingered = 1;
			sched_yield();
			continue;
		}
		runs = taken >= RUN;
		taken = lingered = 0;
		if (filled > 0)
			send_all(s, out, filled);
		filled = 0;
		if (runs)
			sched_yield();
	}
}

static void *watch(void *epoll)
{
	struct epoll_event event;

	for (;;)
		epoll_wait(*(int *)epoll, &event, 1, -1);
	return NULL;
}

static void start_watch(int s)
{
	static int epoll;
	struct epoll_event event = { .events = EPOLLRDHUP };
	pthread_t thread;

	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, s, &event) < 0 || pthread_create(&thread, NULL, watch, &epoll))
		die("watch");
}

static int serve(const char *path, void (*answer)(int))
{
	struct sockaddr_un address = address_of(path);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0), s;

	unlink(path);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1) < 0)
		die(path);
	puts("ready");
	fflush(stdout);
	while ((s = accept(listener, NULL, NULL)) >= 0) {
		answer(s);
		close(s);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_un address;
	char buffer[36] = { 0 };
	double start, end, before, elapsed;
	long count = 0;
	int s, file;

	if (argc == 3 && !strcmp(argv[1], "echo-server"))
		return serve(argv[2], answer_echo);
	if (argc == 3 && !strcmp(argv[1], "room-server"))
		return serve(argv[2], answer_with_room);
	if (argc == 3 && !strcmp(argv[1], "runs-server"))
		return serve(argv[2], answer_runs);
	if (argc != 5) {
		fprintf(stderr, "usage: %s echo-server|room-server|runs-server SOCKET | echo|watched|read|write|posted|pipelined|map SOCKET SECONDS PID\n", argv[0]);
		return 2;
	}
	address = address_of(argv[2]);
	s = socket(AF_UNIX, SOCK_STREAM, 0);
	while (connect(s, (struct sockaddr *)&address, sizeof address) < 0) {
		if (errno != ECONNREFUSED && errno != EAGAIN && errno != ENOENT)
			die(argv[2]);
		usleep(1000);
	}
	file = memfd_create("load", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (file < 0 || ftruncate(file, 4096) < 0)
		die("memfd");
	if (!strcmp(argv[1], "watched"))
		start_watch(s);
	else if (strcmp(argv[1], "echo"))
		greet(s);
	before = spent(argv[4]) + spent("self");
	start = now();
	end = start + atof(argv[3]);
	while (now() < end) {
		if (!strcmp(argv[1], "echo")) {
			for (int i = 0; i < 100; i++) {
				send_all(s, buffer, 32);
				receive_all(s, buffer, 36);
			}
			count += 100;
		} else if (!strcmp(argv[1], "watched")) {
			for (int i = 0; i < 100; i++) {
				send_all(s, buffer, 32);
				if (receive_with_room(s, buffer, sizeof buffer, 0) != sizeof buffer)
					die("recvmsg");
			}
			count += 100;
		} else if (!strcmp(argv[1], "read")) {
			count += reads(s, 100);
		} else if (!strcmp(argv[1], "write")) {
			count += writes(s, 100);
		} else if (!strcmp(argv[1], "posted")) {
			count += posted(s);
		} else if (!strcmp(argv[1], "pipelined")) {
			count += pipelined(s);
		} else if (!strcmp(argv[1], "map")) {
			count += maps(s, file);
		} else {
			fprintf(stderr, "no case '%s'\n", argv[1]);
			return 2;
		}
	}
	elapsed = now() - start;
	printf("%.0f %.0f\n", count / elapsed, count / (spent(argv[4]) + spent("self") - before));
	return 0;
}
