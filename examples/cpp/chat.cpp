// A conversation through truing.hpp: owners, exceptions, a lambda for the text.
//
//   c++ -std=c++11 chat.cpp $(pkg-config --cflags --libs truing) -o chat && ./chat MODEL.gguf "What is the capital of Japan?"

#include <iostream>
#include <truing.hpp>

int main(int argc, char **argv) try {
    if (argc != 3) {
        std::cerr << "usage: " << argv[0] << " MODEL.gguf QUESTION\n";
        return 2;
    }
    truing::model model(argv[1]);
    truing::context context(model);
    truing::session session(context, "[sampling]\ntemperature = 0\n[limits]\nmax_tokens = 24\n");

    // The question as a JSON string: what users write is data.
    std::string quoted;
    for (const char *c = argv[2]; *c; ++c) {
        if (*c == '"' || *c == '\\') quoted += '\\';
        quoted += *c;
    }
    const std::string messages = "[{\"role\": \"user\", \"content\": \"" + quoted + "\"}]";
    session.prompt_chat(messages);
    truing_result result = session.generate([](const std::string &text) {
        std::cout << text << std::flush;
        return true;
    });
    std::cout << "\n";
    std::cerr << "[" << result.n_generated << " tokens]\n";

    // A guard of the program's: what it objects to is not shown.
    session.set_guards({truing::guard(
        "word", [](const std::string &text, bool) { return text.find("Tokyo"); }, TRUING_GUARD_REFUSE)});
    session.prompt_chat(messages);
    result = session.generate();
    std::cerr << "[guarded: " << session.text() << "]\n";
    session.set_guards({});

    try { // an exception of the callback's comes out where it should
        session.prompt_chat(messages);
        session.generate([](const std::string &) -> bool { throw std::runtime_error("enough"); });
        return 1;
    } catch (const std::runtime_error &e) {
        std::cerr << "[stopped by an exception: " << e.what() << "]\n";
    }
    try { // and so does a refused call
        truing::session refused(context, "[sampling]\ntemprature = 0\n");
        return 1;
    } catch (const truing::error &e) {
        std::cerr << "[" << e.what() << "]\n";
    }
    return 0;
} catch (const std::exception &e) {
    std::cerr << e.what() << "\n";
    return 1;
}
