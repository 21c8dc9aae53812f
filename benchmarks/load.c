/* The load: plays tools and devices against a broker on this machine and checks every answer.
 *
 * One process, one thread, one epoll loop. Each device keeps a fixed number of requests in flight (closed loop); each tool
 * answers whatever reaches it. A round trip counts only if the answer carries the id, the nonce and every payload byte that
 * were expected. The server's CPU time and memory are read from /proc. One JSON object goes to stdout; the exit code is 1
 * if a single byte was wrong, an answer was lost or a link was closed early. Addresses are 127.x.x.x only, and the process
 * ends by itself: --seconds and --warm bound it, and an alarm stands behind them.
 *
 *     load calls  --port P --tools M --devices N [--depth D] [--request B] [--answer B] [--rows] ...
 *     load idle   --port P --tools M --devices N [--deflate] [--tokens FILE]     connect all, hold, measure memory
 *     load attack --port P --unread N --flooding N --hanging N [--silent]        misbehave for --seconds
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
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

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { TOOL, DEVICE };
enum { POLITE, UNREAD, FLOODING, HANGING };
enum { CONNECTING, SHAKING, OPEN, CLOSED };
enum { EVENTS = 512, ROOM = 64 * 1024, LATENCIES = 4 << 20, FLOOD_BYTES = 256 * 1024, RETRY_NS = 500000000 };

struct bytes { uint8_t *at; size_t size, room; };
struct asked { uint64_t number, nonce, when; int waiting; };

struct link {
    int fd, role, kind, state, number, endpoint, waits_writable, queued, greeted;
    struct bytes in, out;
    size_t read, sent;
    struct asked *asked;
    int depth;
    uint64_t turn, answered, retry;
};

static const char *mode = "", *tokens_file;
static long port, server_pid, tool_count = 1, device_count = 1, depth = 1, request_bytes = 150, answer_bytes = 150, window = 128, sources = 1;
static long unread_count, flooding_count, hanging_count, active_count = -1;
static double seconds = 2, warm = 0.5, settle = 0.3, connect_seconds = 60;
static int rows, deflate, silent, bare;

static int poller, measuring, finishing;
static struct link *tools, *devices;
static struct link **dirty;
static int dirty_count, dirty_room;
static char **tokens;
static long token_count;
static int open_count, refused_count, lost_links, connect_count, deflate_taken;
static uint64_t wrong, errors, unexpected, tool_wrong, pings, done, measured;
static uint32_t *latencies;
static size_t latency_count;
static char first_wrong[400];
static struct bytes request_fill, answer_fill, scratch;

/* ---- small things ---- */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + t.tv_nsec;
}

static uint64_t chance(void) {                            /* splitmix64: nonces and masking keys, nothing secret */
    static uint64_t state;
    if (!state) state = now();
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s\n", what);
    exit(2);
}

static void reserve(struct bytes *b, size_t more) {
    if (b->size + more <= b->room) return;
    b->room = (b->size + more) * 2;
    b->at = realloc(b->at, b->room);
    if (!b->at) fail("out of memory");
}

static void append(struct bytes *b, const void *from, size_t size) {
    reserve(b, size);
    memcpy(b->at + b->size, from, size);
    b->size += size;
}

static void append_text(struct bytes *b, const char *text) { append(b, text, strlen(text)); }

static void note(const char *what, const uint8_t *text, size_t size) {
    if (!first_wrong[0]) snprintf(first_wrong, sizeof first_wrong, "%s: %.*s", what, (int)(size > 240 ? 240 : size), (const char *)text);
}

/* ---- the server, as the operating system sees it ---- */

static double server_cpu(void) {                          /* seconds of all its threads, from the scheduler's nanoseconds */
    char name[320];
    double total = 0;
    snprintf(name, sizeof name, "/proc/%ld/task", server_pid);
    DIR *folder = opendir(name);
    if (!folder) return 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        unsigned long long ran;
        if (entry->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "/proc/%ld/task/%s/schedstat", server_pid, entry->d_name);
        FILE *file = fopen(name, "r");
        if (!file) continue;
        if (fscanf(file, "%llu", &ran) == 1) total += ran / 1e9;
        fclose(file);
    }
    closedir(folder);
    return total;
}

static long server_kib(void) {                            /* resident memory */
    char name[64];
    long total, resident = 0;
    snprintf(name, sizeof name, "/proc/%ld/statm", server_pid);
    FILE *file = fopen(name, "r");
    if (!file) return 0;
    if (fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static double own_cpu(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

/* ---- sending ---- */

static void watch(struct link *l) {
    int reads = l->kind != UNREAD && l->kind != FLOODING;
    if (l->state != OPEN || silent) reads = 1;
    struct epoll_event e = {.events = (reads ? EPOLLIN : 0) | (l->waits_writable ? EPOLLOUT : 0), .data.ptr = l};
    epoll_ctl(poller, EPOLL_CTL_MOD, l->fd, &e);
}

static void enqueue(struct link *l) {
    if (l->queued) return;
    if (dirty_count == dirty_room) {
        dirty_room = dirty_room ? dirty_room * 2 : 256;
        dirty = realloc(dirty, dirty_room * sizeof *dirty);
        if (!dirty) fail("out of memory");
    }
    l->queued = 1;
    dirty[dirty_count++] = l;
}

static void drop(struct link *l) {
    if (l->state == CLOSED) return;
    if (l->state == OPEN) { open_count--; lost_links++; }
    else if (l->kind == POLITE) refused_count++;
    l->state = CLOSED;
    l->in.size = l->read = l->out.size = l->sent = 0;
    l->retry = now() + RETRY_NS;
    close(l->fd);
}

static void flush(struct link *l) {
    if (l->state != SHAKING && l->state != OPEN) return;
    while (l->sent < l->out.size) {
        ssize_t n = send(l->fd, l->out.at + l->sent, l->out.size - l->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            if (errno != EAGAIN) { drop(l); return; }
            if (!l->waits_writable) { l->waits_writable = 1; watch(l); }
            return;
        }
        l->sent += n;
    }
    l->out.size = l->sent = 0;
    if (l->waits_writable) { l->waits_writable = 0; watch(l); }
}

static void send_frame(struct link *l, uint8_t first, const uint8_t *body, size_t size) {
    uint8_t h[14] = {first};
    int n = 2;
    if (size < 126) h[1] = 128 | size;
    else if (size < 65536) { h[1] = 128 | 126; h[2] = size >> 8; h[3] = size; n = 4; }
    else { h[1] = 128 | 127; for (int i = 0; i < 8; i++) h[2 + i] = (uint64_t)size >> (56 - 8 * i); n = 10; }
    uint64_t key = chance() & 0xffffffffu;
    key |= key << 32;
    memcpy(h + n, &key, 4);
    n += 4;
    reserve(&l->out, n + size);
    append(&l->out, h, n);
    uint8_t *to = l->out.at + l->out.size;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        uint64_t w;
        memcpy(&w, body + i, 8);
        w ^= key;
        memcpy(to + i, &w, 8);
    }
    for (; i < size; i++) to[i] = body[i] ^ (uint8_t)(key >> (8 * (i & 3)));
    l->out.size += size;
    enqueue(l);
}

static void send_scratch(struct link *l) { send_frame(l, 0x81, scratch.at, scratch.size); }

static void send_text(struct link *l, const char *text) { send_frame(l, 0x81, (const uint8_t *)text, strlen(text)); }

/* ---- messages: what is sent, and what must therefore come back, byte for byte ---- */

static const char CALL_1[] = "{\"jsonrpc\":\"2.0\",\"id\":";
static const char CALL_2[] = ",\"method\":\"tools/call\",\"params\":{\"name\":\"echo\",\"arguments\":{\"nonce\":\"";
static const char CALL_3[] = "\",\"fill\":";
static const char CALL_4[] = "}}}";
static const char ANSWER_2[] = ",\"result\":{\"content\":[],\"structuredContent\":{\"nonce\":\"";
static const char ANSWER_4[] = "}}}";
static const char GREETING[] = "{\"jsonrpc\":\"2.0\",\"id\":\"hello\",\"method\":\"initialize\",\"params\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{},\"clientInfo\":{\"name\":\"load\",\"version\":\"1\"}}}";
static const char GREETED[] = "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}";
static const char LIST[] = "{\"jsonrpc\":\"2.0\",\"id\":\"list\",\"method\":\"tools/list\",\"params\":{}}";
static const char SELF[] = "\"result\":{\"protocolVersion\":\"2024-11-05\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"load\",\"version\":\"1\"}}}";
static const char TOOLS[] = "\"result\":{\"tools\":[{\"name\":\"echo\",\"description\":\"gives the nonce back\",\"inputSchema\":{\"type\":\"object\"}}]}}";

/* A JSON value of about `size` bytes: one string with Chinese in it, or an array of small objects; spelled as every encoder would. */
static void fill(struct bytes *b, long size) {
    if (size < 4) size = 4;
    if (rows) {
        append_text(b, "[");
        for (int i = 0; i == 0 || (long)b->size + 48 < size; i++) {
            char row[80];
            snprintf(row, sizeof row, "%s{\"k\":%d,\"v\":\"item %d\",\"on\":true,\"x\":[1,null]}", i ? "," : "", i, i);
            append_text(b, row);
        }
        append_text(b, "]");
        return;
    }
    append_text(b, "\"");
    for (long i = 0; (long)b->size < size - 1; i++) {
        if (i % 50 == 10 && (long)b->size + 7 <= size) append(b, "\xe6\x99\xba\xe8\x83\xbd", 6);
        else append(b, "the quick brown fox, 12:30 {ok}[]" + i % 33, 1);
    }
    append_text(b, "\"");
}

static void id_of(struct link *device, uint64_t number, char out[32]) {  /* every second device spells its ids as strings */
    snprintf(out, 32, device->number & 1 ? "\"%llu\"" : "%llu", (unsigned long long)number);
}

static void ask(struct link *device, int slot) {
    struct asked *a = &device->asked[slot];
    char id[32], nonce[20];
    a->number = ++device->turn * device->depth + slot;
    a->nonce = chance();
    a->waiting = 1;
    id_of(device, a->number, id);
    snprintf(nonce, sizeof nonce, "%016llx", (unsigned long long)a->nonce);
    scratch.size = 0;
    append_text(&scratch, CALL_1);
    append_text(&scratch, id);
    append(&scratch, CALL_2, sizeof CALL_2 - 1);
    append(&scratch, nonce, 16);
    append(&scratch, CALL_3, sizeof CALL_3 - 1);
    append(&scratch, request_fill.at, request_fill.size);
    append(&scratch, CALL_4, sizeof CALL_4 - 1);
    a->when = now();
    send_scratch(device);
}

static int next_is(const uint8_t **p, const uint8_t *end, const void *text, size_t size) {
    if ((size_t)(end - *p) < size || memcmp(*p, text, size)) return 0;
    *p += size;
    return 1;
}

static void greet(struct link *device) {
    send_text(device, GREETING);
    send_text(device, GREETED);
    send_text(device, LIST);
}

static void device_hears(struct link *device, const uint8_t *text, size_t size) {
    const uint8_t *p = text, *end = text + size;
    uint64_t number = 0, then = now();
    if (device->kind != POLITE || silent) return;
    if (!next_is(&p, end, CALL_1, sizeof CALL_1 - 1)) {
        if (!memmem(text, size, "\"method\":\"notifications/", 24)) { unexpected++; note("no answer of ours", text, size); }
        return;
    }
    if (next_is(&p, end, "\"hello\",", 8) || next_is(&p, end, "\"list\",", 7)) {
        if (!next_is(&p, end, "\"result\":", 9)) { wrong++; note("greeting refused", text, size); }
        device->greeted++;
        return;
    }
    const uint8_t *digit = p + (p < end && *p == '"');
    for (; digit < end && isdigit(*digit); digit++) number = number * 10 + (*digit - '0');
    struct asked *a = &device->asked[number % device->depth];
    char id[32], nonce[20];
    id_of(device, number, id);
    if (!a->waiting || a->number != number || !next_is(&p, end, id, strlen(id))) { unexpected++; note("id never asked", text, size); return; }
    a->waiting = 0;
    snprintf(nonce, sizeof nonce, "%016llx", (unsigned long long)a->nonce);
    if (next_is(&p, end, ",\"error\":", 9)) { errors++; note("error", text, size); }
    else if (next_is(&p, end, ANSWER_2, sizeof ANSWER_2 - 1) && next_is(&p, end, nonce, 16) && next_is(&p, end, CALL_3, sizeof CALL_3 - 1)
             && next_is(&p, end, answer_fill.at, answer_fill.size) && next_is(&p, end, ANSWER_4, sizeof ANSWER_4 - 1) && p == end) {
        done++;
        if (measuring) {
            measured++;
            device->answered++;
            if (latency_count < LATENCIES) latencies[latency_count++] = (then - a->when) / 100;
        }
    } else { wrong++; note("answer differs", text, size); }
    if (!finishing) ask(device, number % device->depth);
}

/* A call is checked to the byte; anything else (greetings of a device or of the broker) is answered by its method's name. */
static void tool_hears(struct link *tool, const uint8_t *text, size_t size) {
    const uint8_t *p = text, *end = text + size, *id, *nonce;
    if (next_is(&p, end, CALL_1, sizeof CALL_1 - 1)) {
        for (id = p; p < end && *p != ','; p++) ;
        size_t id_size = p - id;
        if (next_is(&p, end, CALL_2, sizeof CALL_2 - 1) && end - p > 16) {
            nonce = p;
            p += 16;
            if (tool->kind == POLITE && !(next_is(&p, end, CALL_3, sizeof CALL_3 - 1) && next_is(&p, end, request_fill.at, request_fill.size)
                  && next_is(&p, end, CALL_4, sizeof CALL_4 - 1) && p == end)) { tool_wrong++; note("request differs", text, size); }
            scratch.size = 0;
            append(&scratch, CALL_1, sizeof CALL_1 - 1);
            append(&scratch, id, id_size);
            append(&scratch, ANSWER_2, sizeof ANSWER_2 - 1);
            append(&scratch, nonce, 16);
            append(&scratch, CALL_3, sizeof CALL_3 - 1);
            append(&scratch, answer_fill.at, answer_fill.size);
            append(&scratch, ANSWER_4, sizeof ANSWER_4 - 1);
            send_scratch(tool);
            return;
        }
    }
    const uint8_t *asks = memmem(text, size, "\"method\":", 9);
    id = memmem(text, size, "\"id\":", 5);
    if (!id || !asks) return;
    id += 5;
    for (p = id; p < end && *p != ',' && *p != '}'; p++) ;
    const char *result = memmem(asks, end - asks, "\"initialize\"", 12) ? SELF : memmem(asks, end - asks, "\"tools/list\"", 12) ? TOOLS : "\"result\":{}}";
    scratch.size = 0;
    append(&scratch, CALL_1, sizeof CALL_1 - 1);
    append(&scratch, id, p - id);
    append_text(&scratch, ",");
    append_text(&scratch, result);
    send_scratch(tool);
}

/* ---- misbehaving ---- */

/* A device that asks and never reads, a tool that talks and never reads: as much as the socket takes. */
static void misbehave(struct link *l) {
    if (silent || l->state != OPEN || finishing) return;
    while (l->out.size < FLOOD_BYTES) {
        if (l->role == DEVICE) {
            ask(l, (int)(l->turn % l->depth));
            continue;
        }
        char text[200];
        snprintf(text, sizeof text, l->turn & 1 ? "{\"jsonrpc\":\"2.0\",\"id\":%llu,\"result\":{\"content\":[],\"structuredContent\":{\"nonce\":\"0\"}}}"
                 : "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{\"level\":\"info\",\"data\":\"%llu\"}}", (unsigned long long)l->turn);
        l->turn++;
        send_text(l, text);
    }
}

/* ---- connecting ---- */

/* The sample key of RFC 6455 section 1.3 and the only right answer to it */
static const char KEY[] = "dGhlIHNhbXBsZSBub25jZQ==", ACCEPT[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

static void start_handshake(struct link *l) {
    char token[1024] = "", head[2048];
    if (token_count) {
        size_t n = 0;
        for (const char *c = tokens[l->endpoint % token_count]; *c && n < sizeof token - 4; c++)
            n += snprintf(token + n, 4, isalnum((unsigned char)*c) || strchr("-_.~", *c) ? "%c" : "%%%02X", (unsigned char)*c);
    } else snprintf(token, sizeof token, "bench-%d", l->endpoint);
    int n = snprintf(head, sizeof head,
        "GET /mcp_endpoint/%s/?token=%s HTTP/1.1\r\nHost: 127.0.0.1:%ld\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
        l->role == TOOL ? "mcp" : "call", token, port, KEY, deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    if (l->kind == HANGING && !silent) n -= 20;           /* the end never comes */
    append(&l->out, head, n);
    l->state = SHAKING;
    enqueue(l);
}

static void start(struct link *l) {
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1, few = 4096;
    l->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0) fail("no more descriptors: raise ulimit -n");
    setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (l->kind == UNREAD) setsockopt(l->fd, SOL_SOCKET, SO_RCVBUF, &few, sizeof few);
    if (sources > 1) {
        setsockopt(l->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + connect_count % sources);
        if (bind(l->fd, (void *)&from, sizeof from)) fail("cannot bind a loopback address");
    }
    connect_count++;
    l->state = CONNECTING;
    l->waits_writable = 1;
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = l};
    epoll_ctl(poller, EPOLL_CTL_ADD, l->fd, &e);
    if (connect(l->fd, (void *)&to, sizeof to) && errno != EINPROGRESS) drop(l);
}

/* ---- receiving ---- */

static int shake(struct link *l, const uint8_t *p, size_t size) {  /* how many bytes the answer to the handshake has, 0: not all here */
    const uint8_t *end = memmem(p, size, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t n = end + 4 - p;
    if (n < 12 || memcmp(p + 9, "101", 3) || !memmem(p, n, ACCEPT, sizeof ACCEPT - 1)) {
        if (l->kind == POLITE) note("handshake refused", p, size);
        drop(l);
        return 0;
    }
    deflate_taken |= memmem(p, n, "permessage-deflate", 18) != NULL;
    l->state = OPEN;
    open_count++;
    watch(l);
    if (l->kind == UNREAD || l->kind == FLOODING) misbehave(l);
    return n;
}

static void understand(struct link *l) {
    for (;;) {
        uint8_t *p = l->in.at + l->read;
        size_t size = l->in.size - l->read, head = 2;
        if (!size) break;
        if (l->state == SHAKING) {
            size_t n = shake(l, p, size);
            l->read += n;
            if (!n || l->state == CLOSED) break;
            continue;
        }
        if (l->state != OPEN || size < 2) break;
        uint64_t body = p[1];
        if (body == 126) { head = 4; if (size < head) break; body = p[2] << 8 | p[3]; }
        else if (body == 127) { head = 10; if (size < head) break; body = 0; for (int i = 2; i < 10; i++) body = body << 8 | p[i]; }
        if (p[1] & 128 || body > 64 << 20) { wrong++; note("masked or monstrous frame", p, 16); drop(l); break; }
        if (size < head + body) {
            reserve(&l->in, head + body - size);
            break;
        }
        l->read += head + body;
        p += head;
        switch (p[-(long)head]) {
        case 0x81: case 0x82: if (l->role == TOOL) tool_hears(l, p, body); else device_hears(l, p, body); break;
        case 0x89: pings++; send_frame(l, 0x8a, p, body); break;
        case 0x8a: break;
        case 0x88:
            if (l->kind == POLITE) note("closed", p + 2, body > 2 ? body - 2 : 0);
            send_frame(l, 0x88, p, body < 2 ? 0 : 2);
            flush(l);
            drop(l);
            break;
        default: wrong++; note("a frame nobody announced", p, body); drop(l);
        }
        if (l->state == CLOSED) return;
    }
    l->in.size -= l->read;
    memmove(l->in.at, l->in.at + l->read, l->in.size);
    l->read = 0;
}

static void receive(struct link *l) {
    for (;;) {
        reserve(&l->in, l->asked || l->role == TOOL ? ROOM / 4 : 1024);
        size_t room = l->in.room - l->in.size;
        ssize_t n = recv(l->fd, l->in.at + l->in.size, room, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (n <= 0) { drop(l); return; }
        l->in.size += n;
        understand(l);
        if (l->state == CLOSED || (size_t)n < room) break;
    }
    if (!l->in.size && l->in.room < ROOM && *mode == 'i') {  /* ten thousand idle links keep no buffers here either */
        free(l->in.at);
        memset(&l->in, 0, sizeof l->in);
    }
}

static void turn(int milliseconds) {
    struct epoll_event events[EVENTS];
    int n = epoll_wait(poller, events, EVENTS, dirty_count ? 0 : milliseconds);
    for (int i = 0; i < n; i++) {
        struct link *l = events[i].data.ptr;
        uint32_t what = events[i].events;
        if (l->state == CLOSED) continue;
        if (l->state == CONNECTING) {
            int problem = 0;
            socklen_t size = sizeof problem;
            getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &problem, &size);
            if (problem) { drop(l); continue; }
            l->waits_writable = 0;
            start_handshake(l);
            watch(l);
            continue;
        }
        if (what & EPOLLOUT) enqueue(l);
        if (what & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(l);
    }
    int now_dirty = dirty_count;                          /* misbehaving adds to the list: that is the next turn's work */
    for (int i = 0; i < now_dirty; i++) {
        struct link *l = dirty[i];
        l->queued = 0;
        flush(l);
        if (l->kind != POLITE && l->kind != HANGING && !l->out.size) misbehave(l);
    }
    dirty_count -= now_dirty;
    memmove(dirty, dirty + now_dirty, dirty_count * sizeof *dirty);
}

static void run(double time) {
    for (uint64_t end = now() + (uint64_t)(time * 1e9); now() < end;) turn(20);
}

static void connect_all(struct link *list, long count) {
    uint64_t end = now() + (uint64_t)(connect_seconds * 1e9);
    int began = 0, open_before = open_count, refused_before = refused_count;
    for (;;) {
        int settled = open_count - open_before + refused_count - refused_before;
        if (settled >= count || now() > end) return;
        while (began < count && began - settled < window) start(&list[began++]);
        turn(20);
    }
}

static struct link *party(long count, int role, int kind, int first_endpoint) {
    struct link *list = calloc(count + 1, sizeof *list);
    if (!list) fail("out of memory");
    for (long i = 0; i < count; i++) {
        struct link *l = &list[i];
        l->role = role;
        l->kind = kind;
        l->number = i;
        l->endpoint = first_endpoint + (int)i;
        l->state = CLOSED;
        l->depth = depth;
        if (role == DEVICE && *mode != 'i') l->asked = calloc(l->depth, sizeof *l->asked);
    }
    return list;
}

/* ---- the three modes ---- */

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile(double share) { return latency_count ? latencies[(size_t)(share * (latency_count - 1))] / 10.0 : 0; }

static void print_text(const char *name, const char *text) {
    printf(",\"%s\":\"", name);
    for (; *text; text++) {
        unsigned char c = *text;
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32 || c > 126) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

static int calls(void) {
    long active = active_count < 0 || active_count > device_count ? device_count : active_count;
    tools = party(tool_count, TOOL, POLITE, 0);
    devices = party(device_count, DEVICE, POLITE, 0);
    for (long i = 0; i < device_count; i++) devices[i].endpoint = i % tool_count;
    uint64_t began = now();
    connect_all(tools, tool_count);
    connect_all(devices, device_count);
    double connect_took = (now() - began) / 1e9;
    int opened = open_count;
    if (!bare) {
        for (long i = 0; i < active; i++) if (devices[i].state == OPEN) greet(&devices[i]);
        for (uint64_t end = now() + 10000000000u; now() < end;) {
            long waiting = 0;
            turn(20);
            for (long i = 0; i < active; i++) waiting += devices[i].state == OPEN && devices[i].greeted < 2;
            if (!waiting) break;
        }
    }
    for (long i = 0; i < active; i++)
        for (int slot = 0; devices[i].state == OPEN && slot < devices[i].depth; slot++) ask(&devices[i], slot);
    for (int i = 0; i < dirty_count; i++) { dirty[i]->queued = 0; flush(dirty[i]); }
    dirty_count = 0;
    run(warm);
    uint64_t from = now();
    double cpu = server_cpu(), own = own_cpu();
    measuring = 1;
    run(seconds);
    measuring = 0;
    double took = (now() - from) / 1e9;
    cpu = server_cpu() - cpu;
    own = own_cpu() - own;
    long kib = server_kib();
    finishing = 1;
    uint64_t lost = 0;
    for (uint64_t end = now() + 5000000000u; now() < end;) {  /* what is still asked must be answered */
        lost = 0;
        for (long i = 0; i < active; i++) for (int slot = 0; slot < devices[i].depth; slot++) lost += devices[i].asked[slot].waiting;
        if (!lost) break;
        turn(20);
    }
    uint64_t least = UINT64_MAX, most = 0;
    for (long i = 0; i < active; i++) {
        if (devices[i].answered < least) least = devices[i].answered;
        if (devices[i].answered > most) most = devices[i].answered;
    }
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    int ok = measured && !wrong && !errors && !unexpected && !tool_wrong && !lost && !lost_links && opened == tool_count + device_count;
    printf("{\"mode\":\"calls\",\"ok\":%s,\"opened\":%d,\"refused\":%d,\"closed\":%d,\"round_trips\":%llu,\"per_second\":%.1f,\"cpu_us\":%.3f,\"cpu_share\":%.3f,\"load_share\":%.3f",
           ok ? "true" : "false", opened, refused_count, lost_links, (unsigned long long)measured, measured / took, measured ? cpu * 1e6 / measured : 0, cpu / took, own / took);
    printf(",\"p50_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"least\":%llu,\"most\":%llu,\"kib\":%ld,\"connect_s\":%.3f",
           percentile(.5), percentile(.99), percentile(.999), percentile(1), (unsigned long long)least, (unsigned long long)most, kib, connect_took);
    printf(",\"wrong\":%llu,\"errors\":%llu,\"unexpected\":%llu,\"tool_wrong\":%llu,\"lost\":%llu,\"pings\":%llu", (unsigned long long)wrong,
           (unsigned long long)errors, (unsigned long long)unexpected, (unsigned long long)tool_wrong, (unsigned long long)lost, (unsigned long long)pings);
    print_text("first_wrong", first_wrong);
    puts("}");
    return ok ? 0 : 1;
}

static int idle(void) {
    tools = party(tool_count, TOOL, POLITE, 0);
    devices = party(device_count, DEVICE, POLITE, 0);
    for (long i = 0; i < device_count && tool_count; i++) devices[i].endpoint = i % tool_count;
    long before = server_kib();
    double cpu = server_cpu();
    uint64_t began = now();
    connect_all(tools, tool_count);
    connect_all(devices, device_count);
    double took = (now() - began) / 1e9;
    cpu = server_cpu() - cpu;
    int opened = open_count;
    run(settle);
    long after = server_kib();
    double held = server_cpu();
    run(seconds);
    held = server_cpu() - held;
    int ok = !refused_count && !lost_links && opened == tool_count + device_count;
    printf("{\"mode\":\"idle\",\"ok\":%s,\"opened\":%d,\"refused\":%d,\"closed\":%d,\"connect_s\":%.3f,\"connect_cpu_s\":%.3f,\"kib_before\":%ld,\"kib_after\":%ld,\"kib_per_link\":%.3f",
           ok ? "true" : "false", opened, refused_count, lost_links, took, cpu, before, after, opened ? (double)(after - before) / opened : 0);
    printf(",\"hold_cpu_s\":%.3f,\"kib_held\":%ld,\"pings\":%llu,\"deflate\":%s", held, server_kib(), (unsigned long long)pings, deflate_taken ? "true" : "false");
    print_text("first_wrong", first_wrong);
    puts("}");
    return ok ? 0 : 1;
}

/* Every attacker that is shut out comes back half a second later. An unread device has a working tool, a flooding tool a busy device. */
static int attack(void) {
    enum { UNREAD_AT = 1000000, FLOODING_AT = 2000000, HANGING_AT = 3000000 };
    struct link *groups[] = {
        party(unread_count, TOOL, POLITE, UNREAD_AT), party(flooding_count, TOOL, FLOODING, FLOODING_AT),
        party(unread_count, DEVICE, UNREAD, UNREAD_AT), party(flooding_count, DEVICE, UNREAD, FLOODING_AT), party(hanging_count, DEVICE, HANGING, HANGING_AT)};
    long counts[] = {unread_count, flooding_count, unread_count, flooding_count, hanging_count};
    long before = server_kib(), most = 0;
    int sent = 0;
    if (nice(10) == -1) fail("nice");                     /* the pairs' own process goes first: what is measured is the server */
    for (uint64_t end = now() + (uint64_t)(seconds * 1e9); now() < end;) {
        uint64_t t = now();
        for (int g = 0; g < 5; g++)
            for (long i = 0; i < counts[g]; i++)
                if (groups[g][i].state == CLOSED && t > groups[g][i].retry) { start(&groups[g][i]); sent++; }
        turn(5);
        long kib = server_kib();
        if (kib > most) most = kib;
    }
    printf("{\"mode\":\"attack\",\"ok\":true,\"silent\":%s,\"connects\":%d,\"open\":%d,\"kib_before\":%ld,\"kib_most\":%ld,\"kib_after\":%ld}\n",
           silent ? "true" : "false", sent, open_count, before, most, server_kib());
    return 0;
}

/* ---- the command line ---- */

static void read_tokens(void) {
    FILE *file = fopen(tokens_file, "r");
    char line[1024];
    long room = 0;
    if (!file) fail("no such file of tokens");
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\r\n")] = 0;
        if (!*line) continue;
        if (token_count == room) tokens = realloc(tokens, (room = room ? room * 2 : 1024) * sizeof *tokens);
        tokens[token_count++] = strdup(line);
    }
    fclose(file);
}

int main(int count, char **words) {
    struct { const char *name; long *whole; double *real; int *flag; const char **text; } options[] = {
        {"--port", &port, 0, 0, 0}, {"--pid", &server_pid, 0, 0, 0}, {"--tools", &tool_count, 0, 0, 0}, {"--devices", &device_count, 0, 0, 0},
        {"--depth", &depth, 0, 0, 0}, {"--request", &request_bytes, 0, 0, 0}, {"--answer", &answer_bytes, 0, 0, 0}, {"--window", &window, 0, 0, 0},
        {"--sources", &sources, 0, 0, 0}, {"--active", &active_count, 0, 0, 0}, {"--unread", &unread_count, 0, 0, 0},
        {"--flooding", &flooding_count, 0, 0, 0}, {"--hanging", &hanging_count, 0, 0, 0}, {"--seconds", 0, &seconds, 0, 0}, {"--warm", 0, &warm, 0, 0},
        {"--settle", 0, &settle, 0, 0}, {"--connect-seconds", 0, &connect_seconds, 0, 0}, {"--rows", 0, 0, &rows, 0}, {"--deflate", 0, 0, &deflate, 0},
        {"--silent", 0, 0, &silent, 0}, {"--bare", 0, 0, &bare, 0}, {"--tokens", 0, 0, 0, &tokens_file}};
    enum { OPTIONS = sizeof options / sizeof *options };
    if (count < 2) fail("load calls|idle|attack --port P ...");
    mode = words[1];
    for (int i = 2; i < count; i++) {
        int o = 0;
        while (o < OPTIONS && strcmp(words[i], options[o].name)) o++;
        if (o == OPTIONS) fail(words[i]);
        if (options[o].flag) { *options[o].flag = 1; continue; }
        if (++i == count) fail("a value is missing");
        if (options[o].whole) *options[o].whole = atol(words[i]);
        if (options[o].real) *options[o].real = atof(words[i]);
        if (options[o].text) *options[o].text = words[i];
    }
    if (!port || depth < 1 || sources < 1 || sources > 60000 || tool_count < 0 || device_count < 0) fail("these numbers make no sense");
    signal(SIGPIPE, SIG_IGN);
    alarm((unsigned)(seconds + warm + settle + 2 * connect_seconds + 30));
    if (tokens_file) read_tokens();
    fill(&request_fill, request_bytes - (long)(sizeof CALL_1 + sizeof CALL_2 + sizeof CALL_3 + sizeof CALL_4 + 16));
    fill(&answer_fill, answer_bytes - (long)(sizeof CALL_1 + sizeof ANSWER_2 + sizeof CALL_3 + sizeof ANSWER_4 + 16));
    poller = epoll_create1(EPOLL_CLOEXEC);
    latencies = malloc(LATENCIES * sizeof *latencies);
    if (!latencies) fail("out of memory");
    if (!strcmp(mode, "calls")) return calls();
    if (!strcmp(mode, "idle")) return idle();
    if (!strcmp(mode, "attack")) return attack();
    fail("load calls|idle|attack --port P ...");
}
