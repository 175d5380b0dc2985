/* What the fake upstream and the load generator share: time, growing buffers, non-blocking sockets. */
#ifndef COMMON_H
#define COMMON_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define STAMP_DIGITS 19 /* nanoseconds of CLOCK_MONOTONIC, fixed width, so that every event has the same size */
#define TAG_DIGITS 10   /* of one request, comes back in its answer: a swapped or mixed answer is found */
#define TAG_MARK "request number " /* before the tag, in the text of the message */

struct buffer {
    char *data;
    size_t size, room;
};

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * SECOND + t.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline void reserve(struct buffer *b, size_t more) {
    if (b->size + more <= b->room) return;
    size_t room = b->room ? b->room : 1024;
    while (room < b->size + more) room *= 2;
    b->data = realloc(b->data, room);
    if (!b->data) die("realloc");
    b->room = room;
}

static inline void append(struct buffer *b, const void *data, size_t size) {
    reserve(b, size);
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static inline void append_text(struct buffer *b, const char *text) { append(b, text, strlen(text)); }

static inline void append_format(struct buffer *b, const char *format, ...) {
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    append(b, text, (size_t)size);
}

/* Decimal, padded with zeros to `digits` (0: none). */
static inline void append_number(struct buffer *b, uint64_t value, int digits) {
    char text[24];
    int at = sizeof text;
    do text[--at] = (char)('0' + value % 10);
    while (value /= 10);
    while ((int)sizeof text - at < digits) text[--at] = '0';
    append(b, text + at, sizeof text - (size_t)at);
}

static inline void drop_front(struct buffer *b, size_t size) {
    memmove(b->data, b->data + size, b->size - size);
    b->size -= size;
}

/* Number after the member `name` (with its quotes and colon, spaces allowed after), or `otherwise`. */
static inline long member_number(const char *data, size_t size, const char *name, long otherwise) {
    const char *found = memmem(data, size, name, strlen(name));
    if (!found) return otherwise;
    found += strlen(name);
    while (found < data + size && *found == ' ') found++;
    return found < data + size && *found >= '0' && *found <= '9' ? strtol(found, NULL, 10) : otherwise;
}

static inline bool member_is_true(const char *data, size_t size, const char *name) {
    const char *found = memmem(data, size, name, strlen(name));
    if (!found) return false;
    found += strlen(name);
    while (found < data + size && *found == ' ') found++;
    return data + size - found >= 4 && memcmp(found, "true", 4) == 0;
}

static inline void make_quick(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline void raise_limits(void) {
    struct rlimit limit;
    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static inline struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}
#endif
