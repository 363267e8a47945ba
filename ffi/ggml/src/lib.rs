//! Safe wrapper over ggml.
