#!/bin/sh
# Makes CTruing.xcframework beside this file: static libraries for iOS, its simulator and macOS, and the header.
#
#   examples/swift/xcframework.sh
#
# Needs a Mac with Xcode and:
#   rustup target add aarch64-apple-ios aarch64-apple-ios-sim aarch64-apple-darwin x86_64-apple-darwin
set -eu
[ "$(uname -s)" = Darwin ] || { echo "$0: xcodebuild makes frameworks, and it runs on macOS only" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
features=${FEATURES---no-default-features} # truing's own kernels alone; FEATURES="--features metal" for ggml's
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

build() {
    # shellcheck disable=SC2086
    (cd "$root" && cargo build --release -p truing-capi --target "$1" $features)
    cp "$root/target/$1/release/libtruing_capi.a" "$work/$1.a"
}
for target in aarch64-apple-ios aarch64-apple-ios-sim aarch64-apple-darwin x86_64-apple-darwin; do
    build "$target"
done
mkdir "$work/include" "$work/ios" "$work/sim" "$work/mac"
cp "$root/include/truing.h" "$here/Sources/CTruing/module.modulemap" "$work/include/"
cp "$work/aarch64-apple-ios.a" "$work/ios/libtruing.a"
cp "$work/aarch64-apple-ios-sim.a" "$work/sim/libtruing.a"
lipo -create "$work/aarch64-apple-darwin.a" "$work/x86_64-apple-darwin.a" -output "$work/mac/libtruing.a"
rm -rf "$here/CTruing.xcframework"
xcodebuild -create-xcframework \
    -library "$work/ios/libtruing.a" -headers "$work/include" \
    -library "$work/sim/libtruing.a" -headers "$work/include" \
    -library "$work/mac/libtruing.a" -headers "$work/include" \
    -output "$here/CTruing.xcframework"
