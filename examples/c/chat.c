/* A conversation: each argument after the model is a turn; without any, turns are lines of stdin.
 *
 *   cc chat.c $(pkg-config --cflags --libs truing) -o chat
 *   ./chat MODEL.gguf "What is the capital of Japan?" "And of France?"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <truing.h>

static void check(truing_status status, const char *what) {
    char text[512];
    if (status == TRUING_OK) return;
    truing_last_error(text, sizeof text);
    fprintf(stderr, "%s: %s: %s\n", what, truing_status_name(status), text);
    exit(1);
}

/* The messages so far, a JSON array without its closing bracket. */
static char *messages;

static void add(const char *text, size_t len) {
    size_t have = messages ? strlen(messages) : 0;
    messages = realloc(messages, have + len + 1);
    if (!messages) abort();
    memcpy(messages + have, text, len);
    messages[have + len] = 0;
}

static void add_message(const char *role, const char *text) {
    char escaped[8];
    add(messages ? "," : "[", 1);
    add("{\"role\":\"", 9);
    add(role, strlen(role));
    add("\",\"content\":\"", 13);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\' || c < 0x20) {
            snprintf(escaped, sizeof escaped, "\\u%04x", c);
            add(escaped, strlen(escaped));
        } else {
            add(text, 1);
        }
    }
    add("\"}", 2);
}

static int32_t print(void *unused, const truing_event *event) {
    (void)unused;
    if (event->kind == TRUING_EVENT_TEXT) {
        fwrite(event->text, 1, event->text_len, stdout);
        fflush(stdout);
    }
    return 0;
}

static void answer(truing_session *session, const char *turn) {
    truing_generate_options options = {0};
    truing_result result = {0};
    char *text;
    options.struct_size = sizeof options;
    options.on_event = print;
    result.struct_size = sizeof result;

    add_message("user", turn);
    add("]", 1);
    check(truing_session_prompt_chat(session, messages, TRUING_CSTR, NULL), "prompt");
    messages[strlen(messages) - 1] = 0;
    check(truing_session_generate(session, &options, &result), "generate");
    printf("\n");
    fprintf(stderr, "[%zu tokens, %zu of the prompt's %zu computed]\n", result.n_generated,
            result.n_prompt - result.n_cached, result.n_prompt);

    text = malloc(result.text_len + 1);
    if (!text) abort();
    check(truing_session_text(session, text, result.text_len + 1, NULL), "text");
    add_message("assistant", text);
    free(text);
}

int main(int argc, char **argv) {
    truing_model *model = NULL;
    truing_context *context = NULL;
    truing_session *session = NULL;
    const char *profile = "[sampling]\ntemperature = 0\n[limits]\nmax_tokens = 24\n";
    char line[4096];
    int i;

    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL.gguf [TURN...]\n", argv[0]);
        return 2;
    }
    if (truing_version() < TRUING_VERSION) {
        fprintf(stderr, "the library is older (%s) than the header\n", truing_version_string());
        return 1;
    }
    check(truing_model_open(argv[1], TRUING_CSTR, NULL, &model), "model");
    check(truing_context_new(model, NULL, &context), "context");
    check(truing_session_new(context, profile, TRUING_CSTR, NULL, &session), "session");

    for (i = 2; i < argc; i++) answer(session, argv[i]);
    while (argc == 2 && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        answer(session, line);
    }

    truing_session_free(session);
    truing_context_free(context);
    truing_model_free(model);
    free(messages);
    return 0;
}
