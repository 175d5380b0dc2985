/* A fake vLLM on 127.0.0.1 that is never the bottleneck: one epoll loop, hundreds of thousands of events a second.
 *
 * It speaks as vLLM does on the wire: lower-case headers, plain JSON with content-length, streams chunked with one
 * event per HTTP chunk, a role event first, `data: [DONE]` last; `usage` on every event and a last event without
 * choices when the request has continuous_usage_stats, only the latter with include_usage alone.
 * The request steers it by members that every proxy passes on: `max_tokens` is the number of content events, `seed`
 * the milliseconds between them. Each content is the send time in nanoseconds and the tag found in the messages.
 *
 * usage: upstream PORT
 */
#include "common.h"

#define READ_SIZE 65536
#define PROMPT_TOKENS 26
#define CREATED "1795468597"

struct conn {
    int fd;
    struct buffer in, out;
    bool waits_to_write, has_stream, has_usage, has_last_usage;
    size_t heap_at;
    int64_t due, interval;
    long sent, total;
    uint64_t id;
    char tag[TAG_DIGITS + 1];
};

static int poller;
static uint64_t last_id;
static struct conn **heap;
static size_t heap_size, heap_room;

static void heap_put(size_t at, struct conn *c) {
    heap[at] = c;
    c->heap_at = at;
}

static void heap_up(size_t at) {
    struct conn *c = heap[at];
    for (; at && heap[(at - 1) / 2]->due > c->due; at = (at - 1) / 2) heap_put(at, heap[(at - 1) / 2]);
    heap_put(at, c);
}

static void heap_down(size_t at) {
    struct conn *c = heap[at];
    for (size_t child; (child = 2 * at + 1) < heap_size; at = child) {
        if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due) child++;
        if (heap[child]->due >= c->due) break;
        heap_put(at, heap[child]);
    }
    heap_put(at, c);
}

static void heap_add(struct conn *c) {
    if (heap_size == heap_room) {
        heap_room = heap_room ? heap_room * 2 : 1024;
        heap = realloc(heap, heap_room * sizeof *heap);
        if (!heap) die("realloc");
    }
    heap_put(heap_size, c);
    heap_up(heap_size++);
}

static void heap_remove(struct conn *c) {
    size_t at = c->heap_at;
    struct conn *last = heap[--heap_size];
    if (last == c) return;
    heap_put(at, last);
    heap_up(at);
    heap_down(last->heap_at);
}

static void close_conn(struct conn *c) {
    if (c->has_stream) heap_remove(c);
    close(c->fd);
    free(c->in.data);
    free(c->out.data);
    free(c);
}

/* False: the connection is gone. */
static bool flush(struct conn *c) {
    size_t done = 0;
    while (done < c->out.size) {
        ssize_t n = send(c->fd, c->out.data + done, c->out.size - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) {
            close_conn(c);
            return false;
        }
        done += (size_t)n;
    }
    drop_front(&c->out, done);
    bool waits = c->out.size > 0;
    if (waits != c->waits_to_write) {
        struct epoll_event event = {.events = EPOLLIN | (waits ? EPOLLOUT : 0), .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
        c->waits_to_write = waits;
    }
    return true;
}

static void add_chunk(struct conn *c, const struct buffer *event) {
    append_format(&c->out, "%zx\r\n", event->size);
    append(&c->out, event->data, event->size);
    append(&c->out, "\r\n", 2);
}

static void begin_event(struct conn *c, struct buffer *e) {
    e->size = 0;
    append_text(e, "data: {\"id\":\"chatcmpl-");
    append_number(e, c->id, 16);
    append_text(e, "\",\"object\":\"chat.completion.chunk\",\"created\":" CREATED ",\"model\":\"m\",\"choices\":[");
}

static void add_running_usage(struct conn *c, struct buffer *e) {
    append_text(e, ",\"usage\":{\"prompt_tokens\":");
    append_number(e, PROMPT_TOKENS, 0);
    append_text(e, ",\"total_tokens\":");
    append_number(e, (uint64_t)(PROMPT_TOKENS + c->sent), 0);
    append_text(e, ",\"completion_tokens\":");
    append_number(e, (uint64_t)c->sent, 0);
    append_text(e, ",\"completion_tokens_details\":null}");
}

static void add_role_event(struct conn *c) {
    static struct buffer e;
    begin_event(c, &e);
    append_text(&e, "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                    "\"finish_reason\":null}]");
    if (c->has_usage) add_running_usage(c, &e);
    append_text(&e, ",\"prompt_token_ids\":null,\"prompt_text\":null}\n\n");
    add_chunk(c, &e);
}

static void add_content_event(struct conn *c) {
    static struct buffer e;
    bool is_last = ++c->sent == c->total;
    begin_event(c, &e);
    append_text(&e, "{\"index\":0,\"delta\":{\"content\":\"");
    append_number(&e, (uint64_t)now_ns(), STAMP_DIGITS);
    append(&e, " ", 1);
    append(&e, c->tag, TAG_DIGITS);
    append_text(&e, is_last ? "\"},\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":null}]"
                            : "\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]");
    if (c->has_usage) add_running_usage(c, &e);
    if (is_last && !c->has_last_usage) append_text(&e, ",\"system_fingerprint\":\"vllm-0.32.0-8497df40\"");
    append_text(&e, "}\n\n");
    add_chunk(c, &e);
}

/* Everything after the last content event: usage if asked for, [DONE], the last HTTP chunk. */
static void add_end(struct conn *c) {
    static struct buffer e;
    if (c->has_last_usage) {
        begin_event(c, &e);
        append_format(&e,
                      "],\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%ld,\"completion_tokens\":%ld,"
                      "\"prompt_tokens_details\":{\"cached_tokens\":0,\"created_cache_tokens\":0}},"
                      "\"system_fingerprint\":\"vllm-0.32.0-8497df40\"}\n\n",
                      PROMPT_TOKENS, PROMPT_TOKENS + c->sent, c->sent);
        add_chunk(c, &e);
    }
    append_text(&c->out, "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
}

static void begin_stream(struct conn *c, const char *body, size_t size) {
    c->total = member_number(body, size, "\"max_tokens\":", 16);
    c->interval = member_number(body, size, "\"seed\":", 10) * 1000000LL;
    c->has_usage = member_is_true(body, size, "\"continuous_usage_stats\":");
    c->has_last_usage = c->has_usage || member_is_true(body, size, "\"include_usage\":");
    c->sent = 0;
    append_text(&c->out, "HTTP/1.1 200 OK\r\ndate: Mon, 23 Nov 2026 21:16:37 GMT\r\nserver: uvicorn\r\n"
                         "content-type: text/event-stream; charset=utf-8\r\nvary: Origin\r\n"
                         "transfer-encoding: chunked\r\n\r\n");
    add_role_event(c);
    c->has_stream = true;
    c->due = now_ns() + c->interval;
    heap_add(c);
}

static void answer(struct conn *c, const char *status, const char *type, const char *body, size_t size) {
    append_format(&c->out,
                  "HTTP/1.1 %s\r\ndate: Mon, 23 Nov 2026 21:16:35 GMT\r\nserver: uvicorn\r\ncontent-length: %zu\r\n"
                  "content-type: %s\r\nvary: Origin\r\n\r\n",
                  status, size, type);
    append(&c->out, body, size);
}

static void answer_chat(struct conn *c, const char *body, size_t size) {
    memset(c->tag, '0', TAG_DIGITS);
    const char *tag = memmem(body, size, TAG_MARK, strlen(TAG_MARK));
    if (tag && body + size - tag >= (ptrdiff_t)strlen(TAG_MARK) + TAG_DIGITS)
        memcpy(c->tag, tag + strlen(TAG_MARK), TAG_DIGITS);
    c->id = ++last_id;
    if (member_is_true(body, size, "\"stream\":")) {
        begin_stream(c, body, size);
        return;
    }
    static struct buffer b;
    b.size = 0;
    append_text(&b, "{\"id\":\"chatcmpl-");
    append_number(&b, c->id, 16);
    append_text(&b, "\",\"object\":\"chat.completion\",\"created\":" CREATED ",\"model\":\"m\",\"choices\":[{\"index\":0,"
                    "\"message\":{\"role\":\"assistant\",\"content\":\"");
    append_number(&b, (uint64_t)now_ns(), STAMP_DIGITS);
    append(&b, " ", 1);
    append(&b, c->tag, TAG_DIGITS);
    append_text(&b, "\",\"refusal\":null,\"annotations\":null,\"audio\":null,\"function_call\":null,\"reasoning\":null},"
                    "\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null,\"token_ids\":null}],"
                    "\"service_tier\":null,\"system_fingerprint\":\"vllm-0.32.0-8497df40\",\"usage\":{\"prompt_tokens\":26,"
                    "\"total_tokens\":38,\"completion_tokens\":12,\"prompt_tokens_details\":{\"cached_tokens\":0,"
                    "\"created_cache_tokens\":0}},\"prompt_logprobs\":null,\"kv_transfer_params\":null}");
    answer(c, "200 OK", "application/json", b.data, b.size);
}

static const char METRICS[] =
    "# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.\n"
    "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.79546859e+09\n"
    "# TYPE vllm:prompt_tokens_total counter\nvllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 26.0\n"
    "# TYPE vllm:generation_tokens_total counter\nvllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 12.0\n"
    "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine=\"0\",model_name=\"m\"} 1.0\n";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":" CREATED ",\"owned_by\":\"vllm\","
    "\"root\":\"m\",\"parent\":null,\"max_model_len\":4096,\"permission\":[]}]}";

static bool starts(const char *data, const char *with) { return strncmp(data, with, strlen(with)) == 0; }

static void answer_request(struct conn *c, const char *head, const char *body, size_t size) {
    if (starts(head, "POST /v1/chat/completions ")) answer_chat(c, body, size);
    else if (starts(head, "GET /health ")) answer(c, "200 OK", "text/plain", "", 0);
    else if (starts(head, "GET /metrics ")) answer(c, "200 OK", "text/plain; version=1.0.0", METRICS, sizeof METRICS - 1);
    else if (starts(head, "GET /v1/models ")) answer(c, "200 OK", "application/json", MODELS, sizeof MODELS - 1);
    else answer(c, "404 Not Found", "application/json", "{\"detail\":\"Not Found\"}", 22);
}

static const char *field(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) : NULL;
}

/* Take one whole request out of the buffer; false when there is none yet. */
static bool take_request(struct conn *c) {
    reserve(&c->in, 1);
    c->in.data[c->in.size] = 0;
    char *end = c->in.size ? memmem(c->in.data, c->in.size, "\r\n\r\n", 4) : NULL;
    if (!end) return false;
    size_t head = (size_t)(end - c->in.data) + 4, body = 0;
    end[2] = 0;
    const char *length = field(c->in.data, "\r\ncontent-length:");
    if (length) body = strtoul(length, NULL, 10);
    else if (field(c->in.data, "\r\ntransfer-encoding:")) { /* never decoded: what we look for is not split by proxies */
        char *last = memmem(c->in.data + head, c->in.size - head, "\r\n0\r\n\r\n", 7);
        body = last ? (size_t)(last - c->in.data) + 7 - head : SIZE_MAX / 2;
    }
    if (c->in.size < head + body) {
        end[2] = '\r';
        return false;
    }
    answer_request(c, c->in.data, c->in.data + head, body);
    drop_front(&c->in, head + body);
    return true;
}

static void read_conn(struct conn *c) {
    reserve(&c->in, READ_SIZE);
    ssize_t n = recv(c->fd, c->in.data + c->in.size, READ_SIZE - 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) {
        close_conn(c);
        return;
    }
    c->in.size += (size_t)n;
    while (!c->has_stream && take_request(c)) {}
    flush(c);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct conn *c = calloc(1, sizeof *c);
        if (!c) die("calloc");
        c->fd = fd;
        make_quick(fd);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
    }
}

/* Send what is due; return nanoseconds until the next is, -1 when nothing streams. */
static int64_t send_due(void) {
    int64_t now = now_ns();
    while (heap_size && heap[0]->due <= now) {
        struct conn *c = heap[0];
        add_content_event(c);
        if (c->sent >= c->total) {
            heap_remove(c);
            c->has_stream = false;
            add_end(c);
            while (!c->has_stream && take_request(c)) {}
        } else {
            c->due += c->interval;
            heap_down(0);
        }
        flush(c);
    }
    if (!heap_size) return -1;
    int64_t wait = heap[0]->due - now_ns();
    return wait > 0 ? wait : 0;
}

int main(int count, char **words) {
    if (count != 2) {
        fprintf(stderr, "usage: upstream PORT\n");
        return 2;
    }
    raise_limits();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = loopback(atoi(words[1]));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("upstream: listen");
    poller = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, found[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int64_t wait = send_due();
        struct timespec limit = {.tv_sec = wait / SECOND, .tv_nsec = wait % SECOND};
        int n = epoll_pwait2(poller, found, 256, wait < 0 ? NULL : &limit, NULL);
        for (int i = 0; i < n; i++) {
            struct conn *c = found[i].data.ptr;
            if (!c) accept_all(listener);
            else if (found[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_conn(c);
            else flush(c);
        }
    }
}
