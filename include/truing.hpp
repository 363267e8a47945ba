/* truing for C++11: the C interface with owners, exceptions and std::string. Header only; see truing.h for what every
 * call means, and for threads.
 *
 *     truing::model model("model.gguf");
 *     truing::context context(model);
 *     truing::session session(context, "[limits]\nmax_tokens = 64");
 *     session.prompt_chat("[{\"role\": \"user\", \"content\": \"Hi!\"}]");
 *     session.generate([](const std::string &text) { std::cout << text; return true; });
 *
 * Owners can be moved, not copied. A failure throws truing::error; an exception that leaves a callback passes through
 * generate() as it is: it is caught before the library's frames and thrown again behind them.
 */
#ifndef TRUING_HPP
#define TRUING_HPP

#include "truing.h"

#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace truing {

/* A failed call: its status, and the text of truing_last_error. */
class error : public std::runtime_error {
public:
    error(truing_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
    truing_status status() const noexcept { return status_; }

private:
    truing_status status_;
};

inline std::string last_error() {
    std::string text(truing_last_error(nullptr, 0) + 1, '\0');
    text.resize(truing_last_error(&text[0], text.size()));
    return text;
}

inline void check(truing_status status) {
    if (status != TRUING_OK) throw error(status, std::string(truing_status_name(status)) + ": " + last_error());
}

/* The text of a call that fills a buffer: asked for its length first. */
template <class Call> std::string text_of(Call call) {
    std::size_t len = 0;
    truing_status status = call(nullptr, std::size_t(0), &len);
    if (status == TRUING_OK) return std::string();
    if (status != TRUING_E_BUFFER_TOO_SMALL) check(status);
    std::string text(len + 1, '\0');
    check(call(&text[0], text.size(), &len));
    text.resize(len);
    return text;
}

/* The ids of a call that fills a buffer. */
template <class Call> std::vector<uint32_t> ids_of(Call call) {
    std::size_t n = 0;
    truing_status status = call(nullptr, std::size_t(0), &n);
    if (status == TRUING_OK) return std::vector<uint32_t>();
    if (status != TRUING_E_BUFFER_TOO_SMALL) check(status);
    std::vector<uint32_t> ids(n);
    check(call(ids.data(), ids.size(), &n));
    ids.resize(n);
    return ids;
}

class model {
public:
    explicit model(const std::string &path, const truing_model_options *options = nullptr) {
        truing_model *opened = nullptr;
        check(truing_model_open(path.data(), path.size(), options, &opened));
        own_.reset(opened);
    }
    static model from_memory(const void *data, std::size_t len, const truing_model_options *options = nullptr) {
        truing_model *opened = nullptr;
        check(truing_model_open_memory(data, len, options, &opened));
        return model(opened);
    }
    static model from_fd(int fd, uint64_t offset, uint64_t len, const truing_model_options *options = nullptr) {
        truing_model *opened = nullptr;
        check(truing_model_open_fd(fd, offset, len, options, &opened));
        return model(opened);
    }

    const truing_model *get() const noexcept { return own_.get(); }

    truing_model_sizes sizes() const {
        truing_model_sizes sizes = truing_model_sizes();
        sizes.struct_size = sizeof sizes;
        check(truing_model_get_sizes(get(), &sizes));
        return sizes;
    }
    std::string metadata(const std::string &key) const {
        return text_of([&](char *buf, std::size_t cap, std::size_t *len) {
            return truing_model_metadata(get(), key.data(), key.size(), buf, cap, len);
        });
    }
    std::vector<uint32_t> tokenize(const std::string &text, uint32_t flags = 0) const {
        return ids_of([&](uint32_t *ids, std::size_t cap, std::size_t *n) {
            return truing_tokenize(get(), text.data(), text.size(), flags, ids, cap, n);
        });
    }
    std::string detokenize(const std::vector<uint32_t> &ids, uint32_t flags = 0) const {
        return text_of([&](char *buf, std::size_t cap, std::size_t *len) {
            return truing_detokenize(get(), ids.data(), ids.size(), flags, buf, cap, len);
        });
    }

private:
    struct freed {
        void operator()(truing_model *m) const noexcept { truing_model_free(m); }
    };
    explicit model(truing_model *opened) : own_(opened) {}
    std::unique_ptr<truing_model, freed> own_;
};

class context {
public:
    explicit context(const model &model, const truing_context_options *options = nullptr) {
        truing_context *made = nullptr;
        check(truing_context_new(model.get(), options, &made));
        own_.reset(made);
    }

    truing_context *get() const noexcept { return own_.get(); }

    truing_memory memory() const {
        truing_memory memory = truing_memory();
        memory.struct_size = sizeof memory;
        check(truing_context_get_memory(get(), &memory));
        return memory;
    }
    /* n_embd: model.sizes().n_embd */
    std::vector<float> embed(const std::string &text, std::size_t n_embd, uint32_t pooling = TRUING_POOLING_MEAN) const {
        truing_embed_options options = truing_embed_options();
        options.struct_size = sizeof options;
        options.pooling = pooling;
        options.normalise = 1;
        std::vector<float> values(n_embd);
        check(truing_context_embed(get(), text.data(), text.size(), &options, values.data(), values.size()));
        return values;
    }

private:
    struct freed {
        void operator()(truing_context *c) const noexcept { truing_context_free(c); }
    };
    std::unique_ptr<truing_context, freed> own_;
};

/* Takes a piece of text; false stops the generation. */
typedef std::function<bool(const std::string &text)> on_text;

/* A trained reader of a model's hidden states. */
class probe {
public:
    probe(const model &model, const std::string &path) {
        truing_probe *opened = nullptr;
        check(truing_probe_open(model.get(), path.data(), path.size(), &opened));
        own_.reset(opened);
    }

    const truing_probe *get() const noexcept { return own_.get(); }

    truing_probe_info info() const {
        truing_probe_info info = truing_probe_info();
        info.struct_size = sizeof info;
        check(truing_probe_get_info(get(), &info));
        return info;
    }
    /* Of a prompt, and of the answer behind its first `n_prompt` tokens. */
    std::vector<float> scores(const context &context, const std::vector<uint32_t> &ids, std::size_t n_prompt) const {
        std::size_t n = 0;
        std::vector<float> scores(ids.size() < n_prompt ? 1 : ids.size() - n_prompt + 1);
        check(truing_context_probe(context.get(), get(), ids.data(), ids.size(), n_prompt, scores.data(),
                                   scores.size(), &n));
        scores.resize(n);
        return scores;
    }

private:
    struct freed {
        void operator()(truing_probe *p) const noexcept { truing_probe_free(p); }
    };
    std::unique_ptr<truing_probe, freed> own_;
};

/* A reward: a name, a function that scores a text (true: nothing follows it), and the bounds of its scores. */
struct reward {
    std::string name;
    std::function<double(const std::string &text, bool is_closed)> score;
    double least, most, weight;

    reward(std::string name, std::function<double(const std::string &, bool)> score, double least = 0,
           double most = 1, double weight = 1)
        : name(std::move(name)), score(std::move(score)), least(least), most(most), weight(weight) {}
};

/* A guard: a name, a function that judges the answer so far, and what happens when it objects (TRUING_GUARD_...). The
 * function gets the text (bytes) and whether it ends there; it returns npos for nothing to object to, or the first
 * byte that it objects to. */
struct guard {
    static constexpr std::size_t npos = static_cast<std::size_t>(-1);
    std::string name;
    std::function<std::size_t(const std::string &text, bool is_end)> check;
    uint32_t action;

    guard(std::string name, std::function<std::size_t(const std::string &, bool)> check,
          uint32_t action = TRUING_GUARD_BACKTRACK)
        : name(std::move(name)), check(std::move(check)), action(action) {}
};

class session {
public:
    explicit session(const context &context, const std::string &profile = std::string()) {
        truing_session *made = nullptr;
        check(truing_session_new(context.get(), profile.data(), profile.size(), nullptr, &made));
        own_.reset(made);
    }

    truing_session *get() const noexcept { return own_.get(); }

    void set_profile(const std::string &profile) {
        check(truing_session_set_profile(get(), profile.data(), profile.size(), nullptr));
    }
    void feed(const std::vector<uint32_t> &ids) { check(truing_session_feed(get(), ids.data(), ids.size())); }
    void feed(const std::string &text, uint32_t flags = 0) {
        check(truing_session_feed_text(get(), text.data(), text.size(), flags));
    }
    void prompt_chat(const std::string &messages) {
        check(truing_session_prompt_chat(get(), messages.data(), messages.size(), nullptr));
    }
    std::vector<uint32_t> tokens() const {
        return ids_of([&](uint32_t *ids, std::size_t cap, std::size_t *n) {
            return truing_session_tokens(get(), ids, cap, n);
        });
    }
    std::string text() const {
        return text_of([&](char *buf, std::size_t cap, std::size_t *len) {
            return truing_session_text(get(), buf, cap, len);
        });
    }
    std::string report() const {
        return text_of([&](char *buf, std::size_t cap, std::size_t *len) {
            return truing_session_report(get(), buf, cap, len);
        });
    }
    /* From any thread. */
    void cancel() const { check(truing_session_cancel(get())); }

    /* Rewards and guards for every generation from here on, beside those of the profile. */
    void set_rewards(std::vector<reward> rewards) { rewards_ = std::move(rewards); }
    void set_guards(std::vector<guard> guards) { guards_ = std::move(guards); }

    /* The score of the last token, by a prompt or response probe. */
    float probe_last(const probe &probe) {
        float score = 0;
        check(truing_session_probe(get(), probe.get(), &score));
        return score;
    }

    /* Answers. A stop by the callback, cancel() or the deadline is no failure: see result.finish. `options`: all but
     * its callbacks, lists and user_data. */
    truing_result generate(on_text take = on_text(), truing_generate_options options = truing_generate_options()) {
        taker taker = {take, nullptr};
        std::vector<bound<reward>> rewards;
        std::vector<bound<guard>> guards;
        std::vector<truing_reward> given_rewards;
        std::vector<truing_guard> given_guards;
        std::vector<const truing_reward *> reward_list;
        std::vector<const truing_guard *> guard_list;
        for (reward &r : rewards_) rewards.push_back(bound<reward>{&r, &taker});
        for (guard &g : guards_) guards.push_back(bound<guard>{&g, &taker});
        for (bound<reward> &r : rewards) given_rewards.push_back(as_c(r));
        for (bound<guard> &g : guards) given_guards.push_back(as_c(g));
        for (const truing_reward &r : given_rewards) reward_list.push_back(&r);
        for (const truing_guard &g : given_guards) guard_list.push_back(&g);
        options.struct_size = sizeof options;
        options.on_event = take ? &taker::on_event : nullptr;
        options.user_data = &taker;
        options.rewards = reward_list.data();
        options.n_rewards = reward_list.size();
        options.guards = guard_list.data();
        options.n_guards = guard_list.size();
        truing_result result = truing_result();
        result.struct_size = sizeof result;
        truing_status status = truing_session_generate(get(), &options, &result);
        if (taker.thrown) std::rethrow_exception(taker.thrown);
        if (status != TRUING_E_CANCELLED && status != TRUING_E_DEADLINE) check(status);
        return result;
    }

private:
    struct taker {
        on_text take;
        std::exception_ptr thrown;

        static int32_t on_event(void *user_data, const truing_event *event) noexcept {
            taker *self = static_cast<taker *>(user_data);
            if (event->kind != TRUING_EVENT_TEXT) return 0;
            try {
                return self->take(std::string(event->text, event->text_len)) ? 0 : 1;
            } catch (...) {
                self->thrown = std::current_exception();
                return 1;
            }
        }
    };
    /* A callback, and where what it throws is kept. */
    template <class Callback> struct bound {
        Callback *callback;
        taker *kept;
    };
    static int32_t on_reward(void *user_data, const truing_candidate *candidate, truing_score *score) noexcept {
        bound<reward> *self = static_cast<bound<reward> *>(user_data);
        try {
            std::string text(candidate->text, candidate->text_len);
            score->value = self->callback->score(text, candidate->is_closed != 0);
            return 0;
        } catch (...) {
            self->kept->thrown = std::current_exception();
            return 1;
        }
    }
    static int32_t on_guard(void *user_data, const truing_guarded *guarded, std::size_t *from) noexcept {
        bound<guard> *self = static_cast<bound<guard> *>(user_data);
        try {
            std::string text(guarded->text, guarded->text_len);
            std::size_t at = self->callback->check(text, guarded->is_end != 0);
            if (at == guard::npos) return TRUING_GUARD_CLEAR;
            *from = at;
            return TRUING_GUARD_OBJECT;
        } catch (...) {
            self->kept->thrown = std::current_exception();
            return -1; /* refused: nothing passes unjudged */
        }
    }
    static truing_reward as_c(bound<reward> &r) {
        truing_reward given = truing_reward();
        given.struct_size = sizeof given;
        given.score = &on_reward;
        given.user_data = &r;
        given.name = r.callback->name.data();
        given.name_len = r.callback->name.size();
        given.weight = r.callback->weight;
        given.least = r.callback->least;
        given.most = r.callback->most;
        return given;
    }
    static truing_guard as_c(bound<guard> &g) {
        truing_guard given = truing_guard();
        given.struct_size = sizeof given;
        given.check = &on_guard;
        given.user_data = &g;
        given.name = g.callback->name.data();
        given.name_len = g.callback->name.size();
        given.action = g.callback->action;
        return given;
    }
    struct freed {
        void operator()(truing_session *s) const noexcept { truing_session_free(s); }
    };
    std::unique_ptr<truing_session, freed> own_;
    std::vector<reward> rewards_;
    std::vector<guard> guards_;
};

} // namespace truing

#endif
