/* netprobe: asks from inside a pod whether a TCP port can be reached, without any library or shell.
 *
 *   netprobe tcp HOST PORT [MILLISECONDS]   one attempt (limit 2000 ms), prints its result
 *   netprobe loop HOST PORT SECONDS         an attempt every 10 ms from the first instruction on;
 *                                           one line "MILLISECONDS RESULT" whenever the result changes
 *   netprobe listen PORT                    accepts and closes connections: a target for the others
 *   netprobe wait                           does nothing until TERM or INT: keeps a pod alive
 *
 * HOST is an IPv4 or IPv6 address, names are not resolved. Results: open, refused, timeout, and for
 * the rest the system's message. Exit code: 0 open (loop: as of the last attempt), 1 not open, 2 wrong use. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TICK = 10, LOOP_LIMIT = 100, ONE_LIMIT = 2000 }; /* milliseconds */

static long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000L + t.tv_nsec / 1000000L;
}

static void end(int signal) {
	(void)signal;
	_exit(0);
}

static void usage(void) {
	fputs("usage: netprobe tcp HOST PORT [MILLISECONDS] | loop HOST PORT SECONDS | listen PORT | wait\n", stderr);
	exit(2);
}

static long number(const char *text, long low, long high) {
	char *rest;
	long value = strtol(text, &rest, 10);
	if (*text == 0 || *rest != 0 || value < low || value > high)
		usage();
	return value;
}

static socklen_t address(const char *host, const char *port, struct sockaddr_storage *to) {
	struct sockaddr_in *v4 = (struct sockaddr_in *)to;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;
	in_port_t number16 = htons((in_port_t)number(port, 1, 65535));

	memset(to, 0, sizeof *to);
	if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = number16;
		return sizeof *v4;
	}
	if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = number16;
		return sizeof *v6;
	}
	usage();
	return 0;
}

/* One attempt within `limit` milliseconds: 0 for open, else an errno (ETIMEDOUT for no answer). */
static int attempt(const struct sockaddr_storage *to, socklen_t length, long limit) {
	int result = 0, s = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	socklen_t size = sizeof result;

	if (s < 0)
		return errno;
	if (connect(s, (const struct sockaddr *)to, length) < 0) {
		result = errno;
		if (result == EINPROGRESS) {
			struct pollfd wait = {.fd = s, .events = POLLOUT};
			if (poll(&wait, 1, (int)limit) <= 0)
				result = ETIMEDOUT;
			else
				getsockopt(s, SOL_SOCKET, SO_ERROR, &result, &size);
		}
	}
	close(s);
	return result;
}

static const char *name(int result) {
	switch (result) {
	case 0:
		return "open";
	case ECONNREFUSED:
		return "refused";
	case ETIMEDOUT:
		return "timeout";
	default:
		return strerror(result);
	}
}

static int loop(const struct sockaddr_storage *to, socklen_t length, long milliseconds, long started) {
	int last = -1;

	for (long next = started; now() - started < milliseconds;) {
		long began = now() - started;
		int result = attempt(to, length, LOOP_LIMIT);
		if (result != last)
			printf("%ld %s\n", began, name(result));
		last = result;
		for (next += TICK; next < now();)
			next += TICK;
		usleep((useconds_t)((next - now()) * 1000));
	}
	return last;
}

static int listen_on(const char *port) {
	struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
	int one = 1, s = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

	any.sin6_port = htons((in_port_t)number(port, 1, 65535));
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (s < 0 || bind(s, (struct sockaddr *)&any, sizeof any) < 0 || listen(s, 128) < 0) {
		perror("netprobe: listen");
		return 1;
	}
	for (;;) {
		int c = accept(s, NULL, NULL);
		if (c >= 0)
			close(c);
	}
}

int main(int count, char **words) {
	long started = now();
	struct sigaction ending = {.sa_handler = end};
	struct sockaddr_storage to;
	socklen_t length;
	int result;

	setvbuf(stdout, NULL, _IOLBF, 0); /* a log must show each line at once */
	sigaction(SIGTERM, &ending, NULL); /* as process 1 there is no default action */
	sigaction(SIGINT, &ending, NULL);
	if (count == 2 && strcmp(words[1], "wait") == 0)
		for (;;)
			pause();
	if (count == 3 && strcmp(words[1], "listen") == 0)
		return listen_on(words[2]);
	if ((count == 4 || count == 5) && strcmp(words[1], "tcp") == 0) {
		length = address(words[2], words[3], &to);
		result = attempt(&to, length, count == 5 ? number(words[4], 1, 600000) : ONE_LIMIT);
		puts(name(result));
		return result == 0 ? 0 : 1;
	}
	if (count == 5 && strcmp(words[1], "loop") == 0) {
		length = address(words[2], words[3], &to);
		return loop(&to, length, number(words[4], 1, 86400) * 1000, started) == 0 ? 0 : 1;
	}
	usage();
}
