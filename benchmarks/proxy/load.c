/* The load generator: C connections in one epoll loop, each sending its next request when the answer is complete.
 *
 * Every answer is checked to its end: status 200, clean framing, the request's own tag in the content, for streams
 * the number and order of events and `data: [DONE]`. A proxy that drops, swaps or cuts anything has errors here.
 * Delay of an event is the time of its recv() minus the send time in its content (same machine, same clock).
 *
 * Starts are spread over `ramp`; then the line `begin` is printed, after `seconds` the line `end` (the caller reads
 * CPU times at both), then running answers are finished within `drain`. Counts and times in the result are those of
 * the window between the two lines, but `answers`, `tokens` and `errors` count from the first request to the last.
 *
 * usage: load PORT json|sse CONNECTIONS SECONDS RAMP DRAIN [EVENTS INTERVAL_MS [asked]]
 */
#include "common.h"

#define READ_SIZE 65536
#define MAX_ERRORS 2000

enum part { HEAD, SIZED, UNTIL_CLOSE, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

struct conn {
    int fd;
    bool is_open, is_busy, is_connecting;
    enum part part;
    struct buffer request, in, line;
    size_t sent, left;
    int status;
    bool keeps, is_done;
    long events;
    int64_t began, last_stamp;
    char tag[TAG_DIGITS + 1];
};

struct samples {
    uint32_t *us;
    size_t size, room;
};

static int poller, port;
static bool is_sse, asks_usage;
static long events_each = 1, interval_ms;
static uint64_t last_tag;
static long answers, tokens, errors, usage_seen, active;
static long window_answers, window_events, window_errors;
static bool in_window, is_over;
static char first_error[300];
static struct samples samples;

static void sample(int64_t ns) {
    if (!in_window) return;
    if (samples.size == samples.room) {
        samples.room = samples.room ? samples.room * 2 : 1 << 16;
        samples.us = realloc(samples.us, samples.room * sizeof *samples.us);
        if (!samples.us) die("realloc");
    }
    samples.us[samples.size++] = ns < 0 ? 0 : (uint32_t)(ns / 1000);
}

static void open_conn(struct conn *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("load: socket");
    make_quick(c->fd);
    struct sockaddr_in address = loopback(port);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS) die("load: connect");
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    c->is_open = c->is_connecting = true;
}

static void close_conn(struct conn *c) {
    if (c->is_open) close(c->fd);
    c->is_open = false;
}

static void watch(struct conn *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
}

static void fail(struct conn *c, const char *why);

static void send_rest(struct conn *c) {
    while (c->sent < c->request.size) {
        ssize_t n = send(c->fd, c->request.data + c->sent, c->request.size - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) {
            fail(c, "send failed");
            return;
        }
        c->sent += (size_t)n;
    }
    if (c->is_connecting) {
        watch(c, EPOLLIN);
        c->is_connecting = false;
    }
}

static void begin_request(struct conn *c) {
    static struct buffer body;
    body.size = 0;
    snprintf(c->tag, sizeof c->tag, "%0*llu", TAG_DIGITS, (unsigned long long)++last_tag);
    append_format(&body,
                  "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},"
                  "{\"role\":\"user\",\"content\":\"" TAG_MARK "%s: how many tokens did it use, and what did they cost?\"}],"
                  "\"max_tokens\":%ld,\"seed\":%ld,\"temperature\":0.7%s%s}",
                  c->tag, events_each, interval_ms, is_sse ? ",\"stream\":true" : "",
                  asks_usage ? ",\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}" : "");
    c->request.size = 0;
    append_format(&c->request,
                  "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: OpenAI/Python 2.8.0\r\n"
                  "Accept: application/json\r\nAccept-Encoding: identity\r\nAuthorization: Bearer sk-benchmark\r\n"
                  "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                  port, body.size);
    append(&c->request, body.data, body.size);
    c->sent = 0;
    c->part = HEAD;
    c->in.size = c->line.size = 0;
    c->status = 0;
    c->keeps = true;
    c->is_done = false;
    c->events = 0;
    c->last_stamp = 0;
    c->is_busy = true;
    c->began = now_ns();
    if (!c->is_open) open_conn(c);
    else send_rest(c);
}

static void go_on(struct conn *c) {
    c->is_busy = false;
    if (!c->keeps) close_conn(c);
    if (is_over || errors > MAX_ERRORS) {
        close_conn(c);
        active--;
    } else begin_request(c);
}

static void fail(struct conn *c, const char *why) {
    errors++;
    window_errors += in_window;
    if (!first_error[0])
        snprintf(first_error, sizeof first_error, "%s (status %d, %ld events, %.120s)", why, c->status, c->events,
                 c->line.size ? (append(&c->line, "", 1), c->line.data) : "");
    c->keeps = false;
    c->is_busy = false;
    close_conn(c);
    if (is_over || errors > MAX_ERRORS) active--;
    else begin_request(c);
}

static const char *find(const char *data, size_t size, const char *what) {
    return memmem(data, size, what, strlen(what));
}

/* The text after `"content":"` (a space is allowed after the colon), or NULL. */
static const char *content_of(const char *data, size_t size) {
    const char *found = find(data, size, "\"content\":");
    if (!found) return NULL;
    found += 10;
    if (*found == ' ') found++;
    return *found == '"' && data + size - found > STAMP_DIGITS + 1 + TAG_DIGITS ? found + 1 : NULL;
}

static const char *check_event(struct conn *c, int64_t now) {
    if (c->line.size >= 12 && memcmp(c->line.data, "data: [DONE]", 12) == 0) {
        c->is_done = true;
        return NULL;
    }
    if (c->line.size < 6 || memcmp(c->line.data, "data: ", 6)) return NULL;
    if (c->is_done) return "event after [DONE]";
    if (!asks_usage && find(c->line.data, c->line.size, "\"usage\":{")) usage_seen++;
    const char *content = content_of(c->line.data, c->line.size);
    if (!content || *content < '0' || *content > '9') return NULL; /* role event, usage event */
    int64_t stamp = strtoll(content, NULL, 10);
    if (stamp <= c->last_stamp) return "events out of order";
    if (memcmp(content + STAMP_DIGITS + 1, c->tag, TAG_DIGITS)) return "another request's event";
    c->last_stamp = stamp;
    c->events++;
    window_events += in_window;
    sample(now - stamp);
    return NULL;
}

static const char *take_payload(struct conn *c, const char *data, size_t size, int64_t now) {
    if (!is_sse || c->status != 200) {
        append(&c->line, data, size);
        return NULL;
    }
    while (size) {
        const char *end = memchr(data, '\n', size);
        size_t part = end ? (size_t)(end - data) : size;
        append(&c->line, data, part);
        if (!end) break;
        const char *wrong = c->line.size ? check_event(c, now) : NULL;
        if (wrong) return wrong;
        c->line.size = 0;
        data += part + 1;
        size -= part + 1;
    }
    return NULL;
}

static void finish(struct conn *c, int64_t now) {
    const char *wrong = NULL;
    if (c->status != 200) wrong = "status is not 200";
    else if (is_sse) {
        if (!c->is_done) wrong = "no [DONE]";
        else if (c->events != events_each) wrong = "events are missing";
    } else {
        const char *content = content_of(c->line.data, c->line.size);
        if (!content || memcmp(content + STAMP_DIGITS + 1, c->tag, TAG_DIGITS)) wrong = "not this request's answer";
        else if (!find(c->line.data, c->line.size, "\"total_tokens\":") || c->line.data[c->line.size - 1] != '}')
            wrong = "answer is not whole";
    }
    if (wrong) {
        fail(c, wrong);
        return;
    }
    answers++;
    tokens += is_sse ? c->events : 12;
    window_answers += in_window;
    if (!is_sse) sample(now - c->began);
    go_on(c);
}

static const char *field(const char *head, const char *name) {
    const char *found = strcasestr(head, name);
    if (!found) return NULL;
    for (found += strlen(name); *found == ' ';) found++;
    return found;
}

static void read_head(struct conn *c) {
    const char *value;
    c->status = atoi(c->in.data + 9);
    if ((value = field(c->in.data, "\r\nconnection:")) && strncasecmp(value, "close", 5) == 0) c->keeps = false;
    if ((value = field(c->in.data, "\r\ntransfer-encoding:")) && strncasecmp(value, "chunked", 7) == 0)
        c->part = CHUNK_SIZE;
    else if ((value = field(c->in.data, "\r\ncontent-length:"))) {
        c->part = SIZED;
        c->left = strtoul(value, NULL, 10);
    } else {
        c->part = UNTIL_CLOSE;
        c->keeps = false;
    }
    c->in.size = 0;
}

/* One line of framing (head, chunk size, trailer) gathered in c->in; true when it is whole. */
static bool take_line(struct conn *c, const char **data, const char *end) {
    const char *found = memchr(*data, '\n', (size_t)(end - *data));
    const char *stop = found ? found + 1 : end;
    append(&c->in, *data, (size_t)(stop - *data));
    *data = stop;
    return found != NULL;
}

/* Decode what came; complain, or return NULL. Sets *is_whole at the end of the answer. */
static const char *decode(struct conn *c, const char *data, const char *end, int64_t now, bool *is_whole) {
    const char *wrong = NULL;
    while (!wrong && !*is_whole && (data < end || (c->part == SIZED && c->left == 0))) {
        size_t size = (size_t)(end - data);
        switch (c->part) {
        case HEAD:
            if (!take_line(c, &data, end)) break;
            if (c->in.size < 4 || memcmp(c->in.data + c->in.size - 4, "\r\n\r\n", 4)) break;
            append(&c->in, "", 1);
            read_head(c);
            break;
        case SIZED:
        case CHUNK_DATA:
            if (size > c->left) size = c->left;
            wrong = take_payload(c, data, size, now);
            data += size;
            c->left -= size;
            if (c->left == 0 && c->part == SIZED) *is_whole = true;
            else if (c->left == 0) c->part = CHUNK_END;
            break;
        case UNTIL_CLOSE:
            wrong = take_payload(c, data, size, now);
            data = end;
            break;
        case CHUNK_SIZE:
            if (!take_line(c, &data, end)) break;
            append(&c->in, "", 1);
            c->left = strtoul(c->in.data, NULL, 16);
            c->part = c->left ? CHUNK_DATA : TRAILER;
            c->in.size = 0;
            break;
        case CHUNK_END:
            if (!take_line(c, &data, end)) break;
            if (c->in.size != 2) wrong = "chunk has not the size it states";
            c->in.size = 0;
            c->part = CHUNK_SIZE;
            break;
        case TRAILER:
            if (!take_line(c, &data, end)) break;
            *is_whole = c->in.size == 2;
            c->in.size = 0;
            break;
        }
    }
    return wrong ? wrong : *is_whole && data < end ? "bytes after the answer's end" : NULL;
}

static void read_conn(struct conn *c) {
    static char data[READ_SIZE];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    int64_t now = now_ns();
    if (!c->is_busy) {
        close_conn(c);
        return;
    }
    if (n <= 0) {
        if (n == 0 && c->part == UNTIL_CLOSE) finish(c, now);
        else fail(c, n == 0 ? "closed before the end" : strerror(errno));
        return;
    }
    bool is_whole = false;
    const char *wrong = decode(c, data, data + n, now, &is_whole);
    if (wrong) fail(c, wrong);
    else if (is_whole) finish(c, now);
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t at_share(double share) {
    if (!samples.size) return 0;
    size_t at = (size_t)(share * (double)samples.size);
    return samples.us[at < samples.size ? at : samples.size - 1];
}

static void print_result(double window) {
    qsort(samples.us, samples.size, sizeof *samples.us, by_size);
    for (char *p = first_error; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = '\'';
    printf("{\"window_s\": %.4f, \"window_answers\": %ld, \"window_events\": %ld, \"window_errors\": %ld, "
           "\"answers\": %ld, \"tokens\": %ld, \"errors\": %ld, \"unfinished\": %ld, \"usage_seen\": %ld, "
           "\"samples\": %zu, \"p50_us\": %u, \"p90_us\": %u, \"p99_us\": %u, \"max_us\": %u, \"first_error\": \"%s\"}\n",
           window, window_answers, window_events, window_errors, answers, tokens, errors, active, usage_seen,
           samples.size, at_share(0.5), at_share(0.9), at_share(0.99), at_share(1), first_error);
}

static int64_t say(const char *line) {
    puts(line);
    fflush(stdout);
    return now_ns();
}

int main(int count, char **words) {
    if (count < 7) {
        fprintf(stderr, "usage: load PORT json|sse CONNECTIONS SECONDS RAMP DRAIN [EVENTS INTERVAL_MS [asked]]\n");
        return 2;
    }
    raise_limits();
    port = atoi(words[1]);
    is_sse = strcmp(words[2], "sse") == 0;
    long size = atol(words[3]), started = 0;
    int64_t seconds = (int64_t)(atof(words[4]) * SECOND), ramp = (int64_t)(atof(words[5]) * SECOND);
    int64_t drain = (int64_t)(atof(words[6]) * SECOND);
    if (count > 8) events_each = atol(words[7]), interval_ms = atol(words[8]);
    asks_usage = count > 9;
    struct conn *conns = calloc((size_t)size, sizeof *conns);
    struct epoll_event found[512];
    poller = epoll_create1(0);
    int64_t start = now_ns(), begun = 0, ended = 0;
    active = size;
    while (active > 0) {
        int64_t now = now_ns();
        for (; started < size && now - start >= ramp * started / size; started++) begin_request(&conns[started]);
        if (!begun && now - start >= ramp + 100000000) begun = say("begin"), in_window = true;
        if (begun && !ended && now - begun >= seconds) ended = say("end"), in_window = false, is_over = true;
        if (ended && now - ended > drain) break;
        int n = epoll_wait(poller, found, 512, started < size ? 1 : 5);
        for (int i = 0; i < n; i++) {
            struct conn *c = found[i].data.ptr;
            if (c->is_connecting && found[i].events & EPOLLOUT) send_rest(c);
            else if (c->is_open && found[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_conn(c);
        }
    }
    if (!ended) ended = say("end");
    print_result((double)(ended - (begun ? begun : start)) / SECOND);
    return 0;
}
