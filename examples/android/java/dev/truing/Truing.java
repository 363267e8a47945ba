package dev.truing;

import java.nio.charset.StandardCharsets;

/** A conversation with a model on the device. Use from one thread, but for {@link #cancel}. */
public final class Truing implements AutoCloseable {
    static {
        System.loadLibrary("truing_jni");
    }

    /** Takes text as it is released; false stops the answer. */
    public interface Listener {
        boolean onText(String text);

        /** Called from native code: whole characters, so they decode on their own. */
        default boolean onBytes(byte[] utf8) {
            return onText(new String(utf8, StandardCharsets.UTF_8));
        }
    }

    private long handle;

    /**
     * Opens a model that lies in an open file: for an asset that the package keeps uncompressed, file descriptor,
     * start offset and length of its AssetFileDescriptor. The descriptor may be closed afterwards.
     *
     * @param profile what answers must satisfy, TOML or JSON; empty for none
     */
    public Truing(int fd, long offset, long length, int contextTokens, String profile) {
        handle = open(fd, offset, length, contextTokens, profile.getBytes(StandardCharsets.UTF_8));
    }

    /** Answers a conversation, a JSON array of {"role", "content"}; false if the answer was stopped. */
    public boolean answer(String messagesJson, Listener listener) {
        return answer(handle, messagesJson.getBytes(StandardCharsets.UTF_8), listener);
    }

    /** Stops the running answer, or the next one. From any thread, before close. */
    public void cancel() {
        cancel(handle);
    }

    @Override
    public void close() {
        close(handle);
        handle = 0;
    }

    private static native long open(int fd, long offset, long length, int contextTokens, byte[] profile);

    private static native boolean answer(long handle, byte[] messages, Listener listener);

    private static native void cancel(long handle);

    private static native void close(long handle);
}
