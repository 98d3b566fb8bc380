#!/bin/sh
# Link NVIDIA's driver of the host, whose folders are at /usr/lib/host-driver, into the linker's path: what is of the
# version of the module that runs. Made anew at every start, so that an update of the host's driver is followed.
# Whatever is wrong is said, and the machine boots. The first argument is another root to work in.
set -u
root=${1-}
host=/usr/lib/host-driver
own=/usr/local/lib/gpu-driver
smi=/usr/local/bin/nvidia-smi
icd=/etc/vulkan/icd.d/nvidia_icd.json

say() {
  printf '%s\n' "$*"
}

# A line that the journal keeps as a warning.
warn() {
  printf '<4>%s\n' "$*"
}

is_ours() {
  case $(readlink "$root$1" 2>/dev/null) in
    "$host"/* | "$own"/*) return 0 ;;
  esac
  return 1
}

forget() {
  rm -rf "$root$own"
  for link in "$smi" "$icd"; do
    if is_ours "$link"; then
      rm -f "$root$link"
    fi
  done
}

# Link $1 to $2, unless the image or somebody else has a file there.
place() {
  if test -e "$root$2" || test -L "$root$2"; then
    say "$2 is there already, and left as it is"
    return 0
  fi
  mkdir -p "$root${2%/*}" && ln -s "$1" "$root$2" || warn "$2 could not be made"
}

# The first line is the module's; the next one has the compiler's version.
module_version() {
  head -n 1 "$root/proc/driver/nvidia/version" 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1
}

# Those of libcuda in the host's folders, the newest first. Its other names are links.
versions() {
  for file in "$root$host"/lib*/libcuda.so.*; do
    if test -f "$file" && ! test -L "$file"; then
      printf '%s\n' "${file##*/libcuda.so.}"
    fi
  done | grep -xE '[0-9]+(\.[0-9]+)+' | sort -u -V -r
}

refresh_linker() {
  if test -n "$root"; then
    ldconfig -r "$root"
  else
    ldconfig
  fi || warn "ldconfig failed: programs may not find the driver"
}

forget
there=$(versions)
if test -z "$there"; then
  if test -n "$(ls -A "$root$host/lib" 2>/dev/null)"; then
    warn "no driver linked: no folder in $host has a libcuda.so.<version> that is a file"
  else
    say "no driver is given"
  fi
  refresh_linker
  exit 0
fi

module=$(module_version)
version=$(printf '%s\n' "$there" | head -n 1)
if test -z "$module"; then
  why="the newest there; the module's version cannot be read here"
elif printf '%s\n' "$there" | grep -qxF "$module"; then
  version=$module
  why="that of the module that runs"
else
  why="but the module that runs is $module, so it will not work"
  warn "the host's driver has $version on disk and module $module running: restart the host, then this machine"
fi

if ! mkdir -p "$root$own"; then
  warn "$own cannot be made, so the driver is not linked"
  exit 0
fi
count=0
for file in "$root$host"/lib*/lib*.so."$version"; do
  if test -f "$file" && ! test -L "$file"; then
    ln -sf "${file#"$root"}" "$root$own/${file##*/}" && count=$((count + 1))
  fi
done
# The driver's own file names libGLX_nvidia, which wants X.
if test -L "$root$own/libEGL_nvidia.so.$version"; then
  cat > "$root$own/nvidia_icd.json" <<'END'
{"file_format_version": "1.0.1", "ICD": {"library_path": "libEGL_nvidia.so.0", "api_version": "1.4.312"}}
END
  place "$own/nvidia_icd.json" "$icd"
else
  say "no libEGL_nvidia.so.$version: no Vulkan on this card"
fi
if test -e "$root$host/bin/nvidia-smi"; then
  place "$host/bin/nvidia-smi" "$smi"
fi
refresh_linker
say "driver $version, $why: $count libraries linked"
