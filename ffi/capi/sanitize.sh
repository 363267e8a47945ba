#!/bin/sh
# Runs the misuse suite under ASan + UBSan and under valgrind, and opens, generates and frees 100 000 times.
#
#   ffi/capi/sanitize.sh PREFIX [CYCLES]     PREFIX: where ffi/capi/install.sh has installed to
#
# Takes minutes; needs valgrind. Rust's own code is not instrumented: what the sanitizers see is every byte that C and
# the allocator handle, and every access of valgrind's.
set -eu
prefix=${1:?"expected the prefix of an installed library"}
cycles=${2:-100000}
here=$(cd "$(dirname "$0")" && pwd)
model=$here/../../runtime/tests/data/archs/llama-s1-a-f32.gguf
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
libs="$prefix/lib/libtruing.a -lpthread -ldl -lm -lgcc_s"

echo "== ASan, UBSan"
# shellcheck disable=SC2086
${CC:-cc} -g -O1 -DNO_FREED -fsanitize=address,undefined -fno-sanitize-recover=undefined -I"$prefix/include" \
    "$here/tests/c/misuse.c" $libs -o "$work/misuse-asan"
# one check asks for a model of 4 EiB, which must be refused, not be the end
ASAN_OPTIONS=allocator_may_return_null=1 "$work/misuse-asan" "$model"

echo "== valgrind"
# shellcheck disable=SC2086
${CC:-cc} -g -O1 -DNO_FREED -I"$prefix/include" "$here/tests/c/misuse.c" $libs -o "$work/misuse"
valgrind --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$work/misuse" "$model"

echo "== cycles"
# shellcheck disable=SC2086
${CC:-cc} -O1 -I"$prefix/include" "$here/tests/c/cycles.c" $libs -o "$work/cycles"
"$work/cycles" "$model" "$cycles"
