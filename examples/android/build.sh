#!/bin/sh
# Builds libtruing_jni.so for Android without Gradle: the library from Rust, the JNI layer, one shared object.
#
#   ANDROID_NDK_HOME=/path/to/ndk examples/android/build.sh OUT
#
# Needs: rustup target add aarch64-linux-android; cargo install cargo-ndk; an NDK (r26 or later). The result goes to
# OUT/arm64-v8a, which is what an app's jniLibs folder holds. ABI, API and FEATURES may be set in the environment.
set -eu
[ $# -eq 1 ] || { echo "usage: ANDROID_NDK_HOME=NDK $0 OUT" >&2; exit 2; }
: "${ANDROID_NDK_HOME:?names the folder of the NDK}"
abi=${ABI:-arm64-v8a}
api=${API:-26}
features=${FEATURES---no-default-features} # truing's own kernels alone: the smaller library
case $abi in
    arm64-v8a) target=aarch64-linux-android ;;
    x86_64) target=x86_64-linux-android ;;
    *) echo "$0: expected ABI arm64-v8a or x86_64, found $abi" >&2; exit 2 ;;
esac
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$1/$abi
mkdir -p "$out"

# shellcheck disable=SC2086
(cd "$root" && cargo ndk --target "$abi" --platform "$api" build --release -p truing-capi $features)

bin=$(echo "$ANDROID_NDK_HOME"/toolchains/llvm/prebuilt/*/bin)
# Pages of 16 KiB are what Google Play asks for since 2025.
"$bin/$target$api-clang" -O2 -shared -fPIC -Wall -Wextra "$here/jni/truing_jni.c" -I"$root/include" \
    "$root/target/$target/release/libtruing_capi.a" -o "$out/libtruing_jni.so" \
    -Wl,--gc-sections -Wl,--exclude-libs,ALL -Wl,-z,max-page-size=16384 -Wl,-soname,libtruing_jni.so -lm -ldl
"$bin/llvm-strip" "$out/libtruing_jni.so"
ls -l "$out/libtruing_jni.so"
