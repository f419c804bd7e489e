/* Lets the n-th system call of a kind fail once, in one process of the program under test.
 *
 * Loaded with LD_PRELOAD. Only the program that CALLS_PROGRAM names is concerned, and it passes the library on to no
 * command. The environment says what happens:
 *   CALLS_KIND, CALLS_NUMBER, CALLS_ERROR  which call fails, and with which errno; 0: it does half of what it should
 *   CALLS_LOG    file that is told which call failed, on what
 *   CALLS_COUNTS file that is told at the end how many calls of each kind there were
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum kind {
    WRITE, SYNC, READ, OPEN, PIPE, SPAWN, ACCEPT, RENAME, MKDIR, TRUNCATE, UNLINK, POLL, WAIT, EVENT, SOCKET,
    CONNECT, SEND, RECEIVE, THREAD, LIST, LINK, PIDFD, KINDS
};

static const char *const NAMES[KINDS] = {
    "write", "sync", "read", "open", "pipe", "spawn", "accept", "rename", "mkdir", "truncate", "unlink",
    "poll", "wait", "event", "socket", "connect", "send", "receive", "thread", "list", "link", "pidfd",
};

static atomic_long counts[KINDS];
static int active;
static int wanted = -1;
static long number;
static int wanted_error;
static long (*raw)(long, ...);
static const char *log_file;
static const char *counts_file;

__attribute__((constructor)) static void begin(void) {
    char exe[4096];
    const char *program = getenv("CALLS_PROGRAM");
    ssize_t length = readlink("/proc/self/exe", exe, sizeof exe - 1);
    unsetenv("LD_PRELOAD");
    raw = (__typeof__(raw))dlsym(RTLD_NEXT, "syscall");
    if (!program || length <= 0) return;
    exe[length] = 0;
    if (strcmp(exe, program)) return;
    const char *kind = getenv("CALLS_KIND");
    for (int i = 0; kind && i < KINDS; i++)
        if (!strcmp(kind, NAMES[i])) wanted = i;
    if (wanted >= 0) {
        number = atol(getenv("CALLS_NUMBER"));
        wanted_error = atoi(getenv("CALLS_ERROR"));
    }
    log_file = getenv("CALLS_LOG");
    counts_file = getenv("CALLS_COUNTS");
    active = 1;
}

static void tell(const char *file, const char *text) {
    int fd = raw(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) return;
    raw(SYS_write, fd, text, strlen(text));
    raw(SYS_close, fd);
}

__attribute__((destructor)) static void end(void) {
    char text[2048] = "";
    if (!active || !counts_file) return;
    for (int i = 0; i < KINDS; i++) {
        char line[64];
        snprintf(line, sizeof line, "%s %ld\n", NAMES[i], atomic_load(&counts[i]));
        strcat(text, line);
    }
    tell(counts_file, text);
}

/* True if a descriptor of this kind can give the error: one that is no file is never full, only one that does not block
 * has nothing for the moment, and events come whole. */
static int is_plausible(int fd, const char *target) {
    int is_file = *target == '/';
    int is_event = !strncmp(target, "anon_inode", 10);
    switch (wanted_error) {
    case EINTR: return 1;
    case EAGAIN: return !is_file && !is_event && (fcntl(fd, F_GETFL) & O_NONBLOCK);
    case 0: return !is_event;
    default: return is_file;
    }
}

/* -1: the call goes on; else the error that it gives, or 0 for half a call. */
static int fails(enum kind kind, const char *path, int fd) {
    if (!active) return -1;
    long n = atomic_fetch_add(&counts[kind], 1) + 1;
    if ((int)kind != wanted || n != number) return -1;
    int before = errno, plausible = 1;
    char link[64], target[1024] = "", text[1200];
    if (!path && fd >= 0) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = raw(SYS_readlink, link, target, sizeof target - 1);
        target[length > 0 ? length : 0] = 0;
        path = target;
        plausible = (kind != READ && kind != WRITE) || is_plausible(fd, target);
    }
    if (plausible && log_file) {
        snprintf(text, sizeof text, "%s\n", path ? path : "");
        tell(log_file, text);
    }
    errno = before;
    return plausible ? wanted_error : -1;
}

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* Fails, unless there is nothing to fail. A half call is none where halves make no sense. */
#define FAIL(kind, path, fd, bad) \
    do { int e_ = fails(kind, path, fd); if (e_ > 0) { errno = e_; return bad; } } while (0)

/* As FAIL, and halves `length`. */
#define HALVE(kind, fd, length, bad) \
    do { \
        int e_ = fails(kind, NULL, fd); \
        if (e_ > 0) { errno = e_; return bad; } \
        if (e_ == 0 && length > 1) length /= 2; \
    } while (0)

ssize_t write(int fd, const void *p, size_t n) { REAL(write); HALVE(WRITE, fd, n, -1); return real(fd, p, n); }
ssize_t pwrite(int fd, const void *p, size_t n, off_t o) { REAL(pwrite); HALVE(WRITE, fd, n, -1); return real(fd, p, n, o); }
ssize_t pwrite64(int fd, const void *p, size_t n, off64_t o) { REAL(pwrite64); HALVE(WRITE, fd, n, -1); return real(fd, p, n, o); }
ssize_t writev(int fd, const struct iovec *v, int n) { REAL(writev); HALVE(WRITE, fd, n, -1); return real(fd, v, n); }
ssize_t read(int fd, void *p, size_t n) { REAL(read); HALVE(READ, fd, n, -1); return real(fd, p, n); }
ssize_t pread(int fd, void *p, size_t n, off_t o) { REAL(pread); HALVE(READ, fd, n, -1); return real(fd, p, n, o); }
ssize_t pread64(int fd, void *p, size_t n, off64_t o) { REAL(pread64); HALVE(READ, fd, n, -1); return real(fd, p, n, o); }
ssize_t readv(int fd, const struct iovec *v, int n) { REAL(readv); HALVE(READ, fd, n, -1); return real(fd, v, n); }
ssize_t send(int fd, const void *p, size_t n, int f) { REAL(send); HALVE(SEND, fd, n, -1); return real(fd, p, n, f); }
ssize_t sendmsg(int fd, const struct msghdr *m, int f) { REAL(sendmsg); FAIL(SEND, NULL, fd, -1); return real(fd, m, f); }
ssize_t recv(int fd, void *p, size_t n, int f) { REAL(recv); HALVE(RECEIVE, fd, n, -1); return real(fd, p, n, f); }
int fsync(int fd) { REAL(fsync); FAIL(SYNC, NULL, fd, -1); return real(fd); }
int fdatasync(int fd) { REAL(fdatasync); FAIL(SYNC, NULL, fd, -1); return real(fd); }

#define OPENED(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }
int open(const char *p, int f, ...) { REAL(open); OPENED(f); FAIL(OPEN, p, -1, -1); return real(p, f, mode); }
int open64(const char *p, int f, ...) { REAL(open64); OPENED(f); FAIL(OPEN, p, -1, -1); return real(p, f, mode); }
int openat(int d, const char *p, int f, ...) { REAL(openat); OPENED(f); FAIL(OPEN, p, -1, -1); return real(d, p, f, mode); }
int openat64(int d, const char *p, int f, ...) { REAL(openat64); OPENED(f); FAIL(OPEN, p, -1, -1); return real(d, p, f, mode); }
DIR *opendir(const char *p) { REAL(opendir); FAIL(OPEN, p, -1, NULL); return real(p); }
struct dirent64 *readdir64(DIR *d) { REAL(readdir64); FAIL(LIST, NULL, dirfd(d), NULL); return real(d); }

int pipe(int p[2]) { REAL(pipe); FAIL(PIPE, NULL, -1, -1); return real(p); }
int pipe2(int p[2], int f) { REAL(pipe2); FAIL(PIPE, NULL, -1, -1); return real(p, f); }
int eventfd(unsigned v, int f) { REAL(eventfd); FAIL(EVENT, NULL, -1, -1); return real(v, f); }
int signalfd(int fd, const sigset_t *s, int f) { REAL(signalfd); FAIL(EVENT, NULL, -1, -1); return real(fd, s, f); }
int socket(int d, int t, int p) { REAL(socket); FAIL(SOCKET, NULL, -1, -1); return real(d, t, p); }
int connect(int fd, const struct sockaddr *a, socklen_t n) { REAL(connect); FAIL(CONNECT, NULL, fd, -1); return real(fd, a, n); }
int accept(int fd, struct sockaddr *a, socklen_t *n) { REAL(accept); FAIL(ACCEPT, NULL, fd, -1); return real(fd, a, n); }
int accept4(int fd, struct sockaddr *a, socklen_t *n, int f) { REAL(accept4); FAIL(ACCEPT, NULL, fd, -1); return real(fd, a, n, f); }

int rename(const char *a, const char *b) { REAL(rename); FAIL(RENAME, b, -1, -1); return real(a, b); }
int mkdir(const char *p, mode_t m) { REAL(mkdir); FAIL(MKDIR, p, -1, -1); return real(p, m); }
int symlink(const char *a, const char *b) { REAL(symlink); FAIL(LINK, b, -1, -1); return real(a, b); }
int unlink(const char *p) { REAL(unlink); FAIL(UNLINK, p, -1, -1); return real(p); }
int unlinkat(int d, const char *p, int f) { REAL(unlinkat); FAIL(UNLINK, p, -1, -1); return real(d, p, f); }
int rmdir(const char *p) { REAL(rmdir); FAIL(UNLINK, p, -1, -1); return real(p); }
int ftruncate(int fd, off_t n) { REAL(ftruncate); FAIL(TRUNCATE, NULL, fd, -1); return real(fd, n); }
int ftruncate64(int fd, off64_t n) { REAL(ftruncate64); FAIL(TRUNCATE, NULL, fd, -1); return real(fd, n); }

int poll(struct pollfd *v, nfds_t n, int t) { REAL(poll); FAIL(POLL, NULL, -1, -1); return real(v, n, t); }
int ppoll(struct pollfd *v, nfds_t n, const struct timespec *t, const sigset_t *s) { REAL(ppoll); FAIL(POLL, NULL, -1, -1); return real(v, n, t, s); }
pid_t waitpid(pid_t p, int *s, int o) { REAL(waitpid); FAIL(WAIT, NULL, -1, -1); return real(p, s, o); }
pid_t wait4(pid_t p, int *s, int o, struct rusage *r) { REAL(wait4); FAIL(WAIT, NULL, -1, -1); return real(p, s, o, r); }
int waitid(idtype_t t, id_t i, siginfo_t *s, int o) { REAL(waitid); FAIL(WAIT, NULL, -1, -1); return real(t, i, s, o); }

/* These return the error. */
int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *a, const posix_spawnattr_t *t, char *const v[], char *const e[]) {
    REAL(posix_spawn);
    int error = fails(SPAWN, path, -1);
    return error > 0 ? error : real(pid, path, a, t, v, e);
}
int posix_spawnp(pid_t *pid, const char *path, const posix_spawn_file_actions_t *a, const posix_spawnattr_t *t, char *const v[], char *const e[]) {
    REAL(posix_spawnp);
    int error = fails(SPAWN, path, -1);
    return error > 0 ? error : real(pid, path, a, t, v, e);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *a, void *(*f)(void *), void *x) {
    REAL(pthread_create);
    int error = fails(THREAD, NULL, -1);
    return error > 0 ? error : real(thread, a, f, x);
}

/* Calls for which a library has no function, or does not use it. */
long syscall(long call, ...) {
    long a[6];
    va_list list;
    va_start(list, call);
    for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
    va_end(list);
    if (!raw) raw = (__typeof__(raw))dlsym(RTLD_NEXT, "syscall");
    if (call == SYS_eventfd2) FAIL(EVENT, NULL, -1, -1);
    if (call == SYS_pidfd_open) FAIL(PIDFD, NULL, -1, -1);
    return raw(call, a[0], a[1], a[2], a[3], a[4], a[5]);
}

pid_t fork(void) { REAL(fork); FAIL(SPAWN, NULL, -1, -1); return real(); }
int clone(int (*f)(void *), void *stack, int flags, void *x, ...) {
    static int (*real)(int (*)(void *), void *, int, void *, ...);
    if (!real) real = (__typeof__(real))dlsym(RTLD_NEXT, "clone");
    va_list list;
    va_start(list, x);
    void *parent = va_arg(list, void *), *tls = va_arg(list, void *), *child = va_arg(list, void *);
    va_end(list);
    FAIL(SPAWN, NULL, -1, -1);
    return real(f, stack, flags, x, parent, tls, child);
}
