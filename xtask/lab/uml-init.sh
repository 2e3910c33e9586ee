#!/bin/sh
# The first process of the User-mode Linux guest. Its root is the host's, read-only; what tests write
# goes to tmpfs. The kernel's command line names the work directory (lab.work) and the seconds that
# its script `run` may take (lab.limit); `output` and `status` are left there.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t bpf bpf /sys/fs/bpf
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
for directory in /run /tmp /var/tmp /dev/shm; do
    mount -t tmpfs tmpfs "$directory"
done

# The host's files once more, writable and not hidden by the tmpfs above.
mkdir /run/host /run/netns
mount -t hostfs none /run/host

parameter() {
    sed -n "s/.*\<lab\.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}
work=/run/host$(parameter work)
ip link set lo up
timeout "$(parameter limit)" sh "$work/run" >"$work/output" 2>&1 </dev/null
echo $? >"$work/status"
busybox poweroff -f
