// What must not be measured from Python: clocks beside the kernel.
//
//   probe launch COMMAND...      ns from spawning COMMAND, an init that runs `probe stamp`, to
//                                the child's first instruction
//   probe signals N COMMAND...   ns from a SIGUSR1 to COMMAND, an init that runs `probe echo`, to
//                                the child's handler; N lines
//   probe orphans N              as an init's child in a pid namespace of its own: ns from the
//                                death of N orphans, 2,000 at once, until the last is reaped
//
// `stamp` and `echo` are the children; they and `orphans` answer on descriptor 3.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ANSWER = 3 };
extern char **environ;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    _exit(1);
}

static void pause_us(long us) {
    struct timespec t = {0, us * 1000};
    nanosleep(&t, NULL);
}

static void answer(long long value) {
    if (write(ANSWER, &value, sizeof value) != sizeof value) die("write");
}

static void on_signal(int signal) {
    (void)signal;
    answer(now());
}

// Spawns the init with the write end of a pipe as descriptor 3; returns the read end.
static int spawn(char **command, pid_t *pid) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) die("pipe2");
    int from = fcntl(ends[0], F_DUPFD_CLOEXEC, 10), to = fcntl(ends[1], F_DUPFD_CLOEXEC, 10);
    close(ends[0]);
    close(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, to, ANSWER);
    if ((errno = posix_spawnp(pid, command[0], &actions, NULL, command, environ)) != 0)
        die(command[0]);
    close(to);
    return from;
}

static long long hear(int from) {
    long long value;
    if (read(from, &value, sizeof value) != sizeof value) die("no answer from the child");
    return value;
}

static void launch(char **command) {
    pid_t pid;
    long long start = now();
    long long stamp = hear(spawn(command, &pid));
    printf("%lld\n", stamp - start);
    waitpid(pid, NULL, 0);
}

static void signals(int count, char **command) {
    pid_t init;
    int from = spawn(command, &init);
    pid_t child = hear(from);
    for (int i = 0; i < count; i++) {
        long long start = now();
        kill(init, SIGUSR1);
        printf("%lld\n", hear(from) - start);
        pause_us(2000);
    }
    kill(child, SIGKILL); // and with it goes the init
    waitpid(init, NULL, 0);
}

// So many at once: below what a container or a cgroup usually lets live.
enum { BATCH = 2000 };

static long long one_batch(pid_t *pids, int count) {
    int gate[2];
    if (pipe(gate) != 0) die("pipe");
    pid_t parent = fork();
    if (parent == 0) {
        close(gate[1]);
        for (int i = 0; i < count; i++) {
            pid_t pid = fork();
            if (pid < 0) die("fork");
            if (pid == 0) {
                char byte;
                _exit(read(gate[0], &byte, 1) < 0);
            }
            pids[i] = pid;
        }
        _exit(0);
    }
    int status;
    if (waitpid(parent, &status, 0) != parent || status != 0) die("parent");
    close(gate[0]);
    long long start = now();
    close(gate[1]); // every orphan reads the end, and ends
    for (int i = 0; i < count; i++)
        while (kill(pids[i], 0) == 0) pause_us(200);
    return now() - start;
}

static void orphans(int count) {
    pid_t *pids = mmap(NULL, BATCH * sizeof *pids, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (pids == MAP_FAILED) die("mmap");
    long long took = 0;
    for (; count > 0; count -= BATCH) took += one_batch(pids, count < BATCH ? count : BATCH);
    answer(took);
}

int main(int count, char **args) {
    const char *what = count > 1 ? args[1] : "";
    if (strcmp(what, "stamp") == 0) {
        answer(now());
    } else if (strcmp(what, "echo") == 0) {
        signal(SIGUSR1, on_signal);
        answer(getpid());
        for (;;) pause();
    } else if (strcmp(what, "launch") == 0 && count > 2) {
        launch(args + 2);
    } else if (strcmp(what, "signals") == 0 && count > 3) {
        signals(atoi(args[2]), args + 3);
    } else if (strcmp(what, "orphans") == 0 && count > 2) {
        orphans(atoi(args[2]));
    } else {
        fprintf(stderr, "see the head of probe.c\n");
        return 2;
    }
    return 0;
}
