#!/bin/sh
# The first process of a guest: mounts what programs expect, runs the payload, says how it ended, and turns the machine off.
export PATH=/usr/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo /usr/bin/modprobe-and-wait >/proc/sys/kernel/modprobe
ip link set lo up
# Payloads have no symbols, so a trace in each error would only be noise; /payload.sh may say otherwise.
export RUST_LIB_BACKTRACE=0
read -r release </proc/sys/kernel/osrelease
echo "netloss-guest: kernel $release"
/payload.sh </dev/null
code=$?
# A warning or an oops that the kernel survived is on nobody's screen, because the console shows errors only.
dmesg | grep -E 'WARNING: |BUG: |Oops|Call Trace|hung_task' | head -n 5 | while read -r line; do echo "netloss-guest: complaint $line"; done
echo "netloss-guest: exit $code"
poweroff -f
