/* A guard and a reward that are functions of the program's, and the score of a probe.
 *
 *   cc watch.c $(pkg-config --cflags --libs truing) -o watch
 *   ./watch MODEL.gguf "What is the capital of Japan?" Tokyo [PROBE.gguf]
 *
 * First an answer under a guard that lets one word not pass; then, of several answers, the one that a reward likes best:
 * here the shortest. With a probe, what it reads in the prompt.
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

static int32_t print(void *unused, const truing_event *event) {
    (void)unused;
    if (event->kind == TRUING_EVENT_TEXT) fwrite(event->text, 1, event->text_len, stdout);
    return 0;
}

/* Objects to the first place where the word stands. The text is not zero-terminated. */
static int32_t object_to_word(void *user_data, const truing_guarded *guarded, size_t *from) {
    const char *word = user_data;
    size_t n = strlen(word), i;
    for (i = 0; i + n <= guarded->text_len; i++) {
        if (memcmp(guarded->text + i, word, n) == 0) {
            *from = i;
            return TRUING_GUARD_OBJECT;
        }
    }
    return TRUING_GUARD_CLEAR;
}

/* 1 for an empty text, 0 for one of 400 bytes and more. What goes on can only become longer, so its value is the most
 * that it can have: a search gives up early what cannot win. */
static int32_t like_short(void *unused, const truing_candidate *candidate, truing_score *score) {
    double len = candidate->text_len < 400 ? (double)candidate->text_len : 400;
    (void)unused;
    score->value = 1 - len / 400;
    score->most = score->value;
    return 0;
}

static truing_session *ask(truing_context *context, const char *profile, const char *question) {
    truing_session *session = NULL;
    char messages[2048];
    int n = snprintf(messages, sizeof messages, "[{\"role\": \"user\", \"content\": \"%s\"}]", question);
    if (n < 0 || (size_t)n >= sizeof messages) exit(2);
    check(truing_session_new(context, profile, TRUING_CSTR, NULL, &session), "session");
    check(truing_session_prompt_chat(session, messages, TRUING_CSTR, NULL), "prompt");
    return session;
}

int main(int argc, char **argv) {
    truing_model *model = NULL;
    truing_context *context = NULL;
    truing_context_options room = {0};
    truing_session *session;
    truing_generate_options options = {0};
    truing_guard guard = {0};
    truing_reward reward = {0};
    const truing_guard *guards[] = {&guard};
    const truing_reward *rewards[] = {&reward};

    if (argc < 4) {
        fprintf(stderr, "usage: %s MODEL.gguf QUESTION WORD [PROBE.gguf]\n", argv[0]);
        return 2;
    }
    room.struct_size = sizeof room;
    room.n_ctx = 1024;
    room.n_kv_tokens = 4096; /* several answers side by side */
    check(truing_model_open(argv[1], TRUING_CSTR, NULL, &model), "model");
    check(truing_context_new(model, &room, &context), "context");
    options.struct_size = sizeof options;
    options.on_event = print;

    session = ask(context, "[sampling]\ntemperature = 0\n[limits]\nmax_tokens = 16\n", argv[2]);
    if (argc > 4) {
        truing_probe *probe = NULL;
        truing_probe_info info = {0};
        float score = 0;
        info.struct_size = sizeof info;
        check(truing_probe_open(model, argv[4], TRUING_CSTR, &probe), "probe");
        check(truing_probe_get_info(probe, &info), "probe");
        check(truing_session_probe(session, probe, &score), "score");
        fprintf(stderr, "[the prompt scores %.2f, a guard would act above %.2f]\n", score, info.threshold_high);
        truing_probe_free(probe);
    }
    guard.struct_size = sizeof guard;
    guard.check = object_to_word;
    guard.user_data = argv[3];
    guard.name = "word";
    guard.name_len = TRUING_CSTR;
    guard.action = TRUING_GUARD_REFUSE;
    options.guards = guards;
    options.n_guards = 1;
    check(truing_session_generate(session, &options, NULL), "generate");
    printf("\n");
    truing_session_free(session);

    options.guards = NULL;
    options.n_guards = 0;
    reward.struct_size = sizeof reward;
    reward.score = like_short;
    reward.name = "short";
    reward.name_len = TRUING_CSTR;
    reward.flags = TRUING_REWARD_CHEAP;
    options.rewards = rewards;
    options.n_rewards = 1;
    session = ask(context,
                  "[sampling]\ntemperature = 0.9\nseed = 7\n[limits]\nmax_tokens = 16\n"
                  "[search]\nmethod = \"best_of\"\nsamples = 3\n",
                  argv[2]);
    check(truing_session_generate(session, &options, NULL), "search");
    printf("\n");

    truing_session_free(session);
    truing_context_free(context);
    truing_model_free(model);
    return 0;
}
