/* truing: an embedded, on-device runtime for aligned generation. The C interface.
 *
 * Written by cbindgen from ffi/capi; do not edit. C99, C++11. Link with: pkg-config --cflags --libs truing
 *
 * A model is a file; a context is memory and threads to run it with; a session is text that grows in a context:
 *
 *     truing_model *model; truing_context *context; truing_session *session;
 *     truing_model_open("model.gguf", TRUING_CSTR, NULL, &model);
 *     truing_context_new(model, NULL, &context);
 *     truing_session_new(context, "[limits]\nmax_tokens = 64", TRUING_CSTR, NULL, &session);
 *     truing_session_prompt_chat(session, "[{\"role\": \"user\", \"content\": \"Hi!\"}]", TRUING_CSTR, NULL);
 *     truing_generate_options options = {sizeof options};
 *     options.on_event = print_text;
 *     truing_session_generate(session, &options, NULL);
 *
 * CALLS. Those that can fail return a truing_status: TRUING_OK (0) or a TRUING_E_. truing_last_error copies the
 * text of this thread's last failure: where, what was expected, what was found. Outputs come last and are written
 * only on success, but for lengths, which are written with TRUING_E_BUFFER_TOO_SMALL too.
 *
 * TEXT is UTF-8 as pointer and length; TRUING_CSTR as length says that a zero ends it. A text that comes out is
 * copied to the caller's buffer, with a zero behind it where there is room.
 *
 * STRUCTS begin with struct_size, which the caller sets to sizeof the struct; everything that is zero has its
 * default. Programs and libraries of different versions fit together: what the library does not know must be zero.
 *
 * OWNERSHIP AND THREADS
 *
 *   handle          from                  freed with             threads
 *   truing_model    truing_model_open_..  truing_model_free      const: any number at once
 *   truing_context  truing_context_new    truing_context_free    one call at a time over it and its sessions;
 *                                                                others return TRUING_E_BUSY, none waits
 *   truing_session  truing_session_new    truing_session_free    one call at a time; truing_session_cancel and
 *                                                                truing_cancel_new any time from anywhere
 *   truing_cancel   truing_cancel_new     truing_cancel_free     const: any number at once
 *   truing_probe    truing_probe_open..   truing_probe_free      const: any number at once
 *
 * Handles are freed in any order: a context keeps what it needs of its model, a session of its context. Freeing NULL
 * does nothing. Handles may move between threads. A handle is freed by one thread, while no other uses it. Pointers
 * given to a call are not used after it returns, but for log functions, which live as long as what was made with them.
 * Pointers given to a callback are valid until it returns. To generate at the same time, make a context for each.
 * Callbacks for events, logits, rewards and guards run on the thread that called truing_session_generate, one at a
 * time; one that calls back into its own session or context gets TRUING_E_BUSY.
 *
 * MISUSE that is noticed: NULL, a handle of another type, a handle in use (TRUING_E_BUSY), bad lengths, flags, sizes
 * and UTF-8. A freed handle is noticed (TRUING_E_BAD_HANDLE) as long as its memory has not been used for something
 * else: an aid for finding mistakes, not a promise. Not noticed: pointers to other memory, lengths that are too long.
 *
 * Nothing in the library is global but the text of each thread's last failure. It installs no signal handler, opens
 * no connection, reads no file that it was not told of, and does not change locale or environment. A bug in it
 * is caught at the border: the call returns TRUING_E_PANIC and the handle is only good to be freed.
 */


#ifndef TRUING_H
#define TRUING_H

#include <stddef.h>
#include <stdint.h>
/**
 * As the length of a text: a zero ends it.
 */
#define TRUING_CSTR SIZE_MAX


/**
 * Version of the header: major · 65536 + minor · 256 + patch. Compare with `truing_version()` at start: the
 * library must have the same major number (while that is 0, the same minor number) and be no older.
 */
#define TRUING_VERSION 256

/**
 * Something odd that is no failure.
 */
#define TRUING_LOG_WARNING 1

/**
 * What was chosen or opened.
 */
#define TRUING_LOG_INFO 2

/**
 * Add the begin (and end) token that the model expects around a text.
 */
#define TRUING_TOKENIZE_BOS_EOS 1

/**
 * Read control tokens that the text spells, such as <|im_end|>, as tokens. Only for text that no user wrote.
 */
#define TRUING_TOKENIZE_SPECIAL 2

/**
 * Spell control tokens out.
 */
#define TRUING_DETOKENIZE_SPECIAL 1

/**
 * An id that no token has: the model has no token of this role.
 */
#define TRUING_NO_TOKEN UINT32_MAX

/**
 * The fastest that supports the model.
 */
#define TRUING_EXECUTOR_AUTO 0

/**
 * truing's own kernels: the same bits for any number of threads.
 */
#define TRUING_EXECUTOR_NATIVE 1

/**
 * ggml's kernels.
 */
#define TRUING_EXECUTOR_GGML 2

/**
 * Keys and values as 16-bit floats.
 */
#define TRUING_KV_F16 0

/**
 * Keys and values as 32-bit floats; executor ggml.
 */
#define TRUING_KV_F32 1

/**
 * Keys and values as 8-bit integers with scales: half the memory of 16 bits, and not lossless.
 */
#define TRUING_KV_Q8_0 2

/**
 * The mean over all tokens.
 */
#define TRUING_POOLING_MEAN 1

/**
 * The first token.
 */
#define TRUING_POOLING_FIRST 2

/**
 * The last token.
 */
#define TRUING_POOLING_LAST 3

/**
 * What the model's file declares; TRUING_E_UNSUPPORTED if it declares nothing.
 */
#define TRUING_POOLING_MODEL 0

/**
 * `truing_reward.flags`: asking costs microseconds, so texts may be scored while they grow; what cannot win is given
 * up early. The scores of open texts must then be bounds that hold.
 */
#define TRUING_REWARD_CHEAP 1

/**
 * `truing_reward.flags`: an open text says too little about its end to be scored.
 */
#define TRUING_REWARD_NEEDS_CLOSED 2

/**
 * `truing_guard.action`: the text is taken back and goes on another way.
 */
#define TRUING_GUARD_BACKTRACK 0

/**
 * `truing_guard.action`: the text is taken back and ends with the refusal: TRUING_FINISH_REFUSED.
 */
#define TRUING_GUARD_REFUSE 1

/**
 * `truing_guard.action`: the text is taken back and ends: TRUING_FINISH_GUARDED.
 */
#define TRUING_GUARD_STOP 2

/**
 * What a guard's function returns: nothing against the text so far.
 */
#define TRUING_GUARD_CLEAR 0

/**
 * What a guard's function returns: the text from `*from` on is objected to.
 */
#define TRUING_GUARD_OBJECT 1

/**
 * What a guard's function returns: not decided; what came since it was last clear is not shown yet.
 */
#define TRUING_GUARD_HOLD 2

/**
 * The model ended its turn.
 */
#define TRUING_FINISH_EOS 1

/**
 * `max_tokens` was reached.
 */
#define TRUING_FINISH_LENGTH 2

/**
 * A stop text was reached.
 */
#define TRUING_FINISH_STOP 3

/**
 * The context is full.
 */
#define TRUING_FINISH_CONTEXT_FULL 4

/**
 * An excluded phrase came and could not be taken back, or was to end the text.
 */
#define TRUING_FINISH_EXCLUDED 5

/**
 * Nothing more was allowed, and the text does not satisfy the constraint.
 */
#define TRUING_FINISH_DEAD_END 6

/**
 * Cancelled; the text so far stands.
 */
#define TRUING_FINISH_CANCELLED 7

/**
 * The deadline passed; the text so far stands.
 */
#define TRUING_FINISH_DEADLINE 8

/**
 * A guard objected; the text ends with the refusal.
 */
#define TRUING_FINISH_REFUSED 9

/**
 * A guard objected, and under the constraints there is no refusal to write.
 */
#define TRUING_FINISH_REFUSED_UNDER_GRAMMAR 10

/**
 * A guard objected and was to end the text.
 */
#define TRUING_FINISH_GUARDED 11

/**
 * Text was released: valid UTF-8, never taken back.
 */
#define TRUING_EVENT_TEXT 1

/**
 * The answer ended; nothing follows.
 */
#define TRUING_EVENT_DONE 2

/**
 * `truing_generate_options.flags`: `seed` counts.
 */
#define TRUING_GENERATE_SEED 1

/**
 * `truing_generate_options.flags`: the model may not end by itself.
 */
#define TRUING_GENERATE_IGNORE_EOS 2

/**
 * `truing_generate_options.flags`: control tokens are shown in the text.
 */
#define TRUING_GENERATE_SHOW_SPECIAL 4

/**
 * `truing_probe_info.position`: it reads the last token of the prompt.
 */
#define TRUING_PROBE_PROMPT 0

/**
 * `truing_probe_info.position`: it reads every token of the answer.
 */
#define TRUING_PROBE_RESPONSE 1

/**
 * `truing_probe_info.position`: it reads the last token of an assistant's header put behind the answer.
 */
#define TRUING_PROBE_HEADER 2

/**
 * A way to cancel a session that may outlive it. Const: any number of threads may use it.
 */
typedef struct truing_cancel truing_cancel;

/**
 * Room for keys and values, and the threads that compute with one model. Sessions share it: one call at a time over
 * all of them, others get TRUING_E_BUSY. Sessions keep what they need of it, so it may be freed before them. For
 * generations that run at the same time make a context for each.
 */
typedef struct truing_context truing_context;

/**
 * An opened model. Const: any number of threads may use it at once. Contexts keep what they need of it, so it may be
 * freed before them.
 */
typedef struct truing_model truing_model;

/**
 * A trained reader of one model's hidden states. Const: any number of threads may use it at once. It keeps what it
 * needs of its model, which may be freed before it.
 */
typedef struct truing_probe truing_probe;

/**
 * Text that grows by turns: tokens, their keys and values, and the profile that answers are made under. One thread at
 * a time, except for truing_session_cancel. A call that finds it (or its context) in use returns TRUING_E_BUSY.
 */
typedef struct truing_session truing_session;

/**
 * What a call returns: `TRUING_OK` or one of `TRUING_E_…`. Numbers never change their meaning and are never used
 * again; new ones may come.
 */
typedef int32_t truing_status;

/**
 * Takes a message. `level`: `TRUING_LOG_…`; `text`: `len` bytes of UTF-8 without a zero, valid during the call.
 * Called on the thread that made the call which has something to say, while that call runs.
 */
typedef void (*truing_log_fn)(void *user_data, uint32_t level, const char *text, size_t len);

/**
 * How to open a model. Set `struct_size` to `sizeof(truing_model_options)` and everything else to zero.
 */
typedef struct truing_model_options {
    /**
     * `sizeof(truing_model_options)`.
     */
    size_t struct_size;
    /**
     * Takes messages of the model and of all that is made of it; may be NULL.
     */
    truing_log_fn log;
    /**
     * Handed to `log`.
     */
    void *log_user_data;
} truing_model_options;

/**
 * Reads `n` bytes of a model from `offset` on into `to`. Returns 0, or anything else if that failed. Called on the
 * opening thread, in order, before truing_model_open_read returns, never after.
 */
typedef int32_t (*truing_read_fn)(void *user_data, uint64_t offset, void *to, size_t n);

/**
 * Sizes of a model. Set `struct_size` before the call.
 */
typedef struct truing_model_sizes {
    /**
     * `sizeof(truing_model_sizes)`.
     */
    size_t struct_size;
    /**
     * Tokens of the vocabulary: length of a row of logits.
     */
    size_t n_vocab;
    /**
     * Width of a hidden state: length of an embedding.
     */
    size_t n_embd;
    /**
     * Layers.
     */
    size_t n_layer;
    /**
     * Context the model was trained for, in tokens; 0 if the file does not say.
     */
    size_t n_ctx_train;
    /**
     * Bytes of the model file, all parts together. Mapped ones are no private memory.
     */
    uint64_t file_bytes;
} truing_model_sizes;

/**
 * Tokens with a role; TRUING_NO_TOKEN for those the model lacks. Set `struct_size` before the call.
 */
typedef struct truing_special_tokens {
    /**
     * `sizeof(truing_special_tokens)`.
     */
    size_t struct_size;
    /**
     * Begin of text.
     */
    uint32_t bos;
    /**
     * End of text.
     */
    uint32_t eos;
    /**
     * End of turn.
     */
    uint32_t eot;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
} truing_special_tokens;

/**
 * How messages become a prompt. Set `struct_size` and everything else to zero.
 */
typedef struct truing_chat_options {
    /**
     * `sizeof(truing_chat_options)`.
     */
    size_t struct_size;
    /**
     * A chat template (Jinja) instead of the model's; NULL: the model's.
     */
    const char *chat_template;
    /**
     * Bytes of `chat_template`, or TRUING_CSTR.
     */
    size_t chat_template_len;
    /**
     * Variables for the template as a JSON object; NULL: none. `tools`, `documents`, `enable_thinking` and
     * `add_generation_prompt` (default true) are known to most templates.
     */
    const char *variables_json;
    /**
     * Bytes of `variables_json`, or TRUING_CSTR.
     */
    size_t variables_json_len;
    /**
     * TRUING_TOKENIZE_SPECIAL: control tokens that the messages spell are meant. Otherwise they stay text.
     */
    uint32_t flags;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
} truing_chat_options;

/**
 * How a context is made. Set `struct_size` and everything else to zero for the defaults named.
 */
typedef struct truing_context_options {
    /**
     * `sizeof(truing_context_options)`.
     */
    size_t struct_size;
    /**
     * Most tokens of a session; 0: what the model was trained for, at most 4096.
     */
    size_t n_ctx;
    /**
     * Tokens that all sessions (and the texts a search keeps side by side) may hold together, counting what they
     * share once; 0: `n_ctx`. Memory is touched only as it is used.
     */
    size_t n_kv_tokens;
    /**
     * Threads that compute; 0: one for each physical core, of the fast kind where kinds differ.
     */
    size_t n_threads;
    /**
     * Most rows of one forward pass; 0: 512. Smaller takes less memory, larger evaluates prompts faster.
     */
    size_t max_rows;
    /**
     * TRUING_EXECUTOR_….
     */
    uint32_t executor;
    /**
     * TRUING_KV_….
     */
    uint32_t kv_type;
} truing_context_options;

/**
 * Memory of a context and of what it is made of. Set `struct_size` before the call.
 */
typedef struct truing_memory {
    /**
     * `sizeof(truing_memory)`.
     */
    size_t struct_size;
    /**
     * Bytes for keys and values; the system gives them as they are first used.
     */
    uint64_t kv_bytes;
    /**
     * Bytes for intermediate results.
     */
    uint64_t buffer_bytes;
    /**
     * Bytes of the model file: mapped, shared between processes, and dropped by the system when it needs room; for
     * a model opened from memory or through a callback, private.
     */
    uint64_t model_bytes;
    /**
     * Tokens for which there is room.
     */
    size_t n_kv_tokens;
    /**
     * Tokens for which there is room now.
     */
    size_t n_kv_tokens_free;
} truing_memory;

/**
 * How an embedding is made. Set `struct_size` and everything else to zero.
 */
typedef struct truing_embed_options {
    /**
     * `sizeof(truing_embed_options)`.
     */
    size_t struct_size;
    /**
     * TRUING_POOLING_….
     */
    uint32_t pooling;
    /**
     * Not 0: scaled to length 1.
     */
    uint32_t normalise;
    /**
     * TRUING_TOKENIZE_…, for the text.
     */
    uint32_t flags;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
} truing_embed_options;

/**
 * How a session is made. Set `struct_size` and everything else to zero.
 */
typedef struct truing_session_options {
    /**
     * `sizeof(truing_session_options)`.
     */
    size_t struct_size;
    /**
     * Folder in which files that the profile names are looked for (UTF-8); NULL: a profile that names files is
     * refused, and the library reads none.
     */
    const char *profile_folder;
    /**
     * Bytes of `profile_folder`, or TRUING_CSTR.
     */
    size_t profile_folder_len;
} truing_session_options;

/**
 * What happened during a generation. Lives during the callback.
 */
typedef struct truing_event {
    /**
     * Size of the struct in the library; may be larger than in this header.
     */
    size_t struct_size;
    /**
     * TRUING_EVENT_…. More kinds may come: ignore those you do not know.
     */
    uint32_t kind;
    /**
     * TRUING_EVENT_DONE: TRUING_FINISH_…; 0 otherwise.
     */
    int32_t finish;
    /**
     * TRUING_EVENT_TEXT: the text, `text_len` bytes without a zero. TRUING_EVENT_DONE: the whole text.
     */
    const char *text;
    /**
     * Bytes of `text`.
     */
    size_t text_len;
} truing_event;

/**
 * Takes an event. Returns 0 to go on, anything else to stop: then no other event comes, and truing_session_generate
 * returns TRUING_E_CANCELLED. Called on the thread that called truing_session_generate, between two tokens.
 *
 * It may use the model, and cancel; other calls on the session or its context return TRUING_E_BUSY. It must return:
 * no longjmp out of it, and a C++ exception that leaves it ends the process (truing.hpp catches and rethrows them).
 */
typedef int32_t (*truing_event_fn)(void *user_data, const struct truing_event *event);

/**
 * Changes logits before a token is drawn. `ids`: all `n` tokens so far; `logits`: `n_vocab` values (natural log,
 * unnormalised) to change in place; -INFINITY forbids a token. Constraints still hold afterwards. Returns 0 to go on,
 * anything else to stop with TRUING_E_CANCELLED. Rules as for truing_event_fn. It is called once for each place, also
 * for tokens that a constraint forces; NaN counts as forbidden.
 */
typedef int32_t (*truing_logits_fn)(void *user_data,
                                    const uint32_t *ids,
                                    size_t n,
                                    float *logits,
                                    size_t n_vocab);

/**
 * A text to score. Lives during the callback.
 */
typedef struct truing_candidate {
    /**
     * Size of the struct in the library; may be larger than in this header.
     */
    size_t struct_size;
    /**
     * What the user said last in truing_session_prompt_chat, `prompt_len` bytes; empty otherwise.
     */
    const char *prompt;
    /**
     * Bytes of `prompt`.
     */
    size_t prompt_len;
    /**
     * The text, `text_len` bytes of whole characters without a zero.
     */
    const char *text;
    /**
     * Bytes of `text`.
     */
    size_t text_len;
    /**
     * 1: nothing follows it. 0: it goes on.
     */
    int32_t is_closed;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
} truing_candidate;

/**
 * What a reward says of a text. Filled with what counts if the callback leaves it so.
 */
typedef struct truing_score {
    /**
     * Size of the struct in the library; may be larger than in this header.
     */
    size_t struct_size;
    /**
     * The reward; within the bounds of truing_reward. 0 at first.
     */
    double value;
    /**
     * No continuation of an open text has less; the reward's own bound at first. Not looked at for closed texts.
     */
    double least;
    /**
     * No continuation has more.
     */
    double most;
    /**
     * For `combine = "gate"`: 1 if the text does what is asked, 0 if not, -1 if what follows decides. Not looked at
     * otherwise. At first -1, which for a closed text stands for whether `value` is above 0.
     */
    int32_t satisfied;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
} truing_score;

/**
 * Scores a text; the same text must always get the same score. Returns 0 to go on, anything else to stop the search:
 * then truing_session_generate returns TRUING_E_CANCELLED. Rules as for truing_event_fn. A score that is no number or
 * outside its bounds ends the call with TRUING_E_REWARD.
 */
typedef int32_t (*truing_reward_fn)(void *user_data,
                                    const struct truing_candidate *candidate,
                                    struct truing_score *score);

/**
 * A reward of the caller's own, beside those of the profile. Set `struct_size` and everything else to zero.
 */
typedef struct truing_reward {
    /**
     * `sizeof(truing_reward)`.
     */
    size_t struct_size;
    /**
     * Scores a text; must be there.
     */
    truing_reward_fn score;
    /**
     * Handed to `score`.
     */
    void *user_data;
    /**
     * What it is called in reports (UTF-8); NULL: "custom".
     */
    const char *name;
    /**
     * Bytes of `name`, or TRUING_CSTR.
     */
    size_t name_len;
    /**
     * Its weight among several, below 0 to avoid what it rewards; 0: 1.
     */
    double weight;
    /**
     * No text has less; may be -INFINITY. `least` and `most` both 0: 0 and 1.
     */
    double least;
    /**
     * No text has more; may be INFINITY. Values between 0 and 1 are read as probabilities: a search that combines
     * rewards by "and", as it does with several if the profile says nothing, takes their logarithm.
     */
    double most;
    /**
     * The smallest difference that means something; 0: 1.
     */
    double step;
    /**
     * TRUING_REWARD_….
     */
    uint32_t flags;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
} truing_reward;

/**
 * What a guard is shown. Lives during the callback.
 */
typedef struct truing_guarded {
    /**
     * Size of the struct in the library; may be larger than in this header.
     */
    size_t struct_size;
    /**
     * The answer so far, `text_len` bytes without a zero: the last token may end within a character. Shorter than the
     * last time if text was taken back.
     */
    const char *text;
    /**
     * Bytes of `text`.
     */
    size_t text_len;
    /**
     * Where the last token begins in it.
     */
    size_t token_start;
    /**
     * Tokens of the answer.
     */
    size_t n_tokens;
    /**
     * The last token; TRUING_NO_TOKEN if there is none.
     */
    uint32_t token;
    /**
     * 1: the text ends here, and the last token was shown to the guard before. 0: a token was added.
     */
    int32_t is_end;
} truing_guarded;

/**
 * Judges an answer as it is made: called for every token, before it is shown, and once at the end. Returns a
 * TRUING_GUARD_…; `*from` is the first byte that is objected to, at first `token_start`. Any other value is a guard
 * that failed: nothing passes unjudged, the text is taken back and ends with the refusal. Rules as for
 * truing_event_fn.
 */
typedef int32_t (*truing_guard_fn)(void *user_data, const struct truing_guarded *guarded, size_t *from);

/**
 * A guard of the caller's own, beside those of the profile. Text is shown when all guards are clear of it and
 * `hold_tokens` of the profile (16) more tokens have come. Set `struct_size` and everything else to zero.
 */
typedef struct truing_guard {
    /**
     * `sizeof(truing_guard)`.
     */
    size_t struct_size;
    /**
     * Judges; must be there.
     */
    truing_guard_fn check;
    /**
     * Handed to `check`.
     */
    void *user_data;
    /**
     * What it is called in reports (UTF-8); NULL: "custom".
     */
    const char *name;
    /**
     * Bytes of `name`, or TRUING_CSTR.
     */
    size_t name_len;
    /**
     * What happens when it objects: TRUING_GUARD_BACKTRACK, TRUING_GUARD_REFUSE or TRUING_GUARD_STOP.
     */
    uint32_t action;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
} truing_guard;

/**
 * How to answer. Set `struct_size` and everything else to zero: then the profile decides.
 */
typedef struct truing_generate_options {
    /**
     * `sizeof(truing_generate_options)`.
     */
    size_t struct_size;
    /**
     * Takes events; may be NULL.
     */
    truing_event_fn on_event;
    /**
     * Changes logits; may be NULL. Not with a search or exact drawing: TRUING_E_UNSUPPORTED.
     */
    truing_logits_fn on_logits;
    /**
     * Handed to the callbacks.
     */
    void *user_data;
    /**
     * Seed of the draws, with TRUING_GENERATE_SEED.
     */
    uint64_t seed;
    /**
     * Most tokens of the answer; 0: the profile's `limits.max_tokens`.
     */
    uint64_t max_tokens;
    /**
     * Milliseconds after which the call stops with TRUING_E_DEADLINE; 0: none.
     */
    uint64_t deadline_ms;
    /**
     * TRUING_GENERATE_….
     */
    uint32_t flags;
    /**
     * 0; kept free.
     */
    uint32_t reserved;
    /**
     * `n_rewards` pointers to rewards beside those of the profile; its `search.method` must be one that looks for
     * rewards, TRUING_E_UNSUPPORTED otherwise. May be NULL if `n_rewards` is 0.
     */
    const struct truing_reward *const *rewards;
    /**
     * How many.
     */
    size_t n_rewards;
    /**
     * `n_guards` pointers to guards beside those of the profile, asked in order; the first objection counts. Not with
     * a search or exact drawing: TRUING_E_UNSUPPORTED. Bounds of guarded requests hold: temperature at most 1,
     * `top_p` at least 0.5, no TRUING_GENERATE_IGNORE_EOS. May be NULL if `n_guards` is 0.
     */
    const struct truing_guard *const *guards;
    /**
     * How many.
     */
    size_t n_guards;
} truing_generate_options;

/**
 * What an answer was. Set `struct_size` before the call. The report (truing_session_report) says more.
 */
typedef struct truing_result {
    /**
     * `sizeof(truing_result)`.
     */
    size_t struct_size;
    /**
     * TRUING_FINISH_….
     */
    int32_t finish;
    /**
     * 1: the text satisfies the constraints; 0: it does not; -1: there are none.
     */
    int32_t satisfied;
    /**
     * Tokens of the prompt.
     */
    size_t n_prompt;
    /**
     * Prompt tokens whose keys and values were there already.
     */
    size_t n_cached;
    /**
     * Tokens of the answer.
     */
    size_t n_generated;
    /**
     * Bytes of the text.
     */
    size_t text_len;
    /**
     * Log-probability (natural) of the answer under the model's own distribution.
     */
    double logprob;
    /**
     * Seconds for the prompt.
     */
    double prefill_s;
    /**
     * Seconds for the answer.
     */
    double decode_s;
} truing_result;

/**
 * What a probe is. Set `struct_size` before the call.
 */
typedef struct truing_probe_info {
    /**
     * `sizeof(truing_probe_info)`.
     */
    size_t struct_size;
    /**
     * TRUING_PROBE_…: which token's hidden states it reads.
     */
    uint32_t position;
    /**
     * Layers it reads.
     */
    uint32_t n_layers;
    /**
     * From here on a score is suspicious.
     */
    float threshold_low;
    /**
     * Above this a guard acts.
     */
    float threshold_high;
    /**
     * Area under the curve of hits against false alarms, on examples that it was not trained with.
     */
    float auroc;
    /**
     * Hits at 1 % false alarms, 0 to 1.
     */
    float hits_at_1_percent;
} truing_probe_info;

/**
 * Done.
 */
#define TRUING_OK 0

/**
 * An argument is outside its documented range, or a pointer is NULL that must not be.
 */
#define TRUING_E_INVALID_ARGUMENT 1

/**
 * Reading or writing failed.
 */
#define TRUING_E_IO 2

/**
 * A model or saved session is damaged or not what it claims to be.
 */
#define TRUING_E_BAD_FILE 3

/**
 * Sound, but asks for something that this build does not do.
 */
#define TRUING_E_UNSUPPORTED 4

/**
 * The tokens do not fit the context.
 */
#define TRUING_E_CONTEXT_FULL 5

/**
 * No key-value page is left: the context needs more `n_kv_tokens`.
 */
#define TRUING_E_KV_EXHAUSTED 6

/**
 * Memory could not be had.
 */
#define TRUING_E_OUT_OF_MEMORY 7

/**
 * Two parts that must share a vocabulary or model do not.
 */
#define TRUING_E_VOCAB_MISMATCH 8

/**
 * The text cannot be written with this vocabulary.
 */
#define TRUING_E_UNENCODABLE 9

/**
 * A chat template is missing, or refuses the messages.
 */
#define TRUING_E_TEMPLATE 10

/**
 * A profile is malformed or contradicts itself.
 */
#define TRUING_E_BAD_PROFILE 11

/**
 * A constraint cannot be satisfied.
 */
#define TRUING_E_UNSATISFIABLE 12

/**
 * A constraint needs more states, memory or draws than allowed.
 */
#define TRUING_E_TOO_COMPLEX 13

/**
 * Cancelled, by a cancel request or a callback that returned non-zero.
 */
#define TRUING_E_CANCELLED 14

/**
 * The executor failed.
 */
#define TRUING_E_BACKEND 15

/**
 * A bug in truing: an invariant did not hold.
 */
#define TRUING_E_INTERNAL 16

/**
 * A reward is no number, or outside its bounds.
 */
#define TRUING_E_REWARD 17

/**
 * A probe was made for another model, chat template or shape.
 */
#define TRUING_E_PROBE_MISMATCH 18

/**
 * Too few examples to set a threshold with.
 */
#define TRUING_E_CALIBRATION_TOO_SMALL 19

/**
 * Nothing that was tried helps.
 */
#define TRUING_E_NO_USEFUL_REGIME 20

/**
 * The handle, or the context behind it, is in use by another call: of another thread, or of a callback's caller.
 */
#define TRUING_E_BUSY 64

/**
 * The pointer is no handle of this type, or one that was freed.
 */
#define TRUING_E_BAD_HANDLE 65

/**
 * The handle failed in an earlier call (`TRUING_E_PANIC`); all it is good for is to be freed.
 */
#define TRUING_E_POISONED 66

/**
 * A bug in truing was caught at the border; the handle is poisoned.
 */
#define TRUING_E_PANIC 67

/**
 * The buffer is too small; the length it needs was written.
 */
#define TRUING_E_BUFFER_TOO_SMALL 68

/**
 * The text is not UTF-8.
 */
#define TRUING_E_BAD_UTF8 69

/**
 * `struct_size` is smaller than the first version of the struct, or bytes behind what this version knows are set.
 */
#define TRUING_E_STRUCT_SIZE 70

/**
 * The deadline passed; what was generated stands.
 */
#define TRUING_E_DEADLINE 71

/**
 * There is nothing of this name or index.
 */
#define TRUING_E_NOT_FOUND 72

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Copies the text of the last failed call of this thread, with a terminating zero, into `buf` of `cap` bytes; cut
 * off if it is longer. Returns the length of the whole text without the zero: 0 if no call has failed. Never fails
 * and changes nothing; `buf` may be NULL if `cap` is 0. Calls that succeed leave the text as it is.
 */
size_t truing_last_error(char *buf,
                         size_t cap);

/**
 * The name of a status, such as "TRUING_E_IO"; "unknown status" for a number that is none. Lives for ever.
 */
const char *truing_status_name(truing_status status);

/**
 * Version of the library, as `TRUING_VERSION`.
 */
uint32_t truing_version(void);

/**
 * Version of the library as text, such as "0.1.0". Lives for ever.
 */
const char *truing_version_string(void);

/**
 * Whether the library was built with a feature: "native" (own kernels), "ggml" (all types of tensors), "vulkan",
 * "metal". 1 or 0; 0 for names it does not know.
 */
int32_t truing_has_feature(const char *name,
                           size_t len);

/**
 * What the library is as JSON: `version`, `features`, `instruction_sets` (those of this processor that it has
 * kernels for, the best last), `architectures`. As for all texts: `*len_out` (may be NULL) gets the length without
 * the zero, also with TRUING_E_BUFFER_TOO_SMALL.
 */
int32_t truing_build_info(char *buf,
                          size_t cap,
                          size_t *len_out);

/**
 * Opens the GGUF file at `path` (UTF-8); of a split model, any part. The file is mapped, not read: opening takes
 * milliseconds, and the file must not be written to or cut while the model lives.
 *
 * `path_len`: bytes, or TRUING_CSTR. `options` may be NULL. `*out`: the model, to be freed with truing_model_free.
 */
truing_status truing_model_open(const char *path,
                                size_t path_len,
                                const struct truing_model_options *options,
                                struct truing_model **out);

/**
 * Opens a model that lies in an open file: `len` bytes from `offset` on, a multiple of 4 (an uncompressed Android
 * asset: AAsset_openFileDescriptor64 gives all three). It is mapped; `fd` stays the caller's and may be closed as
 * soon as the call returns. Not on Windows: TRUING_E_UNSUPPORTED.
 */
truing_status truing_model_open_fd(int32_t fd,
                                   uint64_t offset,
                                   uint64_t len,
                                   const struct truing_model_options *options,
                                   struct truing_model **out);

/**
 * Opens a model that lies in memory. The bytes are copied once; the caller's may go as soon as the call returns.
 */
truing_status truing_model_open_memory(const void *data,
                                       size_t len,
                                       const struct truing_model_options *options,
                                       struct truing_model **out);

/**
 * Opens a model of `len` bytes that `read` delivers, from an archive, a network, an encrypted store. All of it is
 * read into memory that the model owns, by a megabyte or less at a time: weights must lie still and at hand.
 */
truing_status truing_model_open_read(truing_read_fn read,
                                     void *user_data,
                                     uint64_t len,
                                     const struct truing_model_options *options,
                                     struct truing_model **out);

/**
 * Frees a model; NULL is fine. Contexts made of it go on.
 */
void truing_model_free(struct truing_model *model);

/**
 * Sizes of the model into `*sizes`.
 */
truing_status truing_model_get_sizes(const struct truing_model *model, struct truing_model_sizes *sizes);

/**
 * Identity of the model file: a hash of its header in lower-case hex, 64 characters. The same for the same file
 * wherever it lies; saved sessions are bound to it.
 */
truing_status truing_model_id(const struct truing_model *model,
                              char *buf,
                              size_t cap,
                              size_t *len_out);

/**
 * A value of the model's metadata as JSON: a number, true, false, a string, or for arrays
 * `{"type": "string", "n": 49152}` with the first 16 values in `"first"`. Bytes that are no UTF-8 become U+FFFD.
 * TRUING_E_NOT_FOUND if there is no such key.
 */
truing_status truing_model_metadata(const struct truing_model *model,
                                    const char *key,
                                    size_t key_len,
                                    char *buf,
                                    size_t cap,
                                    size_t *len_out);

/**
 * Name of metadata entry `index`, in the order of the file; TRUING_E_NOT_FOUND behind the last.
 */
truing_status truing_model_metadata_key(const struct truing_model *model,
                                        size_t index,
                                        char *buf,
                                        size_t cap,
                                        size_t *len_out);

/**
 * Token ids of a text. `flags`: TRUING_TOKENIZE_… or 0. `*n_out` (may be NULL) gets the number of ids, also with
 * TRUING_E_BUFFER_TOO_SMALL, which a call with `cap` 0 gives on purpose; the text never has more ids than bytes
 * plus 2. Bytes that the vocabulary cannot write are left out and told to the model's log.
 */
truing_status truing_tokenize(const struct truing_model *model,
                              const char *data,
                              size_t len,
                              uint32_t flags,
                              uint32_t *ids,
                              size_t cap,
                              size_t *n_out);

/**
 * Text of token ids: bytes, not always UTF-8, because a token may end within a character. `flags`:
 * TRUING_DETOKENIZE_… or 0. `*len_out` (may be NULL) gets the number of bytes, also with
 * TRUING_E_BUFFER_TOO_SMALL.
 */
truing_status truing_detokenize(const struct truing_model *model,
                                const uint32_t *ids,
                                size_t n,
                                uint32_t flags,
                                char *buf,
                                size_t cap,
                                size_t *len_out);

/**
 * Bytes that one token adds to a text; none for control tokens.
 */
truing_status truing_token_bytes(const struct truing_model *model,
                                 uint32_t id,
                                 char *buf,
                                 size_t cap,
                                 size_t *len_out);

/**
 * The model's tokens with a role into `*tokens`.
 */
truing_status truing_model_get_special_tokens(const struct truing_model *model,
                                              struct truing_special_tokens *tokens);

/**
 * Whether the token ends a text or turn, into `*is_end`: 1 or 0.
 */
truing_status truing_token_is_end(const struct truing_model *model, uint32_t id, int32_t *is_end);

/**
 * The text that the chat template makes of messages, a JSON array of objects with "role" and "content". For looking
 * at: as a prompt use truing_session_prompt_chat, which keeps what users wrote apart from control tokens.
 */
truing_status truing_chat_render(const struct truing_model *model,
                                 const char *messages,
                                 size_t messages_len,
                                 const struct truing_chat_options *options,
                                 char *buf,
                                 size_t cap,
                                 size_t *len_out);

/**
 * The token ids of a conversation that the model is to continue; as truing_chat_render, but ids. `*n_out` as for
 * truing_tokenize.
 */
truing_status truing_chat_tokenize(const struct truing_model *model,
                                   const char *messages,
                                   size_t messages_len,
                                   const struct truing_chat_options *options,
                                   uint32_t *ids,
                                   size_t cap,
                                   size_t *n_out);

/**
 * Makes a context. `options` may be NULL. `*out`: to be freed with truing_context_free.
 */
truing_status truing_context_new(const struct truing_model *model,
                                 const struct truing_context_options *options,
                                 struct truing_context **out);

/**
 * Frees a context; NULL is fine. Its memory goes with its last session. Refused (the handle lives on, and
 * truing_last_error says so) when called from a callback of a call that uses the context.
 */
void truing_context_free(struct truing_context *context);

/**
 * Memory of the context into `*memory`.
 */
truing_status truing_context_get_memory(struct truing_context *context, struct truing_memory *memory);

/**
 * The embedding of a text: hidden states behind the last layer and the output norm, made one by `options->pooling`
 * (`options` NULL: what the model declares). `values` gets `n` floats; `n` must be the model's `n_embd`.
 */
truing_status truing_context_embed(struct truing_context *context,
                                   const char *data,
                                   size_t len,
                                   const struct truing_embed_options *options,
                                   float *values,
                                   size_t n);

/**
 * As truing_context_embed, of token ids.
 */
truing_status truing_context_embed_tokens(struct truing_context *context,
                                          const uint32_t *ids,
                                          size_t n_ids,
                                          const struct truing_embed_options *options,
                                          float *values,
                                          size_t n);

/**
 * Makes an empty session. `profile`: TOML, or JSON if it begins with `{`; NULL: llama.cpp's sampling defaults, seed 0,
 * no constraint. Everything in a profile is described in the project's README. The seed is the profile's; the same
 * seed gives the same text. `options` may be NULL. `*out`: to be freed with truing_session_free.
 *
 * Constraints need the vocabulary in another form: 10 to 100 ms, once a model, at the first session that has some.
 * A search (`search.method`) or exact drawing keeps texts side by side: give the context `n_kv_tokens` for them.
 */
truing_status truing_session_new(struct truing_context *context,
                                 const char *profile,
                                 size_t profile_len,
                                 const struct truing_session_options *options,
                                 struct truing_session **out);

/**
 * Frees a session; NULL is fine. Refused (the handle lives on, and truing_last_error says so) when called from a
 * callback of the session's own call.
 */
void truing_session_free(struct truing_session *session);

/**
 * Gives the session another profile; tokens stay. On failure the old one stays.
 */
truing_status truing_session_set_profile(struct truing_session *session,
                                         const char *profile,
                                         size_t profile_len,
                                         const struct truing_session_options *options);

/**
 * Appends `n` tokens. Nothing is computed yet: that happens when it is needed, or with truing_session_prefill.
 * `ids` is read during the call, and may be NULL if `n` is 0. TRUING_E_CONTEXT_FULL if they do not fit,
 * TRUING_E_INVALID_ARGUMENT for ids that are no tokens; nothing changed then.
 */
truing_status truing_session_feed(struct truing_session *session,
                                  const uint32_t *ids,
                                  size_t n);

/**
 * Appends a text, as it is: no chat template. `flags`: TRUING_TOKENIZE_… or 0. As truing_session_feed.
 */
truing_status truing_session_feed_text(struct truing_session *session,
                                       const char *data,
                                       size_t len,
                                       uint32_t flags);

/**
 * Makes the session hold exactly these tokens, keeping the keys and values of what it already holds of their
 * beginning. As truing_session_feed.
 */
truing_status truing_session_prompt(struct truing_session *session, const uint32_t *ids, size_t n);

/**
 * Makes the session hold exactly the prompt of a conversation, keeping the keys and values of what it already holds
 * of its beginning: give all messages each turn, only what is new is computed. `messages`: a JSON array of objects
 * with "role" and "content" (and what else the template knows). The profile's system message goes first if the
 * messages begin with none. What users wrote never becomes a control token. `options` may be NULL.
 */
truing_status truing_session_prompt_chat(struct truing_session *session,
                                         const char *messages,
                                         size_t messages_len,
                                         const struct truing_chat_options *options);

/**
 * Cuts the session to its first `n` tokens.
 */
truing_status truing_session_truncate(struct truing_session *session, size_t n);

/**
 * Computes keys and values of all tokens but the last, so that an answer begins sooner.
 */
truing_status truing_session_prefill(struct truing_session *session);

/**
 * All tokens of the session: prompts and answers. `*n_out` (may be NULL) gets their number, also with
 * TRUING_E_BUFFER_TOO_SMALL.
 */
truing_status truing_session_tokens(struct truing_session *session, uint32_t *ids, size_t cap, size_t *n_out);

/**
 * Logits of the token after the last one (natural log, unnormalised), one for each token of the vocabulary; computes
 * what has to be computed. `*n_out` (may be NULL) gets their number, also with TRUING_E_BUFFER_TOO_SMALL, in which case nothing
 * is computed.
 */
truing_status truing_session_logits(struct truing_session *session,
                                    float *logits,
                                    size_t cap,
                                    size_t *n_out);

/**
 * Text of the last answer, valid UTF-8; TRUING_E_NOT_FOUND before the first.
 */
truing_status truing_session_text(struct truing_session *session, char *buf, size_t cap, size_t *len_out);

/**
 * Report of the last answer as JSON: why it ended, counts, log-probability, how it relates to the model's own
 * distribution, what became of each constraint, times. TRUING_E_NOT_FOUND before the first answer.
 */
truing_status truing_session_report(struct truing_session *session, char *buf, size_t cap, size_t *len_out);

/**
 * Asks the session's running call to stop, within one layer's time; with none running, the next one. From any
 * thread, also from a callback or a signal handler. The call returns TRUING_E_CANCELLED, which uses the request up.
 * The session must not be freed meanwhile; where that cannot be sure, use a truing_cancel.
 */
truing_status truing_session_cancel(const struct truing_session *session);

/**
 * Makes a handle that cancels the session's calls. `*out`: to be freed with truing_cancel_free, before or after the
 * session.
 */
truing_status truing_cancel_new(const struct truing_session *session,
                                struct truing_cancel **out);

/**
 * As truing_session_cancel; does nothing if the session is gone.
 */
truing_status truing_cancel_request(const struct truing_cancel *cancel);

/**
 * Frees a cancel handle; NULL is fine.
 */
void truing_cancel_free(struct truing_cancel *cancel);

/**
 * Answers: continues the session's tokens under its profile and appends the answer's. Needs at least one token.
 *
 * `options` and `result` may be NULL. TRUING_OK when the answer ended by itself or a limit, see `result->finish`; TRUING_E_CANCELLED
 * and TRUING_E_DEADLINE when it was stopped: what was generated stands, and `result`, text and report are there, unless
 * the profile asks for a search or exact drawing, which have nothing to show before they end.
 * TRUING_E_UNSATISFIABLE before anything is computed if no text within the limits satisfies the constraints.
 * On other failures the session's tokens are as before. Nothing is allocated for a token.
 */
truing_status truing_session_generate(struct truing_session *session,
                                      const struct truing_generate_options *options,
                                      struct truing_result *result);

/**
 * Opens a probe file (as `truing probe train` writes it) for `model`. TRUING_E_PROBE_MISMATCH if it was made for
 * another model, quantisation or chat template. `*out`: to be freed with truing_probe_free.
 */
truing_status truing_probe_open(const struct truing_model *model,
                                const char *path,
                                size_t path_len,
                                struct truing_probe **out);

/**
 * As truing_probe_open, of `len` bytes in memory, which are copied.
 */
truing_status truing_probe_open_memory(const struct truing_model *model,
                                       const void *data,
                                       size_t len,
                                       struct truing_probe **out);

/**
 * Frees a probe; NULL is fine.
 */
void truing_probe_free(struct truing_probe *probe);

/**
 * What the probe is, into `*info`.
 */
truing_status truing_probe_get_info(const struct truing_probe *probe, struct truing_probe_info *info);

/**
 * Scores of a prompt and its answer (log-odds, as they are: above `threshold_high` a guard acts). `ids`: `n` tokens,
 * the first `n_prompt` of which (at least one) are the prompt, as truing_chat_tokenize gives it. A prompt probe gives
 * one score and does not look at the answer, a header probe one for all of it, a response probe one for each token of
 * the answer. `*n_out` (may be NULL) gets their number, also with TRUING_E_BUFFER_TOO_SMALL, in which case nothing
 * is computed. TRUING_E_VOCAB_MISMATCH if the context is of another model.
 */
truing_status truing_context_probe(struct truing_context *context,
                                   const struct truing_probe *probe,
                                   const uint32_t *ids,
                                   size_t n,
                                   size_t n_prompt,
                                   float *scores,
                                   size_t cap,
                                   size_t *n_out);

/**
 * The score of the session's last token into `*score`: of the prompt that stands there, or of the answer so far.
 * Computes what has to be computed; what is there already is not computed again. Not for header probes:
 * TRUING_E_UNSUPPORTED.
 */
truing_status truing_session_probe(struct truing_session *session,
                                   const struct truing_probe *probe,
                                   float *score);

/**
 * Saves the session's tokens to a buffer, with the identity of the model and a checksum: `*len_out` (may be NULL) gets
 * the number of bytes, also with TRUING_E_BUFFER_TOO_SMALL. Keys and values are not saved but computed again when
 * they are needed; profile, text and report of the last answer are not saved.
 */
truing_status truing_session_save(struct truing_session *session,
                                  void *buf,
                                  size_t cap,
                                  size_t *len_out);

/**
 * Makes the session hold the tokens that were saved. TRUING_E_BAD_FILE for bytes that are no saved session, of another
 * version, or damaged; TRUING_E_VOCAB_MISMATCH if another model saved them; TRUING_E_CONTEXT_FULL if they do not fit:
 * nothing changed then.
 */
truing_status truing_session_restore(struct truing_session *session,
                                     const void *data,
                                     size_t len);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TRUING_H */
