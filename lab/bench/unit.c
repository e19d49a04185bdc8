/* Starts a program as systemd starts a unit: unit JOURNAL STAMP FD[,FD...] COMMAND...
 * The descriptors become 3, 4, ... with LISTEN_PID= and LISTEN_FDS= (sd_listen_fds(3)), LISTEN_FDNAMES= is the caller's.
 * In a mount namespace of its own, where /run is empty, the journal's socket is the socket JOURNAL. Where no
 * such namespace can be had, standard error is JOURNAL and JOURNAL_STREAM= is unset.
 * STAMP gets the moment before exec (CLOCK_MONOTONIC, ns), and "journal" or "stderr": where records go. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { FIRST = 3, MOST = 64, APART = 512 };

static void fail(const char *what) { perror(what); exit(1); }

static void put(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) fail(path);
  close(fd);
}

/* a user who is not root gets the right to mount from a user namespace that maps only that user */
static int apart(void) {
  char map[64];
  uid_t uid = getuid();
  gid_t gid = getgid();
  if (!uid) return unshare(CLONE_NEWNS);
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) return -1;
  put("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "%u %u 1", uid, uid);
  put("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "%u %u 1", gid, gid);
  put("/proc/self/gid_map", map);
  return 0;
}

static int private_run(const char *journal) {
  return apart() || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    || mkdir("/run/systemd", 0755) || mkdir("/run/systemd/journal", 0755)
    || symlink(journal, "/run/systemd/journal/socket");
}

static void standard_error(const char *journal) {
  struct sockaddr_un address = { .sun_family = AF_UNIX };
  strncpy(address.sun_path, journal, sizeof address.sun_path - 1);
  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) || dup2(fd, 2) < 0) fail(journal);
  close(fd);
  unsetenv("JOURNAL_STREAM");
}

/* takes them out of the way first: one may stand where another belongs */
static void descriptors(char *list) {
  char number[32];
  int count = 0;
  for (char *one = strtok(list, ","); one && count < MOST; one = strtok(NULL, ","))
    if (dup2(atoi(one), APART + count++) < 0) fail(one);
  for (int i = 0; i < count; i++)
    if (dup2(APART + i, FIRST + i) < 0) fail("dup2");
  close_range(FIRST + (unsigned)count, ~0U, 0);
  snprintf(number, sizeof number, "%d", count);
  setenv("LISTEN_FDS", number, 1);
  snprintf(number, sizeof number, "%d", getpid());
  setenv("LISTEN_PID", number, 1);
}

int main(int argc, char **argv) {
  char stamp[64];
  struct timespec now;
  if (argc < 5) return 2;
  int alone = !private_run(argv[1]);
  if (!alone) standard_error(argv[1]);
  descriptors(argv[3]);
  clock_gettime(CLOCK_MONOTONIC, &now);
  snprintf(stamp, sizeof stamp, "%lld%09ld %s", (long long)now.tv_sec, now.tv_nsec, alone ? "journal" : "stderr");
  put(argv[2], stamp);
  execvp(argv[4], argv + 4);
  fail(argv[4]);
}
