/* Java's side of truing: dev.truing.Truing over the C interface. One object is one session over one model. */
#include <jni.h>
#include <stdlib.h>
#include <string.h>
#include <truing.h>

/* What a Java object holds on to, as a long. */
struct own {
    truing_model *model;
    truing_context *context;
    truing_session *session;
    truing_cancel *cancel;
};

static void throw_last(JNIEnv *env, truing_status status) {
    char text[512], message[600];
    jclass type = (*env)->FindClass(env, status == TRUING_E_IO ? "java/io/IOException"
                                                               : "java/lang/IllegalStateException");
    truing_last_error(text, sizeof text);
    strcpy(message, truing_status_name(status));
    strcat(message, ": ");
    strncat(message, text, sizeof message - strlen(message) - 1);
    if (type) (*env)->ThrowNew(env, type, message);
}

/* Java's own "modified UTF-8" is not UTF-8: texts cross as byte arrays, which String encodes and decodes. */
static char *bytes_of(JNIEnv *env, jbyteArray array, size_t *len) {
    jsize n = array ? (*env)->GetArrayLength(env, array) : 0;
    char *bytes = malloc((size_t)n + 1);
    if (!bytes) return NULL;
    if (n) (*env)->GetByteArrayRegion(env, array, 0, n, (jbyte *)bytes);
    bytes[n] = 0;
    *len = (size_t)n;
    return bytes;
}

static void release(struct own *own) {
    truing_session_free(own->session);
    truing_cancel_free(own->cancel);
    truing_context_free(own->context);
    truing_model_free(own->model);
    free(own);
}

/* Opens a model at an offset of an open file: an uncompressed asset, or a whole file with offset 0. */
JNIEXPORT jlong JNICALL Java_dev_truing_Truing_open(JNIEnv *env, jclass type, jint fd, jlong offset, jlong length,
                                                    jint context_tokens, jbyteArray profile) {
    struct own *own = calloc(1, sizeof *own);
    truing_context_options options;
    truing_status status = TRUING_E_OUT_OF_MEMORY;
    size_t len = 0;
    char *text = bytes_of(env, profile, &len);
    (void)type;
    if (own && text) {
        memset(&options, 0, sizeof options);
        options.struct_size = sizeof options;
        options.n_ctx = context_tokens > 0 ? (size_t)context_tokens : 0;
        status = truing_model_open_fd(fd, (uint64_t)offset, (uint64_t)length, NULL, &own->model);
        if (!status) status = truing_context_new(own->model, &options, &own->context);
        if (!status) status = truing_session_new(own->context, text, len, NULL, &own->session);
        if (!status) status = truing_cancel_new(own->session, &own->cancel);
    }
    free(text);
    if (status) {
        if (own) release(own);
        throw_last(env, status);
        return 0;
    }
    return (jlong)(intptr_t)own;
}

struct listener {
    JNIEnv *env;
    jobject object;
    jmethodID method;
};

/* A Java exception stays pending and stops the answer; it is thrown when generate returns. */
static int32_t on_event(void *user_data, const truing_event *event) {
    struct listener *listener = user_data;
    JNIEnv *env = listener->env;
    jbyteArray text;
    jboolean goes_on;
    if (event->kind != TRUING_EVENT_TEXT) return 0;
    text = (*env)->NewByteArray(env, (jsize)event->text_len);
    if (!text) return 1;
    (*env)->SetByteArrayRegion(env, text, 0, (jsize)event->text_len, (const jbyte *)event->text);
    goes_on = (*env)->CallBooleanMethod(env, listener->object, listener->method, text);
    (*env)->DeleteLocalRef(env, text);
    return (*env)->ExceptionCheck(env) || !goes_on;
}

/* Answers a conversation (a JSON array of messages); true if it ended by itself, false if it was stopped. */
JNIEXPORT jboolean JNICALL Java_dev_truing_Truing_answer(JNIEnv *env, jclass type, jlong handle, jbyteArray messages,
                                                         jobject listener) {
    struct own *own = (struct own *)(intptr_t)handle;
    struct listener to = {env, listener, NULL};
    truing_generate_options options;
    truing_status status;
    size_t len = 0;
    char *text = bytes_of(env, messages, &len);
    (void)type;
    if (!text) {
        throw_last(env, TRUING_E_OUT_OF_MEMORY);
        return JNI_FALSE;
    }
    to.method = (*env)->GetMethodID(env, (*env)->GetObjectClass(env, listener), "onBytes", "([B)Z");
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.on_event = on_event;
    options.user_data = &to;
    status = to.method ? truing_session_prompt_chat(own->session, text, len, NULL) : TRUING_E_INVALID_ARGUMENT;
    free(text);
    if (!status) status = truing_session_generate(own->session, &options, NULL);
    if (status && status != TRUING_E_CANCELLED && !(*env)->ExceptionCheck(env)) throw_last(env, status);
    return status == TRUING_OK;
}

/* From any thread. */
JNIEXPORT void JNICALL Java_dev_truing_Truing_cancel(JNIEnv *env, jclass type, jlong handle) {
    (void)env;
    (void)type;
    truing_cancel_request(((struct own *)(intptr_t)handle)->cancel);
}

JNIEXPORT void JNICALL Java_dev_truing_Truing_close(JNIEnv *env, jclass type, jlong handle) {
    (void)env;
    (void)type;
    if (handle) release((struct own *)(intptr_t)handle);
}
