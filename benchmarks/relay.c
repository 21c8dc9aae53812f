/* A WebSocket relay in C, the practical limit the broker is measured against.
 *
 *     relay [PORT] [SECONDS]      listens on 127.0.0.1, prints the port, ends by itself (default: a free port, 900 s)
 *
 * It does what no relay can leave out: one thread on epoll, the broker's own two paths, pairing by token, frames unmasked,
 * each message checked as JSON while its top-level id is found, the id replaced in both directions, everything that one turn
 * of the loop produced for a socket sent with one call. It leaves out what makes a broker: catalog, deadlines, bounds,
 * UTF-8 checks, fragments. An escaped or repeated top-level key makes it drop the message, so nobody can smuggle a second id.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINKS_MAX = 65536, SHARED_BYTES = 256 * 1024, PADDING = 16, DEPTH_MAX = 512, ID_MAX = 46, EVENTS = 512, OWED = 65536 };
enum { MESSAGE_MAX = 16 * 1024 * 1024, HANDSHAKE_MAX = 16 * 1024 };

struct bytes { uint8_t *at; size_t size, room; };
struct owed { int fd; uint32_t birth, number; uint16_t size; char id[ID_MAX]; };

struct link {
    int fd, tool, open, dying, queued, waits_writable;
    uint32_t birth;              /* tells this link from an earlier one on the same descriptor */
    struct endpoint *endpoint;
    struct bytes in, out;
    size_t sent;                 /* of out */
    struct owed *owed;           /* a tool's unanswered requests: slot = number % OWED */
    uint32_t next;
};

struct endpoint { char *token; struct link *tool; };

static struct link *links[LINKS_MAX];
static struct endpoint **endpoints;
static size_t endpoint_room, endpoint_count;
static struct link *dirty[LINKS_MAX];
static int dirty_count, poller;
static uint32_t births;
static uint8_t shared[SHARED_BYTES + PADDING];

static void *must(void *memory) {
    if (!memory) { fputs("relay: out of memory\n", stderr); exit(1); }
    return memory;
}

/* ---- bytes ---- */

static void reserve(struct bytes *b, size_t more) {
    if (b->size + more + PADDING <= b->room) return;
    b->room = (b->size + more) * 2 + PADDING;
    b->at = must(realloc(b->at, b->room));
}

static void release(struct bytes *b) {
    free(b->at);
    memset(b, 0, sizeof *b);
}

static void append(struct bytes *b, const void *from, size_t size) {
    memcpy(b->at + b->size, from, size);
    b->size += size;
}

/* ---- JSON: the grammar of RFC 8259, reading stops at the NUL the caller put behind the text ---- */

static const uint8_t *blank(const uint8_t *p) {
    while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') p++;
    return p;
}

static int is_hex(uint8_t c) { return (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'f'); }

/* p stands behind the opening quote; returns the place behind the closing one */
static const uint8_t *text_end(const uint8_t *p, int *escaped) {
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    for (;;) {
        for (;;) {                                        /* eight bytes at once while none of them is special */
            uint64_t w;
            memcpy(&w, p, 8);
            uint64_t quote = w ^ (ones * '"'), slash = w ^ (ones * '\\');
            if ((((quote - ones) & ~quote) | ((slash - ones) & ~slash) | ((w - ones * 0x20) & ~w)) & tops) break;
            p += 8;
        }
        while (*p != '"' && *p != '\\' && *p >= 0x20) p++;
        if (*p == '"') return p + 1;
        if (*p != '\\') return NULL;
        *escaped = 1;
        switch (p[1]) {
        case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't': p += 2; break;
        case 'u':
            for (int i = 2; i < 6; i++) if (!is_hex(p[i])) return NULL;
            p += 6;
            break;
        default: return NULL;
        }
    }
}

static const uint8_t *digits(const uint8_t *p) {
    if (*p < '0' || *p > '9') return NULL;
    while (*p >= '0' && *p <= '9') p++;
    return p;
}

static const uint8_t *number_end(const uint8_t *p) {
    if (*p == '-') p++;
    p = *p == '0' ? p + 1 : digits(p);
    if (p && *p == '.') p = digits(p + 1);
    if (p && (*p | 32) == 'e') p = digits(p + 1 + (p[1] == '+' || p[1] == '-'));
    return p;
}

static const uint8_t *value_end(const uint8_t *p) {
    uint8_t closing[DEPTH_MAX];
    int depth = 0, escaped;
    for (;;) {                                            /* here a value begins */
        p = blank(p);
        switch (*p) {
        case '"': p = text_end(p + 1, &escaped); break;
        case '[':
            p = blank(p + 1);
            if (*p == ']') { p++; break; }
            if (depth == DEPTH_MAX) return NULL;
            closing[depth++] = ']';
            continue;
        case '{':
            p = blank(p + 1);
            if (*p == '}') { p++; break; }
            if (depth == DEPTH_MAX) return NULL;
            closing[depth++] = '}';
            goto member;
        case 't': p = strncmp((const char *)p, "true", 4) ? NULL : p + 4; break;
        case 'f': p = strncmp((const char *)p, "false", 5) ? NULL : p + 5; break;
        case 'n': p = strncmp((const char *)p, "null", 4) ? NULL : p + 4; break;
        default: p = number_end(p);
        }
        for (;;) {                                        /* here a value has ended */
            if (!p || !depth) return p;
            p = blank(p);
            if (*p != closing[depth - 1]) break;
            depth--;
            p++;
        }
        if (*p++ != ',') return NULL;
        if (closing[depth - 1] == ']') continue;
        p = blank(p);
    member:
        if (*p != '"' || !(p = text_end(p + 1, &escaped)) || *(p = blank(p)) != ':') return NULL;
        p++;
    }
}

/* Finds the top-level id of a JSON object. 1: found, 0: there is none, -1: not a message to carry. */
static int find_id(const uint8_t *text, size_t size, size_t *from, size_t *to) {
    const uint8_t *p = blank(text);
    int found = 0;
    if (*p != '{') return -1;
    p = blank(p + 1);
    if (*p == '}') return blank(p + 1) == text + size ? 0 : -1;
    for (;;) {
        if (*p != '"') return -1;
        const uint8_t *key = p + 1;
        int escaped = 0;
        p = text_end(key, &escaped);
        if (!p || escaped) return -1;
        int is_id = p - key == 3 && key[0] == 'i' && key[1] == 'd';
        p = blank(p);
        if (*p != ':') return -1;
        const uint8_t *value = blank(p + 1);
        p = value_end(value);
        if (!p) return -1;
        if (is_id) {
            if (found || !(*value == '"' || *value == '-' || (*value >= '0' && *value <= '9'))) return -1;
            found = 1;
            *from = value - text;
            *to = p - text;
        }
        p = blank(p);
        if (*p == '}') break;
        if (*p++ != ',') return -1;
        p = blank(p);
    }
    return blank(p + 1) == text + size ? found : -1;
}

/* ---- endpoints: token -> the newest tool; open addressing, never shrinks ---- */

static size_t place(const char *token) {
    uint64_t h = 1469598103934665603u;
    for (const char *c = token; *c; c++) h = (h ^ (uint8_t)*c) * 1099511628211u;
    size_t i = h & (endpoint_room - 1);
    while (endpoints[i] && strcmp(endpoints[i]->token, token)) i = (i + 1) & (endpoint_room - 1);
    return i;
}

static struct endpoint *endpoint_of(const char *token) {
    if (endpoint_count * 2 >= endpoint_room) {
        struct endpoint **old = endpoints;
        size_t room = endpoint_room;
        endpoint_room = room ? room * 2 : 256;
        endpoints = must(calloc(endpoint_room, sizeof *endpoints));
        for (size_t i = 0; i < room; i++) if (old[i]) endpoints[place(old[i]->token)] = old[i];
        free(old);
    }
    size_t i = place(token);
    if (!endpoints[i]) {
        endpoints[i] = must(calloc(1, sizeof **endpoints));
        endpoints[i]->token = must(strdup(token));
        endpoint_count++;
    }
    return endpoints[i];
}

/* ---- sending ---- */

static void watch(struct link *l, int writable) {
    struct epoll_event e = {.events = EPOLLIN | (writable ? EPOLLOUT : 0), .data.fd = l->fd};
    l->waits_writable = writable;
    epoll_ctl(poller, EPOLL_CTL_MOD, l->fd, &e);
}

static void enqueue(struct link *l) {
    if (l->queued) return;
    l->queued = 1;
    dirty[dirty_count++] = l;
}

static void flush(struct link *l) {
    while (l->sent < l->out.size) {
        ssize_t n = send(l->fd, l->out.at + l->sent, l->out.size - l->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            if (errno != EAGAIN) l->dying = 1;
            else if (!l->waits_writable) watch(l, 1);
            return;
        }
        l->sent += n;
    }
    l->out.size = l->sent = 0;
    if (l->waits_writable) watch(l, 0);
}

static void frame(struct link *l, uint8_t first, size_t size) {
    uint8_t h[10] = {first};
    int n = 2;
    if (size < 126) h[1] = size;
    else if (size < 65536) { h[1] = 126; h[2] = size >> 8; h[3] = size; n = 4; }
    else { h[1] = 127; for (int i = 0; i < 8; i++) h[2 + i] = (uint64_t)size >> (56 - 8 * i); n = 10; }
    if (l->sent) {                                        /* make room from the front before growing */
        memmove(l->out.at, l->out.at + l->sent, l->out.size - l->sent);
        l->out.size -= l->sent;
        l->sent = 0;
    }
    reserve(&l->out, n + size);
    append(&l->out, h, n);
    enqueue(l);
}

static void send_spliced(struct link *l, const uint8_t *text, size_t size, size_t from, size_t to, const char *id, size_t id_size) {
    frame(l, 0x81, size - (to - from) + id_size);
    append(&l->out, text, from);
    append(&l->out, id, id_size);
    append(&l->out, text + to, size - to);
}

static void answer_no_tool(struct link *device, const uint8_t *id, size_t id_size) {
    static const char head[] = "{\"jsonrpc\":\"2.0\",\"id\":", tail[] = ",\"error\":{\"code\":-32001,\"message\":\"no provider\"}}";
    frame(device, 0x81, sizeof head - 1 + id_size + sizeof tail - 1);
    append(&device->out, head, sizeof head - 1);
    append(&device->out, id, id_size);
    append(&device->out, tail, sizeof tail - 1);
}

/* ---- carrying ---- */

/* A request still unanswered after OWED further ones of its tool is given up: nothing here has a deadline. */
static struct owed *owe(struct link *tool, uint32_t *number) {
    if (!tool->owed) tool->owed = must(calloc(OWED, sizeof *tool->owed));
    *number = tool->next;
    tool->next = tool->next == INT32_MAX ? 1 : tool->next + 1;
    return &tool->owed[*number % OWED];
}

static void from_device(struct link *device, const uint8_t *text, size_t size) {
    size_t from = 0, to = 0;
    int found = find_id(text, size, &from, &to);
    struct link *tool = device->endpoint->tool;
    if (found < 0 || to - from > ID_MAX) return;
    if (!tool) {
        if (found) answer_no_tool(device, text + from, to - from);
        return;
    }
    if (!found) {                                         /* a notification passes as it is */
        send_spliced(tool, text, size, 0, 0, "", 0);
        return;
    }
    uint32_t number;
    struct owed *o = owe(tool, &number);
    o->fd = device->fd;
    o->birth = device->birth;
    o->number = number;
    o->size = to - from;
    memcpy(o->id, text + from, to - from);
    char id[12], *start = id + sizeof id;
    for (uint32_t n = number; n; n /= 10) *--start = '0' + n % 10;
    send_spliced(tool, text, size, from, to, start, id + sizeof id - start);
}

static void from_tool(struct link *tool, const uint8_t *text, size_t size) {
    size_t from, to;
    uint64_t number = 0;
    if (find_id(text, size, &from, &to) != 1 || to - from > 10 || !tool->owed) return;
    for (size_t i = from; i < to; i++) {
        if (text[i] < '0' || text[i] > '9') return;
        number = number * 10 + (text[i] - '0');
    }
    struct owed *o = &tool->owed[number % OWED];
    if (!number || o->number != number) return;
    o->number = 0;
    struct link *device = links[o->fd];
    if (device && device->birth == o->birth) send_spliced(device, text, size, from, to, o->id, o->size);
}

/* ---- handshake ---- */

static uint32_t left(uint32_t v, int n) { return v << n | v >> (32 - n); }

static void sha1_block(uint32_t h[5], const uint8_t *block) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++) w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = left(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? ((b & c) | (~b & d)) : i < 40 || i >= 60 ? (b ^ c ^ d) : ((b & c) | (b & d) | (c & d));
        uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t t = left(a, 5) + f + e + k + w[i];
        e = d; d = c; c = left(b, 30); b = a; a = t;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
}

/* RFC 6455 section 4.2.2: base64(SHA-1(key + GUID)); key has 24 characters, so the padded message has two blocks */
static void accept_value(const char *key, char out[29]) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    uint8_t message[128] = {0}, digest[21] = {0};
    memcpy(message, key, 24);
    memcpy(message + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    message[60] = 0x80;
    message[126] = (60 * 8) >> 8;
    message[127] = (60 * 8) & 255;
    sha1_block(h, message);
    sha1_block(h, message + 64);
    for (int i = 0; i < 20; i++) digest[i] = h[i / 4] >> (24 - 8 * (i % 4));
    for (int i = 0; i < 7; i++) {
        uint32_t v = digest[3 * i] << 16 | digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int j = 0; j < 4; j++) out[4 * i + j] = alphabet[v >> (18 - 6 * j) & 63];
    }
    out[27] = '=';
    out[28] = 0;
}

static const char *header(const char *head, const char *name) {
    size_t size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, size) && line[size] == ':') {
            line += size + 1;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

static int greet(struct link *l, char *head) {
    static const char tools[] = "GET /mcp_endpoint/mcp/?", devices[] = "GET /mcp_endpoint/call/?";
    l->tool = !strncmp(head, tools, sizeof tools - 1);
    const char *key = header(head, "Sec-WebSocket-Key");
    char *token = strstr(head, "token=");
    if ((!l->tool && strncmp(head, devices, sizeof devices - 1)) || !token || !key || strcspn(key, "\r") != 24) {
        static const char no[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        if (send(l->fd, no, sizeof no - 1, MSG_NOSIGNAL) < 0) return 0;
        return 0;
    }
    char answer[200], value[29];
    accept_value(key, value);
    int n = snprintf(answer, sizeof answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", value);
    token += 6;
    token[strcspn(token, " &\r")] = 0;
    l->endpoint = endpoint_of(token);
    if (l->tool) l->endpoint->tool = l;
    reserve(&l->out, n);
    append(&l->out, answer, n);
    enqueue(l);
    return l->open = 1;
}

/* ---- receiving ---- */

static void unmask(uint8_t *p, size_t size, uint32_t key) {
    uint64_t wide = (uint64_t)key << 32 | key, w;
    size_t i = 0;
    for (; i + 8 <= size; i += 8) {
        memcpy(&w, p + i, 8);
        w ^= wide;
        memcpy(p + i, &w, 8);
    }
    for (; i < size; i++) p[i] ^= key >> (8 * (i & 3));
}

/* Takes whole frames off the front of p; returns how many bytes it took, *wants is the size of the frame that is not whole yet. */
static size_t take(struct link *l, uint8_t *p, size_t size, size_t *wants) {
    size_t taken = 0;
    *wants = 0;
    while (!l->dying) {
        uint8_t *f = p + taken;
        size_t rest = size - taken;
        if (!l->open) {
            uint8_t *end = memmem(f, rest, "\r\n\r\n", 4);
            if (!end) {
                l->dying = rest > HANDSHAKE_MAX;
                break;
            }
            end[2] = 0;
            taken += end + 4 - f;
            if (!greet(l, (char *)f)) l->dying = 1;
            continue;
        }
        if (rest < 6) break;
        size_t head = 6, body = f[1] & 127;
        if (body == 126) { head = 8; body = f[2] << 8 | f[3]; }
        else if (body == 127) {
            head = 14;
            if (rest < head) break;
            body = 0;
            for (int i = 2; i < 10; i++) body = body << 8 | f[i];
        }
        if (!(f[1] & 128) || body > MESSAGE_MAX) { l->dying = 1; break; }
        if (rest < head + body) { *wants = head + body; break; }
        uint32_t key;
        memcpy(&key, f + head - 4, 4);
        uint8_t *text = f + head, behind = text[body];
        unmask(text, body, key);
        taken += head + body;
        switch (f[0]) {
        case 0x81: case 0x82:
            text[body] = 0;
            if (l->tool) from_tool(l, text, body);
            else from_device(l, text, body);
            text[body] = behind;
            break;
        case 0x89: frame(l, 0x8a, body); append(&l->out, text, body); break;
        case 0x8a: break;
        case 0x88: frame(l, 0x88, body >= 2 ? 2 : 0); append(&l->out, text, body >= 2 ? 2 : 0); flush(l); l->dying = 1; break;
        default: l->dying = 1;                            /* fragments and extensions are not spoken here */
        }
    }
    return taken;
}

static void receive(struct link *l) {
    size_t wants;
    if (!l->in.size) {                                    /* nothing half-read: the shared buffer serves, nothing is kept */
        ssize_t n = recv(l->fd, shared, SHARED_BYTES, 0);
        if (n <= 0) { l->dying |= n == 0 || (errno != EAGAIN && errno != EINTR); return; }
        size_t taken = take(l, shared, n, &wants);
        if (taken == (size_t)n) return;
        reserve(&l->in, wants > n - taken ? wants : n - taken);
        append(&l->in, shared + taken, n - taken);
        return;
    }
    if (l->in.room - l->in.size < 4096 + PADDING) reserve(&l->in, 4096);
    ssize_t n = recv(l->fd, l->in.at + l->in.size, l->in.room - PADDING - l->in.size, 0);
    if (n <= 0) { l->dying |= n == 0 || (errno != EAGAIN && errno != EINTR); return; }
    l->in.size += n;
    size_t taken = take(l, l->in.at, l->in.size, &wants);
    l->in.size -= taken;
    memmove(l->in.at, l->in.at + taken, l->in.size);
    if (!l->in.size) release(&l->in);
    else if (wants > l->in.size) reserve(&l->in, wants - l->in.size);
}

static void forget(struct link *l) {
    if (l->endpoint && l->endpoint->tool == l) l->endpoint->tool = NULL;
    links[l->fd] = NULL;
    close(l->fd);
    release(&l->in);
    release(&l->out);
    free(l->owed);
    free(l);
}

static void admit(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int one = 1;
        if (fd >= LINKS_MAX) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct link *l = must(calloc(1, sizeof *l));
        l->fd = fd;
        l->birth = ++births;
        l->next = 1;
        links[fd] = l;
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int count, char **words) {
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(count > 1 ? atoi(words[1]) : 0), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof here;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&here, size) || listen(listener, 4096) || getsockname(listener, (void *)&here, &size)) { perror("relay"); return 1; }
    signal(SIGPIPE, SIG_IGN);
    alarm(count > 2 ? atoi(words[2]) : 900);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.fd = listener}, events[EVENTS];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    printf("%d\n", ntohs(here.sin_port));
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) { admit(listener); continue; }
            struct link *l = links[fd];
            if (events[i].events & EPOLLOUT) enqueue(l);
            if (events[i].events & ~EPOLLOUT) receive(l);
            if (l->dying) enqueue(l);
        }
        for (int i = 0; i < dirty_count; i++) {
            struct link *l = dirty[i];
            l->queued = 0;
            if (!l->dying) flush(l);
            if (l->dying) forget(l);
        }
        dirty_count = 0;
    }
}
