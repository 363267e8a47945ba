#!/bin/sh
# Builds for aarch64 Linux and runs under qemu-user: the kernels' tests (NEON with and without dotprod against the
# scalar twin), the C interface's misuse suite, and an answer in C.
#
#   ffi/capi/aarch64.sh [MODEL.gguf]     with a model, examples/c/chat.c answers on it
#
# Needs Debian's gcc-aarch64-linux-gnu and qemu-user, and rustup's target aarch64-unknown-linux-gnu.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
target=aarch64-unknown-linux-gnu
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
cd "$root"
out=${CARGO_TARGET_DIR:-target}/$target
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo test --target "$target" -p truing --no-default-features --lib native::
cargo build --target "$target" -p truing-capi --no-default-features
for program in ffi/capi/tests/c/misuse.c examples/c/chat.c; do
    aarch64-linux-gnu-gcc -O1 -Iinclude "$program" "$out/debug/libtruing_capi.a" -lpthread -ldl -lm -lgcc_s \
        -Wl,--gc-sections -o "$work/$(basename "$program" .c)"
done
qemu-aarch64 -L /usr/aarch64-linux-gnu "$work/misuse" runtime/tests/data/archs/llama-s1-a-f32.gguf
[ $# -eq 0 ] || qemu-aarch64 -L /usr/aarch64-linux-gnu "$work/chat" "$1" "What is the capital of Japan?"
