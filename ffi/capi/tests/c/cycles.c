/* Opens, generates and frees, again and again: cycles MODEL.gguf N. Fails if memory grows. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <truing.h>
#include <unistd.h>

static long resident_kib(void) {
    long total = 0, resident = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
    if (file) fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static void check(truing_status status) {
    char text[512];
    if (status == TRUING_OK) return;
    truing_last_error(text, sizeof text);
    fprintf(stderr, "%s: %s\n", truing_status_name(status), text);
    exit(1);
}

static void cycle(const char *path) {
    static const uint32_t ids[] = {5, 9, 13};
    truing_model *model = NULL;
    truing_context *context = NULL;
    truing_session *session = NULL;
    truing_context_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.n_ctx = 64;
    options.n_threads = 1;
    options.max_rows = 16;
    check(truing_model_open(path, TRUING_CSTR, NULL, &model));
    check(truing_context_new(model, &options, &context));
    check(truing_session_new(context, "[limits]\nmax_tokens = 2", TRUING_CSTR, NULL, &session));
    check(truing_session_feed(session, ids, 3));
    check(truing_session_generate(session, NULL, NULL));
    /* a failure in every round: its text must not pile up either */
    if (truing_session_feed(session, ids, (size_t)-1 / 8) == TRUING_OK) exit(1);
    truing_session_free(session);
    truing_context_free(context);
    truing_model_free(model);
}

int main(int argc, char **argv) {
    long n = argc == 3 ? atol(argv[2]) : 0, i, before, after;
    if (n < 10) return 2;
    for (i = 0; i < n / 10; i++) cycle(argv[1]);
    before = resident_kib();
    for (i = 0; i < n; i++) cycle(argv[1]);
    after = resident_kib();
    printf("%ld cycles: %ld KiB resident before, %ld after\n", n, before, after);
    return after > before + 1024;
}
