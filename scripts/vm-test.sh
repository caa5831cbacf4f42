#!/usr/bin/env bash
# Boot another kernel in QEMU and prove there what depends on it: its verifier takes the programs,
# the kernel path works on real interfaces, a restart with --keep loses nothing.
# Usage: scripts/vm-test.sh SUITE [STEP ...]
#   SUITE  the Debian suite whose stock kernel is booted: bookworm (6.1), trixie (6.12), ...
#   STEP   a function of tests/vm/init.sh; all by default
# Downloads and what is made of them stay in .cache/vm. VM_ACCEL=kvm where there is KVM.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C PATH=/usr/local/sbin:/usr/sbin:/sbin:$PATH

readonly suite=${1:?usage: scripts/vm-test.sh SUITE [STEP ...]}
readonly steps=${*:2}
readonly userland=bookworm python=3.11 # one userland for all kernels
readonly packages=python3,libbpf1,iproute2,iptables,iputils-ping,ethtool,procps,kmod
readonly init=/gwlbtun/tests/vm/init.sh
readonly cpus=2 memory_mib=2048 timeout_s=${VM_TIMEOUT_S:-2400} accel=${VM_ACCEL:-tcg,thread=multi}
readonly cache=$PWD/.cache/vm
rootfs=$cache/$userland-$(sha256sum <<<"$packages" | cut -c 1-8).cpio
readonly keyring=/usr/share/keyrings/debian-archive-keyring.gpg

die() {
    echo "vm-test: $*" >&2
    exit 1
}

# The mirror is the one that this host's own packages come from.
find_mirror() {
    # shellcheck disable=SC2016 # the variables are apt's
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 !~ /security/ && !uri {uri = $2} END {print uri}'
}

# apt-get or apt-cache for the suite alone, without a trace in the host's configuration.
private_apt() {
    local command=$1 root=$cache/apt/$suite
    shift
    mkdir -p "$root/lists/partial" "$root/cache/archives/partial"
    : >"$root/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$root/sources.list"
    "$command" -o Dir::Etc::SourceList="$root/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$root/lists" -o Dir::State::Status="$root/status" \
        -o Dir::Cache="$root/cache" -o APT::Architecture=amd64 -o APT::Sandbox::User=root "$@"
}

as_cpio() {
    bsdtar -cf - --format newc --uid 0 --gid 0 "$@"
}

build_userland() {
    [[ -e $rootfs ]] && return
    mmdebstrap --quiet --variant=minbase --include="$packages" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --format=tar "$userland" - "$mirror" |
        as_cpio @- >"$rootfs.part"
    mv "$rootfs.part" "$rootfs"
}

# What the tests import, for the userland's Python, whatever this host has.
fetch_python_packages() {
    [[ $cache/site.cpio -nt requirements/dev.txt ]] && return
    .cache/uv/bin/uv --quiet pip install --no-deps --require-hashes --only-binary :all: \
        --compile-bytecode --python-version "$python" --target "$work/site" -r requirements/dev.txt
    as_cpio --exclude site/ruff --exclude site/mypy --exclude site/bin -C "$work" site \
        >"$cache/site.cpio.part"
    mv "$cache/site.cpio.part" "$cache/site.cpio"
}

# Sets `kernel`; of the modules only those that networking may ask for are taken.
fetch_kernel() {
    local package tree=$work/tree modules
    private_apt apt-get -qq update
    package=$(private_apt apt-cache depends linux-image-amd64 |
        awk '/Depends: linux-image/ {print $2}')
    [[ -n $package ]] || die "$suite has no linux-image-amd64"
    kernel=${package#linux-image-}
    [[ -e $cache/$kernel.cpio ]] && return
    (cd "$work" && private_apt apt-get -qq download "$package")
    mkdir "$tree"
    dpkg-deb --extract "$work/$package"_*.deb "$tree"
    [[ -d $tree/lib ]] || mv "$tree/usr/lib" "$tree/lib"
    modules=$tree/lib/modules/$kernel
    find "$modules/kernel" -mindepth 1 -maxdepth 1 ! -name net ! -name lib ! -name crypto \
        ! -name arch ! -name drivers -exec rm -r {} +
    find "$modules/kernel/drivers" -name '*.ko*' ! -path '*/drivers/net/*' -delete
    find "$modules/kernel/drivers/net" -mindepth 1 -maxdepth 1 -type d -exec rm -r {} +
    depmod -b "$tree" "$kernel"
    # The userland has /lib as a link to /usr/lib.
    mkdir -p "$work/usr/lib"
    mv "$tree/lib/modules" "$work/usr/lib/modules"
    as_cpio -C "$work" usr >"$cache/$kernel.cpio.part"
    mv "$tree/boot/vmlinuz-$kernel" "$cache/$kernel.vmlinuz"
    mv "$cache/$kernel.cpio.part" "$cache/$kernel.cpio"
}

# Everything is one initial file system in memory: no disk, no network, nothing to clean up.
boot() {
    mkdir "$work/gwlbtun"
    cp -r gwlbtun tests pyproject.toml "$work/gwlbtun"
    as_cpio --exclude __pycache__ -C "$work" gwlbtun >"$work/repo.cpio"
    cat "$rootfs" "$cache/site.cpio" "$cache/$kernel.cpio" "$work/repo.cpio" >"$work/initrd"
    : >"$log"
    timeout --foreground "$timeout_s" qemu-system-x86_64 -accel "$accel" -cpu max \
        -smp "$cpus" -m "$memory_mib" -nodefaults -no-user-config -display none -no-reboot \
        -serial "file:$log" -kernel "$cache/$kernel.vmlinuz" -initrd "$work/initrd" \
        -append "console=ttyS0 quiet panic=-1 mitigations=off rdinit=$init -- $steps" \
        </dev/null &
    machine=$!
    tail -n +1 -f --pid="$machine" "$log" | sed -u 's,\r,,g' &
    wait "$machine" || die "$kernel: QEMU ended with an error or after $timeout_s s"
    wait
    machine=
}

clean_up() {
    [[ -z $machine ]] || kill "$machine" 2>/dev/null || true
    rm -rf "$work"
}

scripts/setup.sh qemu-system-x86_64:qemu-system-x86 mmdebstrap:mmdebstrap \
    bsdtar:libarchive-tools depmod:kmod
mkdir -p "$cache"
work=$(mktemp -d "$cache/work.XXXXXX")
log=$work/log
machine=
trap clean_up EXIT
trap 'exit 130' INT TERM
mirror=$(find_mirror)
if [[ -z $mirror ]]; then # apt's lists may have been cleaned
    apt-get -qq update
    mirror=$(find_mirror)
fi
[[ -n $mirror ]] || die "apt is not configured with a Debian mirror"
build_userland
fetch_python_packages
fetch_kernel
echo "vm-test: booting $kernel"
boot
cp "$log" "$cache/$suite.log"
grep -q '^vm-test: all passed' "$log" || die "$kernel: not everything passed"
echo "vm-test: $kernel: all passed"
