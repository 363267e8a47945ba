/* Everything a caller can do wrong that is noticed, on a tiny model: misuse MODEL.gguf
 *
 * Also run by hand under ASan, UBSan and valgrind, see ffi/capi/README.md; with -DNO_FREED, since a sanitizer rightly
 * objects to asking about a freed handle.
 */
#define _POSIX_C_SOURCE 200809L
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <truing.h>

static int n_failed, n_checked;

static void expect_at(int line, truing_status found, truing_status expected) {
    char text[400] = "";
    n_checked++;
    if (found == expected) return;
    truing_last_error(text, sizeof text);
    fprintf(stderr, "line %d: expected %s, found %s (%s)\n", line, truing_status_name(expected),
            truing_status_name(found), text);
    n_failed++;
}

static void that_at(int line, int holds, const char *what) {
    n_checked++;
    if (holds) return;
    fprintf(stderr, "line %d: expected %s\n", line, what);
    n_failed++;
}

#define EXPECT(call, status) expect_at(__LINE__, call, status)
#define THAT(condition) that_at(__LINE__, condition, #condition)

static const char *path;
static truing_model *model;
static truing_context *context;

static const char PROFILE[] = "[limits]\nmax_tokens = 6\n[sampling]\ntemperature = 1.0\nseed = 3\n";
static const uint32_t IDS[] = {5, 9, 13};

static truing_session *session_of(const char *profile) {
    truing_session *session = NULL;
    EXPECT(truing_session_new(context, profile, TRUING_CSTR, NULL, &session), TRUING_OK);
    EXPECT(truing_session_feed(session, IDS, 3), TRUING_OK);
    return session;
}

static void nulls(void) {
    truing_session *session = session_of(PROFILE);
    truing_model *m = NULL;
    truing_context *c = NULL;
    truing_session *s = NULL;
    char buf[16];
    size_t n;

    EXPECT(truing_model_open(NULL, 3, NULL, &m), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_open(NULL, TRUING_CSTR, NULL, &m), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_open(path, TRUING_CSTR, NULL, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_open_memory(NULL, 10, NULL, &m), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_open_read(NULL, NULL, 10, NULL, &m), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_open_fd(-1, 0, 10, NULL, &m), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_get_sizes(model, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_id(NULL, buf, sizeof buf, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_tokenize(NULL, "a", 1, 0, NULL, 0, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_tokenize(model, NULL, 1, 0, NULL, 0, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_detokenize(model, NULL, 2, 0, buf, sizeof buf, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_context_new(NULL, NULL, &c), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_context_new(model, NULL, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_context_get_memory(context, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_new(NULL, NULL, 0, NULL, &s), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_new(context, NULL, 0, NULL, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_feed(NULL, IDS, 3), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_feed(session, NULL, 3), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_feed(session, NULL, 0), TRUING_OK);
    EXPECT(truing_session_generate(NULL, NULL, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_cancel(NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_cancel_new(session, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_cancel_request(NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_save(session, NULL, 100000, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_restore(session, NULL, 5), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_text(session, buf, sizeof buf, &n), TRUING_E_NOT_FOUND);
    EXPECT(truing_session_report(session, buf, sizeof buf, &n), TRUING_E_NOT_FOUND);
    THAT(m == NULL && c == NULL && s == NULL); /* outputs only on success */
    THAT(truing_last_error(NULL, 0) > 0);
    THAT(truing_last_error(buf, 4) > 4 && strlen(buf) == 3);
    truing_model_free(NULL);
    truing_context_free(NULL);
    truing_session_free(NULL);
    truing_cancel_free(NULL);
    truing_session_free(session);
}

static void handles(void) {
    truing_session *session = session_of(PROFILE);
    static uint64_t zeros[64];
    EXPECT(truing_session_prefill((truing_session *)context), TRUING_E_BAD_HANDLE);
    EXPECT(truing_session_cancel((truing_session *)model), TRUING_E_BAD_HANDLE);
    EXPECT(truing_session_prefill((truing_session *)zeros), TRUING_E_BAD_HANDLE);
    EXPECT(truing_session_prefill((truing_session *)((char *)zeros + 1)), TRUING_E_BAD_HANDLE);
    truing_session_free((truing_session *)context); /* not a session: stays */
    EXPECT(truing_session_prefill(session), TRUING_OK);
    truing_session_free(session);
#ifndef NO_FREED
    EXPECT(truing_session_prefill(session), TRUING_E_BAD_HANDLE);
    truing_session_free(session); /* again */
#endif
}

static void structs(void) {
    truing_session *session = session_of(PROFILE);
    struct {
        truing_generate_options known;
        char future[24];
    } options;
    truing_result result;
    truing_context_options wrong;
    truing_context *c = NULL;

    memset(&options, 0, sizeof options);
    memset(&result, 0, sizeof result);
    EXPECT(truing_session_generate(session, &options.known, NULL), TRUING_E_STRUCT_SIZE);
    options.known.struct_size = offsetof(truing_generate_options, rewards) - 8; /* less than the first version */
    EXPECT(truing_session_generate(session, &options.known, NULL), TRUING_E_STRUCT_SIZE);
    options.known.struct_size = (size_t)1 << 40;
    EXPECT(truing_session_generate(session, &options.known, NULL), TRUING_E_STRUCT_SIZE);
    options.known.struct_size = sizeof options; /* a program newer than the library, that uses nothing new */
    EXPECT(truing_session_generate(session, &options.known, &result), TRUING_E_STRUCT_SIZE);
    result.struct_size = sizeof result;
    EXPECT(truing_session_generate(session, &options.known, &result), TRUING_OK);
    THAT(result.struct_size == sizeof result && result.n_generated == 6 && result.n_prompt == 3);
    options.future[3] = 1;
    EXPECT(truing_session_generate(session, &options.known, &result), TRUING_E_STRUCT_SIZE);
    options.future[3] = 0;
    options.known.flags = 0x80000000u;
    EXPECT(truing_session_generate(session, &options.known, &result), TRUING_E_INVALID_ARGUMENT);

    memset(&wrong, 0, sizeof wrong);
    wrong.struct_size = sizeof wrong;
    wrong.executor = 9;
    EXPECT(truing_context_new(model, &wrong, &c), TRUING_E_INVALID_ARGUMENT);
    wrong.executor = 0;
    wrong.kv_type = 9;
    EXPECT(truing_context_new(model, &wrong, &c), TRUING_E_INVALID_ARGUMENT);
    wrong.kv_type = 0;
    wrong.n_threads = 1000000;
    EXPECT(truing_context_new(model, &wrong, &c), TRUING_E_INVALID_ARGUMENT);
    wrong.n_threads = 0;
    wrong.n_ctx = SIZE_MAX;
    EXPECT(truing_context_new(model, &wrong, &c), TRUING_E_INVALID_ARGUMENT);
    wrong.n_ctx = 64;
    wrong.n_kv_tokens = SIZE_MAX;
    EXPECT(truing_context_new(model, &wrong, &c), TRUING_E_INVALID_ARGUMENT);
    wrong.n_kv_tokens = 0;
    wrong.max_rows = SIZE_MAX;
    EXPECT(truing_context_new(model, &wrong, &c), TRUING_E_INVALID_ARGUMENT);
    THAT(c == NULL);
    truing_session_free(session);
}

static void texts(void) {
    truing_session *session = session_of(PROFILE);
    truing_session *s = NULL;
    truing_model *m = NULL;
    char buf[4096];
    uint32_t ids[8];
    size_t n = 0, i;
    char *deep = malloc(200001);

    EXPECT(truing_session_feed_text(session, "a\xff", 2, 0), TRUING_E_BAD_UTF8);
    EXPECT(truing_session_new(context, "\xc3(", 2, NULL, &s), TRUING_E_BAD_UTF8);
    EXPECT(truing_session_prompt_chat(session, "\xed\xa0\x80", 3, NULL), TRUING_E_BAD_UTF8);
    EXPECT(truing_model_open("\xff.gguf", TRUING_CSTR, NULL, &m), TRUING_E_BAD_UTF8);
    EXPECT(truing_session_feed_text(session, "abc", SIZE_MAX - 1, 0), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_feed(session, IDS, SIZE_MAX / 2), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_feed_text(session, "abc", 3, 64), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_open("there is no such file", TRUING_CSTR, NULL, &m), TRUING_E_IO);
    EXPECT(truing_model_open_memory("no model at all", 15, NULL, &m), TRUING_E_BAD_FILE);
    EXPECT(truing_session_new(context, "[sampling]\ntemprature = 1", TRUING_CSTR, NULL, &s), TRUING_E_BAD_PROFILE);
    truing_last_error(buf, sizeof buf);
    THAT(strstr(buf, "line 2") && strstr(buf, "temprature"));
    EXPECT(truing_session_new(context, "[sampling]\ntemperature = -1.0", TRUING_CSTR, NULL, &s),
           TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_new(context, "[constraints.grammar]\ngbnf = \"/etc/passwd\"", TRUING_CSTR, NULL, &s),
           TRUING_E_BAD_PROFILE);
    EXPECT(truing_session_new(context, "[constraints.grammar]\nregex = \"(\"", TRUING_CSTR, NULL, &s),
           TRUING_E_BAD_PROFILE);
    EXPECT(truing_session_new(context, "[prompt]\nprefill = \"Sure\"", TRUING_CSTR, NULL, &s),
           TRUING_E_UNSUPPORTED); /* what a session does not do is refused, not ignored */
    EXPECT(truing_session_prompt_chat(session, "{}", 2, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_prompt_chat(session, "[", 1, NULL), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_prompt_chat(session, "[{\"role\":\"user\",\"content\":\"a\"}]", TRUING_CSTR, NULL),
           TRUING_E_TEMPLATE); /* the tiny model has none */
    memset(deep, '[', 200000);
    deep[200000] = 0;
    EXPECT(truing_session_prompt_chat(session, deep, TRUING_CSTR, NULL), TRUING_E_INVALID_ARGUMENT);
    deep[0] = '{';
    EXPECT(truing_session_new(context, deep, TRUING_CSTR, NULL, &s), TRUING_E_BAD_PROFILE);
    memset(deep, 'a', 200000);
    EXPECT(truing_session_feed_text(session, deep, TRUING_CSTR, 0), TRUING_E_CONTEXT_FULL);
    free(deep);
    ids[0] = UINT32_MAX;
    EXPECT(truing_session_feed(session, ids, 1), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_detokenize(model, ids, 1, 0, buf, sizeof buf, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_token_bytes(model, UINT32_MAX, buf, sizeof buf, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_truncate(session, 4), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_metadata(model, "no.such.key", TRUING_CSTR, buf, sizeof buf, &n), TRUING_E_NOT_FOUND);
    EXPECT(truing_session_tokens(session, ids, 2, &n), TRUING_E_BUFFER_TOO_SMALL);
    THAT(n == 3 && ids[0] == UINT32_MAX);
    EXPECT(truing_session_tokens(session, ids, 8, &n), TRUING_OK);
    THAT(n == 3 && ids[0] == 5 && ids[2] == 13); /* none of the above has changed anything */
    for (i = 0; truing_model_metadata_key(model, i, buf, sizeof buf, &n) == TRUING_OK; i++) {
        char value[4096];
        EXPECT(truing_model_metadata(model, buf, n, value, sizeof value, NULL), TRUING_OK);
    }
    THAT(i > 5);
    THAT(s == NULL && m == NULL);
    truing_session_free(session);
}

struct recursion {
    truing_session *session;
    int n_calls;
};

static int32_t recurse(void *user_data, const truing_event *event) {
    struct recursion *r = user_data;
    truing_session *s = NULL;
    float logits[1];
    size_t n;
    r->n_calls++;
    if (event->kind == TRUING_EVENT_DONE) return 0;
    EXPECT(truing_session_generate(r->session, NULL, NULL), TRUING_E_BUSY);
    EXPECT(truing_session_feed(r->session, IDS, 1), TRUING_E_BUSY);
    EXPECT(truing_session_logits(r->session, logits, 1, &n), TRUING_E_BUSY);
    EXPECT(truing_session_new(context, PROFILE, TRUING_CSTR, NULL, &s), TRUING_E_BUSY);
    truing_session_free(r->session); /* refused */
    truing_context_free(context);    /* refused */
    EXPECT(truing_tokenize(model, "a", 1, 0, NULL, 0, &n), TRUING_E_BUFFER_TOO_SMALL); /* the model is free */
    return 0;
}

static int32_t stop(void *user_data, const truing_event *event) {
    (void)event;
    ++*(int *)user_data;
    return 7;
}

static int32_t slow(void *user_data, const truing_event *event) {
    struct timespec ms20 = {0, 20000000};
    (void)user_data;
    (void)event;
    nanosleep(&ms20, NULL);
    return 0;
}

static void callbacks(void) {
    truing_session *session = session_of(PROFILE);
    truing_generate_options options;
    truing_result result;
    struct recursion recursion = {NULL, 0};
    int n_calls = 0;

    memset(&options, 0, sizeof options);
    memset(&result, 0, sizeof result);
    options.struct_size = sizeof options;
    result.struct_size = sizeof result;
    options.flags = TRUING_GENERATE_IGNORE_EOS | TRUING_GENERATE_SHOW_SPECIAL;
    recursion.session = session;
    options.on_event = recurse;
    options.user_data = &recursion;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(recursion.n_calls >= 2 && result.finish == TRUING_FINISH_LENGTH && result.satisfied == -1);

    options.on_event = stop;
    options.user_data = &n_calls;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_E_CANCELLED);
    THAT(n_calls == 1 && result.n_generated >= 1);

    options.on_event = NULL;
    EXPECT(truing_session_cancel(session), TRUING_OK); /* before the start: not lost */
    EXPECT(truing_session_generate(session, &options, &result), TRUING_E_CANCELLED);
    THAT(result.finish == TRUING_FINISH_CANCELLED && result.n_generated == 0);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK); /* used up */

    options.on_event = slow;
    options.deadline_ms = 10;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_E_DEADLINE);
    THAT(result.finish == TRUING_FINISH_DEADLINE && result.n_generated < 6);
    options.on_event = NULL;
    options.deadline_ms = UINT64_MAX;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    truing_session_free(session);
}

static int32_t only_forty(void *user_data, const uint32_t *ids, size_t n, float *logits, size_t n_vocab) {
    size_t i;
    *(size_t *)user_data = n + ids[n - 1] * 0;
    for (i = 0; i < n_vocab; i++) logits[i] = i == 40 ? 1.0f : -INFINITY;
    return 0;
}

static int32_t all_nan(void *user_data, const uint32_t *ids, size_t n, float *logits, size_t n_vocab) {
    size_t i;
    (void)user_data;
    (void)ids;
    (void)n;
    for (i = 0; i < n_vocab; i++) logits[i] = NAN;
    return 0;
}

static int32_t give_up(void *user_data, const uint32_t *ids, size_t n, float *logits, size_t n_vocab) {
    (void)user_data;
    (void)ids;
    (void)logits;
    (void)n_vocab;
    return n > 5;
}

static void processors(void) {
    truing_session *session = session_of(PROFILE);
    truing_generate_options options;
    truing_result result;
    uint32_t ids[16];
    size_t n = 0, seen = 0;
    truing_status status;

    memset(&options, 0, sizeof options);
    memset(&result, 0, sizeof result);
    options.struct_size = sizeof options;
    result.struct_size = sizeof result;
    options.on_logits = only_forty;
    options.user_data = &seen;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    EXPECT(truing_session_tokens(session, ids, 16, &n), TRUING_OK);
    THAT(n == 9 && ids[3] == 40 && ids[8] == 40 && seen == 8);

    options.on_logits = all_nan; /* no token is left: some failure or end, and the session goes on */
    status = truing_session_generate(session, &options, &result);
    THAT(status == TRUING_OK || status == TRUING_E_INVALID_ARGUMENT || status == TRUING_E_UNSATISFIABLE);
    EXPECT(truing_session_truncate(session, 3), TRUING_OK);
    options.on_logits = give_up;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_E_CANCELLED);
    THAT(result.n_generated == 3);
    options.on_logits = NULL;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    truing_session_free(session);
}

static void saved(void) {
    truing_session *session = session_of(PROFILE), *other;
    unsigned char bytes[1024];
    uint32_t a[32], b[32];
    size_t len = 0, n_a = 0, n_b = 0;

    EXPECT(truing_session_save(session, NULL, 0, &len), TRUING_E_BUFFER_TOO_SMALL);
    THAT(len > 64 && len < sizeof bytes);
    EXPECT(truing_session_save(session, bytes, sizeof bytes, &len), TRUING_OK);
    EXPECT(truing_session_generate(session, NULL, NULL), TRUING_OK);
    other = session_of(PROFILE);
    EXPECT(truing_session_truncate(other, 0), TRUING_OK);
    EXPECT(truing_session_generate(other, NULL, NULL), TRUING_E_INVALID_ARGUMENT); /* nothing to continue */
    EXPECT(truing_session_restore(other, bytes, len), TRUING_OK);
    EXPECT(truing_session_generate(other, NULL, NULL), TRUING_OK);
    EXPECT(truing_session_tokens(session, a, 32, &n_a), TRUING_OK);
    EXPECT(truing_session_tokens(other, b, 32, &n_b), TRUING_OK);
    THAT(n_a == n_b && n_a == 9 && memcmp(a, b, n_a * sizeof *a) == 0);
    EXPECT(truing_session_restore(other, bytes, len - 1), TRUING_E_BAD_FILE);
    EXPECT(truing_session_restore(other, bytes, 0), TRUING_E_BAD_FILE);
    bytes[80] ^= 1;
    EXPECT(truing_session_restore(other, bytes, len), TRUING_E_BAD_FILE);
    EXPECT(truing_session_tokens(other, b, 32, &n_b), TRUING_OK);
    THAT(n_b == 9);
    truing_session_free(session);
    truing_session_free(other);
}

static int32_t read_file(void *user_data, uint64_t offset, void *to, size_t n) {
    FILE *file = user_data;
    if (fseek(file, (long)offset, SEEK_SET) != 0) return 1;
    return fread(to, 1, n, file) == n ? 0 : 2;
}

static int32_t read_nothing(void *user_data, uint64_t offset, void *to, size_t n) {
    (void)user_data;
    (void)offset;
    (void)to;
    (void)n;
    return -5;
}

static void ways_to_open(void) {
    FILE *file = fopen(path, "rb");
    truing_model *by_read = NULL, *by_memory = NULL, *by_fd = NULL, *none = NULL;
    char a[80] = "", b[80] = "", c[80] = "", d[80] = "";
    long len;
    void *bytes;

    if (!file) exit(3);
    fseek(file, 0, SEEK_END);
    len = ftell(file);
    bytes = malloc((size_t)len);
    rewind(file);
    if (!bytes || fread(bytes, 1, (size_t)len, file) != (size_t)len) exit(3);
    EXPECT(truing_model_open_read(read_file, file, (uint64_t)len, NULL, &by_read), TRUING_OK);
    EXPECT(truing_model_open_memory(bytes, (size_t)len, NULL, &by_memory), TRUING_OK);
    EXPECT(truing_model_open_fd(fileno(file), 0, (uint64_t)len, NULL, &by_fd), TRUING_OK);
    memset(bytes, 0, (size_t)len);
    free(bytes);
    truing_model_id(model, a, sizeof a, NULL);
    truing_model_id(by_read, b, sizeof b, NULL);
    truing_model_id(by_memory, c, sizeof c, NULL);
    truing_model_id(by_fd, d, sizeof d, NULL);
    THAT(strlen(a) == 64 && !strcmp(a, b) && !strcmp(a, c) && !strcmp(a, d));
    EXPECT(truing_model_open_read(read_file, file, (uint64_t)len + 1, NULL, &none), TRUING_E_IO);
    EXPECT(truing_model_open_read(read_nothing, NULL, (uint64_t)len, NULL, &none), TRUING_E_IO);
    EXPECT(truing_model_open_read(read_nothing, NULL, UINT64_MAX / 4, NULL, &none), TRUING_E_OUT_OF_MEMORY);
    EXPECT(truing_model_open_fd(fileno(file), 2, (uint64_t)len - 2, NULL, &none), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_model_open_fd(fileno(file), 4, (uint64_t)len, NULL, &none), TRUING_E_IO);
    EXPECT(truing_model_open_fd(fileno(file), UINT64_MAX - 3, 8, NULL, &none), TRUING_E_IO);
    fclose(file);
    truing_model_free(by_read);
    truing_model_free(by_memory);
    truing_model_free(by_fd);
}

static void *hammer(void *user_data) {
    truing_session *session = user_data;
    long n_ok = 0;
    int i;
    for (i = 0; i < 200; i++) {
        truing_status status = truing_session_prompt(session, IDS, 3);
        if (status == TRUING_OK) status = truing_session_generate(session, NULL, NULL);
        if (status == TRUING_OK) n_ok++;
        if (status != TRUING_OK && status != TRUING_E_BUSY && status != TRUING_E_CANCELLED &&
            status != TRUING_E_CONTEXT_FULL) {
            expect_at(__LINE__, status, TRUING_OK);
        }
        if (i % 50 == 0) truing_session_cancel(session);
    }
    return (void *)n_ok;
}

static void threads(void) {
    truing_session *session = session_of(PROFILE);
    truing_cancel *cancel = NULL;
    pthread_t thread[2];
    void *n_ok[2];
    int i;
    EXPECT(truing_cancel_new(session, &cancel), TRUING_OK);
    for (i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, hammer, session)) exit(3);
    for (i = 0; i < 2; i++) pthread_join(thread[i], &n_ok[i]);
    THAT((long)n_ok[0] + (long)n_ok[1] > 0);
    truing_session_free(session);
    EXPECT(truing_cancel_request(cancel), TRUING_OK); /* outlives the session */
    truing_cancel_free(cancel);
}

static void embeddings(void) {
    truing_model_sizes sizes;
    truing_embed_options options;
    float *values;
    memset(&sizes, 0, sizeof sizes);
    memset(&options, 0, sizeof options);
    sizes.struct_size = sizeof sizes;
    options.struct_size = sizeof options;
    EXPECT(truing_model_get_sizes(model, &sizes), TRUING_OK);
    values = calloc(sizes.n_embd, sizeof *values);
    if (!values) exit(3);
    options.pooling = TRUING_POOLING_MEAN;
    options.normalise = 1;
    EXPECT(truing_context_embed_tokens(context, IDS, 3, &options, values, sizes.n_embd), TRUING_OK);
    THAT(values[0] != 0.0f || values[1] != 0.0f);
    EXPECT(truing_context_embed_tokens(context, IDS, 3, &options, values, sizes.n_embd - 1),
           TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_context_embed_tokens(context, IDS, 0, &options, values, sizes.n_embd),
           TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_context_embed_tokens(context, IDS, 3, NULL, values, sizes.n_embd), TRUING_E_UNSUPPORTED);
    options.pooling = 17;
    EXPECT(truing_context_embed_tokens(context, IDS, 3, &options, values, sizes.n_embd),
           TRUING_E_INVALID_ARGUMENT);
    free(values);
}

static void searches(void) {
    static const char *const profiles[] = {
        "[limits]\nmax_tokens = 8\n[constraints]\ngrammar = { regex = \"[a-c]{2,4}\" }\n[search]\nmethod = \"beam\"\nbeams = 2",
        "[limits]\nmax_tokens = 6\n[search]\nmethod = \"best_of\"\nsamples = 3\n[[reward]]\nkind = \"keyword\"\nany = [[\"a\"]]",
        "[limits]\nmax_tokens = 6\n[search]\nmethod = \"greedy\"",
    };
    size_t i, n = 0;
    for (i = 0; i < sizeof profiles / sizeof *profiles; i++) {
        truing_session *session = session_of(profiles[i]);
        truing_generate_options options;
        truing_result result;
        char report[4096];
        memset(&options, 0, sizeof options);
        memset(&result, 0, sizeof result);
        options.struct_size = sizeof options;
        result.struct_size = sizeof result;
        EXPECT(truing_session_generate(session, NULL, &result), TRUING_OK);
        EXPECT(truing_session_report(session, report, sizeof report, NULL), TRUING_OK);
        THAT(i != 0 || result.satisfied == 1);
        options.on_logits = only_forty;
        options.user_data = &n;
        if (i < 2) {
            EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_UNSUPPORTED);
            EXPECT(truing_session_cancel(session), TRUING_OK);
            EXPECT(truing_session_generate(session, NULL, NULL), TRUING_E_CANCELLED);
            EXPECT(truing_session_generate(session, NULL, NULL), TRUING_OK);
        }
        truing_session_free(session);
    }
}

static void unsatisfiable(void) {
    truing_session *session = NULL;
    truing_status status = truing_session_new(
        context, "[constraints]\ninclude = [\"dog\"]\nexclude = [\"dog\"]\n[limits]\nmax_tokens = 6\n", TRUING_CSTR,
        NULL, &session);
    if (status == TRUING_OK) {
        truing_session_feed(session, IDS, 3);
        status = truing_session_generate(session, NULL, NULL);
    }
    THAT(status != TRUING_OK && truing_last_error(NULL, 0) > 10);
    truing_session_free(session);
}

struct judged {
    int n_tokens, n_ends, code;
    size_t object_at;
    truing_session *session;
};

static int32_t judge(void *user_data, const truing_guarded *guarded, size_t *from) {
    struct judged *j = user_data;
    THAT(guarded->struct_size >= sizeof *guarded && *from == guarded->token_start);
    THAT(guarded->token_start <= guarded->text_len);
    if (j->session) {
        EXPECT(truing_session_generate(j->session, NULL, NULL), TRUING_E_BUSY);
        truing_session_free(j->session); /* refused */
    }
    if (guarded->is_end) {
        j->n_ends++;
        return TRUING_GUARD_CLEAR;
    }
    j->n_tokens++;
    if (j->code == TRUING_GUARD_OBJECT && guarded->n_tokens < 3) return TRUING_GUARD_CLEAR;
    if (j->code == TRUING_GUARD_OBJECT) *from = j->object_at;
    return j->code;
}

static int32_t count_text(void *user_data, const truing_event *event) {
    if (event->kind == TRUING_EVENT_TEXT) *(size_t *)user_data += event->text_len;
    return 0;
}

static void own_guards(void) {
    truing_session *session = session_of(PROFILE);
    truing_session *searching = session_of("[limits]\nmax_tokens = 6\n[search]\nmethod = \"best_of\"\nsamples = 2\n"
                                           "[[reward]]\nkind = \"repetition\"\n");
    struct judged judged = {0, 0, TRUING_GUARD_CLEAR, 0, NULL};
    truing_guard guard, broken;
    const truing_guard *guards[2];
    truing_generate_options options;
    truing_result result;
    size_t n_shown = 0;
    char report[4096];

    memset(&guard, 0, sizeof guard);
    memset(&options, 0, sizeof options);
    memset(&result, 0, sizeof result);
    guard.struct_size = sizeof guard;
    guard.check = judge;
    guard.user_data = &judged;
    guard.name = "mine";
    guard.name_len = TRUING_CSTR;
    options.struct_size = sizeof options;
    result.struct_size = sizeof result;
    options.guards = guards;
    options.n_guards = 1;
    guards[0] = guards[1] = &guard;

    judged.session = session;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(judged.n_tokens == 6 && judged.n_ends == 1 && result.n_generated == 6);
    judged.session = NULL;

    /* what is objected to is never shown */
    options.on_event = count_text;
    options.user_data = &n_shown;
    judged.code = TRUING_GUARD_OBJECT;
    guard.action = TRUING_GUARD_STOP;
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(result.finish == TRUING_FINISH_GUARDED && result.text_len == 0 && n_shown == 0);
    EXPECT(truing_session_report(session, report, sizeof report, NULL), TRUING_OK);
    THAT(strstr(report, "\"guard\":\"mine\"") != NULL);
    guard.action = TRUING_GUARD_REFUSE;
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(result.finish == TRUING_FINISH_REFUSED && result.text_len > 0 && n_shown == result.text_len);
    guard.action = TRUING_GUARD_BACKTRACK;
    judged.object_at = SIZE_MAX; /* behind all: the last token is meant */
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    EXPECT(truing_session_report(session, report, sizeof report, NULL), TRUING_OK);
    THAT(strstr(report, "\"action\":\"prefix\"") != NULL); /* it goes on with the refusal's words */

    /* a guard that fails lets nothing through */
    judged.code = 77;
    n_shown = 0;
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(result.finish == TRUING_FINISH_REFUSED && n_shown == result.text_len);
    judged.code = TRUING_GUARD_HOLD; /* shown in the end, all at once */
    n_shown = 0;
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(n_shown == result.text_len && result.n_generated == 6);

    judged.code = TRUING_GUARD_CLEAR;
    options.flags = TRUING_GENERATE_IGNORE_EOS;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    options.flags = 0;
    EXPECT(truing_session_generate(searching, &options, NULL), TRUING_E_UNSUPPORTED);
    guard.action = 9;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    guard.action = 0;
    guard.struct_size = 8;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_STRUCT_SIZE);
    guard.struct_size = sizeof guard;
    guard.name = "\xff";
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_BAD_UTF8);
    guard.name = NULL;
    broken = guard;
    broken.check = NULL;
    guards[0] = &broken;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    guards[0] = NULL;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    options.n_guards = SIZE_MAX;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    options.guards = NULL;
    options.n_guards = 1;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    guards[0] = &guard;
    options.guards = guards;
    options.n_guards = 2;
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    options.struct_size = offsetof(truing_generate_options, rewards); /* a program built with the first header */
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    judged.n_tokens = 0;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(judged.n_tokens == 0);
    truing_session_free(session);
    truing_session_free(searching);
}

struct scorer {
    int n_calls, n_closed, code;
    double value, sign;
    truing_session *session;
};

static int32_t score_length(void *user_data, const truing_candidate *candidate, truing_score *score) {
    struct scorer *s = user_data;
    s->n_calls++;
    s->n_closed += candidate->is_closed;
    if (s->session) EXPECT(truing_session_generate(s->session, NULL, NULL), TRUING_E_BUSY);
    score->value = s->value != 0 ? s->value : s->sign * (double)candidate->text_len;
    return s->code;
}

static void own_rewards(void) {
    static const char SEARCH[] = "[limits]\nmax_tokens = 8\n[sampling]\ntemperature = 1.0\nseed = 3\n"
                                 "[search]\nmethod = \"best_of\"\nsamples = 6\n";
    truing_session *session = session_of(SEARCH), *plain = session_of(PROFILE);
    struct scorer scorer = {0, 0, 0, 0, 1, NULL};
    truing_reward reward;
    const truing_reward *rewards[1];
    truing_generate_options options;
    truing_result result;
    size_t longest, shortest;
    char report[8192];

    memset(&reward, 0, sizeof reward);
    memset(&options, 0, sizeof options);
    memset(&result, 0, sizeof result);
    reward.struct_size = sizeof reward;
    reward.score = score_length;
    reward.user_data = &scorer;
    reward.name = "length";
    reward.name_len = 6;
    reward.least = -1000;
    reward.most = 1000;
    options.struct_size = sizeof options;
    result.struct_size = sizeof result;
    options.rewards = rewards;
    options.n_rewards = 1;
    rewards[0] = &reward;

    EXPECT(truing_session_generate(session, NULL, NULL), TRUING_E_BAD_PROFILE); /* nothing to look for */
    scorer.session = session;
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    longest = result.text_len;
    THAT(scorer.n_calls >= 6 && scorer.n_closed > 0);
    EXPECT(truing_session_report(session, report, sizeof report, NULL), TRUING_OK);
    THAT(strstr(report, "\"length\"") != NULL);
    scorer.sign = -1;
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    shortest = result.text_len;
    THAT(shortest < longest);
    reward.weight = -1; /* away from the shortest */
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);
    EXPECT(truing_session_generate(session, &options, &result), TRUING_OK);
    THAT(result.text_len == longest);
    reward.weight = 0;
    EXPECT(truing_session_prompt(session, IDS, 3), TRUING_OK);

    scorer.value = NAN;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_REWARD);
    scorer.value = 1001;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_REWARD);
    scorer.value = 0;
    scorer.code = 1;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_CANCELLED);
    scorer.code = 0;
    reward.least = 1000;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    reward.least = NAN;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    reward.least = -1000;
    reward.step = -1;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    reward.step = 0;
    reward.weight = INFINITY;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    reward.weight = 0;
    reward.flags = 64;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    reward.flags = TRUING_REWARD_CHEAP | TRUING_REWARD_NEEDS_CLOSED;
    reward.score = NULL;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    reward.score = score_length;
    EXPECT(truing_session_generate(plain, &options, NULL), TRUING_E_UNSUPPORTED); /* no search */
    rewards[0] = NULL;
    EXPECT(truing_session_generate(session, &options, NULL), TRUING_E_INVALID_ARGUMENT);
    truing_session_free(session);
    truing_session_free(plain);
}

static void probes(void) {
    truing_session *session = session_of(PROFILE);
    truing_probe *probe = NULL;
    truing_probe_info info;
    float score = 7;
    size_t n = 0;

    memset(&info, 0, sizeof info);
    EXPECT(truing_probe_open(NULL, path, TRUING_CSTR, &probe), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_probe_open(model, NULL, 3, &probe), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_probe_open(model, "there is no such file", TRUING_CSTR, &probe), TRUING_E_IO);
    EXPECT(truing_probe_open(model, path, TRUING_CSTR, &probe), TRUING_E_BAD_FILE); /* a model is no probe */
    EXPECT(truing_probe_open_memory(model, "no probe", 8, &probe), TRUING_E_BAD_FILE);
    EXPECT(truing_probe_open_memory(model, NULL, 8, &probe), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_probe_get_info(NULL, &info), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_probe_get_info((truing_probe *)session, &info), TRUING_E_BAD_HANDLE);
    EXPECT(truing_context_probe(context, NULL, IDS, 3, 3, &score, 1, &n), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_context_probe(context, (truing_probe *)context, IDS, 3, 3, &score, 1, &n), TRUING_E_BAD_HANDLE);
    EXPECT(truing_session_probe(session, NULL, &score), TRUING_E_INVALID_ARGUMENT);
    EXPECT(truing_session_probe(session, (truing_probe *)model, &score), TRUING_E_BAD_HANDLE);
    THAT(probe == NULL && score == 7);
    truing_probe_free(NULL);
    truing_session_free(session);
}

int main(int argc, char **argv) {
    truing_context_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.n_ctx = 64;
    options.n_kv_tokens = 512;
    options.n_threads = 1;
    if (argc != 2) return 2;
    path = argv[1];
    EXPECT(truing_model_open(path, TRUING_CSTR, NULL, &model), TRUING_OK);
    EXPECT(truing_context_new(model, &options, &context), TRUING_OK);
    if (n_failed) return 1;
    nulls();
    handles();
    structs();
    texts();
    callbacks();
    processors();
    saved();
    ways_to_open();
    threads();
    embeddings();
    searches();
    unsatisfiable();
    own_guards();
    own_rewards();
    probes();
    truing_model_free(model); /* before the context: it keeps what it needs */
    {
        truing_session *session = session_of(PROFILE);
        truing_context_free(context); /* and the session what it needs of both */
        EXPECT(truing_session_generate(session, NULL, NULL), TRUING_OK);
        truing_session_free(session);
    }
    printf("%d checks, %d failed\n", n_checked, n_failed);
    return n_failed != 0;
}
