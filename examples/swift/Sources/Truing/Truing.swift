import CTruing
import Foundation

/// A failed call: its status and the text behind it.
public struct TruingError: Error, CustomStringConvertible {
    public let status: Int32
    public let description: String

    init(_ status: truing_status) {
        var text = [CChar](repeating: 0, count: truing_last_error(nil, 0) + 1)
        _ = truing_last_error(&text, text.count)
        self.status = status
        description = String(cString: truing_status_name(status)) + ": " + String(cString: text)
    }
}

private func check(_ status: truing_status) throws {
    if status != TRUING_OK { throw TruingError(status) }
}

/// A message of a conversation.
public struct Message: Codable, Sendable {
    public var role: String
    public var content: String

    public init(role: String, content: String) {
        self.role = role
        self.content = content
    }
}

/// An opened model; may be shared between threads.
public final class Model: @unchecked Sendable {
    let handle: OpaquePointer

    public init(path: String) throws {
        var handle: OpaquePointer?
        try check(truing_model_open(path, path.utf8.count, nil, &handle))
        self.handle = handle!
    }

    deinit { truing_model_free(handle) }
}

/// A conversation: one thread at a time, but for `cancel`.
public final class Session {
    private let context: OpaquePointer
    private let handle: OpaquePointer

    /// `profile`: what answers must satisfy, TOML or JSON.
    public init(model: Model, profile: String = "", contextTokens: Int = 0) throws {
        var options = truing_context_options()
        options.struct_size = MemoryLayout<truing_context_options>.size
        options.n_ctx = contextTokens
        var context: OpaquePointer?
        try check(truing_context_new(model.handle, &options, &context))
        var session: OpaquePointer?
        let status = truing_session_new(context, profile, profile.utf8.count, nil, &session)
        if status != TRUING_OK {
            let error = TruingError(status)
            truing_context_free(context)
            throw error
        }
        self.context = context!
        handle = session!
    }

    deinit {
        truing_session_free(handle)
        truing_context_free(context)
    }

    /// Answers a conversation; `onText` gets text as it is released, and stops the answer with `false`.
    @discardableResult
    public func answer(_ messages: [Message], onText: @escaping (String) -> Bool = { _ in true }) throws -> String {
        let json = String(decoding: try JSONEncoder().encode(messages), as: UTF8.self)
        try check(truing_session_prompt_chat(handle, json, json.utf8.count, nil))
        let box = Box(onText)
        var options = truing_generate_options()
        options.struct_size = MemoryLayout<truing_generate_options>.size
        options.user_data = Unmanaged.passUnretained(box).toOpaque()
        options.on_event = { userData, event in
            guard let event, event.pointee.kind == TRUING_EVENT_TEXT, let userData else { return 0 }
            let box = Unmanaged<Box>.fromOpaque(userData).takeUnretainedValue()
            let bytes = UnsafeRawBufferPointer(start: event.pointee.text, count: event.pointee.text_len)
            return box.onText(String(decoding: bytes, as: UTF8.self)) ? 0 : 1
        }
        let status = withExtendedLifetime(box) { truing_session_generate(handle, &options, nil) }
        if status != TRUING_E_CANCELLED { try check(status) }
        var length = 0
        _ = truing_session_text(handle, nil, 0, &length)
        var text = [CChar](repeating: 0, count: length + 1)
        try check(truing_session_text(handle, &text, text.count, &length))
        return String(cString: text)
    }

    /// Stops the running answer, or the next one. From any thread.
    public func cancel() { truing_session_cancel(handle) }

    private final class Box {
        let onText: (String) -> Bool
        init(_ onText: @escaping (String) -> Bool) { self.onText = onText }
    }
}
