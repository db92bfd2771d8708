/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process at the other end of a pipe or local socket
 */

#include "qemu/osdep.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include "qapi/error.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "snap/channel/peer.h"
#include "snap/trace.h"

/* Generations of ancestors, and descriptors of one process, to look at */
#define MAX_ANCESTORS   64
#define MAX_DESCRIPTORS (256 * 1024)

/* Larger than any file of /proc that is read */
#define MAX_FILE 4096

/* Largest piece of the kernel's answers about sockets */
#define MAX_ANSWER (32 * 1024)

/* "socket:[NUMBER]", "pipe:[NUMBER]" */
#define MAX_TARGET 64

/* include/linux/kdev_t.h: of a device's number in the kernel */
#define KERNEL_MINOR_BITS 20

#define USERFAULTFD "anon_inode:[userfaultfd]"

/* Threads of a process that are looked at */
#define MAX_THREADS 4096

/* What a thread that reads may have on its stack, in bytes */
#define MAX_FRAMES (UINT64_C(256) * 1024)

/* Fields of /proc/PID/stat after the name */
enum {
    STAT_PARENT     = 1,
    STAT_START_TIME = 19,
};

/**
 * Search: what to look for
 * @target: what a descriptor of that end links to in /proc/PID/fd
 * @refused: access mode that does not fit; -1 for none
 * @in_postcopy: see snap_peer_find()
 * @passed_over: a process that has the end, but is not in postcopy; 0 for none
 */
typedef struct Search {
    char target[MAX_TARGET];
    int refused;
    bool in_postcopy;
    pid_t passed_over;
} Search;

/* Returns: whether something was read; @buf has a string then */
static bool read_proc_file(int dir, const char *name, char buf[MAX_FILE])
{
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
    ssize_t length;

    if (fd < 0) {
        return false;
    }
    length = RETRY_ON_EINTR(read(fd, buf, MAX_FILE - 1));
    close(fd);
    buf[MAX(length, 0)] = '\0';
    return length > 0;
}

/* Whatever is read through it is of one process, even if @pid is reused. */
static int open_process(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d", (int)pid);

    return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static bool parse_pid(const char *text, pid_t *pid)
{
    int value;

    if (!qemu_isdigit(text[0]) || qemu_strtoi(text, NULL, 10, &value) < 0) {
        return false;
    }
    *pid = value;
    return true;
}

bool snap_peer_parse_stat(const char *text, pid_t *parent,
                          uint64_t *start_time)
{
    /* The name may have anything in it, parentheses too. */
    const char *end = strrchr(text, ')');
    g_auto(GStrv) fields = NULL;

    if (!end || end[1] != ' ') {
        return false;
    }
    fields = g_strsplit(end + 2, " ", STAT_START_TIME + 2);
    return g_strv_length(fields) > STAT_START_TIME &&
           parse_pid(fields[STAT_PARENT], parent) &&
           qemu_isdigit(fields[STAT_START_TIME][0]) &&
           qemu_strtou64(fields[STAT_START_TIME], NULL, 10, start_time) == 0;
}

static bool read_stat(int process, pid_t *parent, uint64_t *start_time)
{
    char text[MAX_FILE];

    return read_proc_file(process, "stat", text) &&
           snap_peer_parse_stat(text, parent, start_time);
}

/* --- what to look for --- */

/**
 * Question: what to ask the kernel about UNIX sockets
 * @inode: of the socket; 0 for all of those that listen
 * @show: attributes to request, UDIAG_SHOW_*
 * @pick: looks at one attribute of a socket.  Returns: whether @inode is filled
 *        in with that of the requested socket
 * @opaque: for @pick
 */
typedef struct Question {
    uint32_t inode;
    uint32_t show;
    bool (*pick)(const struct unix_diag_msg *socket, const struct rtattr *attr,
                 const void *opaque, uint32_t *inode);
    const void *opaque;
} Question;

static bool send_question(int fd, const Question *question)
{
    struct {
        struct nlmsghdr head;
        struct unix_diag_req body;
    } request = {
        .head = {
            .nlmsg_len = sizeof(request),
            .nlmsg_type = SOCK_DIAG_BY_FAMILY,
            .nlmsg_flags = NLM_F_REQUEST | (question->inode ? 0 : NLM_F_DUMP),
        },
        .body = {
            .sdiag_family = AF_UNIX,
            .udiag_states = question->inode ? -1 : 1 << TCP_LISTEN,
            .udiag_ino = question->inode,
            .udiag_show = question->show,
            .udiag_cookie = { -1, -1 },
        },
    };

    return send(fd, &request, sizeof(request), 0) == sizeof(request);
}

/* Look at all attributes of one socket. */
static bool pick_socket(const Question *question, const struct nlmsghdr *head,
                        uint32_t *inode)
{
    const struct unix_diag_msg *socket = NLMSG_DATA(head);
    const struct rtattr *attr = (const void *)(socket + 1);
    int rest = (int)(head->nlmsg_len - NLMSG_LENGTH(sizeof(*socket)));
    bool found = false;

    while (!found && RTA_OK(attr, rest)) {
        found = question->pick(socket, attr, question->opaque, inode);
        attr = RTA_NEXT(attr, rest);
    }
    return found;
}

/* Returns: whether more is to come */
static bool read_answer(int fd, const Question *question, bool *found,
                        uint32_t *inode)
{
    uint8_t buf[MAX_ANSWER] QEMU_ALIGNED(NLMSG_ALIGNTO);
    /* Sending the question makes the kernel answer, and so does reading on. */
    ssize_t rest = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
    const struct nlmsghdr *head = (const void *)buf;

    if (rest <= 0) {
        return false;
    }
    while (!*found && NLMSG_OK(head, rest)) {
        if (head->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
            head->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg))) {
            return false;
        }
        *found = pick_socket(question, head, inode);
        head = NLMSG_NEXT(head, rest);
    }
    return !*found && !question->inode;
}

/* Returns: whether @inode is filled in with that of the requested socket */
static bool query_sockets(const Question *question, uint32_t *inode)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    bool found = false;

    if (fd < 0) {
        return false;
    }
    if (send_question(fd, question)) {
        while (read_answer(fd, question, &found, inode)) {
            /* There are more sockets. */
        }
    }
    close(fd);
    return found;
}

static bool pick_peer(const struct unix_diag_msg *socket,
                      const struct rtattr *attr, const void *opaque,
                      uint32_t *inode)
{
    if (attr->rta_type != UNIX_DIAG_PEER ||
        RTA_PAYLOAD(attr) != sizeof(*inode)) {
        return false;
    }
    *inode = *(const uint32_t *)RTA_DATA(attr);
    return true;
}

/* Some file systems have another number for stat(): theirs are not found. */
static bool pick_listener(const struct unix_diag_msg *socket,
                          const struct rtattr *attr, const void *opaque,
                          uint32_t *inode)
{
    const struct stat *st = opaque;
    const struct unix_diag_vfs *file = RTA_DATA(attr);

    if (attr->rta_type != UNIX_DIAG_VFS ||
        RTA_PAYLOAD(attr) != sizeof(*file) ||
        file->udiag_vfs_ino != st->st_ino ||
        file->udiag_vfs_dev != (major(st->st_dev) << KERNEL_MINOR_BITS |
                                minor(st->st_dev))) {
        return false;
    }
    *inode = socket->udiag_ino;
    return true;
}

/*
 * The socket that @fd is connected to.
 *
 * Returns: whether @inode is filled in, with 0 if that has not been accepted
 */
static bool query_peer(int fd, uint32_t *inode)
{
    struct sockaddr_storage address = { };
    socklen_t length = sizeof(address);
    struct stat st;
    Question question = {
        .show = UDIAG_SHOW_PEER,
        .pick = pick_peer,
    };

    if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode) ||
        st.st_ino > UINT32_MAX ||
        getsockname(fd, (struct sockaddr *)&address, &length) < 0 ||
        address.ss_family != AF_UNIX) {
        return false;
    }
    question.inode = st.st_ino;
    return query_sockets(&question, inode);
}

static void search_inode(Search *s, uint32_t inode)
{
    snprintf(s->target, sizeof(s->target), "socket:[%" PRIu32 "]", inode);
    s->refused = -1;
}

static bool search_socket(Search *s, int fd, Error **errp)
{
    uint32_t peer;

    if (!query_peer(fd, &peer) || !peer) {
        error_setg(errp, "the kernel does not tell what the socket is "
                   "connected to");
        return false;
    }
    search_inode(s, peer);
    return true;
}

static bool search_pipe(Search *s, int fd, Error **errp)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, s->target, sizeof(s->target) - 1);
    int flags = fcntl(fd, F_GETFL);

    s->target[MAX(length, 0)] = '\0';
    if (!g_str_has_prefix(s->target, "pipe:[") || flags < 0 ||
        (flags & O_ACCMODE) == O_RDWR) {
        error_setg(errp, "the channel is a named pipe, or /proc does not "
                   "tell which one");
        return false;
    }
    /* The same end as ours, which others may have inherited */
    s->refused = flags & O_ACCMODE;
    return true;
}

static bool search_init(Search *s, int fd, Error **errp)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "the channel could not be queried");
        return false;
    }
    if (S_ISSOCK(st.st_mode)) {
        return search_socket(s, fd, errp);
    }
    if (S_ISFIFO(st.st_mode)) {
        return search_pipe(s, fd, errp);
    }
    error_setg(errp, "the channel is neither a pipe nor a socket");
    return false;
}

/* --- looking at processes --- */

static bool has_access(const Search *s, int process, const char *name)
{
    g_autofree char *path = g_strdup_printf("fdinfo/%s", name);
    char text[MAX_FILE];
    const char *flags;
    unsigned value;

    if (s->refused < 0) {
        return true;
    }
    if (!read_proc_file(process, path, text)) {
        return false;
    }
    flags = strstr(text, "flags:");
    return flags && qemu_strtoui(flags + strlen("flags:"), &flags, 8,
                                 &value) == 0 &&
           (value & O_ACCMODE) != s->refused;
}

/* Whether a process has the wanted end, and is in postcopy */
static void scan_descriptors(const Search *s, int process, DIR *dir,
                             bool *has_end, bool *in_postcopy)
{
    struct dirent *entry;
    unsigned nb = 0;

    *has_end = *in_postcopy = false;
    while ((entry = readdir(dir)) && nb++ < MAX_DESCRIPTORS &&
           !(*has_end && *in_postcopy)) {
        char target[MAX_TARGET];
        ssize_t length = readlinkat(dirfd(dir), entry->d_name, target,
                                    sizeof(target) - 1);

        target[MAX(length, 0)] = '\0';
        if (!strcmp(target, USERFAULTFD)) {
            *in_postcopy = true;
        } else if (!*has_end && !strcmp(target, s->target)) {
            *has_end = has_access(s, process, entry->d_name);
        }
    }
}

static bool has_wanted_end(Search *s, int process, pid_t pid)
{
    int fd = openat(process, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    bool has_end, in_postcopy;

    if (!dir) {
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    scan_descriptors(s, process, dir, &has_end, &in_postcopy);
    closedir(dir);
    if (has_end && s->in_postcopy && !in_postcopy) {
        s->passed_over = pid;
        return false;
    }
    return has_end;
}

static bool try_process(Search *s, pid_t pid, SnapPeer *peer)
{
    int process = open_process(pid);
    struct stat st;
    pid_t parent;
    bool found;

    if (process < 0) {
        return false;
    }
    found = has_wanted_end(s, process, pid) && fstat(process, &st) == 0 &&
            read_stat(process, &parent, &peer->start_time);
    close(process);
    if (found) {
        peer->pid = pid;
        peer->uid = st.st_uid;
    }
    return found;
}

/* Returns: 0 if there is none, or none that can be seen */
static pid_t parent_of(pid_t pid)
{
    int process = open_process(pid);
    uint64_t start_time;
    pid_t parent = 0;

    if (process >= 0) {
        if (!read_stat(process, &parent, &start_time)) {
            parent = 0;
        }
        close(process);
    }
    return parent;
}

static bool is_ancestor(pid_t pid)
{
    pid_t ancestor = getppid();

    for (unsigned i = 0; i < MAX_ANCESTORS && ancestor; i++) {
        if (ancestor == pid) {
            return true;
        }
        ancestor = parent_of(ancestor);
    }
    return false;
}

static bool stat_program(pid_t pid, struct stat *st)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/exe", pid);

    return stat(path, st) == 0;
}

/*
 * Whether a process is one that an ancestor of ours has forked, and that has
 * not become another program yet: it has what that has open for a moment only.
 */
static bool is_copy_of_ancestor(pid_t pid)
{
    pid_t parent = parent_of(pid);
    struct stat ours, theirs;

    return parent && is_ancestor(parent) &&
           stat_program(pid, &ours) && stat_program(parent, &theirs) &&
           ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

static bool try_ancestors(Search *s, SnapPeer *peer)
{
    pid_t ancestor = getppid();

    for (unsigned i = 0; i < MAX_ANCESTORS && ancestor; i++) {
        if (try_process(s, ancestor, peer)) {
            return true;
        }
        ancestor = parent_of(ancestor);
    }
    return false;
}

static bool try_all(Search *s, SnapPeer *peer)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    bool found = false;

    while (dir && !found && (entry = readdir(dir))) {
        pid_t pid;

        found = parse_pid(entry->d_name, &pid) && pid != getpid() &&
                try_process(s, pid, peer) && !is_copy_of_ancestor(pid);
    }
    if (dir) {
        closedir(dir);
    }
    return found;
}

/* The creator of a pair of sockets, or a listener: it may have the other. */
static bool try_creator(Search *s, int fd, SnapPeer *peer)
{
    struct ucred creator;
    socklen_t length = sizeof(creator);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &creator, &length) == 0 &&
           creator.pid > 0 && creator.pid != getpid() &&
           try_process(s, creator.pid, peer);
}

/* @fd: -1 if it does not tell which process to try first */
static bool search_processes(Search *s, int fd, SnapPeer *peer, Error **errp)
{
    if ((fd >= 0 && try_creator(s, fd, peer)) || try_ancestors(s, peer) ||
        try_all(s, peer)) {
        peer->ancestor = is_ancestor(peer->pid);
        trace_snap_peer_find(s->target, peer->pid, peer->start_time);
        return true;
    }
    trace_snap_peer_find(s->target, 0, 0);
    if (s->passed_over) {
        const SnapPeer other = { .pid = s->passed_over };
        g_autofree char *name = snap_peer_name(&other);

        error_setg(errp, "'%s' at the other end of the channel is not in the "
                   "state postcopy-paused, with migrate-recover", name);
    } else {
        error_setg(errp, "no process that can be looked at is at the other "
                   "end of the channel");
    }
    return false;
}

bool snap_peer_find(int fd, bool in_postcopy, SnapPeer *peer, Error **errp)
{
    Search s = { .in_postcopy = in_postcopy };

    return search_init(&s, fd, errp) && search_processes(&s, fd, peer, errp);
}

bool snap_peer_awaited(int fd)
{
    struct pollfd pollfd = { .fd = fd };
    uint32_t inode;

    return query_peer(fd, &inode) && !inode &&
           RETRY_ON_EINTR(poll(&pollfd, 1, 0)) == 0;
}

bool snap_peer_find_listener(const char *path, bool in_postcopy,
                             SnapPeer *peer, Error **errp)
{
    Search s = { .in_postcopy = in_postcopy };
    struct stat st;
    const Question question = {
        .show = UDIAG_SHOW_VFS,
        .pick = pick_listener,
        .opaque = &st,
    };
    uint32_t inode;

    if (stat(path, &st) < 0 || !query_sockets(&question, &inode)) {
        error_setg(errp, "it is not known who listens at '%s'", path);
        return false;
    }
    search_inode(&s, inode);
    return search_processes(&s, -1, peer, errp);
}

/**
 * Syscall: what a thread waits in
 * @number: of the system call
 * @args: its first arguments
 * @sp: stack pointer
 */
typedef struct Syscall {
    int number;
    uint64_t args[2];
    uint64_t sp;
} Syscall;

/* Arguments, stack pointer and program counter follow the number. */
#define SYSCALL_SP 6

/* Returns: whether the thread waits, and may be looked at */
static bool read_syscall(int process, const char *tid, Syscall *call)
{
    g_autofree char *path = g_strdup_printf("task/%s/syscall", tid);
    uint64_t words[SYSCALL_SP + 1];
    char text[MAX_FILE];
    const char *p = text;

    if (!read_proc_file(process, path, text) ||
        qemu_strtoi(text, &p, 10, &call->number) < 0) {
        return false;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        if (qemu_strtou64(p, &p, 16, &words[i]) < 0) {
            return false;
        }
    }
    memcpy(call->args, words, sizeof(call->args));
    call->sp = words[SYSCALL_SP];
    return true;
}

static bool reads_from(int process, const Syscall *call, const char *target)
{
    g_autofree char *path = g_strdup_printf("fd/%" PRIu64, call->args[0]);
    char its_target[MAX_TARGET];
    ssize_t length = readlinkat(process, path, its_target,
                                sizeof(its_target) - 1);

    its_target[MAX(length, 0)] = '\0';
    return (call->number == SYS_read || call->number == SYS_readv) &&
           !strcmp(its_target, target);
}

/*
 * Whether @join waits for a word of @thread's descriptor, as pthread_join()
 * does: the C library has that at the upper end of the thread's stack.  (What
 * the word is differs from version to version.)
 */
static bool joins_thread(const Syscall *join, const Syscall *thread)
{
    return join->number == SYS_futex && join->args[0] > thread->sp &&
           join->args[0] - thread->sp < MAX_FRAMES;
}

/* Whether a thread reads from @target, and @join waits for its end. */
static bool joins_reader(int process, const Syscall *join, const char *target)
{
    int fd = openat(process, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    bool found = false;

    if (!dir) {
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    for (unsigned n = 0; n < MAX_THREADS && !found &&
                         (entry = readdir(dir)); n++) {
        Syscall call;

        found = qemu_isdigit(entry->d_name[0]) &&
                read_syscall(process, entry->d_name, &call) &&
                reads_from(process, &call, target) && joins_thread(join, &call);
    }
    closedir(dir);
    return found;
}

bool snap_peer_waits_for_end(int fd)
{
    g_autofree char *main_thread = NULL;
    Search s = { };
    SnapPeer peer;
    Syscall join;
    int process;
    bool waits;

    if (!search_pipe(&s, fd, NULL) || !search_processes(&s, -1, &peer, NULL)) {
        return false;
    }
    main_thread = g_strdup_printf("%d", (int)peer.pid);
    process = open_process(peer.pid);
    waits = process >= 0 && read_syscall(process, main_thread, &join) &&
            joins_reader(process, &join, s.target);
    if (process >= 0) {
        close(process);
    }
    return waits;
}

bool snap_peer_exists(pid_t pid, uint64_t start_time)
{
    int process = open_process(pid);
    uint64_t its_start_time;
    pid_t parent;
    bool seen;

    if (process >= 0) {
        seen = read_stat(process, &parent, &its_start_time);
        close(process);
        if (seen) {
            return its_start_time == start_time;
        }
    }
    return kill(pid, 0) == 0 || errno != ESRCH;
}

char *snap_peer_name(const SnapPeer *peer)
{
    int process = open_process(peer->pid);
    char text[MAX_FILE] = "";

    if (process >= 0) {
        read_proc_file(process, "comm", text);
        close(process);
    }
    g_strchomp(text);
    for (char *p = text; *p; p++) {
        *p = qemu_isprint(*p) ? *p : '?';
    }
    return g_strdup(text[0] ? text : "?");
}
