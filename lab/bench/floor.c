/* The floor of every server: constant bytes on a Unix socket, with epoll and nothing else: floor SOCKET
 * It parses no more than the end of a request's head. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MOST_EVENTS = 256, BUFFER = 4096 };

static const char answer[] =
  "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 43\r\n\r\n"
  "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

static void fail(const char *what) { perror(what); exit(1); }

static void watch(int epoll, int fd) {
  struct epoll_event event = { .events = EPOLLIN, .data.fd = fd };
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

/* 0 when the client has gone; a request comes in one piece here, since the load client sends it so */
static int serve(int fd) {
  char request[BUFFER];
  ssize_t got = read(fd, request, sizeof request);
  if (got < 4 || memcmp(request + got - 4, "\r\n\r\n", 4)) return 0;
  return write(fd, answer, sizeof answer - 1) == sizeof answer - 1;
}

int main(int argc, char **argv) {
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  if (argc != 2) return 2;
  signal(SIGPIPE, SIG_IGN); /* a client that has gone is no fault */
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = epoll_create1(0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) fail(argv[1]);
  watch(epoll, listener);
  for (;;) {
    struct epoll_event events[MOST_EVENTS];
    int ready = epoll_wait(epoll, events, MOST_EVENTS, -1);
    for (int i = 0; i < ready; i++) {
      int fd = events[i].data.fd;
      if (fd != listener) { if (!serve(fd)) close(fd); continue; }
      while ((fd = accept4(listener, NULL, NULL, 0)) >= 0) watch(epoll, fd);
    }
  }
}
