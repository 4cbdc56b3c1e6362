#!/bin/sh
# What the kernel calls to load a module. busybox takes one that somebody else is just loading for loaded, and whoever asked for it would
# hear that there is none; so that is waited for. Not for ever: a module may need another one while it is loaded.
modprobe "$@"
status=$?
for _ in 1 2 3 4 5 6 7 8 9 10; do
    grep -q ' Loading ' /proc/modules || break
    sleep 0.1
done
exit $status
