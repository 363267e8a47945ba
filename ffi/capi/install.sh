#!/bin/sh
# Installs the C interface: libraries, headers, pkg-config file, CMake package.
#
#   ffi/capi/install.sh PREFIX                     builds the release library, then installs it
#   ffi/capi/install.sh PREFIX --from target/debug installs what is built there already
#   ffi/capi/install.sh PREFIX --no-static         leaves the static library out
#   ffi/capi/install.sh PREFIX --no-strip          keeps names for debuggers and profilers
#
# More arguments go to cargo: --no-default-features leaves ggml out, --target names another system.
# DESTDIR is put before PREFIX where files are written, as package builders expect.
# For cross builds CC, LD, AR, STRIP and OBJCOPY name the tools of the other system.
set -eu

usage() { echo "usage: $0 PREFIX [--from DIR] [--no-static] [--no-strip] [cargo arguments]" >&2; exit 2; }
[ $# -ge 1 ] || usage
prefix=$1
shift
case $prefix in /*) ;; *) prefix=$(pwd)/$prefix ;; esac
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
from=
static=yes
strip=yes
target=
n=$#
while [ "$n" -gt 0 ]; do
    n=$((n - 1))
    case $1 in
        --from) [ $# -ge 2 ] || usage; from=$2; shift 2; n=$((n - 1)) ;;
        --no-static) static=; shift ;;
        --no-strip) strip=; shift ;;
        --target) [ $# -ge 2 ] || usage; target=$2; set -- "$@" "$1" "$2"; shift 2; n=$((n - 1)) ;;
        *) set -- "$@" "$1"; shift ;;
    esac
done

if [ -z "$from" ]; then
    (cd "$root" && cargo build --release -p truing-capi "$@")
    from=${CARGO_TARGET_DIR:-$root/target}/${target:+$target/}release
fi

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' "$root/Cargo.toml")
soversion=${version%%.*}
case $target in
    *apple*) system=Darwin ;;
    *linux*|*android*) system=Linux ;;
    *) system=$(uname -s) ;;
esac
to=${DESTDIR:-}$prefix
mkdir -p "$to/include" "$to/lib/pkgconfig" "$to/lib/cmake/truing"
cp "$root/include/truing.h" "$root/include/truing.hpp" "$to/include/"

[ -f "$from/libtruing_capi.a" ] || {
    echo "$0: no libtruing_capi.a in $from; build it with: cargo build -p truing-capi" >&2
    exit 1
}
names=$(sed -n 's/^[a-z].*[ *]\(truing_[a-z_]*\)(.*/\1/p' "$root/include/truing.h" | sort -u)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The shared library is linked here from the static one and not by cargo: a crate that the grammar engine comes from
# exports C functions of its own, and cargo has no way to leave those out.
shared_elf() {
    echo "{ global: truing_*; local: *; };" > "$work/exports"
    # shellcheck disable=SC2046
    "${CC:-cc}" -shared -o "$1" $(printf -- '-Wl,-u,%s ' $names) "$from/libtruing_capi.a" \
        -Wl,--version-script="$work/exports" -Wl,--gc-sections -Wl,-z,relro,-z,now \
        -Wl,-soname,"libtruing.so.$soversion" -lpthread -ldl -lm
    [ -z "$strip" ] || "${STRIP:-strip}" "$1"
}
shared_macho() {
    # shellcheck disable=SC2046
    "${CC:-cc}" -dynamiclib -o "$1" $(printf -- '-Wl,-u,_%s ' $names) "$from/libtruing_capi.a" \
        -Wl,-exported_symbol,'_truing_*' -Wl,-dead_strip -install_name "@rpath/libtruing.$soversion.dylib" \
        -lc++ -framework Accelerate -framework Foundation
    [ -z "$strip" ] || "${STRIP:-strip}" -x "$1"
}

# A static library shows all names of all that is in it, ggml's too. So that it can stand beside another copy of ggml
# or llama.cpp in one program, its objects become one, in which only truing's names can be seen.
static_elf() {
    format=$("${LD:-ld}" --print-output-format)
    # Bitcode that Rust's own libraries carry along makes no sense joined together, and tools stumble over it.
    echo 'SECTIONS { /DISCARD/ : { *(.llvmbc .llvmcmd) } }' > "$work/sections"
    # shellcheck disable=SC2046
    "${LD:-ld}" -r ${strip:+-S} --gc-sections --force-group-allocation -T "$work/sections" \
        $(printf -- '-u %s ' $names) "$from/libtruing_capi.a" -o "$work/truing.o"
    "${OBJCOPY:-objcopy}" -I "$format" -O "$format" --wildcard --keep-global-symbol='truing_*' "$work/truing.o"
    rm -f "$1"
    "${AR:-ar}" rcs "$1" "$work/truing.o"
}

case $system in
    Darwin)
        shared_macho "$to/lib/libtruing.$soversion.dylib"
        ln -sf "libtruing.$soversion.dylib" "$to/lib/libtruing.dylib"
        [ -z "$static" ] || cp "$from/libtruing_capi.a" "$to/lib/libtruing.a"
        ;;
    *)
        shared_elf "$to/lib/libtruing.so.$version"
        ln -sf "libtruing.so.$version" "$to/lib/libtruing.so.$soversion"
        ln -sf "libtruing.so.$version" "$to/lib/libtruing.so"
        [ -z "$static" ] || static_elf "$to/lib/libtruing.a"
        ;;
esac

fill() { sed -e "s|@PREFIX@|$prefix|g" -e "s|@VERSION@|$version|g" -e "s|@SOVERSION@|$soversion|g" "$1" > "$2"; }
fill "$here/truing.pc.in" "$to/lib/pkgconfig/truing.pc"
fill "$here/truing-config.cmake.in" "$to/lib/cmake/truing/truing-config.cmake"
fill "$here/truing-config-version.cmake.in" "$to/lib/cmake/truing/truing-config-version.cmake"
echo "installed truing $version to $to"
