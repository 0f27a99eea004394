#!/bin/sh
# The guest's first process. Sets its NICs up from the kernel command line (words without a dot
# become environment variables: drivers, nic0_addr, nic0_mtu), starts an iperf3 server, and then runs what
# the host sends over a virtio serial port:
#   host:   SEQ LIMIT BASE64-OF-A-SHELL-COMMAND
#   guest:  SEQ EXIT-CODE STDOUT-BYTES STDERR-BYTES, a line feed, and both outputs
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/
# DPDK loads no driver from below a directory that everybody can write to.
chmod 755 /
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /run/netns /var
ln -s /run /var/run
hostname guest

modprobe -a virtio_pci virtio_console virtio_net $drivers
ip link set lo up
n=0
while [ -e "/sys/class/net/eth$n" ]; do
    eval "addr=\$nic${n}_addr mtu=\$nic${n}_mtu"
    [ -n "$mtu" ] && ip link set "eth$n" mtu "$mtu"
    ip link set "eth$n" up
    for a in $(echo "$addr" | tr , ' '); do
        case "$a" in
        *:*) ip addr add "$a" dev "eth$n" nodad ;;
        *) ip addr add "$a" dev "eth$n" ;;
        esac
    done
    n=$((n + 1))
done
iperf3 -s -D >/dev/null 2>&1

# A guest without that port only answers the network.
port=$(ls /dev/vport*p* 2>/dev/null | head -n 1)
[ -n "$port" ] || exec sleep 2147483647
# Opened once: a port that is closed and opened again while the host connects loses its wake-up.
exec 3<>"$port"
while :; do
    # A path, since busybox would prefer its own shell to one in PATH.
    while read -r seq limit command <&3; do
        echo "$command" | base64 -d >/tmp/.command
        timeout "$limit" /bin/sh /tmp/.command >/tmp/.out 2>/tmp/.err </dev/null 3>&-
        echo "$seq $? $(stat -c %s /tmp/.out) $(stat -c %s /tmp/.err)" >&3
        cat /tmp/.out /tmp/.err >&3
    done
    # Nobody is connected.
    sleep 0.1
done
