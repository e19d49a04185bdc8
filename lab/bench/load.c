/* Closed-loop HTTP load on a Unix socket: load SOCKET REQUEST CONNECTIONS SECONDS keepalive|connect
 * Prints one line: requests, seconds, and the median and 99th percentile of the latency in nanoseconds.
 * The file REQUEST is sent as it is; an answer is complete when its Content-Length has come, and counts when its
 * status is 200. Any other ends the run.
 * keepalive: one request in flight on each connection; connect: connect, ask, read, close for each.
 * The first tenth of a second warms up and is not counted. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNECTIONS = 256, BUFFER = 65536, MOST_SAMPLES = 4000000, WARM_NS = 100000000 };

struct connection { int fd; size_t received; uint64_t began; char buffer[BUFFER]; };

static struct connection connections[MOST_CONNECTIONS];
static uint32_t *samples; /* latencies, ns */
static size_t sample_count;
static struct sockaddr_un address = { .sun_family = AF_UNIX };
static char request[BUFFER];
static ssize_t request_length;
static int epoll;

static void fail(const char *what) { perror(what); exit(1); }

static void refuse(const char *what, const char *more) { fprintf(stderr, "%s%.12s\n", what, more); exit(1); }

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void read_request(const char *path) {
  int fd = open(path, O_RDONLY);
  if (fd < 0 || (request_length = read(fd, request, sizeof request)) <= 0) fail(path);
  close(fd);
}

static void ask(struct connection *c) {
  c->received = 0;
  if (write(c->fd, request, (size_t)request_length) != request_length) fail("write");
}

static void open_connection(struct connection *c) {
  struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
  c->began = now_ns();
  c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
  ask(c);
}

/* 1 when a whole answer is there */
static int complete(struct connection *c) {
  c->buffer[c->received] = 0;
  char *end = strstr(c->buffer, "\r\n\r\n");
  if (!end) return 0;
  if (strncmp(c->buffer + 9, "200", 3)) refuse("answer: ", c->buffer);
  char *length = strcasestr(c->buffer, "content-length:");
  if (!length || length > end) refuse("an answer has no Content-Length", "");
  return c->received >= (size_t)(end + 4 - c->buffer) + strtoul(length + 15, NULL, 10);
}

/* takes in what has come; asks again where that was the rest of an answer */
static void receive(struct connection *c, int keepalive, uint64_t counted_from) {
  ssize_t got = read(c->fd, c->buffer + c->received, BUFFER - 1 - c->received);
  if (got <= 0) refuse("a connection was closed before its answer was whole", "");
  c->received += (size_t)got;
  if (!complete(c)) return;
  uint64_t now = now_ns();
  if (now >= counted_from && sample_count < MOST_SAMPLES) samples[sample_count++] = (uint32_t)(now - c->began);
  if (keepalive) { c->began = now; ask(c); }
  else { close(c->fd); open_connection(c); }
}

static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  if (argc != 6) { fprintf(stderr, "usage: load SOCKET REQUEST CONNECTIONS SECONDS keepalive|connect\n"); return 2; }
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  read_request(argv[2]);
  int count = atoi(argv[3]), keepalive = !strcmp(argv[5], "keepalive");
  if (count < 1 || count > MOST_CONNECTIONS) return 2;
  samples = malloc(MOST_SAMPLES * sizeof *samples);
  if (!samples || (epoll = epoll_create1(EPOLL_CLOEXEC)) < 0) fail("start");
  uint64_t began = now_ns() + WARM_NS, end = began + (uint64_t)(atof(argv[4]) * 1e9);
  for (int i = 0; i < count; i++) open_connection(&connections[i]);
  while (now_ns() < end) {
    struct epoll_event events[MOST_CONNECTIONS];
    int ready = epoll_wait(epoll, events, MOST_CONNECTIONS, 1000);
    for (int i = 0; i < ready; i++) receive(events[i].data.ptr, keepalive, began);
  }
  double seconds = (double)(now_ns() - began) / 1e9;
  if (!sample_count) refuse("no answer came in time", "");
  qsort(samples, sample_count, sizeof *samples, ascending);
  printf("%zu %.6f %u %u\n", sample_count, seconds, samples[sample_count / 2], samples[sample_count * 99 / 100]);
  return 0;
}
