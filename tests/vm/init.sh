#!/bin/sh
# The first process of a virtual machine that scripts/vm-test.sh has booted: prepares just enough of
# a system, runs the steps it is given, and turns the machine off.
set -u

verifier() { # each program, with the verifier's reasons
    python3 tests/vm/verifier.py
}

programs() { # every vector on single frames
    check tests/kernel -k 'not mutated and not mirror and not keys'
}

scenarios() { # every scenario on real interfaces
    check tests/namespace/test_scenarios.py -k ebpf
}

redirect() {
    check tests/namespace/test_redirect.py -k ebpf
}

terminated() { # checksums and segments left to the device
    check tests/namespace/test_terminated.py -k ebpf
}

keep() { # crash, take-over, teardown; not the one that needs 10 000 packets a second
    check tests/vm/keep.py tests/namespace/test_keep.py -k 'not none_is_lost'
}

hairpin() { # by tc and by native XDP
    check tests/namespace/test_kernel_path.py -k hairpin
}

check() {
    python3 -m pytest -q -p no:cacheprovider -p tests.vm.patience -o timeout=600 \
        --basetemp "/tmp/$step" "$@" && return
    tail -n 20 "/tmp/$step"/*/log-* # of the daemons
    false
}

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf
mkdir -p /dev/net
exec </dev/null >/dev/console 2>&1
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb
export PYTHONPATH=/gwlbtun:/site PYTHONUNBUFFERED=1
cd /gwlbtun || exit
ip link set lo up
modprobe -a tun veth sch_ingress cls_bpf cls_u32 act_mirred # not while a packet waits

echo "vm-test: kernel $(uname -r)"
failed=
[ $# -gt 0 ] || set -- verifier programs keep hairpin terminated redirect scenarios
for step in "$@"; do
    echo "vm-test: $step"
    "$step" || failed="$failed $step"
done
if [ -z "$failed" ]; then
    echo "vm-test: all passed on $(uname -r)"
else
    echo "vm-test: failed on $(uname -r):$failed"
fi
sleep 3 # let the serial port send what was said
echo b >/proc/sysrq-trigger
sleep 60
