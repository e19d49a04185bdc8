/* Closed-loop HTTP load on a Unix socket: load SOCKET REQUEST CONNECTIONS SECONDS keepalive|connect
 * Prints one line: requests, seconds, and the median and 99th percentile of the latency in microseconds.
 * REQUEST is sent as it is, with \r\n already in it; an answer is complete when its Content-Length has come.
 * keepalive: one request in flight on each connection; connect: connect, ask, read, close for each. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNECTIONS = 256, BUFFER = 65536, MOST_SAMPLES = 4000000 };

struct connection { int fd; size_t received; uint64_t began; char buffer[BUFFER]; };

static struct connection connections[MOST_CONNECTIONS];
static uint32_t *samples;
static size_t sample_count;
static struct sockaddr_un address = { .sun_family = AF_UNIX };
static const char *request;
static int epoll;

static void fail(const char *what) { perror(what); exit(1); }

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void ask(struct connection *c) {
  size_t length = strlen(request);
  c->received = 0;
  if (c->fd >= 0) c->began = now_ns();
  if (write(c->fd, request, length) != (ssize_t)length) fail("write");
}

static void open_connection(struct connection *c) {
  uint64_t began = now_ns();
  struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
  c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
  if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
  ask(c);
  c->began = began;
}

/* 1 when a whole answer is there; anything but status 200 ends the run */
static int complete(struct connection *c) {
  c->buffer[c->received] = 0;
  char *end = strstr(c->buffer, "\r\n\r\n");
  if (!end) return 0;
  if (strncmp(c->buffer + 9, "200", 3)) { fprintf(stderr, "answer: %.12s\n", c->buffer); exit(1); }
  char *length = strcasestr(c->buffer, "content-length:");
  if (!length || length > end) { fprintf(stderr, "no Content-Length\n"); exit(1); }
  return c->received >= (size_t)(end + 4 - c->buffer) + strtoul(length + 15, NULL, 10);
}

static int ascending(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  if (argc != 6) { fprintf(stderr, "usage: load SOCKET REQUEST CONNECTIONS SECONDS keepalive|connect\n"); return 2; }
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  request = argv[2];
  int count = atoi(argv[3]), keepalive = !strcmp(argv[5], "keepalive");
  if (count < 1 || count > MOST_CONNECTIONS) return 2;
  samples = malloc(MOST_SAMPLES * sizeof *samples);
  if (!samples || (epoll = epoll_create1(0)) < 0) fail("start");
  uint64_t began = now_ns(), end = began + (uint64_t)(atof(argv[4]) * 1e9);
  for (int i = 0; i < count; i++) open_connection(&connections[i]);
  while (now_ns() < end) {
    struct epoll_event events[MOST_CONNECTIONS];
    int ready = epoll_wait(epoll, events, MOST_CONNECTIONS, 1000);
    for (int i = 0; i < ready; i++) {
      struct connection *c = events[i].data.ptr;
      ssize_t got = read(c->fd, c->buffer + c->received, BUFFER - 1 - c->received);
      if (got <= 0) { fprintf(stderr, "connection closed early\n"); return 1; }
      c->received += (size_t)got;
      if (!complete(c)) continue;
      if (sample_count < MOST_SAMPLES) samples[sample_count++] = (uint32_t)((now_ns() - c->began) / 1000);
      if (keepalive) ask(c);
      else { close(c->fd); open_connection(c); }
    }
  }
  double seconds = (double)(now_ns() - began) / 1e9;
  qsort(samples, sample_count, sizeof *samples, ascending);
  if (!sample_count) return 1;
  printf("%zu %.3f %u %u\n", sample_count, seconds, samples[sample_count / 2], samples[sample_count * 99 / 100]);
  return 0;
}
