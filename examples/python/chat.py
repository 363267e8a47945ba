#!/usr/bin/env python3
"""A conversation through ctypes: nothing to build, nothing but the standard library.

    LIBTRUING=/usr/local/lib/libtruing.so python3 chat.py MODEL.gguf "What is the capital of Japan?"
"""
import ctypes as c
import json
import os
import sys

OK, EVENT_TEXT, CSTR = 0, 1, c.c_size_t(-1)


class Event(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("kind", c.c_uint32), ("finish", c.c_int32),
                ("text", c.POINTER(c.c_char)), ("text_len", c.c_size_t)]


EventFn = c.CFUNCTYPE(c.c_int32, c.c_void_p, c.POINTER(Event))


class GenerateOptions(c.Structure):
    _fields_ = [("struct_size", c.c_size_t), ("on_event", EventFn), ("on_logits", c.c_void_p),
                ("user_data", c.c_void_p), ("seed", c.c_uint64), ("max_tokens", c.c_uint64),
                ("deadline_ms", c.c_uint64), ("flags", c.c_uint32), ("reserved", c.c_uint32)]


class Truing:
    def __init__(self, library):
        self.lib = c.CDLL(library)
        self.lib.truing_last_error.restype = c.c_size_t
        self.lib.truing_version_string.restype = c.c_char_p

    def call(self, name, *args):
        """A call that returns a status; raises what truing_last_error says."""
        status = getattr(self.lib, name)(*args)
        if status != OK:
            text = c.create_string_buffer(512)
            self.lib.truing_last_error(text, c.c_size_t(len(text)))
            raise RuntimeError(f"{name}: {text.value.decode(errors='replace')}")

    def text(self, name, handle):
        """A text that a call copies out: first its length, then itself."""
        n = c.c_size_t()
        getattr(self.lib, name)(handle, None, c.c_size_t(0), c.byref(n))
        buffer = c.create_string_buffer(n.value + 1)
        self.call(name, handle, buffer, c.c_size_t(len(buffer)), c.byref(n))
        return buffer.raw[:n.value].decode()


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: chat.py MODEL.gguf QUESTION")
    t = Truing(os.environ.get("LIBTRUING", "libtruing.so"))
    model, context, session = c.c_void_p(), c.c_void_p(), c.c_void_p()
    profile = {"sampling": {"temperature": 0}, "limits": {"max_tokens": 24}}
    messages = [{"role": "user", "content": sys.argv[2]}]

    t.call("truing_model_open", sys.argv[1].encode(), CSTR, None, c.byref(model))
    t.call("truing_context_new", model, None, c.byref(context))
    t.call("truing_session_new", context, json.dumps(profile).encode(), CSTR, None, c.byref(session))
    t.call("truing_session_prompt_chat", session, json.dumps(messages).encode(), CSTR, None)

    @EventFn
    def show(_, event):
        if event.contents.kind == EVENT_TEXT:
            print(c.string_at(event.contents.text, event.contents.text_len).decode(), end="", flush=True)
        return 0

    options = GenerateOptions(struct_size=c.sizeof(GenerateOptions), on_event=show)
    t.call("truing_session_generate", session, c.byref(options), None)
    print()
    report = json.loads(t.text("truing_session_report", session))
    print(f"[{report['finish']}, {report['n_generated']} tokens]", file=sys.stderr)

    t.lib.truing_session_free(session)
    t.lib.truing_context_free(context)
    t.lib.truing_model_free(model)


main()
