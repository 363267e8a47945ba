/* An answer that another thread stops. What was said so far stands.
 *
 *   cc cancel.c $(pkg-config --cflags --libs truing) -pthread -o cancel && ./cancel MODEL.gguf
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <truing.h>

/* What both threads know. */
struct shared {
    pthread_mutex_t lock;
    pthread_cond_t spoken;
    int n_texts;
    const truing_cancel *cancel;
};

static int32_t count(void *user_data, const truing_event *event) {
    struct shared *shared = user_data;
    if (event->kind == TRUING_EVENT_TEXT) {
        fwrite(event->text, 1, event->text_len, stdout);
        pthread_mutex_lock(&shared->lock);
        shared->n_texts++;
        pthread_cond_signal(&shared->spoken);
        pthread_mutex_unlock(&shared->lock);
    }
    return 0;
}

/* Stops the answer when five pieces of text have come. */
static void *watch(void *user_data) {
    struct shared *shared = user_data;
    pthread_mutex_lock(&shared->lock);
    while (shared->n_texts < 5) pthread_cond_wait(&shared->spoken, &shared->lock);
    pthread_mutex_unlock(&shared->lock);
    truing_cancel_request(shared->cancel);
    return NULL;
}

static void check(truing_status status) {
    char text[512];
    if (status == TRUING_OK) return;
    truing_last_error(text, sizeof text);
    fprintf(stderr, "%s: %s\n", truing_status_name(status), text);
    exit(1);
}

int main(int argc, char **argv) {
    truing_model *model = NULL;
    truing_context *context = NULL;
    truing_session *session = NULL;
    truing_cancel *cancel = NULL;
    truing_generate_options options = {0};
    truing_result result = {0};
    struct shared shared;
    pthread_t thread;
    truing_status status;

    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL.gguf\n", argv[0]);
        return 2;
    }
    check(truing_model_open(argv[1], TRUING_CSTR, NULL, &model));
    check(truing_context_new(model, NULL, &context));
    check(truing_session_new(context, NULL, 0, NULL, &session));
    check(truing_cancel_new(session, &cancel));
    check(truing_session_feed_text(session, "Once upon a time", TRUING_CSTR, TRUING_TOKENIZE_BOS_EOS));

    shared.n_texts = 0;
    shared.cancel = cancel;
    pthread_mutex_init(&shared.lock, NULL);
    pthread_cond_init(&shared.spoken, NULL);
    if (pthread_create(&thread, NULL, watch, &shared) != 0) return 1;

    options.struct_size = sizeof options;
    options.on_event = count;
    options.user_data = &shared;
    options.flags = TRUING_GENERATE_IGNORE_EOS; /* without the other thread it would fill the context */
    result.struct_size = sizeof result;
    status = truing_session_generate(session, &options, &result);
    pthread_join(thread, NULL);
    printf("\n");
    fprintf(stderr, "[%s after %zu tokens]\n", truing_status_name(status), result.n_generated);

    truing_session_free(session);
    truing_cancel_free(cancel);
    truing_context_free(context);
    truing_model_free(model);
    return status == TRUING_E_CANCELLED && result.finish == TRUING_FINISH_CANCELLED ? 0 : 1;
}
