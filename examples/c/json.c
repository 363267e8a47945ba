/* Structured data out of a text: the answer is JSON of a schema, whatever the model would like to say.
 *
 *   cc json.c $(pkg-config --cflags --libs truing) -o json && ./json MODEL.gguf "Ada Lovelace died at 36."
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <truing.h>

static const char PROFILE[] =
    "{\"prompt\": {\"system\": \"Extract the person as JSON.\"},"
    " \"sampling\": {\"temperature\": 0},"
    " \"limits\": {\"max_tokens\": 24},"
    " \"constraints\": {\"grammar\": {\"json_schema\": {"
    "   \"type\": \"object\","
    "   \"properties\": {\"name\": {\"type\": \"string\", \"maxLength\": 20},"
    "                    \"age\": {\"type\": \"integer\", \"minimum\": 0, \"maximum\": 150}},"
    "   \"required\": [\"name\", \"age\"], \"additionalProperties\": false}}}}";

static int fail(truing_status status) {
    char text[512];
    truing_last_error(text, sizeof text);
    fprintf(stderr, "%s: %s\n", truing_status_name(status), text);
    return 1;
}

int main(int argc, char **argv) {
    truing_model *model = NULL;
    truing_context *context = NULL;
    truing_session *session = NULL;
    truing_result result = {0};
    truing_status status;
    char text[1024];

    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.gguf TEXT\n", argv[0]);
        return 2;
    }
    result.struct_size = sizeof result;
    status = truing_model_open(argv[1], TRUING_CSTR, NULL, &model);
    if (!status) status = truing_context_new(model, NULL, &context);
    if (!status) status = truing_session_new(context, PROFILE, TRUING_CSTR, NULL, &session);
    /* What follows the template's opening is the user's: the text is put in as text, its braces and quotes are safe. */
    if (!status) {
        char *messages = malloc(6 * strlen(argv[2]) + 64), *to = messages;
        const char *from;
        if (!messages) abort();
        to += sprintf(to, "[{\"role\":\"user\",\"content\":\"");
        for (from = argv[2]; *from; from++) {
            unsigned char c = (unsigned char)*from;
            if (c == '"' || c == '\\' || c < 0x20) {
                to += sprintf(to, "\\u%04x", c);
            } else {
                *to++ = *from;
            }
        }
        sprintf(to, "\"}]");
        status = truing_session_prompt_chat(session, messages, TRUING_CSTR, NULL);
        free(messages);
    }
    if (!status) status = truing_session_generate(session, NULL, &result);
    if (!status) status = truing_session_text(session, text, sizeof text, NULL);
    if (!status) printf("%s\n", text);
    if (!status) fprintf(stderr, "[satisfied: %d]\n", (int)result.satisfied);

    if (status) fail(status);
    truing_session_free(session);
    truing_context_free(context);
    truing_model_free(model);
    return status || result.satisfied != 1;
}
