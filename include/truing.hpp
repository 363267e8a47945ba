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

    /* Answers. A stop by the callback, cancel() or the deadline is no failure: see result.finish. `options`: all but
     * its callbacks and user_data. */
    truing_result generate(on_text take = on_text(), truing_generate_options options = truing_generate_options()) {
        taker taker = {take, nullptr};
        options.struct_size = sizeof options;
        options.on_event = take ? &taker::on_event : nullptr;
        options.user_data = &taker;
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
    struct freed {
        void operator()(truing_session *s) const noexcept { truing_session_free(s); }
    };
    std::unique_ptr<truing_session, freed> own_;
};

} // namespace truing

#endif
